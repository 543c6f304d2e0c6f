"""Where a curve itself falls through half height: what µ is compared with, and what is left of it without a law."""

import math

import numpy as np

from .law import Array

AT_ZERO = -60.0  # log σ that stands for σ = 0
NEAR = 1.25  # factor between µ and the half-height crossing; farther apart, the law does not say where the curve falls


def half_height(x: Array, mean: Array, top: float, floor: float) -> float:
    """Return log σ at which the mean curve (S,) falls through half height, by a monotone cubic through the points.

    A straight line instead is up to 5 % off where the fall takes a few points. -inf, inf: before, beyond the grid.
    """
    from scipy.interpolate import PchipInterpolator

    straight = float(half_heights(x, mean[None], mean, top, floor)[0])
    if not math.isfinite(straight):
        return straight
    right = int(np.searchsorted(x, straight).clip(1, len(x) - 1))
    roots = PchipInterpolator(x, mean).solve((top + floor) / 2, extrapolate=False)
    inside = roots[(roots >= x[right - 1]) & (roots <= x[right])]
    return float(inside[0]) if len(inside) else straight


def half_heights(x: Array, y: Array, mean: Array, top: float, floor: float) -> Array:
    """Return log σ (B,) at which curves y (B, S) fall through half height, straight between points.

    Half height is halfway between the floor and a curve's own top, which is as far above its value at the mean curve's
    peak as `top` is above the mean curve's. Where noise has a curve cross it several times, the fall is at the point
    after which the sum of what lies above it is largest; so that point lies above half height itself, and the next one
    below. -inf, inf: before, beyond the grid.
    """
    start = int(mean.argmax())
    x, y = x[start:], y[:, start:]
    above = y - ((y[:, 0] + (top - mean[start]) + floor) / 2)[:, None]
    last = np.c_[np.zeros(len(y)), above.cumsum(1)].argmax(1) - 1
    index, rows = last.clip(0, max(0, len(x) - 2)), np.arange(len(y))
    following = np.minimum(index + 1, len(x) - 1)
    left, right = above[rows, index], above[rows, following]
    share = np.divide(left, left - right, out=np.zeros(len(y)), where=left > right)
    found = x[index] + (x[following] - x[index]) * share
    found[last == len(x) - 1] = math.inf
    found[(last < 0) | ((x[index] == AT_ZERO) & (last == 0))] = -math.inf
    return found


def apart(t: Array, log_mu: float, half: float) -> bool:
    """Say whether µ and the half-height crossing differ by more than `NEAR`, and by more than the grid t resolves."""
    known, cells = np.clip([log_mu, half], t[0], t[-1]), np.searchsorted(t, [log_mu, half])
    return bool(abs(known[0] - known[1]) > math.log(NEAR) and cells[0] != cells[1])
