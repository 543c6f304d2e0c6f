"""What is measured of a network: the one table of measures, each with its direction, its scale and what guessing gives.

Nothing here needs torch: curves are read and fitted by it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..errors import FitError
from ..meant import did_you_mean
from .law import Array

Guess = Callable[[int], float]


@dataclass(frozen=True)
class Measure:
    """A figure of how good a network is.

    Attributes
    ----------
    name : str
    higher_is_better : bool
    guess : callable, optional
        What guessing gives, as a function of the number of classes; None where it is not known, or is a matter of the
        targets, which the metric then knows itself (its method `guess`).
    logarithmic : bool
        Its scale: halfway between two values is their geometric mean.
    share : bool
        A share of what is right, in [0, 1], that falls to guessing.
    counts : bool
        A share of the samples, so that its noise is binomial.
    perfect : float, optional
        The best value there can be.
    unit : str
    of : object, optional
        What computes it: an object with `reset`, `update` and `compute`, as `torchmetrics.Metric`, or a function
        (output, target) → value(s), the mean of which counts. None: what the name says.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> def near(output, target):
    ...     return ((output - target).abs() < 0.1).float()
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
    >>> an.evaluate(net, (x, net(x).detach()), metric=an.Measure("near", share=True, perfect=1.0, of=near)).digital
    1.0
    """

    name: str
    higher_is_better: bool = True
    guess: Guess | None = None
    logarithmic: bool = False
    share: bool = False
    counts: bool = False
    perfect: float | None = None
    unit: str = ""
    of: Any = None

    def __reduce__(self) -> Any:
        if self is MEASURES.get(self.name):
            return measure_named, (self.name,)
        return _measure, tuple(getattr(self, field.name) for field in fields(self))

    @property
    def sign(self) -> int:
        """+1 where more is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def title(self) -> str:
        """How pictures call it, with its unit: of a share "fraction"."""
        unit = self.unit or ("fraction" if self.share else "")
        return self.name.replace("_", " ") + (f" ({unit})" if unit else "")

    @property
    def as_known(self) -> "Measure":
        """The measure as a curve has it: not what computes it; of a name that is known, the one of the table."""
        return self if self is MEASURES.get(self.name) else replace(self, guess=None, of=None)

    def text(self, value: float) -> str:
        """Return a value as tables show it."""
        return f"{value:.3f}" if self.share else f"{value:.4g}"

    def heights(self, values: Any) -> Array:
        """Return how high values stand on the measure's scale; higher is better."""
        values = np.asarray(values, dtype=float)
        if self.logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log(values)
        return self.sign * values

    def values(self, heights: Any) -> Array:
        """Return the values of heights; the inverse of `heights`."""
        values = self.sign * np.asarray(heights, dtype=float)
        return np.exp(values) if self.logarithmic else values

    def best(self, values: Any) -> float:
        """Return the best of values."""
        return float(np.max(values) if self.higher_is_better else np.min(values))

    def loss(self, before: float, after: float) -> float:
        """Return how much worse one value is than another, in its unit; below 0 where it is better."""
        return self.sign * (before - after)


def _measure(*values: Any) -> Measure:
    return Measure(*values)


def _one_of(classes: int) -> float:
    return 1 / classes


# What guessing gives where classes are equally frequent.
MEASURES = {
    one.name: one
    for one in (
        Measure("accuracy", guess=_one_of, share=True, counts=True, perfect=1.0),
        Measure("top5", guess=lambda classes: min(1.0, 5 / classes), share=True, counts=True, perfect=1.0),
        Measure("token_accuracy", guess=_one_of, share=True, perfect=1.0),
        Measure("perplexity", False, guess=float, logarithmic=True, perfect=1.0),
        Measure("f1", guess=_one_of, share=True, perfect=1.0),
        Measure("miou", guess=lambda classes: 1 / (2 * classes - 1), share=True, perfect=1.0),
        Measure("auroc", guess=lambda classes: 0.5, share=True, perfect=1.0),
        Measure("mse", False, perfect=0.0),
        Measure("mae", False, perfect=0.0),
        Measure("r2", guess=lambda classes: 0.0, perfect=1.0),
        Measure("cosine", guess=lambda classes: 0.0, perfect=1.0),
        Measure("spearman", guess=lambda classes: 0.0, perfect=1.0),
    )
}
"""Every measure that has a name; `robustness/metric.py` computes them."""
ACCURACY = MEASURES["accuracy"]


def measure_named(name: str) -> Measure:
    """Return the measure of a name.

    Raises
    ------
    FitError
        There is none of this name.
    """
    if name in MEASURES:
        return MEASURES[name]
    near = did_you_mean(name, MEASURES)
    raise FitError(f"metric: no {name!r}{near or '.'} There are {', '.join(MEASURES)}; or give a torchmetrics.Metric")


def as_measure(metric: Any) -> Measure:
    """Return what a metric is that a user gives: a name, a `Measure`, an object with three methods, or a function.

    Its direction is what its attribute `higher_is_better` says, as torchmetrics' do; without one more is better, but of
    torch's own losses less.

    Raises
    ------
    FitError
        It is none of these, or a torchmetrics.Metric without a direction.
    """
    if metric is None:
        return ACCURACY
    if isinstance(metric, Measure):
        return metric
    if isinstance(metric, str):
        return measure_named(metric)
    is_metric = all(callable(getattr(metric, name, None)) for name in ("reset", "update", "compute"))
    if isinstance(metric, type) or not (is_metric or callable(metric)):
        raise FitError(
            "metric: give an object with reset, update and compute, a function (output, target), or one of "
            f"{', '.join(MEASURES)} (got {metric!r})"
        )
    function = getattr(metric, "func", metric) if isinstance(metric, functools.partial) else metric
    name = type(metric).__name__ if is_metric else getattr(function, "__name__", type(function).__name__)
    direction = getattr(metric, "higher_is_better", not _is_loss(function))
    if direction is None:
        raise FitError(
            f"metric: {name} does not say whether more is better; give Measure({name!r}, higher_is_better=…, of=…)"
        )
    return Measure(name, bool(direction), of=metric)


def _is_loss(function: Any) -> bool:
    """Say whether a function is one of torch's losses."""
    if any(kind.__module__ == "torch.nn.modules.loss" for kind in type(function).__mro__):
        return True
    name = getattr(function, "__name__", "")
    known = getattr(function, "__module__", "") == "torch.nn.functional"
    return known and (name.endswith("_loss") or "cross_entropy" in name or name == "kl_div")
