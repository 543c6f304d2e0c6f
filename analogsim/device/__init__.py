"""The device model above the plain kernel: one chip's cells and how they are read (docs/devices.md)."""

from .chip import Chip, Plane, build
from .draw import derive
from .layout import Layout
from .read import DeviceKernel

__all__ = ["Chip", "DeviceKernel", "Layout", "Plane", "build", "derive"]
