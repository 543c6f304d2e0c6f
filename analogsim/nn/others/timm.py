"""timm's convolutions that pad as TensorFlow does or standardise their weights, and its linear layer, on crossbars."""

from typing import Any

import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame, Conv2dSameExport
from timm.layers.linear import Linear
from timm.layers.padding import pad_same
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from ..conv import AnalogConv2d
from ..known import Known, its_weight
from ..linear import AnalogLinear


class AnalogTimmLinear(AnalogLinear, Linear):
    """timm's Linear on simulated crossbars; beside TorchScript it is nn.Linear."""

    digital = Linear


def _padded(x: Tensor, layer: Any) -> Tensor:
    return pad_same(x, layer.kernel_size, layer.stride, layer.dilation)


class _Same(AnalogConv2d):
    def forward(self, x: Tensor) -> Tensor:
        """Pad the image digitally as TensorFlow does ("SAME"), and convolve."""
        if self.transparent:
            return self.digital.forward(self, x)
        return self.convolve(_padded(x, self), self.weight, self.bias)


class _Standardised(AnalogConv2d):
    def forward(self, x: Tensor) -> Tensor:
        """Standardise the weights, pad where the layer does, and convolve."""
        if self.transparent:
            return self.digital.forward(self, x)
        if getattr(self, "same_pad", False):
            x = _padded(x, self)
        return self.convolve(x, self.crossbar_weight(), self.bias)

    def crossbar_weight(self) -> Tensor:
        """Return the weights (N, C / groups, *kernel) as the layer uses them, with their gain where it has one."""
        layer: Any = self
        gain = (layer.gain * layer.scale).view(-1) if hasattr(layer, "gain") else None
        flat = self.weight.reshape(1, self.out_channels, -1)
        return F.batch_norm(flat, None, None, gain, None, True, 0.0, layer.eps).reshape_as(self.weight)


class AnalogConv2dSame(_Same, Conv2dSame):
    """timm's Conv2dSame on simulated crossbars: the image is padded digitally."""

    digital = Conv2dSame


class AnalogConv2dSameExport(_Same, Conv2dSameExport):
    """timm's Conv2dSameExport on simulated crossbars; see `AnalogConv2dSame`."""

    digital = Conv2dSameExport


class AnalogStdConv2d(_Standardised, StdConv2d):
    """timm's StdConv2d on simulated crossbars: what is programmed are the standardised weights."""

    digital = StdConv2d


class AnalogStdConv2dSame(_Standardised, StdConv2dSame):
    """timm's StdConv2dSame on simulated crossbars; see `AnalogStdConv2d`."""

    digital = StdConv2dSame


class AnalogScaledStdConv2d(_Standardised, ScaledStdConv2d):
    """timm's ScaledStdConv2d on simulated crossbars; see `AnalogStdConv2d`."""

    digital = ScaledStdConv2d


class AnalogScaledStdConv2dSame(_Standardised, ScaledStdConv2dSame):
    """timm's ScaledStdConv2dSame on simulated crossbars; see `AnalogStdConv2d`."""

    digital = ScaledStdConv2dSame


_ROWS = {
    row.digital: row
    for row in (
        Known(AnalogTimmLinear, its_weight, quantized=True),
        *(
            Known(kind, its_weight)
            for kind in (
                AnalogConv2dSame,
                AnalogConv2dSameExport,
                AnalogStdConv2d,
                AnalogStdConv2dSame,
                AnalogScaledStdConv2d,
                AnalogScaledStdConv2dSame,
            )
        ),
    )
}


def known(kind: type[nn.Module]) -> Known:
    """Return what is known of one of timm's classes."""
    return _ROWS[kind]
