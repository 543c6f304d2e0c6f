"""The hardware: immutable pydantic models of one crossbar accelerator, loaded from and saved to YAML or JSON."""

from .array import Noise, Tile, Weight
from .cells import Branches, Cells, Drift, Faults, Flicker, Programming, Wires
from .converters import ADC, DAC
from .cost import Cost
from .hardware import HardwareProfile, presets

__all__ = [
    "ADC",
    "DAC",
    "Branches",
    "Cells",
    "Cost",
    "Drift",
    "Faults",
    "Flicker",
    "HardwareProfile",
    "Noise",
    "Programming",
    "Tile",
    "Weight",
    "Wires",
    "presets",
]
