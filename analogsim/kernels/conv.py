"""Convolutions on crossbars: each tile a native convolution over a slice of channels, or rows of the unfolded input."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import Clips, ConvGeometry
from .philox import check_extent
from .spec import MatmulSpec

CHUNK = 2**22  # elements of a partial sum computed at a time
_CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@torch.no_grad()
def convolve(
    kernel: ModuleType | Any,
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    seed: int,
    stream: int,
    mapping: str,
    scale: Tensor | None,
    bias: Tensor | None,
    record_clips: bool,
) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_conv` with a backend's `dac` and `accumulate`, a batch chunk at a time."""
    shape = (len(x), len(w), *_output_spatial(x, w, geometry))
    per_image = math.prod(shape[1:])
    check_extent(len(x) * per_image)
    tiles = _tiles(w, spec, mapping)
    out = x.new_zeros(shape)
    record = record_clips and spec.adc_full_scale is not None
    bits = torch.zeros((-(-len(tiles) // 8), *shape), dtype=torch.uint8, device=x.device) if record else None
    counts = [0] * len(tiles)
    step = max(1, CHUNK // max(1, per_image))
    for start in range(0, len(x), step):
        inputs = kernel.dac(x[start : start + step].contiguous(), spec)
        into = out[start : start + step]
        sums = _partial_sums(inputs, w, geometry, tiles, mapping, bool(spec.noise_read))
        for tile, (partial, norm2) in enumerate(sums):
            marks = None if bits is None else bits[tile // 8, start : start + step]
            counts[tile] += kernel.accumulate(
                into, partial.contiguous(), norm2, spec, seed, stream, tile, start * per_image, marks
            )
    columns = (-1, *[1] * (x.ndim - 2))
    if scale is not None:
        out *= scale.view(columns)
    if bias is not None:
        out += bias.view(columns)
    return out, Clips(bits, counts) if bits is not None else None


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

    Parameters
    ----------
    grad : Tensor (B, N, *output spatial)
        Gradient of the layer's output, activation units.
    x : Tensor (B, C, *spatial)
        Inputs as given to the layer, activation units.
    w : Tensor (N, C / groups, *kernel)
        Weights as programmed, weight units.
    needs : (bool, bool)
        Whether x's and w's gradients are wanted.

    Returns
    -------
    grad_x, grad_w : Tensor or None
        In activation and weight units; straight through rounding, zero where the DAC or a tile's ADC clipped.
    """
    spatial = len(geometry.stride)
    x_hat = kernel.dac(x.contiguous(), spec) if needs[1] else x
    tiles = _tiles(w, spec, mapping)
    clipped = clips is not None and any(clips.counts)
    grad_x = torch.zeros_like(x) if needs[0] else None
    grad_w = torch.zeros_like(w) if needs[1] else None
    for tile, (a, b) in enumerate(tiles if clipped else [(0, math.prod(w.shape[1:]))]):
        g = grad.masked_fill(clips.mask(tile), 0) if clips is not None and clipped and clips.counts[tile] else grad
        # A tile of the im2col mapping may cut a channel: its convolution has zeros where the rows are another tile's.
        c0, c1 = a // math.prod(w.shape[2:]), -(-b // math.prod(w.shape[2:]))
        part = w[:, c0:c1]
        mask = _row_mask(w, a, b, c0, c1)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            g,
            _channels(x_hat, c0, c1, geometry.groups).contiguous(),
            (part if mask is None else part * mask).contiguous(),
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            (0,) * spatial,
            geometry.groups,
            (needs[0], needs[1], False),
        )
        if grad_x is not None:
            _channels(grad_x, c0, c1, geometry.groups, view=True).add_(
                dx.view(len(x), geometry.groups, -1, *x.shape[2:])
            )
        if grad_w is not None:
            grad_w[:, c0:c1] += dw if mask is None else dw * mask
    if grad_w is not None and spec.input_range != 1:
        grad_w *= spec.input_range
    if grad_x is not None and spec.dac_levels:
        low = -spec.input_range if spec.dac_signed else 0.0
        grad_x.masked_fill_((x > spec.input_range) | (x < low), 0)
    return grad_x, grad_w


def _tiles(w: Tensor, spec: MatmulSpec, mapping: str) -> list[tuple[int, int]]:
    """Rows (start, stop) of each tile, in the unfolded order (channel, *kernel) of one group."""
    size = math.prod(w.shape[2:])
    rows = size * w.shape[1]
    if mapping == "channel" and spec.rows is not None:
        step = max(1, spec.rows // size) * size
        return [(start, min(start + step, rows)) for start in range(0, rows, step)]
    return spec.tiles(rows)


def _partial_sums(
    x: Tensor, w: Tensor, geometry: ConvGeometry, tiles: list[tuple[int, int]], mapping: str, squares: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield each tile's partial sums (B, N, *output spatial), and ‖x̂_t‖² broadcastable to them where asked."""
    conv = _CONVS[x.ndim - 2]
    rest: Any = (None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    size, groups = math.prod(w.shape[2:]), geometry.groups
    for a, b in tiles:
        c0, c1 = a // size, -(-b // size)
        mask = _row_mask(w, a, b, c0, c1)
        part, inputs = w[:, c0:c1], _channels(x, c0, c1, groups)
        partial = conv(inputs, part if mask is None else part * mask, *rest)
        norm2 = None
        if squares:
            ones = torch.ones_like(part[:1]) if mask is None else mask.expand_as(part[:1])
            norm2 = conv(inputs**2, ones.repeat(groups, *[1] * (w.ndim - 1)), *rest)
            norm2 = norm2.repeat_interleave(len(w) // groups, 1) if groups > 1 else norm2
        yield partial, norm2


def _row_mask(w: Tensor, a: int, b: int, c0: int, c1: int) -> Tensor | None:
    """Return which rows of channels c0 to c1 belong to the tile of rows a to b; None where all do."""
    size = math.prod(w.shape[2:])
    if a == c0 * size and b == c1 * size:
        return None
    row = torch.arange(c0 * size, c1 * size, device=w.device)
    return ((row >= a) & (row < b)).to(w.dtype).view(1, c1 - c0, *w.shape[2:])


def _channels(x: Tensor, c0: int, c1: int, groups: int, view: bool = False) -> Tensor:
    """Return channels c0 to c1 of each group: (B, groups·(c1-c0), *spatial), or its view with a group dimension."""
    grouped = x.view(len(x), groups, -1, *x.shape[2:])[:, :, c0:c1]
    return grouped if view else grouped.flatten(1, 2)


def _output_spatial(x: Tensor, w: Tensor, geometry: ConvGeometry) -> tuple[int, ...]:
    return tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            x.shape[2:], w.shape[2:], geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )
