"""A crossbar's product as functions of autograd (design section 3, Gradients).

A gradient passes rounding as if nothing were rounded, and is 0 where a converter clipped.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..chip import DeviceKernel, follows_signal, signal_noise
from ..errors import ShapeError
from ..kernels import Backend, Clips, ConvGeometry, Read
from ..kernels.fork import refuse_lost_threads
from ..kernels.memory import refuse_unreal
from ..kernels.tiles import ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What one call of a layer needs beside its inputs, its weight and its bias.

    Attributes
    ----------
    programmed : Tensor (N, K, …)
        ŵ, normalised units.
    w_eff : Tensor (N, K, …) or None
        The weights as programmed, ŵ·w_max in weight units, which gradients are computed with; None where they are the
        digital weights.
    kernel : Backend
    read : Read
        The scalars of the call, its random numbers and its scale. The bias is added by `reads`, because it has a
        gradient and so must be an argument of the function.
    offset : Tensor (N,) or None
        Added to the bias, activation units; has no gradient.
    differentiable : bool
        Whether a backward may follow. Within a function of autograd, torch always says that none does.
    management : Management or None
        How rows are read each by itself (`management.py`).
    noted : list or None
        Where given, the clips of the read are appended to it.
    """

    programmed: Tensor
    w_eff: Tensor | None
    kernel: Backend
    read: Read
    differentiable: bool = True
    offset: Tensor | None = None
    management: Any = None
    noted: list[Clips | None] | None = None

    def tracks(self, *tensors: Tensor | None) -> bool:
        """Return whether autograd has anything to remember; functions of its own take longer than a small product."""
        return self.differentiable and any(t is not None and t.requires_grad for t in tensors)

    def untracked(self, bias: Tensor | None) -> Read:
        """Return the read with its bias, where nobody asks for gradients."""
        read, offset = self.read, self._added(None if bias is None else bias.detach())
        records = read.record_clips or self.noted is not None
        # Field by field: `replace` takes several times as long, and this is at every call.
        return Read(read.spec, read.seed, read.stream, read.scale, offset, records, read.w_max, read.tile_gains)

    def _added(self, bias: Tensor | None) -> Tensor | None:
        return bias if self.offset is None else self.offset if bias is None else bias + self.offset

    def part(self, outputs: slice, seed: int, stream: int) -> "Plan":
        """Return the plan of some of the outputs, which draw their noise from a seed and stream of their own."""
        scale = None if self.read.scale is None else self.read.scale[outputs]
        w_eff = None if self.w_eff is None else self.w_eff[outputs]
        gains = None if self.read.tile_gains is None else self.read.tile_gains[:, outputs]
        read = replace(self.read, seed=seed, stream=stream, scale=scale, tile_gains=gains)
        offset = None if self.offset is None else self.offset[outputs]
        kernel = self.kernel.part(outputs)
        return Plan(
            self.programmed[outputs], w_eff, kernel, read, self.differentiable, offset, self.management, self.noted
        )

    def as_matrix(self, rows: int | None) -> "Plan":
        """Return the plan of a convolution's kernel as a matrix, whose tiles hold so many rows."""
        w_eff = None if self.w_eff is None else self.w_eff.flatten(1)
        kernel = self.kernel.as_matrix() if isinstance(self.kernel, DeviceKernel) else self.kernel
        read = replace(self.read, spec=replace(self.read.spec, rows=rows))
        return replace(self, programmed=self.programmed.flatten(1), w_eff=w_eff, kernel=kernel, read=read)

    def reads(self, ctx: Any, bias: Tensor | None, alpha: Tensor | None) -> Read:
        """Return the read with its bias; it records what ADCs clip where a gradient of x, W or α needs that."""
        wanted = self.differentiable and any((*ctx.needs_input_grad[:2], alpha is not None))
        wanted = wanted or self.noted is not None
        return replace(self.read, bias=self._added(bias), record_clips=wanted)


