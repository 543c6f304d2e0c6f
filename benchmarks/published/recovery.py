"""ResNet-14 fine-tuned for simulated hardware: what training gets back of what hardware costs.

Fine-tuned are copies of the network that CrossSim comes with, on images that were re-encoded as JPEG: digitally, which
says what the images alone do; under the noise that V. Joshi et al. trained with; and on each hardware, of which every
step draws a new chip.
"""

import copy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor, nn

from analogsim import HardwareProfile, analog_layers, calibrate, convert, evaluate, program, to_digital
from analogsim.training.augment import Augmentation, cut, draw_crops
from analogsim.training.data import DataSet, load_data
from analogsim.training.train import TrainSpec, train

from ..common import ROOT
from .kept import Chips, Folder, Kept
from .resnet14 import MEAN, STD, Device, ResNet14, folded, images, normalised, profile, settings

CELLS: tuple[Device, ...] = ("sonos", "rram-milo")
PRESETS = ("pcm", "hermes")
CLIPPED = "+clip"
NETWORKS = ("published", "digital", "noise", *CELLS, *PRESETS, *(f"{one}{CLIPPED}" for one in (*CELLS, *PRESETS)))

KINDS: tuple[Literal["lossless", "jpeg"], ...] = ("lossless", "jpeg")

NOISE, CLIP = 0.038, 2.5
"""σ of weights in training, of the layer's largest weight, and where weights are clipped, in their standard deviations:
V. Joshi et al., Nature Communications 11, 2473 (2020), who clip at 2 to 2.5."""
JOSHI = HardwareProfile(name="weight noise", weight={"w_max": "tensor"}, programming={"sigma": NOISE})
SPEC = TrainSpec(epochs=2, lr=1e-3, batch_size=128)
OUT = ROOT / "runs" / "published"
IMAGES = 6000
SEEN, METHOD = 512, "mse"
CHIPS_SEED, TEST_SEED = 1, 2**32
"""Of the chips that networks are measured on, and of the one that a training tests on after each epoch."""


def network(folder: Path) -> nn.Module:
    """Return the trained network in evaluation, with its batch normalisation."""
    net = ResNet14()
    net.load_state_dict(load_file(folder / "resnet14-cifar10.safetensors"))
    return net.eval()


def seen(folder: Path, varied: bool = False) -> Tensor:
    """Return the lossless training images that ranges are calibrated on, and outputs are measured on.

    Statistics of batch normalisation are taken on them `varied`, cropped and mirrored as in training: the network's
    own are those of such images, which have black borders, and without these it loses 2 points digitally.
    """
    with np.load(folder / "cifar10-lossless-subset.npz") as file:
        pixels = torch.from_numpy(file["train_images"][:SEEN])
    if varied:
        crops = draw_crops(len(pixels), torch.Generator().manual_seed(0), Augmentation(crop=4, flip=True))
        pixels = cut(pixels.permute(0, 3, 1, 2), crops).permute(0, 2, 3, 1)
    return normalised(pixels)


def training_data(folder: Path, count: int, tests: int = 500) -> DataSet:
    """Return so many training images of the JPEG copy, normalised as in the network's training."""
    plain, packed = folder / "cifar10.npz", folder / "cifar10-jpeg.npz"
    data = load_data(f"npz:{plain if plain.is_file() else packed}").subset(train=count, test=tests)
    return replace(data, mean=MEAN, std=STD)


def on(net: nn.Module, hardware: str, folder: Path) -> nn.Module:
    """Return a copy on hardware, its ranges calibrated; batch normalisation is behind the crossbars.

    SONOS and RRAM are as CrossSim's tutorial has them, but for the ranges: the published ones belong to the network as
    it was.
    """
    if hardware in PRESETS:
        analog = convert(net, HardwareProfile.load(hardware))
    else:
        cells = cast(Device, hardware)
        rows = {row["layer"]: row for row in settings(folder, cells)}
        analog = convert(net, profile(rows["conv1"], cells))
        for name, layer in analog_layers(analog):
            free = {"dac": {"input_range": "calibrated"}, "adc": {"full_scale": "calibrated"}}
            layer.profile = profile(rows[name], cells).varied(**free)
    calibrate(analog, seen(folder), METHOD, progress=False)
    return analog.eval()


