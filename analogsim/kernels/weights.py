"""How a weight matrix becomes ŵ: its scale, and its weights in normalised units (design section 3.2)."""

import torch
from torch import Tensor

from ..profile import Weight


def weight_scale(weight: Tensor, part: Weight) -> Tensor:
    """Return w_max (N,), weight units, of a matrix or kernel (N, K, …).

    It is 0 for an output whose weights are all 0, so that what its column gives counts for nothing.
    """
    if not weight.numel():
        return weight.new_zeros(len(weight))
    flat = weight.detach().flatten(1)
    return of_columns(torch.maximum(flat.amax(1), -flat.amin(1)), part)


def of_columns(top: Tensor, part: Weight) -> Tensor:
    """Return w_max (N,), weight units, of the largest magnitude of each output (N,)."""
    if part.w_max == "column":
        return top
    return torch.where(top == 0, top, top.amax() if part.w_max == "tensor" else part.w_max)


@torch.no_grad()
def normalised(weight: Tensor, w_max: Tensor, part: Weight) -> Tensor:
    """Return ŵ (N, K, …), normalised units: weights over their scale, clipped and rounded."""
    # A column that holds nothing has no scale, and is 0 by any.
    programmed = weight / along_outputs(torch.where(w_max == 0, 1, w_max), weight)
    if isinstance(part.w_max, float):
        programmed.clamp_(-1, 1)
    if part.levels:
        programmed.mul_(part.levels).round_().div_(part.levels)
    return programmed


def along_outputs(values: Tensor, like: Tensor) -> Tensor:
    """Return one value an output (N,) in a shape that is multiplied with `like` (N, K, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Copy:
    """What tells a tensor from others where nothing shorter is at hand: a copy of it."""

    def __init__(self, array: Tensor) -> None:
        self.array = array.detach().clone()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Copy) and torch.equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment]