class CrossbarLinear(torch.autograd.Function):
    r"""y = scale · Σ_t ADC(DAC(x)_t ŵ_tᵀ + noise) + bias, on rows x (M, K).

    With m_t the mask of outputs that tile t's ADC did not clip, and g the gradient of y, the gradients are

        ∂x = [x not clipped by the DAC] · Σ_t (g·m_t) W_t        ∂W_t = (g·m_t)ᵀ (α·x̂_t)        ∂b = Σ_m g

    W = ŵ·w_max are the weights as programmed; w_max and noise count as constants. In an output whose weights are all
    0 nothing counts as clipped, so that training can fill it.

    Between forward and backward, memory holds what it holds for a digital layer (x and the weights), and one bit for
    each tile and output, which says whether its ADC clipped. x̂ is computed anew. Where the input range is learned, y is
    held too; the range's gradient is `range_gradient`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: Plan,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """Compute the product; x, the weights and the bits of what ADCs clipped are held for backward."""
        read = plan.reads(ctx, bias, alpha)
        out, clips = plan.kernel.matmul(x, plan.programmed, read)
        if plan.noted is not None:
            plan.noted.append(clips)
        ctx.save_for_backward(x, weight, plan.w_eff, *(() if alpha is None else (out.clone(), read.bias)))
        ctx.kernel, ctx.read, ctx.clips, ctx.programmed = plan.kernel, read, clips, plan.programmed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients stated above."""
        (g,) = grads
        x, weight, w_eff, *kept = ctx.saved_tensors
        w = weight if w_eff is None else w_eff
        read = ctx.read
        spec, clips = read.spec, of_live_outputs(ctx.clips, read)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        needs = need_x or bool(kept), need_w
        grad_x, grad_w = ctx.kernel.matmul_backward(g, x, w, spec, clips, needs)
        grad_alpha = None
        if kept and grad_x is not None:
            images = g[..., None], x[..., None], grad_x[..., None]
            grad_alpha = range_gradient(ctx, *images, kept[0][..., None], kept[1], ROWS)
        return (grad_x, grad_w, g.sum(0) if need_b else None, None, grad_alpha)


def of_live_outputs(clips: Clips | None, read: Read) -> Clips | None:
    """Return what ADCs clipped, but for outputs whose weights are all 0 (with full scales of tiles: all 0 in the tile).

    The sum of such an output is noise and offsets. That it clips says nothing of weights which training might put
    there, and so must not set their gradient to 0.
    """
    scale = read.tile_gains if read.tile_gains is not None else read.scale if read.w_max is None else read.w_max
    if clips is None or scale is None or (scale.device.type == "cpu" and bool(scale.all())):
        return clips
    return clips.among(scale != 0)


def range_gradient(
    ctx: Any,
    g: Tensor,
    x: Tensor,
    grad_x: Tensor,
    out: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
) -> Tensor:
    r"""Return the gradient of the input range α, straight through rounding.

    The output is y = α·S(x̂) + b, where S is what the crossbars give for the converted inputs x̂. By the straight-through
    rule dx̂_k/dα is -x_k/α² where the DAC did not clip, and 0 where it did. So with m_t and g as in `CrossbarLinear`

        ∂α = Σ g·(y - b)/α  -  Σ_t Σ (g·m_t)·W_t·x_t·[not clipped]/α  =  (Σ g·(y - b) - Σ x·∂x) / α

    That holds for noise whose σ is constant in normalised units: in activation units it grows with α. Noise that grows
    with the inputs does not grow with α, and is taken off y first (`signal_noise`): of a noise n of variance V the part
    n·σ_out²/V remains.

    Where ADCs and noise do nothing, this is LSQ's rule, ∂y/∂α = W·(x̂ - [not clipped]·x/α). Where nothing is rounded
    either, it is PACT's, W·[x clipped].

    References
    ----------
    S. K. Esser et al., *Learned Step Size Quantization*, ICLR 2020, equation 3. J. Choi et al., *PACT: Parameterized
    Clipping Activation for Quantized Neural Networks*, arXiv 1805.06085, section 3.
    """
    read, spec = ctx.read, ctx.read.spec
    if follows_signal(ctx.kernel, spec):
        w = ctx.programmed.view(*ctx.programmed.shape, *[1] * (x.ndim - ctx.programmed.ndim))
        out = out - signal_noise(ctx.kernel, x, w, geometry, read, ctx.clips)
    if spec.dac_levels:  # An input that clipped has no gradient, but it may be infinite, and 0·∞ is NaN.
        x = x.clamp(-spec.input_range, spec.input_range)
    total = (g * out).sum(dtype=torch.float64) - (x * grad_x).sum(dtype=torch.float64)
    if bias is not None:
        total = total - (g.transpose(0, 1).flatten(1).sum(1) * bias).sum(dtype=torch.float64)
    return (total / spec.input_range).float()


