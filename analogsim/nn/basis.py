"""Which hardware calibrated ranges are for.

An input range or a full scale that was found for one profile is wrong on hardware whose tiles, weights or converters
are others. So the fields of the profile that matter are written down as numbers (the record, `calibrated_for`), which
are saved with the ranges and compared with the profile whenever a range is used.
"""

import zlib
from typing import Any

from ..profile import HardwareProfile
from ..profile.wires import Wires
from ..value import Value

INPUT = ("dac.signed", "dac.bits", "dac.step_bits", "dac.input_range", "dac.symmetric")
"""The fields that an input range depends on."""
FIELDS = (
    *INPUT[:4],
    "tile.rows",
    "tile.mapping",
    "weight.w_max",
    "weight.bits",
    "cells.mapping",
    "cells.subtraction",
    "cells.g_min",
    "cells.bits",
    "adc.signed",
    "adc.bits",
    "tile.cols",
    "iv.second",
    "iv.third",
    "dac.symmetric",
    "adc.symmetric",
    "dac.inl",
    "tile.current_limit",
    *(f"wires.{name}" for name in Wires.model_fields),
)
"""The fields that a full scale depends on. It is relative to the input range, so that range's fields are among them.

`adc.rounding`, `adc.sum_bits` and `adc.kind` are not: calibration sees sums before they are converted, and every method
takes the ADC for one that rounds to the nearest level. Records are saved by position, so new fields go at the end.
"""

ANY = -0.5
"""Stands in a record for a field that these ranges do not depend on. No field is ever this number."""


def basis(profile: HardwareProfile, least_error: bool = True) -> tuple[float, ...]:
    """Return the record of a profile: the `FIELDS` as numbers, and `ANY` for those that do not matter.

    Parameters
    ----------
    profile : HardwareProfile
        What the ranges were found for.
    least_error : bool
        True for ranges that make the error of the converters as small as possible (`mse`, `noise-aware`), since the
        best range of a converter depends on its bits. A maximum or a percentile does not. It depends on the bits of
        the DAC all the same where inputs are applied some bits at a time, which decides what the sums are.

    Returns
    -------
    tuple of float
        One number for each of `FIELDS`.
    """
    values: dict[str, Any] = {}
    for name in FIELDS:
        part, field = name.split(".")
        values[name] = getattr(getattr(profile, part), field)
    if not isinstance(values["dac.input_range"], float | str):  # a constant range [low, high]: a word for both its ends
        values["dac.input_range"] = repr(tuple(values["dac.input_range"]))
    values["dac.signed"] |= profile.dac.bits is None  # a DAC that does not clip treats signs alike
    if profile.weight.share != "tile" and not profile.wires.any:  # else it says which columns share a scale, or wires
        values["tile.cols"] = ANY
    if profile.dac.step_bits is None:  # else steps are seen as the DAC applies them
        values["dac.inl"] = ANY
    if not least_error:
        values["adc.bits"] = ANY
        if profile.dac.step_bits is None:
            values["dac.bits"] = ANY
    return tuple(map(_number, values.values()))


def changed(kept: list[float] | tuple[float, ...], now: tuple[float, ...]) -> list[str]:
    """Return the names of the fields in which a record differs from another, which is the profile's of today.

    A field is taken to agree where the record has `ANY`, or NaN, which is left of a record that was damaged.
    """
    return [name for name, a, b in zip(FIELDS, kept, now) if a != b and a == a and ANY not in (a, b)]


def _number(value: Any) -> float:
    """Return a field's value as a number: -1 for null, below -2 for words, which a checksum tells apart."""
    if value is None:
        return -1.0
    if isinstance(value, Value):
        value = value.model_dump_json()
    return -2.0 - zlib.crc32(value.encode()) if isinstance(value, str) else float(value)
