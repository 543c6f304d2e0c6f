"""A profile's fields by their dotted names, and a chip's age as a person writes it: what sweeps and searches vary."""

import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from ..errors import ProfileError
from ..profile import HardwareProfile

METHOD = "calibration"
"""The key of a space or of axes that is no field: how ranges are calibrated."""
AGE = "age"
"""Likewise: a chip's age."""
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "mo": 365.25 * 7200, "y": 365.25 * 86400}


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
            if key not in (known := list(_names(HardwareProfile))):
                raise ProfileError(f"{key!r} is no field of a profile{_hint(key, known)}")
            changes |= {part: changes.get(part, {}) | {field: value}} if dot else {part: value}
    return base.varied(**changes)


def seconds(age: float | str) -> float:
    """Return an age in seconds: a number, or text such as "0", "90 s", "1h", "1d", "2w", "1mo" (a year / 12), "1y".

    Raises
    ------
    ProfileError
        It is no age.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*([a-z]*)\s*", str(age))
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not (match and 0 <= number < math.inf) or (match[2] or "s") not in _UNITS:
        raise ProfileError(
            f"age: {age!r} is none; give seconds, or a number and one of {', '.join(_UNITS)}, such as 1d"
        )
    return number * _UNITS[match[2] or "s"]


def _hint(key: str, known: list[str]) -> str:
    """Return which field was meant: the one of another part with this name, or the one spelt most like it."""
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    own = key.rpartition(".")[2]
    near = [last[own]] if own in last else get_close_matches(key, known, 1)
    near = near or [last[name] for name in get_close_matches(own, last, 1, 0.5)]
    return f"; did you mean {near[0]!r}?" if near else ""


def _names(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield before + name
        for part in (field.annotation, *get_args(field.annotation)):
            if not before and isinstance(part, type) and issubclass(part, BaseModel):
                yield from _names(part, f"{name}.")
