"""Convolutions by the numba backend: a chunk of the batch at a time, channels last where that is faster."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import jit, openmp
from .conv import Job
from .cpu import team

# Below so many output positions an image, channels-first convolutions are the faster ones (docs/performance.md).
CHANNELS_LAST = 64


def run(job: Job, out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute a convolution; return the clipped conversions of each tile."""
    positions, channels = math.prod(out.shape[2:]), out.shape[1]
    by_channels_last = out.ndim == 4 and positions >= CHANNELS_LAST
    sums = _sums_channels_last if by_channels_last else _sums
    form = torch.channels_last if by_channels_last else torch.contiguous_format
    weights = [tile.of(job.w).contiguous(memory_format=form) for tile in job.tiles]
    scale = (torch.ones(channels) if job.scale is None else job.scale.detach()).contiguous()
    bias = (torch.zeros(channels) if job.bias is None else job.bias.detach()).contiguous()
    counts = [0] * len(job.tiles)
    for chunk in job.chunks(torch.get_num_threads()):
        into = out[chunk]
        inputs = job.kernel.dac(job.x[chunk], job.spec)
        for t, (partial, norm2) in enumerate(sums(job, weights, inputs)):
            counts[t] += job.accumulate(into, partial, norm2, bits, t, chunk.start)
        if job.scale is not None or job.bias is not None:
            arguments = into.data_ptr(), scale.data_ptr(), bias.data_ptr(), channels, positions, len(into)
            openmp.run(jit.scale_channels_kernel, team(into.numel()), *arguments)
    return counts


def _sums(job: Job, weights: list[Tensor], inputs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield each tile's partial sums (B, N, *output spatial), contiguous, and ‖x̂_t‖² where needed."""
    for tile, weight in zip(job.tiles, weights, strict=True):
        part = job.inputs(inputs, tile)
        yield job.convolve(part, weight).contiguous(), job.squared_lengths(part, tile)


def _sums_channels_last(job: Job, weights: list[Tensor], inputs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Do the same by way of channels-last inputs, a block for each tile, and channels-last partial sums."""
    groups, (images, channels, height, width) = job.geometry.groups, inputs.shape
    grouped = np.arange(channels).reshape(groups, -1)
    order = torch.from_numpy(np.concatenate([grouped[:, tile.channels].ravel() for tile in job.tiles]))
    widths = [len(grouped[0, tile.channels]) * groups for tile in job.tiles]
    cuts = torch.from_numpy(np.cumsum([0, *widths]))
    blocks = torch.empty(images * height * width * sum(widths))
    ends = order.data_ptr(), cuts.data_ptr(), len(widths)
    arguments = inputs.data_ptr(), blocks.data_ptr(), images, channels, height * width, *ends
    openmp.run(jit.split_channels_last_kernel, team(inputs.numel()), *arguments)
    parts = blocks.split([images * height * width * n for n in widths])
    target = None
    for tile, weight, block in zip(job.tiles, weights, parts, strict=True):
        part = block.view(images, height, width, -1).permute(0, 3, 1, 2)
        partial = job.convolve(part, weight)
        if not partial.is_contiguous():
            source = partial.permute(0, 2, 3, 1).contiguous()
            target = torch.empty(partial.shape) if target is None else target
            arguments = source.data_ptr(), target.data_ptr(), images, partial[0, 0].numel(), partial.shape[1]
            openmp.run(jit.channels_first_kernel, team(source.numel()), *arguments)
            partial = target
        yield partial, job.squared_lengths(part, tile)
