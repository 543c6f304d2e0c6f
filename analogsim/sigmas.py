"""A noise grid as one writes it: "logspace(-2, 2, 17)", or the numbers themselves.

A study's jobs are named by their σ in every digit, and what one machine has done another goes on with. So the grids are
the same numbers everywhere, which numpy's are not: its powers differ in the last digit between processors.
"""

import math
import re
from decimal import Context, Decimal

import numpy as np

_EXACT = Context(prec=40, traps=[])
_TEN = Decimal(10)


def log_spaced(start: float, stop: float, count: int) -> np.ndarray:
    """Return what `numpy.logspace` does, each number the float64 that is nearest to the power of ten.

    Parameters
    ----------
    start, stop : float
        Exponents of the first and of the last.
    count : int
        How many, n.

    Returns
    -------
    ndarray (n,), float64
        The same on every processor; infinite or NaN where a power is.
    """
    return np.array([float(_EXACT.power(_TEN, Decimal(x))) for x in np.linspace(start, stop, count).tolist()])


def _ratio_spaced(start: float, stop: float, count: int) -> np.ndarray:
    """Return what `numpy.geomspace` does of two positive numbers, the same on every processor; its ends are exact."""
    if not (0 < start < math.inf and 0 < stop < math.inf):
        raise ValueError
    first, last = Decimal(start), Decimal(stop)
    ratio = _EXACT.divide(last, first)
    steps = [_EXACT.divide(Decimal(k), Decimal(max(count - 1, 1))) for k in range(count)]
    found = [float(_EXACT.multiply(first, _EXACT.power(ratio, step))) for step in steps]
    return np.array([start, *found[1:-1], stop][:count])


_SPACED = {"logspace": log_spaced, "geomspace": _ratio_spaced, "linspace": np.linspace}


def read_sigmas(text: str) -> np.ndarray:
    """Read a noise grid: "logspace(-2,2,17)", "geomspace(0.01,100,17)", "linspace(0.1,1,10)" or "0.1,0.3,1".

    Raises
    ------
    ValueError
        It is none of these, or a number is negative or not finite.
    """
    called = re.fullmatch(r"\s*(logspace|geomspace|linspace)\s*\((.*)\)\s*", text)
    try:
        values = [float(part) for part in (called[2] if called else text).split(",")]
        if called:
            start, stop, count = values
            if count != int(count) or not 1 <= count <= 10_000:
                raise ValueError
            with np.errstate(all="ignore"):
                values = _SPACED[called[1]](start, stop, int(count)).tolist()
        grid = np.array(values)
        if not np.isfinite(grid).all() or (grid < 0).any():
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r}: give noise levels such as 'logspace(-2,2,17)', 'linspace(0.1,1,10)' or '0.1,0.3,1', "
            "finite and not negative"
        ) from None
    return grid


def noise_grid(given: str | tuple[float, ...]) -> np.ndarray:
    """Return the σ (S,) of a text that `read_sigmas` reads, or of numbers: ascending, each once.

    Raises
    ------
    ValueError
        As `read_sigmas`.
    """
    return np.unique(read_sigmas(given if isinstance(given, str) else ",".join(map(repr, given))))
