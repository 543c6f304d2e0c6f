"""What calibrated ranges depend on of the hardware, as numbers that are kept beside them and compared with it."""

import zlib
from typing import Any

from ..profile import HardwareProfile

INPUT = ("dac.signed", "dac.bits", "dac.step_bits", "dac.input_range")
"""What an input range is for."""
FIELDS = (
    *INPUT,
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
)
"""What a full scale is for; the input range that it is relative to included."""


ANY = -0.5
"""In a record: of a field, or of ranges, that it does not matter for. No field's value is this number."""


def basis(profile: HardwareProfile, least_error: bool = True) -> tuple[float, ...]:
    """Return the `FIELDS` of a profile as numbers, `ANY` for what does not matter.

    Parameters
    ----------
    profile : HardwareProfile
    least_error : bool
        Whether ranges make the least error of converters with so many bits. Of others the bits do not matter, unless
        inputs are applied some of them at a time.
    """
    values: dict[str, Any] = {}
    for name in FIELDS:
        part, field = name.split(".")
        values[name] = getattr(getattr(profile, part), field)
    values["dac.signed"] |= profile.dac.bits is None  # then it clips nothing
    if not least_error:
        values["adc.bits"] = ANY
        if profile.dac.step_bits is None:
            values["dac.bits"] = ANY
    return tuple(map(_number, values.values()))


def changed(kept: list[float] | tuple[float, ...], now: tuple[float, ...]) -> list[str]:
    """Return the fields in which what ranges are for is not what there is; NaN, which a record lost, is nothing."""
    return [name for name, a, b in zip(FIELDS, kept, now) if a != b and a == a and a != ANY]


def _number(value: Any) -> float:
    if value is None:
        return -1.0
    return -2.0 - zlib.crc32(value.encode()) if isinstance(value, str) else float(value)
