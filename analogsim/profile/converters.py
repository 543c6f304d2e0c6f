"""The parts of a profile that describe its converters: DACs at the inputs of a crossbar, ADCs at its outputs.

Partial sums are in *normalised units*, as `array.py` defines them.
"""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ..value import LARGEST_SCALE, LEAST_SCALE, FullScale, NonNegative, Value
from .kinds import ADC_KINDS
from .transfer import OF_ADC, OF_DAC, ADCTransfer, DACTable

Bits = Annotated[int, Field(ge=1, le=16)]
SignedBits = Annotated[int, Field(ge=2, le=16)]


def levels(bits: int | None, signed: bool) -> int:
    """Return the steps from 0 to full scale: 2^(b-1)-1 with a sign, 2^b-1 for unsigned, 0 for what does not round."""
    return 0 if bits is None else 2 ** (bits - signed) - 1


class Range(NamedTuple):
    """An asymmetric range, low ≤ 0 ≤ high: what a converter of 2^bits levels covers that need not be as far from 0 on
    both sides.
    """

    low: float
    high: float

    @property
    def size(self) -> float:
        """The magnitude of the end that is farther from 0."""
        return max(-self.low, self.high)

    def scaled(self, factor: float) -> "Range":
        """Return the same range in other units."""
        return Range(self.low * factor, self.high * factor)

    def codes(self, bits: int) -> tuple[int, int, float]:
        """Return the lowest and the highest code, and the step: levels are the whole multiples of it in between.

            step = (high - low)/(2^bits - 1),    lowest = -round(-low/step),    highest = lowest + 2^bits - 1

        So the range is shifted by half a step at most, that 0 is a level.
        """
        many = 2**bits - 1
        step = (self.high - self.low) / many
        lowest = -round(-self.low / step)
        return lowest, lowest + many, step

    def aligned(self, bits: int | None) -> "Range":
        """Return the least and the largest level of a converter with this range; without bits, the range."""
        if bits is None:
            return self
        lowest, highest, step = self.codes(bits)
        return Range(lowest * step, highest * step)


def _range(value: Any) -> Range:
    """Read a pair, and refuse one that float32 cannot convert with or that does not hold 0."""
    low, high = value
    if not (low <= 0 <= high and LEAST_SCALE <= max(-low, high) <= LARGEST_SCALE):
        raise ValueError(f"a range [low, high] needs low <= 0 <= high, and an end in {LEAST_SCALE:.1e} … 1.3e+33")
    return Range(low, high)


_End = Annotated[float, Field(strict=True)]
Ends = Annotated[tuple[_End, _End], AfterValidator(_range)]
Scales = Annotated[tuple[FullScale | Ends, ...], Field(min_length=1)]


def _fits_symmetry(symmetric: bool, signed: bool, name: str, value: object) -> None:
    """Refuse a constant range, or a sign, of the other kind."""
    if isinstance(value, tuple) and not isinstance(value, Range):
        for one in value:
            _fits_symmetry(symmetric, signed, name, one)
        return
    if symmetric and isinstance(value, Range):
        raise ValueError(f"{name}: a range [low, high] is of symmetric: false")
    if not symmetric and isinstance(value, float):
        raise ValueError(f"{name}: with symmetric: false it is a range [low, high]")
    if not (symmetric or signed):
        raise ValueError("signed: false is of symmetric: true (a range [low, high] says itself what it holds below 0)")


