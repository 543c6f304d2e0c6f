"""Measured converters: where an ADC's codes begin, and what a DAC's codes are."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from ..value import Value
from .measured import CODE, LSB, ROWS, VOLT, Column, Columns, takes_files

MOST = 131_072  # numbers of a table: 256 converters of 9 bits
Codes = Annotated[tuple[int, ...], Field(min_length=1, max_length=2**16)]
Curves = Annotated[tuple[tuple[float, ...], ...], Field(min_length=1, max_length=ROWS)]

OF_ADC = Columns(
    Column("code", CODE, "code", optional=True),
    Column("edge", LSB, "edge", optional=True, many=True),
    Column("edge", VOLT, "volts", optional=True, many=True),
    Column("inl", LSB, "inl", optional=True, many=True),
    Column("dnl", LSB, "dnl", optional=True, many=True),
)
OF_DAC = Columns(Column("code", CODE, "code", optional=True), Column("inl", LSB, "inl", many=True))


def _also_one_curve(schema: dict[str, Any]) -> None:
    takes_files(schema)
    for name in _CURVES:
        schema["properties"][name] = {"type": "array", "description": schema["properties"][name]["description"]}


def _also_a_list(schema: dict[str, Any]) -> None:
    takes_files(schema)
    del schema["type"]  # which leaves lists alone


class ADCTransfer(Value):
    """Where the codes of an ADC begin, one curve for all ADCs or several: exactly one of `edge`, `volts`, `inl`, `dnl`.

    An ideal ADC's code k begins at k - 1/2 LSB; codes are -2^(b-1) to 2^(b-1) - 1, those of an unsigned one 0 to
    2^b - 1. In a profile a curve is a list of numbers, several are a list of lists; or columns of a `file`, whose names
    may end in a number (`inl_1`, `inl_2`).
    """

    model_config = ConfigDict(json_schema_extra=_also_one_curve)

    code: Codes | None = None
    """The code of each number, as whole numbers one after the other; they may be counted from 0 for a signed ADC too.
    null: all codes; or all but the lowest one, which has no edge, and of `dnl` but the last one too."""
    edge: Curves | None = None
    """Where each code begins, LSB: steps of full_scale / 2^(b-1)-1, from the middle of the range of a signed ADC."""
    volts: Curves | None = None
    """The same in volts, with any offset and gain: the first and the last edge of a curve are taken for ideal."""
    inl: Curves | None = None
    """Integral non-linearity, LSB: how far above the ideal edge each code begins."""
    dnl: Curves | None = None
    """Differential non-linearity, LSB: by how much each code is wider than 1 LSB; the first edge is taken for ideal."""
    source: str = ""
    """Where the numbers are from: the name of the file that they were read from."""

    @model_validator(mode="before")
    @classmethod
    def _one_curve_is_several(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {key: [value] if key in _CURVES and _is_flat(value) else value for key, value in given.items()}

    @model_validator(mode="after")
    def _curves_are_alike(self) -> Self:
        given = [name for name in _CURVES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(_CURVES)} is needed (got {' and '.join(given) or 'none'})")
        lengths = {len(curve) for curve in getattr(self, given[0])}
        if len(lengths) != 1 or self.code is not None and lengths != {len(self.code)}:
            raise ValueError(f"{given[0]}: every curve needs as many numbers, one a code (got {sorted(lengths)})")
        if len(getattr(self, given[0])) * max(lengths) > MOST:
            raise ValueError(f"{given[0]}: more than {MOST:,} numbers")
        _check_codes(self.code)
        return self

    def dealt_from(self, output: int) -> Self:
        """Return the same with that output's curve first, and those of the outputs after it in turn."""
        name = next(name for name in _CURVES if getattr(self, name) is not None)
        curves = getattr(self, name)
        place = output % len(curves)
        return self.model_copy(update={name: curves[place:] + curves[:place]}) if place else self

    def edges(self, bits: int, signed: bool) -> tuple[tuple[float, ...], ...]:
        """Return where codes u = 1 … 2^bits - 1, counted from the lowest code 0, begin: LSB, for each curve.

        Raises
        ------
        ValueError
            There are not the numbers of so many bits, or a code begins after the next one.
        """
        name = next(name for name in _CURVES if getattr(self, name) is not None)
        return _edges(name, getattr(self, name), self.code, bits, signed)


