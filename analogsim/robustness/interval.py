"""What noise leaves open of a fit: its bootstrap, percentiles, and whether a misfit is more than noise.

`fit_midpoint`'s notes say why, and how often the intervals are right.
"""

import math
from dataclasses import dataclass

import numpy as np

from . import law
from .law import Array

MISFIT = 0.01  # false-alarm rate at which a misfit is told from noise


@dataclass(frozen=True)
class MeanCurve:
    """A mean curve and its noise.

    Attributes
    ----------
    units : array (S, n)
        Accuracies of n independent repeats or trainings.
    together : bool
        Whether a unit's noise is common to all points: it is a whole training.
    samples : int or None
        Test samples behind each accuracy; the noise of one unit is known by them alone.
    """

    units: Array
    together: bool
    samples: int | None

    @property
    def mean(self) -> Array:
        """The mean curve, (S,)."""
        return self.units.mean(1)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of each point's variance."""
        return self.units.shape[1] - 1.0 if self.units.shape[1] > 1 else math.inf

    @property
    def variances(self) -> Array | None:
        """Variance of each point of the mean curve, (S,); None where it is not known."""
        n, mean = self.units.shape[1], self.mean
        if n > 1:
            return self.units.var(1, ddof=1) / n
        return None if self.samples is None else mean * (1 - mean) / self.samples

    def misfit(self, residual: Array, fitted: int) -> bool:
        """Say whether a residual (S,) of so many fitted parameters is more than noise; of unknown noise it is.

        An F test, whose degrees of freedom are Satterthwaite's, for the variances of the points differ.
        """
        from scipy.special import chdtrc, fdtrc

        variances, left = self.variances, len(residual) - fitted
        if variances is None or left < 1:
            return variances is None
        squares, total, square = (float(part.sum()) for part in (residual**2, variances, variances**2))
        if not square:
            return squares > 1e-12
        ratio, first = squares / left / (total / len(residual)), total**2 / square * left / len(residual)
        if math.isinf(self.freedom):
            return bool(chdtrc(first, ratio * first) < MISFIT)
        return bool(fdtrc(first, total**2 / square * self.freedom, ratio) < MISFIT)

    def drawn(self, resamples: int, seed: int) -> Array:
        """Return bootstrap samples (B, S) of the mean curve; none where the noise is not known."""
        rng, mean, n = np.random.default_rng(seed), self.mean, self.units.shape[1]
        if self.variances is None:
            return np.zeros((0, len(mean)))
        if n == 1 and self.samples is not None:
            return rng.binomial(self.samples, mean, (resamples, len(mean))) / self.samples
        deviations = (self.units - mean[:, None]) * math.sqrt(n / (n - 1))
        if self.together:
            return mean + deviations.T[rng.integers(0, n, (resamples, n))].mean(1)
        rows, samples = np.arange(len(mean))[:, None], np.zeros((resamples, len(mean)))
        # In parts, for the picks of a long grid take gigabytes.
        for part in np.array_split(samples, max(1, math.ceil(resamples * self.units.size / law.AT_ONCE))):
            part[:] = mean + deviations[rows, rng.integers(0, n, (*part.shape, n))].mean(2)
        return samples

    def stretch(self, influence: Array) -> float:
        """Return how much too narrow percentiles are: t_ν/z, the points weighted by their influence (S,) on the fit."""
        from scipy.special import ndtri, stdtrit

        freedom, variances = self.freedom, self.variances
        if variances is None or math.isinf(freedom):
            return 1.0
        weighted = influence**2 * variances
        if not self.together and weighted.sum() > 0:
            freedom = float(weighted.sum() ** 2 / (weighted**2 / freedom).sum())
        return float(stdtrit(freedom, 0.975) / ndtri(0.975))


def percentiles(values: Array, center: float, stretch: float) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % percentiles, stretched from the estimate outwards; NaN where there is no value."""
    if not len(values):
        return math.nan, math.nan
    # Some may be infinite, between which there is nothing to interpolate.
    method = "linear" if np.isfinite(values).all() else "nearest"
    low, high = np.quantile(values, [0.025, 0.975], method=method).tolist()
    if not math.isfinite(center):
        return min(low, center), max(high, center)
    return center + (low - center) * stretch, center + (high - center) * stretch


def agree(difference: float, differences: Array, stretch: float) -> bool:
    """Say whether two estimates differ by no more than noise has them differ in 95 % of the samples."""
    if not np.isfinite([difference, *differences]).all():
        return False
    return bool(abs(difference) <= 1.96 * stretch * differences.std())


def with_cell(low: float, high: float, t: Array, log_sigma: float) -> tuple[float, float]:
    """Return an interval that also has the two points of the grid t that enclose a σ."""
    beside = int(np.searchsorted(t, log_sigma).clip(1, len(t) - 1))
    return float(np.fmin(low, t[beside - 1])), float(np.fmax(high, t[beside]))
