"""What is done to inputs around a read: each vector scaled to the DAC's range, read again where an ADC saturated, and
rounded otherwise than to the nearest level.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..chip.read_noise import uniform
from ..kernels import Clips, Read
from ..profile import HardwareProfile
from ..seeds import Key, Stream, derive
from ..value import LEAST_SCALE
from . import function
from .function import Plan


@dataclass(frozen=True, slots=True)
class Management:
    """What a profile asks for, for each input vector.

    Attributes
    ----------
    scales : bool
        Divide each vector by its largest magnitude (`dac.input_range: vector`).
    retries : int
        How often a vector is read again at most (`adc.bound_management`).
    rounding : str
        To which level a DAC rounds (`dac.rounding`).
    """

    scales: bool
    retries: int
    rounding: str

    @property
    def by_vector(self) -> bool:
        """True where each vector is read by itself."""
        return self.scales or self.retries > 0

    @classmethod
    def of(cls, profile: HardwareProfile) -> "Management | None":
        """Return what a profile asks for; None for nothing."""
        dac, retries = profile.dac, profile.adc.bound_management
        if dac.input_range != "vector" and not retries and dac.rounding == "nearest":
            return None
        return cls(dac.input_range == "vector", retries, dac.rounding)


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, alpha: Tensor | None) -> Tensor:
    """Return what a crossbar makes of rows x (M, K), each by itself where the profile says so: (M, N).

        y = α_n F_n(x/α_n) + bias,    α_n = 2^n·max|x|  (or 2^n)

    F_n is the row's read number n, of the first in which none of the row's ADCs saturated, or of the last there is;
    each draws noise of its own. α_n counts as a constant in backward. The row of all zeros has max|x| = 1.

    References
    ----------
    T. Gokmen, M. Onen, W. Haensch, *Training deep convolutional neural networks with resistive cross-point devices*,
    Frontiers in Neuroscience 11, 2017: noise management and bound management.
    """
    if plan.management is None:
        return function.multiplied(x, weight, bias, plan, alpha)
    scales, retries = plan.management.scales, plan.management.retries
    if not plan.management.by_vector:
        return function.multiplied(rounded(x, plan), weight, bias, plan, alpha)
    factor = _largest(x) if scales else x.new_ones(len(x), 1)
    out, saturated = None, torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
    for number in range(retries + 1):
        noted: list[Clips | None] = []
        read = plan.read if not number else replace(plan.read, seed=derive(plan.read.seed, Key.RETRY, number))
        own = replace(plan, read=read, offset=None, noted=noted if number < retries else None)
        y = function.multiplied(rounded(x / factor, own), weight, None, own, alpha) * factor
        out = y if out is None else torch.where(saturated, y, out)
        clips = noted[0] if noted else None
        if clips is None:
            break
        saturated = saturated & _rows(clips, read)
        if not saturated.any():
            break
        factor = factor * 2
    assert out is not None  # there is a first read
    out = out if bias is None else out + bias
    return out if plan.offset is None else out + plan.offset


def rounded(x: Tensor, plan: Plan) -> Tensor:
    """Return inputs (M, K, …), activation units, as levels of the plan's DAC, which it then finds to be the nearest.

    What the DAC clips, and NaN, stays as it is. The gradient is straight-through.
    """
    rule, spec = "nearest" if plan.management is None else plan.management.rounding, plan.read.spec
    if rule == "nearest" or not spec.dac_levels:
        return x
    (low, high), (lowest, highest) = spec.dac_limits, spec.dac_codes
    codes = x.detach().double() * (spec.dac_levels / spec.input_range)
    if rule == "stochastic":
        codes = codes + uniform(plan.kernel, x.detach(), plan.read, Stream.DAC_ROUNDING, 0)
    levels = codes.floor().clamp(lowest, highest) / spec.dac_levels * spec.input_range
    found: Tensor = _StraightThrough.apply(x, torch.where((x >= low) & (x <= high), levels.to(x.dtype), x.detach()))
    return found


class _StraightThrough(torch.autograd.Function):
    """The second of two tensors, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor) -> Tensor:
        """Return the levels."""
        return levels

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on."""
        return grads[0], None


def _largest(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row (M, 1), and 1 for a row of zeros."""
    top = x.detach().abs().amax(1, keepdim=True)
    return torch.where(top == 0, 1.0, top.clamp(min=LEAST_SCALE))


def _rows(clips: Clips, read: Read) -> Tensor:
    """Return where any ADC saturated (M, 1), but for outputs whose weights are all 0, which nobody uses."""
    live = function.of_live_outputs(clips, read)
    assert live is not None
    return (live.bits != 0).any(0).any(1, keepdim=True)
