"""What the parts of a device cost: AnalogLinear with each, against one matmul."""

import torch
import typer
from torch import nn

from analogsim import HardwareProfile, convert, program, set_seed
from analogsim.bench import Case, compare, threads

from .common import Out, Quick, Threads, finish, hardware

M, K, N, ROWS = 4096, 576, 64, 256
PAIRS = {"cells": {"mapping": "differential"}, "programming": {"sigma": 0.02}, "drift": {"nu": 0.05}}
PARTS: dict[str, dict] = {
    "converters and noise only": {},
    "pairs of cells, programmed and aged": PAIRS,
    "1/f noise of cells": {"flicker": {"amplitude": 0.01}},
    "weights in two slices": {"weight": {"bits": 8}, "cells": {"bits": 4}},
    "inputs in two steps": {"dac": {"step_bits": 4}},
    "ADC with gain and offset errors": {"adc": {"gain_error": 0.01, "offset_error": 0.01}},
    "SAR ADC, mismatched": {"adc": {"kind": "sar", "capacitor_mismatch": 0.01}},
    "ramp ADC, mismatched": {"adc": {"kind": "ramp", "capacitor_mismatch": 0.01}},
    "Laplace noise": {"noise": {"distribution": "laplace"}},
    "ADC offsets that wander": {"noise": {"wander": 0.1}},
}


def main(quick: Quick = False, count: Threads = [1], out: Out = None) -> None:  # noqa: B006
    """Measure the forward of 4096 rows of 576 by 64 columns on one chip, tiles of 256 rows, to torch.matmul."""
    cases: list[Case] = []
    x, digital = torch.randn(M, K), nn.Linear(K, N, bias=False)
    for n in count:
        calls = {"torch.matmul": lambda: x @ digital.weight.T}
        for name, part in PARTS.items():
            profile: HardwareProfile = hardware(ROWS).varied(**part)
            layer = convert(digital, profile).eval()
            program(layer, 1)
            set_seed(layer, 1)
            calls[name] = lambda layer=layer: layer(x)
        with threads(n), torch.no_grad():
            cases.append(compare(calls, "torch.matmul", 2 if quick else 21, name=f"{M} × {K} → {N}, tile {ROWS}"))
    finish("Parts of a device", cases, out)


if __name__ == "__main__":
    typer.run(main)
