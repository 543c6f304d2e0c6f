"""DACs that apply their bits in steps."""

import torch
from torch import Tensor

from ..kernels import MatmulSpec
from ..profile import DAC


def steps(x: Tensor, spec: MatmulSpec, dac: DAC) -> list[tuple[float, Tensor]]:
    """Cut converted inputs into slices of b = `step_bits` bits, the lowest first; whole ones without.

    With L the DAC's levels and C = |x̂|·L, step j applies c_j = (C >> b·j) mod 2^b, and

        x̂ = Σ_j [2^(b·j)·(2^b - 1)/L] · sign(x̂)·c_j/(2^b - 1)

    Parameters
    ----------
    x : Tensor
        x̂, converted: multiples of 1/L in [-1, 1].

    Returns
    -------
    list of (coefficient, Tensor)
        Inputs of each step, in [-1, 1] (beyond, where `dac.inl` takes them there).
    """
    if dac.step_bits is None:
        return [(1.0, bent(x, dac, spec.rows))]
    base, found = 2**dac.step_bits, []
    codes = x.abs().mul_(spec.dac_levels).round_()
    for coefficient in step_coefficients(dac):
        # In place, since memory that is asked for anew takes longer than what is computed in it.
        rest = (codes / base).floor_()
        digit = codes.sub_(rest, alpha=base).copysign_(x).div_(base - 1)
        found.append((coefficient, bent(digit, dac, spec.rows)))
        codes = rest
    return found


def bent(x: Tensor, dac: DAC, rows: int | None = None) -> Tensor:
    """Return what DACs make of converted inputs: code c is (c + inl(c))/L instead of c/L; without `dac.inl`, x.

    Parameters
    ----------
    x : Tensor (M, K, …)
        Multiples of 1/L in [-1, 1], L being the largest code that is applied at once.
    rows : int, optional
        Of a tile, of whose row r the DAC is number r mod n of n; None: one tile has all K.
    """
    if dac.inl is None:
        return x
    most = dac.step_levels
    table = x.new_tensor(dac.inl.levels(most, dac.signed)) / most
    index = (x * most).round().nan_to_num().long() + (most if dac.signed else 0)
    if not dac.differs_by_row:
        return torch.where(x.isnan(), x, table[0, index])
    row = torch.arange(x.shape[1], device=x.device) % (rows or x.shape[1]) % len(table)
    return torch.where(x.isnan(), x, table[row.view(-1, *[1] * (x.ndim - 2)), index])


def step_coefficients(dac: DAC) -> list[float]:
    """Return what the steps of inputs are added up with, 2^(b·j)·(2^b - 1)/L; 1 without steps."""
    if dac.bits is None or dac.step_bits is None:
        return [1.0]
    base = 2**dac.step_bits
    return [base**j * (base - 1) / dac.levels for j in range(dac.steps)]
