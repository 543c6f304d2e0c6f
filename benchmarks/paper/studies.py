"""The paper's studies, made of its protocol: `python -m benchmarks.paper.studies` writes them as files.

`full/` is the paper's own scale, for GPUs; `long/` is what two cores finish in days, with as many epochs and images as
that allows. The order of methods is the order in which they are run, seed by seed.
"""

from pathlib import Path
from typing import Any, get_args

import yaml

from .protocol import EPOCHS, SCRIPTS, SIGMAS, Network
from .shares import Way, chosen

HERE = Path(__file__).parent
JPEG = "npz:../shared/data/cifar10-jpeg.npz"
MATCHED = {"sigma": "matched"}
BEST, BELOW, GROWS, NOTHING = (
    "the most robust method",
    "below the floating-point baseline",
    "µ grows with s while peak accuracy falls",
    "quantization adds nothing on top of noisy training, matched",
)
FIVE, SEVEN = "logspace(-1, 1, 5)", "logspace(-1.5, 1.5, 7)"
WEIGHTS, ON_WEIGHTS = "noise on weights", [0.0316, 0.1]
COLLAPSE = 50
Fields = dict[str, Any]


def plain(network: Network, epochs: int, name: str = "float", **fields: Any) -> Fields:
    """Return the method of the floating-point baseline, or one like it."""
    return {"name": name, "train": network.training(epochs), **fields}


def noisy(network: Network, epochs: int, matched: str | None = None, *, bits: int | None = None) -> Fields:
    """Return noisy training as the paper has it, a network for each σ; of all σ or some, with quantizers or without."""
    name = "noisy training, matched" + (f", {bits} bits" if bits else "")
    found = {"name": name, "claim": NOTHING if bits else BEST}
    found |= {"train": MATCHED | network.training(epochs, quantized=bool(bits), noisy=True)}
    if matched is not None:
        found["matched"] = matched
    if bits:
        found |= {"args": network.quantized_args, "qat": network.quantizers(bits)}
    return _without_empty(found)


def fixed(network: Network, epochs: int, sigmas: list[float]) -> Fields:
    """Return noisy training under one σ, swept over all: a curve that the paper has not."""
    train = network.training(epochs, noisy=True)
    return {"name": "noisy training, fixed σ", "train": train, "grid": {"train.sigma": sigmas}}


def dynamic(network: Network, epochs: int, bits: int) -> Fields:
    """Return dynamic scaling."""
    found = {"name": f"dynamic scaling, {bits} bits", "claim": BELOW, "args": network.quantized_args}
    found |= {"train": network.training(epochs, quantized=True), "qat": network.quantizers(bits)}
    return _without_empty(found)


def constant(network: Network, epochs: int, bits: int, scales: list[float]) -> Fields:
    """Return constant scaling."""
    found = {"name": f"constant scaling, {bits} bits", "claim": GROWS, "args": network.quantized_args}
    found |= {"train": network.training(epochs, quantized=True), "qat": network.quantizers(bits, constant=True)}
    return _without_empty(found | {"grid": {"qat.s": scales}})


def full(name: str) -> Fields:
    """Return a network's study at the paper's own scale."""
    network = SCRIPTS.networks[name]
    methods = [plain(network, EPOCHS), noisy(network, EPOCHS), fixed(network, EPOCHS, [0.5, 1.0, 2.0])]
    methods += [dynamic(network, EPOCHS, bits) for bits in network.bits]
    methods += [constant(network, EPOCHS, bits, list(network.scales)) for bits in network.bits]
    methods.append(noisy(network, EPOCHS, bits=8))
    return {
        "name": name,
        "about": f"As the scripts of the paper's group have it ({SCRIPTS.name} in protocol.py).",
        "data": "cifar10",
        "seeds": SCRIPTS.seeds,
        "train": {"epochs": EPOCHS, "stop_on_collapse": COLLAPSE},
        "sweep": {"sigmas": SIGMAS, "repeats": 5},
        "models": {name: _model(network)},
        "methods": methods,
        "baseline": "float",
    }


