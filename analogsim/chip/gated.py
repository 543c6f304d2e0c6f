"""Arrays whose rows are gated: what is read is no product with a matrix, but a circuit's answer to the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..kernels import Backend
from ..kernels.circuit import Circuit
from ..profile.wires import Wires
from .layout import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """The bit lines of a matrix on arrays with gated rows.

    Attributes
    ----------
    circuits : dict of (first output line, first input) to Circuit
    lines : int
        How many bit lines there are.
    own : sequence of Tensor (N,), int64
        Each output's lines, of which all after the first are subtracted.
    unit : float
        What currents are multiplied by, normalised units.
    """

    circuits: dict[tuple[int, int], Circuit]
    lines: int
    own: tuple[Tensor, ...]
    unit: float = 1.0

    @classmethod
    def of(cls, cells: Sequence[Tensor], wires: Wires, layout: Layout, own: Sequence[Tensor]) -> "Gated":
        """Build the circuits of cells (lines, K): of one array in each place, or of pairs that share columns or not.

        Lines of the second array of a pair that shares none are counted after those of the first.
        """
        along_rows = wires.source is None
        ends = (wires.row, wires.row_terminal) if wires.source is None else (wires.source, wires.source_terminal)
        groups = [torch.stack(list(cells))] if wires.interleaved else [g[None] for g in cells]
        circuits = {}
        for number, g in enumerate(groups):
            for outputs, inputs in layout.arrays():
                held = g[:, outputs, inputs].transpose(1, 2).double().contiguous()
                where = number * g.shape[1] + outputs.start, inputs.start
                circuits[where] = Circuit(held, *ends, wires.column, wires.column_terminal, along_rows)
        return cls(circuits, len(groups) * groups[0].shape[1], tuple(own))

    def times(self, unit: float) -> "Gated":
        """Return the same in other units."""
        return replace(self, unit=self.unit * unit)

    def part(self, outputs: slice | Tensor) -> "Gated":
        """Return some outputs."""
        return replace(self, own=tuple(lines[outputs] for lines in self.own))

    def sums(self, kernel: Backend, x: Tensor, start: int) -> Tensor:
        """Return a tile's sums (M, N), normalised units, for its inputs x̂ (M, rows) from `start` on."""
        wanted = torch.cat(self.own)
        found = x.new_empty(len(x), self.lines, dtype=torch.float64)
        for (first, begin), circuit in self.circuits.items():
            lines = slice(first, first + circuit.cells.shape[2])
            if begin == start and bool(((wanted >= lines.start) & (wanted < lines.stop)).any()):
                found[:, lines] = kernel.settle(circuit, x.double())
        first, *others = (found[:, lines] for lines in self.own)
        for other in others:
            first = first - other
        return (first * self.unit).to(x.dtype)
