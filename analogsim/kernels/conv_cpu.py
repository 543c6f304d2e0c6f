"""Convolutions by the numba backend: chunks of the batch over threads, channels last where that is faster."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import layout
from .conv import Job
from .threads import over_threads

# Below so many output positions an image, channels-first convolutions are the faster ones (docs/performance.md).
CHANNELS_LAST = 64


def run(job: Job, out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute a convolution; return the clipped conversions of each tile."""
    positions = math.prod(out.shape[2:])
    by_channels_last = out.ndim == 4 and positions >= CHANNELS_LAST
    sums = _sums_channels_last if by_channels_last else _sums
    form = torch.channels_last if by_channels_last else torch.contiguous_format
    weights = [tile.of(job.w).contiguous(memory_format=form) for tile in job.tiles]
    scale = torch.ones(1) if job.scale is None else job.scale.contiguous()
    bias = torch.zeros(1) if job.bias is None else job.bias.contiguous()

    def work(chunks: list[slice]) -> list[int]:
        counts = [0] * len(job.tiles)
        for chunk in chunks:
            into = out[chunk].zero_()
            inputs = job.kernel.dac(job.x[chunk], job.spec)
            for t, (partial, norm2) in enumerate(sums(job, weights, inputs)):
                counts[t] += job.accumulate(into, partial, norm2, bits, t, chunk.start)
            if job.scale is not None or job.bias is not None:
                layout.scale_channels(_flat(into), _flat(scale), _flat(bias), positions)
        return counts

    if not len(job.x):
        return [0] * len(job.tiles)
    threads = torch.get_num_threads()
    chunks = job.chunks(threads)
    counts = over_threads(work, [chunks[i::threads] for i in range(min(threads, len(chunks)))])
    return [sum(column) for column in zip(*counts, strict=True)]


def _sums(job: Job, weights: list[Tensor], inputs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield each tile's partial sums (B, N, *output spatial), contiguous, and ‖x̂_t‖² where needed."""
    for tile, weight in zip(job.tiles, weights, strict=True):
        part = job.inputs(inputs, tile)
        yield job.convolve(part, weight).contiguous(), job.squared_lengths(part, tile)


def _sums_channels_last(job: Job, weights: list[Tensor], inputs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Do the same by way of channels-last inputs, a block for each tile, and channels-last partial sums."""
    groups, (images, channels, height, width) = job.geometry.groups, inputs.shape
    grouped = np.arange(channels).reshape(groups, -1)
    order = [grouped[:, tile.channels].ravel() for tile in job.tiles]
    cuts = np.cumsum([0, *map(len, order)])
    blocks = torch.empty(images * height * width * int(cuts[-1]))
    layout.split_channels_last(_flat(inputs), _flat(blocks), images, height * width, np.concatenate(order), cuts)
    target = None
    for t, (tile, weight) in enumerate(zip(job.tiles, weights, strict=True)):
        block = blocks[images * height * width * cuts[t] : images * height * width * cuts[t + 1]]
        part = block.view(images, height, width, -1).permute(0, 3, 1, 2)
        partial = job.convolve(part, weight)
        if not partial.is_contiguous():
            source = partial.permute(0, 2, 3, 1).contiguous()
            target = torch.empty(partial.shape) if target is None else target
            layout.channels_first(_flat(source), _flat(target), images, partial[0, 0].numel(), partial.shape[1])
            partial = target
        yield partial, job.squared_lengths(part, tile)


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().view(-1).numpy()
