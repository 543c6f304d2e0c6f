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
            What codes u = 0, 1, … mean. An ADC that gives codes in another order, or some of them in several places,
            may have more of both: 2^n - 1 and 2^n, n being larger than bits, u the number of the place.
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


def charged(adc: ADC, codes: Tensor, drawn: Tensor) -> Tensor:
    """Return the levels of `capacitive` DACs, in LSB, behind an amplifier of finite gain G (`adc.gain_db`).

        (V(k) + o)/(1 + 1/(G·β)) - o,    β = C/(C + Σ_i |k|_i C_i),    o = 1/2 (unsigned: 1/2 - 2^(bits - 1))

    C is the capacitor of 2^B, of a signed ADC another one of that size. Voltages are amplified as they lie about the
    middle of the range, where the amplifier's 0 is.

    Parameters
    ----------
    drawn : Tensor (DACs, B + 1), or (DACs, B + 2) of a signed ADC with a finite gain
        Standard normals.
    """
    count = (adc.bits or 1) - adc.signed + 1
    levels = capacitive(adc, codes, drawn[:, :count])
    if adc.gain_db is None:
        return levels
    sizes = 2.0 ** torch.arange(count, device=codes.device, dtype=codes.dtype)
    units = sizes + adc.capacitor_mismatch * sizes.sqrt() * drawn[:, :count]
    own = sizes[-1] + adc.capacitor_mismatch * sizes[-1].sqrt() * drawn[:, -1:]
    bits = codes.abs().long()[:, None] >> torch.arange(count, device=codes.device) & 1
    loaded = 1 + units @ bits.to(codes.dtype).T / own
    return amplified(adc, levels, loaded)


def amplified(adc: ADC, levels: Tensor, loaded: Tensor | float = 1.0) -> Tensor:
    """Return levels, in LSB, behind an amplifier of finite gain with a feedback factor of 1/`loaded`."""
    if adc.gain_db is None:
        return levels
    middle = 0.5 - (0 if adc.signed else 2 ** ((adc.bits or 1) - 1))
    return (levels + middle) / (1 + loaded / 10 ** (adc.gain_db / 20)) - middle


def draws_of(adc: ADC) -> int:
    """Return how many capacitors `charged` draws."""
    return (adc.bits or 1) - adc.signed + 1 + (adc.signed and adc.gain_db is not None)


def symmetric(adc: ADC, codes: Tensor) -> Tensor:
    """Return what codes mean where the lowest of a signed ADC, which an even range does not need, means the next."""
    return codes.clamp(-adc.levels, adc.levels)


class SAR(ADCKind):
    """Successive approximation: each ADC compares with the levels of a capacitive DAC of its own, V(k) - 1/2."""

    name = "sar"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return thresholds half a step below each ADC's levels."""
        levels = charged(adc, codes, draw(draws_of(adc)))
        return levels[:, 1:] - 0.5, symmetric(adc, codes).expand_as(levels)


class SplitSAR(ADCKind):
    """A SAR ADC whose binary capacitors are in two halves, of at most 2^⌈bits/2⌉ units, that a bridge C_b joins.

        V(k) = sign(k)·2^(bits-1)·(L(k)·C_b + H(k)·(C_L + C_b))/((C_L + C_b)(C_H + C_b) - C_b²)

    With h = ⌊bits/2⌋, L(k) and H(k) are the capacitors that |k| charges: of its h low bits, and of the others. C_L and
    C_H are all of a half; C_L has one more unit. C_b is 2^h/(2^h - 1) units.
    """

    name = "split-sar"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return thresholds half a step below each ADC's levels."""
        bits, drawn = adc.bits or 1, draw((adc.bits or 1) + 1)
        half = bits // 2
        place = torch.arange(bits - 1, device=codes.device)
        sizes = 2.0 ** torch.where(place < half, place, place - half).to(codes.dtype)
        bridge = 2**half / (2**half - 1)
        units = torch.cat([sizes, sizes.new_tensor([1.0, bridge])])
        units = units + adc.capacitor_mismatch * units.sqrt() * drawn
        charge = (codes.abs().long()[:, None] >> place & 1).to(codes.dtype).T
        low, high = (units[:, part] @ charge[part] for part in (slice(0, half), slice(half, bits - 1)))
        all_low = units[:, :half].sum(1, keepdim=True) + units[:, -2:-1] + units[:, -1:]
        all_high, joint = units[:, half : bits - 1].sum(1, keepdim=True) + units[:, -1:], units[:, -1:]
        volts = (low * joint + high * all_low) / (all_low * all_high - joint.square())
        levels = amplified(adc, codes.sign() * volts * 2 ** (bits - 1))
        return levels[:, 1:] - 0.5, symmetric(adc, codes).expand_as(levels)


class Ramp(ADCKind):
    """A ramp of one capacitive DAC a tile, whose counter stops at the level next to a sum.

    Codes begin half way between two neighbours of the levels in their order, which mismatch may change. `adc.inl` bends
    the ramp by inl·(1 - z²), z from -1 to 1 over its range.
    """

    name = "ramp"

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return thresholds in the middle of neighbouring levels, the same for all of a tile's columns."""
        levels = charged(adc, codes, draw(draws_of(adc), shared=True))
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


for kind in (Ideal(), SAR(), SplitSAR(), Ramp(), Measured()):
    ADC_KINDS.add(kind)
