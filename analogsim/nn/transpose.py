"""AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d: transposed convolutions on crossbars."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ShapeError
from ..kernels import Backend, choose, uncompiled
from ..kernels.overlap import Overlap, patches
from .conv import AnalogSpatial
from .function import exact_dtype
from .management import multiplied

DIGITAL: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _AnalogConvTranspose(AnalogSpatial):
    """What the three transposed convolutions share; a concrete one adds its digital twin."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer; see the class.

        Raises
        ------
        ShapeError
            The input does not fit the layer, or `output_size` cannot be reached.
        """
        conv: Any = self
        batched = self._has_batch(x)
        if self.transparent:
            return super().forward(x, output_size)
        walk = conv.stride, conv.padding, conv.kernel_size, len(conv.kernel_size), conv.dilation
        try:
            extra = list(conv._output_padding(x, output_size, *walk))
        except ValueError as error:
            raise ShapeError(f"{type(self).__name__}: {error}") from None
        return self._on_crossbars(x, extra) if batched else self._on_crossbars(x[None], extra)[0]

    def crossbar_weight(self) -> Tensor:
        """Return the weights as `_columns` has them."""
        conv: Any = self
        return _columns(conv.weight, conv.groups)

    @uncompiled
    def _on_crossbars(self, x: Tensor, extra: list[int]) -> Tensor:
        """Multiply every position's channels by the kernels, then add up what overlaps; x (B, C, *spatial)."""
        conv: Any = self
        groups = conv.groups
        with exact_dtype(x, conv.weight, conv.bias) as (inputs, weight, bias):
            if not inputs.numel():  # no tile has anything to do
                walk = conv.stride, conv.padding, extra, groups, conv.dilation
                return DIGITAL[x.ndim - 2](inputs, weight, bias, *walk).to(x.dtype)
            walk = conv.kernel_size, conv.stride, conv.padding, tuple(extra), conv.dilation
            overlap = Overlap(tuple(x.shape[2:]), *walk)
            matrix = _columns(weight, groups)
            written = self.write(matrix)
            plan = self.read(inputs, written)
            tracked = plan.tracks(inputs, weight, bias, self.learned_range)
            if groups == 1 and plan.management is None and not tracked:
                shift, read = None if bias is None else bias.detach(), plan.untracked(None)
                found = plan.kernel.convolve_transposed(inputs.detach(), plan.programmed, shift, overlap, read)
                if found is not None:
                    return found.to(x.dtype)
            rows = inputs.movedim(1, -1).reshape(-1, groups, conv.in_channels // groups)
            columns = len(matrix) // groups
            sums = []
            for group in range(groups):
                own = slice(group * columns, (group + 1) * columns)
                part = plan.part(own, *(self.draw(plan.read.spec) if group else (plan.read.seed, plan.read.stream)))
                if self._observer is not None:
                    self._observer.written(written.part(own))
                sums.append(multiplied(rows[:, group], matrix[own], None, part, self.learned_range))
            products = torch.cat(sums, 1) if groups > 1 else sums[0]
            return _AddPatches.apply(products, bias, overlap, choose(products, self.backend)).to(x.dtype)


def _columns(weight: Tensor, groups: int) -> Tensor:
    """Return (C, N/groups, *kernel) as (groups · N/groups · kernel, C/groups): a crossbar's column is a row here."""
    return weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


class _AddPatches(torch.autograd.Function):
    """`Backend.add_patches`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, products: Tensor, bias: Tensor | None, overlap: Overlap, kernel: Backend) -> Tensor:
        """Add up, and take note of where."""
        ctx.overlap = overlap
        return kernel.add_patches(products, bias, overlap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the products and of the bias."""
        (g,) = grads
        need_products, need_bias = ctx.needs_input_grad[:2]
        products = patches(g, ctx.overlap) if need_products else None
        return products, g.sum((0, *range(2, g.ndim))) if need_bias else None, None, None


class AnalogConvTranspose1d(_AnalogConvTranspose, nn.ConvTranspose1d):
    """nn.ConvTranspose1d on simulated crossbars: its arguments, and `profile=`. See `AnalogConvTranspose2d`.

    Input (B, C, L) or (C, L).

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(dac={"bits": 8, "input_range": 1.0})
    >>> layer = an.AnalogConvTranspose1d(4, 3, 2, stride=2, profile=profile)
    >>> layer(torch.zeros(2, 4, 5)).shape
    torch.Size([2, 3, 10])
    """

    digital = nn.ConvTranspose1d


class AnalogConvTranspose2d(_AnalogConvTranspose, nn.ConvTranspose2d):
    """nn.ConvTranspose2d on simulated crossbars: its constructor arguments, and `profile=`.

    Each input position's channels are the crossbar's rows, and every (output channel, kernel row, kernel column) is a
    column: s = Wᵀ x. Tiles cut input channels by `tile.rows` under either `tile.mapping`, and each group has tiles of
    its own. A column's ADC converts its sum, the tiles are added up, and what overlaps in the output is added digitally
    (col2im). So `weight.w_max: column` is one scale for each of the N·kernel columns.

    Input (B, C, H, W) or (C, H, W).

    Notes
    -----
    Noise is drawn for the products (B·H·W, N/groups·kernel) of each group, so overlapping outputs add up independent
    noise.

    Examples
    --------
    >>> from analogsim import HardwareProfile
    >>> layer = AnalogConvTranspose2d(4, 3, 2, stride=2, profile=HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(2, 4, 5, 5)).shape
    torch.Size([2, 3, 10, 10])
    """

    digital = nn.ConvTranspose2d


class AnalogConvTranspose3d(_AnalogConvTranspose, nn.ConvTranspose3d):
    """nn.ConvTranspose3d on simulated crossbars: its arguments, and `profile=`. See `AnalogConvTranspose2d`.

    Input (B, C, D, H, W) or (C, D, H, W).

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(dac={"bits": 8, "input_range": 1.0})
    >>> layer = an.AnalogConvTranspose3d(4, 3, 2, stride=2, profile=profile)
    >>> layer(torch.zeros(2, 4, 3, 3, 3)).shape
    torch.Size([2, 3, 6, 6, 6])
    """

    digital = nn.ConvTranspose3d
