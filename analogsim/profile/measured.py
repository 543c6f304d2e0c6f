"""Measured data in a profile: tables that are given in units, inline or as CSV files, and what their columns are.

This file knows numbers and units only, and reads files as carefully as profiles are read: a file of a stranger is
refused in a line, with its name and line.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel

from .. import ages
from ..errors import ProfileError
from ..storage.files import content
from ..storage.plain_yaml import LARGEST
from ..value import is_truth, short

ROWS = 4096  # of a file
MOST = 10  # times g_max: what is larger was given in a wrong unit
_MICROSIEMENS = {"S": 1e6, "mS": 1e3, "uS": 1.0, "nS": 1e-3, "pS": 1e-6}
_OHM = {"Ohm": 1.0, "kOhm": 1e3, "MOhm": 1e6, "GOhm": 1e9}
_RATIO = {"": 1.0, "%": 0.01}


@dataclass(frozen=True)
class Quantity:
    """What the numbers of a column are.

    Attributes
    ----------
    name : str
        For messages.
    units : mapping of str to float
        Units by the factor that turns them into the profile's own, which has the name "".
    conductance : bool
        Also in units of conductance, which `cells.g_max` turns into fractions.
    resistance : bool
        And in those of resistance, 1/g.
    """

    name: str
    units: Mapping[str, float]
    conductance: bool = False
    resistance: bool = False

    def converted(self, values: tuple[float, ...], unit: str, g_max: float | None) -> tuple[float, ...]:
        """Return numbers in the profile's own unit.

        Parameters
        ----------
        g_max : float or None
            µS.

        Raises
        ------
        ProfileError
            There is no such unit of this, it needs a g_max that is not known, a resistance is 0, or a conductance is
            more than ten times g_max.
        """
        if unit in self.units:
            return values if unit == "" else tuple(value * self.units[unit] for value in values)
        known = [*self.units, *(_MICROSIEMENS if self.conductance else ()), *(_OHM if self.resistance else ())]
        if unit not in known:
            raise ProfileError(f"{self.name} has no unit {unit}; its units: {', '.join(filter(None, known))} or none")
        if g_max is None:
            raise ProfileError(
                f"{self.name} in {unit} needs cells.g_max, the largest conductance in µS; without a unit in its name a "
                "column is in fractions of it"
            )
        if unit in _OHM and not all(value > 0 for value in values):
            raise ProfileError(f"{self.name}: a resistance must be above 0")
        microsiemens = [
            value * _MICROSIEMENS[unit] if unit in _MICROSIEMENS else 1e6 / (value * _OHM[unit]) for value in values
        ]
        for value, found in zip(values, microsiemens):
            if abs(found) > MOST * g_max:
                raise ProfileError(
                    f"{self.name}: {value:g} {unit} is {abs(found) / g_max:.3g} times cells.g_max, {g_max:g} µS; check "
                    "the units"
                )
        return tuple(found / g_max for found in microsiemens)


CONDUCTANCE = Quantity("a conductance", _RATIO, conductance=True, resistance=True)
SPREAD = Quantity("an error of a conductance", _RATIO, conductance=True)
RATIO = Quantity("a ratio", _RATIO)
SECONDS = Quantity("a time", {"": 1.0, **ages.UNITS, "ms": 1e-3, "us": 1e-6, "ns": 1e-9})
LSB = Quantity("a step of a converter", {"": 1.0, "LSB": 1.0})
VOLT = Quantity("a voltage", {"V": 1.0, "mV": 1e-3, "uV": 1e-6})
CODE = Quantity("a code", {"": 1.0})
_UNITS = {*LSB.units, *VOLT.units, *_MICROSIEMENS, *_OHM, *_RATIO, *SECONDS.units}


@dataclass(frozen=True)
class Column:
    """A column of measured numbers.

    Attributes
    ----------
    name : str
        In a header.
    quantity : Quantity
    field : str
        Of the table that holds it.
    optional : bool
        A table may do without it; then it is found by the units of its quantity only.
    many : bool
        Several columns with numbers after the name or at the end, `inl_1` and `inl_2`, are curves side by side.
    """

    name: str
    quantity: Quantity
    field: str = "value"
    optional: bool = False
    many: bool = False

    def unit(self, header: str) -> str | None:
        """Return the unit that a header gives this column, "" for none; or None where it is another column's.

        Examples
        --------
        >>> [Column("g", CONDUCTANCE).unit(header) for header in ("g", "g_uS", "g [µS]", "g (kΩ)", "gain")]
        ['', 'uS', 'uS', 'kOhm', None]
        """
        header = header.strip()
        if not header.casefold().startswith(self.name.casefold()):
            return None
        unit = header[len(self.name) :].replace("µ", "u").replace("μ", "u")
        unit = unit.replace("Ω", "Ohm").replace("Ω", "Ohm").replace("ohm", "Ohm")
        if self.many:
            unit = re.sub(r"^[ _]*\d+|[ _]+\d+$", "", unit)
        unit = unit.strip(" _[]()/")
        return unit if unit in (self.quantity.units if self.optional else _UNITS) else None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that a field takes; stands in the field's annotation."""

    each: tuple[Column, ...]

    def __init__(self, *each: Column) -> None:
        object.__setattr__(self, "each", each)

    def read(self, given: Mapping[str, Any], folder: Path, g_max: float | None) -> dict[str, Any]:
        """Return a table as the profile holds it: inline, in the profile's units, its points in rising order.

        Parameters
        ----------
        given : mapping
            What the profile says: `file`, or columns as lists of numbers; what else there is stays.
        folder : Path
            Where a relative path starts.
        """
        rest = {str(key): value for key, value in given.items()}
        if "file" not in rest:
            return rest | self._inline(rest, g_max)
        name = rest.pop("file")
        if not isinstance(name, str) or not name:
            raise ProfileError(f"file: the path of a CSV file is needed (got {short(name)})")
        columns = read_csv(folder / name)
        try:
            found = {column.field: self._converted(column, columns, g_max) for column in self.each}
            found = {field: values for field, values in found.items() if values is not None}
        except ProfileError as error:
            raise ProfileError(f"{name}: {error}") from None
        points = found.get(self.each[0].field, ())
        if len(points) > 1 and all(a > b for a, b in zip(points, points[1:])):  # as of growing resistances
            many = {column.field for column in self.each if column.many}
            found = {field: tuple(v[::-1] for v in vs) if field in many else vs[::-1] for field, vs in found.items()}
        return {"source": name} | rest | found

    def _inline(self, rest: dict[str, Any], g_max: float | None) -> dict[str, Any]:
        """Convert lists of numbers that have units; take them out of what is given."""
        found: dict[str, Any] = {}
        for column in self.each:
            for header in [header for header in rest if header != column.field]:
                unit, values = column.unit(header), rest[header]
                if unit is not None and isinstance(values, list | tuple) and all(map(_is_number, values)):
                    found[column.field] = column.quantity.converted(tuple(rest.pop(header)), unit, g_max)
        return found

    def _converted(self, column: Column, columns: dict[str, tuple[float, ...]], g_max: float | None) -> Any:
        units = {header: column.unit(header) for header in columns}
        own = [header for header, unit in units.items() if unit is not None]
        if column.optional and not own:
            return None
        if column.many:
            return tuple(column.quantity.converted(columns[one], units[one] or "", g_max) for one in own)
        if len(own) != 1:
            which = "no column" if not own else f"{len(own)} columns"
            raise ProfileError(f"{which} {column.name!r}; the columns are {short(', '.join(columns))}")
        return column.quantity.converted(columns[own[0]], units[own[0]] or "", g_max)


