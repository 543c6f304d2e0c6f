"""A robustness curve: accuracy, or another measure, over a noise grid, with its fit, table, picture and file."""

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, model_validator

from .. import style
from ..errors import DataError, FitError
from ..quantities import BEFORE, QUANTITIES, quantity_named
from ..storage.files import write_json
from ..storage.kept import Record, read_kept, sealed
from ..value import explain, short
from .curve_table import curves_table
from .measure import ACCURACY, Measure, as_measure
from .measure_file import Finite, MeasureFile
from .midpoint import VERSION, Array, MidpointFit, fit_midpoint

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SCHEMA = 1


class CurveFile(Record):
    """The file of a curve, field by field; see `RobustnessCurve`."""

    # A fit has what JSON has not: NaN and infinity, as text.
    model_config = ConfigDict(allow_inf_nan=True)

    format: Literal["analogsim robustness curve"]
    version: Annotated[Literal[1], Field(alias="schema")]
    quantity: str
    chance: Finite | None
    noise_free: Finite
    samples: Annotated[int, Field(ge=1)] | None
    sigmas: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]
    accuracies: list[Annotated[list[Finite], Field(min_length=1)]]
    metric: MeasureFile | None = None
    """Null: accuracy."""
    trainings: list[int]
    about: dict[str, Any] = {}
    fit: MidpointFit | None
    refit: bool = False
    """Whether the fit is of a form that is no longer used."""

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("format") != "analogsim robustness curve":
            raise ValueError("no robustness curve; RobustnessCurve.save writes them")
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {short(values.get('schema'))}, this version reads {SCHEMA}; update analogsim")
        if isinstance(word := values.get("quantity"), str):
            values = {**values, "quantity": BEFORE.get(word, word)}
        fit = values.get("fit")
        if isinstance(fit, dict) and "crossing" not in fit:  # from before fits had one
            return {**values, "fit": {**fit, "crossing": math.nan}, "refit": True}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        columns = len(self.trainings)
        if len(self.accuracies) != len(self.sigmas) or {len(row) for row in self.accuracies} != {columns}:
            raise ValueError("accuracies: a row for each of sigmas, and a column for each of trainings, is needed")
        if any(a >= b for a, b in pairwise(self.sigmas)):
            raise ValueError("sigmas: they must ascend")
        measure = self.measure
        for name, values in (("chance", [self.chance]), ("noise_free", [self.noise_free]), ("accuracies", self._all)):
            for value in values:
                if measure.share and value is not None and not 0 <= value <= 1:
                    raise ValueError(f"{name}: a fraction in [0, 1] is needed (got {value})")
                if measure.logarithmic and value is not None and value <= 0:
                    raise ValueError(f"{name}: a positive value is needed (got {value})")
        if measure is ACCURACY and self.chance is None:
            raise ValueError("chance: an accuracy has one")
        if self.fit is not None:
            peak = measure.best(_mean(np.array(self.accuracies), np.array(self.trainings), measure))
            chance = math.nan if self.chance is None else self.chance
            known = abs(self.fit.peak - peak) < 1e-9 * max(1.0, abs(peak))
            known = known and (self.fit.chance == chance or math.isnan(self.fit.chance) and math.isnan(chance))
            if not known or not set(self.fit.points_used) <= set(range(len(self.sigmas))):
                raise ValueError("fit: it is not of these accuracies")
        return self

    @property
    def measure(self) -> Measure:
        """What the values are."""
        return ACCURACY if self.metric is None else self.metric.measure()

    @property
    def _all(self) -> list[float]:
        return [value for row in self.accuracies for value in row]


