"""The `numba` backend's recurrent layers: each thread some sequences, through all steps."""

from functools import lru_cache
from typing import get_args

import torch
from torch import Tensor

from ...memory import contiguous, in_rows, room, rows_address
from ...philox import check_extent
from ...recurrence import Cell, Recurrence
from ...spec import Read
from . import jit_recurrent, openmp
from .jit import LANES, OUTPUTS
from .matmul import adc_scalars, dac_scalars, integers, team, words

MOST = 32  # sequences of a block
SUMS = 2**16  # of a block, at least: more sequences read the weights once for more


def recur(w: Tensor, read: Read, what: Recurrence) -> tuple[Tensor, list[Tensor]]:
    """Compute `Backend.recur`."""
    spec, (n, k), batch = read.spec, w.shape, len(what.state[0])
    check_extent(batch * n)
    spec.check_tiles(spec.count_tiles(k))
    x, w, state = (
        contiguous(what.x),
        in_rows(w),
        [part.clone(memory_format=torch.contiguous_format) for part in what.state],
    )
    out = x.new_empty(len(x), k)
    width, blocks = min(spec.rows or k, k), -(-n // LANES)
    packed, index = x.new_empty(blocks * LANES * k), _index(width)
    openmp.run(
        jit_recurrent.pack_kernel,
        min(team(n * k), blocks),
        *(*rows_address(w, n, k), (packed, packed.numel()), n, k, width),
    )
    threads = min(team(batch * n), batch)
    most = min(-(-batch // threads), max(MOST, SUMS // n))
    apart = -(-k // LANES) * LANES + LANES  # no multiple of 4 KiB, which would all have one place in the cache
    lengths = most * apart, (most + OUTPUTS) * n + LANES, most * n, most * n * (spec.noise_read > 0)
    kept, starts = room(x, *(threads * length for length in lengths))
    adc = adc_scalars(spec)
    scale = x.new_ones(n) if read.scale is None else contiguous(read.scale)
    bias = x.new_zeros(n) if read.bias is None else contiguous(read.bias)
    places = integers([number for place in what.places for number in place])
    keys = integers([word for key in what.keys for word in words(*key)])
    cells = state[1] if len(state) > 1 else None
    openmp.run(
        jit_recurrent.recurrent_kernel,
        threads,
        *((x, len(x) * n), (out, len(x) * k), (packed, packed.numel()), (index, width, torch.int32)),
        *((state[0], batch * k), (cells, batch * k), batch, n, k, get_args(Cell).index(what.cell)),
        *(len(what.sizes), (places, places.numel(), torch.int64), (keys, keys.numel(), torch.int64)),
        *(width, most, apart, *starts, dac_scalars(spec), adc, len(adc) // 6, (scale, n), (bias, n)),
    )
    return out, state


@lru_cache(maxsize=64)
def _index(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device="cpu")
