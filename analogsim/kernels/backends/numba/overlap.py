"""Transposed convolutions by the numba backend: each thread its images, or their channels, one in cache at a time."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ...memory import contiguous, in_rows, room, rows_address
from ...overlap import Overlap
from ...philox import check_extent
from ...spec import Read
from . import jit, openmp
from .matmul import adc_scalars, dac_scalars, finishing, integers, key_words, team

PRODUCTS = 2**17  # of some rows of an image: half the second-level cache


@torch.no_grad()
def add_patches(products: Tensor, bias: Tensor | None, overlap: Overlap) -> Tensor:
    """Compute `overlap.add_patches`."""
    products, out = contiguous(products), products.new_empty(overlap.shape(products))
    sizes, *lengths = _walk(overlap, *out.shape[:2])
    threads = team(products.numel())
    kept, starts = room(out, *(threads * length for length in lengths))
    openmp.run(
        jit.overlap_kernel,
        threads,
        *((products, products.numel()), (out, out.numel()), (sizes, 23, torch.int64)),
        *((None if bias is None else contiguous(bias), out.shape[1]), *starts, *lengths),
    )
    return out


@torch.no_grad()
def convolve_transposed(x: Tensor, w: Tensor, bias: Tensor | None, overlap: Overlap, read: Read) -> Tensor | None:
    """Compute `Backend.convolve_transposed`: images by themselves, so that each thread has one."""
    spec, (images, k), columns = read.spec, x.shape[:2], len(w)
    n, threads = columns // math.prod(overlap.kernel), team(x.numel() * columns // k)
    if read.records or spec.noise_read or images < threads:
        return None
    check_extent(images * math.prod(overlap.inputs) * columns)
    spec.check_tiles(spec.count_tiles(k))
    x, w, out = contiguous(x), in_rows(w), x.new_empty(images, n, *overlap.outputs)
    sizes, channel, patches = _walk(overlap, images, n)
    wide = overlap.inputs[-1]
    rows = min(math.prod(overlap.inputs) // wide, max(1, PRODUCTS // (columns * wide)))
    count, adc = rows * wide, adc_scalars(spec)
    lengths = k * count, count * columns, count * columns, n * channel, patches
    kept, starts = room(out, *(threads * length for length in lengths))
    gains, offsets = finishing(columns, read)
    openmp.run(
        jit.transposed_kernel,
        threads,
        *((x, x.numel()), *rows_address(w, columns, k), (out, out.numel()), (sizes, 23, torch.int64)),
        *(k, min(spec.rows or k, k), rows, *starts, *lengths),
        *(dac_scalars(spec), adc, key_words(read.seed, read.stream), len(adc) // 6),
        *(0 if gains is None else columns, (gains, columns), (offsets, columns)),
        (None if bias is None else contiguous(bias), n),
    )
    return out


@lru_cache(maxsize=256)
def _walk(overlap: Overlap, images: int, outputs: int) -> tuple[Tensor, int, int]:
    """Return the kernels' `sizes`, and how many numbers a channel's sums and turned patches are."""
    missing = 3 - len(overlap.kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    inputs, kernel, stride, dilation, full, results = (
        ones + tuple(part)
        for part in (overlap.inputs, overlap.kernel, overlap.stride, overlap.dilation, overlap.full, overlap.outputs)
    )
    padding = zeros + tuple(overlap.padding)
    # What is added up of one channel: its columns apart by what remains of them in strides, as long as the output.
    deep, high, wide = (max(f, o + p) for f, o, p in zip(full, results, padding, strict=True))
    held = deep, high, -(-wide // stride[2]) + jit.LANES
    sizes = integers([images, outputs, *inputs, *results, *kernel, *stride, *padding, *dilation, *held])
    # Whole rows of zeros are written.
    sums = -(-math.prod(held) * stride[2] // jit.LANES) * jit.LANES
    return sizes, sums, -(-math.prod(kernel) // jit.LANES) * jit.LANES**2
