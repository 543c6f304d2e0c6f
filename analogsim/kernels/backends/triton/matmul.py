"""The `triton` backend: one kernel for the whole tiled product, one for a convolution tile's partial sums.

docs/gpu.md tells what runs where, what it costs by count, and what of it was measured.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton import cdiv

from ...clips import Clips
from ...memory import checked, contiguous, in_rows, refuse_bodiless
from ...philox import PANEL, check_extent
from ...precision import float32_precision
from ...spec import MatmulSpec, Read
from . import jit as gpu_jit
from .installed import interpreting

# Elements of a convolution's partial sums at a time: 64 MiB. A quarter would stay in an H100's second-level cache, but
# take it less time, as we estimate, than Python takes to start it (`python -m benchmarks.gpu --tune` measures it).
CHUNK = 2**24
ELEMENTS = 4096  # that a program of an elementwise kernel takes
CONVERT_FIRST = 1024  # columns from which inputs are converted by a kernel of their own, once instead of once a block


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a matrix product is cut: rows, columns and depth of a program's block, warps, stages of the pipeline."""

    m: int = 64
    n: int = 128
    k: int = 32
    warps: int = 4
    stages: int = 3

    def fit(self, m: int, n: int, rows: int) -> "Blocks":
        """Return blocks no wider than n columns, and no deeper than a tile's rows, need.

        Where random numbers do not come in whole panels a thread has eight times the work a number: with more than
        32 columns its registers spill (ptxas, sm_90).
        """
        cut = replace(self, n=max(16, min(self.n, _power(n))), k=max(16, min(self.k, _power(rows))))
        return cut if in_panels(m, n, cut) else replace(cut, n=min(cut.n, 32))


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first argument; a·b + c is one instruction, as on the CPU."""
    refuse_bodiless(like, *(value for value in arguments if isinstance(value, Tensor)))
    with torch.cuda.device_of(like):
        kernel[grid](like, *arguments, **constants, enable_fp_fusion=True)


@torch.no_grad()
def matmul(x: Tensor, w: Tensor, read: Read, blocks: Blocks | None = None) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul`."""
    spec, (m, k), n = read.spec, x.shape, len(w)
    check_extent(m * n)
    tiles = len(spec.tiles(k))
    bits = x.new_empty((cdiv(tiles, 8), m, n), dtype=torch.uint8) if read.records else None
    clips = None if bits is None else Clips(bits, tiles)
    if not m * k * n:
        out = x.new_zeros(m, n)
        return out if read.bias is None else out.add_(read.bias), clips
    width = min(spec.rows or k, k)
    cut = (blocks or Blocks(k=128 // x.element_size())).fit(m, n, width)
    gain, low, high, unit = _dac_scalars(spec)
    scale, bias = _contiguous(read.scale), _contiguous(read.bias)
    converts = spec.dac_levels > 0
    x, w, out = in_rows(x), in_rows(w), x.new_empty(m, n)
    if converts and n >= CONVERT_FIRST:
        x, converts = codes(x, spec), False
    launch(
        gpu_jit.matmul_kernel,
        (cdiv(m, cut.m) * cdiv(n, cut.n),),
        *(x, w, out, _or(bits, out, cdiv(tiles, 8) * m * n), _adc_scalars(spec, tiles, x.device, unit)),
        *(_or(scale, out, n), _or(bias, out, n), m, n, k, width, tiles, x.stride(0), w.stride(0)),
        *(gain, low, high, unit, spec.noise_output / unit, spec.noise_read, spec.noise_multiplicative),
        *key(read.seed, read.stream),
        CONVERT=converts,
        **_stages(spec),
        RECORD=bits is not None,
        SCALE=read.scale is not None,
        BIAS=read.bias is not None,
        PANELS=in_panels(m, n, cut),
        EVEN=width % cut.k == 0 and k % width == 0,
        WIDEN=interpreting(),
        PRECISION=spec.precision,
        BM=cut.m,
        BN=cut.n,
        BK=cut.k,
        GROUP=8,
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return out, clips


def in_panels(m: int, n: int, blocks: Blocks) -> bool:
    """Return whether a block of outputs consists of whole panels of random numbers."""
    whole_rows = blocks.n == n and blocks.m * n % PANEL == 0
    return whole_rows or (n % PANEL == 0 and blocks.n % PANEL == 0)


@torch.no_grad()
def matmul_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    clips: Clips | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Compute `Backend.matmul_backward`.

    Masks are applied as the gradient is loaded: a tile's masked gradient is not written anywhere.
    """
    (m, n), k = grad.shape, x.shape[1]
    if clips is None or not m * n * k:
        return _plain_backward(grad, x, w, spec, needs)
    width = min(spec.rows or k, k)
    tiles = cdiv(k, width)
    cut = Blocks(n=64, k=max(16, min(128, _power(width))))
    a_tile = cdiv(width, cut.k)
    gain, low, high, unit = _dac_scalars(spec)
    grad, x, w = checked(contiguous(grad), m * n, x), in_rows(x), in_rows(w)
    bits = checked(clips.bits, cdiv(tiles, 8) * m * n, x)
    shared = {"CONVERT": spec.dac_levels > 0, "PRECISION": spec.precision}
    shared |= {"num_warps": cut.warps, "num_stages": cut.stages}
    grad_x = grad_w = None
    if needs[0]:
        limits = spec.dac_limits if spec.dac_levels else (0.0, 0.0)
        grad_x = x.new_empty(m, k)
        launch(
            gpu_jit.grad_x_kernel,
            (cdiv(m, cut.m), tiles * a_tile),
            *(grad, w, bits, x, grad_x, m, n, k, width, a_tile, x.stride(0), w.stride(0)),
            *limits,
            BM=cut.m,
            BN=min(cut.n, 32),
            BK=cut.k,
            **shared,
        )
    if needs[1]:
        # Few weights and many rows leave most of the GPU idle: several programs then share the rows of a block.
        programs = cdiv(n, cut.n) * tiles * a_tile
        splits = max(1, min(cdiv(m, 1024), 264 // programs))
        depth = cdiv(cdiv(m, splits), cut.m) * cut.m
        parts = x.new_empty(cdiv(m, depth), n, k)
        launch(
            gpu_jit.grad_w_kernel,
            (cdiv(n, cut.n), tiles * a_tile, len(parts)),
            *(grad, x, bits, parts, m, n, k, width, a_tile, depth, x.stride(0)),
            *(gain, low, high, unit * spec.input_range),
            BM=min(cut.m, 32),
            BN=cut.n,
            BK=cut.k,
            **shared,
        )
        grad_w = parts[0] if len(parts) == 1 else parts.sum(0)
    return grad_x, grad_w


def _plain_backward(
    grad: Tensor, x: Tensor, w: Tensor, spec: MatmulSpec, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients where no ADC clips."""
    grad_x = grad_w = None
    with float32_precision(x.device, spec.precision):
        if needs[0]:
            grad_x = torch.mm(grad, w)
            if spec.dac_levels:
                low, high = spec.dac_limits
                grad_x.masked_fill_(x.abs() > high if low == -high else (x < low) | (x > high), 0)
        if needs[1]:
            grad_w = torch.mm(grad.T, dac(x, spec))
            if spec.input_range != 1:
                grad_w *= spec.input_range
    return grad_x, grad_w


@torch.no_grad()
def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Convert inputs to normalised units (`reference.dac`)."""
    return codes(x, spec, unit_of(spec))


def unit_of(spec: MatmulSpec) -> float:
    """Return what a DAC's code, or an input that no DAC converts, is in normalised units."""
    return _dac_scalars(spec)[3]


@torch.no_grad()
def codes(x: Tensor, spec: MatmulSpec, unit: float = 1.0) -> Tensor:
    """Convert inputs to codes times `unit`; without a DAC, multiply them by it."""
    gain, low, high, _ = _dac_scalars(spec)
    x = contiguous(x)
    out = torch.empty_like(x)
    if x.numel():
        arguments, rounds = (x, out, x.numel(), gain, low, high, unit), spec.dac_levels > 0
        launch(gpu_jit.dac_kernel, (cdiv(x.numel(), ELEMENTS),), *arguments, ROUND=rounds, BLOCK=ELEMENTS)
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
    add_tile(out, partial, norm2, read, tile, offset, bits, first)
    return 0 if bits is None else int((bits >> tile % 8 & 1).sum())


@torch.no_grad()
def add_tile(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    read: Read,
    tile: int,
    offset: int,
    bits: Tensor | None,
    first: bool,
    last: bool = False,
    unit: float = 1.0,
) -> None:
    """Compute `accumulate` without waiting for the GPU to count, on sums in `unit`s of normalised ones.

    `last` applies `read`'s scale and bias to the sum.
    """
    spec = read.spec
    scale, bias = (_contiguous(given) if last else None for given in (read.scale, read.bias))
    if not out.numel():
        return
    squares = contiguous(norm2.expand_as(partial)) if spec.noise_read and norm2 is not None else None
    count, channels = out.numel(), out.shape[1]
    positions = math.prod(out.shape[2:])
    panel, lead = divmod(offset, PANEL)
    panels = ELEMENTS // PANEL
    launch(
        gpu_jit.accumulate_kernel,
        (cdiv(lead + count, ELEMENTS),),
        *(checked(out, count, out), checked(partial, count, out), _or(squares, out, count), _or(bits, out, count)),
        *(_adc_scalars(spec, tile + 1, out.device, unit), _or(scale, out, channels), _or(bias, out, channels)),
        *(count, panel, lead, tile, channels, *divider(positions), *divider(channels)),
        *(unit, spec.noise_output / unit, spec.noise_read, spec.noise_multiplicative, *key(read.seed, read.stream)),
        **_stages(spec),
        RECORD=bits is not None,
        FIRST=first,
        SCALE=scale is not None,
        BIAS=bias is not None,
        PANELS=panels,
    )


@torch.no_grad()
def noisy(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """Compute `reference.add_noise` in one pass, in float32 whatever x is."""
    x = contiguous(x)
    check_extent(x.numel())
    out = torch.empty_like(x)
    if not x.numel():
        return out
    given = sigma, multiplicative
    levels = [s.float().flatten() if isinstance(s, Tensor) else None for s in given]
    samples = max(1, *(0 if level is None else len(level) for level in levels))
    a, b = (out if level is None else level.expand(samples).contiguous() for level in levels)
    per_sample = x.numel() // samples
    launch(
        gpu_jit.noise_kernel,
        (cdiv(x.numel(), ELEMENTS),),
        *(x, out, a, b, *(0.0 if isinstance(s, Tensor) else float(s) for s in given)),
        *(x.numel(), per_sample, *divider(min(per_sample, ELEMENTS)), *key(seed, stream)),
        ADDITIVE=levels[0] is not None or sigma != 0,
        MULTIPLIED=levels[1] is not None or multiplicative != 0,
        SIGMAS=levels[0] is not None,
        RELATIVES=levels[1] is not None,
        MANY=per_sample < ELEMENTS,
        PANELS=ELEMENTS // PANEL,
    )
    return out


def divider(d: int) -> tuple[int, int]:
    """Return factor (as the int32 of its 32 bits) and shift by which `gpu_jit.divided` divides by d ≥ 1.

    References
    ----------
    T. Granlund and P. L. Montgomery, *Division by Invariant Integers using Multiplication*, PLDI 1994, figure 4.1.
    """
    shift = (d - 1).bit_length()
    magic = ((1 << 32) * ((1 << shift) - d)) // d + 1
    return magic - (magic >> 31 << 32), shift


def key(seed: int, stream: int) -> list[int]:
    """Return seed and stream as four words, each the int32 of the same bits: one type, so one compilation."""
    words = (v & 0xFFFFFFFF for v in (seed, seed >> 32, stream, stream >> 32))
    return [v - (v >> 31 << 32) for v in words]


def _power(n: int) -> int:
    """Return the least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _or(tensor: Tensor | None, other: Tensor, count: int) -> Tensor:
    """Return a tensor of `count` numbers for a kernel; a pointer that will not be followed, where there is none."""
    return other if tensor is None else checked(tensor, count, other)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else contiguous(tensor.detach())


def _stages(spec: MatmulSpec) -> dict[str, bool]:
    """Return which parts of a read and of an ADC the kernels are compiled with."""
    return {
        "NOISY": spec.noisy,
        "READ": spec.noise_read > 0,
        "RELATIVE": spec.noise_multiplicative > 0,
        "CLIP": spec.adc_full_scale is not None,
        "ROUND": spec.adc_levels > 0,
    }


def _dac_scalars(spec: MatmulSpec) -> tuple[float, float, float, float]:
    """Return gain, lowest and highest code, and what a code (or an unconverted input) is in normalised units."""
    levels = spec.dac_levels
    if not levels:
        return 1.0, 0.0, 0.0, 1 / spec.input_range
    lowest, highest = map(float, spec.dac_codes)
    return levels / spec.input_range, lowest, highest, 1 / levels


@lru_cache(maxsize=256)
def _adc_scalars(spec: MatmulSpec, tiles: int, device: torch.device, unit: float = 1.0) -> Tensor:
    """Return full scale, gain and step of each tile's ADC for sums in this unit, on the device: (tiles, 3)."""
    levels = spec.adc_levels
    scales = [math.inf if (scale := spec.even_scale(tile)) is None else scale for tile in range(tiles)]
    rows = [(a / unit, unit * levels / a, a / levels) if levels else (a / unit, 1.0, 0.0) for a in scales]
    return torch.tensor(rows, dtype=torch.float32, device=device)
