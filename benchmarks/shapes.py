"""Analog layers of every kind against their digital twins, off the shapes that the kernels were first measured on."""

from collections.abc import Callable

import torch
import typer
from torch import Tensor, nn

from analogsim import convert, cost
from analogsim.bench import Case, compare, threads
from analogsim.kernels import MatmulSpec, Read
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.numba.matmul import accumulate
from analogsim.terminal.progress import track

from .common import Out, Quick, Threads, finish, hardware

ROWS = 256  # of a tile
CACHED = 2**16  # numbers of which the floor converts so many at a time, from a cache
SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "Linear 4096 → 4096, batch 1": (lambda: nn.Linear(4096, 4096), (1, 4096), 1.3),
    "Linear 4096 → 4096, batch 16": (lambda: nn.Linear(4096, 4096), (16, 4096), 1.3),
    "Linear 1024 → 1024, batch 1": (lambda: nn.Linear(1024, 1024), (1, 1024), 1.5),
    "Linear 768 → 768, batch 128": (lambda: nn.Linear(768, 768), (128, 768), 1.3),
    "Linear 768 → 3072, batch 128": (lambda: nn.Linear(768, 3072), (128, 768), 1.3),
    "Linear 1024 → 1024, batch 256": (lambda: nn.Linear(1024, 1024), (256, 1024), 1.2),
    "LSTM 128 → 256, 64 steps, batch 32": (lambda: nn.LSTM(128, 256), (64, 32, 128), 1.4),
    "GRU 128 → 256, 64 steps, batch 32": (lambda: nn.GRU(128, 256), (64, 32, 128), 1.4),
    "RNN 128 → 256, 64 steps, batch 32": (lambda: nn.RNN(128, 256), (64, 32, 128), 1.4),
    "TransformerEncoderLayer 256, 8 × 64 tokens": (
        lambda: nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True),
        (8, 64, 256),
        1.25,
    ),
    "Conv2d 64 → 64, 3×3, 56×56, batch 1": (lambda: nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56), 1.4),
    "Conv2d 512 → 512, 3×3, 7×7, batch 1": (lambda: nn.Conv2d(512, 512, 3, padding=1), (1, 512, 7, 7), 1.4),
    "Conv2d 256 → 256, 1×1, 16×16, batch 32": (lambda: nn.Conv2d(256, 256, 1), (32, 256, 16, 16), 1.3),
    "ConvTranspose2d 64 → 32, 4×4 / 2, 16×16, batch 16": (
        lambda: nn.ConvTranspose2d(64, 32, 4, 2, 1),
        (16, 64, 16, 16),
        1.6,
    ),
    "Conv3d 16 → 32, 3×3×3, 16×16×16, batch 4": (lambda: nn.Conv3d(16, 32, 3, padding=1), (4, 16, 16, 16, 16), 1.6),
    "Conv2d depthwise 128, 3×3, 28×28, batch 16": (
        lambda: nn.Conv2d(128, 128, 3, padding=1, groups=128),
        (16, 128, 28, 28),
        1.4,
    ),
}


def call(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a forward."""
    return lambda: module(x)


def floor(digital: nn.Module, analog: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return what no simulation can leave out: the digital forward, and noise and a conversion of every partial sum.

    The sums are in a cache. What converting inputs takes is left out: they are far fewer.
    """
    profile = hardware(ROWS)
    sums = len(x) * sum(layer.adc_conversions for layer in cost(analog, profile, x).layers)
    spec = MatmulSpec(noise_output=profile.noise.output, adc_bits=profile.adc.bits, adc_full_scale=20.0)
    read, numbers = Read(spec), torch.randn(CACHED)
    out = torch.zeros(CACHED)

    def call() -> None:
        digital(x)
        for left in range(sums, 0, -CACHED):
            count = min(left, CACHED)
            accumulate(out[:count], numbers[:count], None, read, 0)

    return call


def by_steps(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a forward in which recurrent layers read each step by itself."""

    def call() -> None:
        Numba.recurs = False
        try:
            module(x)
        finally:
            Numba.recurs = True

    return call


def case(name: str, count: int, rounds: int) -> Case:
    """Measure a layer's forward in evaluation."""
    make, size, goal = SHAPES[name]
    torch.manual_seed(0)
    digital = make().eval()
    analog = convert(digital, hardware(ROWS)).eval()
    x = torch.randn(*size)
    with threads(count), torch.no_grad():
        calls = {"digital": call(digital, x), "floor": floor(digital, analog, x), "analog": call(analog, x)}
        if isinstance(digital, nn.RNNBase):
            calls["analog, by steps"] = by_steps(analog, x)
        return compare(calls, "digital", rounds, name=name, goals={"analog": goal})


def main(
    quick: Quick = False,
    count: Threads = [1, 2],  # noqa: B006 - typer copies it
    only: str = typer.Option("", help="Only layers whose name has this in it."),
    out: Out = None,
) -> None:
    """Measure the forward of each layer in evaluation, everything on, to that of its digital twin."""
    jobs = [(name, n) for n in count for name in SHAPES if only in name]
    cases = [case(*job, 5 if quick else 25) for job in track(jobs, "Shapes")]
    finish("Layers of every kind", cases, out)


if __name__ == "__main__":
    typer.run(main)
