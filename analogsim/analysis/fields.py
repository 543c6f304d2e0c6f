"""A profile's fields by their dotted names: what sweeps and searches vary."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ..errors import ProfileError
from ..meant import did_you_mean
from ..profile import HardwareProfile
from ..profile.words import SYNONYMS
from ..value import field_names

METHOD = "calibration"
"""The key of a space or of axes that is no field: how ranges are calibrated."""
AGE = "age"
"""Likewise: a chip's age."""


def varied(base: HardwareProfile, values: Mapping[str, Any]) -> HardwareProfile:
    """Return a profile with some dotted fields changed; "calibration" and "age" are no fields.

    Raises
    ------
    ProfileError
        There is no such field, or it makes no profile.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in (METHOD, AGE):
            part, dot, field = key.partition(".")
            if key not in _fields():
                raise ProfileError(f"{key!r} is no field of a profile{did_you_mean(key, _fields(), SYNONYMS)}")
            changes |= {part: changes.get(part, {}) | {field: value}} if dot else {part: value}
    return base.varied(**changes)


@cache
def _fields() -> tuple[str, ...]:
    return field_names(HardwareProfile)
