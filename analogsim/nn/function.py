"""Autograd of the crossbar (design section 3, Gradients): straight through rounding, zero where a converter clipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ShapeError
from ..kernels import ConvGeometry, MatmulSpec
from ..kernels.conv import convolve, convolve_backward


class CrossbarLinear(torch.autograd.Function):
    r"""y = scale · Σ_t ADC(DAC(x)_t ŵ_tᵀ + noise) + bias, on rows x (M, K).

    With m_t the mask of outputs that tile t's ADC did not clip, and g the gradient of y, the gradients are

        ∂x = [x not clipped by the DAC] · Σ_t (g·m_t) W_t        ∂W_t = (g·m_t)ᵀ (α·x̂_t)        ∂b = Σ_m g

    W = ŵ·w_max are the weights as programmed; w_max and noise count as constants. x̂ is computed anew in backward: kept
    are what a digital layer keeps, and one bit a tile and output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        programmed: Tensor,
        scale: Tensor,
        w_eff: Tensor | None,
        kernel: Any,
        spec: MatmulSpec,
        seed: int,
        stream: int,
        differentiable: bool,
    ) -> Tensor:
        """Run the kernel; keep x, the weights and the ADC's clip bits."""
        record = differentiable and spec.adc_full_scale is not None and any(ctx.needs_input_grad[:2])
        out, clips = kernel.matmul(x, programmed, spec, seed, stream, scale, bias, record)
        ctx.save_for_backward(x, weight, w_eff)
        ctx.kernel, ctx.spec, ctx.clips = kernel, spec, clips
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients stated above."""
        (g,) = grads
        x, weight, w_eff = ctx.saved_tensors
        w = weight if w_eff is None else w_eff
        spec, clips = ctx.spec, ctx.clips
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        tiles = spec.tiles(x.shape[1])
        if clips is None or not any(clips.counts):
            tiles, counts = [(0, x.shape[1])], [0]
        else:
            counts = clips.counts
        grad_x = torch.empty_like(x) if need_x else None
        grad_w = torch.empty_like(weight) if need_w else None
        x_hat = ctx.kernel.dac(x, spec) if need_w else x
        for tile, ((start, stop), clipped) in enumerate(zip(tiles, counts, strict=True)):
            g_t = g.masked_fill(ctx.clips.mask(tile), 0) if clipped else g
            if grad_x is not None:
                torch.mm(g_t, w[:, start:stop], out=grad_x[:, start:stop])
            if grad_w is not None:
                torch.mm(g_t.T, x_hat[:, start:stop], out=grad_w[:, start:stop])
        if grad_w is not None and spec.input_range != 1:
            grad_w *= spec.input_range
        if grad_x is not None and spec.dac_levels:
            grad_x.masked_fill_(dac_clipped(x, spec), 0)
        return (grad_x, grad_w, g.sum(0) if need_b else None, *[None] * 8)


def dac_clipped(x: Tensor, spec: MatmulSpec) -> Tensor:
    """Return where the DAC clipped its input (bool, shape of x)."""
    if spec.dac_signed:
        return x.abs() > spec.input_range
    return (x < 0) | (x > spec.input_range)


class CrossbarConv(torch.autograd.Function):
    """A convolution on crossbars, x (B, C, *spatial); its gradients are `CrossbarLinear`'s on the unfolded input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry,
        mapping: str,
        programmed: Tensor,
        scale: Tensor,
        w_eff: Tensor | None,
        kernel: Any,
        spec: MatmulSpec,
        seed: int,
        stream: int,
        differentiable: bool,
    ) -> Tensor:
        """Run the kernel; keep x, the weights and the ADC's clip bits."""
        record = differentiable and spec.adc_full_scale is not None and any(ctx.needs_input_grad[:2])
        out, clips = convolve(kernel, x, programmed, spec, geometry, seed, stream, mapping, scale, bias, record)
        ctx.save_for_backward(x, weight, w_eff)
        ctx.geometry, ctx.mapping, ctx.kernel, ctx.spec, ctx.clips = geometry, mapping, kernel, spec, clips
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the kernels' own backward."""
        (g,) = grads
        x, weight, w_eff = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        grad_x, grad_w = convolve_backward(
            ctx.kernel,
            g,
            x,
            weight if w_eff is None else w_eff,
            ctx.spec,
            ctx.geometry,
            ctx.mapping,
            ctx.clips,
            (need_x, need_w),
        )
        grad_b = g.sum((0, *range(2, g.ndim))) if need_b else None
        return (grad_x, grad_w, grad_b, *[None] * 10)


@contextmanager
def exact_dtype(*tensors: Tensor | None) -> Iterator[list[Any]]:
    """Leave autocast, and lift half precision to float32: the device model knows float32 and float64.

    Raises
    ------
    ShapeError
        The tensors, once lifted, are not all float32 or all float64 on one device.
    """
    low = (torch.float16, torch.bfloat16)
    lifted = [t.float() if t is not None and t.dtype in low else t for t in tensors]
    kinds = {(t.dtype, t.device) for t in lifted if t is not None}
    if len(kinds) > 1 or not {dtype for dtype, _ in kinds} <= {torch.float32, torch.float64}:
        given = ", ".join(f"{t.dtype} on {t.device}" for t in tensors if t is not None)
        raise ShapeError(f"input, weight and bias must be floating point of one dtype on one device; got {given}")
    with torch.autocast(next(iter(kinds))[1].type, enabled=False):
        yield lifted
