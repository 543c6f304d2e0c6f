"""Clipped weights: a few large ones no longer set the full scale that noise is relative to."""

import math

import torch
from torch import nn

from ..errors import ConversionError, ProfileError
from ..nn.known import like

__all__ = ["clip_weights"]


@torch.no_grad()
def clip_weights(model: nn.Module, deviations: float) -> None:
    """Clip the weights of every layer to ± `deviations` of their standard deviations, all weights of a layer at once.

    Programming noise is relative to the largest conductance, and so to the largest weight: with fewer large weights,
    the same hardware is more precise. Run it after every step of a training of your own,
    `optimizer.register_step_post_hook(lambda *_: clip_weights(model, 2.5))`; `TrainSpec(clip_weights=2.5)` does that.

    Parameters
    ----------
    model : nn.Module
        Digital or converted; the weights of its convolution, linear and attention layers are changed in place. A
        layer's weights that are all alike, such as a single one, have no deviation and are left as they are.
    deviations : float
        Positive; 2 to 2.5 in the reference.

    Raises
    ------
    ProfileError
        It is not positive, or not finite.
    ConversionError
        There is no layer whose weights are clipped.

    References
    ----------
    V. Joshi et al., *Accurate deep neural network inference using computational phase-change memory*, Nature
    Communications 11, 2473 (2020), Methods.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[1.0, -1.0, 4.0]])
    >>> an.clip_weights(layer, 1.0)
    >>> layer.weight.data
    tensor([[ 1.0000, -1.0000,  2.0548]])
    """
    if not 0 < deviations < math.inf:
        raise ProfileError(f"deviations: must be positive and finite, got {deviations!r}")
    weights: dict[int, nn.Parameter] = {}  # each once: some are tied, and those of an attention's part are its own, too
    for module in model.modules():
        row = like(module)
        if row is None or row.weights is None:
            continue
        for owner, key in row.weights(module):
            weight = owner._parameters.get(key)
            if weight is None:
                raise ConversionError(
                    f"{type(module).__name__}: its {key} is computed from other parameters (parametrised or pruned), "
                    "so that it cannot be clipped; make it a plain parameter first"
                )
            weights[id(weight)] = weight
    if not weights:
        raise ConversionError(f"{type(model).__name__}: no convolution, linear or attention layer with weights to clip")
    for weight in filter(torch.numel, weights.values()):
        deviation = weight.std(correction=0)
        # Else all are alike, or there is one, and clipping to what rounding left would end its training.
        differ = deviation > 1e-6 * weight.abs().max()
        bound = torch.where(differ, deviations * deviation, math.inf)  # a tensor: a GPU is not waited for at every step
        weight.clamp_(-bound, bound)
