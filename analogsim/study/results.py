"""The results of a study as pandas frames: one row a training, or one row a method over its seeds."""

import math
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import FitError
from ..robustness.curve import RobustnessCurve
from ..robustness.midpoint import MidpointFit
from ..storage.files import write_text
from ..training.history import Epoch
from .grid import Entry
from .store import Store

if TYPE_CHECKING:
    import pandas as pd

RESULTS, SUMMARY, HARDWARE = "results.csv", "summary.csv", "hardware.csv"
SETTINGS = ("model", "method", "variant", "sigma", "bits", "scaling", "s")
NUMBERS = ("peak", "noise_free", "midpoint", "ci_low", "ci_high", "crossing", "slope", "r2")


@dataclass(frozen=True, eq=False)
class Variant:
    """One method's variant on one network, over all its seeds that are finished.

    Attributes
    ----------
    cell : Entry
        That of the first seed.
    trainings : int
        How many came to their end.
    curve : RobustnessCurve or None
        Those trainings' in one, judged against the baseline; None where there is none.
    histories : dict
        Seed → one entry an epoch.
    states : tuple of str
        Of every seed, finished or not.
    claim : str
    hardware : dict
        Combination of the fields that are varied, as text → accuracies of all seeds and chips on it.
    """

    cell: Entry
    trainings: int
    curve: RobustnessCurve | None
    histories: dict[int, list[Epoch]]
    states: tuple[str, ...]
    claim: str
    hardware: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method's name, and what tells this variant from the others."""
        return ", ".join(filter(None, (self.cell.method, self.cell.variant)))

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of µ, and how many trainings ended without a curve."""
        lost = [f"{self.states.count(kind)} {kind}" for kind in ("diverged", "failed") if kind in self.states]
        return (*(_fit(self.curve)[1] if self.curve else ()), *lost)


def load_results(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return a study's results, one row a training that has ended.

    Parameters
    ----------
    directory : path
        The study's.

    Returns
    -------
    DataFrame
        model, method, variant, sigma (of training), bits, scaling, s, seed, job, status, data, epochs, test_accuracy,
        peak, noise_free, midpoint (µ), ci_low, ci_high (95 % over repeats), crossing (where the curve itself falls
        through half height), slope, r2, flags, seconds. µ is NaN where there is none; see `flags` and `status` then.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _results(Store(directory))


def summarise(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return a study's results, one row a method's variant: its trainings of all seeds pooled.

    µ is that of the mean curve; its 95 % interval comes from a bootstrap over trainings where there are several, else
    over repeats. `brittle` is judged against the study's baseline on the same network.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _summary(load_variants(Store(directory)))


def load_hardware(directory: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return what the trained networks of a study are worth on its hardware: one row a training, combination and chip.

    Returns
    -------
    DataFrame
        model, method, variant, sigma (of training), bits, scaling, s, seed, job, a column for each field that is
        varied, chip, accuracy. Empty where the study has no hardware.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    return _hardware(Store(directory))


def load_variants(store: Store) -> list[Variant]:
    """Return every variant of a study's methods on every network, in the order of the file.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    study = store.study()
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in store.plan():
        groups.setdefault((entry.model, entry.method, entry.variant), []).append(entry)
    variants, judges = [], {}
    for (model, method, _), cells in groups.items():
        results = {cell.seed: store.result(cell.job) for cell in cells}
        ended = {seed: result for seed, result in results.items() if result}
        curves = [curve for cell in cells if (curve := store.curve(cell.job))]
        curve = _pooled(store, curves) if curves else None
        if method == study.reference and curve is not None:
            judges[model] = curve
        states = tuple(store.state(cell.job) for cell in cells)
        histories = {seed: result.history for seed, result in ended.items()}
        hardware: dict[str, list[float]] = {}
        for point in (point for result in ended.values() for point in result.hardware or ()):
            label = ", ".join(f"{name} {value}" for name, value in point.values.items())
            hardware.setdefault(label, []).extend(point.found)
        claim = study.method(method).claim_on(model)
        variants.append(Variant(cells[0], len(curves), curve, histories, states, claim, hardware))
    return [_judged(variant, judges.get(variant.cell.model), study.reference) for variant in variants]


def write_results(store: Store) -> None:
    """Write results.csv from what the jobs left; it is written aside, then renamed."""
    write_text(store.root / RESULTS, _results(store).to_csv(index=False, float_format="%.6g"))


