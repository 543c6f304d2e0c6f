"""Published numbers and ours for the same setting: `python -m benchmarks.published ROW`; docs/published.md shows them.

Each row is measured by one command, and each part is kept as soon as it is measured, so that a killed command goes on.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from analogsim import AnalogLinear, HardwareProfile, analog_layers, at_time, calibrate, evaluate, program, set_seed
from analogsim.ages import seconds
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text
from analogsim.terminal.progress import track

from ..common import ROOT
from .resnet14 import DEVICES, Device, images, normalised, ours

RESULTS = ROOT / "benchmarks" / "results" / "published"
BITS, ROWS = (4, 5, 6, 7, 8, 10), (72, 144, 288, 576)
VARIED_CHIPS = 5
METHODS = ("maximum", "mse", "noise-aware")
SIZE, INPUTS = 512, 1000  # of the crossbars whose product error is published
PRODUCTS = {"Le Gallo et al. 2023": "1s", "Rasch et al. 2023": "1h"}
PRESETS = ("pcm", "hermes")
Folder = Annotated[
    Path, typer.Option(help="Of the trained network, its ranges, and cifar10-lossless-subset.npz and cifar10.npz.")
]
Chips = Annotated[int, typer.Option(min=1, help="Chips of each hardware.")]
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Kept:
    """A row's parts, in its file as soon as they are measured."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.json"
        self.values: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those parts that are not measured."""
        return [name for name in names if name not in self.values.get("parts", {})]

    def keep(self, name: str, value: Any) -> None:
        """Write a part down."""
        parts = self.values.get("parts", {}) | {name: value}
        self.values = {"machine": machine(), "commit": commit(), "parts": parts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.values, indent=1) + "\n")


@app.command()
def resnet14(
    folder: Folder,
    chips: Chips = 20,
    only: Annotated[Literal["lossless", "jpeg", "all"], typer.Option(help="Images.")] = "all",
) -> None:
    """Measure ResNet-14 for CIFAR-10 on SONOS and RRAM cells, with the ranges of CrossSim's ISCA 2024 tutorial."""
    kept = Kept("resnet14")
    sets: tuple[Literal["lossless", "jpeg"], ...] = ("lossless", "jpeg") if only == "all" else (only,)
    for name in sets:
        data = images(folder, name)
        for device in kept.missing(f"{name}, {device}" for device in DEVICES):
            what: Device = device.partition(", ")[2]  # type: ignore[assignment]
            found = evaluate(ours(folder, what), data, chips=chips if what in ("sonos", "rram-milo") else 1)
            kept.keep(device, {"samples": found.samples, "digital": found.digital, "accuracy": list(found.values[0])})
            typer.echo(f"{device}: {np.mean(found.values[0]):.4f} ± {np.std(found.values[0]):.4f}")


@app.command()
def resnet14_varied(folder: Folder, chips: Chips = VARIED_CHIPS) -> None:
    """Vary that hardware on SONOS cells: ADC bits, tile rows, and methods of calibration; lossless images."""
    kept, data = Kept("resnet14-varied"), images(folder)
    with np.load(folder / "cifar10-lossless-subset.npz") as file:
        x = torch.from_numpy(file["train_images"][:512])
    training = normalised(x)
    for bits in track(kept.missing(f"{bits} bits, {how}" for bits in BITS for how in ("published", *METHODS)), "Bits"):
        count, how = bits.split(" bits, ")
        net = ours(folder, "sonos", adc={"bits": int(count)})
        if how != "published":
            for _, layer in analog_layers(net):
                free = {"dac": {"input_range": "calibrated"}, "adc": {"full_scale": "calibrated", "bits": int(count)}}
                layer.profile = layer.profile.varied(**free)
            program(net, 0)
            calibrate(net, training, how, progress=False)  # type: ignore[arg-type]
        kept.keep(bits, list(evaluate(net, data, chips=chips, progress=False).values[0]))
    for rows in track(kept.missing(f"{rows} rows" for rows in ROWS), "Rows"):
        net = ours(folder, "sonos", tile={"rows": int(rows.split()[0])})
        kept.keep(rows, list(evaluate(net, data, chips=chips, progress=False).values[0]))


@app.command()
def products(chips: Chips = 20) -> None:
    """Measure the relative error of products on 512 × 512 crossbars of PCM.

    Weights are N(0, 0.246²), clipped to [-1, 1]; inputs are uniform in [-1, 1], and half of them 0.
    """
    kept = Kept("products")
    generator = torch.Generator().manual_seed(0)
    weight = (0.246 * torch.randn(SIZE, SIZE, generator=generator)).clamp(-1, 1)
    x = torch.rand(INPUTS, SIZE, generator=generator) * 2 - 1
    x *= torch.rand(INPUTS, SIZE, generator=generator) < 0.5
    exact = x @ weight.T
    for name in kept.missing(f"{anchor}, {preset}" for anchor in PRODUCTS for preset in PRESETS):
        anchor, preset = name.rsplit(", ", 1)
        profile = HardwareProfile.load(preset).varied(tile={"rows": SIZE})
        layer = AnalogLinear(SIZE, SIZE, bias=False, profile=profile).eval()
        with torch.no_grad():
            layer.weight.copy_(weight)
            calibrate(layer, x, progress=False)
            errors = []
            for chip in range(chips):
                program(layer, chip)
                at_time(layer, seconds(PRODUCTS[anchor]))
                set_seed(layer, chip)
                errors.append(float((layer(x) - exact).norm() / exact.norm()))
        kept.keep(name, errors)
        typer.echo(f"{name}: {np.mean(errors):.4f} ± {np.std(errors):.4f}")


if __name__ == "__main__":
    app()
