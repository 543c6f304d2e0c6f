"""Ageing: conductances relax with a power of time, and their 1/f read noise grows."""

import math

from torch import Tensor

from ..profile import Drift, Flicker
from ..seeds import Stream
from .draw import normals
from .laws import SMALLEST, evaluate


def exponents(target: Tensor, drift: Drift, seed: int, array: int) -> Tensor:
    """Draw each cell's ν = |N(µ(g), σ(g)²)| for its target conductance g (N, K), fraction of g_max.

    References
    ----------
    S. R. Nandakumar et al., "Phase-change memory models for deep learning training and inference", ICECS 2019: µ and σ
    linear in ln(g), between limits.
    """
    mean, spread = evaluate(drift.nu, target), evaluate(drift.nu_sigma, target)
    return (mean + spread * normals(target, seed, Stream.DRIFT, array)).abs()


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
    ratio = evaluate(flicker.amplitude, g) * g.clamp(min=SMALLEST) ** -flicker.exponent
    growth = math.log((time + flicker.read_time) / (2 * flicker.read_time))
    return now.abs() * ratio.clamp(max=flicker.maximum) * math.sqrt(max(growth, 0.0))
