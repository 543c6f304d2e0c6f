"""Errors of products of 512 × 512 crossbars: of the hardware that was published, and of every preset as it ages."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analogsim import AnalogLinear, HardwareProfile, at_time, calibrate, presets, program, set_seed, style
from analogsim.ages import seconds

from ..common import IMAGES

SIZE, INPUTS = 512, 1000
PRODUCTS = {"Le Gallo et al. 2023": "1s", "Rasch et al. 2023": "1h"}
AGES = ("0", "1h", "1d", "1w", "1mo", "1y")
LABELS = ("fresh", "1 hour", "1 day", "1 week", "1 month", "1 year")
FIGURE = IMAGES / "products.png"
DRAWN = 0.001, 0.36  # errors when new that the figure has room for
STEPS = 32  # points at which the square root of read noise is given


def aihwkit(**parts: Any) -> HardwareProfile:
    """Return aihwkit's PCM cells in tiles of 512 rows, drift compensated: what its configurations share."""
    pcm = HardwareProfile.load("pcm")
    cells = {"programming": pcm.programming, "drift": pcm.drift, "flicker": pcm.flicker}
    common = {"tile": {"rows": SIZE, "cols": None}, "cells": {"mapping": "differential"}}
    return HardwareProfile(**{**common, **cells, **parts})


def inference() -> HardwareProfile:
    """Return `InferenceRPUConfig` as it is without arguments, of aihwkit 1.1 (simulator/parameters/io.py)."""
    return aihwkit(
        name="InferenceRPUConfig",
        dac={"bits": 7, "input_range": "vector"},
        weight={"w_max": 1.0},
        noise={"output": 0.06},
        adc={"bits": 9, "full_scale": 12.0, "bound_management": 4},
    )


def standard() -> HardwareProfile:
    """Return `StandardHWATrainingPreset`, "a standard AIMC noisy inference evaluation setting" by its documentation.

    The noise of reads has the variance 0.0175²·Σ|w|·x² there, so that a cell has σ = 0.0175·√g; wires have 0.35 Ω and
    cells 5 µS.
    """
    points = [i / STEPS for i in range(STEPS + 1)]
    noise = {"g": [i**2 for i in points], "value": [0.0175 * i for i in points], "outside": "hold"}
    return aihwkit(
        name="StandardHWATrainingPreset",
        dac={"bits": 8, "input_range": 1.0},
        weight={"w_max": "column"},
        cells={"mapping": "differential", "read_noise": noise},
        wires={"column": 0.35 * 5e-6},
        noise={"output": 0.04},
        adc={"bits": 8, "full_scale": 10.0},
    )


def preset(name: str) -> Callable[[], HardwareProfile]:
    """Return what loads a preset, with tiles as large as the crossbar."""
    return lambda: HardwareProfile.load(name).varied(tile={"rows": SIZE})


HARDWARE: dict[str, Callable[[], HardwareProfile]] = {
    "pcm": preset("pcm"),
    "hermes": preset("hermes"),
    "InferenceRPUConfig": inference,
    "StandardHWATrainingPreset": standard,
}
CHIPS = tuple(name for name in presets() if name not in ("8bit", "ideal", "noisy"))


def matrices() -> tuple[Tensor, Tensor]:
    """Return weights N(0, 0.246²), clipped to [-1, 1], and inputs, uniform in [-1, 1], half of them 0."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.246 * torch.randn(SIZE, SIZE, generator=generator)).clamp(-1, 1)
    x = torch.rand(INPUTS, SIZE, generator=generator) * 2 - 1
    x *= torch.rand(INPUTS, SIZE, generator=generator) < 0.5
    return weight, x


def errors(profile: HardwareProfile, ages: tuple[str, ...], chips: int) -> dict[str, list[float]]:
    """Return each chip's relative error, ‖y - Wx‖ / ‖Wx‖ over all inputs, at each age; of equal chips that of one."""
    weight, x = matrices()
    exact, differ = x @ weight.T, profile.is_drawn or profile.is_random
    layer = AnalogLinear(SIZE, SIZE, bias=False, profile=profile).eval()
    found: dict[str, list[float]] = {age: [] for age in ages}
    with torch.no_grad():
        layer.weight.copy_(weight)
        calibrate(layer, x, progress=False)
        for chip in range(chips if differ else 1):
            program(layer, chip)
            for age in ages:
                at_time(layer, seconds(age))
                set_seed(layer, chip)
                found[age].append(float((layer(x) - exact).norm() / exact.norm()))
    return found


def draw(parts: dict[str, dict[str, list[float]]], path: Path = FIGURE) -> None:
    """Draw presets' errors against their chips' age, mean and standard deviation of chips; those beyond `DRAWN` not."""
    with style.picture(path, (9, 5.5), dpi=110) as figure:
        drawn(parts, style.axes(figure.subplots()))


def drawn(parts: dict[str, dict[str, list[float]]], ax: Any) -> None:
    """Draw the presets into axes."""
    numbers, labels = count(), []
    for name, found in sorted(parts.items(), key=lambda part: -sum(part[1]["0"])):
        values = [torch.tensor(found[age], dtype=torch.float64) for age in found]
        mean = torch.stack([value.mean() for value in values])
        spread = torch.stack([value.std(correction=min(1, len(value) - 1)) for value in values])
        if not DRAWN[0] < float(mean[0]) < DRAWN[1]:
            continue
        ageing = len(mean) > 1
        if not ageing:
            mean, spread = mean.repeat(len(AGES)), spread.repeat(len(AGES))
        look = style.look(next(numbers)) if ageing else style.Look("0.45", (1.2, 1.2), "")
        color, places = look.color, range(len(mean))
        style.series(ax, look, places, mean, spread)
        labels.append((float(mean[-1]), places[-1], name, color))
    height = 0.0
    for end, place, name, color in sorted(labels):
        if place == len(AGES) - 1:  # above the label below it, which is in the same column
            end = height = max(end, height + DRAWN[1] / 40)
        ax.annotate(name, (place + 0.08, end), va="center", fontsize=8, color=color)
    ax.set_ylim(0, DRAWN[1])
    ax.set_xticks(range(len(AGES)), LABELS)
    ax.set_xlim(-0.2, len(AGES) - 0.1)
    ax.set_ylabel("relative error of a product (fraction)")
    ax.set_xlabel("age of the chip t (grey: does not change)")
