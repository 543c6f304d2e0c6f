"""Programming noise: how far a cell ends from its target."""

import torch
from torch import Tensor

from ..profile import Programming
from ..seeds import Key, Stream, derive
from .draw import normals
from .laws import evaluate


def program(g: Tensor, programming: Programming, seed: int, array: int, negative: bool) -> Tensor:
    """Return the conductances that targets g (N, K) were programmed to: g + mean(g) + σ(g)·N(0, 1), not below 0; with
    write-verify those of `written`.

    Parameters
    ----------
    seed, array : int
        Who draws.
    negative : bool
        An abstract signed cell: its magnitude may become negative, so that its mean is its target.
    """
    return g if programming == Programming() else written(g, programming, seed, array, negative)[0]


def written(
    g: Tensor, programming: Programming, seed: int = 0, array: int = 0, negative: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Write cells whose targets are g, and with `programming.verify` read and write them until they are near.

    The first pulse leaves g_1 = g + mean(g) + σ(g)·n. Before pulse p = 2, 3, … a cell is read, r = g_(p-1) + σ_read·n.
    If |r - g| is at most the tolerance, it is left as it is; else it becomes

        g_p = g_(p-1) - step·(r - g) + σ_p(g)·n

    where every n is another standard normal number, and conductances below 0 become 0.

    Parameters
    ----------
    g : Tensor
        Target conductances of any shape, fractions of g_max.
    programming : Programming
    seed, array : int
        Who draws.
    negative : bool
        Conductances may become negative.

    Returns
    -------
    conductances : Tensor
        As g.
    pulses : Tensor
        How many each cell got, of g's shape; int64.
    """
    now = g if programming.mean == 0 else g + evaluate(programming.mean, g, signed=True)
    if programming.sigma != 0:
        now = now + evaluate(programming.sigma, g) * normals(g, seed, Stream.PROGRAMMING, array)
    now = now if negative else now.clamp(min=0)
    pulses, verify = torch.ones_like(g, dtype=torch.int64), programming.verify
    if verify is None:
        return now, pulses
    sigma = evaluate(programming.sigma if verify.sigma is None else verify.sigma, g)
    missed = torch.ones_like(pulses, dtype=torch.bool)
    for pulse in range(2, verify.pulses + 1):
        seen = now
        if verify.read:
            seen = now + verify.read * normals(g, derive(seed, Key.PULSE, pulse, 1), Stream.PROGRAMMING, array)
        missed &= (seen - g).abs() > verify.tolerance
        if not missed.any():
            break
        error = sigma * normals(g, derive(seed, Key.PULSE, pulse, 0), Stream.PROGRAMMING, array)
        moved = now - verify.step * (seen - g) + error
        now = torch.where(missed, moved if negative else moved.clamp(min=0), now)
        pulses += missed
    return now, pulses