def _mean(values: Array, trainings: Array, measure: Measure) -> Array:
    """Return the mean curve (S,) on the measure's scale; every training weighs the same."""
    heights = measure.heights(values)
    groups = [heights[:, trainings == number].mean(1) for number in np.unique(trainings)]
    return measure.values(np.mean(groups, axis=0))


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """Accuracy, or another measure, over a noise grid, and what follows from it.

    Parameters
    ----------
    sigmas : array (S,)
        Positive, ascending; unit of the quantity.
    values : array (S, R)
        Accuracies in [0, 1], or values of the metric; R repeats with independent noise at every σ.
    noise_free : float
        Value at σ = 0.
    chance : float or None
        Value of guessing; None where it is not known; of accuracy it must be.
    quantity : str
        What was varied; see `noise_sweep`.
    samples : int, optional
        Test samples behind each accuracy.
    trainings : array (R,) of int, optional
        Which training each column comes from; default: all from one.
    about : dict, optional
        How it was measured, as plain values for JSON: seed, data, hardware, versions, …; saved with it.
    metric : str or Measure
        What the values are of.

    Attributes
    ----------
    fit : MidpointFit
        Made when first asked for.

    Raises
    ------
    FitError
        From everything that needs the fit, where the values allow none; see `fit_midpoint`.

    Examples
    --------
    >>> import analogsim as an
    >>> accuracies = 0.1 + 0.8 / (1 + (an.SIGMAS / 0.5) ** 2)
    >>> curve = an.RobustnessCurve(an.SIGMAS, accuracies[:, None], noise_free=0.9, chance=0.1)
    >>> round(curve.midpoint, 3), round(curve.peak, 3), curve.flags
    (0.5, 0.9, ())
    """

    sigmas: Array
    values: Array
    noise_free: float
    chance: float | None
    quantity: str = "activations"
    samples: int | None = None
    trainings: Any = None
    about: dict[str, Any] = field(default_factory=dict)
    metric: Any = ACCURACY

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", as_measure(self.metric).as_known)
        if self.quantity in BEFORE:
            object.__setattr__(self, "quantity", quantity_named(self.quantity))
        values = np.asarray(self.values, dtype=float)
        if values.ndim != 2 or np.shape(self.sigmas) != values.shape[:1] or not values.size:
            shapes = f"{values.shape} for {np.shape(self.sigmas)}"
            raise FitError(f"accuracies: shape (S, R) for sigmas (S,) is needed, got {shapes}")
        trainings = np.zeros(values.shape[1], int) if self.trainings is None else np.asarray(self.trainings, int)
        if trainings.shape != values.shape[1:]:
            raise FitError(f"trainings: one number a column {values.shape[1:]} is needed, got {trainings.shape}")
        for name, given in [
            ("sigmas", np.array(self.sigmas, dtype=float)),
            ("values", values.copy()),
            ("trainings", trainings.copy()),
        ]:
            given.flags.writeable = False
            object.__setattr__(self, name, given)

    @property
    def accuracies(self) -> Array:
        """The values, as a curve of accuracy calls them."""
        return self.values

    @cached_property
    def fit(self) -> MidpointFit:  # noqa: D102 - documented with the class
        return fit_midpoint(
            self.sigmas,
            self.values,
            chance=self.chance,
            noise_free=self.noise_free,
            samples=self.samples,
            trainings=self.trainings,
            metric=self.metric,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that the fit is made from, and of how it is made."""
        chance = None if self.chance is None else float(self.chance)
        numbers: list[Any] = [VERSION, float(self.noise_free), chance, self.samples, self.values.shape]
        if self.metric is not ACCURACY:
            numbers.append(MeasureFile.of(self.metric))
        found = hashlib.sha256(repr(numbers).encode())
        for values in (self.sigmas, self.values, self.trainings):
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()

    def fitted_as(self, fit: MidpointFit) -> Self:
        """Return this curve with a fit that was made before, of a curve of the same `digest`."""
        curve = replace(self)
        curve.__dict__["fit"] = fit
        return curve

    @property
    def fitted(self) -> MidpointFit | None:
        """The fit; None where the values allow none."""
        try:
            return self.fit
        except FitError:
            return None

    @property
    def mean(self) -> Array:
        """Mean value (S,), on the measure's scale (geometric of a logarithmic one); every training weighs the same."""
        return _mean(self.values, self.trainings, self.metric)

    @property
    def peak(self) -> float:
        """Best value of the mean curve over the grid (`noise_free` is not part of it)."""
        return self.metric.best(self.mean)

    @property
    def midpoint(self) -> float:
        """µ, the σ at which accuracy is halfway between its best and its worst. Show it with its `flags`."""
        return self.fit.midpoint

    @property
    def ci(self) -> tuple[float, float]:
        """95 % interval of µ, and of the half-height crossing where that is elsewhere."""
        return self.fit.ci

    @property
    def flags(self) -> tuple[str, ...]:
        """What stands against µ; see `fit_midpoint`."""
        return self.fit.flags

    def __str__(self) -> str:
        try:
            result = str(self.fit)
        except FitError as error:
            result = f"no fit ({error})"
        what = "" if self.metric is ACCURACY else f", {self.metric.name}"
        best, free = self.metric.text(self.peak), self.metric.text(self.noise_free)
        return f"{self.quantity}{what}: peak {best}, noise-free {free}, {result}"

    def __repr__(self) -> str:
        return f"<RobustnessCurve {len(self.sigmas)} σ × {self.values.shape[1]} repeats, {self}>"

    def _repr_html_(self) -> str:
        return curves_table({self.metric.title: self}).html()

    def against(self, baseline: "RobustnessCurve | MidpointFit | tuple[float, float]") -> Self:
        """Return this curve judged beside the floating-point baseline's: flagged `brittle` where it deserves that.

        Parameters
        ----------
        baseline : RobustnessCurve, MidpointFit or (float, float)
            The baseline's curve, its fit, or its (µ, peak); see `MidpointFit.against`.
        """
        judged = replace(self)
        other = baseline.fit if isinstance(baseline, RobustnessCurve) else baseline
        judged.__dict__["fit"] = self.fit.against(other)
        return judged

    @classmethod
    def pool(cls, curves: Iterable["RobustnessCurve"]) -> Self:
        """Join the curves of several trainings (initialisations) of one network into one.

        Its µ is that of the mean curve; its interval, from resampling trainings, is about trainings in general. What is
        known about it is what holds for all of them.

        Raises
        ------
        FitError
            No curve, or curves that differ in grid, quantity, metric or chance.
        """
        curves = list(curves)
        if not curves:
            raise FitError("curves: none was given; pool needs one curve a training")
        first = curves[0]
        if len(curves) == 1:
            fit = first.__dict__.get("fit")
            own = cls(**{field.name: getattr(first, field.name) for field in fields(first)})
            flags = tuple(flag for flag in fit.flags if flag != "brittle") if fit else ()
            return own.fitted_as(replace(fit, flags=flags)) if fit else own
        for number, curve in enumerate(curves[1:], 1):
            same_grid = curve.sigmas.shape == first.sigmas.shape and np.allclose(curve.sigmas, first.sigmas)
            of = [(one.quantity, one.metric.name, one.chance) for one in (first, curve)]
            if not same_grid or of[0] != of[1]:
                a, b = (
                    f"{len(c.sigmas)} σ, {c.quantity!r}, {c.metric.name}, chance {c.chance}" for c in (first, curve)
                )
                raise FitError(
                    f"curves[{number}]: grid, quantity, metric and chance must be those of curves[0] ({a}), got {b}"
                )
        trainings, count = [], 0
        for curve in curves:
            _, numbers = np.unique(curve.trainings, return_inverse=True)
            trainings.append(numbers + count)
            count += int(numbers.max()) + 1
        weights = [len(np.unique(curve.trainings)) for curve in curves]
        samples = [curve.samples for curve in curves if curve.samples is not None]
        return cls(
            first.sigmas,
            np.concatenate([curve.values for curve in curves], axis=1),
            float(np.average([curve.noise_free for curve in curves], weights=weights)),
            first.chance,
            first.quantity,
            min(samples) if len(samples) == len(curves) else None,
            np.concatenate(trainings),
            {
                key: value
                for key, value in first.about.items()
                if all(curve.about.get(key) == value for curve in curves)
            },
            first.metric,
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return one row an evaluation: sigma, repeat, accuracy (or the metric); of several trainings also training."""
        import pandas as pd

        sizes = np.unique(self.trainings, return_counts=True)[1]
        frame = pd.DataFrame(
            {
                "sigma": np.repeat(self.sigmas, self.values.shape[1]),
                "repeat": np.tile(np.concatenate([np.arange(size) for size in sizes]), len(self.sigmas)),
                self.metric.name: self.values[:, np.argsort(self.trainings, kind="stable")].ravel(),
            }
        )
        if len(sizes) > 1:
            frame.insert(0, "training", np.tile(np.sort(self.trainings), len(self.sigmas)))
        return frame

    def plot(self, ax: "Axes | None" = None, *, label: str | None = None, color: Any = None) -> "Axes":
        """Draw every evaluation, the mean, the fit, µ with its interval as a band, chance, and the noise-free value.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Several curves can share one; default: a new figure.
        label : str, optional
            What the legend calls this curve; µ and its flags follow it.
        color : optional
            Anything matplotlib takes; default: the next of the style's, which a curve that is drawn after others
            has with its own dash and marker.
        """
        ax = style.axes(ax, (7, 4.2))
        look = style.look(sum(line.get_gid() == "curve" for line in ax.lines))
        color = look.color if color is None else color
        if self.sigmas[-1] > 0:
            ax.set_xscale("log")
            style.plain_ticks(ax, (1.0,))
        if self.metric.logarithmic:
            ax.set_yscale("log")
        ax.plot(self.sigmas, self.mean, look.marker, markersize=5, color=color, zorder=3)
        ax.plot(self.sigmas, self.mean, "-", color=color, alpha=0.35, linewidth=1)
        ax.plot(self.sigmas, self.values, ".", color=color, alpha=0.5, markersize=4, markeredgewidth=0)
        # An arrow on the axis: σ = 0 has no place on a logarithmic one.
        side = ax.get_yaxis_transform()
        ax.plot(0, self.noise_free, ">", color=color, transform=side, clip_on=False, zorder=4)
        small = {"xycoords": side, "textcoords": "offset points", "fontsize": "small"}
        if not any(line.get_gid() == "chance" for line in ax.lines):
            ax.annotate("σ = 0", (0, self.noise_free), (6, 4), color="0.4", **small)
            chance = math.nan if self.chance is None else self.chance
            ax.axhline(chance, color="0.5", linestyle=":", linewidth=1, zorder=0, gid="chance")
            if self.chance is not None:
                ax.annotate("chance", (0, chance), (6, -11), color="0.4", **small)
        fit = self.fitted
        text = str(fit) if fit else "no fit"
        text = f"{label}: {text}" if label else text
        shown = {"color": color, "linestyle": look.style, "linewidth": 2, "zorder": 2, "gid": "curve"}
        fine = np.array([])
        if fit and 0 < fit.midpoint < math.inf:
            flank = self.sigmas[fit.points_used[0]]
            fine = np.geomspace(flank, max(self.sigmas[-1], fit.midpoint), 300)
            ax.axvline(fit.midpoint, color=color, linestyle=look.style, linewidth=1, zorder=1)
            if not math.isnan(fit.ci[0]):
                ax.axvspan(*fit.bar, color=color, alpha=style.BAND, linewidth=0, zorder=0)
        # The legend shows the dash of the fit with the marker of the means, of which the fit's line has none.
        ax.plot(fine, fit.predict(fine) if fit else fine, marker=look.marker, markevery=[], label=text, **shown)
        ax.set_xlabel(QUANTITIES.get(self.quantity, self.quantity))
        ax.set_ylabel(self.metric.title)
        if self.metric.share:
            ax.autoscale(axis="y")  # a curve that was there may be lower than this one
            ax.set_ylim(0, None)
        elif self.chance is not None:
            ax.set_ylim(*self._view(ax, self.chance))
        style.above(ax)
        return ax

    def _view(self, ax: "Axes", chance: float) -> tuple[float, float]:
        """Return the values to show: what is worse than guessing counts as guessing, and little of it is to be seen."""
        best = max(float(self.metric.heights(self.values).max()), float(self.metric.heights(self.noise_free)))
        worst = float(self.metric.heights(chance))
        margin = max(best - worst, 1e-9)
        low, high = sorted(self.metric.values([worst - 0.35 * margin, best + 0.1 * margin]).tolist())
        if not ax.get_autoscaley_on():  # set by another curve
            low, high = min(low, ax.get_ylim()[0]), max(high, ax.get_ylim()[1])
        return low, high

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve and its fit (where it has one) as JSON, with a checksum; never leaves half a file.

        Raises
        ------
        DataError
            The curve is none: an accuracy is no fraction, a value not finite, or the noise levels do not ascend.
        """
        fit = self.fitted
        values = {
            "format": "analogsim robustness curve",
            "schema": SCHEMA,
            "quantity": self.quantity,
            "chance": None if self.chance is None else float(self.chance),
            "noise_free": float(self.noise_free),
            "samples": None if self.samples is None else int(self.samples),
            "sigmas": self.sigmas.tolist(),
            "accuracies": self.values.tolist(),
            "trainings": self.trainings.tolist(),
            "about": self.about,
            "fit": fit and fit.to_dict(),
        }
        if self.metric is not ACCURACY:
            values["metric"] = MeasureFile.of(self.metric)
        try:
            CurveFile.model_validate(values)
        except ValidationError as error:
            raise DataError(f"{path}: not written, for this is no robustness curve: {explain(error)}") from None
        write_json(Path(path), sealed(values))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a curve that `save` wrote, with the fit it had then; one whose fit knows no `crossing` is fitted anew.

        Raises
        ------
        DataError
            The file is missing, is no such curve, or comes from a newer version.
        """
        kept = read_kept(Path(path), CurveFile, DataError)
        if kept is None:
            raise DataError(f"{path}: no such file; RobustnessCurve.save and `analogsim sweep` write them")
        return cls.of_file(kept)

    @classmethod
    def of_file(cls, kept: CurveFile) -> Self:
        """Return the curve that a file holds, wherever that was read from; see `load`."""
        curve = cls(
            np.array(kept.sigmas),
            np.array(kept.accuracies),
            kept.noise_free,
            kept.chance,
            kept.quantity,
            kept.samples,
            np.array(kept.trainings),
            kept.about,
            kept.measure,
        )
        if kept.fit is not None and kept.refit:
            if "brittle" in kept.fit.flags:
                curve.__dict__["fit"] = replace(curve.fit, flags=(*curve.fit.flags, "brittle"))
        elif kept.fit is not None:
            curve.__dict__["fit"] = kept.fit
        return curve
