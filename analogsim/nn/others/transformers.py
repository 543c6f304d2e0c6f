"""The linear layer of transformers' GPT-2 on crossbars."""

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...profile import HardwareProfile
from ..known import Known, its_weight
from ..layer import AnalogLayer


class AnalogConv1D(AnalogLayer, Conv1D):
    """transformers' Conv1D on simulated crossbars: a linear layer that keeps its weights as (inputs, outputs)."""

    digital = Conv1D
    nf: int
    nx: int

    def __init__(self, *args: Any, profile: HardwareProfile | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._init_analog(profile)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., inputs): (..., outputs)."""
        self._check_features(x, -1, self.nx)
        if self.transparent:
            return super().forward(x)
        return self.multiply(x, self.crossbar_weight(), self.bias)

    def crossbar_weight(self) -> Tensor:
        """Return the weights as (outputs, inputs)."""
        return self.weight.t()

    __repr__ = nn.Module.__repr__  # which names the profile

    def extra_repr(self) -> str:
        """Name the shape and the profile."""
        return f"nf={self.nf}, nx={self.nx}, profile={self.profile.name!r}"


def known(kind: type[nn.Module]) -> Known:
    """Return what is known of Conv1D."""
    return Known(AnalogConv1D, its_weight)
