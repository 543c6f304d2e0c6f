"""Profiles side by side, field by field, each with its unit."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from .hardware import HardwareProfile

# What docstrings of fields call their units.
_UNITS = re.compile(
    r"\b(normalised units|activation units|weight units|no unit|bits|LSB|pJ|fJ|ns|seconds|"
    r"fraction( of g_max| of full scale| of the full-scale weight| of the conductance)?)\b"
)
_OF_SECTION = {"faults": "probability"}


@dataclass(frozen=True)
class Row:
    """One field of several profiles.

    Attributes
    ----------
    field : str
        Its dotted name.
    unit : str
        As its docstring says; "" where it is a choice or a count.
    values : tuple
        Its value in each profile: plain values, laws as mappings.
    """

    field: str
    unit: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        """True where the profiles do not agree."""
        return any(value != self.values[0] for value in self.values)


def compare(profiles: Sequence[HardwareProfile]) -> list[Row]:
    """Return every field of profiles side by side, but for their names and descriptions.

    Examples
    --------
    >>> rows = compare([HardwareProfile.load("8bit"), HardwareProfile.load("noisy")])
    >>> [(row.field, row.values) for row in rows if row.field == "noise.output"]
    [('noise.output', (0.0, 0.06))]
    """
    rows = []
    for section, field in HardwareProfile.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for name, unit in _units(field.annotation):
                values = (_plain(getattr(getattr(profile, section), name)) for profile in profiles)
                rows.append(Row(f"{section}.{name}", _OF_SECTION.get(section, unit), tuple(values)))
    return rows


def titled(name: str) -> str:
    """Return a field's dotted name with its unit, as the axis of a picture says it.

    Examples
    --------
    >>> titled("adc.full_scale"), titled("tile.rows")
    ('adc.full_scale (normalised units)', 'tile.rows (count)')
    """
    section, _, field = name.partition(".")
    kind = HardwareProfile.model_fields[section].annotation if section in HardwareProfile.model_fields else None
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or field not in kind.model_fields:
        return name
    unit = _OF_SECTION.get(section) or dict(_units(kind))[field]
    counts = not unit and "int" in str(kind.model_fields[field].annotation)
    return f"{name} ({'count' if counts else unit})" if unit or counts else name


def _units(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        about = " ".join((field.description or "").split())
        numbers = any(kind in str(field.annotation) for kind in ("int", "float"))
        found = _UNITS.search(about.replace("Seconds", "seconds")) if numbers else None
        yield name, found[0] if found else ""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return list(value) if isinstance(value, tuple) else value
