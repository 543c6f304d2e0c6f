"""The paper's protocol in one place, as its text has it and as the scripts of its group do.

The scripts are the public repositories UniHD-CEG/walking-noise and UniHD-CEG/VANT, released after the paper; what is
here was read in them, and none of their code is. docs/paper.md lists in one table where the two differ. What both have
in common: Adam with a cosine over all epochs, batches of 128, no weight decay; noise N(0, σ²) with the same σ at every
site (the input, every convolution, linear, activation and pooling layer; none after batch normalisation or an
addition); where there are quantizers, conv → noise → quantized ReLU → noise (`relu_noise: after`); inputs are not
quantized; dynamic scaling is Brevitas' default. Each point of the curve of noisy training is a network of its own
(`sigma: matched`).
"""

from dataclasses import dataclass, field
from typing import Any

EPOCHS = 500
RAMP = 100
"""Epochs of incremental noise, linspace(0, σ, RAMP), of all EPOCHS."""
SIGMAS = "logspace(-2, 2, 17)"


@dataclass(frozen=True)
class Network:
    """How one network is built and trained.

    Attributes
    ----------
    path : str
        Import path of its class.
    args, quantized_args : dict
        Constructor's arguments of all, and those that quantized networks have beside or instead.
    lr, quantized_lr : float
        Adam's in the first epoch.
    incremental : bool
        Whether σ of training rises over the first epochs.
    qat : dict
        Fields of QATSpec but for bits and scaling.
    span_at_4_bits : float or None
        Range of constant scaling at 4 bits in units of s; None: 2^4. At 8 and 16 bits it is 2^b.
    scales : tuple of float
        s of constant scaling.
    bits : tuple of int
        Of quantized networks.
    """

    path: str
    args: dict[str, Any]
    quantized_args: dict[str, Any]
    lr: float
    quantized_lr: float
    incremental: bool
    qat: dict[str, Any]
    span_at_4_bits: float | None
    scales: tuple[float, ...]
    bits: tuple[int, ...] = (4, 8, 16)

    def training(self, epochs: int, *, quantized: bool = False, noisy: bool = False) -> dict[str, Any]:
        """Return the fields of TrainSpec that are this network's, of a training of so many epochs."""
        fields: dict[str, Any] = {"lr": self.quantized_lr if quantized else self.lr}
        return fields | ({"ramp_epochs": epochs * RAMP // EPOCHS} if noisy and self.incremental else {})

    def quantizers(self, bits: int, *, constant: bool = False) -> dict[str, Any]:
        """Return the fields of QATSpec, but for the s of constant scaling."""
        span = self.span_at_4_bits if constant and bits == 4 else None
        return {"bits": bits, **self.qat, **({} if span is None else {"span": span})}


@dataclass(frozen=True)
class Protocol:
    """The settings of all networks.

    Attributes
    ----------
    name : str
    seeds : int
        Initialisations of each.
    networks : dict
        Name → Network.
    """

    name: str
    seeds: int
    networks: dict[str, Network] = field(default_factory=dict)


AFTER = {"relu_noise": "after"}
LENET_SCALES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
VGG_SCALES = (0.5, 1, 2, 3, 4, 8)

TEXT = Protocol(
    "paper-text",
    seeds=10,
    networks={
        "LeNet-5": Network(
            "models.lenet:LeNet5",
            args={},
            quantized_args={},
            lr=1e-3,
            quantized_lr=1e-3,
            incremental=False,
            qat=AFTER,
            span_at_4_bits=None,
            scales=LENET_SCALES,
        ),
        "VGG-11": Network(
            "models.vgg:VGG11",
            args={},
            quantized_args={},
            lr=1e-3,
            quantized_lr=1e-4,
            incremental=True,
            qat=AFTER,
            span_at_4_bits=None,
            scales=VGG_SCALES,
        ),
        # Without normalisation PyTorch's initial weights diverge at this learning rate: see models/resnet.py.
        "ResNet-18": Network(
            "models.resnet:ResNet18",
            args={"init": "fixup"},
            quantized_args={},
            lr=1e-2,
            quantized_lr=1e-2,
            incremental=False,
            qat=AFTER,
            span_at_4_bits=None,
            scales=(0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256),
        ),
    },
)

SCRIPTS = Protocol(
    "paper-scripts",
    seeds=5,
    networks={
        "LeNet-5": Network(
            "models.lenet:LeNet5",
            args={"pool": "average"},
            quantized_args={"pool": "max", "head_bias": False},
            lr=1e-3,
            quantized_lr=1e-3,
            incremental=False,
            qat={**AFTER, "overrides": {"classifier": {"weight_scaling": "tensor"}}},
            span_at_4_bits=15,
            scales=LENET_SCALES,
        ),
        "VGG-11": Network(
            "models.vgg:VGG11",
            args={},
            quantized_args={"init": "vgg", "head_bias": False},
            lr=1e-3,
            quantized_lr=1e-4,
            incremental=True,
            qat=AFTER,
            span_at_4_bits=15,
            scales=VGG_SCALES,
        ),
        "ResNet-18": Network(
            "models.resnet:ResNet18",
            args={"batch_norm": True, "conv_bias": True, "one_relu": True},
            quantized_args={"head_bias": False},
            lr=1e-2,
            quantized_lr=1e-2,
            incremental=False,
            qat=AFTER,
            span_at_4_bits=15,
            scales=(0.5, 1, 2, 3, 4, 64, 128, 256),
            bits=(8,),
        ),
    },
)

PROTOCOLS = {protocol.name: protocol for protocol in (TEXT, SCRIPTS)}
