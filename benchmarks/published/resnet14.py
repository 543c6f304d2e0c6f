"""Sandia's ResNet-14 for CIFAR-10 on its two simulated devices: the network, the hardware, and CrossSim beside it.

The network and its converters' ranges are those that CrossSim 3.2 comes with, as two files of one folder:
`resnet14-cifar10.safetensors` (the state_dict of `resnet14_cifar10.pth`, keys renamed to those of `ResNet14`) and
`resnet14-cifar10-hardware.json`. Without a folder the network is untrained and its ranges are assumed, which takes the
same time.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock

from analogsim import HardwareProfile, analog_layers, convert

Device = Literal["digital", "ideal cells", "sonos", "rram-milo"]
DEVICES: tuple[Device, ...] = ("digital", "ideal cells", "sonos", "rram-milo")
ROWS, BITS = 576, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SONOS = {"amplitude": 19.88665e-9, "scale": 176.3115e-9}
"""A and B of the deviation A·(1 - exp(-I/B)), ampere (V. Agrawal et al., IEDM 2022, as CrossSim fits it)."""
MILO = (4.782321e-6, -0.009107)
"""Of the deviation max(a + b·G, 0), siemens (V. Milo et al., IRPS 2021, as CrossSim fits it)."""


class ResNet14(nn.Module):
    """Three stages of two basic blocks with 16, 32 and 64 channels (K. He et al., CVPR 2016, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        self.res1, self.res2, self.res3 = stage(16, 16), stage(16, 32), stage(32, 64)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, 32, 32) to logits (B, 10)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.classifier(self.res3(self.res2(self.res1(x))))


def norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation as that of the network's training."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def stage(before: int, channels: int) -> nn.Sequential:
    """Return two blocks; where the channels change, the first halves the image."""
    changes = before != channels
    down = nn.Sequential(nn.Conv2d(before, channels, 1, stride=2, bias=False), norm(channels)) if changes else None
    first = BasicBlock(before, channels, 1 + changes, down, norm_layer=norm)
    return nn.Sequential(first, BasicBlock(channels, channels, norm_layer=norm))


def load(folder: Path | None) -> nn.Module:
    """Return the network in evaluation, batch normalisation folded into the convolutions."""
    net = ResNet14()
    if folder is not None:
        net.load_state_dict(load_file(folder / "resnet14-cifar10.safetensors"))
    return folded(net.eval())


def folded(model: nn.Module) -> nn.Module:
    """Fold batch normalisation, in place: `bn1` into `conv1`, and `downsample.1` into `downsample.0`."""
    for module in list(model.modules()):
        children = dict(module.named_children())
        pairs = [(name, name.replace("bn", "conv")) for name in children if name.startswith("bn")]
        if list(map(type, children.values())) == [nn.Conv2d, nn.BatchNorm2d] and "1" in children:
            pairs = [("1", "0")]
        for bn, conv in pairs:
            setattr(module, conv, fuse_conv_bn_eval(children[conv], children[bn]))  # type: ignore[arg-type]
            setattr(module, bn, nn.Identity())
    return model


