"""The circuit of an array whose rows are gated, solved at every read (docs/devices.md, Wires)."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import ProfileError

TOLERANCE = 1e-10
"""Of the residual's length, relative to that of the right-hand side."""
STEPS = 10_000
"""Of the iteration, at most. 512 x 512 cells behind segments of 1e-5 take about 15."""


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """An array: cells between the wires that supply current and the columns' wires.

    Attributes
    ----------
    cells : Tensor (S, R, C), float64
        Conductances, fractions of g_max; of two sides S, the second one's cells are supplied by the opposite voltage,
        and share columns with the first.
    supply, supply_terminal, column, column_terminal : float
        Resistances, times g_max: of a segment, and at the end.
    along_rows : bool
        Whether current comes along rows, from column 0; else along a wire beside each column, from row 0.
    """

    cells: Tensor
    supply: float
    supply_terminal: float
    column: float
    column_terminal: float
    along_rows: bool


def settle(circuit: Circuit, x: Tensor) -> Tensor:
    r"""Return the columns' currents (M, C) for inputs x (M, R), those of rows with x = 0 being disconnected.

    With cells' conductances G (0 where disconnected) and currents i, the voltage across a cell is what the driver gives
    less what the wires take, i = G·(v - S i - B i). S adds up the drops on the way from the supply, B those on the way
    to the ADC. Both are symmetric and have no negative eigenvalue, so that u = G^(-1/2) i solves

        (1 + G^½ (S + B) G^½) u = G^½ v,

    by conjugate gradients, which begin with the solution to first order and end at `TOLERANCE`.

    References
    ----------
    M. R. Hestenes and E. Stiefel, *Methods of conjugate gradients for solving linear systems*, Journal of Research of
    the National Bureau of Standards 49, 409, 1952.
    """
    sides, rows, columns = circuit.cells.shape
    out = x.new_empty(len(x), columns)
    size = max(1, 2**22 // max(1, sides * rows * columns))  # inputs at once: 32 MiB for each vector
    for some, into in zip(x.split(size), out.split(size), strict=True):
        on = (some != 0)[:, None, :, None]
        root = circuit.cells.sqrt() * on  # (M, S, R, C)
        sign = torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device)[:sides, None, None]
        b = root * (sign * some[:, None, :, None])
        u = b - root * _drops(circuit, root * b)
        residual = b - u - root * _drops(circuit, root * u)
        direction, square = residual.clone(), _square(residual)
        enough = TOLERANCE**2 * _square(b)
        for _ in range(STEPS):
            if not bool((square > enough).any()):
                break
            image = direction + root * _drops(circuit, root * direction)
            step = torch.where(square > enough, square / (direction * image).sum((1, 2, 3), True), 0)
            u += step * direction
            residual -= step * image
            before, square = square, torch.where(square > enough, _square(residual), square)
            direction = residual + torch.where(square > enough, square / before, 0) * direction
        else:
            refuse()
        into.copy_((root * u).sum((1, 2)))
    return out


def refuse() -> NoReturn:
    """Raise, since the iteration did not end."""
    raise ProfileError(
        f"wires: resistances are so large that a read was not solved in {STEPS} steps; check their units"
    )


def _square(v: Tensor) -> Tensor:
    return v.square().sum((1, 2, 3), keepdim=True)


def _drops(circuit: Circuit, i: Tensor) -> Tensor:
    """Return what the wires take from each cell's voltage where these currents (M, S, R, C) flow: (S + B) i."""
    dim = 3 if circuit.along_rows else 2
    flowing = i.flip(dim).cumsum(dim).flip(dim)
    drops = circuit.supply * flowing.cumsum(dim) + circuit.supply_terminal * flowing.narrow(dim, 0, 1)
    below = i.sum(1, keepdim=True).cumsum(2)
    drops += circuit.column * below.flip(2).cumsum(2).flip(2) + circuit.column_terminal * below.narrow(2, -1, 1)
    return drops
