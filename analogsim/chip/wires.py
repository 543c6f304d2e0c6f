"""What the wires' resistance makes of an array's cells: to first order, or as Kirchhoff's equations have it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..profile.wires import Wires
from .circuit import Ends, transfer
from .layout import Layout


def read_through(
    cells: Sequence[Tensor], noises: Sequence[Tensor | None], wires: Wires, layout: Layout
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return what columns show of cells behind wires: of each array a matrix, and the variance of its noise.

    Parameters
    ----------
    cells : sequence of Tensor (N, K)
        Conductances, of one array in each place or of the two of differential pairs.
    noises : sequence of Tensor (N, K) or None
        σ² of each cell at every read.

    Returns
    -------
    weights : list of Tensor (N, K)
        Column currents for a unit input, of each array. Of pairs that share columns and are solved exactly there are
        the differences, and zeros. Where rows are gated there is no such matrix: that to first order, all rows on,
        which the gradients are computed with.
    variances : list of Tensor (N, K) or None
        Each cell's, as it is seen.
    """
    if wires.any:
        losses = _losses(cells, wires, layout)
        seen = [1 / loss for loss, _ in losses]
        exact = wires.solution == "exact"
        parts = _solved(cells, wires, layout) if exact and not wires.gated else list(map(torch.mul, cells, seen))
        if len(parts) < len(cells):  # those that share columns are one matrix
            parts.append(torch.zeros_like(parts[0]))
        # First-order wires have always had the noise as the weight has it, the part of its own current included.
        weighed = [1 / (loss + own) for loss, own in losses] if exact else seen
        noises = [None if v is None else v * a**2 for v, a in zip(noises, weighed, strict=True)]
    else:
        parts = list(cells)
    return parts, list(noises)


def _losses(cells: Sequence[Tensor], wires: Wires, layout: Layout) -> list[tuple[Tensor, Tensor]]:
    r"""Return 1 + d and e (N, K) of each cell, which counts in its column for 1/(1 + d) of g, to first order.

    In an array of R rows (inputs r, drivers at column 0) and C columns (outputs c, ADC at virtual ground after row
    R - 1), to first order in the segments' resistances ρ_w and ρ_b and the terminals' τ_w and τ_b (times g_max), column
    c's current is Σ_r x_r g_rc/(1 + d_rc) with

        d_rc = Σ_c' (τ_w + ρ_w·(min(c, c') + 1))·g_rc' + Σ_r' (τ_b + ρ_b·(R - max(r, r')))·g_r'c

    It does not depend on the input, although each voltage drop does: the drop that row r's current causes at row r'
    weighs g_r'c just as the reverse one weighs g_rc. 1/(1 + d) is 1 - d to first order, and never negative. Columns
    that the cells of pairs share carry the currents of both, so that their second sum is that over both. Where current
    comes from source wires, the first sum is over the rows r', with min(r, r').

    A change of g_rc itself counts by 1/(1 + d + e), since its own current is in d:
    e = (τ_w + ρ_w·(c + 1))·g_rc + (τ_b + ρ_b·(R - r))·g_rc.

    Notes
    -----
    The perturbation series of Kirchhoff's equations, cut after its first term; the tests compare it with their
    solution.
    """
    found = [(torch.zeros_like(g), torch.zeros_like(g)) for g in cells]
    for outputs, inputs in layout.arrays():
        own = [g[outputs, inputs].abs().T for g in cells]  # (R, C)
        r, c = own[0].shape
        shared = torch.stack(own).sum(0) if wires.interleaved else None
        last = wires.column * torch.arange(r, 0, -1, device=own[0].device)[:, None] + wires.column_terminal
        for g, (loss, self) in zip(own, found, strict=True):
            all_of_column = g if shared is None else shared
            if wires.source is None:
                # Σ_c' (min(c, c') + 1) g = Σ_{p ≤ c} Σ_{c' ≥ p} g: the current through each segment p on the way.
                supply = wires.row * g.flip(1).cumsum(1).flip(1).cumsum(1) + wires.row_terminal * g.sum(1, True)
                way = wires.row * torch.arange(1, c + 1, device=g.device) + wires.row_terminal
            else:
                supply = wires.source * g.flip(0).cumsum(0).flip(0).cumsum(0) + wires.source_terminal * g.sum(0)
                way = wires.source * torch.arange(1, r + 1, device=g.device)[:, None] + wires.source_terminal
            sink = wires.column * all_of_column.cumsum(0).flip(0).cumsum(0).flip(0)
            loss[outputs, inputs] = (1 + supply + sink + wires.column_terminal * all_of_column.sum(0)).T
            net = g if shared is None else 2 * g - shared  # in a column of pairs the other cell's current is opposite
            self[outputs, inputs] = (way * g + last * net).T
    return found


def _solved(cells: Sequence[Tensor], wires: Wires, layout: Layout) -> list[Tensor]:
    """Return the exact matrices (N, K), one array after the other: of pairs that share columns, one for both."""
    ends = Ends(wires.row, wires.row_terminal, wires.column, wires.column_terminal)
    groups = [tuple(cells)] if wires.interleaved else [(g,) for g in cells]
    found = [torch.empty_like(group[0]) for group in groups]
    for out, group in zip(found, groups, strict=True):
        for outputs, inputs in layout.arrays():
            if not all(bool(g[outputs, inputs].isfinite().all()) for g in group):
                out[outputs, inputs] = torch.nan  # as of any other product with such weights
                continue
            solved = transfer([g[outputs, inputs].T.double() for g in group], ends)
            out[outputs, inputs] = solved.T.to(out.dtype)
    return found
