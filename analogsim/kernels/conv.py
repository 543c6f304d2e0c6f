"""Convolutions on crossbars: each tile is a native convolution over a slice of channels, a batch chunk at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import Clips, ConvGeometry
from .conv_backward import convolve_backward
from .memory import contiguous
from .philox import check_extent
from .precision import float32_precision
from .spec import MatmulSpec, Read
from .tiles import Tile, cut

__all__ = ["convolve", "convolve_backward"]

# Elements of a chunk's partial sums, and of its inputs: 2 MiB, in the caches; and enough work for one oneDNN call.
CHUNK = 2**19
CONVS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@torch.no_grad()
def convolve(
    kernel: ModuleType | Any, x: Tensor, w: Tensor, geometry: ConvGeometry, mapping: str, read: Read
) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_conv` with a backend's `dac` and `accumulate`.

    Noise follows the flat index in the contiguous (B, N, *output spatial) tensor. The result does not depend on how the
    batch is cut into chunks, but for the order in which oneDNN may add.
    """
    if hasattr(kernel, "convolve"):  # it has a way of its own: a chip of several planes, or one that takes notes
        return kernel.convolve(x, w, geometry, mapping, read)
    spec = read.spec
    if spec.exact and isinstance(kernel, ModuleType):  # an observer is no module: it wants the partial sums
        gain = 1 if read.scale is None else read.scale.view(-1, *[1] * (w.ndim - 1))
        with float32_precision(x.device, spec.precision):
            return CONVS[x.ndim - 2](x, w * (gain / spec.input_range), read.bias, *_walk(geometry)), None
    job = Job(kernel, contiguous(x), cut(w, spec, mapping), w, geometry, read)
    spec.check_tiles(len(job.tiles))
    return job.run(_runner(job))


@dataclass(frozen=True)
class Job:
    """One call of `convolve`; `of` each of the shape's names as there."""

    kernel: Any
    x: Tensor
    tiles: list[Tile]
    w: Tensor
    geometry: ConvGeometry
    read: Read

    @property
    def spec(self) -> MatmulSpec:
        """The hardware."""
        return self.read.spec

    def run(self, runner: "Runner") -> tuple[Tensor, Clips | None]:
        """Have it computed."""
        check_extent(math.prod(self.shape))
        out = self.x.new_empty(self.shape)
        clips = Clips.none(len(self.tiles), out) if self.read.records else None
        runner = runner if self.tiles else run_generic
        counts = runner(self, out, None if clips is None else clips.bits)
        return out, None if clips is None else Clips(clips.bits, clips.tiles, counts)

    @property
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
        return self.kernel.accumulate(out, partial, norm2, self.read, tile, offset, plane, tile == 0)


Runner = Callable[[Job, Tensor, Tensor | None], list[int] | None]
"""Computes a job into `out` and marks clips in bits; returns each tile's clips where it counts them at once."""


def _runner(job: Job) -> Runner:
    """Return who computes: a backend's own way, or native convolutions."""
    name = getattr(job.kernel, "__name__", "")
    if name.endswith(".cpu"):
        from .backends.numba import conv as conv_cpu

        return conv_cpu.run if conv_cpu.fits(job) else run_generic
    if name.endswith(".gpu"):
        from .backends.triton import conv as conv_gpu

        return conv_gpu.run
    return run_generic


def run_generic(job: Job, out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute on any device; return the clipped conversions of each tile."""
    counts = [0] * len(job.tiles)
    weights = [tile.of(job.w) for tile in job.tiles]
    columns = (-1, *[1] * (out.ndim - 2))
    for chunk in job.chunks():
        inputs, into = job.kernel.dac(job.x[chunk], job.spec), out[chunk]
        for t, tile in enumerate(job.tiles):
            part = job.inputs(inputs, tile)
            partial, norm2 = job.convolve(part, weights[t]), job.squared_lengths(part, tile)
            counts[t] += job.accumulate(into, partial.contiguous(), norm2, bits, t, chunk.start)
        if not job.tiles:  # no channels: nobody has written anything
            into.zero_()
        if job.read.scale is not None:
            into *= job.read.scale.view(columns)
        if job.read.bias is not None:
            into += job.read.bias.view(columns)
    return counts


def _walk(geometry: ConvGeometry) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups
