"""Programming noise: how far a cell ends from its target."""

import torch
from torch import Tensor

from ..profile.cells import Programming, Saturating
from ..seeds import Stream
from .draw import normals


def sigma(g: Tensor, programming: Programming) -> Tensor:
    """Return σ(g), fraction of g_max, of target conductances g (any shape, fraction of g_max).

    A constant, max(Σ_i c_i g^i, 0), or amplitude·(1 - exp(-g/scale)).

    References
    ----------
    V. Joshi et al., "Accurate deep neural network inference using computational phase-change memory", Nature
    Communications 11, 2473 (2020): the quadratic form for PCM.
    V. Agrawal et al., "Subthreshold operation of SONOS analog memory to enable accurate low-power neural network
    inference", IEDM 2022: the saturating form for SONOS, as fitted in CrossSim.
    """
    law = programming.sigma
    if isinstance(law, Saturating):
        return law.amplitude * (1 - (-g / law.scale).exp())
    if not isinstance(law, tuple):
        return torch.full_like(g, law)
    return polynomial(law, g)


def polynomial(coefficients: tuple[float, ...], g: Tensor) -> Tensor:
    """Return max(Σ_i c_i g^i, 0)."""
    value = torch.zeros_like(g)
    for coefficient in reversed(coefficients):
        value = value * g + coefficient
    return value.clamp(min=0)


def program(g: Tensor, programming: Programming, seed: int, array: int, negative: bool) -> Tensor:
    """Return the conductances that targets g (N, K) were programmed to: g + σ(g)·N(0, 1), and not below 0.

    Parameters
    ----------
    seed, array : int
        Who draws.
    negative : bool
        An abstract signed cell: its magnitude may become negative, so that its mean is its target.
    """
    if not programming.draws:
        return g
    written = g + sigma(g, programming) * normals(g, seed, Stream.PROGRAMMING, array)
    return written if negative else written.clamp(min=0)
