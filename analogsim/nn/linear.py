"""AnalogLinear: nn.Linear on crossbars."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..profile import HardwareProfile
from .layer import AnalogLayer
from .surgery import forbid_fused_inference


class AnalogLinear(AnalogLayer, nn.Linear):
    """nn.Linear on simulated crossbars: y = α·w_max·Σ_t ADC(DAC(x)_t ŵ_tᵀ + noise) + bias.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As for `torch.nn.Linear`.
    profile : HardwareProfile, optional
        The hardware; without one the layer is ideal and computes what nn.Linear computes.

    Notes
    -----
    Input (..., in_features) and output (..., out_features) are as for nn.Linear. Half-precision inputs are computed in
    float32 and rounded back.

    Examples
    --------
    >>> import torch
    >>> layer = AnalogLinear(8, 3, profile=HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(5, 8)).shape
    torch.Size([5, 3])
    """

    digital = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        profile: HardwareProfile | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._init_analog(profile)

    def _init_analog(self, profile: HardwareProfile | None, device: torch.device | None = None) -> None:
        super()._init_analog(profile, device)
        forbid_fused_inference(self)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; see the class."""
        self._check_features(x, -1, self.in_features)
        if self.transparent:
            return F.linear(x, self.weight, self.bias)
        return self.multiply(x, self.weight, self.bias)
