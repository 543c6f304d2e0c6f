"""The `numba` backend: a BLAS call per tile on blocks that stay in cache, and one fused pass over each partial sum."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import Clips, jit
from .philox import PANEL, check_extent
from .spec import MatmulSpec
from .threads import over_threads

BLOCK = 2**18  # elements of a quantized block of inputs, or of a partial sum, for one thread
SLAB = 2**16  # elements (of noise) below which another thread does not pay
FEW_OUTPUTS = 16
WORK = 2**21  # multiplications below which another thread does not pay
_EMPTY = np.empty(0, np.float32)
_NO_BITS = np.empty(0, np.uint8)


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
    """Compute `tiled_matmul`: each thread takes a share of the rows, in blocks."""
    (m, k), n = x.shape, len(w)
    check_extent(m * n)
    tiles = spec.tiles(k)
    out = x.new_empty(m, n) if tiles else x.new_zeros(m, n)
    record = record_clips and spec.adc_full_scale is not None
    bits = torch.zeros((-(-len(tiles) // 8), m, n), dtype=torch.uint8) if record else None
    finish = _finisher(n, scale, bias)
    converts = spec.dac_levels > 0 or spec.input_range != 1
    source = _flat(x.contiguous()) if converts else _EMPTY
    parts = [w[:, a:b] for a, b in tiles]
    width = tiles[0][1] if tiles else 0
    # For few outputs BLAS computes the transposed product over twice as fast.
    few = n < FEW_OUTPUTS

    def work(share: range) -> list[int]:
        counts = [0] * len(tiles)
        rows = min(_block_rows(n, width), len(share))
        partial = x.new_empty(rows, n)
        columns = x.new_empty(n, rows) if few else partial
        inputs = x.new_empty(rows * width if converts else 0)
        for start in range(share.start, share.stop, rows):
            stop = min(share.stop, start + rows)
            sums, into = partial[: stop - start], out[start:stop]
            for tile, (a, b) in enumerate(tiles):
                if converts:
                    block = inputs[: (stop - start) * (b - a)].view(stop - start, b - a)
                    jit.dac(source, _flat(block), start * k + a, k, b - a, _dac_scalars(spec))
                else:
                    block = x[start:stop, a:b]
                if few:
                    torch.mm(parts[tile], block.T, out=columns[:, : stop - start])
                    sums.copy_(columns[:, : stop - start].T)
                else:
                    torch.mm(block, parts[tile].T, out=sums)
                norm2 = torch.linalg.vecdot(block, block)[:, None] if spec.noise_read else None
                marks = None if bits is None else bits[tile // 8, start:stop]
                counts[tile] += accumulate(into, sums, norm2, spec, seed, stream, tile, start * n, marks, tile == 0)
            finish(into)
        return counts

    counts = over_threads(work, _shares(m, n, k)) or [[0] * len(tiles)]
    total = [sum(column) for column in zip(*counts, strict=True)]
    return out, Clips(bits, total) if bits is not None else None


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    jit.dac(_flat(x), _flat(out), 0, 0, x.numel(), _dac_scalars(spec))
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
    """Add ADC(partial + noise) to `out` as `plain.accumulate` does; `first` overwrites it."""
    squares = _EMPTY
    if spec.noise_read and norm2 is not None:
        squares = _flat(norm2.expand_as(partial).contiguous())
    marks = _NO_BITS if bits is None else _flat(bits)
    scalars, key = _adc_scalars(spec), _key(seed, stream)
    return jit.accumulate(_flat(out), _flat(partial), squares, marks, offset, scalars, key, tile, first)


@torch.no_grad()
def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass."""
    x = x.detach().contiguous()
    check_extent(x.numel())
    out = torch.empty_like(x)
    add, relative = (_flat(torch.as_tensor(s, dtype=torch.float32).contiguous()) for s in (sigma, multiplicative))
    per_sample = x.numel() // len(x) if x.ndim and max(len(add), len(relative)) > 1 else max(1, x.numel())
    source, target, key = _flat(x), _flat(out), _key(seed, stream)

    def work(slab: range) -> None:
        a, b = slab.start, slab.stop
        jit.noise(source[a:b], target[a:b], add, relative, per_sample, a, key)

    threads = max(1, min(torch.get_num_threads(), x.numel() // SLAB))
    over_threads(work, _cut(x.numel(), threads, PANEL))
    return out


def _cut(count: int, threads: int, unit: int) -> list[range]:
    """Cut 0 … count into equal shares of whole units."""
    size = max(1, -(-count // (threads * unit))) * unit
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _shares(m: int, n: int, k: int) -> list[range]:
    """Cut the rows into a share for each thread that pays, at panels of noise where that leaves them equal."""
    threads = max(1, min(torch.get_num_threads(), m * n * k // WORK, m // 8))
    panel = PANEL // math.gcd(max(n, 1), PANEL)
    return _cut(m, threads, panel if m >= 4 * threads * panel else 1)


def _block_rows(n: int, width: int) -> int:
    """Rows whose quantized inputs and partial sums stay in the second-level cache; whole panels where that is cheap."""
    rows = max(64, BLOCK // max(n, width, 1))
    panel = PANEL // math.gcd(max(n, 1), PANEL)
    return max(panel, rows // panel * panel)


def _finisher(n: int, scale: Tensor | None, bias: Tensor | None):
    """Return the in-place digital step out·scale + bias for blocks of rows of n columns."""
    if (scale is None and bias is None) or n == 0:
        return lambda out: None
    repeat = max(1, jit.CHUNK // n)
    gains = _flat((torch.ones(n) if scale is None else scale.contiguous()).repeat(repeat))
    offsets = _flat((torch.zeros(n) if bias is None else bias.contiguous()).repeat(repeat))
    return lambda out: jit.finish(_flat(out), gains, offsets)


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().view(-1).numpy()


@lru_cache(maxsize=256)
def _dac_scalars(spec: MatmulSpec) -> np.ndarray:
    levels = spec.dac_levels
    step = 1 / levels if levels else 0
    return np.array([(levels or 1) / spec.input_range, -levels * spec.dac_signed, levels, step], np.float32)


@lru_cache(maxsize=256)
def _adc_scalars(spec: MatmulSpec) -> np.ndarray:
    scale, levels = spec.adc_full_scale, spec.adc_levels
    gain, step = (levels / scale, scale / levels) if scale is not None and levels else (1.0, 0.0)
    noise = spec.noise_output, spec.noise_read, spec.noise_multiplicative
    return np.array([*noise, math.inf if scale is None else scale, gain, step], np.float32)


@lru_cache(maxsize=256)
def _key(seed: int, stream: int) -> np.ndarray:
    return np.array([v & 0xFFFFFFFF for v in (seed, seed >> 32, stream, stream >> 32)], np.uint64)