def read_tables(values: Mapping[str, Any], model: type[BaseModel], folder: Path) -> dict[str, Any]:
    """Return the values of a profile with its measured data inline: files read, units converted.

    Parameters
    ----------
    values : mapping
        Parts of a profile, as mappings of fields (or anything else, which is left for validation).
    model : type
        The profile's class. Its parts' fields say by `Columns` in their annotations which take tables.
    folder : Path
        Where relative paths of files start.

    Raises
    ------
    ProfileError
        A file or a column cannot be read.
    """
    found = dict(values)
    for part, field, columns in _fields(model):
        given = found.get(part)
        if not isinstance(given, Mapping) or not isinstance(given.get(field), Mapping):
            continue
        try:
            found[part] = {**given, field: columns.read(given[field], folder, _g_max(values))}
        except ProfileError as error:
            raise ProfileError(f"{part}.{field}: {error}") from None
    return found


def takes_files(schema: dict[str, Any]) -> None:
    """Say in a table's JSON schema that it may also be a file, or columns that have units in their names."""
    text = "Path of a CSV file whose columns have units in their names, relative to the profile's file."
    schema["properties"]["file"] = {"title": "File", "type": "string", "description": text}
    with_units = {"propertyNames": {"pattern": r"^(outside|source|.*[ _(\[].*)$"}}
    if required := schema.pop("required", None):
        schema["anyOf"] = [{"required": required}, {"required": ["file"]}, with_units]
    del schema["additionalProperties"]