def write_hardware(store: Store) -> None:
    """Write hardware.csv likewise, where the study has hardware."""
    if store.study().hardware is not None:
        write_text(store.root / HARDWARE, _hardware(store).to_csv(index=False, float_format="%.6g"))


def write_summary(store: Store, variants: list[Variant] | None = None) -> None:
    """Write summary.csv likewise, and the fits of pooled curves, so that they are made once.

    `variants`: of `load_variants`, where they are at hand.
    """
    variants = load_variants(store) if variants is None else variants
    write_text(store.root / SUMMARY, _summary(variants).to_csv(index=False, float_format="%.6g"))
    fits = {}
    for variant in variants:
        if variant.trainings > 1 and variant.curve is not None and variant.curve.fitted is not None:
            flags = tuple(flag for flag in variant.curve.flags if flag != "brittle")
            fits[variant.curve.digest] = replace(variant.curve.fit, flags=flags)
    store.keep_fits(fits)


def _results(store: Store) -> "pd.DataFrame":
    import pandas as pd

    plan = store.plan()
    # The file has its order; jobs are run in another one.
    order = {place: number for number, place in enumerate(dict.fromkeys((c.model, c.method, c.variant) for c in plan))}
    rows: list[dict[str, Any]] = []
    for cell in sorted(plan, key=lambda cell: (order[cell.model, cell.method, cell.variant], cell.seed)):
        result = store.result(cell.job)
        status = result.status if result else store.state(cell.job)
        if result is None and status != "failed":
            continue
        history = result.history if result else []
        row = _settings(cell) | {"seed": cell.seed, "job": cell.job, "status": status}
        row |= {"data": result.data if result else "", "epochs": len(history)}
        row["test_accuracy"] = history[-1]["test_accuracy"] if history else math.nan
        row |= _numbers(store.curve(cell.job))
        row["seconds"] = result.seconds.all if result and result.seconds else math.nan
        rows.append(row)
    columns = [*SETTINGS, "seed", "job", "status", "data", "epochs", "test_accuracy", *NUMBERS, "flags", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def _hardware(store: Store) -> "pd.DataFrame":
    import pandas as pd

    hardware = store.study().hardware
    axes = list(hardware.vary) if hardware else []
    rows = [
        _settings(cell) | {"seed": cell.seed, "job": cell.job} | point.values | {"chip": chip, "accuracy": accuracy}
        for cell in store.plan()
        if (result := store.result(cell.job))
        for point in result.hardware or ()
        for chip, accuracy in enumerate(point.found)
    ]
    return pd.DataFrame(rows, columns=[*SETTINGS, "seed", "job", *axes, "chip", "accuracy"])


def _summary(variants: list[Variant]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for variant in variants:
        row = _settings(variant.cell) | {"trainings": variant.trainings, "of": len(variant.states)}
        row |= _numbers(variant.curve) | {"flags": " ".join(variant.flags), "claim": variant.claim}
        rows.append(row)
    return pd.DataFrame(rows, columns=[*SETTINGS, "trainings", "of", *NUMBERS, "flags", "claim"])


def _settings(cell: Entry) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in SETTINGS}


def _numbers(curve: RobustnessCurve | None) -> dict[str, Any]:
    if curve is None:
        return dict.fromkeys(NUMBERS, math.nan) | {"flags": ""}
    fit, flags = _fit(curve)
    numbers = {"peak": curve.peak, "noise_free": curve.noise_free, "flags": " ".join(flags)}
    if fit is None:
        return dict.fromkeys(NUMBERS, math.nan) | numbers
    low, high = fit.ci
    numbers |= {"midpoint": fit.midpoint, "ci_low": low, "ci_high": high, "crossing": fit.crossing}
    return numbers | {"slope": fit.slope, "r2": fit.r2}


def _fit(curve: RobustnessCurve) -> tuple[MidpointFit | None, tuple[str, ...]]:
    fit = curve.fitted
    return fit, ("no_fit",) if fit is None else fit.flags


def _pooled(store: Store, curves: list[RobustnessCurve]) -> RobustnessCurve:
    curve = RobustnessCurve.pool(curves)
    kept = store.fits.get(curve.digest) if len(curves) > 1 else None
    return curve.fitted_as(kept) if kept else curve


def _judged(variant: Variant, judge: RobustnessCurve | None, reference: str | None) -> Variant:
    if variant.curve is None or judge is None or variant.cell.method == reference:
        return variant
    try:
        curve = variant.curve.against(judge)
    except FitError:
        return variant
    return replace(variant, curve=curve)
