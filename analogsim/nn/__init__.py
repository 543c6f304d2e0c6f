"""Layers that compute on simulated crossbars, each in place of its torch twin."""

from .attention import AnalogMultiheadAttention, AnalogOutProjection
from .conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from .crossbar import AnalogComposite, Crossbar, called_layers
from .layer import AnalogLayer, analog_layers, set_seed
from .linear import AnalogLinear
from .recurrent import AnalogGRU, AnalogGRUCell, AnalogLSTM, AnalogLSTMCell, AnalogRNN, AnalogRNNCell
from .surgery import allow_nested, forbid_fused_inference, forbid_nested, plain_class
from .transpose import AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d

__all__ = [
    "AnalogComposite",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogConvTranspose1d",
    "AnalogConvTranspose2d",
    "AnalogConvTranspose3d",
    "AnalogGRU",
    "AnalogGRUCell",
    "AnalogLSTM",
    "AnalogLSTMCell",
    "AnalogLayer",
    "AnalogLinear",
    "AnalogMultiheadAttention",
    "AnalogOutProjection",
    "AnalogRNN",
    "AnalogRNNCell",
    "Crossbar",
    "allow_nested",
    "analog_layers",
    "called_layers",
    "forbid_fused_inference",
    "forbid_nested",
    "plain_class",
    "set_seed",
]
