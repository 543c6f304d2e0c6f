"""Programming noise: how far a cell ends from its target."""

from torch import Tensor

from ..profile import Programming
from ..seeds import Stream
from .draw import normals
from .laws import evaluate


def program(g: Tensor, programming: Programming, seed: int, array: int, negative: bool) -> Tensor:
    """Return the conductances that targets g (N, K) were programmed to: g + mean(g) + σ(g)·N(0, 1), not below 0.

    Parameters
    ----------
    seed, array : int
        Who draws.
    negative : bool
        An abstract signed cell: its magnitude may become negative, so that its mean is its target.
    """
    if programming == Programming():
        return g
    written = g if programming.mean == 0 else g + evaluate(programming.mean, g, signed=True)
    if programming.draws:
        written = written + evaluate(programming.sigma, g) * normals(g, seed, Stream.PROGRAMMING, array)
    return written if negative else written.clamp(min=0)
