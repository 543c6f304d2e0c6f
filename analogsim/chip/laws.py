"""What the laws of a profile give at conductances."""

import torch
from torch import Tensor

from ..errors import ProgrammingError
from ..profile import (
    Branches,
    Curve,
    DriftTable,
    HardwareProfile,
    Law,
    LogLaw,
    LogPolynomial,
    Saturating,
    SignedLaw,
    Table,
)

SMALLEST = 1e-7  # conductance (fraction of g_max) below which the laws of ln(g) are held constant
ROUNDING = 1e-6  # by which float32 may miss a table's end, fraction of g_max


def evaluate(law: Law | SignedLaw | Curve, g: Tensor, signed: bool = False) -> Tensor:
    r"""Evaluate a law at conductances g (any shape, fraction of g_max).

    A constant; max(Σ c_i g^i, 0); amplitude·(1 - exp(-g/scale)); constant + slope·ln(g) between limits; such a law
    below a limit and a polynomial above it; Σ c_i (ln g)^i; or linear interpolation between measured points, which is
    held beyond them (`check_targets` refuses targets there).

    Parameters
    ----------
    signed : bool
        Of a `SignedLaw`: a polynomial may be below 0.

    References
    ----------
    V. Joshi et al., "Accurate deep neural network inference using computational phase-change memory", Nature
    Communications 11, 2473 (2020): the quadratic form of programming noise, for PCM.
    S. R. Nandakumar et al., "Phase-change memory models for deep learning training and inference", ICECS 2019: drift
    exponents linear in ln(g), between limits.
    V. Agrawal et al., "Subthreshold operation of SONOS analog memory to enable accurate low-power neural network
    inference", IEDM 2022: the saturating form for SONOS, as fitted in CrossSim.
    """
    if isinstance(law, Saturating):
        return law.amplitude * (1 - (-g / law.scale).exp())
    if isinstance(law, Branches):
        return torch.where(g < law.limit, evaluate(law.below, g), evaluate(law.above, g))
    if isinstance(law, LogLaw):
        return (law.constant + law.slope * g.clamp(min=SMALLEST).log()).clamp(law.low, law.high)
    if isinstance(law, LogPolynomial):
        logarithm, value = g.clamp(min=SMALLEST).log(), torch.zeros_like(g)
        for coefficient in reversed(law.log):
            value = value * logarithm + coefficient
        return value
    if isinstance(law, Table):
        return interpolated(law.g, law.value, g)
    if isinstance(law, tuple):
        value = torch.zeros_like(g)
        for coefficient in reversed(law):
            value = value * g + coefficient
        return value if signed else value.clamp(min=0)
    return torch.full_like(g, law)


def interpolated(points: tuple[float, ...], values: tuple[float, ...], at: Tensor) -> Tensor:
    """Interpolate linearly between points that increase, and hold the first and last value beyond them.

    In float64, in which neighbouring points differ.
    """
    x, y = (torch.tensor(numbers, dtype=torch.float64, device=at.device) for numbers in (points, values))
    wanted = at.double().clamp(x[0], x[-1])
    right = torch.searchsorted(x, wanted, right=True).clamp(1, len(x) - 1)
    share = (wanted - x[right - 1]) / (x[right] - x[right - 1])
    return torch.lerp(y[right - 1], y[right], share).to(at.dtype)


def check_targets(target: Tensor, profile: HardwareProfile) -> None:
    """Refuse targets beyond the points of a table that does not hold there.

    Raises
    ------
    ProgrammingError
        Names the field and both ranges.
    """
    laws: dict[str, object] = {
        "programming.sigma": profile.programming.sigma,
        "programming.mean": profile.programming.mean,
        "drift.nu": profile.drift.nu,
        "drift.nu_sigma": profile.drift.nu_sigma,
        "drift.table": profile.drift.table,
        "flicker.amplitude": profile.flicker.amplitude,
        "cells.read_noise": profile.cells.read_noise,
        "iv.second": profile.iv.second,
        "iv.third": profile.iv.third,
    }
    if profile.programming.verify is not None:
        laws["programming.verify.sigma"] = profile.programming.verify.sigma
    tables = {name: law for name, law in laws.items() if isinstance(law, Table | DriftTable)}
    measured = {name: law for name, law in tables.items() if law.outside == "error"}
    if not (measured and target.numel()):
        return
    low, high = (float(end) for end in target.aminmax())
    for name, law in measured.items():
        points = law.g if isinstance(law, Table) else law.g0
        first, last = points[0], points[-1]
        if low < first - ROUNDING or high > last + ROUNDING:
            raise ProgrammingError(
                f"{name}: cells' targets reach from {low:.4g} to {high:.4g} of g_max, its table from {first:.4g} to "
                f"{last:.4g}; measure further, raise cells.g_min, or say `outside: hold`"
            )
