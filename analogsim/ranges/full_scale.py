"""Full scales that make the least error, from histograms of magnitudes; numbers only, no network."""

import math
from collections.abc import Callable

import numpy as np

from .histogram import BINS, Histogram

Array = np.ndarray
_COARSE, _FINE = 96, 33  # candidates: from 2^-10 of the maximum up, then between the neighbours of the best
_NOISY_BINS = 1024


def conversion_error(histogram: Histogram, scales: Array, levels: int, sigma: float = 0.0) -> Array:
    r"""Return the mean square error of a converter at each full scale.

    E(F) = E[(Q(v) − v)²], v = u + N(0, σ²), where Q clips to ±F and rounds to steps Δ = F/levels. Within a bin u is
    taken as uniform, for which the integral of the squared error is exact:

        ∫₀ˣ (Q(v) − v)² dv = k·Δ³/12 + r³/3 with x = k·Δ + r, |r| ≤ Δ/2, below F;  plus (x − F)³/3 above it.

    Parameters
    ----------
    histogram : Histogram
        Of |u|; the converter and the noise are symmetric.
    scales : array (S,)
        F > 0, units of u.
    levels : int
        2^(b-1)-1 or 2^b-1; 0 only clips.
    sigma : float
        Noise before the converter, units of u.

    Returns
    -------
    array (S,)
        Units of u².
    """
    edges, weights = _blurred(histogram, sigma)
    scales = np.asarray(scales, float)[:, None]
    return error_of_side(edges, weights, scales, scales / levels if levels else None)


def error_of_side(edges: Array, weights: Array, scales: Array, step: Array | None) -> Array:
    """Return what magnitudes on one side of 0 add to the error: Σ over bins of probability · mean square.

    Parameters
    ----------
    edges : array (B + 1,)
        Of equal bins from 0 on.
    weights : array (B,)
        Probability of each bin.
    scales, step : array (S, 1)
        How far converters reach on this side, units of u, and their steps; None only clips.
    """
    if not edges[-1]:  # nothing but zeros, and no noise: any converter is right
        return np.zeros(len(scales))
    inside = np.minimum(edges, scales)
    integral = (edges - inside) ** 3 / 3
    if step is not None:
        codes = np.round(inside / step)
        integral += codes * step**3 / 12 + (inside - codes * step) ** 3 / 3
    return np.diff(integral, axis=1) @ weights / np.diff(edges)[0]


def least(error: Callable[[Array], Array], top: float) -> float:
    """Return the full scale in (0, top] with the least error, found to half a percent of itself; 0 where top is.

    Parameters
    ----------
    error : callable
        Full scales (S,) to errors (S,).
    top : float
    """
    if not top:  # nothing but zeros
        return 0.0
    grid = top * np.geomspace(2.0**-10, 1, _COARSE)
    best = int(np.argmin(error(grid)))
    grid = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, _COARSE - 1)], _FINE)
    return float(grid[int(np.argmin(error(grid)))])


def least_error(histogram: Histogram, levels: int, sigma: float) -> float:
    """Return roughly the least `conversion_error`: one look at fewer full scales."""
    top = histogram.maximum + 4 * sigma
    scales = top * (np.geomspace(2.0**-6, 1, 32) if levels else np.ones(1))
    return float(conversion_error(histogram, scales, levels, sigma).min())


def best_scale(histogram: Histogram, levels: int, sigma: float = 0.0) -> float:
    """Return the full scale of least `conversion_error`; where nothing is rounded, the largest value."""
    top = histogram.maximum + 4 * sigma
    return least(lambda scales: conversion_error(histogram, scales, levels, sigma), top) if levels else top


def _blurred(histogram: Histogram, sigma: float) -> tuple[Array, Array]:
    """Return edges (B + 1,) and the probability of |u + N(0, σ²)| in each bin (B,)."""
    # The maximum may be its bin's lower edge, as 1 is, of one-hot or binary inputs.
    used = min(BINS, math.floor(histogram.maximum / histogram.top * BINS) + 1) if histogram.top else 1
    edges, counts = histogram.edges[: used + 1], histogram.counts[:used].astype(float)
    reach = histogram.maximum + 6 * sigma
    width = reach / _NOISY_BINS
    if sigma <= width / 2:  # finer than the bins
        return edges, counts / histogram.number
    grid = np.linspace(0, reach, _NOISY_BINS + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    half = np.diff(np.interp(grid, edges, cumulative)) / (2 * histogram.number)
    half[0] += histogram.zeros / (2 * histogram.number)
    # On both sides of zero, then multiplied by the normal's characteristic function.
    frequency = np.fft.rfftfreq(2 * _NOISY_BINS, width)
    spectrum = np.fft.rfft(np.concatenate([half[::-1], half])) * np.exp(-2 * (np.pi * frequency * sigma) ** 2)
    blurred = np.fft.irfft(spectrum, 2 * _NOISY_BINS).clip(0)
    return grid, blurred[_NOISY_BINS:] + blurred[:_NOISY_BINS][::-1]
