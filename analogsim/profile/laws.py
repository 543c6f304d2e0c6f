"""Laws of the conductance: how a quantity, such as the σ of programming noise, depends on a cell's conductance g.

A conductance is a fraction of the largest one, g_max; a law's value has the unit of the field that has it.
`analogsim.chip.laws` evaluates them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from ..meant import meant
from ..value import NonNegative, Positive, Value
from .measured import ROWS, takes_files

Polynomial = Annotated[tuple[float, ...], Field(min_length=1, max_length=8)]
FURTHEST = 10.0  # g_max; what is beyond is not in fractions of g_max


class Saturating(Value):
    """A quantity that grows with the conductance and saturates: amplitude·(1 - exp(-g/scale))."""

    amplitude: NonNegative
    """Value at large conductance, in the field's unit."""
    scale: Positive
    """Conductance at which it is 1 - 1/e of that, fraction of g_max."""


class LogLaw(Value):
    """A quantity that depends on the conductance as constant + slope·ln(g), between two limits, in the field's unit."""

    constant: float
    """Value at g = g_max."""
    slope: float = 0.0
    """Change per e-fold of conductance."""
    low: NonNegative = 0.0
    """Smallest value."""
    high: NonNegative = 1.0
    """Largest value."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high (got {self.low} and {self.high})")
        return self


# By the names of their classes, which complaints know (`analogsim.value.explain`).
_KEYS = {
    "Table": {"g", "value", "file"},
    "Branches": {"below", "limit", "above"},
    "Saturating": {"amplitude", "scale"},
    "LogLaw": {"constant", "slope", "low", "high"},
}


def _kind(value: Any) -> str | None:
    """Return which law a value is, as its tag; what is no law at all is refused as a constant, for it is no number."""
    if isinstance(value, Mapping):
        given = {str(key) for key in value}
        # Of a law whose every key is misspelt, the kind that was meant says which.
        given |= {name for key in given for name in meant(key, set().union(*_KEYS.values()))}
        found = [kind for kind, keys in _KEYS.items() if keys & given]
        return found[0] if found else None
    if type(value).__name__ in _KEYS:
        return type(value).__name__
    return "law[polynomial]" if isinstance(value, list | tuple) else "law[constant]"


def _below_kind(value: Any) -> str | None:
    kind = _kind(value)
    return kind if kind in ("law[constant]", "law[polynomial]", "LogLaw", "Branches") else None


_BELOW = (
    "below a limit a law is a number, coefficients [c0, c1, …] of a polynomial, or has constant and slope; or below, "
    "limit and above"
)


class Branches(Value):
    """A quantity that depends on the conductance by one law below a limit and by another from there on."""

    below: Annotated[
        Annotated[NonNegative, Tag("law[constant]")]
        | Annotated[Polynomial, Tag("law[polynomial]")]
        | Annotated[LogLaw, Tag("LogLaw")]
        | Annotated["Branches", Tag("Branches")],
        Discriminator(_below_kind, custom_error_type="no_law", custom_error_message=_BELOW),
    ]
    """Law of conductances below `limit`: a constant, coefficients c₀, c₁, … of a polynomial, a logarithmic law, or
    branches again."""
    limit: Annotated[float, Field(gt=0, le=1)]
    """Conductance at which the laws take turns, fraction of g_max."""
    above: Polynomial
    """From there on: coefficients c₀, c₁, … of a polynomial in the conductance, max(Σ c_i g^i, 0)."""


Whole = Annotated[float, Field(ge=0, le=FURTHEST)]
Points = Annotated[tuple[Whole, ...], Field(min_length=2, max_length=ROWS)]


class Table(Value):
    """A quantity that was measured at some conductances, linearly interpolated between them.

    In a profile it is given inline, by `g` and `value`, or by columns with units in their names (`g_uS`), or as
    `file`, the path of a CSV file with such columns, relative to the profile's file (docs/devices.md, Measured data).
    """

    model_config = ConfigDict(json_schema_extra=takes_files)

    g: Points
    """Conductances of the points, fractions of g_max, each larger than the one before."""
    value: Annotated[tuple[float, ...], Field(min_length=2, max_length=ROWS)]
    """Value at each point, in the field's unit."""
    outside: Literal["error", "hold"] = "error"
    """Of targets below the first point and above the last one: error: cells are not programmed to them.
    hold: they have the value of that point, as do all conductances that noise or age take there."""
    source: str = ""
    """Where the numbers are from: the name of the file that they were read from."""

    @model_validator(mode="after")
    def _points_increase(self) -> Self:
        if len(self.g) != len(self.value):
            raise ValueError(f"as many values as conductances are needed (got {len(self.value)} for {len(self.g)})")
        _increase(self.g, "conductances")
        return self


