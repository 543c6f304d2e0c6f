"""How much noise a network survives: the sweep, its curve, and the midpoint noise level µ."""

from .curve import RobustnessCurve
from .midpoint import MidpointFit, fit_midpoint
from .sweep import SIGMAS, noise_sweep

__all__ = ["SIGMAS", "MidpointFit", "RobustnessCurve", "fit_midpoint", "noise_sweep"]
