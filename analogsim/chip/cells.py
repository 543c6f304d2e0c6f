"""Weights as conductances: slices of bits, and the cells of each (one, a pair, or one and a reference)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..profile import HardwareProfile
from ..profile.cells import Cells
from .layout import Layout


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the bits of every weight: ŵ = Σ coefficient · unit · (digits - reference).

    Attributes
    ----------
    coefficient : float
        What its sums are multiplied by when slices are added up.
    digits : Tensor (N, K)
        In [-1, 1], of an offset mapping in [0, 1]: the fraction of a cell's range.
    reference : float
        Digit of the reference column that is subtracted (of an offset mapping; else 0).
    unit : float
        Normalised units of a whole range.
    """

    coefficient: float
    digits: Tensor
    reference: float = 0.0
    unit: float = 1.0


def slices(w: Tensor, profile: HardwareProfile) -> list[Slice]:
    """Cut weights into slices of `cells.bits`, the lowest first, each of 2^c levels.

    With b = `weight.bits`, c = `cells.bits` and L = 2^(b-1) - 1, magnitudes M = round(|ŵ|·L) have the digits
    d_i = (M >> c·i) mod 2^c, and

        ŵ = Σ_i [2^(c·i)·(2^c - 1)/L] · sign(ŵ)·d_i/(2^c - 1)

    A cell of an offset mapping has no sign: there the digits are those of round(ŵ·L) + 2^(b-1), and those of 2^(b-1),
    which stands for 0, are in the reference columns (as A. Shafiee et al., ISCA 2016, section V, and CrossSim have it).

    Parameters
    ----------
    w : Tensor (N, K)
        ŵ in [-1, 1], multiples of 1/L.
    """
    bits, each, offset = profile.weight.bits, profile.cells.bits, profile.cells.mapping == "offset"
    if each is None or bits is None:
        return [Slice(1.0, (1 + w) / 2, 0.5, 2.0) if offset else Slice(1.0, w)]
    levels, base, zero = profile.weight.levels, 2**each, 2 ** (bits - 1) if offset else 0
    codes = (w * levels).round().long()
    held, sign = (codes + zero, 1) if offset else (codes.abs(), codes.sign())
    return [
        Slice(
            base**i * (base - 1) / levels,
            (sign * (held >> each * i & base - 1)).to(w.dtype) / (base - 1),
            (zero >> each * i & base - 1) / (base - 1),
        )
        for i in range(profile.slices)
    ]


def targets(digits: Tensor, cells: Cells) -> list[Tensor]:
    """Return the conductances (N, K) in [g_min, 1] that hold a slice's digits: one array, or G⁺ and G⁻.

    A signed cell's is |digit|: its sign is not the conductance's, and it has no g_min.
    """
    span = 1 - cells.g_min
    if cells.mapping == "differential":
        return [cells.g_min + span * digits.clamp(min=0), cells.g_min + span * (-digits).clamp(min=0)]
    return [cells.g_min + span * digits] if cells.mapping == "offset" else [digits.abs()]


def with_references(g: Tensor, layout: Layout, references: Sequence[float]) -> Tensor:
    """Add to targets (N, K) each block's reference columns, of these conductances: (N + blocks · columns, K)."""
    columns = g.new_tensor(references)[:, None].expand(-1, g.shape[1])
    return torch.cat([part for block in g.split(layout.widths) for part in (block, columns)])


def signs(digits: Tensor) -> Tensor:
    """Return +1 or -1; of zero +1."""
    return torch.where(digits < 0, -1.0, 1.0).to(digits.dtype)
