"""The midpoint noise level µ of a robustness curve: the falling flank's fit, its interval and its flags."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import FitError

Array = NDArray[np.float64]

MIN_R2 = 0.95  # below: poor_fit
MIN_RISE = 0.02  # of the way from chance to 1; a peak below it is collapsed however many samples were tested
ALPHA = 1e-3  # false-alarm rate at which guessing is told from knowing (one-sided, Bonferroni over the grid)
MIN_FALL = 0.1  # of the peak's rise above chance; a curve that falls less shows no midpoint
BRITTLE_FACTOR = 2.0  # µ below the baseline's by more than this
BRITTLE_PEAK = 0.9  # of the baseline's rise above chance
AT_ZERO = -60.0  # log σ that stands for σ = 0
STEPS = 60  # of a descent at most

LOG_MU, LOG_K = 0, 1  # of the parameters (log µ, log k, top, floor)


@dataclass(frozen=True)
class MidpointFit:
    """acc(σ) = floor + (top − floor) / (1 + (σ/µ)^k), fitted to a curve's falling flank.

    Attributes
    ----------
    midpoint : float
        µ, unit of σ. inf or 0 where it lies beyond the grid's end so far that there is nothing to fit, NaN where the
        curve has none (`collapsed`).
    slope : float
        k, no unit; NaN where nothing was fitted, as are `floor` and `r2` then.
    peak : float
        Maximum of the mean curve over the grid, in [0, 1].
    top, floor : float
        The fitted levels before and after the fall; where µ is 0, `top` is the noise-free accuracy.
    r2 : float
        Share of the fitted points' variance that the fit explains.
    ci : (float, float)
        95 % interval of µ; NaN where there is nothing to estimate it from (one repeat, number of samples unknown).
    chance : float
        Accuracy of guessing.
    points_used : tuple of int
        Which points of the grid were fitted.
    flags : tuple of str
        "collapsed", "brittle", "extrapolated", "poor_fit"; see `fit_midpoint`.
    """

    midpoint: float
    slope: float
    peak: float
    top: float
    floor: float
    r2: float
    ci: tuple[float, float]
    chance: float
    points_used: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = self.ci
        if math.isnan(self.midpoint):
            text = "no µ"
        elif math.isinf(self.midpoint):
            text = f"µ > {three_digits(low)}"
        elif self.midpoint == 0:
            text = f"µ < {three_digits(high)}"
        else:
            text = f"µ = {three_digits(self.midpoint)}"
            text += "" if math.isnan(low) else f" [{three_digits(low)}, {three_digits(high)}]"
        return text + (f" ({', '.join(self.flags)})" if self.flags else "")

    def predict(self, sigmas: ArrayLike) -> Array:
        """Return the fitted accuracy at each σ, shape of `sigmas`; NaN where nothing was fitted."""
        with np.errstate(divide="ignore"):
            t = np.maximum(np.log(np.asarray(sigmas, dtype=float)), AT_ZERO)
        if not 0 < self.midpoint < math.inf:
            return np.full(t.shape, math.nan)
        params = np.array([[math.log(self.midpoint), math.log(self.slope), self.top, self.floor]])
        return _curve(t.ravel(), params).reshape(t.shape)

    def against(self, baseline: "MidpointFit | tuple[float, float]") -> "MidpointFit":
        """Return this fit judged beside the floating-point baseline's: with the flag `brittle` where it is deserved.

        Brittle is false robustness: the peak keeps at least 90 % of the baseline's rise above chance, but µ is less
        than half the baseline's, and the intervals do not overlap (where they are known).

        Parameters
        ----------
        baseline : MidpointFit or (float, float)
            The baseline's fit, or its (µ, peak).

        Raises
        ------
        FitError
            The baseline has no µ.
        """
        if isinstance(baseline, MidpointFit):
            # µ beyond the grid: at least the grid's end.
            other = baseline.ci[0] if math.isinf(baseline.midpoint) else baseline.midpoint
            peak, other_low = baseline.peak, baseline.ci[0]
        else:
            (other, peak), other_low = baseline, math.nan
        if not (math.isfinite(other) and other >= 0 and math.isfinite(peak)):
            raise FitError(
                f"baseline: it has no midpoint (µ = {other}, peak = {peak}); compare with a network that has"
            )
        high_peak = np.fmax(self.peak, self.top) - self.chance >= BRITTLE_PEAK * (peak - self.chance)
        apart = not self.ci[1] >= other_low  # True where either is unknown
        brittle = bool(high_peak and self.midpoint < other / BRITTLE_FACTOR and apart)
        flags = [flag for flag in self.flags if flag != "brittle"] + ["brittle"] * brittle
        return replace(self, flags=tuple(flags))


def fit_midpoint(
    sigmas: ArrayLike,
    accuracies: ArrayLike,
    *,
    chance: float,
    noise_free: float | None = None,
    samples: int | None = None,
    trainings: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> MidpointFit:
    """Fit µ to accuracies over a σ grid: acc(σ) = floor + (top − floor) / (1 + (σ/µ)^k), least squares over log σ.

    Fitted are the points from the maximum of the mean curve on (at least the last four), for a network trained under
    noise is best near its training σ. floor lies in [0, chance].

    Parameters
    ----------
    sigmas : array (S,)
        Positive, ascending; at least four.
    accuracies : array (S, R)
        R repeats with independent noise at every σ, each in [0, 1]. (S,) is one repeat.
    chance : float
        Accuracy of guessing, in (0, 1): 1 / classes, or the largest class's share.
    noise_free : float, optional
        Accuracy at σ = 0. Used only where the grid starts below the plateau (by more than 10 % of the rise above
        chance): then it is one more point of the fit.
    samples : int, optional
        Test samples behind each accuracy.
    trainings : array (R,) of int, optional
        Which training each column comes from; default: all from one. Every training weighs the same.
    resamples : int
        Of the bootstrap.
    seed : int
        Of the bootstrap.

    Returns
    -------
    MidpointFit
        With the flags

        * `collapsed`: the peak (the noise-free accuracy too) is at most chance + max(0.02 (1 − chance), b), where b is
          what guessing on `samples` samples exceeds in one of S points with probability 1e-3 (binomial; repeats share
          the test samples and so count as one). There is no µ then (NaN).
        * `extrapolated`: µ lies outside the points that were fitted, from the peak to the end of the grid. A curve that
          falls by less than 10 % of its rise above chance has µ = inf and the interval (last σ, inf); one whose
          noise-free accuracy is lost by the first σ has µ = 0.
        * `poor_fit`: R² < 0.95.

        `brittle` needs a baseline: see `MidpointFit.against`.

    Raises
    ------
    FitError
        Fewer than four points, shapes that do not fit, a value that is not finite or out of range, σ not ascending.

    Notes
    -----
    *Top.* It is fitted, not set to the maximum of the mean curve, which noise shifts upwards: set so, µ came out up to
    2.3 % low and its interval missed on one side only, in 7 of 8 simulated settings.

    *Interval.* Percentiles of log µ over bootstrap samples, the noise of every σ resampled apart. With n repeats, plain
    resampling misses the variance by (n − 1)/n, and its percentiles take the estimated variance as known; so
    deviations are scaled by √(n/(n − 1)), and percentiles stretched by t_ν/z with Satterthwaite's ν for the variances
    of all points, weighted by their influence on log µ. Several trainings are resampled whole (each carries its
    repeats' noise), n and ν + 1 being their number. Where the fall is steeper than the grid resolves (k at its bound),
    the interval includes the two points that enclose µ.

    Measured on curves with binomial noise, 1000 for each of 9 settings (2 to 10 repeats, k 1.5 to 6, 360 to 10 000
    samples): 0.937 to 0.968 of the intervals cover µ, where plain percentiles cover 0.74 (2 repeats), 0.81 (3), 0.88 to
    0.90 (5) and 0.92 (10). With 2, 3, 5 and 10 trainings, whose µ differ by 20 %, 0.932, 0.927, 0.938 and 0.950 do.

    With one repeat and `samples` known, accuracies are resampled from the binomial distribution: an upper limit, since
    noise does not flip every test sample.

    References
    ----------
    A. C. Davison, D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8.
    F. E. Satterthwaite, *An Approximate Distribution of Estimates of Variance Components*, 1946.
    """
    grid, units, together = _checked(sigmas, accuracies, chance, noise_free, samples, trainings)
    t, mean = np.log(grid), units.mean(1)
    peak = float(mean.max())
    first = min(int(mean.argmax()), len(t) - 4)
    nan = math.nan
    blank = MidpointFit(nan, nan, peak, nan, nan, nan, (nan, nan), chance, tuple(range(first, len(t))))

    free = peak if noise_free is None else noise_free
    if max(peak, free) <= _guessing(chance, samples, len(t)):
        return replace(blank, flags=("collapsed",))
    starts_below = peak < free - MIN_FALL * (free - chance)
    if starts_below:
        if peak < chance + MIN_FALL * (free - chance):
            return replace(blank, midpoint=0.0, top=free, ci=(0.0, float(grid[0])), flags=("extrapolated",))
    elif peak - mean[first:].min() < MIN_FALL * (peak - chance):
        return replace(blank, midpoint=math.inf, ci=(float(grid[-1]), math.inf), flags=("extrapolated",))

    x, units = t[first:], units[first:]
    if starts_below:
        x, units = np.r_[AT_ZERO, x], np.vstack([np.full(units.shape[1], free), units])
    bounds = _bounds(t, chance)
    best, r2 = _fit(x, units.mean(1), t, bounds)
    low, high = _interval(x, units, together, best, bounds, samples, resamples, seed)
    if best[LOG_K] > bounds[1][LOG_K] - 1e-3:
        beside = np.searchsorted(t, best[LOG_MU]).clip(1, len(t) - 1)
        low, high = np.fmin(low, t[beside - 1]), np.fmax(high, t[beside])
    (mu, k), (top, floor) = np.exp(best[:2]).tolist(), best[2:].tolist()
    flags = ["extrapolated"] * (not grid[first] <= mu <= grid[-1]) + ["poor_fit"] * (r2 < MIN_R2)
    ci = (float(np.exp(low)), float(np.exp(high)))
    return replace(blank, midpoint=mu, slope=k, top=top, floor=floor, r2=r2, ci=ci, flags=tuple(flags))


def three_digits(value: float) -> str:
    """Three digits, trailing zeros too, so that numbers compare."""
    return f"{value:#.3g}".rstrip(".")


def midpoint_texts(midpoint: float, low: float, high: float) -> tuple[str, str]:
    """Return µ and its interval as a table shows them; a µ beyond the grid as the bound that is known."""
    if math.isnan(midpoint):
        return "none", "-"
    if math.isinf(midpoint):
        return f"> {three_digits(low)}", "-"
    if midpoint == 0:
        return f"< {three_digits(high)}", "-"
    return three_digits(midpoint), "-" if math.isnan(low) else f"{three_digits(low)} - {three_digits(high)}"


def _checked(
    sigmas: ArrayLike,
    accuracies: ArrayLike,
    chance: float,
    noise_free: float | None,
    samples: int | None,
    trainings: ArrayLike | None,
) -> tuple[Array, Array, bool]:
    """Return σ (S,), the independent units' accuracies (S, n), and whether a unit is a whole training."""
    grid, acc = np.asarray(sigmas, dtype=float), np.asarray(accuracies, dtype=float)
    acc = acc[:, None] if acc.ndim == 1 else acc
    if grid.ndim != 1 or acc.ndim != 2 or len(acc) != len(grid) or not acc.shape[1]:
        raise FitError(f"accuracies: shape (S, R) for sigmas (S,) is needed, got {acc.shape} for {grid.shape}")
    if len(grid) < 4:
        raise FitError(f"sigmas: a fit of four parameters needs at least 4 points, got {len(grid)}; sweep more")
    if not np.isfinite(grid).all() or grid[0] <= 0 or (np.diff(grid) <= 0).any():
        raise FitError(f"sigmas: positive, finite and strictly ascending is needed, got {grid.tolist()}")
    if not ((acc >= 0) & (acc <= 1)).all():
        where = np.argwhere(~((acc >= 0) & (acc <= 1)))[0]
        raise FitError(f"accuracies: fractions in [0, 1] are needed, got {acc[tuple(where)]} at {where.tolist()}")
    if not 0 < chance < 1:
        raise FitError(f"chance: the accuracy of guessing lies in (0, 1), got {chance}")
    if noise_free is not None and not 0 <= noise_free <= 1:
        raise FitError(f"noise_free: a fraction in [0, 1] is needed, got {noise_free}")
    if samples is not None and samples < 1:
        raise FitError(f"samples: the number of test samples is at least 1, got {samples}")
    group = np.zeros(acc.shape[1], dtype=int) if trainings is None else np.asarray(trainings)
    if group.shape != (acc.shape[1],):
        raise FitError(f"trainings: one number a column ({acc.shape[1]},) is needed, got shape {group.shape}")
    names = np.unique(group)
    if len(names) == 1:
        return grid, acc, False
    return grid, np.stack([acc[:, group == name].mean(1) for name in names], 1), True


def _guessing(chance: float, samples: int | None, points: int) -> float:
    """Return the highest accuracy that a network may have without being told from guessing."""
    limit = chance + MIN_RISE * (1 - chance)
    if samples is None:
        return limit
    from scipy.special import bdtrik

    return max(limit, math.ceil(bdtrik(1 - ALPHA / points, samples, chance)) / samples)


def _bounds(t: Array, chance: float) -> tuple[Array, Array]:
    """Return bounds of (log µ, log k, top, floor): µ within 100 times beyond the grid, k as steep as it can resolve."""
    beyond, steepest = math.log(100), 12 / float(np.median(np.diff(t)))
    return (
        np.array([t[0] - beyond, math.log(0.1), chance, 0.0]),
        np.array([t[-1] + beyond, math.log(steepest), 1.0, chance]),
    )


def _curve(x: Array, params: Array) -> Array:
    """Accuracy (B, S) at log σ (S,) for parameters (B, 4)."""
    mu, log_k, top, floor = params.T[..., None]
    return floor + (top - floor) / (1 + np.exp(np.clip(np.exp(log_k) * (x - mu), -60, 60)))


def _jacobian(x: Array, params: Array) -> Array:
    """Return d accuracy / d (log µ, log k, top, floor), (B, S, 4)."""
    mu, log_k, top, floor = params.T[..., None]
    share = 1 / (1 + np.exp(np.clip(np.exp(log_k) * (x - mu), -60, 60)))
    steep = np.exp(log_k) * (top - floor) * share * (1 - share)
    return np.stack([steep, -steep * (x - mu), share, 1 - share], 2)


def _fit(x: Array, y: Array, t: Array, bounds: tuple[Array, Array]) -> tuple[Array, float]:
    """Return the least-squares parameters (4,) and R²; the descent starts from the best of many coarse ones."""
    from scipy.optimize import OptimizeWarning, curve_fit

    starts = np.array([[mu, math.log(k), y.max(), y.min()] for mu in t for k in (1.5, 4.0)])
    rough = _descend(x, np.repeat(y[None], len(starts), 0), starts, bounds)
    start = rough[((y - _curve(x, rough)) ** 2).sum(1).argmin()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
        best, _ = curve_fit(
            lambda x, *p: _curve(x, np.array([p]))[0],
            x,
            y,
            start,
            bounds=bounds,
            jac=lambda x, *p: _jacobian(x, np.array([p]))[0],
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
            max_nfev=1000,
        )
    # An interior-point step away from an active bound may lose what the start had.
    best = min(start, best, key=lambda p: float(((y - _curve(x, p[None])[0]) ** 2).sum()))
    return best, 1 - float(((y - _curve(x, best[None])[0]) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def _descend(x: Array, y: Array, params: Array, bounds: tuple[Array, Array]) -> Array:
    """Fit B curves y (B, S) at once from params (B, 4): Levenberg-Marquardt, projected on the bounds.

    curve_fit takes milliseconds a curve; a bootstrap of 1000 takes as long as ten of those here.
    """
    low, high = bounds
    params = np.clip(params, low, high)
    damping = np.full(len(y), 1e-3)
    residual = y - _curve(x, params)
    for _ in range(STEPS):
        jacobian = _jacobian(x, params)
        gradient = np.einsum("bsi,bs->bi", jacobian, residual)
        stuck = ((params <= low) & (gradient < 0)) | ((params >= high) & (gradient > 0))
        jacobian = np.where(stuck[:, None], 0, jacobian)
        normal = np.einsum("bsi,bsj->bij", jacobian, jacobian)
        diagonal = np.einsum("bii->bi", normal)
        normal = normal + (damping[:, None] * diagonal + 1e-12)[:, :, None] * np.eye(4)
        step = np.linalg.solve(normal, np.where(stuck, 0, gradient)[..., None])[..., 0]
        trial = np.clip(params + step, low, high)
        trial_residual = y - _curve(x, trial)
        better = (trial_residual**2).sum(1) <= (residual**2).sum(1)
        moved = np.abs(trial - params).max(1)
        params = np.where(better[:, None], trial, params)
        residual = np.where(better[:, None], trial_residual, residual)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
        if ((moved < 1e-7) | (damping > 1e8)).all():
            break
    return params


def _interval(
    x: Array,
    units: Array,
    together: bool,
    best: Array,
    bounds: tuple[Array, Array],
    samples: int | None,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the 95 % interval of log µ; NaN where there is nothing to estimate it from. See `fit_midpoint`'s notes."""
    from scipy.special import ndtri, stdtrit

    rng = np.random.default_rng(seed)
    mean, n = units.mean(1), units.shape[1]
    if n == 1:
        if samples is None:
            return math.nan, math.nan
        drawn, stretch = rng.binomial(samples, mean, (resamples, len(mean))) / samples, 1.0
    else:
        deviations = (units - mean[:, None]) * math.sqrt(n / (n - 1))
        if together:
            drawn = mean + deviations.T[rng.integers(0, n, (resamples, n))].mean(1)
            freedom = n - 1.0
        else:
            pick = rng.integers(0, n, (resamples, len(mean), n))
            drawn = mean + deviations[np.arange(len(mean))[:, None], pick].mean(2)
            free = (best > bounds[0] + 1e-6) & (best < bounds[1] - 1e-6)
            free[LOG_MU] = True
            influence = np.linalg.pinv(_jacobian(x, best[None])[0][:, free])[0]  # d log µ / d mean
            variances = influence**2 * units.var(1, ddof=1)
            total = variances.sum()
            freedom = total**2 / (variances**2 / (n - 1)).sum() if total > 0 else n - 1.0
        stretch = stdtrit(freedom, 0.975) / ndtri(0.975)
    log_mu = _descend(x, drawn, np.repeat(best[None], resamples, 0), bounds)[:, LOG_MU]
    low, high = np.quantile(log_mu, [0.025, 0.975])
    return best[LOG_MU] + (low - best[LOG_MU]) * stretch, best[LOG_MU] + (high - best[LOG_MU]) * stretch
