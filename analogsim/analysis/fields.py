"""A profile's fields by their dotted names: what sweeps and searches vary."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from ..errors import ProfileError
from ..profile import HardwareProfile

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
                raise ProfileError(f"{key!r} is no field of a profile{_hint(key, _fields())}")
            changes |= {part: changes.get(part, {}) | {field: value}} if dot else {part: value}
    return base.varied(**changes)


def _hint(key: str, known: Sequence[str]) -> str:
    """Return which field was meant: the one of another part with this name, or the one spelt most like it."""
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    own = key.rpartition(".")[2]
    near = [last[own]] if own in last else get_close_matches(key, known, 1)
    near = near or [last[name] for name in get_close_matches(own, last, 1, 0.5)]
    return f"; did you mean {near[0]!r}?" if near else ""


@cache
def _fields() -> tuple[str, ...]:
    return tuple(_names(HardwareProfile))


def _names(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield before + name
        for part in (field.annotation, *get_args(field.annotation)):
            if not before and isinstance(part, type) and issubclass(part, BaseModel):
                yield from _names(part, f"{name}.")
