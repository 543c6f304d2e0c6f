"""What a transposed convolution does after its products: add up, in the output, the patches of all input positions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Overlap:
    """Where the patches of a transposed convolution lie (1 to 3 spatial dimensions), as in conv_transpose2d.

    Attributes
    ----------
    inputs : tuple of int
        Spatial extents of the input: a patch for each position.
    kernel, stride, padding, extra, dilation : tuple of int
        `extra` is the output padding.
    """

    inputs: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    extra: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def full(self) -> tuple[int, ...]:
        """Extents of what all patches cover, before padding is cut off."""
        walk = zip(self.inputs, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in walk)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial extents of the output."""
        ends = zip(self.full, self.padding, self.extra, strict=True)
        return tuple(full - 2 * padding + extra for full, padding, extra in ends)

    def shape(self, products: Tensor) -> tuple[int, ...]:
        """Return the output's shape for products (B·positions, N·kernel)."""
        images, outputs = len(products) // math.prod(self.inputs), products.shape[1] // math.prod(self.kernel)
        return (images, outputs, *self.outputs)


def add_patches(products: Tensor, bias: Tensor | None, overlap: Overlap) -> Tensor:
    """Put every position's patch in its place, add up what overlaps, cut the padding off, and add the bias.

    Parameters
    ----------
    products : Tensor (B·positions, N·kernel)
    bias : Tensor (N,) or None
    overlap : Overlap

    Returns
    -------
    Tensor (B, N, *outputs)
    """
    columns = products.unflatten(0, (-1, *overlap.inputs)).movedim(-1, 1)
    out = _fold(columns, overlap.kernel, overlap.stride, overlap.dilation)
    cuts = zip(overlap.padding[::-1], overlap.extra[::-1], strict=True)
    out = F.pad(out, [n for padding, extra in cuts for n in (-padding, extra - padding)])
    return out if bias is None else out + bias.reshape(-1, *[1] * len(overlap.kernel))


def patches(images: Tensor, overlap: Overlap) -> Tensor:
    """Return what of the output (B, N, *outputs) each position's patch covers, (B·positions, N·kernel).

    It is the adjoint of `add_patches`, so that it makes of the output's gradient that of the products.
    """
    cuts = zip(overlap.padding[::-1], overlap.extra[::-1], strict=True)
    whole = F.pad(images, [n for padding, extra in cuts for n in (padding, padding - extra)]).contiguous()
    (batch, channel), apart = whole.stride()[:2], whole.stride()[2:]
    steps = [a * s for a, s in zip(apart, overlap.stride, strict=True)]
    taps = [a * d for a, d in zip(apart, overlap.dilation, strict=True)]
    size = (len(whole), *overlap.inputs, whole.shape[1], *overlap.kernel)
    windows = whole.as_strided(size, (batch, *steps, channel, *taps), whole.storage_offset())
    return windows.reshape(len(whole) * math.prod(overlap.inputs), -1)


def _fold(columns: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Add up what overlaps of columns (B, N·kernel, *spatial): (B, N, *full)."""
    spatial = columns.shape[2:]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)]
    if len(kernel) == 1:
        return F.fold(columns, (full[0], 1), (kernel[0], 1), (dilation[0], 1), stride=(stride[0], 1)).squeeze(-1)
    if len(kernel) == 2:
        return F.fold(columns.flatten(2), tuple(full), tuple(kernel), tuple(dilation), stride=tuple(stride))
    # Three dimensions: first every depth slice by itself, then along the depth.
    slices = columns.movedim(2, 1).flatten(0, 1)  # (B·D, N·kernel, H, W)
    planes = _fold(slices, kernel[1:], stride[1:], dilation[1:])  # (B·D, N·kd, *full[1:])
    lines = planes.unflatten(0, (-1, spatial[0])).flatten(3).transpose(1, 3).flatten(0, 1)  # (B·A, N·kd, D)
    out = _fold(lines, kernel[:1], stride[:1], dilation[:1])  # (B·A, N, full[0])
    return out.unflatten(0, (len(columns), -1)).movedim(1, -1).unflatten(-1, full[1:])
