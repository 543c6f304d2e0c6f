"""What asymmetric ranges save: errors of ResNet-14's calibrated converters behind ReLUs, on images of CIFAR-10.

`python -m benchmarks.asymmetric --folder DATA`; DATA as for `benchmarks.published`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from analogsim import HardwareProfile, calibrate, convert, noise_budget

from .published.resnet14 import MEAN, ROWS, STD, load


def errors(net: torch.nn.Module, x: torch.Tensor, bits: int, **symmetric: bool) -> dict[str, np.ndarray]:
    """Return each layer's mean square error of its DACs and of its ADCs, at its output; its own inputs are exact."""
    parts = {part: {"bits": bits, "symmetric": symmetric[part]} for part in ("dac", "adc")}
    analog = convert(net, HardwareProfile(tile={"rows": ROWS}, weight={"w_max": "tensor"}, **parts))
    half = len(x) // 2
    calibrate(analog, x[:half], "mse", progress=False)
    layers = noise_budget(analog, x[half:], repeats=0).layers
    return {
        part: np.array([layer.stages[f"{part}_clipping"] + layer.stages[f"{part}_rounding"] for layer in layers])
        for part in parts
    }


def main() -> None:
    """Print the ratio of symmetric to asymmetric errors, layer by layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=128)
    given = parser.parse_args()
    net = load(given.folder)
    images = np.load(given.folder / "cifar10-lossless-subset.npz")["test_images"][: given.images]
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    x = x.permute(0, 3, 1, 2).contiguous()
    for bits in (4, 6, 8):
        plain = errors(net, x, bits, dac=True, adc=True)
        ranged = errors(net, x, bits, dac=False, adc=False)
        for part in ("dac", "adc"):
            ratios = plain[part][1:] / ranged[part][1:]  # not of the first layer, whose inputs have both signs
            mean = np.exp(np.log(ratios).mean())
            print(f"{bits} bits, {part}: {mean:.2f} ({ratios.min():.2f} to {ratios.max():.2f})", flush=True)


if __name__ == "__main__":
    main()
