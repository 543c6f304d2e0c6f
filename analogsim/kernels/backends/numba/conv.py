"""Convolutions by the numba backend: each thread its images, BLAS calls for a tile and one fused pass over its sums."""

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...memory import contiguous, room
from . import jit, openmp
from .matmul import adc_scalars, dac_scalars, finishing, integers, key_words, team

if TYPE_CHECKING:
    from ...conv_job import Job

COLUMNS = 512  # output positions of a block at most (but for one row of them)
SUMS = 2**17  # partial sums of a block: half the second-level cache
SLACK = 16  # numbers that `jit._copy16` may write too far
FEW = 8  # outputs of a group below which a native convolution is faster than matrix products
SMALL = 256  # output positions up to which images go innermost
SLOTS = 32  # images of a block of small ones, a multiple of 16; half as many of more than 64 positions
SMALL_SUMS = 2**19  # partial sums of a block of them


def fits(job: "Job") -> bool:
    """Return whether `run` is the fast way: not where a group has few outputs (depthwise)."""
    return job.geometry.groups == 1 or len(job.w) // job.geometry.groups >= FEW


def run(job: "Job", out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute a convolution; return the clipped conversions of each tile."""
    if not out.numel() or not job.tiles:
        return [0] * len(job.tiles)
    threads = min(len(job.x), team(max(job.x.numel(), out.numel())))
    runs = _runs(job) if goes_innermost(job, threads) else None
    counts = out.new_zeros(threads, len(job.tiles), dtype=torch.int64)
    adc, planes, n = adc_scalars(job.spec), -(-len(job.tiles) // 8), len(job.w)
    gains, offsets = finishing(n, job.read)
    last = (
        *((dac_scalars(job.spec), 4), (adc, 6 * len(adc)), (key_words(job.read.seed, job.read.stream), 4, torch.int64)),
        *((bits, planes * out.numel(), torch.uint8), (counts, counts.numel(), torch.int64)),
        *((gains, n), (offsets, n), len(adc)),
    )
    if runs is None:
        _run_large(job, out, threads, last)
    else:
        _run_small(job, out, threads, runs, last)
    return counts.sum(0).tolist()


def _run_large(job: "Job", out: Tensor, threads: int, last: tuple[Any, ...]) -> None:
    """Unfold some images, or some rows of one, at a time."""
    tiles, share = job.tiles, len(job.w) // job.geometry.groups
    sizes, extents, padding = _sizes(job, out)
    positions, width, taps = math.prod(out.shape[2:]), out.shape[-1], math.prod(job.w.shape[2:])
    ends = integers([0, *(tile.stop for tile in tiles)])
    most = max(1, min(COLUMNS // positions, SUMS // (positions * share), -(-len(job.x) // threads)))
    rows = positions // width if most > 1 else max(1, min(COLUMNS // width, positions // width))
    depth = max(tile.channels.stop - tile.channels.start for tile in tiles)
    lengths = (
        depth * most * math.prod(extent + 2 * pad for extent, pad in zip(extents, padding, strict=True)) + SLACK,
        depth * math.prod(extents),
        max(tile.stop - tile.start for tile in tiles) * most * rows * width + SLACK,
        share * most * rows * width + SLACK,
    )
    squared = lengths[3] * (job.spec.noise_read > 0)
    kept, starts = room(out, *(threads * length for length in (*lengths, lengths[3], squared)))
    weight, x = contiguous(job.w), contiguous(job.x)
    openmp.run(
        jit.conv_kernel,
        threads,
        *((x, x.numel()), (weight, share * job.x.shape[1] * taps), (out, out.numel()), (sizes, 22, torch.int64)),
        *((ends, len(tiles) + 1, torch.int64), len(tiles), most, rows),
        *(*starts, *lengths, *last),
    )


def _run_small(job: "Job", out: Tensor, threads: int, runs: list[tuple[int, ...]], last: tuple[Any, ...]) -> None:
    """Compute each run of output positions with the weights that it meets."""
    tiles, n = job.tiles, len(job.w)
    sizes, extents, _ = _sizes(job, out)
    kernel_rows, kernel_columns = _two(job.w.shape[2:], 1)
    taps = kernel_rows * kernel_columns
    height = taps * job.x.shape[1]
    table = integers(runs)
    sets = {run[7]: (run[5], run[6]) for run in runs}
    rows = torch.arange(job.w[0].numel(), device=job.w.device).view(-1, kernel_rows, kernel_columns)
    order, places = [], [0]
    for tile in tiles:
        for number in range(len(sets)):
            first, stop = sets[number]
            order.append(rows[tile.channels, :, first:stop].permute(1, 2, 0).flatten())
            places.append(places[-1] + len(order[-1]))
    chosen, begin = torch.cat(order), integers(places)
    weight, gathered = contiguous(job.w), torch.empty(n, len(chosen), dtype=torch.float32, device="cpu")
    openmp.run(
        jit.gather_kernel,
        team(gathered.numel()),
        *((weight, n * height), (gathered, gathered.numel()), n, height),
        *((chosen, len(chosen), torch.int64), len(chosen)),
    )
    positions = math.prod(out.shape[2:])
    slots = min(SLOTS if positions <= 64 else SLOTS // 2, -(-len(job.x) // threads // 16) * 16)
    block = max(16, min(n, SMALL_SUMS // (positions * slots)))
    depth = max(tile.channels.stop - tile.channels.start for tile in tiles)
    longest = max(run[2] - run[1] for run in runs)
    lengths = depth * math.prod(extents) * slots, depth * taps * longest * slots, block * positions * slots
    counts = (lengths[0], lengths[0], lengths[1], lengths[2], lengths[2])
    squared = 2 * lengths[2] * (job.spec.noise_read > 0)
    kept, starts = room(out, *(threads * length for length in (*counts, squared)))
    ends, x = integers([0, *(tile.channels.stop for tile in tiles)]), contiguous(job.x)
    openmp.run(
        jit.conv_small_kernel,
        threads,
        *((x, x.numel()), (out, out.numel()), (gathered, gathered.numel()), len(chosen), (sizes, 22, torch.int64)),
        *((ends, len(tiles) + 1, torch.int64), len(tiles), (table, table.numel(), torch.int64), len(runs)),
        *((begin, len(places), torch.int64), len(sets), slots, block),
        *(*starts, *lengths, *last),
    )


def goes_innermost(job: "Job", threads: int) -> bool:
    """Return whether images go innermost: few positions each, and at least 16 of them for every thread."""
    plain = job.geometry.groups == 1 and job.x.ndim < 5 and all(tile.mask is None for tile in job.tiles)
    return plain and math.prod(job.shape[2:]) <= SMALL and len(job.x) >= 16 * threads


def _runs(job: "Job") -> list[tuple[int, ...]] | None:
    """Cut the output into runs of positions in a row that meet the same kernel columns (`jit.conv_small_kernel`).

    None where a position meets nothing but padding.
    """
    geometry = job.geometry
    walk = zip(
        *(_two(part, 1) for part in (job.x.shape[2:], job.shape[2:], job.w.shape[2:], geometry.stride)),
        _two(geometry.padding, 0),
        _two(geometry.dilation, 1),
        strict=True,
    )
    met = [[_met(at * s - p, d, k, extent) for at in range(result)] for extent, result, k, s, p, d in walk]
    if any(first >= stop for meetings in met for first, stop in meetings):
        return None
    sets: dict[tuple[int, int], int] = {}
    runs = []
    for row, kernel_rows in enumerate(met[0]):
        at = 0
        for kernel_columns, same in groupby(met[1]):
            stop = at + len(list(same))
            runs.append((row, at, stop, *kernel_rows, *kernel_columns, sets.setdefault(kernel_columns, len(sets))))
            at = stop
    return runs


def _met(start: int, dilation: int, kernel: int, extent: int) -> tuple[int, int]:
    """Return which of a kernel's taps (first, last + 1) fall on the image, the first being at `start`."""
    return max(0, -(start // dilation)), min(kernel, -((start - extent) // dilation))


def _two(values: tuple[int, ...] | torch.Size, front: int) -> tuple[int, ...]:
    """Return two spatial dimensions' values for one or two."""
    return (front,) * (2 - len(values)) + tuple(values)


def _sizes(job: "Job", out: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Return the kernels' `sizes` (see `jit.conv_kernel`), and of those the input extents and the padding."""
    geometry, missing = job.geometry, 5 - out.ndim
    ones = (1,) * missing
    extents, padding = ones + tuple(job.x.shape[2:]), (0,) * missing + tuple(geometry.padding)
    parts = (out.shape[2:], job.w.shape[2:], geometry.stride)
    walk = [*(v for part in parts for v in (*ones, *part)), *padding, *ones, *geometry.dilation]
    values = *job.x.shape[:2], len(job.w), *extents, *walk, geometry.groups
    return integers(values), extents, padding
