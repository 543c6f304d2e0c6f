"""The cheapest hardware on which a network stays accurate: a search over profiles by Optuna, resumable."""

import json
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from .. import style
from ..ages import seconds
from ..batches import Batches, Step, listed, samples_in
from ..convert import convert
from ..errors import SearchError, UnreachedWarning
from ..nn import set_seed
from ..profile import HardwareProfile
from ..program import at_time, program
from ..ranges.calibrate import Method, calibrate
from ..result import Result
from ..robustness.measure import ACCURACY, Measure, as_measure
from ..robustness.measure_file import KeptMeasure
from ..robustness.metric import Metric
from ..seeds import Key, checked, derive
from ..tables import Column, Table, amount
from ..terminal.progress import bar
from ..terminal.text import label
from ..value import whole
from .cost import NetworkCost, cost
from .fields import METHOD, varied
from .journal import Journal, Tried, alone, read_journal
from .reference import reference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Objective = Literal["conversion_steps", "energy", "latency", "adc_conversions"]

SPACE: dict[str, Sequence[Any]] = {
    "adc.bits": range(3, 11),
    "dac.bits": range(3, 9),
    "tile.rows": (64, 128, 256, 512),
    "calibration": ("maximum", "percentile", "mse"),
}
"""What `design_search` varies by default."""


@dataclass(frozen=True)
class Design:
    """One profile that was tried.

    Attributes
    ----------
    values : dict
        What of the space it is.
    cost : float
        Unit of the objective.
    accuracy : float
        Fraction in [0, 1]; or the value of the search's metric.

    Examples
    --------
    >>> import analogsim as an
    >>> an.Design({"adc.bits": 6}, cost=512.0, accuracy=0.98).values["adc.bits"]
    6
    """

    values: dict[str, Any]
    cost: float
    accuracy: float


