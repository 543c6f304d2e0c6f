"""What one plane of a chip's cells makes of a tile's inputs, before the ADC."""

import math
from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from ..kernels import Backend
from ..kernels.conv_job import Job, patches
from ..kernels.tiles import Tile
from .build import Plane


def of_rows(plane: Plane, kernel: Backend, x: Tensor, start: int, stop: int, alpha: float | None = None) -> Tensor:
    """Return a tile's sums (M, N), normalised units, for its inputs x̂ (M, rows): rows `start` … `stop` of all.

    Parameters
    ----------
    alpha : float, optional
        Given where x are in activation units, and so the sums: the input that counts as 1.
    """
    if plane.limit is not None:
        return cut_off(plane, [of_rows(column, kernel, x, start, stop, alpha) for column in plane.columns], alpha)[0]
    if plane.gated is not None:
        return plane.gated.sums(kernel, x, start)
    found = x @ plane.weight[:, start:stop].T
    for (_, power), w in zip(_powers(x, alpha), plane.powers, strict=False):
        found += power @ w[:, start:stop].T
    return found


def of_images(
    plane: Plane, kernel: Backend, job: Job, x: Tensor, tile: Tile, alpha: float | None = None, slopes: bool = False
) -> Tensor:
    """Return a tile's sums (B, N, *output spatial) for the tile's channels of a convolution's x̂; as `of_rows`.

    Parameters
    ----------
    slopes : bool
        Return x̂·∂s/∂x̂ instead, in which a power p counts p times; of gated rows the sums.
    """
    if plane.limit is not None:
        columns = [of_images(column, kernel, job, x, tile, alpha, slopes) for column in plane.columns]
        return cut_off(plane, columns, alpha)[0]
    shape = job.w.shape
    if plane.gated is None:
        found = job.convolve(x, tile.of(plane.weight.view(shape)))
        for (exponent, power), w in zip(_powers(x, alpha), plane.powers, strict=False):
            factor = exponent if slopes else 1
            found += factor * job.convolve(power, tile.of(w.view(shape)))
        return found.contiguous()
    groups, size, parts = job.geometry.groups, math.prod(shape[2:]), []
    first, n = tile.channels.start * size, len(job.w) // groups
    for group, images in enumerate(x.chunk(groups, 1)):
        under = patches(images, shape[2:], job.geometry)[..., tile.start - first : tile.stop - first]
        own = plane.gated.part(slice(group * n, (group + 1) * n))
        found = own.sums(kernel, under.flatten(0, -2), tile.start)
        parts.append(found.unflatten(0, under.shape[:-1]).movedim(-1, 1))
    return torch.cat(parts, 1).contiguous()


def cut_off(plane: Plane, columns: Sequence[Tensor], alpha: float | None = None) -> tuple[Tensor, Tensor]:
    """Return what integrators leave of the currents of an output's columns, added up, and where one was cut off.

        Σ_c ±clip(I_c, -limit, limit)

    Parameters
    ----------
    columns : sequence of Tensor (M, N, …)
        I_c, in the plane's units; they may be overwritten.
    alpha : float, optional
        As of `of_rows`, which currents are then in units of.
    """
    assert plane.limit is not None
    most = plane.limit if alpha is None else plane.limit * alpha
    cut = reduce(torch.logical_or, (current.abs() > most for current in columns))
    first, *others = (
        column.coefficient * current.clamp_(-most, most) for column, current in zip(plane.columns, columns, strict=True)
    )
    for other in others:
        first += other
    return first, cut


def _powers(x: Tensor, alpha: float | None) -> Iterator[tuple[int, Tensor]]:
    """Yield (2, x²), (3, x³), …; of x in activation units, those of x/α within [-1, 1], times α."""
    x = x if alpha is None else (x / alpha).clamp(-1, 1)
    power, scale = x, 1 if alpha is None else alpha
    for exponent in (2, 3):
        power = power * x
        yield exponent, scale * power
