"""What the ADCs of one tile make of a sum, and a chip's bit lines as whoever reads them at once needs them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .spec import MatmulSpec


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """The ADCs of one tile and one bit line of N outputs; arguments of `Backend.convert`.

    Attributes
    ----------
    limits : (float, float)
        Least and largest sum, normalised units.
    step : float
        Of an ideal quantizer; 0 does not round.
    gains, offsets : Tensor (N,)
        A sum s becomes s·gain + offset.
    table : (Tensor, Tensor) or None
        Thresholds (ADCs, 2^b - 1) and outputs (ADCs, 2^b) of a search, of one ADC or of N.
    differs : bool
        Whether any gain is not 1, or any offset not 0.
    prepared : dict
        Room for what a backend makes of these once, by a name of its own.
    """

    limits: tuple[float, float]
    step: float
    gains: Tensor
    offsets: Tensor
    table: tuple[Tensor, Tensor] | None = None
    differs: bool = True
    prepared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> tuple[tuple[float, float], float, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """What `Backend.convert` takes."""
        return self.limits, self.step, self.gains, self.offsets, self.table


def of_spec(spec: MatmulSpec, tile: int) -> Conversion:
    """Return the ideal quantizers that `Backend.accumulate` takes from a spec."""
    return _ideal(spec.even_scale(tile), spec.adc_levels)


@lru_cache(maxsize=256)
def _ideal(full_scale: float | None, levels: int) -> Conversion:
    most, none = math.inf if full_scale is None else full_scale, torch.empty(0, dtype=torch.float32, device="cpu")
    step = full_scale / levels if full_scale is not None and levels else 0.0
    return Conversion((-most, most), step, none, none, differs=False)


@dataclass(frozen=True, slots=True, eq=False)
class Conversions:
    """Line by line, of it step by step, the ADCs of each tile, and room for what a backend makes of all of them, by a
    name of its own.
    """

    each: Sequence[Conversion]
    prepared: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """All the bit lines of a matrix, and the steps in which inputs are applied: what `Backend.read_lines` adds up.

        y = scale · Σ_lines Σ_steps c_p d_j · Σ_t Q_pt(x_j,t ŵ_p,tᵀ + noise) + bias

    Attributes
    ----------
    weights : sequence of Tensor (N, K)
        ŵ_p, normalised units.
    variances : sequence of Tensor (N, K) or None
        Of each weight's noise at every read, normalised units squared.
    coefficients : sequence of float
        c_p.
    steps : sequence of float
        d_j.
    step_bits : int or None
        Bits of the inputs' codes that a step applies, the lowest first; None: all at once.
    seeds : sequence of int
        Of each line's steps: line by line, the key of their random numbers.
    conversions : Conversions
        Line by line, of each of its steps, those of its tiles.
    distribution : str
        Of the noise.
    registers : sequence of (float, float) or None
        Of each line's steps, the least and the largest sum over tiles, normalised units; None: any.
    slow : callable or None
        Draws what is added to sums besides, (lines, steps, tiles, M, N), normalised units.
    """

    weights: Sequence[Tensor]
    variances: Sequence[Tensor | None]
    coefficients: Sequence[float]
    steps: Sequence[float]
    step_bits: int | None
    seeds: Sequence[int]
    conversions: Conversions
    distribution: str = "gaussian"
    registers: Sequence[tuple[float, float]] | None = None
    slow: Callable[[], Tensor] | None = None
