"""The `numba` backend: a BLAS call per tile on blocks that stay in cache, and one fused pass over each partial sum."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from . import Clips, jit, openmp
from .philox import PANEL, check_extent
from .spec import MatmulSpec

BLOCK = 2**18  # elements of one tile's inputs, or of a partial sum, of a block of rows, for one thread
INPUTS = 2**20  # elements of a quantized block of inputs
SLAB = 2**13  # elements below which another thread does not pay
FEW_OUTPUTS = 16  # below, BLAS computes the transposed product, over twice as fast

# glibc gives freed memory beyond twice the largest block freed so far back to the system, and the page faults to get it
# anew cost more than the noise does (2.5 of 24 ms of a LeNet-5 training step): free a block of the most, 32 MiB, first.
torch.empty(31 * 2**18)


@torch.no_grad()
def matmul(
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    seed: int,
    stream: int,
    scale: Tensor | None,
    bias: Tensor | None,
    record_clips: bool,
) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul`, blocks of rows at a time."""
    (m, k), n = x.shape, len(w)
    check_extent(m * n)
    tiles = spec.tiles(k)
    out = x.new_empty(m, n) if tiles else x.new_zeros(m, n)
    record = record_clips and spec.adc_full_scale is not None
    bits = torch.zeros((-(-len(tiles) // 8), m, n), dtype=torch.uint8) if record else None
    counts = [0] * len(tiles)
    converts = spec.dac_levels > 0 or spec.input_range != 1
    x = x.contiguous() if converts else x
    width = tiles[0][1] if tiles else 0
    rows = max(1, min(_block_rows(n, width), m))
    # Tiles whose inputs are converted together, in long runs: reading them tile by tile takes several times as long.
    group = max(1, INPUTS // (rows * width)) * width if rows * width else 1
    partial = x.new_empty(rows, n)
    columns = x.new_empty(n, rows) if n < FEW_OUTPUTS else None
    inputs = x.new_empty(rows * min(group, k) if converts else 0)
    finish = _finisher(n, scale, bias)
    for start in range(0, m, rows):
        stop = min(m, start + rows)
        sums, into = partial[: stop - start], out[start:stop]
        for tile, (a, b) in enumerate(tiles):
            if not converts:
                block = x[start:stop, a:b]
            else:
                if a % group == 0:
                    ready = x[start:stop, a : a + group]
                    ready = _convert(ready, spec, inputs[: ready.numel()].view(ready.shape))
                block = ready[:, a % group : a % group + b - a]
            if columns is None:
                torch.mm(block, w[:, a:b].T, out=sums)
            else:
                torch.mm(w[:, a:b], block.T, out=columns[:, : stop - start])
                arguments = columns.data_ptr(), sums.data_ptr(), n, stop - start, rows
                openmp.run(jit.transpose_few_kernel, team(sums.numel()), *arguments)
            norm2 = torch.linalg.vecdot(block, block)[:, None] if spec.noise_read else None
            marks = None if bits is None else bits[tile // 8, start:stop]
            counts[tile] += accumulate(into, sums, norm2, spec, seed, stream, tile, start * n, marks, tile == 0)
        finish(into)
    return out, Clips(bits, counts) if bits is not None else None


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`)."""
    x = x.contiguous()
    return _convert(x.view(1, -1), spec, torch.empty_like(x).view(1, -1)).view(x.shape)


def _convert(block: Tensor, spec: MatmulSpec, out: Tensor) -> Tensor:
    """Convert a block of a matrix of contiguous rows into `out`."""
    (rows, width), stride = block.shape, block.stride(0)
    scalars = _dac_scalars(spec)
    arguments = block.data_ptr(), out.data_ptr(), rows, width, stride if rows > 1 else width, scalars.data_ptr()
    openmp.run(jit.dac_kernel, team(rows * width), *arguments)
    return out


@torch.no_grad()
def accumulate(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    spec: MatmulSpec,
    seed: int,
    stream: int,
    tile: int,
    offset: int,
    bits: Tensor | None,
    first: bool = False,
) -> int:
    """Add ADC(partial + noise) to `out` as `plain.accumulate` does; `first` overwrites it. All contiguous."""
    threads = team(out.numel())
    squares = norm2.expand_as(partial).contiguous() if spec.noise_read and norm2 is not None else None
    clipped = None if bits is None else torch.zeros(8 * threads, dtype=torch.int64)  # a cache line for each thread
    scalars, key = _adc_scalars(spec), _key(seed, stream)
    arrays = [0 if array is None else array.data_ptr() for array in (out, partial, squares, bits)]
    last = 0 if clipped is None else clipped.data_ptr()
    rest = out.numel(), offset, scalars.data_ptr(), key.data_ptr(), tile, first, last
    openmp.run(jit.accumulate_kernel, threads, *arrays, *rest)
    return 0 if clipped is None else int(clipped.sum())


@torch.no_grad()
def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass."""
    x = x.contiguous()
    check_extent(x.numel())
    out = torch.empty_like(x)
    a, b = (torch.as_tensor(s, dtype=torch.float32).contiguous() for s in (sigma, multiplicative))
    per_sample = x.numel() // len(x) if x.ndim and max(a.numel(), b.numel()) > 1 else max(1, x.numel())
    levels = a.data_ptr(), a.numel(), b.data_ptr(), b.numel()
    key = _key(seed, stream)
    arguments = x.data_ptr(), out.data_ptr(), *levels, per_sample, x.numel(), key.data_ptr()
    openmp.run(jit.noise_kernel, team(x.numel()), *arguments)
    return out


def team(count: int) -> int:
    """Return how many threads pay for so many elements."""
    return max(1, min(torch.get_num_threads(), count // SLAB))


def _block_rows(n: int, width: int) -> int:
    """Rows whose inputs and partial sums stay in the second-level caches; whole panels of noise where that is cheap."""
    block = 2 * BLOCK if n < FEW_OUTPUTS else BLOCK  # few outputs, little work: fewer, longer steps
    rows = max(256, block // max(n, width, 1)) * torch.get_num_threads()
    panel = PANEL // math.gcd(max(n, 1), PANEL)
    return max(panel, rows // panel * panel)


def _finisher(n: int, scale: Tensor | None, bias: Tensor | None) -> Callable[[Tensor], None]:
    """Return the in-place digital step out·scale + bias for blocks of rows of n columns."""
    if (scale is None and bias is None) or n == 0:
        return lambda out: None
    repeat = max(1, jit.CHUNK // n)
    gains = (torch.ones(n) if scale is None else scale.detach()).repeat(repeat)
    offsets = (torch.zeros(n) if bias is None else bias.detach()).repeat(repeat)

    def finish(out: Tensor) -> None:
        arguments = out.data_ptr(), gains.data_ptr(), offsets.data_ptr(), len(gains), out.numel()
        openmp.run(jit.scale_rows_kernel, team(out.numel()), *arguments)

    return finish


@lru_cache(maxsize=256)
def _dac_scalars(spec: MatmulSpec) -> Tensor:
    levels = spec.dac_levels
    return torch.tensor(
        [(levels or 1) / spec.input_range, -levels * spec.dac_signed, levels, 1 / levels if levels else 0]
    )


@lru_cache(maxsize=256)
def _adc_scalars(spec: MatmulSpec) -> Tensor:
    scale, levels = spec.adc_full_scale, spec.adc_levels
    gain, step = (levels / scale, scale / levels) if scale is not None and levels else (1.0, 0.0)
    noise = spec.noise_output, spec.noise_read, spec.noise_multiplicative
    return torch.tensor([*noise, math.inf if scale is None else scale, gain, step])


@lru_cache(maxsize=256)
def _key(seed: int, stream: int) -> Tensor:
    return torch.tensor([v & 0xFFFFFFFF for v in (seed, seed >> 32, stream, stream >> 32)])
