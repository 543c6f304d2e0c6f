"""A histogram of magnitudes whose range grows with the data: streaming statistics in bounded memory."""

import math

import numpy as np
import torch
from torch import Tensor

BINS = 8192
_PART = 2**20  # elements counted at a time


class Histogram:
    """Counts of |v| in `BINS` equal bins over [0, top), of any number of tensors.

    `top` is a power of two above the largest magnitude so far. When it doubles, pairs of bins become one, which is
    exact: the counts depend on the data alone, not on how they came in batches. Exact zeros (ReLU makes many) are
    counted apart, for they are neither rounded nor clipped.

    Parameters
    ----------
    binned : bool
        False keeps only number, maximum and sum of squares.
    signed : bool
        False: of a converter that knows no sign. What is below 0 counts as 0, which it becomes, and in `below`.

    Attributes
    ----------
    counts : array (BINS,), int64
    top : float
        Upper end of the bins; 0 before the first number that is not zero. At least 2^-900, so that it has an inverse.
    number, zeros : int
    maximum : float
        Exact; NaN or infinite once a value was.
    below : int
        Numbers below 0 that are not `signed`.
    squares : float
        Σ v².
    """

    def __init__(self, binned: bool = True, signed: bool = True) -> None:
        self.binned, self.signed = binned, signed
        self.counts = np.zeros(BINS, np.int64)
        self.top, self.maximum, self.squares = 0.0, 0.0, 0.0
        self.number, self.zeros, self.below = 0, 0, 0

    def add(self, values: Tensor) -> None:
        """Count the magnitudes of a tensor of any shape."""
        for part in values.detach().reshape(-1).split(_PART):
            if not self.signed:
                self.below += int((part < 0).sum())
                part = part.clamp(min=0)
            if part.numel():
                self._add(part.abs())

    def _add(self, values: Tensor) -> None:
        maximum = float(values.amax())
        self.number += values.numel()
        if maximum > self.maximum or math.isnan(maximum):  # once NaN, it stays NaN
            self.maximum = maximum
        if not math.isfinite(self.maximum):
            return
        values = values.double()  # in which no float32 number's square, nor its part of a small top, is beyond range
        self.squares += float(values.square().sum())
        if not self.binned:
            return
        if not maximum and not self.top:
            self.zeros += values.numel()
            return
        while maximum >= self.top:
            self._widen(maximum)
        index = (values * (BINS / self.top)).long()
        counts = torch.bincount(index, minlength=BINS).cpu().numpy()
        zeros = values.numel() - int(values.count_nonzero())
        counts[0] -= zeros
        self.counts += counts
        self.zeros += zeros

    def _widen(self, maximum: float) -> None:
        if not self.top:
            # frexp's power of two is the smallest above.
            self.top = math.ldexp(1.0, max(math.frexp(maximum)[1], -900))
            return
        self.counts = _merged(self.counts)
        self.top *= 2

    @property
    def mean_square(self) -> float:
        """E[v²]."""
        return self.squares / max(1, self.number)

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins (BINS + 1,)."""
        return np.linspace(0, self.top, BINS + 1)

    def percentile(self, percent: float) -> float:
        """Return the magnitude below which `percent` % lie, exact to a bin (at most 1/4096 of the maximum)."""
        rank = percent / 100 * self.number - self.zeros
        if rank <= 0:
            return 0.0
        cumulative = np.cumsum(self.counts)
        index = min(int(np.searchsorted(cumulative, rank)), BINS - 1)
        inside = (rank - (cumulative[index] - self.counts[index])) / max(1, self.counts[index])
        return min(self.maximum, float(index + inside) * self.top / BINS)

    def outside(self, level: float) -> float:
        """As `above`: the fraction beyond a range."""
        return self.above(level)

    def above(self, level: float) -> float:
        """Return the fraction of magnitudes above a level, exact to the bin that it falls in, with what is `below`."""
        if not self.number:
            return 0.0
        if level >= self.maximum:
            return self.below / self.number
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        within = float(np.interp(level, self.edges, cumulative))
        return (float(cumulative[-1]) - within + self.below) / self.number


def _merged(counts: np.ndarray) -> np.ndarray:
    """Return counts over twice the range: pairs of bins become one."""
    half = counts.reshape(-1, 2).sum(1)
    return np.concatenate([half, np.zeros_like(half)])


def pooled(histograms: list[Histogram]) -> Histogram:
    """Return one histogram of what several counted."""
    result = Histogram(all(histogram.binned for histogram in histograms))
    top = max(histogram.top for histogram in histograms)
    for one in histograms:
        counts, reach = one.counts, one.top
        while reach and reach < top:
            counts, reach = _merged(counts), reach * 2
        result.counts = result.counts + counts
        result.number += one.number
        result.zeros += one.zeros
        result.below += one.below
        result.squares += one.squares
        if one.maximum > result.maximum or math.isnan(one.maximum):
            result.maximum = one.maximum
    result.top = top
    return result