def long_study(name: str, network: Network, epochs: int, seeds: int, about: str, methods: list[Fields]) -> Fields:
    """Return a study for two cores."""
    return {
        "name": name,
        "about": about,
        "data": JPEG,
        "seeds": seeds,
        "train": {"epochs": epochs},
        "sweep": {"sigmas": SIGMAS, "repeats": 3},
        "models": {name.split(",")[0]: _model(network)},
        "methods": methods,
        "baseline": "float",
    }


def without_baseline(study: Fields) -> Fields:
    """Return a study whose baseline is one of another's."""
    return {name: value for name, value in study.items() if name != "baseline"}


def lenet5() -> Fields:
    """Return LeNet-5, all methods: 60 epochs, 3 seeds."""
    network, epochs, scales = SCRIPTS.networks["LeNet-5"], 60, [0.5, 1, 2, 8, 32, 128]
    methods = [
        plain(network, epochs),
        noisy(network, epochs),
        fixed(network, epochs, [1.0, 0.5, 2.0]),
        dynamic(network, epochs, 8),
        constant(network, epochs, 8, scales),
        noisy(network, epochs, FIVE, bits=8),
        # Float and quantized networks differ in their pooling: what is that worth?
        plain(network, epochs, "float, maximum pooling", args={"pool": "max"}),
        constant(network, epochs, 4, scales),
        dynamic(network, epochs, 4),
    ]
    about = "60 of the paper's 500 epochs, 3 of its 5 seeds, all images."
    return long_study("LeNet-5, 60 epochs", network, epochs, 3, about, methods)


def lenet5_kinds() -> Fields:
    """Return LeNet-5 trained under noise of other kinds, swept over noise on activations."""
    network, epochs = SCRIPTS.networks["LeNet-5"], 60
    train = network.training(epochs, noisy=True)
    methods = [
        {"name": WEIGHTS, "train": train | {"target": "weights"}, "grid": {"train.sigma": ON_WEIGHTS}},
        {"name": "multiplicative noise on activations", "train": train | {"multiplicative": 0.316}},
    ]
    about = "As lenet5.yaml, one seed, under other kinds of noise than it is swept over."
    return without_baseline(long_study("LeNet-5, kinds of noise", network, epochs, 1, about, methods))


def lenet5_kinds_weights() -> Fields:
    """Return LeNet-5 trained under noise on activations and on weights, swept over noise on weights."""
    network, epochs = SCRIPTS.networks["LeNet-5"], 60
    train = network.training(epochs, noisy=True)
    methods = [
        plain(network, epochs),
        {"name": "noise on activations", "train": train, "grid": {"train.sigma": [1.0]}},
        {"name": WEIGHTS, "train": train | {"target": "weights"}, "grid": {"train.sigma": ON_WEIGHTS}},
    ]
    about = "Networks of lenet5.yaml and lenet5-kinds.yaml, swept over noise on weights."
    study = long_study("LeNet-5, swept over noise on weights", network, epochs, 1, about, methods)
    sweep = study["sweep"] | {"sigmas": "logspace(-3, 1, 17)", "quantity": "weights"}
    return study | {"sweep": sweep}


def lenet5_layers() -> Fields:
    """Return LeNet-5 with σ or s of its own for each layer, chosen by what the layer's noise does to the logits."""
    network, epochs = SCRIPTS.networks["LeNet-5"], 60
    methods = []
    for way in get_args(Way):
        for sigma in (0.316, 1.0):
            train = network.training(epochs, noisy=True) | {"layers": chosen(sigma, way)}
            methods.append({"name": f"σ by error, {way}, as σ={sigma:g}", "train": train})
    for way in get_args(Way):
        fields = constant(network, epochs, 8, [])
        overrides = {name: {"s": s} for name, s in chosen(8, way, "relu").items()}
        fields["qat"]["overrides"] = fields["qat"].get("overrides", {}) | overrides
        fields["qat"]["s"] = 8
        del fields["grid"], fields["claim"]
        methods.append(fields | {"name": f"s by error, {way}, as s=8"})
    about = "As lenet5.yaml, one seed, with the noise or the steps of each layer chosen by benchmarks/paper/shares.py."
    return without_baseline(long_study("LeNet-5, σ and s of each layer", network, epochs, 1, about, methods))


