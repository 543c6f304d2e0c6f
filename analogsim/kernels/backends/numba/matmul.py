"""The `numba` backend: each thread its own rows, a BLAS call per tile and one fused pass over its partial sums."""

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ....profile import Range, Weight
from ...clips import Clips
from ...memory import contiguous, in_rows, room, rows_address
from ...philox import PANEL, check_extent
from ...spec import MatmulSpec, Read
from ...weights import weight_scale
from . import jit, openmp

BLOCK = 2**17  # elements of one tile's inputs, or of a partial sum, of a block of rows: half the second-level cache
ROWS = 256  # of a block at least: BLAS packs the weights anew for each
INPUTS = 2**20  # elements of a block of converted inputs
LONG = 2**10  # elements of a loop that is long enough
SLAB = 2**13  # elements below which another thread does not pay
FEW_ROWS = 16  # of inputs, up to which threads share the outputs, and weights are read once
OUTPUTS = 4  # of a block there
HASHED = 2**12  # numbers of a weight matrix above which it is told from others by a hash
FEW_OUTPUTS = 16  # below, BLAS computes the transposed product, over twice as fast
Floats = ctypes.Array[ctypes.c_float]

# glibc gives freed memory beyond twice the largest block freed so far back to the system, and the page faults to get it
# anew cost more than the noise does (2.5 of 24 ms of a LeNet-5 training step): free a block of the most, 32 MiB, first.
torch.empty(31 * 2**18, dtype=torch.float32, device="cpu")


