"""The hardware: immutable pydantic models of one crossbar accelerator, loaded from and saved to YAML or JSON."""

from .array import Noise, Percentile, Tile, Weight
from .cells import Cells, Drift, Faults, Flicker, Programming, Verify
from .converters import ADC, DAC, Range
from .cost import Cost
from .hardware import HardwareProfile, presets
from .iv import IV, Curve, LogPolynomial
from .laws import Branches, DriftTable, Law, LogLaw, Moments, Saturating, SignedLaw, Table
from .wires import Wires

__all__ = [
    "ADC",
    "DAC",
    "IV",
    "Branches",
    "Cells",
    "Cost",
    "Curve",
    "Drift",
    "DriftTable",
    "Faults",
    "Flicker",
    "HardwareProfile",
    "Law",
    "LogLaw",
    "LogPolynomial",
    "Moments",
    "Noise",
    "Percentile",
    "Programming",
    "Range",
    "Saturating",
    "SignedLaw",
    "Table",
    "Tile",
    "Verify",
    "Weight",
    "Wires",
    "presets",
]
