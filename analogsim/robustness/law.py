"""The law acc(σ) = floor + (top − floor) / (1 + (σ/µ)^k) in log σ, and its least squares for many curves at once.

Parameters are (log µ, log k, top, floor), in this order, in the last axis.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOG_MU, LOG_K = 0, 1  # of the parameters
STEPS = 60  # of a descent at most
STARTS = 32  # values of µ that a fit starts from at most; a finer grid of them finds nothing else
AT_ONCE = 2**19  # points (curves × σ) of a descent at a time: some 100 MB


def bounds(t: Array, chance: float, lowest: float = 0.0, highest: float = 1.0) -> tuple[Array, Array]:
    """Return bounds of the parameters: µ within 100 times beyond the grid, k as steep as it can resolve.

    The floor lies between the lowest value and chance, the top between chance and the highest.
    """
    beyond, steepest = math.log(100), 12 / float(np.median(np.diff(t)))
    return (
        np.array([t[0] - beyond, math.log(0.1), chance, lowest]),
        np.array([t[-1] + beyond, math.log(steepest), highest, chance]),
    )


def inner(params: Array, limits: tuple[Array, Array]) -> NDArray[np.bool_]:
    """Return which parameters (4,) a fit left within their bounds; µ is one of them."""
    free = (params > limits[0] + 1e-6) & (params < limits[1] - 1e-6)
    free[LOG_MU] = True
    return free


def curve(x: Array, params: Array) -> Array:
    """Accuracy (B, S) at log σ (S,) for parameters (B, 4)."""
    mu, log_k, top, floor = params.T[..., None]
    return floor + (top - floor) / (1 + np.exp(np.clip(np.exp(log_k) * (x - mu), -60, 60)))


def jacobian(x: Array, params: Array) -> Array:
    """Return d accuracy / d parameters, (B, S, 4)."""
    mu, log_k, top, floor = params.T[..., None]
    share = 1 / (1 + np.exp(np.clip(np.exp(log_k) * (x - mu), -60, 60)))
    steep = np.exp(log_k) * (top - floor) * share * (1 - share)
    return np.stack([steep, -steep * (x - mu), share, 1 - share], 2)


def fit(x: Array, y: Array, t: Array, limits: tuple[Array, Array]) -> Array:
    """Return the least-squares parameters (4,) of y (S,) at x (S,); µ starts from all over the grid t.

    The descent starts from the best of many coarse ones.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    places = t[np.unique(np.linspace(0, len(t) - 1, STARTS).round().astype(int))]
    starts = np.array([[mu, math.log(k), y.max(), y.min()] for mu in places for k in (1.5, 4.0)])
    rough = descend(x, np.repeat(y[None], len(starts), 0), starts, limits)
    start = rough[((y - curve(x, rough)) ** 2).sum(1).argmin()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
        best, _ = curve_fit(
            lambda x, *p: curve(x, np.array([p]))[0],
            x,
            y,
            start,
            bounds=limits,
            jac=lambda x, *p: jacobian(x, np.array([p]))[0],
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
            max_nfev=1000,
        )
    # An interior-point step away from an active bound may lose what the start had.
    return min(start, best, key=lambda p: float(((y - curve(x, p[None])[0]) ** 2).sum()))


def descend(x: Array, y: Array, params: Array, limits: tuple[Array, Array]) -> Array:
    """Fit B curves y (B, S) from params (B, 4): Levenberg-Marquardt, projected on the bounds.

    curve_fit takes milliseconds a curve; a bootstrap of 1000 takes as long as ten of those here. Time and memory grow
    as the number of points: a block of curves at a time, and a curve that has arrived is left alone.
    """
    block = max(1, AT_ONCE // len(x))
    parts = [_descend(x, y[i : i + block], params[i : i + block], limits) for i in range(0, len(y), block)]
    return np.concatenate([params[:0], *parts])


def _descend(x: Array, y: Array, params: Array, limits: tuple[Array, Array]) -> Array:
    low, high = limits
    found = np.clip(params, low, high)
    open_ = np.arange(len(y))
    params, damping = found, np.full(len(y), 1e-3)
    residual = y - curve(x, params)
    for _ in range(STEPS):
        slopes = jacobian(x, params)
        gradient = np.einsum("bsi,bs->bi", slopes, residual)
        stuck = ((params <= low) & (gradient < 0)) | ((params >= high) & (gradient > 0))
        slopes = np.where(stuck[:, None], 0, slopes)
        normal = slopes.transpose(0, 2, 1) @ slopes
        diagonal = np.einsum("bii->bi", normal)
        normal = normal + (damping[:, None] * diagonal + 1e-12)[:, :, None] * np.eye(4)
        step = np.linalg.solve(normal, np.where(stuck, 0, gradient)[..., None])[..., 0]
        trial = np.clip(params + step, low, high)
        trial_residual = y - curve(x, trial)
        better = (trial_residual**2).sum(1) <= (residual**2).sum(1)
        moved = np.abs(trial - params).max(1)
        params = np.where(better[:, None], trial, params)
        residual = np.where(better[:, None], trial_residual, residual)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
        found[open_] = params
        going = (moved >= 1e-7) & (damping <= 1e8)
        if not going.any():
            break
        if not going.all():
            open_, damping = open_[going], damping[going]
            params, residual, y = params[going], residual[going], y[going]
    return found
