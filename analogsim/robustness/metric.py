"""What a sweep measures in place of accuracy: a metric as torchmetrics has them."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..batches import Labelled
from ..errors import DataError, FitError, NonFiniteError, ShapeError

ROUNDING = 1e-6  # by which a float32 may be beyond [0, 1]


@runtime_checkable
class Metric(Protocol):
    """Anything with these three methods; every `torchmetrics.Metric` has them.

    Its value lies in [0, 1] and is larger for a better network: what a sweep's curve and µ are made of.
    """

    def reset(self) -> None:
        """Forget all batches."""

    def update(self, preds: Any, target: Tensor, /) -> Any:
        """Take note of the network's output for a batch, and of what it should be."""

    def compute(self) -> Any:
        """Return the value over all batches since `reset`: a number, or a tensor of one."""


class Accuracy:
    """The share of samples whose class (B,) has the largest output (B, classes); an output of NaN is never right."""

    def reset(self) -> None:
        """Forget all batches."""
        self.right: Tensor | int = 0
        self.samples = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        best, guess = preds.max(1)
        # NaN beats every number in max: such a row knows nothing.
        self.right = self.right + ((guess == target) & ~best.isnan()).sum()
        self.samples += len(target)

    def compute(self) -> float:
        """Return the share; only here a GPU is waited for."""
        return int(self.right) / self.samples


def measured(
    model: nn.Module,
    batches: Iterable[Labelled],
    metric: Metric,
    where: str = "",
    examine: Callable[[Any, Tensor, Tensor], object] | None = None,
) -> tuple[float, int]:
    """Return a metric's value over batches, and how many samples they have.

    Parameters
    ----------
    where : str
        At which σ, for messages.
    examine : callable, optional
        Gets every output, with its inputs and labels, before the metric does.

    Raises
    ------
    NonFiniteError
        The value is not finite.
    FitError
        The value is no number in [0, 1].
    DataError
        There is no sample.
    """
    metric.reset()
    samples = 0
    for x, y in batches:
        if len(y):
            out = model(x)
            if examine is not None:
                examine(out, x, y)
            metric.update(out, y)
            samples += len(y)
    if not samples:
        raise DataError("data: empty; give at least one test sample with its label")
    found = metric.compute()
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):
        raise FitError(
            f"metric: {type(metric).__name__} gave {type(found).__name__} {where}, no single number"
        ) from None
    if not math.isfinite(value):
        raise NonFiniteError(f"metric: {type(metric).__name__} is {value} {where}; it must be finite")
    if not -ROUNDING <= value <= 1 + ROUNDING:
        raise FitError(
            f"metric: {type(metric).__name__} is {value:g} {where}; a sweep needs one that lies in [0, 1] and grows "
            "with the network's quality (of an error e, exp(-e) for example)"
        )
    return min(1.0, max(0.0, value)), samples


def scored(metric: Metric | None) -> Metric:
    """Return what measures: accuracy, or a copy of a user's metric, which stays as it is.

    Raises
    ------
    FitError
        It is no metric.
    """
    if metric is not None and (isinstance(metric, type) or not isinstance(metric, Metric)):
        raise FitError(f"metric: give an object with reset, update and compute (got {metric!r})")
    return Accuracy() if metric is None else copy.deepcopy(metric)


def check_logits(out: object, x: Tensor, y: Tensor) -> int:
    """Refuse what are no logits of these labels; return how many classes there are."""
    if not isinstance(out, Tensor):
        raise ShapeError(f"model: its output must be a tensor (batch, classes), got {type(out).__name__}")
    if out.ndim != 2 or len(out) != len(y) or out.shape[1] < 2:
        raise ShapeError(
            f"model: its output must be (batch, classes) with at least 2 classes; inputs {tuple(x.shape)} gave "
            f"{tuple(out.shape)}; wrap the model so that it returns logits"
        )
    if not out.isfinite().all():
        raise NonFiniteError("model: its output is not finite without noise; check its weights and the inputs")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= out.shape[1]:
        raise DataError(f"data: labels must lie in 0 … {out.shape[1] - 1} (the model's classes), got {low} … {high}")
    return out.shape[1]
