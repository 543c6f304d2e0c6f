"""What is drawn when a chip is made and programmed: pure functions of its seed, what is drawn, and where."""

import torch
from torch import Tensor

from ..kernels import philox
from ..seeds import Stream


def normals(like: Tensor, seed: int, what: Stream, array: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw standard normals of like's dtype and device, of its shape or the one given.

    Parameters
    ----------
    seed : int
        The layer's on this chip.
    what : int
        What is drawn.
    array : int
        The array of cells, or the tile.
    """
    return philox.normals(shape or tuple(like.shape), seed, what, array, device=like.device).to(like.dtype)


def uniforms(like: Tensor, seed: int, what: Stream, array: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Draw uniform numbers in (0, 1), float64, as `normals`: the normal distribution function of a normal number."""
    return torch.special.ndtr(philox.normals(shape or tuple(like.shape), seed, what, array, device=like.device))