@dataclass(frozen=True)
class DesignSearch(Result):
    """All designs that were tried, and the one to take.

    Attributes
    ----------
    designs : tuple of Design
        In the order in which they were tried, repetitions left out.
    accuracy : float
        Of the digital network.
    max_drop : float
    objective : str
    base : HardwareProfile
    metric : Measure
        What stands in the place of accuracy.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(200, 8)
    >>> data, space = (x, net(x).argmax(1)), {"adc.bits": [4, 6, 8]}
    >>> found = an.design_search(net, data, space, calibration=x, max_drop=0.05, trials=3)
    >>> sorted(design.values["adc.bits"] for design in found.designs)[-1]
    8
    """

    kind: ClassVar[str] = "design search"

    designs: tuple[Design, ...]
    accuracy: float
    max_drop: float
    objective: str
    base: HardwareProfile
    metric: KeptMeasure = ACCURACY

    @property
    def best(self) -> Design | None:
        """The cheapest whose accuracy is within the drop, of equal ones the most accurate; None where there is none."""
        allowed = [one for one in self.designs if self.allows(one)]
        return min(allowed, key=self._order) if allowed else None

    @property
    def pareto(self) -> tuple[Design, ...]:
        """Designs than which none is both cheaper and at least as accurate, by rising cost."""
        front: list[Design] = []
        for one in sorted(self.designs, key=self._order):
            if not front or self.metric.loss(one.accuracy, front[-1].accuracy) > 0:
                front.append(one)
        return tuple(front)

    def allows(self, design: Design) -> bool:
        """Return whether a design's accuracy is within the drop."""
        return self.metric.loss(self._least, design.accuracy) <= 1e-9

    def _order(self, design: Design) -> tuple[float, float]:
        return design.cost, -self.metric.sign * design.accuracy

    @property
    def _least(self) -> float:
        """The worst accuracy that is allowed."""
        return self.accuracy - self.metric.sign * self.max_drop

    def profile(self, design: Design | None = None) -> HardwareProfile:
        """Return the profile of a design, by default the best; its ranges are for `calibrate` by its method to set.

        Raises
        ------
        SearchError
            No design is within the drop.
        """
        design = design or self.best
        if design is None:
            share = ".1%" if self.metric.share else ".4g"
            within = f"{self.max_drop:{share}} of {self.accuracy:{share}}"
            raise SearchError(f"no design keeps within {within}; allow more, or search longer")
        return varied(self.base, design.values)

    def table(self) -> Table:
        """Return the Pareto front by rising cost, the design to take marked."""
        names, unit = list(self.designs[0].values) if self.designs else [], UNITS.get(self.objective, "")
        columns = (
            Column("take", show=lambda taken: "✓" if taken else "", title=""),
            *(Column(name, show=str) for name in names),
            Column(self.objective, unit, amount),
            Column(self.metric.name, self.metric.unit, self.metric.text),
        )
        rows = (
            (one is self.best, *(one.values.get(name) for name in names), one.cost, one.accuracy) for one in self.pareto
        )
        found = f"digital network: {self.metric.text(self.accuracy)}; {len(self.designs)} designs; ✓ the one to take"
        return Table(columns, tuple(rows), found)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a design: its values, cost, accuracy, whether it is allowed, on the front, and the best."""
        import pandas as pd

        front, best = self.pareto, self.best
        rows = [
            {
                **one.values,
                "cost": one.cost,
                self.metric.name: one.accuracy,
                "allowed": self.allows(one),
                "pareto": one in front,
                "best": one is best,
            }
            for one in self.designs
        ]
        return pd.DataFrame(rows)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw accuracy against cost: every design, the Pareto front, the accuracy that is allowed, and the best.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (7, 4.2))
        front = self.pareto
        ax.set_xscale("log")
        costs, found = [one.cost for one in self.designs], [one.accuracy for one in self.designs]
        ax.plot(costs, found, ".", color="0.6", label="a design")
        at, best = [one.cost for one in front], [one.accuracy for one in front]
        ax.step(at, best, "o-", where="post", color=style.COLORS[0], ms=4, label="Pareto front")
        ax.axhline(self._least, color=style.COLORS[1], linestyle="--", linewidth=1, label="allowed")
        if self.best is not None:
            text = ", ".join(f"{key} {value}" for key, value in self.best.values.items())
            ax.plot(
                self.best.cost,
                self.best.accuracy,
                "*",
                color=style.COLORS[1],
                markersize=13,
                label=label(textwrap.fill(f"cheapest: {text}", 80)),
            )
        unit = (UNITS | {"conversion_steps": "count"}).get(self.objective)
        ax.set_xlabel(f"{self.objective.replace('_', ' ')} of one input" + (f" ({unit})" if unit else ""))
        ax.set_ylabel(self.metric.title)
        style.above(ax)
        return ax


UNITS = {"energy": "pJ", "latency": "ns"}


def design_search(
    model: nn.Module,
    data: Batches,
    space: Mapping[str, Sequence[Any]] | None = None,
    objective: Objective | Callable[[NetworkCost], float] = "conversion_steps",
    *,
    calibration: Batches,
    base: HardwareProfile | None = None,
    max_drop: float = 0.01,
    trials: int = 60,
    repeats: int = 1,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    step: Step | None = None,
    age: float | str = 0,
    seed: int = 0,
    storage: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> DesignSearch:
    """Search for the cheapest profile on which a network's accuracy stays within a given drop.

    Optuna's tree-structured Parzen estimator proposes designs for two objectives, low cost and high accuracy, those
    within the drop preferred. The design of every key's last value, and that of every first, are tried before.

    Parameters
    ----------
    model : nn.Module
        As for `noise_sweep`; digital, or analog (then its digital twin is taken). Noise that was
        injected is left out.
    data : iterable of batches, Dataset, or (inputs, labels)
        What accuracy is measured on, as for `noise_sweep`. The best of many designs is chosen by it, so measure its
        accuracy again on other data where the last tenth of a percent matters.
    space : mapping of str to sequence, optional
        Dotted fields of the profile, as "adc.bits", to the values to try, in ascending order where they have one; and
        "calibration": methods of `calibrate`. Default: `SPACE`.
    objective : {"conversion_steps", "energy", "latency", "adc_conversions"} or callable
        What is cheap: a figure of `NetworkCost.total`, or a function of the `NetworkCost`. conversion_steps needs
        converters with bits, energy and latency a profile with a part `cost`.
    calibration : iterable of batches, Dataset, or a batch
        What ranges are taken from, as for `calibrate`; costs are those of a sample of its first batch.
    base : HardwareProfile, optional
        What the space does not name; default: the preset "8bit".
    max_drop : float
        Allowed loss of accuracy against the digital network, as a fraction: 0.01 is one point. Of another metric in
        its own unit, the way in which it becomes worse.
    trials : int
        Designs to try in all, those found in the storage included.
    repeats : int
        Evaluations of each design, with independent noise and, where chips differ, each on a chip of its own as
        programmed; their mean counts.
    metric : str, Measure, Metric or callable
        What stands in the place of accuracy; as for `noise_sweep`.
    step : callable, optional
        How the network is called on batches of any other kind; as for `calibrate`.
    age : float or str
        Of the chips since their first reads: seconds, or "1d", "1y" and the like.
    seed : int
        Of noise, chips and proposals; in [0, 2^64).
    storage : path, optional
        Journal file; a search that was interrupted goes on with it.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    DesignSearch

    Raises
    ------
    SearchError
        Optuna is missing, a setting is impossible, a design's cost is unknown, or the storage is of another search,
        damaged, or cannot be written.
    ProfileError
        A value of the space makes no profile.

    References
    ----------
    T. Akiba et al., *Optuna: A Next-generation Hyperparameter Optimization Framework*, KDD 2019.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(200, 8)
    >>> data, space = (x, net(x).argmax(1)), {"adc.bits": [4, 6, 8]}
    >>> found = an.design_search(net, data, space, calibration=x, max_drop=0.05, trials=3)
    >>> found.best.values["adc.bits"] < 8, found.best.accuracy >= 0.95
    (True, True)
    """
    try:
        import optuna
    except ImportError:
        raise SearchError("design_search needs Optuna: pip install 'analogsim[search]'") from None
    base = HardwareProfile.load("8bit") if base is None else base
    choices = {key: list(values) for key, values in (SPACE if space is None else space).items()}
    trials, repeats = whole(trials, "trials", SearchError), whole(repeats, "repeats", SearchError)
    seed = checked(seed, SearchError)
    when = seconds(age)
    _check(choices, max_drop, trials, repeats, as_measure(metric))
    for key, values in choices.items():
        for value in values:
            varied(base, {key: value})
    digital = reference(model, data, metric, step)
    model, exact, measure, inputs = digital.network, digital.value, digital.measure, listed(calibration)
    if not inputs:
        raise SearchError("calibration: at least one batch is needed")
    sample = tuple(inputs[0].shape[1:]) if step is None and isinstance(inputs[0], Tensor) else inputs[0]
    kind = objective if isinstance(objective, str) else getattr(objective, "__name__", "cost")

    cost(model, base, sample, step=step)  # warns, once, of what none of the designs reaches

    def evaluate(values: dict[str, Any]) -> tuple[float, float]:
        profile = varied(base, values)
        counted = cost(model, profile, sample, step=step)
        found = getattr(counted.total, objective) if isinstance(objective, str) else objective(counted)
        if found is None or not math.isfinite(price := float(found)):
            missing = counted.unknown.get(kind) or ("dac.bits and adc.bits" if kind == "conversion_steps" else "")
            why = f": the profile has no {missing}" if missing else f": it is {found}"
            raise SearchError(f"{kind} of {values} is unknown{why}")
        analog = convert(model, profile)
        calibrate(analog, inputs, values.get(METHOD, "maximum"), step=step, progress=False, together=False)
        set_seed(analog, derive(seed, Key.SEARCH_READS))
        right = []
        for repeat in range(repeats if profile.is_random else 1):
            if profile.is_drawn:
                program(analog, derive(seed, Key.SEARCH_CHIP, repeat))
                if when:
                    at_time(analog, when)
            right.append(digital.value_of(analog))
        return price, float(digital.settled("design_search", right).mean())

    def constraint(trial: Any) -> tuple[float]:
        return (_excess(trial.user_attrs.get("accuracy", 0.0)),)

    def _excess(found: float) -> float:
        return measure.sign * (exact - measure.sign * max_drop - found)

    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), bar(progress) as shown, ExitStack() as last:
        # Its warnings are the tracebacks of errors that are raised anyway.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        last.callback(optuna.logging.set_verbosity, verbosity)
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=UnreachedWarning)  # said already
        path = None if storage is None else Path(storage)
        last.enter_context(alone(path))
        calibrated_on = sum(map(samples_in, inputs))
        settings = [base.model_dump(), choices, kind, max_drop, repeats, seed, when, measure.name]
        settings += [exact, digital.samples, calibrated_on, *([] if path is None else [digital.checksum])]
        about = json.dumps(settings, default=str, sort_keys=True)
        journal = (read_journal(path) if path else None) or Journal(about=about)
        if not journal.tried:  # of a search that failed before its first design
            journal = Journal(about=about)
        if journal.about != about:
            raise SearchError(
                f"{storage}: holds a search of another network, data, space, profile, objective or calibration; use "
                "another file"
            )
        for one in journal.tried:
            if one.places.keys() != choices.keys() or any(one.places[key] >= len(choices[key]) for key in choices):
                raise SearchError(f"{storage}: damaged (a design outside of the space); {Journal.remedy}")
            if measure.share and not 0 <= one.accuracy <= 1:
                raise SearchError(f"{storage}: damaged ({measure.name} {one.accuracy:g}); {Journal.remedy}")
        if path is not None:
            journal.save(path)
        before = [
            Design({key: choices[key][one.places[key]] for key in choices}, one.cost, one.accuracy)
            for one in journal.tried
        ]
        known, done = {_key(one.values): one for one in before}, len(before)
        sampler = optuna.samplers.TPESampler(
            seed=derive(seed, Key.SEARCH_PROPOSALS, done) % 2**32, constraints_func=constraint, n_startup_trials=15
        )
        study = optuna.create_study(
            sampler=sampler, directions=["minimize", "maximize" if measure.higher_is_better else "minimize"]
        )
        places = {key: optuna.distributions.IntDistribution(0, len(values) - 1) for key, values in choices.items()}
        for one in journal.tried:
            study.add_trial(
                optuna.trial.create_trial(
                    values=(one.cost, one.accuracy),
                    params=dict(one.places),
                    distributions=dict(places),
                    user_attrs={"accuracy": one.accuracy},
                    system_attrs={"constraints": (_excess(one.accuracy),)},
                )
            )
        for index in (-1, 0):
            # Again, where a search was interrupted in it.
            if _key({key: v[index] for key, v in choices.items()}) not in known:
                study.enqueue_trial({key: range(len(v))[index] for key, v in choices.items()})
        tried = list(journal.tried)
        task = shown.add_task("Searching designs", total=trials, completed=done)

        def run(trial: Any) -> tuple[float, float]:
            # Positions, not values: so every key is an ordered number, and any type of value will do.
            values = {key: v[trial.suggest_int(key, 0, len(v) - 1)] for key, v in choices.items()}
            key = _key(values)
            if key not in known:
                known[key] = Design(values, *evaluate(values))
            trial.set_user_attr("accuracy", known[key].accuracy)
            tried.append(Tried(places=trial.params, cost=known[key].cost, accuracy=known[key].accuracy))
            if path is not None:
                journal.model_copy(update={"tried": tuple(tried)}).save(path)
            shown.advance(task)
            return known[key].cost, known[key].accuracy

        study.optimize(run, n_trials=max(0, trials - done))
    return DesignSearch(tuple(known.values()), exact, max_drop, kind, base, measure.as_known)


def _check(choices: dict[str, list[Any]], max_drop: float, trials: int, repeats: int, measure: Measure) -> None:
    if not choices or not all(choices.values()):
        raise SearchError("space: at least one field with at least one value is needed")
    if not 0 <= max_drop < (1 if measure.share else math.inf) or trials < 1 or repeats < 1:
        raise SearchError(
            f"max_drop in [0, 1), trials and repeats of at least 1 are needed (got {max_drop}, {trials}, {repeats})"
        )
    unknown = set(choices.get(METHOD, ())) - set(get_args(Method))
    if unknown:
        raise SearchError(f"calibration: unknown method {', '.join(map(repr, sorted(unknown, key=str)))}")


def _key(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
