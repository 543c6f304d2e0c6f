"""The device model above the plain kernel: one chip's cells and how they are read (docs/devices.md)."""

from .adc_kinds import ADCKind
from .build import Chip, Plane, build, write_pulses
from .cell_models import CellModel, Draws
from .distributions import NoiseDistribution
from .layout import Layout
from .programming import written
from .read import DeviceKernel
from .signal_noise import follows_signal, signal_noise

__all__ = [
    "ADCKind",
    "CellModel",
    "Chip",
    "DeviceKernel",
    "Draws",
    "Layout",
    "NoiseDistribution",
    "Plane",
    "build",
    "follows_signal",
    "signal_noise",
    "write_pulses",
    "written",
]
