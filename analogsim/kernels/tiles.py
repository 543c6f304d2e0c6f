"""How a convolution walks over its input, and how its rows are cut into tiles."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .spec import MatmulSpec


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """How a convolution (1 to 3 spatial dimensions) walks over its input, as in torch.nn.functional.conv2d."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


ROWS = ConvGeometry((1,), (0,), (1,))
"""Of a linear layer's rows: a convolution over one position."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The rows that one tile holds, in the unfolded order (channel, *kernel) of one group.

    A tile of the im2col mapping may begin or end within a channel; it is a convolution over all the channels that it
    touches, whose weights are zero where the rows are another tile's.

    Attributes
    ----------
    start, stop : int
        Rows.
    channels : slice
        The channels touched, within each group.
    mask : Tensor (1, channels, *kernel) or None
        1 where the row is this tile's; None where all are.
    """

    start: int
    stop: int
    channels: slice
    mask: Tensor | None

    def of(self, w: Tensor) -> Tensor:
        """Return this tile's weights (N, channels, *kernel)."""
        part = w[:, self.channels]
        return part if self.mask is None else part * self.mask


def cut(w: Tensor, spec: MatmulSpec) -> list[Tile]:
    """Cut the rows of ŵ (N, C / groups, *kernel) into tiles as `spec.mapping` says."""
    size = math.prod(w.shape[2:])
    rows = size * w.shape[1]
    if spec.mapping == "channel" and spec.rows is not None:
        step = max(1, spec.rows // size) * size
        ends = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    else:
        ends = spec.tiles(rows)
    tiles = []
    for start, stop in ends:
        first, last = start // size, -(-stop // size)
        mask = None
        if start % size or stop % size:
            row = torch.arange(first * size, last * size, device=w.device)
            mask = ((row >= start) & (row < stop)).to(w.dtype).view(1, last - first, *w.shape[2:])
        tiles.append(Tile(start, stop, slice(first, last), mask))
    return tiles
