"""The device model in plain torch: the statement of what the fast kernels compute (any device, float32 or float64)."""

import math

import numpy as np
import torch
from torch import Tensor

from . import philox
from .spec import MatmulSpec


def tiled_matmul(
    x: Tensor, w: Tensor, spec: MatmulSpec, seed: int, stream: int, gains: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Multiply on crossbars (design sections 3.1-3.5): Σ_t g_t·ADC(x̂_t ŵ_tᵀ + noise).

    Parameters
    ----------
    x : Tensor (M, K)
        Inputs, activation units.
    w : Tensor (N, K)
        Programmed weights, normalised units.
    spec : MatmulSpec
    seed, stream : int
        Key of the random numbers, and who draws.
    gains : Tensor (T, N), optional
        g_t, where the tiles' full scales of weights differ.

    Returns
    -------
    out : Tensor (M, N)
        Sum of the tiles' partial sums, normalised units.
    clipped : Tensor (T, M, N), bool
        Where each tile's ADC clipped.
    """
    x = dac(x, spec)
    spec.check_tiles(len(spec.tiles(x.shape[1])))
    out = x.new_zeros(len(x), len(w))
    clipped = []
    for tile, (start, stop) in enumerate(spec.tiles(x.shape[1])):
        partial = x[:, start:stop] @ w[:, start:stop].T
        norm2 = (x[:, start:stop] ** 2).sum(1, keepdim=True)
        converted, clip = adc(partial, norm2, spec, seed, stream, tile)
        out += converted if gains is None else converted * gains[tile]
        clipped.append(clip)
    return out, torch.stack(clipped) if clipped else out.new_zeros((0, *out.shape), dtype=torch.bool)


def dac(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Scale inputs by α, clip to the DAC's range and round to its levels; returns normalised units."""
    if not spec.dac_levels:
        return x * (1 / spec.input_range)
    codes = x * (spec.dac_levels / spec.input_range)
    return codes.clamp(*spec.dac_codes).round() / spec.dac_levels


def dac_clipped(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Return where the DAC clips its input (bool, shape of x)."""
    low, high = spec.dac_limits
    return (x > high) | (x < low)


def adc(
    partial: Tensor, norm2: Tensor, spec: MatmulSpec, seed: int, stream: int, tile: int, offset: int = 0
) -> tuple[Tensor, Tensor]:
    """Add a read's noise to one tile's partial sums and convert them.

    The independent contributions are drawn as one normal of their total variance.

    Parameters
    ----------
    partial : Tensor
        s_t, normalised units; any shape.
    norm2 : Tensor, broadcastable to partial
        ‖x̂_t‖², squared length of the inputs that reach each sum.
    offset : int
        Flat index of the first element within the whole partial-sum tensor.

    Returns
    -------
    converted, clipped : Tensor
        As `partial`, normalised units; and bool, where |s_t + noise| exceeded the full scale.
    """
    if spec.noisy:
        n = philox.normals(tuple(partial.shape), seed, stream, tile, offset=offset, device=partial.device)
        partial = partial + noise_variance(partial, norm2, spec).sqrt() * n.to(partial.dtype)
    full_scale = spec.even_scale(tile)
    if full_scale is None:
        return partial, torch.zeros_like(partial, dtype=torch.bool)
    clipped = partial.abs() > full_scale
    partial = partial.clamp(-full_scale, full_scale)
    if spec.adc_levels:
        step = full_scale / spec.adc_levels
        partial = (partial / step).round() * step
    return partial, clipped


def convert(
    sums: Tensor,
    limits: tuple[float, float],
    step: float,
    gains: Tensor,
    offsets: Tensor,
    table: tuple[Tensor, Tensor] | None,
    dither: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convert noisy sums (M, N, …) by ADCs of their own; arguments as `Backend.convert`.

    `dither`, steps, is added to what was clipped, before it is rounded to the nearest level.

    Returns
    -------
    converted, clipped : Tensor
        As `sums`, normalised units; and bool, where a sum was beyond the limits.
    """
    column = (1, -1, *[1] * (sums.ndim - 2))
    sums = sums * gains.view(column) + offsets.view(column)
    low, high = limits
    clipped = (sums > high) | (sums < low)
    sums = sums.clamp(low, high)
    if table is None:
        if dither is not None:
            return ((sums / step + dither).round() * step).clamp(low, high), clipped
        return ((sums / step).round() * step if step else sums), clipped
    thresholds, outputs = table
    own = torch.arange(sums.shape[1], device=sums.device).view(column).clamp(max=len(thresholds) - 1)
    code = torch.zeros_like(sums, dtype=torch.int64)
    bit = outputs.shape[1] // 2
    while bit:  # the search for the last code whose threshold the sum has reached
        trial = code + bit
        code = torch.where(sums >= thresholds[own, trial - 1], trial, code)
        bit //= 2
    return torch.where(sums.isnan(), sums, outputs[own, code]), clipped


def add(out: Tensor, converted: Tensor, clipped: Tensor, tile: int, bits: Tensor | None, first: bool) -> int:
    """Add converted sums to `out`, mark clips in `bits` and count them; arguments as `Backend.accumulate`."""
    out.copy_(converted) if first else out.add_(converted)
    if bits is None:
        return 0
    bits |= clipped.to(bits.dtype) << tile % 8
    return int(clipped.sum())


def smooth(white: Tensor, rho: float, amplitude: float) -> Tensor:
    """Return amplitude·o of the Gauss-Markov process o_0 = n_0, o_i = ρ·o_(i-1) + √(1 - ρ²)·n_i of normals n.

    On the CPU, whose filter it is.

    Parameters
    ----------
    white : Tensor (times, N)
        Standard normals: N processes.
    """
    from scipy.signal import lfilter

    n = white.double().cpu().numpy()
    if not len(n):
        return white
    n = np.concatenate([n[:1], n[1:] * math.sqrt(1 - rho**2)])
    return amplitude * torch.from_numpy(lfilter([1.0], [1.0, -rho], n, axis=0)).to(white)


def noise_variance(partial: Tensor, norm2: Tensor, spec: MatmulSpec) -> Tensor:
    """Return σ_out² + σ_r²·‖x̂_t‖² + σ_m²·s² of one tile's partial sums, in normalised units squared.

    What has no σ is left out, for 0 times a length that float32 cannot hold would be NaN.
    """
    variance = torch.full_like(partial, spec.noise_output**2)
    if spec.noise_read:
        variance = variance + spec.noise_read**2 * norm2
    if spec.noise_multiplicative:
        variance = variance + spec.noise_multiplicative**2 * partial**2
    return variance


def add_noise(x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
    """x·(1 + σ_m·n₁) + σ·n₂ with independent normals: tile 1's numbers for n₁, tile 0's for n₂.

    `sigma` (units of x) and `multiplicative` (relative) are numbers or broadcast over x.
    """
    shape = tuple(x.shape)
    n2 = philox.normals(shape, seed, stream, 0, device=x.device).to(x.dtype)
    n1 = philox.normals(shape, seed, stream, 1, device=x.device).to(x.dtype)
    return x * (1 + multiplicative * n1) + sigma * n2
