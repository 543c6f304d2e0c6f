"""The hardware: immutable pydantic models of one crossbar accelerator, loaded from and saved to YAML or JSON.

Every analog quantity is in *normalised units*: an input of 1 is the DAC's full scale, a weight of 1 the whole range of
conductance, g_max - g_min, so a partial sum of 1 is one full-scale input through one full-scale weight.
"""

import json
import os
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import ProfileError
from ..storage.files import content, replaced
from ..storage.plain_yaml import LARGEST, read_yaml
from ..value import FullScale, NonNegative, Positive, Value, explain
from .cells import Cells, Drift, Faults, Flicker, Programming, Wires

Bits = Annotated[int, Field(ge=1, le=16)]
SignedBits = Annotated[int, Field(ge=2, le=16)]


class Tile(Value):
    """How a weight matrix is cut into crossbars."""

    rows: Annotated[int, Field(ge=1)] | None = 256
    """Inputs (word lines) of one crossbar; each tile has its own ADC conversion. null: one tile holds every row."""
    cols: Annotated[int, Field(ge=1)] | None = 256
    """Bit lines of one crossbar: one an output, or the neighbouring ones of its slices and of a pair that is subtracted
    digitally. Decides how many tiles there are; the result only with wires, dead rows or reference columns.
    null: unlimited."""
    mapping: Literal["channel", "im2col"] = "channel"
    """Convolutions only. channel: a tile holds floor(rows / kernel size) whole input channels (at least one).
    im2col: a tile holds `rows` consecutive rows of the unfolded weight, wherever a channel ends."""


