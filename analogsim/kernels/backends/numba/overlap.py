"""Patches of transposed convolutions by the numba backend: each thread its images' channels, one in cache at a time."""

import math

import torch
from torch import Tensor

from ...memory import contiguous, room
from ...overlap import Overlap
from . import jit, openmp
from .matmul import integers, team


@torch.no_grad()
def add_patches(products: Tensor, bias: Tensor | None, overlap: Overlap) -> Tensor:
    """Compute `overlap.add_patches`."""
    products, missing = contiguous(products), 3 - len(overlap.kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    inputs, kernel, stride, dilation, full, outputs = (
        ones + tuple(part)
        for part in (overlap.inputs, overlap.kernel, overlap.stride, overlap.dilation, overlap.full, overlap.outputs)
    )
    padding = zeros + overlap.padding
    out = products.new_empty(overlap.shape(products))
    # What is added up of one channel: its columns apart by what remains of them in strides, as long as the output.
    deep, high, wide = (max(f, o + p) for f, o, p in zip(full, outputs, padding, strict=True))
    held = deep, high, -(-wide // stride[2]) + jit.LANES
    sizes = integers([*out.shape[:2], *inputs, *outputs, *kernel, *stride, *padding, *dilation, *held])
    threads = team(products.numel())
    # Whole rows of zeros are written.
    sums = -(-math.prod(held) * stride[2] // jit.LANES) * jit.LANES
    lengths = sums, -(-math.prod(kernel) // jit.LANES) * jit.LANES**2
    kept, starts = room(out, *(threads * length for length in lengths))
    openmp.run(
        jit.overlap_kernel,
        threads,
        *((products, products.numel()), (out, out.numel()), (sizes, 23, torch.int64)),
        *((None if bias is None else contiguous(bias), out.shape[1]), *starts, *lengths),
    )
    return out
