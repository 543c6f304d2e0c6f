"""ResNet-14 over its hardware: ADC bits, methods of calibration, tile rows, slices of weights and steps of inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analogsim import analog_layers, calibrate, program, style

from ..common import IMAGES
from .resnet14 import BITS, Device, normalised, ours

DEVICES: tuple[Device, ...] = ("sonos", "rram-milo")
CHIPS = 5
COUNTS, ROWS = (4, 5, 6, 7, 8, 10), (72, 144, 288, 576)
METHODS = {"published": "published", "maximum": "by the maximum", "mse": "of least square error"}
SLICES = {1: None, 2: 4, 4: 2}  # slices of a weight → bits a cell holds, of 7 magnitude bits
STEPS = {1: None, 2: 4, 4: 2}  # steps of an input → bits that are applied in one, of 8
CALIBRATION = 512  # training images
FIGURE = IMAGES / "adc_bits.png"


@dataclass(frozen=True)
class Setting:
    """One hardware: a device's, and what is different.

    Attributes
    ----------
    device : str
    name : str
        Without the device.
    method : str
        By which ranges are found, or "published".
    changes : dict
        As of `HardwareProfile.varied`.
    """

    device: Device
    name: str
    method: str = "published"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """What it is called in the result."""
        return part(self.device, self.name)

    def network(self, folder: Path) -> nn.Module:
        """Return ResNet-14 on it; ranges other than the published ones are calibrated."""
        net = ours(folder, self.device, **self.changes)
        if self.method == "published":
            return net
        for _, layer in analog_layers(net):
            free = {"dac": {"input_range": "calibrated"}, "adc": {"full_scale": "calibrated"}}
            layer.profile = layer.profile.varied(**free)
        with np.load(folder / "cifar10-lossless-subset.npz") as file:
            training = normalised(torch.from_numpy(file["train_images"][:CALIBRATION]))
        program(net, 0)
        calibrate(net, training, self.method, progress=False)  # type: ignore[arg-type]
        return net


def part(device: Device, name: str) -> str:
    """Return what a setting is called in the result."""
    return name if device == "sonos" else f"{device}, {name}"


def settings() -> list[Setting]:
    """Return every hardware that is measured; SONOS also with ranges by the method `noise-aware`."""
    found = []
    for device in DEVICES:
        methods = [*METHODS, *(["noise-aware"] if device == "sonos" else [])]
        found += [Setting(device, f"{n} bits, {how}", how, {"adc": {"bits": n}}) for n in COUNTS for how in methods]
        found += [Setting(device, f"{rows} rows", "published", {"tile": {"rows": rows}}) for rows in ROWS]
        # Sums of each slice and step have another size, and the published ranges are of undivided ones.
        per = {"adc": {"bits": BITS, "per": "slice"}}
        found += [
            Setting(device, f"{n} slices", "mse", {"cells": {"bits": bits}} | per) for n, bits in SLICES.items() if bits
        ]
        if device == "sonos":  # steps of inputs are the same whatever the cells
            found += [
                Setting(device, f"{n} steps", "mse", {"dac": {"step_bits": bits}} | per)
                for n, bits in STEPS.items()
                if bits
            ]
    return found


def draw(parts: dict[str, Sequence[float]], digital: float, path: Path = FIGURE) -> None:
    """Draw accuracy against ADC bits, a panel for each device: mean and standard deviation of chips."""
    with style.picture(path, (9, 4), dpi=110) as figure:
        drawn(parts, digital, figure)


def drawn(parts: dict[str, Sequence[float]], digital: float, figure: Any) -> None:
    """Draw the panels into a figure."""
    titles: dict[Device, str] = {"sonos": "SONOS", "rram-milo": "RRAM (Milo)"}
    for ax, (device, title) in zip(figure.subplots(1, 2), titles.items()):
        ax.axhline(100 * digital, color=style.GREY, linewidth=1, label="digital network")
        for number, (how, label) in enumerate(METHODS.items()):
            values = [100 * np.array(parts[part(device, f"{n} bits, {how}")]) for n in COUNTS]
            mean, spread = [v.mean() for v in values], [v.std(ddof=1) for v in values]
            style.series(ax, style.look(number), COUNTS, mean, spread, label=f"ranges {label}")
        ax.set_title(f"{title}, {len(values[0])} chips", fontsize=10)
        ax.set_xlabel("resolution of the ADCs (bits)")
        ax.set_ylim(0, 100)
        style.axes(ax)
    figure.axes[0].set_ylabel("accuracy on 1,017 images (%)")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
