"""Histograms of numbers with their signs, and the asymmetric ranges of least error; numbers only, no network."""

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..profile import Range
from .full_scale import error_of_side
from .histogram import Histogram, pooled

Array = np.ndarray
_COARSE, _FINE, _ROUNDS = 25, 9, 3  # candidates for each end: from 2^-10 of the farthest up, then around the best
_NOISY_BINS = 1024
_MERGED = 8  # bins that are one where a first look is enough
Sides = tuple[tuple[Array, Array], Array, Array]


class TwoSided:
    """Two histograms of magnitudes: of numbers that are at least 0, and of those below; has what `Histogram` has.

    Parameters
    ----------
    binned : bool
        False keeps only number, maxima and sum of squares.
    """

    below = 0

    def __init__(self, binned: bool = True) -> None:
        self.positive, self.negative = Histogram(binned), Histogram(binned)

    def add(self, values: Tensor) -> None:
        """Count the numbers of a tensor of any shape."""
        values = values.detach().reshape(-1)
        negative = values < 0
        self.positive.add(values[~negative])  # with NaN, which its maximum shows
        self.negative.add(-values[negative])

    @property
    def number(self) -> int:
        """How many numbers were counted."""
        return self.positive.number + self.negative.number

    @property
    def maximum(self) -> float:
        """The largest magnitude; NaN or infinite once a value was."""
        both = self.positive.maximum, self.negative.maximum
        return math.nan if any(map(math.isnan, both)) else max(both)

    @property
    def mean_square(self) -> float:
        """E[v²]."""
        return (self.positive.squares + self.negative.squares) / max(1, self.number)

    @property
    def range(self) -> Range:
        """The least and the largest number, and 0."""
        return Range(-self.negative.maximum, self.positive.maximum)

    def percentile(self, percent: float) -> Range:
        """Return the range that leaves out half of what `percent` % leave, at either end."""
        tail = (100 - percent) / 200 * self.number
        high, low = (
            side.percentile(100 * (1 - tail / side.number)) if side.number > tail else 0.0
            for side in (self.positive, self.negative)
        )
        return Range(-low, high)

    def outside(self, limits: Range) -> float:
        """Return the fraction of numbers beyond a range, exact to the bins that its ends fall in."""
        beyond = self.positive.above(limits.high) * self.positive.number
        return (beyond + self.negative.above(-limits.low) * self.negative.number) / max(1, self.number)


def pooled_sides(histograms: list[TwoSided]) -> TwoSided:
    """Return one histogram of what several counted."""
    result = TwoSided()
    result.positive = pooled([one.positive for one in histograms])
    result.negative = pooled([one.negative for one in histograms])
    return result


def range_error(histogram: TwoSided, ranges: Array, bits: int | None, sigma: float = 0.0) -> Array:
    """Return the mean square error of a converter at each range: `full_scale.conversion_error` on either side of 0.

    Parameters
    ----------
    histogram : TwoSided
    ranges : array (S, 2)
        low and high, units of the numbers; they are aligned as `Range.codes` says.
    bits : int or None
        None only clips.
    sigma : float
        Noise before the converter, units of the numbers.
    """
    return _error(_sides(histogram, sigma), ranges, bits)