def lenet5_500() -> Fields:
    """Return LeNet-5 at the paper's own number of epochs, one seed."""
    network = SCRIPTS.networks["LeNet-5"]
    methods = [
        plain(network, EPOCHS),
        noisy(network, EPOCHS, FIVE),
        constant(network, EPOCHS, 8, [8]),
        dynamic(network, EPOCHS, 8),
        fixed(network, EPOCHS, [1.0]),
    ]
    return long_study("LeNet-5, 500 epochs", network, EPOCHS, 1, "1 of the paper's 5 seeds, all images.", methods)


def resnet18() -> Fields:
    """Return ResNet-18 as the authors have it, statistics of batch normalisation as trained and estimated anew."""
    network, epochs = SCRIPTS.networks["ResNet-18"], 15
    anew = {"sweep": {"batch_norm": 2000}}
    methods = [
        plain(network, epochs),
        noisy(network, epochs, SEVEN),
        plain(network, epochs, "float, statistics anew", **anew),
        noisy(network, epochs, SEVEN) | {"name": "noisy training, matched, statistics anew"} | anew,
        dynamic(network, epochs, 8),
        constant(network, epochs, 8, [1, 8, 64]),
    ]
    about = "15 of the paper's 500 epochs, 1 of its 5 seeds, all images."
    return long_study("ResNet-18, 15 epochs", network, epochs, 1, about, methods)


def resnet18_open() -> Fields:
    """Return ResNet-18 without batch normalisation, and without shortcuts."""
    network, epochs = SCRIPTS.networks["ResNet-18"], 15
    study = long_study(
        "ResNet-18, without",
        network,
        epochs,
        1,
        "As resnet18.yaml, without batch normalisation (Fixup's initial weights) and without shortcuts.",
        [plain(network, epochs), fixed(network, epochs, [0.316, 1.0])],
    )
    models = {
        "ResNet-18 without batch normalisation": {"batch_norm": False, "init": "fixup"},
        "ResNet-18 without shortcuts": {"shortcuts": False},
    }
    return study | {"models": {name: _model(network, **own) for name, own in models.items()}}


def vgg11() -> Fields:
    """Return VGG-11 on half of the images, with incremental noise."""
    network, epochs = SCRIPTS.networks["VGG-11"], 15
    methods = [
        plain(network, epochs),
        noisy(network, epochs, FIVE),
        dynamic(network, epochs, 8),
        constant(network, epochs, 8, [1, 2, 3, 4]),
    ]
    about = "15 of the paper's 500 epochs on half of the training images, 1 of its 5 seeds."
    study = long_study("VGG-11, 15 epochs", network, epochs, 1, about, methods)
    return study | {"train_subset": 25_000, "test_subset": 5_000, "sweep": {"sigmas": SIGMAS, "repeats": 2}}


STUDIES = {
    "full/lenet5.yaml": lambda: full("LeNet-5"),
    "full/resnet18.yaml": lambda: full("ResNet-18"),
    "full/vgg11.yaml": lambda: full("VGG-11"),
    "long/lenet5.yaml": lenet5,
    "long/lenet5-kinds.yaml": lenet5_kinds,
    "long/lenet5-kinds-weights.yaml": lenet5_kinds_weights,
    "long/lenet5-layers.yaml": lenet5_layers,
    "long/lenet5-500.yaml": lenet5_500,
    "long/resnet18.yaml": resnet18,
    "long/resnet18-open.yaml": resnet18_open,
    "long/vgg11.yaml": vgg11,
}


def text(name: str) -> str:
    """Return a study's file."""
    values = yaml.dump(
        STUDIES[name](), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    return f"# Written by `python -m benchmarks.paper.studies` from protocol.py.\n{values}"


def _model(network: Network, **own: Any) -> Fields:
    return _without_empty({"path": network.path, "args": network.args | own})


def _without_empty(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value != {}}


class _Dumper(yaml.SafeDumper):
    """A study's file names nothing by an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value where it stands."""
        return True


if __name__ == "__main__":
    for path in STUDIES:
        (HERE / path).write_text(text(path), encoding="utf-8")
