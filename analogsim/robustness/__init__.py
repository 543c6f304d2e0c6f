"""How much noise a network survives: the sweep, its curve, and the midpoint noise level µ."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .curve import RobustnessCurve
    from .matched import matched_curve
    from .measure import Measure
    from .midpoint import MidpointFit, fit_midpoint
    from .sweep import SIGMAS, noise_sweep

__all__ = ["SIGMAS", "Measure", "MidpointFit", "RobustnessCurve", "fit_midpoint", "matched_curve", "noise_sweep"]

_HOMES = {
    "Measure": "measure",
    "MidpointFit": "midpoint",
    "RobustnessCurve": "curve",
    "SIGMAS": "sweep",
    "fit_midpoint": "midpoint",
    "matched_curve": "matched",
    "noise_sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: curves and their fits need no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
