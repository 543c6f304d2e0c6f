"""The numbers that a read's noise is made of: standard normals, and an offset that wanders."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..kernels import Backend, MatmulSpec, Read
from ..seeds import Stream

_STANDARD = MatmulSpec(noise_output=1.0)


def normals_of(base: Backend, like: Tensor, read: Read, tile: int, offset: int = 0) -> Tensor:
    """Return a read's standard normals in like's shape, drawn by the backend."""
    out, nothing = torch.empty_like(like), torch.zeros_like(like)
    base.accumulate(out, nothing, None, replace(read, spec=_STANDARD), tile, offset, first=True)
    return out


def uniform(base: Backend, like: Tensor, read: Read, flag: Stream, tile: int, offset: int = 0) -> Tensor:
    """Return numbers evenly from 0 to 1 in like's shape, of a stream of the read's own (float64): Φ of its normals."""
    drawn = normals_of(base, like.contiguous(), replace(read, stream=read.stream | flag), tile, offset)
    return torch.special.ndtr(drawn.double())


def wandering(base: Backend, like: Tensor, read: Read, tile: int, length: float, amplitude: float = 1.0) -> Tensor:
    """Draw each column's slow offset over a call's conversions, of variance amplitude²: the stationary Gauss-Markov
    process.

        o_0 = n_0,   o_i = ρ·o_(i-1) + √(1 - ρ²)·n_i,   ρ = exp(-1/length)

    A column's conversions follow one another along the batch, and of an image along its positions. (Calls are
    independent: between them there is time.) The filter is the backend's.

    Parameters
    ----------
    like : Tensor (M, N, …)
        Has the shape, dtype and device of what is returned.
    length : float
        Conversions after which the correlation has fallen to 1/e.
    """
    moved = like.movedim(1, -1)  # (M, …, N): time first
    white = like.new_empty(moved[..., 0].numel(), like.shape[1])
    own = replace(read, stream=read.stream | Stream.WANDER)
    slow = base.smooth(normals_of(base, white, own, tile), math.exp(-1 / length), amplitude)
    return slow.view(moved.shape).movedim(-1, 1)