def read_csv(path: Path) -> dict[str, tuple[float, ...]]:
    """Read a CSV file of numbers: a line of names, then a line of numbers for each row, separated by commas.

    Empty lines, and those that begin with #, are left out.

    Raises
    ------
    ProfileError
        The file cannot be read, is too large, or holds anything else; names the file and the line.
    """
    try:
        text = content(path, LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: not a readable text file: {error}") from None
    header: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path.name}, line {number}"
        try:
            (cells,) = csv.reader([line.rstrip("\r")], strict=True, skipinitialspace=True)
        except (csv.Error, ValueError) as error:
            raise ProfileError(f"{where}: no CSV: {error}") from None
        if not header:
            header = _header([cell.strip() for cell in cells], where)
            continue
        if len(cells) != len(header):
            raise ProfileError(f"{where}: {len(cells)} numbers for {len(header)} columns, separated by commas")
        rows.append([_number(cell, name, where) for cell, name in zip(cells, header)])
        if len(rows) > ROWS:
            raise ProfileError(f"{where}: more than {ROWS:,} rows")
    if not rows:
        raise ProfileError(f"{path.name}: a line of column names and rows of numbers are needed")
    return {name: tuple(row[i] for row in rows) for i, name in enumerate(header)}


def _header(names: list[str], where: str) -> list[str]:
    if not all(names) or len(set(names)) < len(names):
        raise ProfileError(f"{where}: every column needs a name of its own (got {short(', '.join(names))})")
    for name in names:
        try:
            float(name)
        except ValueError:
            continue
        raise ProfileError(f"{where}: the first line must name the columns (got {short(name)})")
    return names


def _number(cell: str, column: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ProfileError(f"{where}: {short(cell)} in column {short(column)} is no finite number")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not is_truth(value)


def _g_max(values: Mapping[str, Any]) -> float | None:
    """Return cells.g_max as it is given, and None where it is no number, which validation says."""
    cells = values.get("cells")
    given = cells.get("g_max") if isinstance(cells, Mapping) else getattr(cells, "g_max", None)
    return float(given) if _is_number(given) and given > 0 else None


@cache
def _fields(model: type[BaseModel]) -> tuple[tuple[str, str, Columns], ...]:
    """Return the fields of a profile's parts that take tables."""

    def found() -> Iterator[tuple[str, str, Columns]]:
        for part, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                for field, own in info.annotation.model_fields.items():
                    yield from ((part, field, one) for one in own.metadata if isinstance(one, Columns))

    return tuple(found())
