"""The `numba` backend: a BLAS call per tile on blocks that stay in cache, and one fused pass over each partial sum."""

import math
import threading

import numba
import numpy as np
import torch
from torch import Tensor

from . import Clips, jit
from .philox import PANEL, check_extent
from .spec import MatmulSpec

BLOCK = 2**18  # elements of a quantized block of inputs, or of a partial sum, for one thread
SLAB = 2**14  # elements below which another thread does not pay
_EMPTY = np.empty(0, np.float32)
_NO_BITS = np.empty(0, np.uint8)
# Numba's workqueue threading layer must not be entered by two threads at once; who finds it taken works alone.
_threads_free = threading.Lock()


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
    rows = _block_rows(m, n, k)
    partial = x.new_empty(min(rows, m), n)
    inputs = None if spec.dac_levels == 0 and spec.input_range == 1 else x.new_empty(min(rows, m), k)
    finish = _finisher(n, scale, bias)
    x = x if inputs is None else x.contiguous()
    for start in range(0, m, rows):
        stop = min(m, start + rows)
        block = x[start:stop] if inputs is None else dac(x[start:stop], spec, inputs[: stop - start])
        sums, into = partial[: stop - start], out[start:stop]
        for tile, (a, b) in enumerate(tiles):
            torch.mm(block[:, a:b], w[:, a:b].T, out=sums)
            norm2 = torch.linalg.vecdot(block[:, a:b], block[:, a:b])[:, None] if spec.noise_read else None
            marks = None if bits is None else bits[tile // 8, start:stop]
            counts[tile] += accumulate(into, sums, norm2, spec, seed, stream, tile, start * n, marks, first=tile == 0)
        finish(into)
    return out, Clips(bits, counts) if bits is not None else None


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec, out: Tensor | None = None) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`), into `out` (contiguous) where given."""
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    levels = spec.dac_levels
    step = np.float32(1 / levels) if levels else np.float32(0)
    scalars = (
        np.float32((levels or 1) / spec.input_range),
        np.float32(-levels * spec.dac_signed),
        np.float32(levels),
        step,
    )
    _run(jit.dac, jit.dac_parallel, x.numel(), _flat(x), _flat(out), *scalars)
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
    *,
    first: bool = False,
) -> int:
    """Add ADC(partial + noise) to `out` as `plain.accumulate` does; `first` overwrites it."""
    squares = _EMPTY
    if spec.noise_read and norm2 is not None:
        squares = _flat(norm2.expand_as(partial).contiguous())
    arrays = _flat(out), _flat(partial), squares, _NO_BITS if bits is None else _flat(bits)
    rest = _scalars(spec), _key(seed, stream), np.uint64(tile), first
    return int(_run(jit.accumulate, jit.accumulate_parallel, out.numel(), *arrays, offset, *rest))


def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass."""
    x = x.detach().contiguous()
    check_extent(x.numel())
    out = torch.empty_like(x)
    levels = [_flat(torch.as_tensor(s, dtype=torch.float32).contiguous()) for s in (sigma, multiplicative)]
    per_sample = x.numel() // len(x) if x.ndim and max(len(s) for s in levels) > 1 else max(1, x.numel())
    arrays = _flat(x), _flat(out), *levels, per_sample
    slab = _slab(x.numel())
    if slab < x.numel() and _threads_free.acquire(blocking=False):
        try:
            numba.set_num_threads(_threads())
            jit.noise_parallel(*arrays, _key(seed, stream), slab)
        finally:
            _threads_free.release()
    else:
        jit.noise(*arrays, 0, _key(seed, stream))
    return out


def _run(serial, parallel, count, *arguments):
    """Call the parallel version where more than one thread pays and no other thread is in it."""
    slab = _slab(count)
    if slab >= count or not _threads_free.acquire(blocking=False):
        return serial(*arguments)
    try:
        numba.set_num_threads(_threads())
        return parallel(*arguments, slab)
    finally:
        _threads_free.release()


def _threads() -> int:
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)


def _slab(count: int) -> int:
    """Return how many elements one thread takes: a multiple of a panel, so that no panel is drawn twice."""
    threads = max(1, min(_threads(), count // SLAB))
    return max(PANEL, math.ceil(count / threads / jit.CHUNK) * jit.CHUNK)


def _block_rows(m: int, n: int, k: int) -> int:
    """Rows whose quantized inputs and partial sums stay in the second-level cache; whole panels where that is cheap."""
    rows = max(64, BLOCK // max(n, k, 1)) * _threads()
    panel = PANEL // math.gcd(max(n, 1), PANEL)
    return min(max(m, 1), max(panel, rows // panel * panel))


def _finisher(n: int, scale: Tensor | None, bias: Tensor | None):
    """Return the in-place digital step out·scale + bias for blocks of rows of n columns."""
    if (scale is None and bias is None) or n == 0:
        return lambda out: None
    repeat = max(1, jit.CHUNK // n)
    gains = _flat((torch.ones(n) if scale is None else scale.contiguous()).repeat(repeat))
    offsets = _flat((torch.zeros(n) if bias is None else bias.contiguous()).repeat(repeat))

    def finish(out: Tensor) -> None:
        count = out.numel()
        slab = -(-_slab(count) // len(gains)) * len(gains)
        if slab < count and _threads_free.acquire(blocking=False):
            try:
                numba.set_num_threads(_threads())
                jit.finish_parallel(_flat(out), gains, offsets, slab)
            finally:
                _threads_free.release()
        else:
            jit.finish(_flat(out), gains, offsets)

    return finish


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().view(-1).numpy()


def _scalars(spec: MatmulSpec) -> tuple[np.float32, ...]:
    scale, levels = spec.adc_full_scale, spec.adc_levels
    gain, step = (levels / scale, scale / levels) if scale is not None and levels else (1.0, 0.0)
    noise = spec.noise_output, spec.noise_read, spec.noise_multiplicative
    return tuple(np.float32(v) for v in (*noise, math.inf if scale is None else scale, gain, step))


def _key(seed: int, stream: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(v & 0xFFFFFFFF) for v in (seed, seed >> 32, stream, stream >> 32))
