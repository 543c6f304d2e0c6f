"""What a translation carries over and what it does not: every setting of the source is in one list or the other."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml

from ...errors import TranslationWarning, warn
from ...terminal.text import printable


@dataclass(frozen=True)
class Translation:
    """A configuration in another simulator's words.

    Attributes
    ----------
    source, target : str
        From whose words into whose, for messages.
    values : dict
        The translation: a profile's parts, or the other simulator's settings; nested dicts of plain values.
    carried : tuple of str
        A line for each setting that has a counterpart: "core.rows_max = 128 -> tile.rows = 128".
    lost : tuple of str
        A line for each setting that differs from its default and has none, or means something else there, and how.
    """

    source: str
    target: str
    values: dict[str, Any]
    carried: tuple[str, ...]
    lost: tuple[str, ...]

    def warn(self) -> None:
        """Warn of what is lost, a line for each; where nothing is, of nothing."""
        if self.lost:
            lines = "".join(f"\n  {line}" for line in self.lost)
            said = f"of {self.source}'s settings {self.target} has these not, or otherwise:{lines}"
            warn(said, TranslationWarning)

    def text(self, name: str) -> str:
        """Return a profile that was read as YAML: what it is from and what is lost as comments, and its values."""
        lost = ["# What is not in it, or otherwise:", *(f"#   {line}" for line in self.lost)] if self.lost else []
        head = [f"# Read from {self.source}'s settings: {printable(name)}", *map(printable, lost)]
        values = {"name": name, "description": f"Read from {self.source}'s settings: {name}.", **self.values}
        return "\n".join([*head, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)])


class Reading:
    """A configuration that is being translated: what was taken of it, what became of it, and what is left.

    Parameters
    ----------
    source, target : str
    given : mapping
        The settings by their dotted names.
    defaults : mapping
        Likewise; a setting that is at its default and was not asked for is not missed.
    """

    def __init__(self, source: str, target: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.source, self.target, self.given, self.defaults = source, target, given, defaults
        self._asked: set[str] = set()
        self._values: dict[str, Any] = {}
        self._carried: list[str] = []
        self._lost: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return self.given.get(name, self.defaults.get(name))

    @property
    def values(self) -> dict[str, Any]:
        """What was set so far."""
        return self._values

    def put(self, field: str, value: Any, *names: str) -> None:
        """Set a field of the target, which follows from these settings."""
        at = self._values
        *sections, own = field.split(".")
        for section in sections:
            at = at.setdefault(section, {})
        at[own] = value
        self._asked.update(names)
        if names:
            said = ", ".join(f"{name} = {self.given.get(name, self.defaults.get(name))!r}" for name in names)
            self._carried.append(f"{said} -> {field} = {value!r}")

    def lose(self, name: str, why: str) -> None:
        """Say that a setting is not carried over, or not as it was meant."""
        self._asked.add(name)
        self._lost.append(f"{name} = {self.given.get(name, self.defaults.get(name))!r}: {why}")

    def ignore(self, patterns: Iterable[str]) -> None:
        """Leave out settings that say how something is computed or trained, and nothing of hardware."""
        self._asked.update(name for name in self.given if any(fnmatchcase(name, pattern) for pattern in patterns))

    def done(self) -> Translation:
        """Return the translation; what nobody asked for and is not at its default is lost."""
        for name in self.given:
            known = name in self.defaults
            if name not in self._asked and not (known and self.given[name] == self.defaults[name]):
                self.lose(name, "no counterpart")
        return Translation(self.source, self.target, self._values, tuple(self._carried), tuple(self._lost))


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names.

    Examples
    --------
    >>> flat({"core": {"style": 1}})
    {'core.style': 1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and bool(value)
        found |= flat(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return found


def parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a profile's fields by their dotted names; a law is one value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            {f"{name}.{own}": inner for own, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return found


def same(one: Any, other: Any, tolerance: float = 1e-9) -> bool:
    """Return whether two laws, or other values, are equal, to what a float loses on its way."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name], tolerance) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
    return one == other
