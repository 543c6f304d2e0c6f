"""One convolution on crossbars as native convolutions: each tile over its channels, a chunk of the batch at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .clips import Clips
from .philox import check_extent
from .precision import float32_precision
from .rows import add_tile
from .spec import MatmulSpec, Read
from .tiles import ConvGeometry, Tile, cut
from .weights import along_tiles

if TYPE_CHECKING:
    from .backend import Backend

# Partial sums of a chunk, and its inputs: 2 MiB of them stay in the processor's caches, and give oneDNN enough to do.
CHUNK = 2**19
CONVS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@torch.no_grad()
def convolve_natively(x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> Tensor:
    """Convolve where no converter and no noise comes between: one digital convolution."""
    gain = 1 if read.scale is None else read.scale.view(-1, *[1] * (w.ndim - 1))
    if read.tile_gains is not None:
        gain = gain * along_tiles(read.tile_gains, [(tile.start, tile.stop) for tile in cut(w, read.spec)], w)
    with float32_precision(x.device, read.spec.precision):
        return CONVS[x.ndim - 2](x, w * (gain / read.spec.input_range), read.bias, *_walk(geometry))


@dataclass(frozen=True)
class Job:
    """One call of `Backend.convolve`, with all that whoever computes it needs to know.

    Attributes
    ----------
    kernel : Backend
        Converts the inputs and the partial sums.
    x : Tensor (B, C, *spatial)
        Activation units, contiguous.
    tiles : list of Tile
        The rows of each tile.
    w : Tensor (N, C / groups, *kernel)
        ŵ, normalised units.
    geometry : ConvGeometry
    read : Read
    """

    kernel: "Backend | Any"
    x: Tensor
    tiles: list[Tile]
    w: Tensor
    geometry: ConvGeometry
    read: Read

    @property
    def spec(self) -> MatmulSpec:
        """The hardware."""
        return self.read.spec

    @torch.no_grad()
    def run(self, runner: "Runner") -> tuple[Tensor, Clips | None]:
        """Make the output, have `runner` compute it, and return it with the clips that were noted."""
        check_extent(math.prod(self.shape))
        out = self.x.new_empty(self.shape)
        clips = Clips.none(len(self.tiles), out) if self.read.records else None
        runner = runner if self.tiles else run_in_chunks
        counts = runner(self, out, None if clips is None else clips.bits)
        return out, None if clips is None else Clips(clips.bits, clips.tiles, counts)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        g = self.geometry
        walk = zip(self.x.shape[2:], self.w.shape[2:], g.stride, g.padding, g.dilation, strict=True)
        spatial = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, padding, dilation in walk]
        return (len(self.x), len(self.w), *spatial)

    def chunks(self, most: int = CHUNK) -> list[slice]:
        """Cut the batch: as many images as fill `most`."""
        images, per_image = len(self.x), max(*map(math.prod, (self.shape[1:], self.x.shape[1:])), 1)
        count = max(1, min(images, -(-images * per_image // most)))
        size = max(1, -(-images // count))
        return [slice(start, min(start + size, images)) for start in range(0, images, size)]

    def inputs(self, x: Tensor, tile: Tile) -> Tensor:
        """Return a tile's channels of x̂: (B, groups · channels, *spatial)."""
        groups = self.geometry.groups
        return x[:, tile.channels] if groups == 1 else x.unflatten(1, (groups, -1))[:, :, tile.channels].flatten(1, 2)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve natively."""
        return CONVS[x.ndim - 2](x, weight, None, *_walk(self.geometry))

    def sums(self, x: Tensor, tile: Tile, weight: Tensor) -> Tensor:
        """Return a tile's partial sums for its inputs x̂, contiguous; `weight` are its weights."""
        return self.convolve(x, weight).contiguous()

    def squared_lengths(self, x: Tensor, tile: Tile) -> Tensor | None:
        """Return ‖x̂_t‖² of each output, where read noise needs it: (B, 1 or N, *output spatial)."""
        if not self.spec.noise_read:
            return None
        groups, kernel = self.geometry.groups, self.w.shape[2:]
        squares = x.square()
        if tile.mask is None:
            squares, ones = squares.unflatten(1, (groups, -1)).sum(2), x.new_ones(groups, 1, *kernel)
        else:
            ones = tile.mask.repeat(groups, *[1] * (self.w.ndim - 1))
        norm2 = self.convolve(squares.contiguous(), ones)
        return norm2 if groups == 1 else norm2.repeat_interleave(len(self.w) // groups, 1)

    def accumulate(
        self, out: Tensor, partial: Tensor, norm2: Tensor | None, bits: Tensor | None, tile: int, first: int
    ) -> int:
        """Have the backend convert a tile's partial sums of the chunk that starts at image `first`."""
        plane = None if bits is None else bits[tile // 8, first : first + len(out)]
        offset = first * math.prod(out.shape[1:])
        return add_tile(self.kernel, out, partial, norm2, self.read, tile, offset, plane, tile == 0)


Runner = Callable[[Job, Tensor, Tensor | None], list[int] | None]
"""Computes a job into `out` and marks clips in bits; returns each tile's clips where it counts them at once."""


def run_in_chunks(job: Job, out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute by torch's convolutions and the backend's `accumulate`; return the clipped conversions of each tile."""
    counts = [0] * len(job.tiles)
    weights = [tile.of(job.w) for tile in job.tiles]
    columns = (-1, *[1] * (out.ndim - 2))
    for chunk in job.chunks():
        inputs, into = job.kernel.dac(job.x[chunk], job.spec), out[chunk]
        for t, tile in enumerate(job.tiles):
            part = job.inputs(inputs, tile)
            partial, norm2 = job.sums(part, tile, weights[t]), job.squared_lengths(part, tile)
            counts[t] += job.accumulate(into, partial, norm2, bits, t, chunk.start)
        if not job.tiles:  # no channels: nobody has written anything
            into.zero_()
        if job.read.scale is not None:
            into *= job.read.scale.view(columns)
        if job.read.bias is not None:
            into += job.read.bias.view(columns)
    return counts


def patches(x: Tensor, kernel: Sequence[int], geometry: ConvGeometry) -> Tensor:
    """Unfold images x (B, C, *spatial): the inputs (B, *output spatial, C · kernel) under the kernel at each place."""
    g, dims = geometry, len(kernel)
    x = F.pad(x, [side for padding in reversed(g.padding) for side in (padding, padding)])
    for dim, (size, stride, dilation) in enumerate(zip(kernel, g.stride, g.dilation, strict=True), 2):
        x = x.unfold(dim, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x.movedim(1, dims + 1).flatten(dims + 1)


def _walk(geometry: ConvGeometry) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups
