"""AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d: transposed convolutions on crossbars."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import uncompiled
from .conv import AnalogSpatial
from .function import exact_dtype, multiplied

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

    @uncompiled
    def _on_crossbars(self, x: Tensor, extra: list[int]) -> Tensor:
        """Multiply every position's channels by the kernels, then add up what overlaps; x (B, C, *spatial)."""
        conv: Any = self
        groups = conv.groups
        with exact_dtype(x, conv.weight, conv.bias) as (inputs, weight, bias):
            if not inputs.numel():  # no tile has anything to do
                walk = conv.stride, conv.padding, extra, groups, conv.dilation
                return DIGITAL[x.ndim - 2](inputs, weight, bias, *walk).to(x.dtype)
            rows = inputs.movedim(1, -1).reshape(-1, groups, conv.in_channels // groups)
            # (C, N/groups, *kernel) -> (groups · N/groups · kernel, C/groups): a crossbar's column is a row here.
            matrix = weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            written = self.write(matrix)
            plan = self.read(inputs, written)
            columns = len(matrix) // groups
            sums = []
            for group in range(groups):
                own = slice(group * columns, (group + 1) * columns)
                part = plan.part(own, *(self.draw(plan.read.spec) if group else (plan.read.seed, plan.read.stream)))
                if self._observer is not None:
                    self._observer.written(written.part(own))
                sums.append(multiplied(rows[:, group], matrix[own], None, part, self.learned_range))
            products = torch.cat(sums, 1) if groups > 1 else sums[0]
            products = products.reshape(len(x), *x.shape[2:], len(matrix)).movedim(-1, 1)
            out = overlap_add(products, conv.kernel_size, conv.stride, conv.dilation)
            out = F.pad(out, [n for p, e in zip(conv.padding[::-1], extra[::-1], strict=True) for n in (-p, e - p)])
            if bias is not None:
                out = out + bias.reshape(-1, *[1] * len(conv.kernel_size))
            return out.to(x.dtype)


def overlap_add(columns: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Put every position's patch in its place and add up what overlaps (col2im).

    Parameters
    ----------
    columns : Tensor (B, N·kernel, *spatial)
        One patch of N channels a position; 1 to 3 spatial dimensions.

    Returns
    -------
    Tensor (B, N, *full)
        full = (spatial - 1)·stride + dilation·(kernel - 1) + 1, the output before padding is cut off.
    """
    spatial = columns.shape[2:]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)]
    if len(kernel) == 1:
        return F.fold(columns, (full[0], 1), (kernel[0], 1), (dilation[0], 1), stride=(stride[0], 1)).squeeze(-1)
    if len(kernel) == 2:
        return F.fold(columns.flatten(2), tuple(full), tuple(kernel), tuple(dilation), stride=tuple(stride))
    # Three dimensions: first every depth slice by itself, then along the depth.
    slices = columns.movedim(2, 1).flatten(0, 1)  # (B·D, N·kernel, H, W)
    planes = overlap_add(slices, kernel[1:], stride[1:], dilation[1:])  # (B·D, N·kd, *full[1:])
    lines = planes.unflatten(0, (-1, spatial[0])).flatten(3).transpose(1, 3).flatten(0, 1)  # (B·A, N·kd, D)
    out = overlap_add(lines, kernel[:1], stride[:1], dilation[:1])  # (B·A, N, full[0])
    return out.unflatten(0, (len(columns), -1)).movedim(1, -1).unflatten(-1, full[1:])


class AnalogConvTranspose1d(_AnalogConvTranspose, nn.ConvTranspose1d):
    """nn.ConvTranspose1d on simulated crossbars: its arguments, and `profile=`. See `AnalogConvTranspose2d`."""

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
    """nn.ConvTranspose3d on simulated crossbars: its arguments, and `profile=`. See `AnalogConvTranspose2d`."""

    digital = nn.ConvTranspose3d
