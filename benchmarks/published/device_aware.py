"""A small network of digits, trained plainly and on chips: the device-aware training of CrossSim's ISCA 2024 tutorial.

The tutorial (tutorial/ISCA2024/isca24_codesign.ipynb, part 3) has MNIST, 80 % of whose training images it trains on,
and reports 98.98 % digitally, 93.74 ± 1.15 % on ten chips, and 97.62 ± 0.22 % after training with errors drawn anew at
every step.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from analogsim import HardwareProfile, convert, evaluate, program, to_digital
from analogsim.training.augment import NONE
from analogsim.training.data import DataSet, load_data
from analogsim.training.train import TrainSpec, train

from .kept import Chips, Kept
from .recovery import CHIPS_SEED, OUT, TEST_SEED

SHARE = 0.8  # of the training images, as in the tutorial, which keeps the others for validation
ALPHA, G_MIN = 0.3, 0.1  # 1 kΩ to 10 kΩ
EPOCHS = 200  # of the 1,150 images of digits; the tutorial has 20 of 48,000


def hardware(law: str) -> HardwareProfile:
    """Return the tutorial's hardware: 8-bit weights on differential cells, and errors of programming.

    Parameters
    ----------
    law : {"proportional", "independent"}
        σ = 0.3 of the conductance, or of the largest one. The tutorial says the second, and its switch,
        `proportional_error="False"`, is a string, which is true: so the first is what ran. An independent error may
        take a conductance below 0 there, which a `signed` cell may do here: the two errors of a pair are √2 as large,
        and the range of conductances is 1 - g_min.
    """
    if law == "proportional":
        parts: dict[str, Any] = {"cells": {"mapping": "differential", "g_min": G_MIN}}
        sigma: Any = [0.0, ALPHA]
    else:
        parts, sigma = {}, ALPHA * 2**0.5 / (1 - G_MIN)
    weight, tile = {"bits": 8, "w_max": "tensor"}, {"rows": None, "cols": None}
    return HardwareProfile(name=law, weight=weight, tile=tile, programming={"sigma": sigma}, **parts)


LAWS = ("proportional", "independent")


def network(data: DataSet, seed: int) -> nn.Module:
    """Return the tutorial's network, untrained, for images of any size."""
    torch.manual_seed(seed)
    channels, *size = data.train_x.shape[1:]
    for _ in range(2):
        size = [(n - 3) // 2 + 1 for n in size]
    layers = nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * size[0] * size[1], len(data.classes)))


def rows(data: DataSet, spec: TrainSpec, law: str, chips: int, out: Path) -> dict[str, Any]:
    """Train a network plainly and on chips; return its accuracy digitally, on chips, and on chips after the latter."""
    test = data.normalise(data.test_x), data.test_y
    plain = train(network(data, spec.seed), data, spec, out=out / "plain").model
    on_chips = convert(network(data, spec.seed), hardware(law))
    program(on_chips, TEST_SEED)
    aware = to_digital(train(on_chips, data, spec, out=out / law).model)
    before, after = (
        evaluate(net.eval(), test, profile=hardware(law), chips=chips, seed=CHIPS_SEED, progress=False)
        for net in (plain, aware)
    )
    found = {"digital": before.digital, "plain": list(before.values[0]), "trained": list(after.values[0])}
    return found | {"trained digital": after.digital, "samples": before.samples}


def device_aware(
    data: Annotated[str, typer.Option(help="digits, or MNIST as npz:PATH.")] = "digits",
    epochs: Annotated[int, typer.Option(min=1, help="Of each training; 20 for MNIST, as in the tutorial.")] = EPOCHS,
    seeds: Annotated[int, typer.Option(min=1, help="Networks of each kind.")] = 5,
    chips: Chips = 10,
    out: Annotated[Path, typer.Option(help="Where trainings keep their checkpoints.")] = OUT / "device-aware",
) -> None:
    """Train a small CNN of digits plainly and on chips, with both laws of error, and measure it on other chips."""
    images = load_data(data)
    images = replace(images.subset(train=round(SHARE * len(images.train_y))), label=images.label)
    kept = Kept("device-aware", {"data": images.label, "images": len(images.train_y), "epochs": epochs})
    for part in kept.missing(f"{law}, seed {seed}" for law in LAWS for seed in range(seeds)):
        law, seed = part.split(", seed ")
        spec = TrainSpec(epochs=epochs, lr=1e-3, batch_size=64, augment=NONE, seed=int(seed))
        found = rows(images, spec, law, chips, out / f"{epochs} epochs, seed {seed}")
        kept.keep(part, found)
        typer.echo(
            f"{part}: digital {found['digital']:.4f}, on chips {np.mean(found['plain']):.4f}, trained on chips "
            f"{np.mean(found['trained']):.4f}"
        )
