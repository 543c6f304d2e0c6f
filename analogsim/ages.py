"""A chip's age as a person writes it, "1d" or "90 s", and in seconds."""

import math
import re

from .errors import ProfileError

_YEAR = 365.25 * 86400
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "mo": _YEAR / 12, "y": _YEAR}
"""Seconds of each unit."""
_SHOWN = ("y", "d", "h", "min", "s")


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
    if not (match and 0 <= number < math.inf) or (match[2] or "s") not in UNITS:
        raise ProfileError(f"age: {age!r} is none; give seconds, or a number and one of {', '.join(UNITS)}, such as 1d")
    return number * UNITS[match[2] or "s"]


def text(age: float) -> str:
    """Return seconds in the largest unit of which there is one at least, to three digits; months only if whole."""
    unit = next((unit for unit in _SHOWN if age >= UNITS[unit]), "s")
    if unit == "d" and not age % UNITS["mo"]:
        unit = "mo"
    return f"{age / UNITS[unit]:.3g} {unit}"
