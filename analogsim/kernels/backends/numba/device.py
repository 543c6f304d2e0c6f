"""What a chip's ADCs and bit lines ask of the CPU beyond the plain product: one fused pass here, too."""

import math

import torch
from torch import Tensor

from ...clips import Clips
from ...conversion import Conversion, Lines
from ...memory import contiguous, in_rows, room, rows_address
from ...philox import check_extent
from ...spec import MatmulSpec, Read
from . import jit, openmp
from .adcs import ADCs, adcs
from .matmul import (
    BLOCK,
    FEW_OUTPUTS,
    INPUTS,
    ROWS,
    adc_scalars,
    dac_scalars,
    finishing_rows,
    integers,
    kept_floats,
    kept_integers,
    key_words,
    team,
    words,
)

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
        *(count, offset, adc_scalars(read.spec), key_words(read.seed, read.stream), tile),
        *((integers(own.addresses), 10, torch.int64), (own.levels, 8)),
        *((_sizes(own, columns, positions, distribution), 6, torch.int64), first),
        (clipped, 8 * threads, torch.int64),
    )
    return 0 if clipped is None else int(clipped.sum())


@torch.no_grad()
def smooth(white: Tensor, rho: float, amplitude: float) -> Tensor:
    """Compute `reference.smooth` in place; white (times, N) is contiguous."""
    (times, columns), threads = white.shape, team(white.numel())
    law = torch.tensor([rho, math.sqrt(1 - rho**2)], dtype=torch.float64, device="cpu")
    sizes = (white, white.numel()), times, columns
    openmp.run(jit.smooth_kernel, threads, *sizes, (law, 2, torch.float64), kept_floats(amplitude))
    return white


def _sizes(own: ADCs, columns: int, positions: int, distribution: str) -> Tensor:
    return kept_integers(columns, positions, own.depth, own.stride, own.comparisons, DISTRIBUTIONS.index(distribution))


@torch.no_grad()
def read_lines(x: Tensor, lines: Lines, read: Read) -> tuple[Tensor, Clips | None] | None:
    """Compute `Backend.read_lines`."""
    spec, (m, k), n = read.spec, x.shape, len(lines.weights[0])
    if lines.distribution not in DISTRIBUTIONS or not m * k * n:
        return None
    check_extent(m * n)
    tiles, threads, steps = len(spec.tiles(k)), team(m * max(k, n)), len(lines.steps)
    spec.check_tiles(tiles)
    width, count = min(spec.rows or k, k), len(lines.weights)
    x, out = in_rows(x), x.new_empty(m, n)
    weights = [in_rows(w) for w in lines.weights]
    variances = [None if v is None else in_rows(v) for v in lines.variances]
    of_cells = any(v is not None for v in variances)
    clips = Clips.none(tiles, out) if read.records else None
    counts = x.new_zeros(threads, tiles, dtype=torch.int64)
    most = min(max(ROWS, BLOCK // 2 // max(n, width)), -(-m // threads) + 16)
    group = min(k, max(1, INPUTS // (most * width * steps)) * width)
    several_reads = count * steps > 1
    apart = several_reads or lines.registers is not None or lines.coefficients[0] * lines.steps[0] != 1
    converts = spec.dac_levels > 0 or spec.input_range != 1
    outputs = threads * most * n
    kept, starts = room(
        x,
        threads * steps * most * group * converts,
        threads * most * width * of_cells,
        threads * most * (spec.noise_read > 0),
        outputs,
        outputs * (of_cells or spec.noise_read > 0),
        outputs * (n < FEW_OUTPUTS),
        outputs * count * steps * apart,
    )
    period, gains, offsets = finishing_rows(m, n, read)
    slow = None if lines.slow is None else lines.slow()
    adcs_of_all, levels, sizes = _tables(lines, n)
    noise, matrices = list[float](), list[int]()
    for w, v in zip(weights, variances, strict=True):
        noise += spec.noise_output, 1.0 if spec.noise_read or v is not None else 0.0, spec.noise_multiplicative
        matrices += *rows_address(w, n, k), *((0, 0) if v is None else rows_address(v, n, k))
    keys = integers([words(seed, read.stream) for seed in lines.seeds])
    factors = [c * d for c in lines.coefficients for d in lines.steps]
    base = 0 if lines.step_bits is None else 2**lines.step_bits
    registers = None if lines.registers is None else kept_floats(*(end for ends in lines.registers for end in ends))
    planes = -(-tiles // 8)
    openmp.run(
        jit.lines_kernel,
        threads,
        *(*rows_address(x, m, k), (out, m * n), m, k, n, width, most, group, converts, count, steps, base, *starts),
        *(dac_scalars(spec), (kept_integers(*matrices), 4 * count, torch.int64)),
        *(kept_floats(*noise), (keys, 4 * count * steps, torch.int64)),
        *((adcs_of_all, 10 * tiles * count * steps, torch.int64), (levels, 8 * tiles * count * steps)),
        *(
            (sizes, 6 * tiles * count * steps, torch.int64),
            kept_floats(*factors),
            0 if registers is None else registers,
            registers is not None,
        ),
        (None if clips is None else clips.bits, planes * m * n, torch.uint8),
        *((counts, threads * tiles, torch.int64), period, (gains, period), (offsets, period)),
        *(kept_floats(spec.noise_read), (slow, count * steps * tiles * m * n)),
    )
    if clips is None:
        return out, None
    # A conversion that clips in several lines or steps is one output's.
    found = None if several_reads or lines.registers is not None else counts.sum(0).tolist()
    return out, Clips(clips.bits, tiles, found)


def _tables(lines: Lines, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the tables of all lines', steps' and tiles' ADCs are, their levels and their sizes, made once."""
    held, name = lines.conversions.prepared, f"numba {lines.distribution}"
    if name not in held:
        own = [adcs(conversion, n, True) for conversion in lines.conversions.each]
        sizes = torch.stack([_sizes(adc, n, 1, lines.distribution) for adc in own])
        # With what the addresses are of: another thread may have put the same things elsewhere.
        held[name] = integers([adc.addresses for adc in own]), torch.stack([adc.levels for adc in own]), sizes, own
    return held[name][:3]