def settings(folder: Path | None, device: Device) -> list[dict[str, Any]]:
    """Return the published ranges, a row a layer; those of SONOS where cells are ideal."""
    if folder is None:
        names = [name for name, module in load(None).named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assumed = {"input_min": 0.0, "input_max": 4.0, "dac_bits": 8, "dac_signed": False, "adc_bits": 8}
        first = {"input_min": -2.64, "input_max": 2.64, "dac_signed": True}
        return [{"layer": n, "adc_full_scale": 3.0} | assumed | (first if n == "conv1" else {}) for n in names]
    file = json.loads((folder / "resnet14-cifar10-hardware.json").read_text())
    return file["rram-milo" if device == "rram-milo" else "sonos"]["layers"]


def profile(row: dict[str, Any], device: Device, **changes: Any) -> HardwareProfile:
    """Return the hardware of one layer.

    Currents are in units of the largest conductance's where the published full scales are, and of a weight's, g_max -
    g_min, where ours are.
    """
    g_min, sigma = 0.0, 0.0
    if device == "sonos":
        largest = 0.1 / 37500  # ampere, of 0.1 V
        sigma = {name: value / largest for name, value in SONOS.items()}
    elif device == "rram-milo":
        g_min, g_max = 4450 / 20000, 1 / 4450
        sigma = (MILO[0] / g_max, MILO[1])
    return HardwareProfile(
        name=device,
        tile={"rows": ROWS},
        dac={"bits": row["dac_bits"], "signed": row["dac_signed"], "input_range": row["input_max"]},
        weight={"bits": BITS, "w_max": "tensor"},
        adc={"bits": row["adc_bits"], "full_scale": row["adc_full_scale"] / (1 - g_min)},
        cells={"mapping": "differential", "g_min": g_min},
        programming={"sigma": sigma},
    ).varied(**changes)


def ours(folder: Path | None, device: Device, **changes: Any) -> nn.Module:
    """Return the network on simulated hardware with the published ranges; `changes` as of `HardwareProfile.varied`."""
    net = load(folder)
    if device == "digital":
        return net
    net = convert(net, profile(settings(folder, device)[0], device)).eval()
    rows = {row["layer"]: row for row in settings(folder, device)}
    for name, layer in analog_layers(net):
        layer.profile = profile(rows[name], device, **changes)
    return net


def crosssim(folder: Path | None, device: Device) -> tuple[nn.Module, Callable[[nn.Module], None]]:
    """Return the same network and hardware in CrossSim, and the function that programs a new chip.

    Raises
    ------
    ImportError
        CrossSim cannot be imported here.
    """
    simulator = import_module("simulator")
    torch_ = import_module("simulator.algorithms.dnn.torch.convert")
    net = load(folder)
    rows = {row["layer"]: row for row in settings(folder, device)}
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    found = torch_.from_torch(net, [_parameters(simulator, rows[name], device) for name in names], bias_rows=0)
    return found.eval(), torch_.reinitialize


def _parameters(simulator: Any, row: dict[str, Any], device: Device) -> Any:
    """Return CrossSim's parameters of one layer."""
    params = simulator.CrossSimParameters()
    core, xbar = params.core, params.xbar
    core.style, core.balanced.style, core.balanced.subtract_current_in_xbar = "BALANCED", "ONE_SIDED", True
    core.rows_max, core.cols_max = ROWS, 256
    core.weight_bits, core.mapping.weights.percentile = BITS, 1.0
    core.mapping.inputs.mvm.min, core.mapping.inputs.mvm.max = row["input_min"], row["input_max"]
    xbar.device.cell_bits = BITS - 1
    if device == "rram-milo":
        xbar.device.Rmin, xbar.device.Rmax, xbar.device.Vread = 4450, 20000, 0.1
        xbar.device.infinite_on_off_ratio = False
    else:
        xbar.device.Rmin, xbar.device.Rmax, xbar.device.Vread = 37500, 1e12, 0.1
        xbar.device.infinite_on_off_ratio = True
    if device in ("sonos", "rram-milo"):
        xbar.device.programming_error.enable = True
        xbar.device.programming_error.model = "RRAMMilo" if device == "rram-milo" else "SONOS"
    xbar.dac.mvm.bits, xbar.dac.mvm.signed = row["dac_bits"], row["dac_signed"]
    xbar.dac.mvm.model = "SignMagnitudeDAC" if row["dac_signed"] else "QuantizerDAC"
    xbar.adc.mvm.bits, xbar.adc.mvm.signed, xbar.adc.mvm.model = row["adc_bits"], True, "SignMagnitudeADC"
    xbar.adc.mvm.adc_range_option = "CALIBRATED"
    xbar.adc.mvm.calibrated_range = np.array([-row["adc_full_scale"], row["adc_full_scale"]])
    return params


def images(folder: Path, name: Literal["lossless", "jpeg"] = "lossless") -> tuple[Tensor, Tensor]:
    """Return test images, normalised as in the network's training, and their classes.

    `lossless`: the 1,017 of `cifar10-lossless-subset.npz`; `jpeg`: the 10,000 of `cifar10.npz`, plain arrays.
    """
    with np.load(folder / ("cifar10-lossless-subset.npz" if name == "lossless" else "cifar10.npz")) as file:
        x, y = torch.from_numpy(file["test_images"]), torch.from_numpy(file["test_labels"]).long()
    return normalised(x), y


def normalised(pixels: Tensor) -> Tensor:
    """Return uint8 images (B, H, W, 3) as the network takes them, (B, 3, H, W)."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
