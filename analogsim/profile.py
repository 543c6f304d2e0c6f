"""The hardware: immutable pydantic models of one crossbar accelerator, loaded from and saved to YAML or JSON.

Every analog quantity is in *normalised units*: an input of 1 is the DAC's full scale, a weight of 1 the largest
conductance, so a partial sum of 1 is one full-scale input through one full-scale weight.
"""

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ProfileError

Bits = Annotated[int, Field(ge=1, le=16)]
SignedBits = Annotated[int, Field(ge=2, le=16)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Tile(_Part):
    """How a weight matrix is cut into crossbars."""

    rows: Annotated[int, Field(ge=1)] | None = 256
    """Inputs (word lines) of one crossbar; each tile has its own ADC conversion. null: one tile holds every row."""
    cols: Annotated[int, Field(ge=1)] | None = 256
    """Outputs (bit lines) of one crossbar. It decides how many tiles there are, never the result. null: unlimited."""
    mapping: Literal["channel", "im2col"] = "channel"
    """Convolutions only. channel: a tile holds floor(rows / kernel size) whole input channels (at least one).
    im2col: a tile holds `rows` consecutive rows of the unfolded weight, wherever a channel ends."""


class DAC(_Part):
    """Digital-to-analog converter at the crossbar's inputs."""

    bits: Bits | None = None
    """Resolution in bits (signed: 2-16, step 1/(2^(b-1)-1); unsigned: 1-16, step 1/(2^b-1)).
    null: neither rounds nor clips."""
    signed: bool = True
    """true: inputs in [-1, 1]; false: inputs in [0, 1] (negative inputs clip to 0)."""
    input_range: Positive | Literal["calibrated", "dynamic"] = "calibrated"
    """Input full scale α in activation units: a constant, `calibrated` (constant, stored in each layer by calibrate()),
    or `dynamic` (absolute maximum of each batch; for comparison, no chip does this)."""

    @model_validator(mode="after")
    def _a_signed_bit_needs_two(self) -> Self:
        if self.signed and self.bits == 1:
            raise ValueError("a signed DAC needs at least 2 bits (1 bit leaves no level but 0)")
        return self


class Weight(_Part):
    """How weights become conductances."""

    bits: SignedBits | None = None
    """Conductance levels: weights are rounded to multiples of 1/(2^(b-1)-1) of full scale. null: continuous."""
    w_max: Positive | Literal["column", "tensor"] = "column"
    """Weight full scale in weight units: the absolute maximum per output `column`, per `tensor`, or a constant
    (larger weights clip)."""


class Noise(_Part):
    """Gaussian noise drawn anew at every read; all three are standard deviations."""

    output: NonNegative = 0.0
    """σ_out, normalised units at the ADC's input: added to every tile's partial sum."""
    read: NonNegative = 0.0
    """σ_r, fraction of the largest conductance: independent on every weight, hence σ_r·‖x̂‖ on a tile's partial sum."""
    multiplicative: NonNegative = 0.0
    """σ_m, fraction (no unit): a partial sum s becomes s·(1 + N(0, σ_m²))."""


class ADC(_Part):
    """Analog-to-digital converter at the crossbar's outputs, one conversion per tile and column."""

    bits: SignedBits | None = None
    """Resolution in bits, signed: step full_scale/(2^(b-1)-1). null: does not round."""
    full_scale: Positive | Literal["calibrated"] | None = "calibrated"
    """Partial sums clip to ±full_scale, normalised units: a constant, or `calibrated` (stored in each layer by
    calibrate()). null (only with bits: null): does not clip."""
    per: Literal["network", "layer", "tile"] = "layer"
    """Which ADCs share one calibrated full_scale: all of the network's, a layer's, or a tile's (one cut of a layer's
    rows; its column tiles and groups share it). It matters only where full_scale is `calibrated`."""

    @model_validator(mode="after")
    def _levels_need_a_scale(self) -> Self:
        if self.bits is not None and self.full_scale is None:
            raise ValueError("an ADC with bits needs a full_scale (a positive number, or 'calibrated')")
        return self


class HardwareProfile(_Part):
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
            values = json.loads(text) if str(source).endswith(".json") else yaml.safe_load(text)
        except (yaml.YAMLError, json.JSONDecodeError) as error:
            raise ProfileError(f"{source}: neither YAML nor JSON: {error}") from None
        if not isinstance(values, dict):
            raise ProfileError(f"{source}: a profile is a mapping of fields, this file holds {type(values).__name__}")
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except ProfileError as error:
            raise ProfileError(f"{source}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as YAML, or as JSON where the path ends in `.json`; never leaves half a file."""
        path = Path(path)
        values = self.model_dump()
        text = (
            json.dumps(values, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(values, sort_keys=False)
        )
        aside = path.with_name(path.name + ".part")
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)

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
        exact = (self.dac.bits, self.weight.bits, self.adc.bits, self.adc.full_scale) == (None,) * 4
        noisy = self.noise.output or self.noise.read or self.noise.multiplicative
        return exact and not noisy and not isinstance(self.weight.w_max, float)


def presets() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _preset_dir().iterdir() if entry.name.endswith(".yaml"))


def explain(error: ValidationError) -> str:
    """Say each of pydantic's complaints as `field.path: what is wrong (got value)`, separated by "; "."""
    lines = []
    for item in error.errors():
        # A union's members are path elements too ("constrained-float", "literal[…]"), but no fields.
        path = ".".join(str(part) for part in item["loc"] if not _UNION_MEMBER.fullmatch(str(part)))
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{path or 'profile'}: {message} (got {item['input']!r})")
    return "; ".join(dict.fromkeys(lines))


_UNION_MEMBER = re.compile(r"(constrained-)?(int|float|str|bool|none)|.*\[.*")


def _preset_dir() -> Any:
    return resources.files("analogsim") / "presets"


def _read(source: str | os.PathLike[str]) -> str:
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"{source}: not a readable text file: {error}") from None
    if isinstance(source, str) and source in presets():
        return (_preset_dir() / f"{source}.yaml").read_text(encoding="utf-8")
    raise ProfileError(f"no profile {str(source)!r}: not a file, and the presets are {', '.join(presets())}")
