"""Weights as conductances: slices of bits, and the cells of each (one, a pair, or one and a reference)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..device_profile import Cells
from ..profile import HardwareProfile
from .layout import Layout


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the bits of every weight: ŵ = Σ coefficient · digits.

    Attributes
    ----------
    coefficient : float
    digits : Tensor (N, K)
        In [-1, 1].
    """

    coefficient: float
    digits: Tensor


def slices(w: Tensor, profile: HardwareProfile) -> list[Slice]:
    """Cut the magnitudes of weights into slices of `cells.bits`, the lowest first.

    With b = `weight.bits`, c = `cells.bits`, L = 2^(b-1) - 1 and M = round(|ŵ|·L), slice i has the digit
    d_i = (M >> c·i) mod 2^c and

        ŵ = Σ_i [2^(c·i)·(2^c - 1)/L] · sign(ŵ)·d_i/(2^c - 1)

    Parameters
    ----------
    w : Tensor (N, K)
        ŵ in [-1, 1], multiples of 1/L.
    """
    bits, each = profile.weight.bits, profile.cells.bits
    if each is None or bits is None:
        return [Slice(1.0, w)]
    levels, base = 2 ** (bits - 1) - 1, 2**each
    magnitude, sign = (w.abs() * levels).round().long(), w.sign()
    digits = [magnitude >> each * i & base - 1 for i in range(profile.slices)]
    return [Slice(base**i * (base - 1) / levels, sign * d / (base - 1)) for i, d in enumerate(digits)]


def targets(digits: Tensor, cells: Cells) -> list[Tensor]:
    """Return the conductances (N, K) in [g_min, 1] that hold digits in [-1, 1]: one array, or G⁺ and G⁻.

    A signed cell's is |digit|: its sign is not the conductance's, and it has no g_min.
    """
    span = 1 - cells.g_min
    if cells.mapping == "differential":
        return [cells.g_min + span * digits.clamp(min=0), cells.g_min + span * (-digits).clamp(min=0)]
    if cells.mapping == "offset":
        return [cells.g_min + span * (1 + digits) / 2]
    return [digits.abs()]


def with_references(g: Tensor, layout: Layout, cells: Cells) -> Tensor:
    """Add to targets (N, K) each block's reference column, at half the range of conductance: (N + blocks, K)."""
    half = g.new_full((1, g.shape[1]), cells.g_min + (1 - cells.g_min) / 2)
    return torch.cat([part for block in g.split(layout.widths) for part in (block, half)])


def signs(digits: Tensor) -> Tensor:
    """Return +1 or -1; of zero +1."""
    return torch.where(digits < 0, -1.0, 1.0).to(digits.dtype)
