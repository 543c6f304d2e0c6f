"""What a backend is given that makes all steps of a recurrent layer in one pass (`Backend.recur`)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Cell = Literal["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
"""Kinds of recurrent cells, by torch's names of their gates."""


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    """One direction of a recurrent layer over its sequences; `nn.recurrent.CELLS` states what a step is.

    Attributes
    ----------
    cell : str
    x : Tensor (rows, G·H)
        What crossbars gave for the inputs, with their bias. Step t is the next `sizes[t]` rows.
    sizes : list of int
        How many sequences there are at each step, in the order of time: the first ones of the batch, longest first.
    backwards : bool
        The last step is made first.
    keys : list of (int, int)
        Seed and stream of each step's read, the step that is made first coming first.
    state : list of Tensor (B, H)
        h at the beginning, and of LSTM c.
    """

    cell: Cell
    x: Tensor
    sizes: list[int]
    backwards: bool
    keys: list[tuple[int, int]]
    state: list[Tensor]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Of each step, in the order in which they are made: its first row of x, and how many there are."""
        found, first = [], 0
        for size in self.sizes:
            found.append((first, size))
            first += size
        return found[::-1] if self.backwards else found
