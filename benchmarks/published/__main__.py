"""Published numbers and ours for the same setting: `python -m benchmarks.published ROW`; docs/published.md shows them.

Each row is measured by one command, and each part is kept as soon as it is measured, so that a killed command goes on.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from analogsim import HardwareProfile, evaluate
from analogsim.terminal.progress import track

from ..common import Threads, ages_of
from . import beside, device_aware, elsewhere, macros, over_time, recovery, varied
from . import dft as fourier
from .kept import Chips, Folder, Kept
from .products import AGES, CHIPS, HARDWARE, PRODUCTS, draw, errors
from .resnet14 import DEVICES, Device, images, ours
from .resnet14 import crosssim as their_network

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


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
def resnet14_varied(folder: Folder) -> None:
    """Vary that hardware: ADC bits, calibration, tile rows, slices of weights, steps of inputs; lossless images."""
    kept, data = Kept("resnet14-varied"), images(folder)
    wanted = {setting.part: setting for setting in varied.settings()}
    for name in track(kept.missing(wanted), "Settings"):
        setting = wanted[name]
        found = evaluate(setting.network(folder), data, chips=varied.CHIPS, progress=False)
        kept.keep(name, list(found.values[0]))
    varied.draw(kept.values["parts"], evaluate(ours(folder, "digital"), data).digital)


@app.command()
def crosssim(
    folder: Folder,
    chips: Chips = 10,
    count: Annotated[int, typer.Option("--images", min=1, help="Of the lossless ones, the first.")] = 1000,
    numbers: Threads = [1, 2],  # noqa: B006 - typer copies it
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; the tutorial's by default.")] = beside.BATCH,
) -> None:
    """Measure CrossSim and this package in one process, where PYTHONPATH leads to CrossSim 3.2: each chip by turns."""
    kept, (x, y) = Kept("crosssim"), images(folder)
    data = x[:count], y[:count]
    for device, title in beside.BESIDE.items():
        theirs, reprogram = their_network(folder, device)
        analog = ours(folder, device)
        for name in kept.missing(["agreement"] if device == "ideal cells" else []):
            kept.keep(name, beside.agreement(theirs, analog, x))
        chips_of = chips if device != "ideal cells" else min(chips, beside.EQUAL)
        jobs = {beside.part(device, batch, n, chip): (chip, n) for chip in range(chips_of) for n in numbers}
        for name in track(kept.missing(jobs), title):
            found = beside.chip(theirs, reprogram, analog, data, *jobs[name], batch)
            kept.keep(name, found | {"images": len(data[0])})


@app.command()
def dft(
    folder: Annotated[Path, typer.Option(help="Of orchid.jpg, from CrossSim's applications/dsp/example_images.")],
    chips: Chips = 50,
) -> None:
    """Measure the errors of Fourier transforms that CrossSim's tutorial prints, on cells with programming errors."""
    kept, picture = Kept("dft"), fourier.image(folder)
    for name in track(kept.missing(fourier.ROWS), "Transforms"):
        kept.keep(name, [fourier.error(fourier.ROWS[name], picture, chip) for chip in range(chips)])


@app.command("macros")
def energies() -> None:
    """Add up what two published accelerators take, and how large they are, from their components."""
    kept = Kept("macros")
    for setting in macros.EFFICIENCIES:
        kept.keep(f"TOPS/W, {setting.title}", macros.OPERATIONS / setting.energy())
    for setting in macros.SHARES:
        kept.keep(f"fJ, {setting.title}", 1000 * setting.energy() / macros.OPERATIONS)
    kept.keep("isaac", macros.isaac())


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


Data = Annotated[Path, typer.Option(help="Where the data is; see docs/published.md.")]
Count = Annotated[int | None, typer.Option("--samples", min=1, help="Of the test data; default: all.")]
On = Annotated[Literal["sonos", "pcm"], typer.Option("--hardware", help="SONOS new, or PCM after an hour.")]


def _elsewhere(name: str, nets: tuple[Any, Any, Any], on: str, chips: int, metric: str = "accuracy") -> None:
    kept = Kept(f"elsewhere-{name}")
    found = elsewhere.measure(*nets, on, chips, metric)
    kept.keep(on, found)
    for title, value in found.items():
        typer.echo(f"{name}, {title}: {np.mean(value):.4f} ± {np.std(value):.4f}" if title != "samples" else f"{value}")


@app.command()
def imagenet(
    folder: Data,
    on: On = "sonos",
    network: Annotated[str, typer.Option(help="As torchvision calls it.")] = "resnet50",
    weights: Annotated[str, typer.Option(help="torchvision's, a file, or none.")] = "IMAGENET1K_V1",
    chips: Chips = 5,
    samples: Count = None,
) -> None:
    """Measure a network of torchvision on ImageNet, for those who have it: digital and on hardware."""
    nets = elsewhere.imagenet(folder, network, None if weights == "none" else weights, samples)
    _elsewhere(f"imagenet-{network}", nets, on, chips)


@app.command()
def glue(
    folder: Data,
    model: Annotated[Path, typer.Option(help="A folder that transformers saved, with its tokenizer.")],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(elsewhere.TASKS)}.")] = "sst2",
    on: On = "pcm",
    chips: Chips = 5,
    samples: Count = None,
) -> None:
    """Measure a classifier of transformers on a task of GLUE, for those who have both: digital and on hardware."""
    _elsewhere(f"glue-{task}", elsewhere.glue(folder, model, task, samples), on, chips)


@app.command()
def ptb(
    folder: Data,
    size: Annotated[int, typer.Option(min=1, help="Of the LSTM's layers.")] = 650,
    epochs: Annotated[int, typer.Option(min=0)] = 40,
    on: On = "pcm",
    chips: Chips = 5,
) -> None:
    """Train an LSTM on the Penn treebank, for those who have it, and measure its perplexity digital and on hardware."""
    _elsewhere("ptb", elsewhere.ptb(folder, size, epochs), on, chips, "perplexity")


app.command()(recovery.recovery)
app.command()(over_time.over_time)
app.command()(device_aware.device_aware)

if __name__ == "__main__":
    app()
