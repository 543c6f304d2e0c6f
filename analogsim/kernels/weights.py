"""How a weight matrix becomes ŵ: its scale, and its weights in normalised units (design section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..profile import Percentile, Weight


def weight_scale(weight: Tensor, part: Weight) -> Tensor:
    """Return w_max (N,), weight units, of a matrix or kernel (N, K, …).

    It is 0 for an output whose weights are all 0, so that what its column gives counts for nothing.
    """
    if not weight.numel():
        return weight.new_zeros(len(weight))
    flat = weight.detach().flatten(1)
    top = torch.maximum(flat.amax(1), -flat.amin(1))
    if isinstance(part.w_max, Percentile):
        return _percentile(flat, top, part.w_max.percentile, whole=part.w_max.per in ("tensor", "tile"))
    if isinstance(part.w_max, float):
        return torch.where(top == 0, top, part.w_max)
    return torch.where(top == 0, top, top.amax()) if part.share in ("tensor", "tile") else top


def _percentile(flat: Tensor, top: Tensor, percentile: float, *, whole: bool) -> Tensor:
    """Return w_max (N,) of a matrix (N, K) as a percentile of the magnitudes of all or of each output."""
    sizes = flat.abs()
    sizes = sizes.reshape(1, -1) if whole else sizes
    place = (sizes.shape[1] - 1) * percentile / 100
    below = min(int(place), sizes.shape[1] - 1)
    low = sizes.kthvalue(below + 1, 1).values
    high = sizes.kthvalue(min(below + 2, sizes.shape[1]), 1).values
    found = low + (high - low) * (place - below)
    found = torch.where(found > 0, found, sizes.amax(1)).expand(len(flat))
    return torch.where(top == 0, top, found)


@torch.no_grad()
def normalised(weight: Tensor, w_max: Tensor, part: Weight) -> Tensor:
    """Return ŵ (N, K, …), normalised units: weights over their scale, clipped and rounded."""
    # A column that holds nothing has no scale, and is 0 by any.
    programmed = weight / along_outputs(torch.where(w_max == 0, 1, w_max), weight)
    if part.clips:
        programmed.clamp_(-1, 1)
    if part.levels:
        programmed.mul_(part.levels).round_().div_(part.levels)
    return programmed


@torch.no_grad()
def by_tile(
    weight: Tensor, part: Weight, tiles: Sequence[tuple[int, int]], widths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ŵ (N, K, …), w_max (N,) and each tile's gains (T, N) of a matrix whose crossbars have own full scales.

    An output's w_max is the largest full scale of its tiles, and a tile's gain is its own full scale as a fraction of
    that: w = w_max·gain_t·ŵ. The gain is 0 where the output's weights in the tile are all 0.

    Parameters
    ----------
    weight : Tensor (N, K, …)
        Weight units.
    part : Weight
    tiles : sequence of (int, int)
        First and last row, exclusive, of each tile of the flattened rows.
    widths : sequence of int
        Outputs of each block of columns: those of a block share crossbars.
    """
    flat, programmed = weight.detach().flatten(1), torch.empty_like(weight, memory_format=torch.contiguous_format)
    out, scales = programmed.view(flat.shape), flat.new_zeros(len(tiles), len(flat))
    blocks = widths if part.share == "tile" else [len(flat)]
    for scale, (start, stop) in zip(scales, tiles, strict=True):
        rows = flat[:, start:stop]
        scale.copy_(torch.cat([weight_scale(block, part) for block in rows.split(list(blocks))]))
        out[:, start:stop] = normalised(rows, scale, part)
    w_max = scales.amax(0) if len(tiles) else flat.new_zeros(len(flat))
    return programmed, w_max, scales / torch.where(w_max == 0, 1, w_max)


def along_outputs(values: Tensor, like: Tensor) -> Tensor:
    """Return one value an output (N,) in a shape that is multiplied with `like` (N, K, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def along_tiles(gains: Tensor, tiles: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return gains of tiles (T, N) in the shape of a matrix (N, K, …), each tile's in its rows."""
    sizes = torch.tensor([stop - start for start, stop in tiles], device=gains.device)
    return gains.repeat_interleave(sizes, 0).T.reshape(like.shape)


class Copy:
    """What tells a tensor from others where nothing shorter is at hand: a copy of it."""

    def __init__(self, array: Tensor) -> None:
        self.array = array.detach().clone()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Copy) and torch.equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment]
