"""What noise is on, and what a sweep varies: the one list of these words."""

from typing import Literal, cast, get_args

from .errors import FitError, warn

Target = Literal["activations", "weights"]
"""What injected noise is added to."""
HardwareNoise = Literal["noise.output", "noise.read", "noise.multiplicative"]
"""Fields of a hardware profile that are a σ."""
Quantity = Literal[Target, HardwareNoise]
"""What a sweep varies."""

TARGETS: tuple[Target, ...] = get_args(Target)
QUANTITIES: dict[str, str] = {
    "activations": "noise on activations σ (activation units)",
    "weights": "noise on weights σ (weight units)",
    "noise.output": "noise at the ADC σ_out (normalised units)",
    "noise.read": "read noise σ_r (fraction of the largest conductance)",
    "noise.multiplicative": "multiplicative noise σ_m (fraction of the sum)",
}
"""Each with its symbol and unit, as the axis of a picture says it."""
BEFORE: dict[str, Target] = {"activation": "activations", "weight": "weights"}
"""Words of version 0.1. Files have them, and so have the identities of jobs, which name their folders."""


def midpoint_title(quantity: str) -> str:
    """Return how the axis of a picture calls µ: it has the unit of the σ that was varied.

    Examples
    --------
    >>> midpoint_title("weights")
    'midpoint noise level µ (weight units)'
    """
    return f"midpoint noise level µ{QUANTITIES[quantity][QUANTITIES[quantity].index(' (') :]}"


def quantity_named(word: str) -> Quantity:
    """Return the quantity that a user names; a word of version 0.1 is taken with a `DeprecationWarning`.

    Raises
    ------
    FitError
        There is none of this name.
    """
    if word in BEFORE:
        warn(f"quantity {word!r} is {BEFORE[word]!r} now", DeprecationWarning)
        return BEFORE[word]
    if word not in QUANTITIES:
        raise FitError(f"quantity: no {word!r}; there are {', '.join(QUANTITIES)}")
    return cast(Quantity, word)
