"""Arrays with gated rows on the CPU: machine code for `circuit.settle`."""

import torch
from torch import Tensor

from ...circuit import STEPS, TOLERANCE, Circuit, refuse
from . import jit_circuit, openmp


@torch.no_grad()
def settle(circuit: Circuit, x: Tensor) -> Tensor:
    """Compute `Backend.settle`."""
    (sides, rows, columns), x = circuit.cells.shape, x.contiguous()
    out = x.new_empty(len(x), columns)
    threads = max(1, min(torch.get_num_threads(), len(x)))
    room = 7 * sides * rows * columns + (2 * sides + 1) * columns + rows  # of each thread
    scratch, failed = x.new_empty(threads * room), x.new_zeros(threads)
    ends = circuit.supply, circuit.supply_terminal, circuit.column, circuit.column_terminal, TOLERANCE
    law = torch.tensor(ends, dtype=torch.float64, device="cpu")
    openmp.run(
        jit_circuit.settle_kernel,
        threads,
        *((circuit.cells, circuit.cells.numel(), torch.float64), (x, x.numel(), torch.float64)),
        *((out, out.numel(), torch.float64), (scratch, scratch.numel(), torch.float64), (law, 5, torch.float64)),
        *((failed, threads, torch.float64), len(x), sides, rows, columns, room, int(circuit.along_rows), STEPS),
    )
    if bool(failed.any()):
        refuse()
    return out
