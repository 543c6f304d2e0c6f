"""The hardware as a whole: an immutable model of one crossbar accelerator, loaded from and saved to YAML or JSON."""

import json
import os
import zlib
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from ..errors import ProfileError
from ..meant import did_you_mean
from ..storage.files import content, replaced
from ..storage.plain_yaml import LARGEST, read_yaml
from ..value import Value, explain
from .array import Noise, Tile, Weight
from .cells import Cells, Drift, Faults, Flicker, Programming
from .converters import ADC, DAC
from .cost import Cost
from .iv import IV
from .kinds import ADC_KINDS
from .measured import read_tables
from .peers import aihwkit, crosssim, to_aihwkit, to_crosssim
from .wires import Wires
from .words import SYNONYMS

SCHEMA_KEY = "$schema"
"""A key that files may have for editors; it is no field."""


def _for_editors(schema: dict[str, Any]) -> None:
    """Let a profile's schema name itself, and a section be empty."""
    properties = schema["properties"]
    for name, part in properties.items():
        if "$ref" in part:
            about = {key: properties[name][key] for key in ("description", "default") if key in part}
            properties[name] = {"anyOf": [{"$ref": part["$ref"]}, {"type": "null"}], **about}
    properties[SCHEMA_KEY] = {"type": "string", "description": "Where this schema is, for editors."}


