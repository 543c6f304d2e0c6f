"""The gradients of a convolution on crossbars."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import Clips, ConvGeometry
from .precision import float32_precision
from .reference import dac_clipped
from .spec import MatmulSpec
from .tiles import cut


@torch.no_grad()
def convolve_backward(
    kernel: ModuleType | Any,
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    mapping: str,
    clips: Clips | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a convolution on crossbars (design section 3, Gradients).

    With g_t the gradient where tile t's ADC did not clip and 0 elsewhere, and y = Σ_t conv(α·x̂_t, W_t) + bias:

        ∂x = [x not clipped by the DAC] · Σ_t convᵀ(g_t, W_t)        ∂W_t = correlation of g_t with α·x̂_t

    Parameters
    ----------
    grad : Tensor (B, N, *output spatial)
        Gradient with respect to the layer's output.
    x : Tensor (B, C, *spatial)
        Inputs as given to the layer, activation units.
    w : Tensor (N, C / groups, *kernel)
        Weights as programmed but in digital weight units: W = ŵ·w_max.
    clips : Clips or None
        Where the forward's ADCs clipped.
    needs : (bool, bool)
        Whether the gradients of x and of w are wanted.

    Returns
    -------
    grad_x, grad_w : Tensor or None
        With respect to x in activation units and to w in digital weight units (w_max and noise being constants).
    """
    x_hat = kernel.dac(x.contiguous(), spec) if needs[1] else x
    with float32_precision(x.device, spec.precision):
        if clips is None or not clips.any():
            grad_x, grad_w = _digital(grad, x_hat, w, geometry, needs)
        else:
            grad_x, grad_w = _by_tile(grad, x_hat, w, spec, geometry, mapping, clips, needs)
    if grad_w is not None and spec.input_range != 1:
        grad_w *= spec.input_range
    if grad_x is not None and spec.dac_levels:
        grad_x.masked_fill_(dac_clipped(x, spec), 0)
    return grad_x, grad_w


def _digital(
    grad: Tensor, x: Tensor, w: Tensor, geometry: ConvGeometry, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return a digital convolution's gradients."""
    g = geometry
    zeros = [0] * len(g.stride)
    wanted = [*needs, False]
    walk = g.stride, g.padding, g.dilation, False, zeros, g.groups
    return torch.ops.aten.convolution_backward(grad, x, w, None, *walk, wanted)[:2]


def _by_tile(
    grad: Tensor,
    x_hat: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    mapping: str,
    clips: Clips,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients as the sum over tiles, each with the outputs that its ADC clipped left out."""
    groups = geometry.groups
    grad_x = torch.zeros_like(x_hat) if needs[0] else None
    grad_w = torch.zeros_like(w) if needs[1] else None
    inputs = x_hat.unflatten(1, (groups, -1))
    for t, tile in enumerate(cut(w, spec, mapping)):
        g = grad.masked_fill(clips.mask(t), 0) if clips.counts[t] else grad
        part = inputs[:, :, tile.channels].flatten(1, 2)
        dx, dw = _digital(g, part, tile.of(w).contiguous(), geometry, needs)
        if grad_x is not None and dx is not None:
            grad_x.unflatten(1, (groups, -1))[:, :, tile.channels] += dx.unflatten(1, (groups, -1))
        if grad_w is not None and dw is not None:
            grad_w[:, tile.channels] += dw if tile.mask is None else dw * tile.mask
    return grad_x, grad_w
