"""One product of rows on crossbars, a tile at a time through a backend's `accumulate`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clips import Clips
from .philox import check_extent
from .spec import Read

if TYPE_CHECKING:
    from .backend import Backend


@torch.no_grad()
def multiply_by_tile(
    kernel: "Backend",
    x: Tensor,
    w: Tensor,
    read: Read,
    lengths: Callable[[Tensor, int, int], Tensor] | None = None,
    multiply: Callable[[Tensor, int, int], Tensor] | None = None,
) -> tuple[Tensor, Clips | None]:
    """Compute `Backend.matmul` with torch's products and the backend's `dac` and `accumulate`.

    Parameters
    ----------
    lengths : callable, optional
        Gives what stands for ‖x̂_t‖² (M, 1 or N): of x̂² (M, rows) and a tile's first and last row. By default that sum
        itself, where there is read noise.
    multiply : callable, optional
        Gives a tile's sums (M, N): of its x̂ (M, rows) and its first and last row. By default the product with ŵ.
    """
    spec, out = read.spec, x.new_empty(len(x), len(w))
    check_extent(out.numel())
    tiles, counts = spec.tiles(x.shape[1]), []
    spec.check_tiles(len(tiles))
    clips = Clips.none(len(tiles), out) if read.records else None
    inputs = kernel.dac(x, spec)
    for tile, (start, stop) in enumerate(tiles):
        part = inputs[:, start:stop]
        if lengths is not None:
            norm2 = lengths(part.square(), start, stop)
        else:
            norm2 = part.square().sum(1, keepdim=True) if spec.noise_read else None
        into = None if clips is None else clips.bits[tile // 8]
        sums = part @ w[:, start:stop].T if multiply is None else multiply(part, start, stop)
        counts.append(add_tile(kernel, out, sums, norm2, read, tile, 0, into, tile == 0))
    if not tiles:  # nothing was written yet
        out.zero_()
    if read.scale is not None:
        out *= read.scale
    if read.bias is not None:
        out += read.bias
    return out, None if clips is None else Clips(clips.bits, len(tiles), counts)


def add_tile(
    kernel: "Backend | Any",
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    read: Read,
    tile: int,
    offset: int,
    bits: Tensor | None,
    first: bool,
) -> int:
    """Add one tile's converted sums to `out` as `Backend.accumulate`, multiplied by the tile's gains if it has any."""
    if read.tile_gains is None:
        return kernel.accumulate(out, partial, norm2, read, tile, offset, bits, first)
    own = torch.empty_like(out)
    count = kernel.accumulate(own, partial, norm2, read, tile, offset, bits, True)
    gains = read.tile_gains[tile].view(-1, *[1] * (out.ndim - 2))
    torch.mul(own, gains, out=out) if first else out.addcmul_(own, gains)
    return count
