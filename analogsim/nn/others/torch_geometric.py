"""The linear layer of PyG (torch_geometric) on crossbars."""

from typing import Any

from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from ...profile import HardwareProfile
from ..known import Known, its_weight
from ..layer import RANGES, AnalogLayer


class AnalogGraphLinear(AnalogLayer, Linear):
    """torch_geometric.nn.dense.Linear on simulated crossbars."""

    digital = Linear

    def __init__(self, *args: Any, profile: HardwareProfile | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._init_analog(profile)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., inputs): (..., outputs)."""
        self._check_features(x, -1, self.in_channels)
        if self.transparent:
            return super().forward(x)
        return self.multiply(x, self.weight, self.bias)

    __repr__ = nn.Module.__repr__  # which names the profile

    def extra_repr(self) -> str:
        """Name the shape and the profile."""
        bias = self.bias is not None
        return f"{self.in_channels}, {self.out_channels}, bias={bias}, profile={self.profile.name!r}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in RANGES:  # PyG saves its own two parameters, and nothing else
            held = getattr(self, name)
            destination[prefix + name] = held if keep_vars else held.detach()


def known(kind: type[nn.Module]) -> Known:
    """Return what is known of PyG's Linear."""
    return Known(AnalogGraphLinear, its_weight)
