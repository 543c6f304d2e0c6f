"""The hardware: immutable pydantic models of one crossbar accelerator, loaded from and saved to YAML or JSON."""

from .cells import Branches, Cells, Drift, Faults, Flicker, Programming, Wires
from .hardware import ADC, DAC, Cost, HardwareProfile, Noise, Tile, Weight, presets

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
