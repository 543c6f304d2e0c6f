"""Kinds of ADCs by their thresholds: what a chip's own capacitors make of them, and room for kinds of others."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..profile import ADC
from ..profile.kinds import ADC_KINDS

Draw = Callable[..., Tensor]


class ADCKind(ABC):
    """A kind of ADC, `adc.kind` in a profile: where its codes begin, and what they mean.

    An ADC searches the code u of 2^bits for a sum, from u's highest bit on: a bit is kept where the sum is at least the
    threshold of the code that it would give. Sums below 0 have the codes below 2^(bits-1), if the ADC is signed.

    Derive a class with a `name`, and give it to `analogsim.register`.
    """

    name: str
    draws: bool = False
    """Whether one chip's ADCs differ from another's by what `transfer` draws, whatever the profile's fields say."""

    @abstractmethod
    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the ADCs' thresholds and outputs, in LSB: steps of full_scale / `adc.levels`.

        Parameters
        ----------
        adc : ADC
            The profile's fields.
        codes : Tensor (2^bits,)
            k = u, or u - 2^(bits-1) of a signed ADC, of every code u in order.
        draw : callable
            `draw(n)` returns n standard normals for each of a tile's ADCs, (ADCs, n), of this chip; `draw(n,
            shared=True)` those of one circuit that all the tile's ADCs share, (1, n). Both give the same numbers
            each time.

        Returns
        -------
        thresholds : Tensor (ADCs or 1, 2^bits - 1)
            Where codes u = 1, 2, … begin.
        outputs : Tensor (ADCs or 1, 2^bits)
            What codes u = 0, 1, … mean.
        """


class Ideal(ADCKind):
    """Evenly spaced levels. Only rounding down needs a table; to the nearest is arithmetic (`Backend.convert`)."""

    name = "ideal"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return codes that begin where they are."""
        return codes[None, 1:], codes[None]


def capacitive(adc: ADC, codes: Tensor, drawn: Tensor) -> Tensor:
    """Return the levels V(k), in LSB, of DACs of binary capacitors C_i against one of 2^B: (DACs, codes).

        V(k) = sign(k) · Σ_i<B |k|_i C_i · 2^B/C_B,    C_i = 2^i·(1 + mismatch·N(0, 1)/√2^i),    B = bits - signed

    Parameters
    ----------
    drawn : Tensor (DACs, B + 1)
        Standard normals.

    References
    ----------
    M. Spear et al., *The impact of analog-to-digital converter architecture and variability on analog neural
    network accuracy*, IEEE JXCDC 2023.
    """
    count = drawn.shape[1]
    sizes = 2.0 ** torch.arange(count, device=codes.device, dtype=codes.dtype)
    capacitors = sizes + adc.capacitor_mismatch * sizes.sqrt() * drawn
    bits = codes.abs().long()[:, None] >> torch.arange(count, device=codes.device) & 1
    return codes.sign() * (capacitors @ bits.to(codes.dtype).T) * sizes[-1] / capacitors[:, -1:]


def symmetric(adc: ADC, codes: Tensor) -> Tensor:
    """Return what codes mean where the lowest of a signed ADC, which an even range does not need, means the next."""
    return codes.clamp(-adc.levels, adc.levels)


class SAR(ADCKind):
    """Successive approximation: each ADC compares with the levels of a capacitive DAC of its own, V(k) - 1/2."""

    name = "sar"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return thresholds half a step below each ADC's levels."""
        levels = capacitive(adc, codes, draw((adc.bits or 1) - adc.signed + 1))
        return levels[:, 1:] - 0.5, symmetric(adc, codes).expand_as(levels)


class Ramp(ADCKind):
    """A ramp of one capacitive DAC a tile, whose counter stops at the level next to a sum.

    Codes begin half way between two neighbours of the levels in their order, which mismatch may change. `adc.inl` bends
    the ramp by inl·(1 - z²), z from -1 to 1 over its range.
    """

    name = "ramp"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return thresholds in the middle of neighbouring levels, the same for all of a tile's columns."""
        levels = capacitive(adc, codes, draw((adc.bits or 1) - adc.signed + 1, shared=True))
        middle = 0.0 if adc.signed else adc.levels / 2
        bow = 1 - ((codes - middle) / (adc.levels - middle)) ** 2
        levels, order = (levels + adc.inl * bow).sort(dim=1)
        return (levels[:, 1:] + levels[:, :-1]) / 2, symmetric(adc, codes).expand_as(levels).gather(1, order)


class Measured(ADCKind):
    """Codes that begin where `adc.transfer` says, one curve for all ADCs, or one for each output in turn."""

    name = "measured"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the measured thresholds; codes mean what they should."""
        assert adc.transfer is not None  # the profile says so
        assert adc.bits is not None
        curves = codes.new_tensor(adc.transfer.edges(adc.bits, adc.signed))
        outputs = symmetric(adc, codes)
        if len(curves) == 1:
            return curves, outputs[None]
        adcs = len(draw(1))
        own = torch.arange(adcs, device=codes.device) % len(curves)
        return curves[own], outputs.expand(adcs, -1)


for kind in (Ideal(), SAR(), Ramp(), Measured()):
    ADC_KINDS.add(kind)
