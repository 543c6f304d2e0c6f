"""The paper's protocol against lists worked out by hand from what its text and its group's scripts say."""

from functools import cache

import pytest
import torch
from torch import nn

from analogsim import NoiseSpec, inject_noise, noise_sites, set_noise
from analogsim.qat import QuantReLU, prepare_qat
from analogsim.study import load_study
from analogsim.study.grid import Study
from analogsim.training.network import find_class
from benchmarks.paper import protocol, studies

LENET = (
    "features.conv1 features.relu1 features.pool1 features.conv2 features.relu2 features.pool2 "
    "classifier.linear1 classifier.relu3 classifier.linear2 classifier.relu4 classifier.linear3"
).split()
# Convolution, ReLU and pool by their number: 64 P 128 P 256 256 P 512 512 P 512 512 P.
VGG = [f"features.{number}" for number in range(21)] + [f"classifier.{number}" for number in (0, 1, 3, 4, 6)]
VGG_CONVS = [f"features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18)]
VGG_RELUS = [f"features.{number}" for number in (1, 4, 7, 9, 12, 14, 17, 19)] + ["classifier.1", "classifier.4"]
SHORTCUTS = ("blocks.2", "blocks.4", "blocks.6")
RESNET_CONVS = ["conv"] + [
    f"{block}.{layer}"
    for block in (f"blocks.{number}" for number in range(8))
    for layer in ("conv1", "conv2", *(["shortcut.0"] if block in SHORTCUTS else []))
]
RELUS = {
    "LeNet-5": ["features.relu1", "features.relu2", "classifier.relu3", "classifier.relu4"],
    "VGG-11": VGG_RELUS,
}
ONE_RELU = ["relu"] + [f"blocks.{number}.relu1" for number in range(8)]
TWO_RELUS = ["relu"] + [f"blocks.{number}.relu{which}" for number in range(8) for which in (1, 2)]
RESNET = [*RESNET_CONVS, "pool", "average", "head"]
SITES = {
    ("paper-text", "LeNet-5"): LENET,
    ("paper-scripts", "LeNet-5"): LENET,
    ("paper-text", "VGG-11"): VGG,
    ("paper-scripts", "VGG-11"): VGG,
    ("paper-text", "ResNet-18"): RESNET + TWO_RELUS,
    ("paper-scripts", "ResNet-18"): RESNET + ONE_RELU,
}
# Noise is drawn at the input too, and at both uses of a ReLU that a block has one of.
DRAWS = {"LeNet-5": 12, "VGG-11": 27, "ResNet-18": 41}

# LeNet-5: 456 + 2,416 + 48,120 + 10,164 + 850. VGG-11: 9,220,480 + 2,101,248 + 16,781,312 + 40,970. ResNet-18 with
# normalisation and no other bias is torchvision's with 10 classes, 11,689,512 - 990·513 = 11,181,642; its 4800 channels
# have two parameters of normalisation each, or one bias, or all three.
PARAMETERS = {
    ("paper-text", "LeNet-5"): (62_006, 62_006),
    ("paper-scripts", "LeNet-5"): (62_006, 61_996),
    ("paper-text", "VGG-11"): (28_144_010, 28_144_010),
    ("paper-scripts", "VGG-11"): (28_144_010, 28_144_000),
    ("paper-text", "ResNet-18"): (11_176_842, 11_176_842),
    ("paper-scripts", "ResNet-18"): (11_186_442, 11_186_432),
}
PER_TENSOR = {
    ("paper-text", "LeNet-5"): ["classifier.linear3"],
    ("paper-scripts", "LeNet-5"): ["classifier.linear1", "classifier.linear2", "classifier.linear3"],
    ("paper-text", "VGG-11"): ["classifier.6"],
    ("paper-scripts", "VGG-11"): ["classifier.6"],
    ("paper-text", "ResNet-18"): ["head"],
    ("paper-scripts", "ResNet-18"): ["head"],
}
PER_CHANNEL = {
    ("paper-text", "LeNet-5"): ["features.conv1", "features.conv2", "classifier.linear1", "classifier.linear2"],
    ("paper-scripts", "LeNet-5"): ["features.conv1", "features.conv2"],
    ("paper-text", "VGG-11"): [*VGG_CONVS, "classifier.0", "classifier.3"],
    ("paper-scripts", "VGG-11"): [*VGG_CONVS, "classifier.0", "classifier.3"],
    ("paper-text", "ResNet-18"): RESNET_CONVS,
    ("paper-scripts", "ResNet-18"): RESNET_CONVS,
}
# Upper end of constant scaling's range, in units of s.
RANGES = {"paper-text": {4: 16, 8: 256, 16: 65_536}, "paper-scripts": {4: 15, 8: 256, 16: 65_536}}
# Learning rates of floating point and quantized; epochs over which σ rises.
TRAINING = {"LeNet-5": (1e-3, 1e-3, 0), "VGG-11": (1e-3, 1e-4, 100), "ResNet-18": (1e-2, 1e-2, 0)}
BOTH = sorted(SITES)


def jobs(kind, name, methods):
    """The jobs of some methods, as a study expands them, on 3 channels and 10 classes."""
    network = protocol.PROTOCOLS[kind].networks[name]
    study = Study(
        name="any", data="digits", models={name: {"path": network.path, "args": network.args}}, methods=methods
    )
    return list(study.expand()[1].values())


@cache
def built(kind, name, bits=None, s=None):
    """A network of the protocol, of a scale s or dynamic."""
    network = protocol.PROTOCOLS[kind].networks[name]
    if bits is None:
        method = studies.plain(network, 500)
    elif s is None:
        method = studies.dynamic(network, 500, bits)
    else:
        method = studies.constant(network, 500, bits, [s])
    (job,) = jobs(kind, name, [method])
    torch.manual_seed(0)
    model = find_class(job.model, False, "")(**job.args)
    return model if job.qat is None else prepare_qat(model, job.qat)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def relus(kind, name):
    return RELUS.get(name) or (ONE_RELU if kind == "paper-scripts" else TWO_RELUS)


@pytest.mark.parametrize(("kind", "name"), BOTH)
@pytest.mark.parametrize("bits", [None, 8])
def test_noise_enters_where_the_list_says_and_nowhere_else(kind, name, bits):
    model = inject_noise(built(kind, name, bits, bits and 1.0), NoiseSpec(sigma=1e-3))
    sites = noise_sites(model)
    assert sorted(sites) == sorted(["input", *SITES[kind, name]])
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 32, 32))
    drawn = {}

    def count(site):
        perturb = site.perturb

        def counted(x, training):
            drawn[site.name] = drawn.get(site.name, 0) + 1
            return perturb(x, training)

        site.perturb = counted

    for site in sites.values():
        count(site)
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    assert sum(drawn.values()) == DRAWS[name]


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_parameters(kind, name):
    plain, quantized = PARAMETERS[kind, name]
    assert parameters(built(kind, name)) == plain
    assert parameters(built(kind, name, 8, 1.0)) == quantized
    # Of dynamic scaling every quantizer learns one range.
    assert parameters(built(kind, name, 8)) == quantized + len(relus(kind, name))


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_weights_are_quantized_per_channel_and_per_tensor_as_listed(kind, name):
    model = built(kind, name, 4, 1.0)
    scales = {
        path: module.weight_quant.scale().numel()
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert sorted(path for path, number in scales.items() if number == 1) == sorted(PER_TENSOR[kind, name])
    assert sorted(path for path, number in scales.items() if number > 1) == sorted(PER_CHANNEL[kind, name])
    assert not any(module.input_quant.is_quant_enabled for module in model.modules() if hasattr(module, "input_quant"))


@pytest.mark.parametrize(("kind", "name"), BOTH)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_ranges_of_constant_scaling(kind, name, bits):
    model = built(kind, name, bits, 0.5).eval()
    found = {path: module for path, module in model.named_modules() if isinstance(module, QuantReLU)}
    assert sorted(found) == sorted(relus(kind, name))
    wanted = RANGES[kind][bits] * 0.5
    for relu in found.values():
        levels = relu(torch.linspace(-wanted, 3 * wanted, 4 * 2**bits + 1)[None])
        assert levels.max().item() == pytest.approx(wanted)
        assert levels.min().item() == 0
        step = wanted / (2**bits - 1)
        assert levels.unique().diff().min().item() == pytest.approx(step, rel=1e-2)


@pytest.mark.parametrize("kind", sorted(protocol.PROTOCOLS))
def test_noise_comes_before_a_quantizer_and_after_it(kind):
    model = built(kind, "LeNet-5", 8, 0.5)
    noisy = inject_noise(model, NoiseSpec(sigma=0.0, layers={"features.conv1": 1.0}))
    step = 256 * 0.5 / 255
    seen = []
    noisy.features.relu1.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.zeros(1, 3, 32, 32)

    def off_the_grid():
        seen.clear()
        with torch.no_grad():
            noisy.eval()(x)
        levels = seen[0] / step
        return (levels - levels.round()).abs().mean().item(), seen[0].std().item()

    rest, spread = off_the_grid()
    assert rest < 1e-3  # the noise of the convolution is quantized
    assert spread > 0.1
    set_noise(noisy, 0.0, layers={"features.relu1": 1.0})
    assert off_the_grid()[0] > 0.1  # that of the quantized ReLU is not


@pytest.mark.parametrize("name", sorted(TRAINING))
@pytest.mark.parametrize("kind", sorted(protocol.PROTOCOLS))
def test_learning_rates_and_incremental_noise(kind, name):
    network = protocol.PROTOCOLS[kind].networks[name]
    plain, quantized, ramp = TRAINING[name]
    train = {"epochs": 500}
    methods = [studies.plain(network, 500), studies.noisy(network, 500, "1"), studies.dynamic(network, 500, 8)]
    found = [job.train for job in jobs(kind, name, [method | {"train": train | method["train"]} for method in methods])]
    assert [spec.lr for spec in found] == [plain, plain, quantized]
    assert [spec.ramp_epochs for spec in found] == [0, ramp, 0]
    if ramp:  # linspace(0, σ, 100), then σ
        levels = [found[1].ramp(epoch) for epoch in range(500)]
        assert torch.tensor(levels[:100]).allclose(torch.linspace(0, 1, 100))
        assert levels[100:] == [1.0] * 400


@pytest.mark.parametrize("kind", sorted(protocol.PROTOCOLS))
def test_what_else_differs(kind):
    scripts = kind == "paper-scripts"
    resnet, lenet, quantized = built(kind, "ResNet-18"), built(kind, "LeNet-5"), built(kind, "LeNet-5", 8)
    assert (resnet.conv.kernel_size, resnet.conv.stride, resnet.pool.stride) == ((7, 7), (2, 2), 2)
    assert any(isinstance(module, nn.BatchNorm2d) for module in resnet.modules()) == scripts
    assert isinstance(lenet.features.pool1, nn.AvgPool2d) == scripts
    assert isinstance(quantized.features.pool1, nn.MaxPool2d)
    assert (quantized.classifier.linear3.bias is None) == scripts
    # Quantized VGG-11 begins from torchvision's initial weights in the scripts: N(0, 0.01²), 1.6e7 of them.
    std = built(kind, "VGG-11", 8, 1.0).classifier[3].weight.std().item()
    assert (abs(std - 0.01) < 1e-4) == scripts


# The files


@pytest.mark.parametrize("path", sorted(studies.STUDIES))
def test_a_file_is_what_the_protocol_makes(path):
    kept = (studies.HERE / path).read_text(encoding="utf-8")
    assert kept == studies.text(path), "python -m benchmarks.paper.studies"


def test_no_other_file_is_beside_them():
    assert {f"{p.parent.name}/{p.name}" for d in ("full", "long") for p in (studies.HERE / d).iterdir()} == set(
        studies.STUDIES
    )


# By hand: jobs with one seed, epochs, seeds. LeNet-5: 1 float, 17 matched, dynamic at two widths, 2 × 6 s, σ of 0.5 and
# 2 (σ = 1 is one of the matched), 5 matched and quantized, 1 float with maximum pooling.
SIZES = {
    "long/lenet5.yaml": (1 + 17 + 2 + 12 + 2 + 5 + 1, 60, 3),
    "long/lenet5-kinds.yaml": (2 + 1, 60, 1),
    "long/lenet5-kinds-weights.yaml": (1 + 1 + 2, 60, 1),
    "long/lenet5-layers.yaml": (2 * 2 + 2, 60, 1),
    "long/lenet5-500.yaml": (1 + 5 + 1 + 1, 500, 1),
    "long/resnet18.yaml": (2 * (1 + 7) + 1 + 3, 15, 1),
    "long/resnet18-open.yaml": (2 * (1 + 2), 15, 1),
    "long/vgg11.yaml": (1 + 5 + 1 + 4, 15, 1),
    "full/lenet5.yaml": (1 + 17 + 2 + 3 + 3 * 12 + 17, 500, 5),
    "full/vgg11.yaml": (1 + 17 + 2 + 3 + 3 * 6 + 17, 500, 5),
    "full/resnet18.yaml": (1 + 17 + 2 + 1 + 8 + 17, 500, 5),
}


@pytest.mark.parametrize("path", sorted(SIZES))
def test_a_study_is_as_large_as_it_is_meant(path):
    count, epochs, seeds = SIZES[path]
    entries, found = load_study(studies.HERE / path, data="digits").expand()
    assert len(found) == count * seeds
    assert {job.train.epochs for job in found.values()} == {epochs}
    assert len({cell.seed for cell in entries}) == seeds
    assert all(job.sweep.grid.size == 17 for job in found.values())
