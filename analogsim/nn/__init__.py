"""Layers that compute on simulated crossbars, each in place of its torch twin."""

from .conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from .layer import AnalogLayer, analog_layers, set_seed
from .linear import AnalogLinear

__all__ = ["AnalogConv1d", "AnalogConv2d", "AnalogConv3d", "AnalogLayer", "AnalogLinear", "analog_layers", "set_seed"]
