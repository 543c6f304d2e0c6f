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


def wandering(base: Backend, like: Tensor, read: Read, tile: int, length: float) -> Tensor:
    """Draw each column's slow offset over a call's conversions, variance 1: the stationary Gauss-Markov process.

        o_0 = n_0,   o_i = ρ·o_(i-1) + √(1 - ρ²)·n_i,   ρ = exp(-1/length)

    A column's conversions follow one another along the batch, and of an image along its positions. (Calls are
    independent: between them there is time.) On the CPU, whose filter it is.

    Parameters
    ----------
    like : Tensor (M, N, …)
        Has the shape, dtype and device of what is returned.
    length : float
        Conversions after which the correlation has fallen to 1/e.
    """
    from scipy.signal import lfilter

    moved = like.movedim(1, -1)  # (M, …, N): time first
    white = like.new_empty(moved[..., 0].numel(), like.shape[1])
    own = replace(read, stream=read.stream | Stream.WANDER)
    n = normals_of(base, white, own, tile).double().cpu().numpy()
    rho = math.exp(-1 / length)
    n[1:] *= math.sqrt(1 - rho**2)
    slow = torch.from_numpy(lfilter([1.0], [1.0, -rho], n, axis=0)) if len(n) else torch.from_numpy(n)
    return slow.view(moved.shape).movedim(-1, 1).to(like)
