"""AnalogConv2d against nn.Conv2d, on the layers of VGG-11 and ResNet-18 for 32×32 images: time and memory."""

import subprocess
import sys
from typing import Annotated, Any

import torch
import typer
from torch import nn

from analogsim import convert
from analogsim.bench import Case, compare, threads
from analogsim.errors import DataError
from analogsim.terminal.progress import track

from .common import Out, Quick, Threads, finish, hardware

# (channels, outputs, kernel, stride, image size), each once.
VGG11 = [
    (3, 64, 3, 1, 32),
    (64, 128, 3, 1, 16),
    (128, 256, 3, 1, 8),
    (256, 256, 3, 1, 8),
    (256, 512, 3, 1, 4),
    (512, 512, 3, 1, 4),
    (512, 512, 3, 1, 2),
]
RESNET18 = [
    (64, 64, 3, 1, 32),
    (64, 128, 3, 2, 32),
    (64, 128, 1, 2, 32),
    (128, 128, 3, 1, 16),
    (128, 256, 3, 2, 16),
    (128, 256, 1, 2, 16),
    (256, 512, 3, 2, 8),
    (256, 512, 1, 2, 8),
]
GOAL = 1.5
MEMORY_GOAL = 2.0
BATCH = 128


def layer(channels: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return the digital layer."""
    return nn.Conv2d(channels, outputs, kernel, stride, kernel // 2)


def name(shape: tuple[int, ...], rows: int) -> str:
    """Name a case."""
    channels, outputs, kernel, stride, size = shape
    return (
        f"{channels} → {outputs}, {kernel}×{kernel}{f' / {stride}' if stride > 1 else ''}, {size}×{size}, tile {rows}"
    )


def speed(shape: tuple[int, ...], rows: int, count: int, quick: bool) -> Case:
    """Measure a layer's forward."""
    digital = layer(*shape[:4])
    analog = convert(digital, hardware(rows))
    x = torch.randn(BATCH, shape[0], shape[4], shape[4])
    calls = {"nn.Conv2d": lambda: digital(x), "AnalogConv2d": lambda: analog(x)}
    facts: dict[str, Any] = dict(zip(("channels", "outputs", "kernel", "stride", "size"), shape)) | {"rows": rows}
    with threads(count), torch.no_grad():
        goals = {"AnalogConv2d": GOAL}
        return compare(calls, "nn.Conv2d", 2 if quick else 11, name=name(shape, rows), shape=facts, goals=goals)


def peak(shape: tuple[int, ...], rows: int) -> float:
    """Return the most memory, MiB, that a forward and backward takes above what was there before; Linux only.

    Writing 5 to clear_refs sets the process's record of its peak back to what it holds now.
    """
    x = torch.randn(BATCH, shape[0], shape[4], shape[4], requires_grad=True)
    module = layer(*shape[:4])
    if rows:
        module = convert(module, hardware(rows))
    module(x[:2]).sum().backward()  # libraries loaded, kernels compiled
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    module(x).sum().backward()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def memory(shape: tuple[int, ...], rows: int) -> Case:
    """Measure the peaks of a digital and an analog layer, each in fresh processes."""

    def run(tile: int) -> float:
        code = f"from benchmarks.layers import peak; print(peak({shape}, {tile}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(f"memory of {name(shape, rows)}: {done.stderr.strip().splitlines()[-1]}")
        return float(done.stdout)

    calls = {"nn.Conv2d": lambda: run(0), "AnalogConv2d": lambda: run(rows)}
    return compare(
        calls,
        "nn.Conv2d",
        1,
        name=f"memory of {name(shape, rows)}",
        warmup=0,
        goals={"AnalogConv2d": MEMORY_GOAL},
        unit="MiB",
        measure=lambda call: call(),
    )


def main(
    quick: Quick = False,
    count: Threads = [1, 2],  # noqa: B006 - typer copies it
    rows: Annotated[list[int], typer.Option(help="Rows of a tile; repeatable.")] = [256, 512],  # noqa: B006
    out: Out = None,
) -> None:
    """Measure AnalogConv2d's forward (goal: 1.5 times nn.Conv2d's), and memory with backward (goal: 2)."""
    jobs = [(shape, tile, n) for n in count for tile in rows for shape in VGG11 + RESNET18]
    cases = [speed(*job, quick) for job in track(jobs[:3] if quick else jobs, "Layers")]
    if sys.platform == "linux":
        largest = [(64, 64, 3, 1, 32), (128, 128, 3, 1, 16), (512, 512, 3, 1, 4)]
        cases += [memory(shape, rows[0]) for shape in track(largest[:1] if quick else largest, "Memory")]
    finish("Convolutions", cases, out)


if __name__ == "__main__":
    typer.run(main)