class DAC(Value):
    """Digital-to-analog converter at the crossbar's inputs."""

    bits: Bits | None = None
    """Resolution in bits (signed: 2-16, step 1/(2^(b-1)-1); unsigned: 1-16, step 1/(2^b-1)).
    null: neither rounds nor clips."""
    signed: bool = True
    """true: inputs in [-1, 1]; false: inputs in [0, 1] (negative inputs clip to 0)."""
    symmetric: bool = True
    """false: inputs clip to a range [low, high] with low <= 0 <= high, and 2^bits levels lie (high - low)/(2^bits - 1)
    apart, one of them at 0, for which the range is shifted by half a step at most."""
    input_range: FullScale | Ends | Literal["calibrated", "dynamic", "vector"] = "calibrated"
    """Input full scale α in activation units: a constant (with `symmetric: false` [low, high]), `calibrated` (constant,
    stored in each layer by calibrate()), `vector` (absolute maximum of each input vector: noise management), or
    `dynamic` (absolute maximum of each batch, or its least and largest value; for comparison, no chip does this)."""

    rounding: Literal["nearest", "down", "stochastic"] = "nearest"
    """To which of its levels: the nearest, the next below (floor), or one of the two around it with a probability that
    grows as the other's distance, so that the mean is the input."""
    step_bits: Bits | None = None
    """Bits converted at once: the DAC's bits (of a signed one, its magnitude's) are applied in slices of this many, the
    lowest first, each converted by the ADC and added up digitally with its power of two. null: all at once."""

    inl: Annotated[DACTable | None, OF_DAC] = None
    """Integral non-linearity of all rows' DACs alike, or of several, measured: code c gives c + inl(c) steps (of each
    step of inputs, its code). Of n curves row r of every tile has the DAC r mod n. null: none."""

    @model_validator(mode="after")
    def _bits_fit_together(self) -> Self:
        if self.signed and self.symmetric and self.bits == 1:
            raise ValueError("a signed DAC needs at least 2 bits (1 bit leaves no level but 0)")
        if self.step_bits is not None and (self.bits is None or self.step_bits > self.bits - self.signed):
            raise ValueError(f"step_bits must be at most the DAC's own bits of magnitude (got {self.step_bits})")
        if self.inl is not None:
            if self.bits is None:
                raise ValueError("inl is of a DAC with bits")
            self.inl.levels(self.step_levels, self.signed)
        _fits_symmetry(self.symmetric, self.signed, "input_range", self.input_range)
        if self.rounding != "nearest" and self.bits is None:
            raise ValueError(f"rounding {self.rounding!r} is of a DAC with bits")
        if not self.symmetric and self.input_range == "vector":
            raise ValueError("input_range 'vector' is of symmetric: true")
        if not self.symmetric and (self.bits is None or self.step_bits is not None):
            raise ValueError(
                "symmetric: false is of a DAC with bits, all of which it applies at once (step_bits: null)"
            )
        if not self.symmetric and self.inl is not None:
            raise ValueError("inl is of a DAC with symmetric: true")
        return self

    @property
    def differs_by_row(self) -> bool:
        """True where rows have DACs that are not alike."""
        return self.inl is not None and len(self.inl.inl) > 1

    @property
    def step_levels(self) -> int:
        """The largest code that is applied at once: of a step, or of all bits."""
        return self.levels if self.step_bits is None else 2**self.step_bits - 1

    @property
    def levels(self) -> int:
        """Steps from 0 to the input range; 0 where `bits` is null."""
        return levels(self.bits, self.signed)

    @property
    def steps(self) -> int:
        """How often inputs are applied: once, or `step_bits` of their magnitude at a time."""
        if self.bits is None or self.step_bits is None:
            return 1
        return -(-(self.bits - self.signed) // self.step_bits)


class ADC(Value):
    """Analog-to-digital converter at the crossbar's outputs, one conversion per tile and column."""

    bits: SignedBits | None = None
    """Resolution in bits, signed: step full_scale/(2^(b-1)-1). null: does not round."""
    symmetric: bool = True
    """false: partial sums clip to a range [low, high] with low <= 0 <= high, and 2^bits levels lie
    (high - low)/(2^bits - 1) apart, one of them at 0, for which the range is shifted by half a step at most."""
    full_scale: FullScale | Ends | Scales | Literal["calibrated"] | None = "calibrated"
    """Partial sums clip to ±full_scale, normalised units: a constant (with `symmetric: false` [low, high]), a list of
    them for each slice of weights (`cells.bits`) and of it each step of inputs (`dac.step_bits`), the lowest first, or
    `calibrated` (stored in each layer by calibrate()). null (only with bits: null): does not clip."""
    per: Literal["network", "layer", "tile", "slice"] = "layer"
    """Which ADCs share one calibrated full_scale: all of the network's, a layer's, a tile's (one cut of a layer's rows;
    its column tiles and groups share it), or those that convert one slice of a layer's weights in one step of its
    inputs (all tiles, and both halves of a pair). It matters only where full_scale is `calibrated`."""

    signed: bool = True
    """false: partial sums clip to [0, full_scale], step full_scale/(2^bits-1)."""
    gain_error: NonNegative = 0.0
    """Standard deviation between ADCs (one each tile and bit line) of their gain, fraction; drawn once for a chip."""
    offset_error: NonNegative = 0.0
    """Standard deviation between ADCs of their offset, fraction of full scale (of a range [low, high], of its end
    farther from 0); drawn once for a chip."""
    kind: Annotated[str, AfterValidator(ADC_KINDS.check), WithJsonSchema(ADC_KINDS.schema)] = "ideal"
    """Where the thresholds are: ideal: evenly spaced. sar: of a capacitive DAC in each ADC, searched bit by bit.
    split-sar: the same, its capacitors in two halves with a bridge. ramp: between the levels of one capacitive DAC a
    tile, whose ramp all its columns are compared with. pipeline: a stage for each bit, which doubles what is left.
    cyclic: one such stage, used again and again. Others where a program registers them (docs/extending.md)."""
    capacitor_mismatch: NonNegative = 0.0
    """All kinds but ideal: standard deviation of a unit capacitor, fraction; one of n units has this over √n."""
    gain_db: Annotated[float, Field(gt=0, le=400)] | None = None
    """All kinds but ideal: open-loop gain of the amplifier behind the capacitors, dB. null: infinite."""
    comparator_offset: NonNegative = 0.0
    """pipeline and cyclic: standard deviation of the offset of each comparator, fraction of the reference voltage."""
    rounding: Literal["nearest", "down", "stochastic"] = "nearest"
    """ideal: nearest: to the nearest of evenly spaced levels. down: to the next level below (floor), and signed codes
    are those of two's complement: -2^(b-1) to 2^(b-1)-1, where nearest has as many on both sides. stochastic: to one of
    the two levels around it, with a probability that grows as the other's distance, so that the mean is the sum."""
    sum_bits: SignedBits | None = None
    """Bits of the signed register in which a layer's conversions, tile after tile, are added up in units of their step
    (of each slice and step of inputs by itself): the sum saturates at -2^(b-1) and 2^(b-1)-1. null: never."""
    bound_management: Annotated[int, Field(ge=0, le=64)] = 0
    """How often at most an input vector is read again, each time with its inputs halved, because one of its partial
    sums was beyond the range (iterative bound management); its outputs are doubled as often. 0: all are read once."""
    inl: float = 0.0
    """ramp: integral non-linearity, LSB: levels are shifted by inl·(1 - z²), z from -1 to 1 over the range."""

    transfer: Annotated[ADCTransfer | None, OF_ADC] = None
    """measured: where codes begin, of all ADCs alike, or of several: output c of a layer (in all its tiles, and all bit
    lines of the output) has the ADC c mod n of n."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if (self.transfer is not None) != (self.kind == "measured"):
            raise ValueError("a transfer is of a kind 'measured', which needs one")
        if self.transfer is not None and self.bits is not None:
            self.transfer.edges(self.bits, self.signed)
        if self.bits is not None and self.full_scale is None:
            raise ValueError("an ADC with bits needs a full_scale (a positive number, or 'calibrated')")
        if self.kind != "ideal" and self.bits is None:
            raise ValueError(f"an ADC of kind {self.kind!r} needs bits")
        if (self.capacitor_mismatch or self.gain_db is not None) and self.kind in ("ideal", "measured"):
            raise ValueError("capacitor_mismatch and gain_db are of a kind 'sar' or 'ramp', or another with capacitors")
        if self.comparator_offset and self.kind in ("ideal", "sar", "split-sar", "ramp", "measured"):
            raise ValueError("comparator_offset is of a kind 'pipeline' or 'cyclic'; others have offset_error")
        if self.kind == "split-sar" and not self.signed:
            raise ValueError("an ADC of kind 'split-sar' is signed")
        if self.rounding != "nearest" and (self.kind != "ideal" or self.bits is None):
            raise ValueError(f"rounding {self.rounding!r} is of a kind 'ideal' with bits")
        if self.sum_bits is not None and (self.bits is None or self.per == "tile"):
            raise ValueError("sum_bits counts steps of the ADC: it needs bits, and a full_scale that all tiles share")
        if self.inl and self.kind in ("ideal", "sar", "split-sar", "pipeline", "cyclic", "measured"):
            raise ValueError("inl is of a kind 'ramp'")
        if (self.offset_error or not self.is_even) and self.full_scale is None:
            raise ValueError("offset_error, an unsigned and an asymmetric range need a full_scale")
        if self.bound_management and self.full_scale is None:
            raise ValueError("bound_management is of an ADC that clips: it needs a full_scale")
        _fits_symmetry(self.symmetric, self.signed, "full_scale", self.full_scale)
        if not self.symmetric and (self.kind != "ideal" or self.rounding == "down"):
            raise ValueError("symmetric: false is of a kind 'ideal' that rounds to the nearest level")
        return self

    @property
    def is_given(self) -> bool:
        """True where the full scale is a number, or several."""
        return self.full_scale not in (None, "calibrated")

    @property
    def slice_scales(self) -> tuple[Any, ...]:
        """The constants of each slice and step; none where all have one, or where it is calibrated."""
        scales = self.full_scale
        return scales if isinstance(scales, tuple) and not isinstance(scales, Range) else ()

    @property
    def levels(self) -> int:
        """Steps from 0 to the full scale; 0 where `bits` is null."""
        return levels(self.bits, self.signed)

    @property
    def is_even(self) -> bool:
        """True where the range reaches as far below 0 as above."""
        return self.signed and self.symmetric

    @property
    def is_plain(self) -> bool:
        """True for the ideal quantizer to the nearest, with a symmetric range and an endless sum."""
        ideal = self.is_even and self.kind == "ideal" and self.rounding == "nearest" and self.sum_bits is None
        return ideal and not self.has_errors

    @property
    def has_errors(self) -> bool:
        """True where ADCs differ from each other."""
        drawn = self.kind != "ideal" and ADC_KINDS.draws(self.kind)
        apart = self.capacitor_mismatch or self.comparator_offset
        return bool(self.gain_error or self.offset_error or apart or drawn)