@lru_cache(maxsize=64)
def _edges(
    name: str, curves: tuple[tuple[float, ...], ...], code: tuple[int, ...] | None, bits: int, signed: bool
) -> tuple[tuple[float, ...], ...]:
    zero, count = (2 ** (bits - 1) if signed else 0), 2**bits
    wanted = range(1, count - 1 if name == "dnl" else count)
    found = []
    for curve in curves:
        values = dict(zip(_from_zero(code, len(curve), wanted, count, zero), curve))
        if not values.keys() >= {*wanted} or not values.keys() <= {*range(count)}:
            raise ValueError(
                f"transfer.{name}: an ADC of {bits} bits needs {len(wanted):,} numbers, of its codes "
                f"{wanted[0] - zero} to {wanted[-1] - zero} (got {len(curve):,})"
            )
        own = [values[u] for u in wanted]
        edges = _TURNED[name](own, [u - zero - 0.5 for u in range(1, count)])
        for u, (a, b) in enumerate(zip(edges, edges[1:]), 1):
            if a > b:
                raise ValueError(
                    f"transfer.{name}: code {u - zero} begins at {a:.4g} LSB, after the next one ({b:.4g})"
                )
        found.append(tuple(edges))
    return tuple(found)


def _from_zero(code: tuple[int, ...] | None, length: int, wanted: range, count: int, zero: int) -> Sequence[int]:
    """Return the codes of a curve's numbers, counted from the lowest code 0."""
    if code is None:
        return range(count) if length == count else wanted if length == len(wanted) else ()
    return [one + zero for one in code] if code[0] < 0 else code


def _of_volts(volts: list[float], ideal: list[float]) -> list[float]:
    if len(volts) < 2 or not volts[-1] > volts[0]:
        raise ValueError("transfer.volts: edges must increase from the first code to the last")
    step = (volts[-1] - volts[0]) / (len(volts) - 1)
    return [ideal[0] + (volt - volts[0]) / step for volt in volts]


def _of_dnl(dnl: list[float], ideal: list[float]) -> list[float]:
    edges = ideal[:1]
    for one in dnl:
        edges.append(edges[-1] + 1 + one)
    return edges


_TURNED = {
    "edge": lambda own, ideal: own,
    "volts": _of_volts,
    "inl": lambda own, ideal: [a + b for a, b in zip(own, ideal)],
    "dnl": _of_dnl,
}
_CURVES = tuple(_TURNED)


class DACTable(Value):
    """What a DAC's codes are besides what they should be, of all rows alike or of several: code c gives c + inl(c)
    steps.

    In a profile a curve is a list of numbers, several are a list of lists; or columns `code` and `inl` (`inl_1`,
    `inl_2`), which may be in a `file`.
    """

    model_config = ConfigDict(json_schema_extra=_also_a_list)

    inl: Curves
    """Integral non-linearity, LSB; that of code 0 is 0."""
    code: Codes | None = None
    """The code of each number, one after the other. null: all codes in order, of a signed DAC from the lowest one,
    -(2^(b-1)-1). Where inputs are applied in steps they are the codes of a step, up to 2^step_bits - 1."""
    source: str = ""
    """Where the numbers are from: the name of the file that they were read from."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_a_table(cls, given: Any) -> Any:
        given = {"inl": given} if isinstance(given, list | tuple) else given
        if not isinstance(given, Mapping) or not _is_flat(given.get("inl")):
            return given
        return {**given, "inl": [given["inl"]]}

    @model_validator(mode="after")
    def _a_number_a_code(self) -> Self:
        lengths = {len(curve) for curve in self.inl}
        if len(lengths) != 1:
            raise ValueError(f"inl: every curve needs as many numbers, one a code (got {sorted(lengths)})")
        if sum(map(len, self.inl)) > MOST:
            raise ValueError(f"inl: more than {MOST:,} numbers")
        if self.code is not None and lengths != {len(self.code)}:
            raise ValueError(f"inl needs a number for each code (got {len(self.inl[0])} for {len(self.code)})")
        _check_codes(self.code)
        return self

    def levels(self, most: int, signed: bool) -> tuple[tuple[float, ...], ...]:
        """Return what codes give, in steps, for each curve: of codes -most … most, or 0 … most.

        Raises
        ------
        ValueError
            There are not the numbers of these codes, or code 0 is not 0.
        """
        codes = range(-most if signed else 0, most + 1)
        for curve in self.inl:
            if tuple(self.code or codes) != tuple(codes) or len(curve) != len(codes):
                raise ValueError(
                    f"inl needs {len(codes):,} numbers, of the codes {codes[0]} to {codes[-1]} (got {len(curve):,})"
                )
            if offset := curve[most if signed else 0]:
                raise ValueError(
                    f"inl of code 0 must be 0, for idle rows are not driven (got {offset:g}): take it off all numbers"
                )
        return tuple(tuple(code + one for code, one in zip(codes, curve)) for curve in self.inl)


def _check_codes(code: tuple[int, ...] | None) -> None:
    for a, b in zip(code or (), (code or ())[1:]):
        if b != a + 1:
            raise ValueError(f"codes must come one after the other (got {a}, then {b})")


def _is_flat(value: Any) -> bool:
    return isinstance(value, list | tuple) and not any(isinstance(one, list | tuple) for one in value)
