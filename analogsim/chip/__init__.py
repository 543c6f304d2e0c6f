"""The device model above the plain kernel: one chip's cells and how they are read (docs/devices.md)."""

from .build import Chip, Plane, build
from .layout import Layout
from .read import DeviceKernel
from .signal_noise import follows_signal, signal_noise

__all__ = ["Chip", "DeviceKernel", "Layout", "Plane", "build", "follows_signal", "signal_noise"]