class DAC(Value):
    """Digital-to-analog converter at the crossbar's inputs."""

    bits: Bits | None = None
    """Resolution in bits (signed: 2-16, step 1/(2^(b-1)-1); unsigned: 1-16, step 1/(2^b-1)).
    null: neither rounds nor clips."""
    signed: bool = True
    """true: inputs in [-1, 1]; false: inputs in [0, 1] (negative inputs clip to 0)."""
    input_range: FullScale | Literal["calibrated", "dynamic"] = "calibrated"
    """Input full scale α in activation units: a constant, `calibrated` (constant, stored in each layer by calibrate()),
    or `dynamic` (absolute maximum of each batch; for comparison, no chip does this)."""

    step_bits: Bits | None = None
    """Bits converted at once: the DAC's bits (of a signed one, its magnitude's) are applied in slices of this many, the
    lowest first, each converted by the ADC and added up digitally with its power of two. null: all at once."""

    @model_validator(mode="after")
    def _bits_fit_together(self) -> Self:
        if self.signed and self.bits == 1:
            raise ValueError("a signed DAC needs at least 2 bits (1 bit leaves no level but 0)")
        if self.step_bits is not None and (self.bits is None or self.step_bits > self.bits - self.signed):
            raise ValueError(f"step_bits must be at most the DAC's own bits of magnitude (got {self.step_bits})")
        return self

    @property
    def steps(self) -> int:
        """How often inputs are applied: once, or `step_bits` of their magnitude at a time."""
        if self.bits is None or self.step_bits is None:
            return 1
        return -(-(self.bits - self.signed) // self.step_bits)


class Weight(Value):
    """How weights become conductances."""

    bits: SignedBits | None = None
    """Conductance levels: weights are rounded to multiples of 1/(2^(b-1)-1) of full scale. null: continuous."""
    w_max: FullScale | Literal["column", "tensor"] = "column"
    """Weight full scale in weight units: the absolute maximum per output `column`, per `tensor`, or a constant
    (larger weights clip)."""


class Noise(Value):
    """Noise drawn anew at every read; all are standard deviations."""

    output: NonNegative = 0.0
    """σ_out, normalised units at the ADC's input: added to every tile's partial sum."""
    read: NonNegative = 0.0
    """σ_r, fraction of the full-scale weight: independent on every weight (of a slice: on each), hence σ_r·‖x̂‖ on a
    tile's partial sum. It is that of a weight, not of a cell: with σ_g on each cell, fraction of g_max, a weight that a
    differential pair holds has σ_r = √2·σ_g/(1 - g_min), and one that an offset cell holds whole has twice as much."""
    multiplicative: NonNegative = 0.0
    """σ_m, fraction (no unit): a partial sum s becomes s·(1 + N(0, σ_m²))."""
    distribution: Literal["gaussian", "uniform", "laplace"] = "gaussian"
    """Shape of a partial sum's total noise; its variance is that of the contributions, whatever the shape."""
    wander: NonNegative = 0.0
    """Standard deviation, normalised units, of an offset at each ADC that changes slowly from one conversion to the
    next: Gaussian, with correlation exp(-n/wander_length) between conversions n apart."""
    wander_length: Positive = 100.0
    """Conversions after which the slow offset's correlation has fallen to 1/e."""

    @property
    def is_plain(self) -> bool:
        """True for white Gaussian noise."""
        return self.distribution == "gaussian" and not self.wander


class ADC(Value):
    """Analog-to-digital converter at the crossbar's outputs, one conversion per tile and column."""

    bits: SignedBits | None = None
    """Resolution in bits, signed: step full_scale/(2^(b-1)-1). null: does not round."""
    full_scale: FullScale | Literal["calibrated"] | None = "calibrated"
    """Partial sums clip to ±full_scale, normalised units: a constant, or `calibrated` (stored in each layer by
    calibrate()). null (only with bits: null): does not clip."""
    per: Literal["network", "layer", "tile"] = "layer"
    """Which ADCs share one calibrated full_scale: all of the network's, a layer's, or a tile's (one cut of a layer's
    rows; its column tiles and groups share it). It matters only where full_scale is `calibrated`."""

    signed: bool = True
    """false: partial sums clip to [0, full_scale], step full_scale/(2^bits-1)."""
    gain_error: NonNegative = 0.0
    """Standard deviation between ADCs (one each tile and bit line) of their gain, fraction; drawn once for a chip."""
    offset_error: NonNegative = 0.0
    """Standard deviation between ADCs of their offset, fraction of full scale; drawn once for a chip."""
    kind: Literal["ideal", "sar", "ramp"] = "ideal"
    """Where the thresholds are: ideal: evenly spaced. sar: of a capacitive DAC in each ADC, searched bit by bit.
    ramp: between the levels of one capacitive DAC a tile, whose ramp all its columns are compared with."""
    capacitor_mismatch: NonNegative = 0.0
    """sar and ramp: standard deviation of a unit capacitor, fraction; a capacitor of n units has this over √n."""
    rounding: Literal["nearest", "down"] = "nearest"
    """ideal: nearest: to the nearest of evenly spaced levels. down: to the next level below (floor), and signed codes
    are those of two's complement: -2^(b-1) to 2^(b-1)-1, where nearest has as many on both sides."""
    sum_bits: SignedBits | None = None
    """Bits of the signed register in which a layer's conversions, tile after tile, are added up in units of their step
    (of each slice and step of inputs by itself): the sum saturates at -2^(b-1) and 2^(b-1)-1. null: never."""
    inl: float = 0.0
    """ramp: integral non-linearity, LSB: levels are shifted by inl·(1 - z²), z from -1 to 1 over the range."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.bits is not None and self.full_scale is None:
            raise ValueError("an ADC with bits needs a full_scale (a positive number, or 'calibrated')")
        if self.kind != "ideal" and self.bits is None:
            raise ValueError(f"an ADC of kind {self.kind!r} needs bits")
        if self.capacitor_mismatch and self.kind == "ideal":
            raise ValueError("capacitor_mismatch is of a kind 'sar' or 'ramp'")
        if self.rounding == "down" and (self.kind != "ideal" or self.bits is None):
            raise ValueError("rounding 'down' is of a kind 'ideal' with bits")
        if self.sum_bits is not None and (self.bits is None or self.per == "tile"):
            raise ValueError("sum_bits counts steps of the ADC: it needs bits, and one full_scale a layer (per: layer)")
        if self.inl and self.kind != "ramp":
            raise ValueError("inl is of a kind 'ramp'")
        if (self.offset_error or not self.signed) and self.full_scale is None:
            raise ValueError("offset_error and an unsigned range need a full_scale")
        return self

    @property
    def is_plain(self) -> bool:
        """True for the ideal quantizer to the nearest, with a symmetric range and an endless sum."""
        ideal = self.signed and self.kind == "ideal" and self.rounding == "nearest" and self.sum_bits is None
        return ideal and not self.has_errors

    @property
    def has_errors(self) -> bool:
        """True where ADCs differ from each other."""
        return bool(self.gain_error or self.offset_error or self.capacitor_mismatch)


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


class HardwareProfile(Value):
    """One analog accelerator: tiles, converters, weights and noise. A value: immutable, comparable, hashable."""

    name: Annotated[str, Field(min_length=1)] = "custom"
    """Short name, shown in reports."""
    description: str = ""
    """What the hardware is, and where its numbers come from."""
    tile: Tile = Tile()
    dac: DAC = DAC()
    weight: Weight = Weight()
    noise: Noise = Noise()
    adc: ADC = ADC(full_scale=None)
    cells: Cells = Cells()
    programming: Programming = Programming()
    drift: Drift = Drift()
    flicker: Flicker = Flicker()
    faults: Faults = Faults()
    wires: Wires = Wires()
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _slices_cut_bits(self) -> Self:
        bits, each = self.sliced_bits, self.cells.bits
        if each is not None and (bits is None or each > bits):
            most = "weight.bits" if self.cells.mapping == "offset" else "weight.bits - 1"
            raise ValueError(f"cells.bits: needs weight.bits, and at most {most} (got {each} and {self.weight.bits})")
        if self.tile.cols is not None and self.tile.cols < self.lines:
            raise ValueError(f"tile.cols: a weight takes {self.lines} bit lines of one crossbar (got {self.tile.cols})")
        return self

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(explain(error)) from None

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "HardwareProfile":
        """Read a profile from a YAML or JSON file, or a shipped preset by its name.

        Parameters
        ----------
        source : str or path
            A preset's name (see `presets()`), or the path of a `.yaml`, `.yml` or `.json` file.

        Raises
        ------
        ProfileError
            There is no such preset or file, it cannot be parsed, or a value in it is impossible.
        """
        text = _read(source)
        try:
            # YAML 1.1 would read JSON's 1e-06 as a string.
            values = json.loads(text) if str(source).endswith(".json") else read_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ProfileError(f"{source}: no valid YAML or JSON: {error}") from None
        if not isinstance(values, dict):
            raise ProfileError(f"{source}: a profile is a mapping of fields, this file holds {type(values).__name__}")
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except ProfileError as error:
            raise ProfileError(f"{source}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as YAML, or as JSON where the path ends in `.json`; never leaves half a file."""
        path = Path(path)
        values = self.model_dump(mode="json")
        text = (
            json.dumps(values, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(values, sort_keys=False)
        )
        with replaced(path) as aside:
            aside.write_text(text, encoding="utf-8")

    def varied(self, **changes: Any) -> "HardwareProfile":
        """Return a validated copy with some fields changed; a part is given as a dict of its changed fields.

        Examples
        --------
        >>> HardwareProfile().varied(noise={"output": 0.1}).noise.output
        0.1
        """
        values = self.model_dump()
        for key, change in changes.items():
            merge = isinstance(change, dict) and isinstance(values.get(key), dict)
            values[key] = values[key] | change if merge else change
        return type(self)(**values)

    @property
    def is_ideal(self) -> bool:
        """True where every stage is exact, so that a layer computes what its digital twin computes."""
        if self.is_deep:
            return False
        exact = (self.dac.bits, self.weight.bits, self.adc.bits, self.adc.full_scale) == (None,) * 4
        noisy = self.noise.output or self.noise.read or self.noise.multiplicative
        return exact and not noisy and not isinstance(self.weight.w_max, float)

    def without_variation(self) -> "HardwareProfile":
        """Return the profile of a chip that is as it was wanted: nothing drawn, nothing aged, no wire resistance."""
        adc = self.adc.model_copy(update={"gain_error": 0.0, "offset_error": 0.0, "capacitor_mismatch": 0.0})
        parts = {"programming": Programming(), "drift": Drift(), "flicker": Flicker(), "faults": Faults()}
        return self.model_copy(update=parts | {"wires": Wires(), "adc": adc})

    def model_copy(self, **options: Any) -> Self:
        """As pydantic's; forgets what was computed from the fields."""
        copied = super().model_copy(**options)
        for name in ("is_drawn", "is_deep"):
            vars(copied).pop(name, None)
        return copied

    @cached_property  # asked at every call of every layer
    def is_drawn(self) -> bool:
        """True where one chip differs from another, so that a layer must be programmed before it is evaluated."""
        drift = (self.drift.nu, self.drift.nu_sigma) != (0, 0)
        return (
            self.programming.draws
            or drift
            or self.flicker.amplitude != 0
            or self.faults != Faults()
            or self.adc.has_errors
        )

    @cached_property
    def is_deep(self) -> bool:
        """True where more than the plain kernel's model is used (docs/devices.md): cells, programming, ageing, faults,
        wires, slices, an ADC that is no ideal quantizer, or noise that is not Gaussian and white.
        """
        cells = self.cells != Cells() or self.wires != Wires() or self.dac.step_bits is not None
        return self.is_drawn or cells or not (self.noise.is_plain and self.adc.is_plain)

    @property
    def sliced_bits(self) -> int | None:
        """Bits of a weight that cells hold: of its magnitude, or of an offset mapping of the weight with its offset."""
        return None if self.weight.bits is None else self.weight.bits - (self.cells.mapping != "offset")

    @property
    def slices(self) -> int:
        """How many slices these bits are cut into (`cells.bits`)."""
        bits, each = self.sliced_bits, self.cells.bits
        return 1 if bits is None or each is None else -(-bits // each)

    @property
    def lines(self) -> int:
        """How many bit lines a weight takes, each converted by itself: its slices, two a pair subtracted digitally."""
        return self.slices * (2 if self.cells.subtraction == "digital" else 1)


def presets() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _preset_dir().iterdir() if entry.name.endswith(".yaml"))


def _preset_dir() -> Any:
    return resources.files("analogsim") / "presets"


def _read(source: str | os.PathLike[str]) -> str:
    path = Path(source)
    try:
        if path.is_file():
            return content(path, 4 * LARGEST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ProfileError(f"{source}: not a readable text file: {error}") from None
    if isinstance(source, str) and source in presets():
        return (_preset_dir() / f"{source}.yaml").read_text(encoding="utf-8")
    raise ProfileError(f"no profile {str(source)!r}: not a file, and the presets are {', '.join(presets())}")