def least_range(
    error: Callable[[Array], Array],
    most: Range,
    first: Callable[[Array], Array] | None = None,
    coarse: int = _COARSE,
    rounds: int = _ROUNDS,
) -> Range:
    """Return the range within another that has the least error, its ends found to half a percent of themselves.

    Parameters
    ----------
    error : callable
        Ranges (S, 2) to errors (S,).
    most : Range
    first : callable, optional
        Roughly the same, for the first of the looks.
    """
    if not most.size:  # nothing but zeros
        return most
    steps = np.concatenate([[0.0], np.geomspace(2.0**-10, 1, coarse)])
    ratio = 2.0 ** (10 / (coarse - 1))

    def best(error: Callable[[Array], Array], lows: Array, highs: Array) -> Range:
        grid = np.stack(np.meshgrid(np.unique(lows), np.unique(highs), indexing="ij"), -1).reshape(-1, 2)
        grid = grid[grid[:, 1] > grid[:, 0]]
        errors = np.concatenate([error(part) for part in np.array_split(grid, -(-len(grid) // 16))])
        return Range(*map(float, grid[int(np.argmin(errors))]))

    found = best(first or error, most.low * steps, most.high * steps)
    for _ in range(rounds):
        near = np.geomspace(1 / ratio, ratio, _FINE)
        found = best(error, np.maximum(found.low * near, most.low), np.minimum(found.high * near, most.high))
        ratio **= 2 / (_FINE - 1)
    return found


def best_range(histogram: TwoSided, bits: int | None, sigma: float = 0.0) -> Range:
    """Return the range of least `range_error`; where nothing is rounded, all numbers' and four σ more."""
    most = _most(histogram, sigma)
    if bits is None:
        return most
    sides = _sides(histogram, sigma)
    coarse = _merged(sides)
    return least_range(lambda ranges: _error(sides, ranges, bits), most, lambda ranges: _error(coarse, ranges, bits))


def least_error(histogram: TwoSided, bits: int | None, sigma: float) -> float:
    """Return roughly the `range_error` of the best range: one look at fewer of them, at fewer bins."""
    sides, found = _merged(_sides(histogram, sigma)), _most(histogram, sigma)
    if bits is not None:
        found = least_range(lambda ranges: _error(sides, ranges, bits), found, coarse=9, rounds=1)
    return float(_error(sides, np.array([found]), bits)[0])


def best_of_size(histogram: TwoSided, bits: int, size: float) -> Range:
    """Return the range of least error among those whose farther end has a magnitude.

    The other end is the one that costs least: codes spent where there are no numbers are lost.
    """
    shares = np.concatenate([[0.0], np.geomspace(2.0**-8, 1, 33)]) * size
    grid = np.concatenate([np.stack([-shares, np.full(34, size)], 1), np.stack([np.full(34, -size), shares], 1)])
    return Range(*map(float, grid[int(np.argmin(_error(_merged(_sides(histogram, 0.0)), grid, bits)))]))


def _most(histogram: TwoSided, sigma: float) -> Range:
    return Range(histogram.range.low - 4 * sigma, histogram.range.high + 4 * sigma)


def _error(sides: Sides, ranges: Array, bits: int | None) -> Array:
    ranges = np.asarray(ranges, float)
    low, high, step = -ranges[:, :1], ranges[:, 1:], None
    if bits is not None:
        step = np.maximum(low + high, 1e-300) / (2**bits - 1)
        lowest = np.round(low / step)
        low, high = lowest * step, (2**bits - 1 - lowest) * step
    edges, *weights = sides
    found = (error_of_side(*side, step) for side in zip(edges, weights, (high, low), strict=True))
    return sum(found, np.zeros(len(ranges)))


def _merged(sides: Sides) -> Sides:
    """Return the same with `_MERGED` bins as one."""
    edges, *weights = sides
    many = [np.pad(w, (0, -len(w) % _MERGED)).reshape(-1, _MERGED).sum(1) for w in weights]
    wide = [e[1] * _MERGED * np.arange(len(w) + 1) for e, w in zip(edges, many, strict=True)]
    return (wide[0], wide[1]), many[0], many[1]


def _sides(histogram: TwoSided, sigma: float) -> Sides:
    """Return the bins' edges, and their probabilities, on the positive and on the negative side."""
    number, sides = max(1, histogram.number), (histogram.positive, histogram.negative)
    reach = histogram.maximum + 6 * sigma
    width = reach / _NOISY_BINS
    if sigma <= max(side.top for side in sides) / len(histogram.positive.counts) / 2:  # finer than the bins
        used = [max(1, int(np.flatnonzero(side.counts).max(initial=0)) + 1) for side in sides]
        parts = [(side.edges[: u + 1], side.counts[:u] / number) for side, u in zip(sides, used, strict=True)]
        return (parts[0][0], parts[1][0]), parts[0][1], parts[1][1]
    grid = np.linspace(0, reach, _NOISY_BINS + 1)
    high, low = (np.diff(np.interp(grid, side.edges, np.append(0, np.cumsum(side.counts)))) / number for side in sides)
    zeros = sum(side.zeros for side in sides) / number
    high[0] += zeros / 2
    low[0] += zeros / 2
    # Multiplied by the normal's characteristic function.
    frequency = np.fft.rfftfreq(2 * _NOISY_BINS, width)
    spectrum = np.fft.rfft(np.concatenate([low[::-1], high])) * np.exp(-2 * (np.pi * frequency * sigma) ** 2)
    blurred = np.fft.irfft(spectrum, 2 * _NOISY_BINS).clip(0)
    return (grid, grid), blurred[_NOISY_BINS:], blurred[:_NOISY_BINS][::-1]
