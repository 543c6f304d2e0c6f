"""The part of a profile that describes the wires of an array: resistances, and how the currents on them are found."""

from typing import Literal, Self

from pydantic import model_validator

from ..value import NonNegative, Value


class Wires(Value):
    """Wire resistance (IR drop); docs/devices.md, Wires."""

    row: NonNegative = 0.0
    """Resistance of a row's segment between two cells, times g_max (no unit). The driver is beside column 0."""
    column: NonNegative = 0.0
    """Resistance of a column's segment between two cells, times g_max (no unit). The ADC is after the last row."""
    row_terminal: NonNegative = 0.0
    """Resistance between a row's driver and its first segment, of the driver itself and of switches, times g_max (no
    unit)."""
    column_terminal: NonNegative = 0.0
    """Resistance between a column's last segment and its ADC, whose input is at 0 V, times g_max (no unit)."""
    source: NonNegative | None = None
    """Resistance of a segment of a *source wire* beside every column, times g_max (no unit), where the cells' current
    comes from such wires: inputs then carry no current, and only connect cells to them. null: current comes along
    the rows."""
    source_terminal: NonNegative = 0.0
    """Resistance between a source wire's supply, which is before row 0, and its first segment, times g_max (no
    unit)."""
    solution: Literal["first-order", "exact"] = "first-order"
    """first-order: each cell loses what the resistances take to first order. exact: Kirchhoff's equations are solved,
    once for a chip where that is enough, and at every read where rows are gated."""
    interleaved: bool = False
    """true: the two cells of a differential pair stand at one place of one column, which carries the difference of
    their currents; rows have two wires, for x and -x. false: they are in two arrays."""
    gated: bool = False
    """true: a transistor in each cell disconnects it while its row's input is 0. false: that row is driven to 0 V.
    Source wires need it."""

    @property
    def any(self) -> bool:
        """True where any wire has a resistance."""
        return any((self.row, self.column, self.row_terminal, self.column_terminal, self.source, self.source_terminal))

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.gated and self.solution != "exact":
            raise ValueError("gated: which rows count is another question at every read: needs solution 'exact'")
        if self.source is None and self.source_terminal:
            raise ValueError("source_terminal: there are no source wires; give source, their resistance")
        if self.source is not None and (self.row or self.row_terminal):
            raise ValueError("row, row_terminal: rows carry no current where there are source wires; leave them out")
        if self.source is not None and not self.gated:
            raise ValueError("source: inputs that carry no current must switch cells: needs gated: true")
        return self
