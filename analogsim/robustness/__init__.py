"""How much noise a network survives: the sweep, its curve, and the midpoint noise level µ."""

from typing import TYPE_CHECKING, Any

from .curve import RobustnessCurve
from .midpoint import MidpointFit, fit_midpoint

if TYPE_CHECKING:
    from .sweep import SIGMAS, noise_sweep

__all__ = ["SIGMAS", "MidpointFit", "RobustnessCurve", "fit_midpoint", "noise_sweep"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: curves and their fits need no torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import sweep

    return getattr(sweep, name)