def start(name: str, folder: Path) -> nn.Module:
    """Return the network as a training begins with it: on the hardware that it is trained for."""
    net = network(folder)
    if name == "digital":
        return net
    analog = convert(net, JOSHI) if name == "noise" else on(net, name.removesuffix(CLIPPED), folder)
    program(analog, TEST_SEED)
    return analog


def trained(name: str, folder: Path, data: DataSet, spec: TrainSpec, out: Path) -> nn.Module:
    """Return a fine-tuned network, digital, in evaluation; train it first, or go on, where that is not done.

    Parameters
    ----------
    name : str
        Of `NETWORKS`; "published" is not trained.
    folder : Path
        Of the data.
    data : DataSet
    spec : TrainSpec
    out : Path
        Where each training has a folder for its checkpoint.
    """
    if name == "published":
        return network(folder)
    spec = spec.varied(clip_weights=CLIP) if name == "noise" or name.endswith(CLIPPED) else spec
    net = train(start(name, folder), data, spec, out=out / name).model.eval()
    return to_digital(net) if any(analog_layers(net)) else net


def measured(net: nn.Module, hardware: str, folder: Path, data: Any, chips: int) -> dict[str, Any]:
    """Return a network's accuracy, digitally and on each of several chips.

    On SONOS and RRAM batch normalisation is folded into the weights, as in the tutorial. A training has it apart: it
    holds a network together whose weights move, and is folded in afterwards.
    """
    net = folded(copy.deepcopy(net)) if hardware in CELLS else net
    found = evaluate(on(net, hardware, folder), data, chips=chips, seed=CHIPS_SEED, progress=False)
    return {"samples": found.samples, "digital": found.digital, "accuracy": list(found.values[0])}


def cases() -> list[tuple[str, str]]:
    """Return which network is measured on which hardware."""
    names = {one: ("published", "digital", "noise", one, f"{one}{CLIPPED}") for one in (*CELLS, *PRESETS)}
    return [(name, one) for one, each in names.items() for name in each]


def shown(folder: Path, name: Literal["lossless", "jpeg"], count: int = 10_000) -> tuple[Tensor, Tensor]:
    """Return test images and their classes; of many, every n-th, for they may be sorted by class."""
    x, y = images(folder, name)
    step = max(1, len(y) // count)
    return x[::step], y[::step]


def recovery(
    folder: Folder,
    chips: Chips = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Of each fine-tuning.")] = SPEC.epochs,
    count: Annotated[
        int, typer.Option("--images", min=1, help="Training images of an epoch, the same in all.")
    ] = IMAGES,
    tests: Annotated[int, typer.Option(min=1, help="JPEG test images, of 10,000.")] = 1000,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETWORKS)}; repeatable. Default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Where trainings keep their checkpoints.")] = OUT,
) -> None:
    """Fine-tune ResNet-14 for simulated hardware, and measure it before and after on chips of other seeds."""
    spec = SPEC.varied(epochs=epochs)
    kept = Kept("recovery", {"epochs": epochs, "images": count, "lr": spec.lr, "tests": tests})
    data = training_data(folder, count)
    for hardware, kind, name in product((CELLS, PRESETS), KINDS, NETWORKS if only is None else only):
        wanted = {f"{one}, {where}, {kind}": where for one, where in cases() if one == name and where in hardware}
        if not (missing := kept.missing(wanted)):
            continue
        net, test = trained(name, folder, data, spec, out), shown(folder, kind, tests)
        for part in missing:
            found = measured(net, wanted[part], folder, test, chips)
            kept.keep(part, found)
            typer.echo(f"{part}: {np.mean(found['accuracy']):.4f} ± {np.std(found['accuracy'], ddof=1):.4f}")
