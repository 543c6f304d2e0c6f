"""What is drawn when a chip is made and programmed: pure functions of its seed, what is drawn, and where."""

import torch
from torch import Tensor

from ..kernels import philox

# What is drawn: the Philox stream of its own.
PROGRAMMING, DRIFT, STUCK, ROWS, COLUMNS, ADC_GAIN, ADC_OFFSET, CAPACITORS, WANDER = range(1, 10)
_MASK = 2**64 - 1


def derive(seed: int, *numbers: int) -> int:
    """Return another seed (63 bits) for each tuple of numbers, as unrelated as SplitMix64's outputs are.

    References
    ----------
    G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    for number in numbers:
        z = ((seed & _MASK) + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        seed = z ^ z >> 31
    return seed & 2**63 - 1


def normals(like: Tensor, seed: int, what: int, array: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw standard normals of like's dtype and device, of its shape or the one given.

    Parameters
    ----------
    seed : int
        The layer's on this chip.
    what : int
        One of this module's constants.
    array : int
        The array of cells, or the tile.
    """
    return philox.normals(shape or tuple(like.shape), seed, what, array, device=like.device).to(like.dtype)


def uniforms(like: Tensor, seed: int, what: int, array: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw uniform numbers in (0, 1), float64, as `normals`: the normal distribution function of a normal number."""
    return torch.special.ndtr(philox.normals(shape or tuple(like.shape), seed, what, array, device=like.device))
