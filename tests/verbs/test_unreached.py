"""Every verb says what it did not reach: by name, class and share, in one line, with what to do."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
import typer
from torch import nn
from torch.nn.utils import parametrizations
from typer.testing import CliRunner

import analogsim as an
import models.lenet
import models.resnet
import models.vgg
from analogsim.cli.base import Group
from analogsim.errors import ConversionError
from analogsim.nn.known import kinds
from analogsim.nn.reach import matrices, weights_of
from tests.support import zoo

PROFILE = an.HardwareProfile(dac={"bits": 8, "input_range": 4.0}, adc={"bits": 8, "full_scale": 8.0})
X, Y = zoo.inputs(), torch.tensor([0, 1, 2, 0, 1])


def said(verb, *args, **options):
    """The warnings of this library that a call gives."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        verb(*args, **options)
    found = [one for one in found if issubclass(one.category, an.AnalogSimWarning)]
    assert all(issubclass(one.category, an.UnreachedWarning) and "\n" not in str(one.message) for one in found)
    assert {one.filename for one in found} <= {__file__}, "it points at the line that called"
    return [str(one.message) for one in found]


def convert(model, **options):
    return an.convert(model, PROFILE, **options)


def inject(model):
    return an.inject_noise(model, an.NoiseSpec(sigma=0.1))


def disturb_weights(model):
    return an.inject_noise(model, an.NoiseSpec(sigma=0.1, target="weights"))


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT-2: weights (inputs, outputs)."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class GPT2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(10, 8)
        self.wpe = nn.Embedding(10, 8)
        self.h = nn.ModuleList(nn.ModuleDict({"c_attn": Conv1D(24, 8), "c_fc": Conv1D(32, 8)}) for _ in range(4))
        self.ln_f = nn.LayerNorm((3, 8))
        self.lm_head = nn.Linear(8, 10, bias=False)
        self.lm_head.weight = self.wte.weight


class Mixture(nn.Module):
    """Experts kept as bare tensors."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.w1, self.w2 = nn.Parameter(torch.randn(2, 4, 6)), nn.Parameter(torch.randn(2, 6, 3))
        self.relu = nn.ReLU()

    def forward(self, x):
        inner = self.relu(torch.einsum("bi,eio->beo", x, self.w1))
        return (torch.einsum("beo,eoc->bec", inner, self.w2) * self.router(x).softmax(-1)[..., None]).sum(1)


class Reads(zoo.Net):
    """Reads a layer's weight without calling the layer, as Swin does."""

    def forward(self, x):
        return F.linear(self.relu(self.fc1(x)), self.fc2.weight, self.fc2.bias)


# --- weights that stay digital ---------------------------------------------------------------------------------------


def test_the_row_itself():
    """GPT-2's matrices are in a class of its own: 1 of 9 was converted, without a word."""
    (line,) = said(convert, GPT2())
    assert re.fullmatch(
        r"convert: 8 of 9 matrices \(95\.7% of the weights\) stay digital: h\.0\.c_fc\.weight \(Conv1D 8×32\), "
        r"h\.1\.c_fc\.weight .*and 5 more; make them layers of torch .* or name in keep_digital what shall stay",
        line,
    )
    assert not said(convert, GPT2(), keep_digital="h")
    assert not said(convert, GPT2(), keep_digital=Conv1D)
    (line,) = said(convert, GPT2(), keep_digital="h.?.c_fc")
    assert line.startswith("convert: 4 of 9 matrices (41.0%")


def test_bare_tensors_are_named_and_can_be_kept():
    (line,) = said(convert, Mixture())
    assert "2 of 3 matrices (91.3% of the weights) stay digital: w1 (Mixture 2×4×6), w2 (Mixture 2×6×3); " in line
    assert not said(convert, Mixture(), keep_digital=["w1", "w2"])
    assert [name for name, _ in an.analog_layers(convert(Mixture(), keep_digital="w?"))] == ["router"]
    with pytest.raises(ConversionError, match=r"no module is called 'router\.weight'"):
        convert(Mixture(), keep_digital="router.weight")  # its layer is converted: a weight of it cannot stay
    with pytest.raises(ConversionError, match="no module is called 'w3'"):
        convert(Mixture(), keep_digital="w3")


