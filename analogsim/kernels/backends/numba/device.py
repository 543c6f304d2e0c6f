"""What a chip's ADCs and bit lines ask of the CPU beyond the plain product: one fused pass here, too."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ...clips import Clips
from ...conversion import Conversion, Lines
from ...memory import contiguous
from ...spec import MatmulSpec, Read
from . import jit, openmp
from .adcs import ADCs, adcs
from .matmul import adc_scalars, integers, key_words, team

DISTRIBUTIONS = ("gaussian", "uniform", "laplace")  # numbers of `jit.reshape_noise`
_QUIET = Read(MatmulSpec())


def convert(
    out: Tensor,
    sums: Tensor,
    limits: tuple[float, float],
    step: float,
    gains: Tensor,
    offsets: Tensor,
    table: tuple[Tensor, Tensor] | None,
    tile: int,
    bits: Tensor | None,
    first: bool,
) -> int:
    """Compute `Backend.convert`; all contiguous."""
    conversion = Conversion(limits, step, gains, offsets, table)
    count = convert_noisy(out, sums, None, _QUIET, conversion, "gaussian", None, tile, 0, bits, first)
    assert count is not None
    return count


@torch.no_grad()
def convert_noisy(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    read: Read,
    conversion: Conversion,
    distribution: str,
    slow: Tensor | None,
    tile: int,
    offset: int = 0,
    bits: Tensor | None = None,
    first: bool = False,
) -> int | None:
    """Compute `Backend.convert_noisy`; all contiguous."""
    if distribution not in DISTRIBUTIONS:
        return None
    count, columns, threads = out.numel(), out.shape[1], team(out.numel())
    positions = math.prod(out.shape[2:])
    squares = contiguous(norm2.expand_as(partial)) if read.spec.noise_read and norm2 is not None else None
    slow = None if slow is None else contiguous(slow)
    clipped = None if bits is None else out.new_zeros(8 * threads, dtype=torch.int64)  # a cache line for each thread
    own = adcs(conversion, columns, positions == 1)
    openmp.run(
        jit.convert_kernel,
        threads,
        *((out, count), (partial, count), (squares, count), (slow, count), (bits, count, torch.uint8)),
        *(count, offset, (adc_scalars(read.spec)[0, :3], 3), (key_words(read.seed, read.stream), 4, torch.int64), tile),
        *((integers(own.addresses), 10, torch.int64), (own.levels, 8)),
        *((_sizes(own, columns, positions, distribution), 6, torch.int64), first),
        (clipped, 8 * threads, torch.int64),
    )
    return 0 if clipped is None else int(clipped.sum())


def _sizes(own: ADCs, columns: int, positions: int, distribution: str) -> Tensor:
    return _kept_integers(columns, positions, own.depth, own.stride, own.comparisons, DISTRIBUTIONS.index(distribution))


@lru_cache(maxsize=256)
def _kept_integers(*values: int) -> Tensor:
    return integers(values)


def read_lines(x: Tensor, lines: Lines, read: Read) -> tuple[Tensor, Clips | None] | None:
    """Compute `Backend.read_lines`."""
    return None
