"""What a sweep measures in place of accuracy: a metric as torchmetrics has them."""

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..batches import Labelled
from ..errors import DataError, FitError, NonFiniteError


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


def measured(model: nn.Module, batches: Iterable[Labelled], metric: Metric, where: str) -> tuple[float, int]:
    """Return a metric's value over batches, and how many samples they have.

    Raises
    ------
    NonFiniteError
        The value is not finite; `where` says at which σ.
    FitError
        The value is outside [0, 1].
    DataError
        There is no sample.
    """
    metric.reset()
    samples = 0
    for x, y in batches:
        if len(y):
            metric.update(model(x), y)
            samples += len(y)
    if not samples:
        raise DataError("data: empty; give at least one test sample with its label")
    value = float(metric.compute())
    if not math.isfinite(value):
        raise NonFiniteError(f"metric: {type(metric).__name__} is {value} {where}; it must be finite")
    if not 0 <= value <= 1:
        raise FitError(
            f"metric: {type(metric).__name__} is {value:g} {where}; a sweep needs one that lies in [0, 1] and grows "
            "with the network's quality (of an error e, exp(-e) for example)"
        )
    return value, samples
