"""The `numba` backend: each thread its own rows, a BLAS call per tile and one fused pass over its partial sums."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import Clips, jit, openmp
from .philox import check_extent
from .spec import MatmulSpec, Read

BLOCK = 2**17  # elements of one tile's inputs, or of a partial sum, of a block of rows: half the second-level cache
ROWS = 256  # of a block at least: BLAS packs the weights anew for each
INPUTS = 2**20  # elements of a block of converted inputs
SLAB = 2**13  # elements below which another thread does not pay
FEW_OUTPUTS = 16  # below, BLAS computes the transposed product, over twice as fast

# glibc gives freed memory beyond twice the largest block freed so far back to the system, and the page faults to get it
# anew cost more than the noise does (2.5 of 24 ms of a LeNet-5 training step): free a block of the most, 32 MiB, first.
torch.empty(31 * 2**18, dtype=torch.float32, device="cpu")


@torch.no_grad()
def matmul(x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul`."""
    spec, (m, k), n = read.spec, x.shape, len(w)
    check_extent(m * n)
    tiles, threads = len(spec.tiles(k)), team(m * max(k, n))
    spec.check_tiles(tiles)
    if not m * k * n:
        out = x.new_zeros(m, n)
        return out if read.bias is None else out + read.bias, Clips.none(tiles, out) if read.records else None
    width = min(spec.rows or k, k)
    x, w, out = _in_rows(x), _in_rows(w), x.new_empty(m, n)
    clips = Clips.none(tiles, out) if read.records else None
    counts = x.new_zeros(threads, tiles, dtype=torch.int64)
    most = min(max(ROWS, BLOCK // max(n, width)), -(-m // threads) + 16)
    # Tiles whose inputs are converted together.
    group = min(k, max(1, INPUTS // (most * width)) * width)
    few = n < FEW_OUTPUTS
    converts = spec.dac_levels > 0 or spec.input_range != 1
    inputs = x.new_empty(threads * most * group if converts else 0)
    sums, columns, squares = (
        x.new_empty(threads * most * n if used else 0) for used in (True, few, spec.noise_read > 0)
    )
    # Of several rows of few columns, for long loops.
    several = max(1, min(m, jit.CHUNK // n))
    gains, offsets = (part.expand(several, -1).reshape(-1) for part in finishing(n, read))
    scalars = dac_scalars(spec), adc_scalars(spec), key_words(read.seed, read.stream)
    openmp.run(
        jit.matmul_kernel,
        threads,
        *(x.data_ptr(), x.stride(0), w.data_ptr(), w.stride(0), out.data_ptr(), m, k, n),
        *(width, most, group, few, converts),
        *(array.data_ptr() for array in (inputs, sums, columns, squares, *scalars)),
        *(0 if clips is None else clips.bits.data_ptr(), counts.data_ptr()),
        *(len(gains), gains.data_ptr(), offsets.data_ptr(), len(scalars[1])),
    )
    return out, None if clips is None else Clips(clips.bits, tiles, counts.sum(0).tolist())


def _in_rows(matrix: Tensor) -> Tensor:
    """Return a matrix whose rows are contiguous, in memory one after the other."""
    rows, width = matrix.shape
    if matrix.stride(1) == 1 and matrix.stride(0) >= width:
        return matrix
    # `contiguous` leaves the stride of a single row as it is.
    return matrix.contiguous().view(-1).view(rows, width)


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    scalars = dac_scalars(spec)
    openmp.run(jit.dac_kernel, team(x.numel()), x.data_ptr(), out.data_ptr(), x.numel(), scalars.data_ptr())
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
    """Add ADC(partial + noise) to `out` as `plain.accumulate` does; `first` overwrites it. All contiguous."""
    threads = team(out.numel())
    squares = norm2.expand_as(partial).contiguous() if read.spec.noise_read and norm2 is not None else None
    clipped = None if bits is None else out.new_zeros(8 * threads, dtype=torch.int64)  # a cache line for each thread
    scalars, key = adc_scalars(read.spec), key_words(read.seed, read.stream)
    arrays = [0 if array is None else array.data_ptr() for array in (out, partial, squares, bits)]
    last = 0 if clipped is None else clipped.data_ptr()
    own = scalars[min(tile, len(scalars) - 1)]
    rest = out.numel(), offset, own.data_ptr(), key.data_ptr(), tile, first, last
    openmp.run(jit.accumulate_kernel, threads, *arrays, *rest)
    return 0 if clipped is None else int(clipped.sum())


@torch.no_grad()
def convert(
    out: Tensor,
    sums: Tensor,
    limits: tuple[float, float],
    step: float,
    gains: Tensor,
    offsets: Tensor,
    table: tuple[Tensor, Tensor] | None,
    tile: int,
    bits: Tensor | None,
    first: bool,
) -> int:
    """Add what ADCs of their own make of one tile's noisy sums to `out`; mark and count clips as `accumulate`.

    Parameters
    ----------
    out, sums, bits : Tensor (M, N, …)
        All contiguous.
    limits : (float, float)
        Least and largest sum, normalised units.
    step : float
        Of an ideal quantizer; 0 does not round.
    gains, offsets : Tensor (N,)
        A sum s becomes s·gain + offset.
    table : (Tensor, Tensor) or None
        Thresholds (ADCs, 2^b - 1) and outputs (ADCs, 2^b) of a search, of one ADC or of N.
    """
    threads = team(out.numel())
    clipped = None if bits is None else out.new_zeros(8 * threads, dtype=torch.int64)
    thresholds = outputs = out.new_empty(0)
    depth = 0
    if table is not None:
        thresholds, outputs = table
        thresholds = torch.cat([thresholds.new_zeros(len(thresholds), 1), thresholds], 1)
        outputs = outputs.contiguous()
        depth = outputs.shape[1].bit_length() - 1
    scalars = floats([*limits, 1 / step if step else 0.0, step])
    arrays = [0 if array is None else array.data_ptr() for array in (out, sums, bits, gains, offsets)]
    tables = thresholds.data_ptr(), outputs.data_ptr(), outputs.numel(), scalars.data_ptr()
    shape = out.numel(), out.shape[1], math.prod(out.shape[2:]), depth, tile, first
    openmp.run(jit.convert_kernel, threads, *arrays, *tables, *shape, 0 if clipped is None else clipped.data_ptr())
    return 0 if clipped is None else int(clipped.sum())


@torch.no_grad()
def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass."""
    x = x.contiguous()
    check_extent(x.numel())
    out = torch.empty_like(x)
    a, b = (torch.as_tensor(s, dtype=torch.float32, device=x.device).contiguous() for s in (sigma, multiplicative))
    per_sample = x.numel() // len(x) if x.ndim and max(a.numel(), b.numel()) > 1 else max(1, x.numel())
    levels = a.data_ptr(), a.numel(), b.data_ptr(), b.numel()
    key = key_words(seed, stream)
    arguments = x.data_ptr(), out.data_ptr(), *levels, per_sample, x.numel(), key.data_ptr()
    openmp.run(jit.noise_kernel, team(x.numel()), *arguments)
    return out


def team(count: int) -> int:
    """Return how many threads pay for so many elements."""
    return max(1, min(torch.get_num_threads(), count // SLAB))


def finishing(n: int, read: Read) -> tuple[Tensor, Tensor]:
    """Return scale and bias of n outputs, contiguous; empty where there is neither."""
    given = read.bias if read.scale is None else read.scale
    if given is None:
        return floats([]), floats([])
    gains = given.new_ones(n) if read.scale is None else read.scale.detach()
    offsets = given.new_zeros(n) if read.bias is None else read.bias.detach()
    return gains.contiguous(), offsets.contiguous()


@lru_cache(maxsize=256)
def dac_scalars(spec: MatmulSpec) -> Tensor:
    """Return what `jit.dac` needs of a spec."""
    levels = spec.dac_levels
    return floats([(levels or 1) / spec.input_range, -levels * spec.dac_signed, levels, 1 / levels if levels else 0])


@lru_cache(maxsize=256)
def adc_scalars(spec: MatmulSpec) -> Tensor:
    """Return the scalars of `jit.accumulate`: one row for all tiles, or one for each."""
    levels = spec.adc_levels
    noise = spec.noise_output, spec.noise_read, spec.noise_multiplicative
    rows = [(scale, levels / scale, scale / levels) if levels else (scale, 1.0, 0.0) for scale in spec.full_scales]
    return floats([[*noise, *row] for row in rows or [(math.inf, 1.0, 0.0)]])


@lru_cache(maxsize=256)
def key_words(seed: int, stream: int) -> Tensor:
    """Return the four words of seed and stream that key the random numbers."""
    return integers([v & 0xFFFFFFFF for v in (seed, seed >> 32, stream, stream >> 32)])


# Machine code reads these by their addresses, so torch's default device and dtype must have no say.


def floats(values: Sequence[Any]) -> Tensor:
    """Return float32 numbers on the CPU."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def integers(values: Sequence[Any]) -> Tensor:
    """Return int64 numbers on the CPU."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")
