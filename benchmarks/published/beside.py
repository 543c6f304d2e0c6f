"""CrossSim and analogsim on the same images, network, ranges and cells: agreement, accuracies of chips, and times."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from analogsim import analog_layers, program
from analogsim.bench import threads

from .resnet14 import Device

BATCH = 64  # images, as in the tutorial
BESIDE: dict[Device, str] = {"ideal cells": "ideal cells", "sonos": "SONOS", "rram-milo": "RRAM (Milo)"}
EQUAL = 3  # chips of ideal cells, which are measured for their times alone


def part(device: Device, batch: int, count: int, number: int) -> str:
    """Return what a chip's measurement is called in the result."""
    return f"{device}, batches of {batch}, {count} thread{'s' if count > 1 else ''}, chip {number}"


@torch.no_grad()
def agreement(theirs: nn.Module, ours: nn.Module, images: Tensor) -> dict[str, Any]:
    """Compare two networks whose cells have no errors.

    Returns
    -------
    dict
        `layers`: ‖theirs - ours‖/‖theirs‖ of each layer's outputs, both layers given what ours gets in our network;
        `logits`: of the whole networks; `equal`: in how many `images` they say the same class.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name, _ in analog_layers(ours)}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: inputs[name].append(given[0])

    hooks = [layer.register_forward_pre_hook(noting(name)) for name, layer in analog_layers(ours)]
    mine = torch.cat([ours(x) for x in images.split(BATCH)])
    for hook in hooks:
        hook.remove()
    other = torch.cat([theirs(x) for x in images.split(BATCH)])
    layers = {}
    for name, layer in analog_layers(ours):
        peer = theirs.get_submodule(name)
        pairs = [(peer(x), layer(x)) for x in inputs.pop(name)]
        layers[name] = relative(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))
    equal = int((other.argmax(1) == mine.argmax(1)).sum())
    return {"layers": layers, "logits": relative(other, mine), "equal": equal, "images": len(images)}


def relative(a: Tensor, b: Tensor) -> float:
    """Return ‖a - b‖/‖a‖."""
    return float((a - b).norm() / a.norm())


@torch.no_grad()
def chip(
    theirs: nn.Module,
    reprogram: Callable[[nn.Module], None],
    ours: nn.Module,
    data: tuple[Tensor, Tensor],
    number: int,
    count: int,
    batch: int = BATCH,
) -> dict[str, dict[str, float]]:
    """Program a chip of each simulator, number `number`, and read all images on `count` threads.

    They take turns in being first. What each needs for a first call is done before, on a few images.

    Returns
    -------
    dict
        Of each simulator `seconds`, for programming and reading together, and `accuracy`.
    """
    images, classes = data

    def there() -> None:
        np.random.seed(number)  # noqa: NPY002 - CrossSim draws from NumPy's global generator
        reprogram(theirs)

    def here() -> None:
        program(ours, number)

    found = {}
    jobs = [("CrossSim", there, theirs), ("analogsim", here, ours)]
    with threads(count), threadpool_limits(count, "blas"):  # CrossSim multiplies by NumPy
        for _, prepare, net in jobs:
            prepare()
            net(images[:8])
        for name, prepare, net in jobs[:: -1 if number % 2 else 1]:
            start = perf_counter()
            prepare()
            said = torch.cat([net(x).argmax(1) for x in images.split(batch)])
            seconds = perf_counter() - start
            found[name] = {"seconds": seconds, "accuracy": float((said == classes).float().mean())}
    return found
