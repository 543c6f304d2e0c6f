"""Moments of what an ADC clips and rounds away, given the sum it converts and the variance of the noise on it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..chip.adc import Converters
from ..chip.distributions import shaped
from ..profile import Range

_DIRECT = 0.02  # noise below this part of a step moves no mean
_TERMS = 32
_SAMPLES = 16


class Moments(NamedTuple):
    """Of c = clip(v) - v and r = Q(clip(v)) - clip(v) with v = s + n, n ~ N(0, τ²); each of the shape of s.

    `with_others` is E[n·(c + r) + c·r], `clipped` the probability that v is beyond the full scale.
    """

    clip_mean: Tensor
    clip_square: Tensor
    round_mean: Tensor
    round_square: Tensor
    with_others: Tensor
    clipped: Tensor


def adc_moments(s: Tensor, variance: Tensor, full_scale: float, levels: int) -> Moments:
    r"""Return the moments of an ADC's two errors.

    Clipping, with d = ±s - F for either side, φ and Φ the normal's density and distribution:

        E[(v - F)₊] = d·Φ(d/τ) + τ·φ(d/τ)      E[(v - F)₊²] = (d² + τ²)·Φ(d/τ) + d·τ·φ(d/τ)      E[n·c] = -τ²·P(clipped)

    (the last by Stein's lemma, E[n·f(s + n)] = τ²·E[f′(s + n)]). Rounding to steps Δ by the Fourier series of the
    sawtooth, each harmonic damped by the noise's characteristic function ψ_k = exp(-2π²k²τ²/Δ²):

        E[r] = Δ·Σ_k (-1)^k ψ_k sin(2πks/Δ)/(πk)      E[r²] = Δ²/12 + Δ²·Σ_k (-1)^k ψ_k cos(2πks/Δ)/(πk)²
        E[n·r] = τ²·2·Σ_k (-1)^k ψ_k cos(2πks/Δ)

    each times the probability of not being clipped. Noise below 2 % of a step leaves r what it is without.

    Parameters
    ----------
    s : Tensor
        Partial sums, normalised units.
    variance : Tensor, broadcastable to s
        τ².
    full_scale : float
        F, normalised units.
    levels : int
        Δ = F/levels; 0 does not round.

    References
    ----------
    B. Widrow and I. Kollár, *Quantization Noise*, Cambridge University Press 2008.
    """
    tau = variance.sqrt()
    clip_mean, clip_square, clipped = beyond(s, variance, (-full_scale, full_scale))
    zero = torch.zeros_like(s)
    mean, square, slope = _rounding(s, tau, full_scale / levels) if levels else (zero, zero, zero)
    kept = 1 - clipped
    with_noise = variance * (kept * slope - clipped)
    return Moments(clip_mean, clip_square, kept * mean, kept * square, with_noise, clipped)


def beyond(s: Tensor, variance: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return E[c] and E[c²] of c = clip(v) - v, v = s + N(0, variance), and the probability of v beyond its limits."""
    tau = variance.sqrt()
    (mean_up, square_up, up), (mean_low, square_low, low) = _beyond(s - limits[1], tau), _beyond(limits[0] - s, tau)
    return mean_low - mean_up, square_up + square_low, up + low


def sampled_moments(
    s: Tensor,
    variance: Tensor,
    converters: Converters,
    full_scale: float | Range | None,
    tile: int,
    generator: torch.Generator,
) -> Moments:
    """Return the moments of any ADC's two errors, under noise of the profile's distribution and slow offset.

    r is all that the ADC makes of a clipped sum: errors of gain, offset and levels, too. White noise is sampled
    in 16 strata of equal probability for each conversion, so that means over many outputs scatter little; without
    noise, once.

    Parameters
    ----------
    s : Tensor (M, N, …)
        Partial sums, normalised units.
    variance : Tensor (M, N, …)
        Of the white noise.
    converters : Converters
    full_scale : float or None
        Normalised units; None does not clip.
    tile : int
    generator : torch.Generator
        Of s's device.
    """
    noise, deviation = converters.noise, variance.sqrt()
    dithered = converters.adc.rounding == "stochastic"
    count = _SAMPLES if noise.wander or dithered or bool(variance.any()) else 1

    def quantiles(stratum: int) -> Tensor:
        u = (torch.rand(s.shape, generator=generator, device=s.device, dtype=torch.float64) + stratum) / count
        return torch.special.ndtri(u.clamp(1e-15, 1 - 1e-15))

    sums = [torch.zeros_like(s) for _ in Moments._fields]
    for k in range(count):
        n = torch.zeros_like(s)
        if count > 1:
            n = (deviation * shaped(quantiles(k), noise.distribution)).to(s.dtype)
        if noise.wander:
            # Not in strata: in any fixed order of them it would not be independent of the white noise.
            n = n + noise.wander * torch.randn(s.shape, generator=generator, device=s.device, dtype=s.dtype)
        v = s + n
        dither = None
        if dithered:
            dither = torch.rand(s.shape, generator=generator, device=s.device, dtype=s.dtype) - 0.5
        converted, clipped = converters.converted(v, full_scale, tile, dither)
        within = v if full_scale is None else v.clamp(*converters.limits(full_scale))
        c, r = within - v, converted - within
        for total, value in zip(sums, (c, c.square(), r, r.square(), n * (c + r) + c * r, clipped.to(s.dtype))):
            total += value / count
    return Moments(*sums)


def _beyond(d: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return E[(d + n)₊], E[(d + n)₊²] and P(d + n > 0)."""
    if not tau.any():
        over = d.clamp(min=0)
        return over, over.square(), (d > 0).to(d.dtype)
    z = d / tau.clamp(min=1e-20)
    below = torch.special.ndtr(z)
    density = tau * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    mean = (d * below + density).clamp(min=0)
    return mean, ((d.square() + tau.square()) * below + d * density).clamp(min=0), below


def _rounding(s: Tensor, tau: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return E[r], E[r²] and dE[r]/ds without clipping."""
    plain = (s / step).round() * step - s
    ratio = tau / step
    if float(ratio.amax()) < _DIRECT:
        return plain, plain.square(), torch.zeros_like(s)
    noisy = ratio >= _DIRECT
    least = float(ratio[noisy].amin())
    angle = s * (2 * math.pi / step)
    mean, square, slope = torch.zeros_like(s), torch.full_like(s, step**2 / 12), torch.zeros_like(s)
    for k in range(1, min(_TERMS, math.ceil(0.6 / least)) + 1):
        damping = (-1) ** k * torch.exp(-2 * (math.pi * k * ratio) ** 2)
        cosine = damping * torch.cos(k * angle)
        mean += damping * torch.sin(k * angle) * (step / (math.pi * k))
        square += cosine * (step / (math.pi * k)) ** 2
        slope += 2 * cosine
    if bool(noisy.all()):
        return mean, square, slope
    return (
        torch.where(noisy, mean, plain),
        torch.where(noisy, square, plain.square()),
        torch.where(noisy, slope, torch.zeros_like(s)),
    )