class HardwareProfile(Value):
    """One analog accelerator: tiles, converters, weights and noise. A value: immutable, comparable, hashable.

    Raises
    ------
    ProfileError
        A value is impossible, values do not fit together, or a key is unknown; the message names the field.

    Examples
    --------
    >>> import analogsim as an
    >>> profile = an.HardwareProfile(tile={"rows": 128}, dac={"bits": 8}, adc={"bits": 6, "full_scale": "calibrated"})
    >>> profile.adc.bits, profile.noise.output
    (6, 0.0)
    >>> an.HardwareProfile(adc={"bitz": 6})
    Traceback (most recent call last):
        ...
    analogsim.errors.ProfileError: adc.bitz: unknown key; did you mean 'adc.bits'?
    """

    model_config = ConfigDict(json_schema_extra=_for_editors)

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
    iv: IV = IV()
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _slices_cut_bits(self) -> Self:
        bits, each = self.sliced_bits, self.cells.bits
        if each is not None and (bits is None or each > bits):
            most = "weight.bits" if self.cells.mapping == "offset" else "weight.bits - 1"
            raise ValueError(f"cells.bits: needs weight.bits, and at most {most} (got {each} and {self.weight.bits})")
        if self.tile.cols is not None and self.tile.cols < self.lines:
            raise ValueError(f"tile.cols: a weight takes {self.lines} bit lines of one crossbar (got {self.tile.cols})")
        if self.adc.per == "slice" and not self.is_sliced:
            raise ValueError("adc.per: 'slice' needs weights in slices (cells.bits) or inputs in steps (dac.step_bits)")
        given, parts = len(self.adc.slice_scales), self.slices * self.dac.steps
        if given and given != parts:
            raise ValueError(
                f"adc.full_scale: {given} numbers for {self.slices} slices of weights (cells.bits) times "
                f"{self.dac.steps} steps of inputs (dac.step_bits); give {parts}, or one for all"
            )
        if self.tile.current_limit is not None and self.cells.mapping == "signed":
            raise ValueError(
                "tile.current_limit: of the abstract cells of mapping 'signed' nobody knows what currents columns "
                "carry; choose cells.mapping 'differential' or 'offset'"
            )
        if self.weight.by_tile and self.adc.sum_bits is not None:
            raise ValueError(
                "adc.sum_bits: a register adds up the codes of all tiles as they are, so that tiles must have one full "
                f"scale of weights: choose weight.w_max column or tensor (got {self.weight.share!r})"
            )
        return self

    @model_validator(mode="after")
    def _wires_of_these_cells(self) -> Self:
        wires, mapping, dac = self.wires, self.cells.mapping, self.dac
        if wires.solution == "exact" and mapping == "signed":
            raise ValueError(
                "wires.solution: of the abstract cells of mapping 'signed' nobody knows where currents flow; choose "
                "cells.mapping 'differential' or 'offset'"
            )
        if wires.interleaved and (mapping != "differential" or self.cells.subtraction == "digital"):
            raise ValueError(
                "wires.interleaved: only cells of a differential pair that are subtracted before the ADC share a column"
            )
        if wires.source is not None and (dac.signed or 1 not in (dac.bits, dac.step_bits)):
            raise ValueError(
                "wires.source: an input can only connect a row's cells or not: needs dac.signed: false, and one bit a "
                "step (dac.step_bits: 1)"
            )
        if self.iv.any and (wires.any or wires.gated):
            raise ValueError(
                "iv: currents of cells that are not linear are known for whole voltages, not for what wires leave of "
                "them; leave out iv or wires"
            )
        if self.iv.any and self.cells.devices > 1:
            raise ValueError("iv: the current of a cell is that of one device; leave out iv or cells.devices")
        if self.iv.any and mapping == "signed":
            raise ValueError("iv: a signed cell is an abstract one; choose cells.mapping 'differential' or 'offset'")
        return self

    def __init__(self, **values: Any) -> None:
        values = read_tables(values, type(self), Path())
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(explain(error, type(self), SYNONYMS)) from None

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "HardwareProfile":
        """Read a profile from a YAML or JSON file, or a shipped preset by its name.

        Parameters
        ----------
        source : str or path
            A preset's name (see `presets()`), or the path of a `.yaml`, `.yml` or `.json` file. Files of measured data
            that it names by relative paths lie beside it, and are read now.

        Raises
        ------
        ProfileError
            There is no such preset or file, it cannot be parsed, or a value in it is impossible.
        """
        text = text_of(source)
        try:
            # YAML has no tabs, which JSON may be indented with.
            values = json.loads(text) if str(source).endswith(".json") else read_yaml(text)
            return cls._of(values, Path(source).parent)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, ProfileError) else f"no valid YAML or JSON: {error}"
            raise ProfileError(f"{source}: {said}") from None

    @classmethod
    def loads(cls, text: str, folder: str | os.PathLike[str] = ".") -> "HardwareProfile":
        """Read a profile from the text of a YAML file; files of measured data are looked for in a folder.

        Raises
        ------
        ProfileError
            It cannot be parsed, or a value in it is impossible.
        """
        try:
            return cls._of(read_yaml(text), Path(folder))
        except yaml.YAMLError as error:
            raise ProfileError(f"no valid YAML: {error}") from None

    @classmethod
    def _of(cls, values: Any, folder: Path) -> "HardwareProfile":
        if not isinstance(values, dict):
            raise ProfileError(f"a profile is a mapping of fields, this file holds {type(values).__name__}")
        # Editors want to be told of a schema, and a section of which every field is commented out is as by default.
        kept = {str(key): value for key, value in values.items() if key != SCHEMA_KEY}
        given = {key: value for key, value in kept.items() if value is not None or key not in cls.model_fields}
        return cls(**read_tables(given, cls, folder))

    @classmethod
    def from_aihwkit(cls, config: Any) -> "HardwareProfile":
        """Read an RPUConfig of aihwkit or aihwkit-lightning; a `TranslationWarning` lists what a profile does not have.

        Parameters
        ----------
        config : InferenceRPUConfig, TorchInferenceRPUConfig, or aihwkit-lightning's
            See `analogsim.profile.peers.aihwkit.read`, which also returns the list.

        Raises
        ------
        ProfileError
            It is none of these, or makes no profile.
        """
        found = aihwkit.read(config)
        found.warn()
        return cls(**found.values)

    @classmethod
    def from_crosssim(cls, config: Any) -> "HardwareProfile":
        """Read CrossSim's parameters; a `TranslationWarning` lists what they say that a profile does not.

        Parameters
        ----------
        config : path, dict or CrossSimParameters
            See `analogsim.profile.peers.crosssim.read`, which also returns the list.

        Raises
        ------
        ProfileError
            It is none of these, or makes no profile.
        """
        found = crosssim.read(config)
        found.warn()
        return cls(**found.values)

    def to_aihwkit(self) -> Any:
        """Return an RPUConfig of aihwkit for this hardware, which must be installed.

        A `TranslationWarning` lists what it does not say; `analogsim.profile.peers.to_aihwkit.write` returns the list,
        and the settings as plain values. It is a TorchInferenceRPUConfig, or with `noise.read` an InferenceRPUConfig.

        Raises
        ------
        ProfileError
            aihwkit cannot be imported.
        """
        found = to_aihwkit.write(self.model_dump(mode="json"), type(self)().model_dump(mode="json"))
        config = to_aihwkit.build(found.values)
        found.warn()
        return config

    def to_crosssim(self) -> dict[str, Any]:
        """Return CrossSim's parameters for this hardware, as its JSON files and `CrossSimParameters(**…)` take them.

        A `TranslationWarning` lists what they do not say; `analogsim.profile.peers.to_crosssim.write` returns the list.

        Examples
        --------
        >>> profile = HardwareProfile(tile={"rows": 64}, dac={"input_range": 1.0}, weight={"w_max": "tensor"})
        >>> profile.to_crosssim()["core"]["rows_max"]
        64
        """
        found = to_crosssim.write(self.model_dump(mode="json"), type(self)().model_dump(mode="json"))
        found.warn()
        return found.values

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as YAML, or as JSON where the path ends in `.json`; never leaves half a file.

        Raises
        ------
        ProfileError
            It holds so many measured numbers that YAML of it would be too long to be read.
        """
        path = Path(path)
        values = self.model_dump(mode="json")
        text = (
            json.dumps(values, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(values, sort_keys=False)
        )
        if path.suffix != ".json" and len(text) > LARGEST:
            raise ProfileError(f"{path}: {len(text):,} characters of YAML, more than {LARGEST:,}; save it as .json")
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

    @cached_property  # asked at every call of every layer
    def is_ideal(self) -> bool:
        """True where every stage is exact, so that a layer computes what its digital twin computes."""
        if self.needs_chip:
            return False
        exact = (self.dac.bits, self.weight.bits, self.adc.bits, self.adc.full_scale) == (None,) * 4
        noisy = self.noise.output or self.noise.read or self.noise.multiplicative
        return exact and not noisy and not self.weight.clips

    def without_variation(self) -> "HardwareProfile":
        """Return the profile of a chip that is as it was wanted: nothing drawn, nothing aged; wires are as they are."""
        errors = "gain_error", "offset_error", "capacitor_mismatch", "comparator_offset"
        exact: dict[str, Any] = dict.fromkeys(errors, 0.0)
        if ADC_KINDS.draws(self.adc.kind):
            exact["kind"] = "ideal"
        adc, cells = self.adc.model_copy(update=exact), self.cells.model_copy(update={"model": "standard"})
        parts = {"programming": Programming(), "drift": Drift(), "flicker": Flicker(), "faults": Faults()}
        return self.model_copy(update=parts | {"adc": adc, "cells": cells})

    def model_copy(self, **options: Any) -> Self:
        """As pydantic's; forgets what was computed from the fields."""
        copied = super().model_copy(**options)
        for name in ("is_drawn", "needs_chip", "checksum", "is_ideal", "reads_differ"):
            vars(copied).pop(name, None)
        return copied

    @cached_property  # asked at every call of every layer that has measured outputs
    def checksum(self) -> int:
        """CRC-32 of all that decides what a chip computes, but for the noise of its reads."""
        return zlib.crc32(self.model_dump_json(exclude={"name", "description", "cost", "noise"}).encode())

    @cached_property  # asked at every call of every layer
    def is_drawn(self) -> bool:
        """True where one chip differs from another, so that a layer must be programmed before it is evaluated."""
        return (
            self.programming.draws
            or self.cells.model != "standard"
            or self.drift.is_on
            or self.flicker.amplitude != 0
            or self.faults != Faults()
            or self.adc.has_errors
        )

    @property
    def is_random(self) -> bool:
        """True where two evaluations differ: by the chip, or by noise of every read."""
        return self.is_drawn or self.reads_differ

    @cached_property  # asked at every call of every layer
    def reads_differ(self) -> bool:
        """True where two reads of one chip differ: by noise, or by rounding at random."""
        noise = self.noise
        drawn = noise.output or noise.read or noise.multiplicative or noise.wander
        dither = "stochastic" in (self.dac.rounding, self.adc.rounding)
        return self.cells_are_noisy or dither or bool(drawn)

    @property
    def cells_are_noisy(self) -> bool:
        """True where a cell may have read noise of its own."""
        cells = self.cells
        slow = self.flicker.amplitude != 0 and not self.flicker.frozen
        return slow or cells.read_noise != 0 or cells.model != "standard"

    @cached_property
    def needs_chip(self) -> bool:
        """True where a layer needs a simulated chip, since the kernel alone does not model what the profile asks for.

        That is all of docs/devices.md: cells, programming, ageing, faults, wires, slices, an ADC that is no ideal
        quantizer, and noise that is not Gaussian and white.
        """
        cells = self.cells != Cells(g_max=self.cells.g_max) or self.wires != Wires() or self.dac.step_bits is not None
        cells = cells or self.dac.inl is not None
        missed = self.programming != Programming() or self.iv.any or self.tile.current_limit is not None
        return self.is_drawn or cells or missed or not (self.noise.is_plain and self.adc.is_plain)

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
    def is_sliced(self) -> bool:
        """True where weights are cut into slices, or inputs into steps."""
        return self.cells.bits is not None or self.dac.step_bits is not None

    @property
    def lines(self) -> int:
        """How many bit lines a weight takes, each converted by itself: its slices, two a pair subtracted digitally."""
        return self.slices * (2 if self.cells.subtraction == "digital" else 1)


def presets() -> list[str]:
    """Return the names of the shipped profiles.

    Returns
    -------
    list of str
        In alphabetical order; `HardwareProfile.load` takes them.

    Examples
    --------
    >>> import analogsim as an
    >>> "pcm" in an.presets()
    True
    >>> an.HardwareProfile.load("pcm").cells.mapping
    'differential'
    """
    return sorted(entry.name.removesuffix(".yaml") for entry in _preset_dir().iterdir() if entry.name.endswith(".yaml"))


def _preset_dir() -> Any:
    return resources.files("analogsim") / "presets"


def text_of(source: str | os.PathLike[str]) -> str:
    """Return the text of a file, or of a shipped preset by its name.

    Raises
    ------
    ProfileError
        There is none, or it is no text.
    """
    path = Path(source)
    try:
        if path.is_file():
            return content(path, 4 * LARGEST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ProfileError(f"{source}: not a readable text file: {error}") from None
    if isinstance(source, str) and source in presets():
        return (_preset_dir() / f"{source}.yaml").read_text(encoding="utf-8")
    near = did_you_mean(path.stem, presets(), SYNONYMS)
    raise ProfileError(f"no profile {str(source)!r}: not a file, and the presets are {', '.join(presets())}{near}")