class CrossbarConv(torch.autograd.Function):
    """A convolution on crossbars, x (B, C, *spatial).

    Its gradients are `CrossbarLinear`'s, with the patches of the image under the kernel as rows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry,
        plan: Plan,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """Compute the product; x, the weights and the bits of what ADCs clipped are held for backward."""
        read = plan.reads(ctx, bias, alpha)
        out, clips = plan.kernel.convolve(x, plan.programmed, geometry, read)
        ctx.save_for_backward(x, weight, plan.w_eff, *(() if alpha is None else (out.clone(), read.bias)))
        ctx.geometry, ctx.kernel, ctx.read = geometry, plan.kernel, read
        ctx.clips, ctx.programmed = clips, plan.programmed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, which `convolve_backward` computes."""
        (g,) = grads
        x, weight, w_eff, *kept = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        need_x = need_x or bool(kept)
        grad_x, grad_w = ctx.kernel.convolve_backward(
            g,
            x,
            weight if w_eff is None else w_eff,
            ctx.read.spec,
            ctx.geometry,
            of_live_outputs(ctx.clips, ctx.read),
            (need_x, need_w),
        )
        grad_b = g.sum((0, *range(2, g.ndim))) if need_b else None
        grad_alpha = None
        if kept and grad_x is not None:
            out, bias = kept
            grad_alpha = range_gradient(ctx, g, x, grad_x, out, bias, ctx.geometry)
        return (grad_x, grad_w, grad_b, None, None, grad_alpha)


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, alpha: Tensor | None) -> Tensor:
    """Return what a crossbar makes of rows x (M, K), with the gradients of `CrossbarLinear`: (M, N)."""
    if plan.tracks(x, weight, bias, alpha):
        out: Tensor = CrossbarLinear.apply(x, weight, bias, plan, alpha)
        return out
    found, clips = plan.kernel.matmul(x.detach(), plan.programmed, plan.untracked(bias))
    if plan.noted is not None:
        plan.noted.append(clips)
    return found


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, plan: Plan, alpha: Tensor | None
) -> Tensor:
    """Return what a crossbar makes of images x (B, C, *spatial), with the gradients of `CrossbarConv`."""
    if plan.tracks(x, weight, bias, alpha):
        out: Tensor = CrossbarConv.apply(x, weight, bias, geometry, plan, alpha)
        return out
    return plan.kernel.convolve(x.detach(), plan.programmed, geometry, plan.untracked(bias))[0]


def exact_dtype(*tensors: Tensor | None) -> AbstractContextManager[list[Any]]:
    """Give tensors as the device model computes with them, in float32 or float64, and leave autocast meanwhile.

    Half precision becomes float32. None stays in its place in the list.

    Raises
    ------
    ShapeError
        The tensors, once lifted, are not all float32 or all float64 on one device.
    BackendError
        The call is being recorded, a tensor's numbers are not in memory of its own, or a fork lost the threads.
    """
    refuse_lost_threads()
    refuse_unreal(*tensors)
    for t in tensors:
        if t is not None and not (t.dtype is torch.float32 and t.is_cpu):
            break
    else:
        return _without_autocast("cpu", [*tensors]) if torch.is_autocast_enabled("cpu") else nullcontext([*tensors])
    low = (torch.float16, torch.bfloat16)
    lifted = [t.float() if t is not None and t.dtype in low else t for t in tensors]
    kinds = {(t.dtype, t.device) for t in lifted if t is not None}
    if len(kinds) > 1 or not {dtype for dtype, _ in kinds} <= {torch.float32, torch.float64}:
        given = ", ".join(f"{t.dtype} on {t.device}" for t in tensors if t is not None)
        raise ShapeError(f"input, weight and bias must be floating point of one dtype on one device; got {given}")
    kind = next(iter(kinds))[1].type
    # Asked first, since leaving it takes longer than a small product.
    return _without_autocast(kind, lifted) if torch.is_autocast_enabled(kind) else nullcontext(lifted)


@contextmanager
def _without_autocast(kind: str, lifted: list[Any]) -> Iterator[list[Any]]:
    with torch.autocast(kind, enabled=False):
        yield lifted
