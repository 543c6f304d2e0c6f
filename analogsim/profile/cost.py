"""The part of a profile that says what computing costs: energies and latencies, from which `analogsim cost` adds up."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ..value import NonNegative, Value


class Cost(Value):
    """What conversions and products cost, or reads as a whole; null: unknown, and so are the totals of `analogsim cost`
    that need it.
    """

    dac_energy: NonNegative | None = None
    """Energy of one input's conversion, pJ."""
    dac_fom: NonNegative | None = None
    """DAC figure of merit, fJ a step: where dac_energy is null, a conversion of b bits takes dac_fom·2^b."""
    adc_energy: NonNegative | None = None
    """Energy of one output's conversion, pJ."""
    adc_fom: NonNegative | None = None
    """ADC figure of merit (Walden's), fJ a step: where adc_energy is null, a conversion of b bits takes adc_fom·2^b."""
    mac_energy: NonNegative | None = None
    """Energy of one multiplication and addition in the array, fJ."""
    read_energy: NonNegative | None = None
    """Energy of one read of a whole tile, conversions included, pJ: instead of all the above, where only a chip's total
    is known. A tile in part use takes all of it."""
    pulse_energy: NonNegative | None = None
    """Energy of one pulse that writes a device, with the read that verifies it, pJ: of programming, not of reads."""
    dac_latency: NonNegative | None = None
    """Time of the inputs' conversion, which happens for all rows at once, ns."""
    array_latency: NonNegative | None = None
    """Time in which a tile's sums settle or integrate, ns."""
    adc_latency: NonNegative | None = None
    """Time of one output's conversion, ns."""
    adcs_per_tile: Annotated[int, Field(ge=1)] | None = None
    """ADCs that the columns of a tile take turns at. null: one for each column."""
    overlap: bool = False
    """true: sums are held, so that a read's are converted while the array settles for the next read."""
    read_latency: NonNegative | None = None
    """Time of one read of a tile, conversions included, ns: instead of the parts' latencies."""

    @model_validator(mode="after")
    def _whole_or_parts(self) -> Self:
        split = {
            "read_energy": ("dac_energy", "dac_fom", "adc_energy", "adc_fom", "mac_energy"),
            "read_latency": ("dac_latency", "array_latency", "adc_latency", "adcs_per_tile"),
        }
        for whole, parts in split.items():
            both = [part for part in parts if getattr(self, part) is not None]
            if getattr(self, whole) is not None and both:
                raise ValueError(f"{whole} is the whole of a read: leave out {', '.join(both)}")
        if self.overlap and self.read_latency is not None:
            raise ValueError("read_latency is the whole of a read: leave out overlap")
        return self