def test_modules_that_nobody_registers_are_named():
    (line,) = said(convert, zoo.COPIED["modules_in_a_list"]())
    assert "1 of 2 matrices" in line
    assert "hidden.weight (Linear 4×4)" in line
    assert not said(convert, zoo.COPIED["registered_modules_in_a_list"]())


def test_nothing_to_convert_says_where_the_matrices_are():
    with pytest.raises(ConversionError, match=r"nothing to convert.*its matrices are weight \(Conv1D 4×3\)"):
        convert(Conv1D(3, 4))


def test_every_verb_says_it_in_its_own_name():
    assert said(inject, Mixture())[0].startswith("inject_noise: 2 of 3 matrices (91.3% of the weights) are in layers")
    assert said(disturb_weights, Mixture())[0].startswith("inject_noise: 2 of 3 matrices (91.3%")
    assert said(an.noise_sweep, Mixture(), (X, Y), [1.0], 1, progress=False)[0].startswith("noise_sweep: 2 of 3")
    budgeted = said(an.noise_budget, convert(Mixture(), keep_digital="w?"), X, repeats=1, progress=False)
    assert budgeted[0].startswith("noise_budget: 2 of 3 matrices (91.3%")
    assert said(an.cost, Mixture(), PROFILE, (4,))[0].startswith("cost: 2 of 3 matrices (91.3% of the weights) stay")
    assert said(an.prepare_qat, Mixture())[0].startswith("prepare_qat: 2 of 3 matrices (91.3%")
    assert not said(an.prepare_qat, Mixture(), an.QATSpec(exclude=("w1", "w2")))
    assert not said(an.prepare_qat, Mixture(), an.QATSpec(weight_bits=None))
    assert not said(inject, convert(zoo.Net()))


def test_recurrent_layers_are_no_sites_unless_named():
    net = zoo.COPIED["recurrent"]()
    assert "2 of 4 matrices" in said(inject, net)[0]
    assert "lstm.weight_ih_l0 (LSTM 16×4)" in said(inject, net)[0]
    assert not said(an.inject_noise, net, an.NoiseSpec(extra=("LSTM",)))


def test_it_is_an_error_where_warnings_are():
    with pytest.raises(an.UnreachedWarning, match="convert: 2 of 3"):
        convert(Mixture())
    model = Mixture()
    with pytest.raises(an.UnreachedWarning):
        convert(model, inplace=True)
    assert type(model.router) is nn.Linear  # nothing has changed by then


# --- what is digital by design ---------------------------------------------------------------------------------------


def encoder():
    return nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False))


def normed():
    net = zoo.Net()
    for norm, layer in ((parametrizations.weight_norm, net.fc1), (parametrizations.orthogonal, net.fc2)):
        norm(layer)
    return net


ORDINARY = {
    "LeNet5": models.lenet.LeNet5,
    "VGG11": lambda: models.vgg.VGG11(hidden=16),
    "ResNet18": lambda: models.resnet.ResNet18(batch_norm=True),
    "LSTM": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "GRU": lambda: nn.GRU(3, 4),
    "cells": lambda: nn.Sequential(nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)),
    "attention": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, kdim=4, vdim=6),
    "encoder": encoder,
    "decoder": lambda: nn.Transformer(8, 2, 1, 1, 16),
    "embedding": lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)),
    "parametrised": normed,
    "low rank": zoo.COPIED["a_parametrisation_of_its_own"],
    "tied": zoo.COPIED["tied_to_an_embedding"],
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.GroupNorm(3, 3), nn.PReLU(3)),
    "layer norm of two dimensions": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((3, 4))),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_networks_are_converted_without_a_word(name):
    assert not said(convert, ORDINARY[name]())
    assert not said(an.to_digital, convert(ORDINARY[name]()))


@pytest.mark.parametrize("name", ["LeNet5", "VGG11", "ResNet18"])
def test_the_papers_networks_are_reached_by_every_verb(name):
    net = ORDINARY[name]().eval()
    assert not said(inject, net)
    assert not said(disturb_weights, net)
    assert not said(an.prepare_qat, net)
    assert not said(an.cost, net, PROFILE, (3, 32, 32))
    if name != "LeNet5":
        return  # slower, and no different
    data = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    for quantity in ("activations", "weights"):
        assert not said(an.noise_sweep, net, data, [0.1], 1, quantity=quantity, progress=False)
    assert not said(an.noise_sweep, convert(net), data, [0.1], 1, quantity="noise.output", progress=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchvisions_classifiers_are_converted_without_a_word():
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models, exclude="regnet*"):  # not on meta
        with torch.device("meta"):
            net = torchvision.models.get_model(name)
        every = matrices(net)
        reached = weights_of(m for m in net.modules() if isinstance(m, kinds()))
        assert not [str(one) for one in every if id(one.tensor) not in reached], name


