"""The gradients of products on crossbars, for every backend that has no faster way of its own."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .clips import Clips
from .precision import float32_precision
from .reference import dac_clipped
from .spec import MatmulSpec
from .tiles import ConvGeometry, cut

if TYPE_CHECKING:
    from .backend import Backend


@torch.no_grad()
def matmul_backward(
    kernel: "Backend", g: Tensor, x: Tensor, w: Tensor, spec: MatmulSpec, clips: Clips | None, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute `Backend.matmul_backward` as products of each tile.

    With m_t the mask of outputs that tile t's ADC did not clip, and g the gradient of y,

        ∂x = [x not clipped by the DAC] · Σ_t (g·m_t) W_t        ∂W_t = (g·m_t)ᵀ (α·x̂_t)
    """
    tiles = spec.tiles(x.shape[1])
    if clips is None or not clips.any():
        tiles, clips = [(0, x.shape[1])], None
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_w = torch.empty_like(w) if needs[1] else None
    x_hat = kernel.dac(x, spec) if needs[1] else x
    for tile, (start, stop) in enumerate(tiles):
        g_t = g.masked_fill(clips.mask(tile), 0) if clips is not None and clips.counts[tile] else g
        if grad_x is not None:
            torch.mm(g_t, w[:, start:stop], out=grad_x[:, start:stop])
        if grad_w is not None:
            torch.mm(g_t.T, x_hat[:, start:stop], out=grad_w[:, start:stop])
    return _finished(grad_x, grad_w, x, spec)


@torch.no_grad()
def convolve_backward(
    kernel: "Backend",
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    clips: Clips | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Compute `Backend.convolve_backward` as native convolutions of each tile.

    With g_t the gradient where tile t's ADC did not clip and 0 elsewhere, and y = Σ_t conv(α·x̂_t, W_t) + bias:

        ∂x = [x not clipped by the DAC] · Σ_t convᵀ(g_t, W_t)        ∂W_t = correlation of g_t with α·x̂_t
    """
    x_hat = kernel.dac(x.contiguous(), spec) if needs[1] else x
    with float32_precision(x.device, spec.precision):
        if clips is None or not clips.any():
            grad_x, grad_w = _digital(grad, x_hat, w, geometry, needs)
        else:
            grad_x, grad_w = _by_tile(grad, x_hat, w, spec, geometry, clips, needs)
    return _finished(grad_x, grad_w, x, spec)


def _finished(
    grad_x: Tensor | None, grad_w: Tensor | None, x: Tensor, spec: MatmulSpec
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with α in that of the weights, and without that of inputs which the DAC clipped."""
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
    clips: Clips,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients as the sum over tiles, each with the outputs that its ADC clipped left out."""
    groups = geometry.groups
    grad_x = torch.zeros_like(x_hat) if needs[0] else None
    grad_w = torch.zeros_like(w) if needs[1] else None
    inputs = x_hat.unflatten(1, (groups, -1))
    for t, tile in enumerate(cut(w, spec)):
        g = grad.masked_fill(clips.mask(t), 0) if clips.counts[t] else grad
        part = inputs[:, :, tile.channels].flatten(1, 2)
        dx, dw = _digital(g, part, tile.of(w).contiguous(), geometry, needs)
        if grad_x is not None and dx is not None:
            grad_x.unflatten(1, (groups, -1))[:, :, tile.channels] += dx.unflatten(1, (groups, -1))
        if grad_w is not None and dw is not None:
            grad_w[:, tile.channels] += dw if tile.mask is None else dw * tile.mask
    return grad_x, grad_w