def matmul(x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul`."""
    spec, (m, k), n = read.spec, x.shape, len(w)
    check_extent(m * n)
    tiles = spec.count_tiles(k)
    spec.check_tiles(tiles)
    if not m * k * n:
        out = x.new_zeros(m, n)
        return out if read.bias is None else out + read.bias, Clips.none(tiles, out) if read.records else None
    if few_rows(m, n):
        return _of_few_rows(x, w, read, tiles)
    width, threads = min(spec.rows or k, k), team(m * max(k, n))
    x, w, out = in_rows(x), in_rows(w), x.new_empty(m, n)
    clips = Clips.none(tiles, out) if read.records else None
    counts = None if clips is None else x.new_zeros(threads, tiles, dtype=torch.int64)
    most = min(max(ROWS, BLOCK // max(n, width)), -(-m // threads) + 16)
    # Tiles whose inputs are converted together.
    group = min(k, max(1, INPUTS // (most * width)) * width)
    few = n < FEW_OUTPUTS
    converts = spec.dac_levels > 0 or spec.input_range != 1
    inputs, outputs = threads * most * group, threads * most * n
    # Converted inputs, sums, transposed sums and squared lengths; `kept` is their memory.
    kept, starts = room(x, inputs * converts, outputs, outputs * few, outputs * (spec.noise_read > 0))
    period, gains, offsets = finishing_rows(m, n, read)
    adc, planes = adc_scalars(spec), -(-tiles // 8)
    openmp.run(
        jit.matmul_kernel,
        threads,
        *(*rows_address(x, m, k), *rows_address(w, n, k), (out, m * n), m, k, n),
        *(width, most, group, few, converts, *starts),
        *(dac_scalars(spec), adc, key_words(read.seed, read.stream)),
        *((None if clips is None else clips.bits, planes * m * n, torch.uint8), (counts, threads * tiles, torch.int64)),
        *(period, (gains, period), (offsets, period), len(adc) // 6),
    )
    return out, None if clips is None or counts is None else Clips(clips.bits, tiles, counts.sum(0).tolist())


def few_rows(m: int, n: int) -> bool:
    """Return whether m rows by n outputs are computed as few rows are, also on W itself."""
    return 0 < m <= FEW_ROWS and n >= FEW_OUTPUTS


def _of_few_rows(x: Tensor, w: Tensor, read: Read, tiles: int) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul` of few rows: threads share the outputs, and each reads its weights once."""
    spec, (m, k), n = read.spec, x.shape, len(w)
    x, w, out = in_rows(x), in_rows(w), x.new_empty(m, n)
    threads = max(1, min(team(n * k), n // PANEL))
    width, planes = min(spec.rows or k, k), -(-tiles // 8)
    clips = Clips.none(tiles, out) if read.records else None
    counts = None if clips is None else torch.zeros(threads * tiles, dtype=torch.int64, device="cpu")
    unusual = (ctypes.c_int64 * threads)()
    most = min(n, max(PANEL, BLOCK // (tiles * m) // PANEL * PANEL))
    lengths = m * k, tiles * m * most, OUTPUTS, most * (spec.noise_read > 0)
    kept, starts = room(x, *(threads * length for length in lengths))
    adc, w_max = adc_scalars(spec), read.w_max
    scale, bias = (None if part is None else contiguous(part) for part in (read.scale, read.bias))
    openmp.run(
        jit.few_rows_kernel,
        threads,
        *(*rows_address(x, m, k), *rows_address(w, n, k), (out, m * n), m, k, n),
        *(width, most, OUTPUTS, spec.dac_levels > 0 or spec.input_range != 1, *starts),
        *(dac_scalars(spec), adc, key_words(read.seed, read.stream)),
        *((None if clips is None else clips.bits, planes * m * n, torch.uint8),),
        *((counts, threads * tiles, torch.int64), (scale, n), (bias, n), len(adc) // 6),
        *((w_max, n), kept_floats(spec.input_range), unusual),
    )
    if w_max is not None and any(unusual):
        programmed, w_max = program(w, Weight())  # where a sum might overflow that quotients' does not
        return matmul(x, programmed, replace(read, scale=w_max * spec.input_range, w_max=None))
    if clips is None or counts is None:
        return out, None
    return out, Clips(clips.bits, tiles, counts.view(threads, tiles).sum(0).tolist())


@torch.no_grad()
def program(weight: Tensor, part: Weight) -> tuple[Tensor, Tensor]:
    """Compute `Backend.program`."""
    w, n = contiguous(weight.detach()), len(weight)
    out, w_max = torch.empty_like(w), w.new_zeros(n)
    if not w.numel():
        return out, w_max
    finds = part.w_max == "column"
    if not finds:
        w_max = weight_scale(w, part)
    options = kept_floats(part.levels, part.clips)
    count = w.numel()
    openmp.run(
        jit.program_kernel,
        min(team(count), n),
        *((w, count), (out, count), (w_max, n), n, count // n, finds, options),
    )
    return out, w_max


def fingerprint(array: Tensor) -> tuple[bytes, ...]:
    """Return what tells an array's bits from others': the bits themselves of a small one; of a large one hashes, which
    are equal for two different arrays once in 2^64 times at most, by keys that the process has drawn.
    """
    array = array.detach()
    turned = array.ndim == 2 and array.t().is_contiguous() and not array.is_contiguous()
    array = contiguous(array.t() if turned else array)  # a matrix that is kept transposed is read as it lies
    if array.numel() <= HASHED:
        return array.numpy().tobytes(), b"turned" if turned else b""
    size = array.numel() * array.element_size()
    threads = team(size // 4)
    found = (ctypes.c_int64 * (2 * threads))()
    openmp.run(
        jit.fingerprint_kernel,
        threads,
        *((array, array.numel(), array.dtype), size // 8 * 8),
        *((_keys(), 2 * jit.BLOCK_KEYS, torch.int64), ctypes.addressof(found)),
    )
    rest = size % 8 // array.element_size()
    end = array.view(-1)[array.numel() - rest :].numpy().tobytes() if rest else b""
    return bytes(found), end, b"turned" if turned else b""


@lru_cache(maxsize=1)
def _keys() -> Tensor:
    return torch.frombuffer(bytearray(os.urandom(16 * jit.BLOCK_KEYS)), dtype=torch.int64)


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`)."""
    x, count = contiguous(x), x.numel()
    out = torch.empty_like(x)
    openmp.run(jit.dac_kernel, team(count), (x, count), (out, count), count, dac_scalars(spec))
    return out


@torch.no_grad()
def accumulate(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    read: Read,
    tile: int,
    offset: int = 0,
    bits: Tensor | None = None,
    first: bool = False,
) -> int:
    """Add ADC(partial + noise) to `out` as `reference.adc` states it; `first` overwrites it. All contiguous."""
    count, threads = out.numel(), team(out.numel())
    squares = contiguous(norm2.expand_as(partial)) if read.spec.noise_read and norm2 is not None else None
    clipped = None if bits is None else out.new_zeros(8 * threads, dtype=torch.int64)  # a cache line for each thread
    scalars = adc_scalars(read.spec)
    row = ctypes.addressof(scalars) + 24 * min(tile, len(scalars) // 6 - 1)
    openmp.run(
        jit.accumulate_kernel,
        threads,
        *((out, count), (partial, count), (squares, count), (bits, count, torch.uint8), count, offset),
        *(row, key_words(read.seed, read.stream), tile, first, (clipped, 8 * threads, torch.int64)),
    )
    return 0 if clipped is None else int(clipped.sum())


@torch.no_grad()
def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass."""
    x, count = contiguous(x), x.numel()
    check_extent(count)
    out = torch.empty_like(x)
    if not count:
        return out
    a, b = (contiguous(s) if isinstance(s, Tensor) else floats([s]) for s in (sigma, multiplicative))
    levels = (a, a.numel()), a.numel(), (b, b.numel()), b.numel()
    per_sample = count // max(a.numel(), b.numel())
    key = key_words(seed, stream)
    openmp.run(jit.noise_kernel, team(count), (x, count), (out, count), *levels, per_sample, count, key)
    return out


def team(count: int) -> int:
    """Return how many threads pay for so many elements."""
    return max(1, min(torch.get_num_threads(), count // SLAB))


def repeats(columns: int) -> int:
    """Return how many rows of so many columns are taken at once, for long loops."""
    return max(1, LONG // max(columns, 1))


def finishing(n: int, read: Read) -> tuple[Tensor | None, Tensor | None]:
    """Return scale and bias of n outputs, contiguous; None where there is neither."""
    given = read.bias if read.scale is None else read.scale
    if given is None:
        return None, None
    gains = given.new_ones(n) if read.scale is None else contiguous(read.scale)
    return gains, given.new_zeros(n) if read.bias is None else contiguous(read.bias)


def finishing_rows(m: int, n: int, read: Read) -> tuple[int, Tensor | None, Tensor | None]:
    """Return scale and bias for several rows of few columns, and how many numbers that is."""
    several = min(m, repeats(n))
    gains, offsets = (
        part if part is None or several == 1 else part.expand(several, -1).contiguous().view(-1)
        for part in finishing(n, read)
    )
    return 0 if gains is None else n * several, gains, offsets


@lru_cache(maxsize=256)
def dac_scalars(spec: MatmulSpec) -> Floats:
    """Return what `jit.dac` needs of a spec."""
    levels = spec.dac_levels
    step = 1 / levels if levels else 0
    return kept_floats((levels or 1) / spec.input_range, *spec.dac_codes, step)


@lru_cache(maxsize=256)
def adc_scalars(spec: MatmulSpec) -> Floats:
    """Return the scalars of `jit.accumulate`: one row of 6 for all tiles, or one for each."""
    levels = spec.adc_levels
    noise = spec.noise_output, spec.noise_read, spec.noise_multiplicative
    # What has a range is converted by ADCs of its own, which take the noise from here and nothing else.
    scales = [scale for scale in spec.full_scales if not isinstance(scale, Range)]
    rows = [(scale, levels / scale, scale / levels) if levels else (scale, 1.0, 0.0) for scale in scales]
    return kept_floats(*(number for row in rows or [(math.inf, 1.0, 0.0)] for number in (*noise, *row)))


def key_words(seed: int, stream: int) -> ctypes.Array[ctypes.c_int64]:
    """Return the four words of seed and stream that key the random numbers."""
    return (ctypes.c_int64 * 4)(*words(seed, stream))


def words(seed: int, stream: int) -> list[int]:
    """Return the same as numbers."""
    return [v & 0xFFFFFFFF for v in (seed, seed >> 32, stream, stream >> 32)]


@lru_cache(maxsize=256)
def kept_floats(*values: float) -> Floats:
    """Return float32 numbers for a kernel, the same array each time."""
    return (ctypes.c_float * len(values))(*values)


@lru_cache(maxsize=1024)
def kept_integers(*values: int) -> Tensor:
    """Return int64 numbers on the CPU, the same tensor each time."""
    return integers(values)


# Machine code reads these by their addresses, so torch's default device and dtype must have no say.


def floats(values: float | Sequence[Any]) -> Tensor:
    """Return float32 numbers on the CPU."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def integers(values: Sequence[Any]) -> Tensor:
    """Return int64 numbers on the CPU."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")
