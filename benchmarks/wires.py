"""Exact wires: how long it takes to program an array, and to read one whose rows are gated; beside CrossSim if it is
there (`PYTHONPATH=PATH/TO/cross-sim`). `python -m benchmarks.wires` prints both as a table.
"""

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from analogsim.chip.circuit import Ends, transfer
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.circuit import Circuit

RESISTANCE, READS = 1e-5, 16


def seconds(function: Any, repeats: int = 3) -> float:
    """Return the least processor time of some calls: on one thread what a machine of its own would take."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def crosssim(w: np.ndarray) -> Any:
    """Return CrossSim's array with source wires, which it switches inputs of one bit to."""
    import simulator  # pyright: ignore[reportMissingImports]

    params = simulator.CrossSimParameters()
    params.core.style = "BALANCED"
    params.core.mapping.weights.percentile = None
    params.core.mapping.weights.min, params.core.mapping.weights.max = -1.0, 1.0
    params.xbar.device.infinite_on_off_ratio = False
    params.xbar.device.Rmin, params.xbar.device.Rmax = 1e4, 1e5
    parasitics = params.xbar.array.parasitics
    parasitics.enable, parasitics.current_from_input = True, False
    parasitics.Rp_row = parasitics.Rp_col = RESISTANCE * 1e4
    params.simulation.Verr_th_mvm, params.simulation.Niters_max_parasitics = 1e-6, 1000
    dac = params.xbar.dac.mvm
    dac.model, dac.bits, dac.signed, dac.input_bitslicing, dac.slice_size = "QuantizerDAC", 1, False, True, 1
    params.core.mapping.inputs.mvm.percentile = None
    params.core.mapping.inputs.mvm.min, params.core.mapping.inputs.mvm.max = 0.0, 1.0
    return simulator.AnalogCore(w, params=params)


def main() -> None:
    """Print the table."""
    print(f"processor time on one thread; resistance of a segment {RESISTANCE:g}; half of the inputs are 0")
    print("| array | program, s | read along rows, ms | source wires, pairs, ms | CrossSim, the same, ms | apart |")
    print("| --- | --- | --- | --- | --- | --- |")
    backend = Numba()
    torch.set_num_threads(1)
    for size in (128, 256, 512):
        generator = np.random.default_rng(0)
        w, x = generator.uniform(-1, 1, (size, size)), (generator.uniform(0, 1, (READS, size)) < 0.5).astype(float)
        w[0, 0], inputs = 1.0, torch.from_numpy(x)
        sides = [torch.from_numpy(0.1 + 0.9 * np.maximum(sign * w, 0)).T.contiguous() for sign in (1, -1)]
        program = seconds(lambda g=sides[0]: transfer([g], Ends(RESISTANCE, 0, RESISTANCE, 0)), 1)
        along = Circuit(sides[0][None], RESISTANCE, 0, RESISTANCE, 0, along_rows=True)
        pair = [Circuit(g[None], RESISTANCE, 0, RESISTANCE, 0, along_rows=False) for g in sides]
        backend.settle(along, inputs[:1])  # compiled
        rows = seconds(lambda c=along, i=inputs: backend.settle(c, i)) / READS
        source = seconds(lambda p=pair, i=inputs: [backend.settle(c, i) for c in p]) / READS
        theirs, apart = "", ""
        if find_spec("simulator"):
            core = crosssim(w)
            theirs = f"{1e3 * seconds(lambda c=core, i=x: [c.matvec(one) for one in i[:4]]) / 4:.1f}"
            plus, minus = (backend.settle(c, inputs[:1]) for c in pair)
            want = ((plus - minus) / 0.9).numpy()[0]
            apart = f"{np.abs(core.matvec(x[0]) - want).max() / np.abs(want).max():.0e}"
        print(f"| {size}² | {program:.2f} | {1e3 * rows:.2f} | {1e3 * source:.2f} | {theirs} | {apart} |")


if __name__ == "__main__":
    main()
