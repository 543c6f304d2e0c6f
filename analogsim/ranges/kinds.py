"""How the ranges of two kinds of converters are found: ±F (or [0, F]), and [low, high]."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..profile import ADC, DAC, Range
from . import full_scale, two_sided
from .histogram import Histogram, pooled
from .two_sided import TwoSided

Array = np.ndarray


@dataclass(frozen=True)
class Symmetric:
    """A converter of `levels` steps from 0 to a full scale F; 0 only clips."""

    levels: int
    signed: bool

    def histogram(self, binned: bool) -> Histogram:
        """Return an empty histogram of what is converted."""
        return Histogram(binned, self.signed)

    def pooled(self, histograms: list[Histogram]) -> Histogram:
        """Return one histogram of what several counted."""
        return pooled(histograms)

    def all(self, histogram: Histogram) -> float:
        """Return the least range that clips nothing."""
        return histogram.maximum

    def best(self, histogram: Histogram, sigma: float = 0.0) -> float:
        """Return the range of least error."""
        return full_scale.best_scale(histogram, self.levels, sigma)

    def least_error(self, histogram: Histogram, sigma: float) -> float:
        """Return roughly the error of the best range."""
        return full_scale.least_error(histogram, self.levels, sigma)

    def errors(self, histogram: Histogram, ranges: Any, sigma: float = 0.0) -> Array:
        """Return the mean square error of each range, of a few or of many."""
        return full_scale.conversion_error(histogram, np.asarray(ranges), self.levels, sigma)

    def of_size(self, histogram: Histogram, size: float) -> float:
        """Return the best range with an end of this magnitude."""
        return size

    def aligned(self, scale: float) -> float:
        """Return where the outermost levels of a converter with this range lie."""
        return scale

    def least(self, error: Callable[[Array], Array], most: float) -> float:
        """Return the range within another of least error."""
        return full_scale.least(error, most)

    def of(self, scale: float | Range) -> float:
        """Return a range of this kind that reaches as far as another."""
        return size(scale)


@dataclass(frozen=True)
class Asymmetric:
    """A converter of 2^bits levels over [low, high]; without bits it only clips. Methods are those of `Symmetric`."""

    bits: int | None

    def histogram(self, binned: bool) -> TwoSided:
        """As `Symmetric`."""
        return TwoSided(binned)

    def pooled(self, histograms: list[TwoSided]) -> TwoSided:
        """As `Symmetric`."""
        return two_sided.pooled_sides(histograms)

    def all(self, histogram: TwoSided) -> Range:
        """As `Symmetric`."""
        return histogram.range

    def best(self, histogram: TwoSided, sigma: float = 0.0) -> Range:
        """As `Symmetric`."""
        return two_sided.best_range(histogram, self.bits, sigma)

    def least_error(self, histogram: TwoSided, sigma: float) -> float:
        """As `Symmetric`."""
        return two_sided.least_error(histogram, self.bits, sigma)

    def errors(self, histogram: TwoSided, ranges: Any, sigma: float = 0.0) -> Array:
        """As `Symmetric`."""
        return two_sided.range_error(histogram, np.asarray(ranges), self.bits, sigma)

    def of_size(self, histogram: TwoSided, size: float) -> Range:
        """As `Symmetric`."""
        assert self.bits is not None  # it is asked of DACs, which have bits
        return two_sided.best_of_size(histogram, self.bits, size)

    def aligned(self, scale: Range) -> Range:
        """As `Symmetric`."""
        return scale.aligned(self.bits)

    def least(self, error: Callable[[Array], Array], most: Range) -> Range:
        """As `Symmetric`."""
        return two_sided.least_range(error, most)

    def of(self, scale: float | Range) -> Range:
        """As `Symmetric`."""
        return scale if isinstance(scale, Range) else Range(-scale, scale)


Kind = Any  # Symmetric or Asymmetric, and histograms and ranges to match


def of_dac(dac: DAC) -> Kind:
    """Return the kind of a DAC's range."""
    return Symmetric(dac.levels, dac.signed or dac.bits is None) if dac.symmetric else Asymmetric(dac.bits)


def of_adc(adc: ADC) -> Kind:
    """Return the kind of an ADC's range."""
    return Symmetric(adc.levels, adc.signed) if adc.symmetric else Asymmetric(adc.bits)


def size(scale: float | Range) -> float:
    """Return the magnitude of a range's farther end."""
    return scale.size if isinstance(scale, Range) else scale


def scaled(scale: Any, factor: float) -> Any:
    """Return a range in other units."""
    return scale.scaled(factor) if isinstance(scale, Range) else scale * factor


def hull(scales: Sequence[Any]) -> Any:
    """Return the least range that holds all of several; of both kinds, one as far on both sides."""
    if not all(isinstance(scale, Range) for scale in scales):
        return max(map(size, scales))
    return Range(min(low for low, _ in scales), max(high for _, high in scales))
