"""The part of a profile that describes cells whose current is not proportional to the voltage."""

from typing import Annotated

from pydantic import Field

from ..value import Value
from .laws import Table
from .measured import CONDUCTANCE, RATIO, Column, Columns


class LogPolynomial(Value):
    """A quantity that depends on the conductance as a polynomial in its logarithm, Σ c_i (ln g)^i; may be below 0."""

    log: Annotated[tuple[float, ...], Field(min_length=1, max_length=8)]
    """Coefficients c₀, c₁, …, in the field's unit."""


Curve = float | LogPolynomial | Table
"""How a quantity with a sign depends on the conductance: a constant, a polynomial in ln g, or measured points."""


class IV(Value):
    """A cell's current: I/(g_max·V) = g·x + NL₂(g)·x² + NL₃(g)·x³, for the voltage x·V and the largest voltage V."""

    second: Annotated[Curve, Columns(Column("g", CONDUCTANCE, "g"), Column("second", RATIO))] = 0.0
    """NL₂, fraction of g_max: V/g_max times the coefficient of the voltage's square."""
    third: Annotated[Curve, Columns(Column("g", CONDUCTANCE, "g"), Column("third", RATIO))] = 0.0
    """NL₃, fraction of g_max: V²/g_max times the coefficient of the voltage's cube."""

    @property
    def any(self) -> bool:
        """True where currents are not proportional to voltages."""
        return (self.second, self.third) != (0, 0)
