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

from analogsim import HardwareProfile, analog_layers, calibrate, evaluate, program
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text
from analogsim.terminal.progress import track

from ..common import ROOT, ages_of
from .products import AGES, CHIPS, HARDWARE, PRODUCTS, draw, errors
from .resnet14 import DEVICES, Device, images, normalised, ours

RESULTS = ROOT / "benchmarks" / "results" / "published"
BITS, ROWS = (4, 5, 6, 7, 8, 10), (72, 144, 288, 576)
VARIED_CHIPS = 5
METHODS = ("maximum", "mse", "noise-aware")
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

    Weights are N(0, 0.246²), clipped to [-1, 1]; inputs are uniform in [-1, 1], and half of them 0. Hardware is this
    package's presets with tiles of 512 rows, and two configurations of aihwkit.
    """
    kept = Kept("products")
    for name in kept.missing(f"{anchor}, {hardware}" for anchor in PRODUCTS for hardware in HARDWARE):
        anchor, hardware = name.rsplit(", ", 1)
        (found,) = errors(HARDWARE[hardware](), (PRODUCTS[anchor],), chips).values()
        kept.keep(name, found)
        typer.echo(f"{name}: {np.mean(found):.4f} ± {np.std(found):.4f}")


@app.command()
def products_over_time(chips: Chips = 20) -> None:
    """Measure the relative error of those products on every preset as it is, from its first read to a year after it."""
    kept = Kept("products-over-time")
    for name in kept.missing(CHIPS):
        profile = HardwareProfile.load(name)
        found = errors(profile, ages_of(profile, AGES), chips)
        kept.keep(name, found)
        typer.echo(", ".join([name, *(f"{age}: {np.mean(of):.4f} ± {np.std(of):.4f}" for age, of in found.items())]))
    draw(kept.values["parts"])


if __name__ == "__main__":
    app()
