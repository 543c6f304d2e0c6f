"""Ageing: conductances relax with a power of time, and their 1/f read noise grows."""

import math

import torch
from torch import Tensor

from ..profile.cells import Branches, Drift, Flicker, LogLaw
from ..seeds import Stream
from .draw import normals
from .programming import polynomial

SMALLEST = 1e-7  # conductance (fraction of g_max) below which the laws of ln(g) are held constant


def exponents(target: Tensor, drift: Drift, seed: int, array: int) -> Tensor:
    """Draw each cell's ν = |N(µ(g), σ(g)²)| for its target conductance g (N, K), fraction of g_max.

    References
    ----------
    S. R. Nandakumar et al., "Phase-change memory models for deep learning training and inference", ICECS 2019: µ and σ
    linear in ln(g), between limits.
    """
    mean, spread = law(drift.nu, target), law(drift.nu_sigma, target)
    return (mean + spread * normals(target, seed, Stream.DRIFT, array)).abs()


def law(value: float | LogLaw | Branches, g: Tensor) -> Tensor:
    """Evaluate a constant or a law at conductances g (any shape, fraction of g_max)."""
    if isinstance(value, Branches):
        return torch.where(g < value.limit, law(value.below, g), polynomial(value.above, g))
    if not isinstance(value, LogLaw):
        return torch.full_like(g, value)
    return (value.constant + value.slope * g.clamp(min=SMALLEST).log()).clamp(value.low, value.high)


def relax(g: Tensor, target: Tensor, drift: Drift, seconds: float, seed: int, array: int) -> Tensor:
    """Return g·((t0 + seconds)/t0)^(-ν), conductances `seconds` after the first read."""
    if seconds <= 0 or (drift.nu, drift.nu_sigma) == (0, 0):
        return g
    return g * (1 + seconds / drift.t0) ** -exponents(target, drift, seed, array)


def flicker_sigma(now: Tensor, programmed: Tensor, flicker: Flicker, time: float) -> Tensor:
    """Return the 1/f read noise's σ of cells, fraction of g_max.

        σ = g(t)·min(amplitude·g^(-exponent), maximum)·√ln((t + t_read)/(2 t_read))

    Parameters
    ----------
    now, programmed : Tensor (N, K)
        g(t), and g as programmed.
    time : float
        t since programming, seconds.

    References
    ----------
    Joshi et al. (2020), Methods; Nandakumar et al. (2019).
    """
    g = programmed.abs()
    ratio = law(flicker.amplitude, g) * g.clamp(min=SMALLEST) ** -flicker.exponent
    growth = math.log((time + flicker.read_time) / (2 * flicker.read_time))
    return now.abs() * ratio.clamp(max=flicker.maximum) * math.sqrt(max(growth, 0.0))