class DriftTable(Value):
    """Conductances that were measured as they drifted: g(g0, t), of cells that were programmed to g0.

    Between its points it is linear in g0 and in ln t. In a profile it is given inline; or by three columns of equal
    length, `g0`, `t` and `g`, one row for each conductance and time, which may have units in their names and be in a
    `file`, as those of a `Table`.
    """

    model_config = ConfigDict(json_schema_extra=takes_files)

    g0: Points
    """Conductances that cells were programmed to, fractions of g_max, each larger than the one before."""
    seconds: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=ROWS)]
    """Times since they were programmed, seconds, each later than the one before; the first read is at `t0`."""
    g: tuple[tuple[Whole, ...], ...]
    """For each of `g0`, the conductance at each of `seconds`, fractions of g_max."""
    outside: Literal["error", "hold"] = "error"
    """Of targets and times beyond the table: error; or hold: the cell changes by as much as it does at the table's end,
    as every conductance does that noise took there."""
    source: str = ""
    """Where the numbers are from: the name of the file that they were read from."""

    @model_validator(mode="before")
    @classmethod
    def _rows_make_a_grid(cls, given: Any) -> Any:
        columns = [given.get(name) for name in ("g0", "seconds", "g")] if isinstance(given, Mapping) else []
        lists = [column for column in columns if isinstance(column, list | tuple)]
        if len(lists) < 3 or len({*map(len, lists)}) > 1:
            return given
        rows = list(zip(*lists))
        if not rows or not all(isinstance(one, int | float) for row in rows for one in row):
            return given
        g0, seconds = (sorted({row[i] for row in rows}) for i in (0, 1))
        found = {(a, t): g for a, t, g in rows}
        if len(found) < len(rows) or len(rows) != len(g0) * len(seconds):
            raise ValueError(
                f"a row is needed for each of {len(g0)} conductances at each of {len(seconds)} times, each once "
                f"(got {len(rows)} rows)"
            )
        return {**given, "g0": g0, "seconds": seconds, "g": [[found[a, t] for t in seconds] for a in g0]}

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        if len(self.g) != len(self.g0) or any(len(row) != len(self.seconds) for row in self.g):
            raise ValueError(f"g must have {len(self.g0)} rows, one a conductance, of {len(self.seconds)} times")
        if len(self.g0) * len(self.seconds) > ROWS:
            raise ValueError(f"more than {ROWS:,} conductances")
        _increase(self.g0, "conductances")
        _increase(self.seconds, "times")
        return self


def _increase(points: tuple[float, ...], what: str) -> None:
    for a, b in zip(points, points[1:]):
        if a >= b:
            raise ValueError(f"{what} must increase, each one once (got {a:g}, then {b:g})")


def _not_negative(table: Table) -> Table:
    if min(table.value) < 0:
        raise ValueError(f"a value must not be negative (got {min(table.value):g})")
    return table


def _signed_kind(value: Any) -> str | None:
    kind = _kind(value)
    return kind if kind in ("law[constant]", "law[polynomial]", "Table") else None


_SIGNED = "a law of either sign is a number, coefficients [c0, c1, …] of a polynomial, or has g and value, or file"
_WANTED = (
    "a law is a number, coefficients [c0, c1, …] of a polynomial, or has amplitude and scale; constant and slope; "
    "below, limit and above; g and value; or file"
)
Law = Annotated[
    Annotated[NonNegative, Tag("law[constant]")]
    | Annotated[Polynomial, Tag("law[polynomial]")]
    | Annotated[Saturating, Tag("Saturating")]
    | Annotated[LogLaw, Tag("LogLaw")]
    | Annotated[Branches, Tag("Branches")]
    | Annotated[Table, AfterValidator(_not_negative), Tag("Table")],
    Discriminator(_kind, custom_error_type="no_law", custom_error_message=_WANTED),
]
"""How a quantity that is not negative depends on the conductance: a constant; coefficients c₀, c₁, … of a polynomial,
max(Σ c_i g^i, 0); a saturating or a logarithmic law; one in two branches; or measured points."""

SignedLaw = Annotated[
    Annotated[float, Tag("law[constant]")]
    | Annotated[Polynomial, Tag("law[polynomial]")]
    | Annotated[Table, Tag("Table")],
    Discriminator(_signed_kind, custom_error_type="no_law", custom_error_message=_SIGNED),
]
"""How a quantity of either sign depends on the conductance: a constant; a polynomial Σ c_i g^i; or measured points."""


Coefficients = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]


class Moments(Value):
    """How cells of one target move and spread apart as time passes, as it was measured at some ages of a chip.

    At age 0 they are as they were programmed; between the ages mean and σ are linear in time.
    """

    seconds: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=64)]
    """Ages, seconds since the first read, each later than the one before."""
    mean: tuple[Coefficients, ...]
    """At each age, by how much the mean has moved, fraction of g_max: coefficients of a polynomial in the target."""
    sigma: tuple[Saturating | Coefficients, ...]
    """At each age, the standard deviation between cells, that of programming included, fraction of g_max: a saturating
    law of the conductance that cells then have in the mean, or coefficients of a polynomial."""
    outside: Literal["error", "hold"] = "error"
    """Of chips that are older than the last age: error; or hold: they are as at that age."""

    @model_validator(mode="after")
    def _of_each_age(self) -> Self:
        if not len(self.seconds) == len(self.mean) == len(self.sigma):
            raise ValueError(
                f"one mean and one sigma for each age are needed (got {len(self.seconds)} ages, {len(self.mean)} means "
                f"and {len(self.sigma)} sigmas)"
            )
        _increase(self.seconds, "ages")
        return self
