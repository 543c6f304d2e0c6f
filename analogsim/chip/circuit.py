"""An array's circuit: cells between the wires of rows and of columns, solved exactly where inputs are voltages."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ENOUGH = 1e-4  # of s·Y, from which (1 - (1 + sY)^-1)/s has 12 digits


class Ends(NamedTuple):
    """Resistances of an array's wires, times g_max: of a segment, and between the wire's end and its first or last."""

    row: float
    row_terminal: float
    column: float
    column_terminal: float


def transfer(cells: Sequence[Tensor], ends: Ends) -> Tensor:
    r"""Return the currents of an array's columns for a unit voltage at each row, as Kirchhoff's equations have them.

    Parameters
    ----------
    cells : sequence of Tensor (R, C), float64
        Conductances, fractions of g_max; of two, the second ones are driven with the opposite voltage by wires of their
        own, and share columns with the first.
    ends : Ends

    Returns
    -------
    Tensor (R, C)

    Notes
    -----
    Rows are joined to the columns' wires one after the other, from the far end towards the ADC. What is above a row is,
    seen from the C columns, an admittance Y (C, C) and the currents J (C, r) that unit inputs of its r rows drive into
    columns held at 0 V. A row adds its own, Y_r = ∂I/∂V and j_r (`_seen`); a segment of resistance s makes

        Y → (1 + s·Y)⁻¹ Y        J → (1 + s·Y)⁻¹ J

    In the end J is the result. Nothing is subtracted that could cancel, so that resistances may be 0 or large. Takes
    R·C³ operations; what drives columns and reads rows would find the same matrix (reciprocity), so that the shorter
    side is C.
    """
    r, c = cells[0].shape
    if c > r and len(cells) == 1:
        turned = Ends(ends.column, ends.column_terminal, ends.row, ends.row_terminal)
        return transfer([cells[0].flip(0, 1).T], turned).T.flip(0, 1)
    rows = [_seen(g, ends.row, ends.row_terminal) for g in cells]
    one = torch.eye(c, dtype=cells[0].dtype, device=cells[0].device)
    y, out = torch.zeros_like(one), cells[0].new_zeros(c, r)
    for number in range(r):
        for sign, g, (impedance, own, level) in zip((1, -1), cells, rows, strict=False):
            way = level[number]
            # Between two places of a row the current that enters at one is as the voltage that reaches the other.
            near = torch.triu(impedance[number][:, None] * (way - way[:, None]).clamp(max=0).exp(), 1)
            y -= g[number][:, None] * (near + near.T) * g[number]
            y.diagonal().add_(own[number])
            out[:, number] += sign * g[number] * way.exp()
        s = ends.column + ends.column_terminal * (number == r - 1)
        if s:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(one + s * y))
            y = (one - inverse) / s if s * float(y.diagonal().min()) > ENOUGH else inverse @ y
            y = (y + y.T) / 2
            out[:, : number + 1] = inverse @ out[:, : number + 1]
    return out.T


def _seen(g: Tensor, segment: float, terminal: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what rows are, seen from columns held at 0 V, each by itself.

    Parameters
    ----------
    g : Tensor (R, C)

    Returns
    -------
    impedance : Tensor (R, C)
        Of the row's wire to ground, at each place: Z_c.
    own : Tensor (R, C)
        Current into a column for a unit voltage at it: g_c·(1 - g_c Z_c).
    level : Tensor (R, C)
        Logarithm of the wire's voltage, of a driver's 1. Z_cc' = Z_c·exp(level_c' - level_c) for c' > c.
    """
    beyond, towards = torch.zeros_like(g), torch.full_like(g, segment + terminal)
    for c in reversed(range(g.shape[1] - 1)):  # conductance of the wire's rest, as seen from c
        seen = g[:, c + 1] + beyond[:, c + 1]
        beyond[:, c] = seen / (1 + segment * seen)
    for c in range(g.shape[1] - 1):  # resistance of the way to the driver
        towards[:, c + 1] = segment + towards[:, c] / (1 + towards[:, c] * g[:, c])
    steps = g.new_full((g.shape[1],), segment)
    steps[0] += terminal
    loaded = 1 + towards * (g + beyond)
    return towards / loaded, g * (1 + towards * beyond) / loaded, -torch.log1p(steps * (g + beyond)).cumsum(1)