# --- layers that are never called ------------------------------------------------------------------------------------


def test_layers_that_are_never_called_are_named():
    sweep = {"sigmas": [1.0], "repeats": 1, "progress": False}
    (line,) = said(an.noise_sweep, Reads(), (X, Y), **sweep)
    assert line.startswith(
        "noise_sweep: 1 of 3 layers (41.2% of the weights) were never called: fc2 (Linear); code that"
    )
    (line,) = said(an.noise_sweep, Reads(), (X, Y), quantity="weights", **sweep)
    assert line.startswith("noise_sweep: 1 of 2 layers (41.2% of the weights)")
    (line,) = said(an.noise_sweep, convert(Reads()), (X, Y), quantity="noise.read", **sweep)
    assert line.startswith("noise_sweep: 1 of 2 layers (41.2% of the weights) were never called: fc2 (AnalogLinear)")
    (line,) = said(an.cost, Reads(), PROFILE, (4,))
    assert line.startswith("cost: 1 of 2 layers (41.2% of the weights) were never called: fc2 (AnalogLinear); they")


def test_a_search_says_it_once():
    pytest.importorskip("optuna")

    class Extra(zoo.Net):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.randn(3, 3))

        def forward(self, x):
            return super().forward(x) @ self.own

    options = {"calibration": [X], "trials": 3, "progress": False}
    lines = said(an.design_search, Extra(), [(X, Y)], {"adc.bits": [4, 5, 6]}, **options)
    assert len(lines) == 1
    assert "1 of 3 matrices" in lines[0]
    assert "own (Extra 3×3)" in lines[0]


def test_normalisations_that_are_never_called_keep_their_statistics():
    class Idle(zoo.Net):
        def __init__(self):
            super().__init__()
            self.norm, self.idle = nn.BatchNorm1d(4), nn.BatchNorm1d(6)

        def forward(self, x):
            return super().forward(self.norm(x))

    net = Idle()
    for norm in (net.norm, net.idle):
        norm.running_mean.fill_(5.0)
    (line,) = said(an.estimate_batch_norm, net, X, progress=False)
    assert line.startswith(
        "estimate_batch_norm: 1 of 2 layers (60.0% of the weights) were never called: idle (BatchNorm1d)"
    )
    assert net.idle.running_mean.tolist() == [5.0] * 6
    torch.testing.assert_close(net.norm.running_mean, X.mean(0))


# --- activations without quantizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [F.relu, torch.relu, torch.Tensor.relu_, F.gelu, F.leaky_relu])
def test_activation_functions_are_named(call):
    name = call.__name__
    space = {"F": F, "torch": torch}
    where = "x" if name == "relu_" else "F"
    exec(f"def forward(self, x): return self.fc2({where}.{name}({'' if where == 'x' else 'x'}))", space)
    kind = type("Functional", (zoo.Net,), {"forward": space["forward"], "__module__": __name__})
    net = nn.Sequential(kind())
    (line, *rest) = said(an.prepare_qat, net)
    assert f"activation functions are not seen, and stay in floating point: 0: {name}; use modules (nn.ReLU," in line
    assert not rest
    assert not said(an.prepare_qat, net, an.QATSpec(overrides={"0": {"act_bits": None}}))


def test_a_module_called_relu_is_no_function():
    assert not said(an.prepare_qat, zoo.Net())


def test_layers_that_are_not_quantized_are_named():
    net = zoo.COPIED["recurrent"]()
    assert "2 of 4 matrices" in said(an.prepare_qat, net)[0]
    assert not said(an.prepare_qat, net, an.QATSpec(exclude=("lstm",)))
    transposed = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2))
    assert "0.weight (ConvTranspose2d 2×3×2×2)" in said(an.prepare_qat, transposed)[0]


# --- the shell -------------------------------------------------------------------------------------------------------


def test_the_shell_says_it_in_one_clean_line():
    app = typer.Typer(cls=Group)

    @app.callback()
    def options():
        pass

    @app.command()
    def verb():
        convert(Mixture())

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(app, ["verb"])
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: convert: 2 of 3 matrices")
