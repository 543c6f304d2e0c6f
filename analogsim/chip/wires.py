"""IR drop: what wire resistance takes from each cell, to first order."""

import torch
from torch import Tensor

from ..profile.cells import Wires
from .layout import Layout


def attenuation(g: Tensor, wires: Wires, layout: Layout) -> Tensor:
    r"""Return the factor by which each cell's contribution to its column's current is reduced, (N, K).

    In an array of R rows (inputs r, drivers at column 0) and C columns (outputs c, ADC at virtual ground after row
    R - 1), to first order in the segments' resistances ρ_w and ρ_b (times g_max), column c's current is
    Σ_r x_r g_rc a_rc with

        a_rc = 1/(1 + d_rc)
        d_rc = ρ_w·Σ_c' (min(c, c') + 1)·g_rc' + ρ_b·Σ_r' (R - max(r, r'))·g_r'c

    It does not depend on the input, although each voltage drop does: the drop that row r's current causes at row r'
    weighs g_r'c just as the reverse one weighs g_rc. 1/(1 + d) is 1 - d to first order, and never negative.

    Notes
    -----
    The perturbation series of Kirchhoff's equations, cut after its first term; the tests compare it with their
    solution.
    """
    factor = torch.ones_like(g)
    for outputs, inputs in layout.arrays():
        cells = g[outputs, inputs].T  # (R, C)
        # Σ_c' (min(c, c') + 1) g = Σ_{p ≤ c} Σ_{c' ≥ p} g: the current through each segment p on the way.
        along_row = cells.flip(1).cumsum(1).flip(1).cumsum(1)
        along_column = cells.cumsum(0).flip(0).cumsum(0).flip(0)
        factor[outputs, inputs] = (1 / (1 + wires.row * along_row + wires.column * along_column)).T
    return factor
