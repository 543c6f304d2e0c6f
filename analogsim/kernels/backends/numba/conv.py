"""Convolutions by the numba backend: each thread its output positions, a block of 16 at a time, unfolded in cache."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...memory import contiguous, room
from ...tiles import ConvGeometry
from . import jit, openmp
from .matmul import adc_scalars, dac_scalars, finishing, integers, kept_integers, key_words, team

if TYPE_CHECKING:
    from ...conv_job import Job

SUMS = 2**16  # partial sums that a thread holds: half the second-level cache
COLUMNS = 1024  # output positions whose sums a thread holds at most
OUTPUTS = 128  # outputs likewise: the weights of a tile of 256 rows fill a quarter of the second-level cache
SLACK = 16  # numbers that `jit._copy16` may read or write too far
FEW = 4  # outputs of a group below which positions are read where they lie
FEW_SUMS = 2**14  # partial sums of such groups that a thread holds, but for one group's
SMALL = 64  # output positions up to which images go innermost
SMALL_COLUMNS = 512  # output positions, of all images, that one reading of the weights serves there
TABLE = 2**20  # rows that the tables for these may have


def run(job: "Job", out: Tensor, bits: Tensor | None) -> list[int]:
    """Compute a convolution; return the clipped conversions of each tile."""
    if not out.numel() or not job.tiles:
        return [0] * len(job.tiles)
    job = _met_alone(job)
    threads = team(max(job.x.numel(), out.numel()))
    counts = None if bits is None else out.new_zeros(threads, len(job.tiles), dtype=torch.int64)
    adc, planes, n = adc_scalars(job.spec), -(-len(job.tiles) // 8), len(job.w)
    gains, offsets = finishing(n, job.read)
    last = (
        *(dac_scalars(job.spec), adc, key_words(job.read.seed, job.read.stream)),
        *((bits, planes * out.numel(), torch.uint8), (counts, threads * len(job.tiles), torch.int64)),
        *((gains, n), (offsets, n), len(adc) // 6),
    )
    way_of(job, threads)(job, out, threads, last)
    return [0] * len(job.tiles) if counts is None else counts.sum(0).tolist()


def _run_large(job: "Job", out: Tensor, threads: int, last: tuple[Any, ...]) -> None:
    """Compute blocks of 16 positions of an image."""
    walk, share = Walk.of(job, out), len(job.w) // job.geometry.groups
    outputs = _outputs(share)
    plan = walk.large(max(jit.PANEL, min(COLUMNS, SUMS // outputs) // jit.PANEL * jit.PANEL))
    units = len(job.x) * -(-walk.positions // jit.PANEL)
    parts = _parts(units, threads, len(job.w))
    width, depth = max(tile.stop - tile.start for tile in job.tiles), max(map(_depth, job.tiles))
    sums = (outputs + jit.OUTPUTS) * plan.columns + SLACK
    block = (1 + jit.WIDE) * width * jit.LANES + SLACK
    lengths = depth * plan.volume + SLACK, walk.inputs[1] * walk.inputs[2] + SLACK, block, sums
    squared = sums * (job.spec.noise_read > 0)
    kept, starts = room(out, *(threads * length for length in (*lengths, squared)))
    weight, x = contiguous(job.w), contiguous(job.x)
    openmp.run(
        jit.conv_kernel,
        threads,
        *((x, x.numel()), (weight, weight.numel()), (out, out.numel()), (walk.sizes, 22, torch.int64)),
        *((_ends(job), len(job.tiles) + 1, torch.int64), len(job.tiles)),
        *((plan.index, walk.height, torch.int32), (plan.source, walk.height, torch.int64)),
        *((plan.window, 3, torch.int64), parts, plan.columns, outputs, *starts, *lengths, *last),
    )


def _run_small(job: "Job", out: Tensor, threads: int, last: tuple[Any, ...]) -> None:
    """Compute blocks of one position of 16 images, each with the weights that it meets."""
    walk, share, n = Walk.of(job, out), len(job.w) // job.geometry.groups, len(job.w)
    plan = walk.small(_rows(job))
    positions, lanes = walk.positions, jit.LANES
    outputs = min(_outputs(share), max(2, SUMS // (positions * lanes)))
    stacks = -(-len(job.x) // lanes)
    parts = _parts(stacks, threads, n)
    together = max(1, min(SMALL_COLUMNS // (positions * lanes), -(-stacks // threads)))
    images = max(map(_depth, job.tiles)) * math.prod(walk.inputs) * lanes
    width, ordered = max(tile.stop - tile.start for tile in job.tiles), lanes * (outputs * positions + lanes)
    lengths = (
        *(
            images * together,
            images,
            (1 + jit.WIDE) * width * lanes,
            (outputs + jit.OUTPUTS) * positions * lanes,
            ordered,
        ),
        *(2 * positions * lanes + ordered, 2 * -(-n // parts) * positions),
    )
    needed = [*lengths]
    needed[5] *= job.spec.noise_read > 0
    kept, starts = room(out, *(threads * length for length in needed))
    weight, x = contiguous(job.w), contiguous(job.x)
    openmp.run(
        jit.conv_small_kernel,
        threads,
        *((x, x.numel()), (weight, weight.numel()), (out, out.numel()), (walk.sizes, 22, torch.int64)),
        *((_ends(job), len(job.tiles) + 1, torch.int64), len(job.tiles), (plan.kinds, len(job.tiles), torch.int64)),
        *((plan.met, positions, torch.int64), (plan.bases, positions, torch.int64)),
        *((plan.places, len(plan.places), torch.int64), plan.sets),
        *((plan.index, len(plan.index), torch.int32), (plan.source, len(plan.source), torch.int64)),
        *(parts, together, outputs, *starts, *lengths, *last, (plan.order, positions, torch.int64)),
    )


def _run_few(job: "Job", out: Tensor, threads: int, last: tuple[Any, ...]) -> None:
    """Compute groups of few outputs, an image's channel after the other (depthwise convolutions)."""
    walk, share = Walk.of(job, out), len(job.w) // job.geometry.groups
    plan = walk.large(walk.positions)
    width, depth = max(tile.stop - tile.start for tile in job.tiles), max(map(_depth, job.tiles))
    together = max(1, min(job.geometry.groups, FEW_SUMS // (share * walk.positions)))
    padded, sums = depth * plan.volume + SLACK, together * share * walk.positions + SLACK
    noisy = job.spec.noise_read > 0
    lengths = padded, walk.inputs[1] * walk.inputs[2] + SLACK, sums, padded * noisy, sums * noisy
    kept, starts = room(out, *(threads * length for length in lengths))
    weight, x = contiguous(job.w), contiguous(job.x)
    openmp.run(
        jit.conv_few_kernel,
        threads,
        *((x, x.numel()), (weight, weight.numel()), (out, out.numel()), (walk.sizes, 22, torch.int64)),
        *((_ends(job), len(job.tiles) + 1, torch.int64), len(job.tiles), (plan.source, walk.height, torch.int64)),
        *((plan.window, 3, torch.int64), (job.w.new_ones(width), width), together, *starts, *lengths, *last),
    )


def _met_alone(job: "Job") -> "Job":
    """Return a job whose kernel of one number meets every input: where it strides, the others are left out here."""
    geometry = job.geometry
    if max(job.w.shape[2:]) > 1 or max(geometry.padding) > 0 or max(geometry.stride) == 1:
        return job
    met = job.x[(slice(None), slice(None), *(slice(None, None, stride) for stride in geometry.stride))]
    return replace(job, x=contiguous(met), geometry=replace(geometry, stride=(1,) * len(geometry.stride)))


def way_of(job: "Job", threads: int) -> Callable[["Job", Tensor, int, tuple[Any, ...]], None]:
    """Return what computes a job: groups of few outputs, images innermost, or positions of an image."""
    if job.geometry.groups > 1 and len(job.w) // job.geometry.groups < FEW:
        return _run_few
    return _run_small if _goes_innermost(job, threads) else _run_large


def _goes_innermost(job: "Job", threads: int) -> bool:
    """Return whether images go innermost: few positions each, and at least 16 of them for every thread."""
    few = math.prod(job.shape[2:]) <= SMALL and len(job.x) >= jit.LANES * threads
    return few and Walk.of(job).rows_of_small(_rows(job)) <= TABLE


def _outputs(share: int) -> int:
    """Return how many outputs' sums are held: all of a group's, or about equal parts of them."""
    return -(-share // -(-share // OUTPUTS) // 2) * 2


def _parts(units: int, threads: int, outputs: int) -> int:
    """Return into how many parts outputs are cut, so that no thread has much more to do than another."""
    return 1 if units % threads == 0 or units >= 8 * threads else min(threads, outputs)


def _depth(tile: Any) -> int:
    return tile.channels.stop - tile.channels.start


def _rows(job: "Job") -> tuple[tuple[int, int], ...]:
    return tuple((tile.start, tile.stop) for tile in job.tiles)


def _ends(job: "Job") -> Tensor:
    return kept_integers(0, *(tile.stop for tile in job.tiles))


@dataclass(frozen=True)
class _Large:
    """How blocks of positions of an image are unfolded; see `jit.conv_kernel`."""

    columns: int
    window: Tensor
    volume: int
    index: Tensor
    source: Tensor


@dataclass(frozen=True)
class _Small:
    """How positions of 16 images are unfolded; see `jit.conv_small_kernel`."""

    kinds: Tensor
    met: Tensor
    bases: Tensor
    order: Tensor
    places: Tensor
    sets: int
    index: Tensor
    source: Tensor


@dataclass(frozen=True)
class Walk:
    """How a kernel walks over images, in three dimensions: extents, and per dimension what `ConvGeometry` has."""

    batch: tuple[int, int, int]  # images, channels, outputs
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @staticmethod
    def of(job: "Job", out: Tensor | None = None) -> "Walk":
        """Return a job's."""
        return _walk(tuple(job.x.shape), tuple(job.w.shape), job.shape, job.geometry)

    @property
    def positions(self) -> int:
        """Output positions of an image."""
        return math.prod(self.outputs)

    @property
    def taps(self) -> int:
        """Numbers of a kernel's channel."""
        return math.prod(self.kernel)

    @property
    def height(self) -> int:
        """Rows of the weights."""
        return self.batch[1] // self.groups * self.taps

    @property
    def sizes(self) -> Tensor:
        """The kernels' `sizes`."""
        extents = *self.inputs, *self.outputs, *self.kernel, *self.stride, *self.padding, *self.dilation
        return kept_integers(*self.batch, *extents, self.groups)

    def large(self, most: int) -> _Large:
        """Return the plan for at most so many positions at a time."""
        return _large(self, min(most, -(-self.positions // jit.PANEL) * jit.PANEL))

    def small(self, rows: tuple[tuple[int, int], ...]) -> _Small:
        """Return the plan for tiles of these rows."""
        return _small(self, rows)

    def met(self) -> list[list[tuple[int, int]]]:
        """Return which taps (first, last + 1) fall on the image, of each dimension and output position in it."""
        walk = zip(self.inputs, self.outputs, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return [[_met(at * s - p, d, k, extent) for at in range(result)] for extent, result, k, s, p, d in walk]

    def rows_of_small(self, rows: tuple[tuple[int, int], ...]) -> int:
        """Return how many rows the tables of `small` have at most."""
        sets = math.prod(len(set(meetings)) for meetings in self.met())
        return sets * sum(stop - start for start, stop in _kinds(rows, self.taps))


def _kinds(rows: tuple[tuple[int, int], ...], taps: int) -> dict[tuple[int, int], int]:
    """Return the kinds of tiles, rows (start, stop) counted from their first channel on, each with its number."""
    kinds: dict[tuple[int, int], int] = {}
    for start, stop in rows:
        kinds.setdefault((start % taps, stop - start + start % taps), len(kinds))
    return kinds


@lru_cache(maxsize=256)
def _walk(x: tuple[int, ...], w: tuple[int, ...], out: tuple[int, ...], geometry: ConvGeometry) -> Walk:
    def three(values: tuple[int, ...], front: int) -> tuple[int, ...]:
        return (front,) * (3 - len(values)) + tuple(values)

    inputs, outputs, kernel, stride = (three(values, 1) for values in (x[2:], out[2:], w[2:], geometry.stride))
    padding, dilation, batch = three(geometry.padding, 0), three(geometry.dilation, 1), (x[0], x[1], w[0])
    return Walk(batch, inputs, outputs, kernel, stride, padding, dilation, geometry.groups)


@lru_cache(maxsize=256)
def _large(walk: Walk, columns: int) -> _Large:
    deep, high, wide = walk.outputs
    if deep == 1:
        spans = 1, min(high, (columns + wide - 2) // wide + 1)
    else:
        spans = min(deep, (columns + high * wide - 2) // (high * wide) + 1), high
    met = zip(spans, walk.stride, walk.kernel, walk.dilation)
    planes, rows = ((span - 1) * s + (k - 1) * d + 1 for span, s, k, d in met)
    stride = walk.stride[2]
    own = -(-(walk.inputs[2] + 2 * walk.padding[2]) // stride)
    length = own * stride
    taps = []
    for z, y, x in product(*(range(0, k * d, d) for k, d in zip(walk.kernel, walk.dilation, strict=True))):
        taps.append((z * rows + y) * length + x % stride * own + x // stride)
    volume = planes * rows * length
    channels = torch.arange(walk.height // walk.taps, device="cpu") * volume
    source = (channels[:, None] + integers(taps)).flatten()
    index = torch.arange(walk.height, dtype=torch.int32, device="cpu")
    return _Large(columns, integers((planes, rows, own)), volume, index, source)


@lru_cache(maxsize=64)
def _small(walk: Walk, rows: tuple[tuple[int, int], ...]) -> _Small:
    """Tables of the rows that each output position meets, for tiles of these rows."""
    kinds, taps = _kinds(rows, walk.taps), walk.taps
    deep, high, wide = walk.inputs
    sets: dict[tuple[tuple[int, int], ...], int] = {}
    met = [sets.setdefault(meeting, len(sets)) for meeting in product(*walk.met())]
    corner = zip(walk.outputs, walk.stride, walk.padding, strict=True)
    corners = product(*([at * s - p for at in range(result)] for result, s, p in corner))
    bases = [(z * high + y) * wide + x for z, y, x in corners]
    places, index, source = [0], [], []
    for first, last in kinds:
        tap = torch.arange(first, last, device="cpu") % taps
        channel = torch.arange(first, last, device="cpu") // taps
        where = [tap // (walk.kernel[1] * walk.kernel[2]), tap // walk.kernel[2] % walk.kernel[1], tap % walk.kernel[2]]
        z, y, x = (part * d for part, d in zip(where, walk.dilation, strict=True))
        begin = ((channel * deep + z) * high + y) * wide + x
        for meeting in sets:
            hits = [(part >= low) & (part < stop) for part, (low, stop) in zip(where, meeting, strict=True)]
            chosen = (hits[0] & hits[1] & hits[2]).nonzero().flatten()
            index.append(chosen.int())
            source.append(begin[chosen])
            places.append(places[-1] + len(chosen))
    own = integers([kinds[start % taps, stop - start + start % taps] for start, stop in rows])
    order = integers(sorted(range(len(met)), key=met.__getitem__))
    tables = (
        own,
        integers(met),
        integers(bases),
        order,
        integers(places),
        len(sets),
        torch.cat(index),
        torch.cat(source),
    )
    return _Small(*tables)


def _met(start: int, dilation: int, kernel: int, extent: int) -> tuple[int, int]:
    """Return which of a kernel's taps (first, last + 1) fall on the image, the first being at `start`."""
    first, last = max(0, -(start // dilation)), min(kernel, -((start - extent) // dilation))
    return (first, last) if first < last else (0, 0)
