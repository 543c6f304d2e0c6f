"""Stuck cells, and dead rows and columns."""

import torch
from torch import Tensor

from ..profile.cells import Faults
from ..seeds import Stream
from .draw import uniforms
from .layout import Layout


def stick(g: Tensor, faults: Faults, g_min: float, seed: int, array: int) -> Tensor:
    """Return conductances (N, K) of which a random fraction is stuck at g_min, and another at g_max."""
    if not (faults.stuck_off or faults.stuck_on):
        return g
    u = uniforms(g, seed, Stream.STUCK, array)
    g = torch.where(u < faults.stuck_off, g_min, g)
    return torch.where(u >= 1 - faults.stuck_on, 1.0, g) if faults.stuck_on else g


def connected(g: Tensor, faults: Faults, layout: Layout, seed: int, array: int) -> Tensor | None:
    """Return 0 for the cells on a dead row or column, else 1 (N, K); None where no line can be dead.

    A row is dead in one block of columns, for all the slices and signs of the weights there; a column in one tile, for
    one slice and sign.
    """
    if not (faults.dead_rows or faults.dead_columns):
        return None
    n, k = g.shape
    block, tile = layout.block_of(g.device), layout.tile_of(g.device)
    rows = uniforms(g, seed, Stream.ROWS, 0, (len(layout.widths), k)) >= faults.dead_rows
    columns = uniforms(g, seed, Stream.COLUMNS, array, (n, len(layout.tiles))) >= faults.dead_columns
    return (rows[block] & columns[:, tile]).to(g.dtype)
