"""The paper's LeNet-5 and ResNet-18 on every shipped profile: accuracy against a chip's age, and against ADC bits."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from analogsim import HardwareProfile, at_time, calibrate, convert, presets, program, set_seed, style
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text
from analogsim.terminal.progress import track
from analogsim.training.data import DataSet, load_data
from analogsim.training.train import TrainSpec, accuracy, train
from models.lenet import LeNet5
from models.resnet import ResNet18

from .common import IMAGES, ROOT

RESULT = ROOT / "benchmarks" / "results" / "presets.json"
DATA = "npz:../shared/data/cifar10-jpeg.npz"
AGES = {"1 s": 1.0, "1 hour": 3600.0, "1 day": 86400.0, "1 month": 2.6e6, "1 year": 3.15e7}
BITS = range(3, 11)
CHIPS = 3
# As the reduced studies train them: all images for LeNet-5, a tenth for ResNet-18.
NETWORKS = {
    "LeNet-5": (LeNet5, {}, TrainSpec(epochs=10), None),
    "ResNet-18": (ResNet18, {"batch_norm": True}, TrainSpec(epochs=6, lr=1e-3), 5000),
}


def measure(network: nn.Module, profile: HardwareProfile, data: DataSet, chip: int, age: float) -> float:
    """Return the test accuracy of one chip of some age; ranges by the 99.9th percentile of 256 training images.

    Where inputs cannot be negative, the first layer, which sees normalised images, stays digital.
    """
    torch.manual_seed(chip)
    first = next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    analog = convert(network, profile, keep_digital=() if profile.dac.signed else first).eval()
    calibrate(analog, [data.normalise(data.train_x[:256])], "percentile", progress=False)
    program(analog, chip)
    at_time(analog, age)
    set_seed(analog, chip)
    return accuracy(analog, data)


def main(
    name: Annotated[str, typer.Option("--data", help="Data set.")] = DATA,
    images: Annotated[int, typer.Option(help="Test images.")] = 500,
    runs: Annotated[Path, typer.Option(help="Where trainings are kept, and resumed from.")] = Path("runs/presets"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write.")] = RESULT,
) -> None:
    """Train both networks, put them on three chips of every profile, and draw accuracy against age and ADC bits."""
    report: dict = {"machine": machine(), "commit": commit(), "images": images, "chips": CHIPS, "networks": {}}
    partial = runs / "partial.json"
    if partial.is_file():
        report["networks"] = json.loads(partial.read_text(encoding="utf-8"))
    for title, (factory, arguments, spec, subset) in NETWORKS.items():
        data = load_data(name).subset(train=subset, test=images)
        torch.manual_seed(spec.seed)
        network = train(factory(**arguments), data, spec, out=runs / title).model.eval()
        empty = {"digital": accuracy(network, data), "label": data.label, "age": {}, "adc.bits": {}}
        found = report["networks"].setdefault(title, empty)
        for preset in track(presets(), title):
            if preset in found["age"]:
                continue
            profile = HardwareProfile.load(preset)
            chips = range(CHIPS if profile.is_drawn or profile.noise.output or profile.noise.read else 1)
            ages = AGES if profile.drift.is_on else {"1 s": 1.0}
            if profile.adc.bits is not None:
                found["adc.bits"][preset] = {
                    str(bits): [measure(network, profile.varied(adc={"bits": bits}), data, chip, 1.0) for chip in chips]
                    for bits in BITS
                }
            found["age"][preset] = {
                label: [measure(network, profile, data, chip, seconds) for chip in chips]
                for label, seconds in ages.items()
            }
            write_text(partial, json.dumps(report["networks"]))
    write_text(out, json.dumps(report, indent=1) + "\n")
    draw(report, IMAGES / "presets.png")


def draw(report: dict, path: Path) -> None:
    """Draw a row of two pictures a network."""
    with style.picture(path, (11, 4 * len(report["networks"])), dpi=110) as figure:
        drawn(report, figure)


def drawn(report: dict, figure: Any) -> None:
    """Draw the rows into a figure."""
    parts = [values for found in report["networks"].values() for values in (found["age"], found["adc.bits"])]
    names = [name for name in presets() if any(name in part for part in parts)]
    axes = figure.subplots(len(report["networks"]), 2, sharey="row", squeeze=False)
    for row, (title, found) in zip(axes, report["networks"].items()):
        for ax, what, label in zip(row, ("age", "adc.bits"), ("age of the chip t", "resolution of the ADC (bits)")):
            style.axes(ax)
            for number, preset in enumerate(names):
                points = found[what].get(preset)
                if not points:
                    continue
                places = [list(AGES).index(key) for key in points] if what == "age" else [int(key) for key in points]
                means = [sum(values) / len(values) for values in points.values()]
                if len(places) == 1:  # does not age
                    places, means = list(range(len(AGES))), means * len(AGES)
                look = style.look(number)
                ax.plot(places, means, **look.line, markersize=5, linewidth=1.3, label=preset)
                for place, values in zip(places, points.values()):
                    ax.plot([place] * len(values), values, ".", color=look.color, markersize=3)
            ax.axhline(found["digital"], color=style.GREY, linewidth=0.8)
            ax.set_xlabel(label)
            if what == "age":
                ax.set_xticks(range(len(AGES)), list(AGES))
        row[0].set_ylabel("accuracy (fraction)")
        row[0].set_title(f"{title}, {found['label']}")
        row[1].set_title("3 chips each (small dots); grey line: digital")
    named = {text: handle for ax in axes.flat for handle, text in zip(*ax.get_legend_handles_labels())}
    shown = [named[name] for name in names], names
    figure.legend(*shown, loc="outside lower center", ncols=5, frameon=False, fontsize=9)


if __name__ == "__main__":
    typer.run(main)
