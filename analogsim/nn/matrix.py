"""A weight matrix on crossbars: its scale, its weights in normalised units, and where its cells lie."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..chip import Chip, Layout, build
from ..kernels import MatmulSpec
from ..kernels.tiles import cut
from ..profile import HardwareProfile, Weight


@dataclass(frozen=True, slots=True, eq=False)
class ProgrammedMatrix:
    """A weight matrix as it is on a layer's crossbars.

    Attributes
    ----------
    weight : Tensor (N, K, …)
        The digital matrix or kernel W, weight units.
    programmed : Tensor (N, K, …)
        ŵ, normalised units: rounded to the levels of `weight.bits`; with a chip, what its cells have become.
    w_max : Tensor (N,)
        Scale of each output, weight units, with a chip's compensation of drift in it; 0 for an output whose weights are
        all 0.
    effective : Tensor (N, K, …) or None
        ŵ·w_max, weight units, which gradients are computed with. None where it is `weight` itself, and where somebody
        observes, since nobody asks for gradients then.
    chip : Chip or None
        The cells, where the profile needs a chip.
    """

    weight: Tensor
    programmed: Tensor
    w_max: Tensor
    effective: Tensor | None = None
    chip: Chip | None = None

    def part(self, outputs: slice) -> "ProgrammedMatrix":
        """Return some of the outputs, as a matrix of their own."""
        return ProgrammedMatrix(
            self.weight[outputs],
            self.programmed[outputs],
            self.w_max[outputs],
            None if self.effective is None else self.effective[outputs],
            None if self.chip is None else self.chip.part(outputs),
        )


def weight_scale(weight: Tensor, part: Weight) -> Tensor:
    """Return w_max (N,), weight units, of a matrix or kernel (N, K, …).

    It is 0 for an output whose weights are all 0, so that what its column gives counts for nothing.
    """
    if not weight.numel():
        return weight.new_zeros(len(weight))
    flat = weight.detach().flatten(1)
    top = torch.maximum(flat.amax(1), -flat.amin(1))
    if part.w_max == "column":
        return top
    return torch.where(top == 0, top, top.amax() if part.w_max == "tensor" else part.w_max)


@torch.no_grad()
def normalised(weight: Tensor, w_max: Tensor, part: Weight) -> Tensor:
    """Return ŵ (N, K, …), normalised units: weights over their scale, clipped and rounded (design section 3.2)."""
    # A column that holds nothing has no scale, and is 0 by any.
    programmed = weight / _along_outputs(torch.where(w_max == 0, 1, w_max), weight)
    if isinstance(part.w_max, float):
        programmed.clamp_(-1, 1)
    if part.levels:
        programmed.mul_(part.levels).round_().div_(part.levels)
    return programmed


def scaled(programmed: Tensor, w_max: Tensor) -> Tensor:
    """Return ŵ·w_max (N, K, …), weight units."""
    return programmed * _along_outputs(w_max, programmed)


def layout(programmed: Tensor, profile: HardwareProfile, groups: int = 1) -> Layout:
    """Return where the cells of ŵ (N, K, …) lie: in which array, row and column.

    Parameters
    ----------
    programmed : Tensor (N, K, …)
    profile : HardwareProfile
    groups : int
        Of a convolution's outputs; two groups share no array.
    """
    tile = profile.tile
    spec = MatmulSpec(rows=tile.rows, mapping=tile.mapping)
    if programmed.ndim == 2:
        tiles = spec.tiles(programmed.shape[1])
    else:
        tiles = [(part.start, part.stop) for part in cut(programmed, spec)]
    return Layout.of(tiles, len(programmed), groups, tile.cols, profile.lines)


def cells_of(programmed: Tensor, profile: HardwareProfile, groups: int, seed: int, seconds: float) -> Chip:
    """Program ŵ (N, K, …) onto the cells of a chip, and let them age; see `chip.build`."""
    return build(programmed, profile, layout(programmed, profile, groups), seed, seconds)


def _along_outputs(values: Tensor, like: Tensor) -> Tensor:
    """Return one value an output (N,) in a shape that is multiplied with `like` (N, K, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
