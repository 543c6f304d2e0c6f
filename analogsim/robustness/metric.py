"""What a sweep measures in place of accuracy: a metric as torchmetrics has them."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..batches import Labelled
from ..errors import DataError, FitError, NonFiniteError

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
    examine: Callable[[Any, Tensor, Tensor], None] | None = None,
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
