"""A noise grid as one writes it: "logspace(-2, 2, 17)", or the numbers themselves."""

import re

import numpy as np


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
                values = getattr(np, called[1])(start, stop, int(count)).tolist()
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
