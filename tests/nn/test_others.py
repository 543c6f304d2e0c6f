"""Layers of transformers, timm, PyG and PEFT, and subclasses that add nothing, on crossbars."""

import copy
import importlib
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import analogsim as an
from analogsim.errors import ConversionError
from analogsim.nn.known import exactly
from analogsim.nn.others import _FILES
from analogsim.nn.surgery import plain_class

FINE = an.HardwareProfile(tile={"rows": 16}, dac={"bits": 15, "input_range": 8.0}, weight={"bits": 15})
NOISY = FINE.varied(noise={"output": 0.05}, programming={"sigma": 0.05})
IMAGES = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Named(nn.Linear):
    """Adds nothing that its parent computes with."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.label = "here"

    def describe(self):
        return self.label


def layer(name):
    if name == "Named":
        return Named(4, 6), ROWS
    module, _, kind = name.rpartition(".")
    kind = getattr(pytest.importorskip(module), kind)
    if "Conv2d" in name:
        return kind(4, 6, 3, stride=2), IMAGES
    return kind(6, 4) if "Conv1D" in name else kind(4, 6), ROWS


def network(name):
    made, x = layer(name)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(made), x


@pytest.mark.parametrize("name", [*_FILES, "Named"])
def test_it_computes_what_its_digital_twin_does(name):
    """Outputs, gradients of inputs and of every parameter, those a weight is computed from included."""
    model, x = network(name)
    assert torch.equal(an.convert(model, an.HardwareProfile())(x), model(x))
    made = an.convert(model, FINE)
    results = []
    for net in (model, made):
        inputs = x.clone().requires_grad_()
        net(inputs).square().sum().backward()
        results.append([net(x).detach(), inputs.grad, *(p.grad for p in net.parameters())])
    for wanted, got in zip(*results, strict=True):
        assert (got - wanted).abs().max() < 2e-3 * wanted.abs().max()
    assert not torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("name", [*_FILES, "Named"])
def test_it_is_programmed_saved_copied_and_made_digital_again(name):
    model, x = network(name)
    kind = type(model[0])
    made = an.convert(model, NOISY.varied(dac={"input_range": "calibrated"}))
    an.calibrate(made, [x], progress=False)
    an.program(made, 3)
    an.set_seed(made, 1)
    made.eval()
    with torch.no_grad():
        first = made(x)
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))  # what was kept of the old weights is not used again
        an.set_seed(made, 1)
        second = made(x)
        assert (second - first).abs().max() > 0.1
        again = an.convert(model, made[0].profile)
        again.load_state_dict(made.state_dict())
        for one in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), again.eval()):
            an.set_seed(one, 1)
            assert torch.equal(one(x), second)
            assert isinstance(one[0], kind)
    back = an.to_digital(made)
    assert type(back[0]) is kind
    assert list(back.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", [*_FILES, "Named"])
def test_its_noise_and_cost_are_known(name):
    model, x = network(name)
    assert list(an.noise_sites(an.inject_noise(model, an.NoiseSpec(sigma=1.0)))) == ["input", "0"]
    weights = an.inject_noise(model, an.NoiseSpec(sigma=1.0, target="weights"))
    assert not torch.equal(weights(x), model(x))
    (counted,) = an.cost(model, FINE, tuple(x.shape[1:])).layers
    assert (counted.rows, counted.columns) == ((36, 6) if x.ndim == 4 else (4, 6))
    kind = type(model[0]).__name__
    if kind in ("Linear", "Named") and isinstance(model[0], nn.Linear):
        assert an.prepare_qat(model, an.QATSpec(act_bits=None))[0].weight_quant.is_quant_enabled
    else:  # Brevitas has no layer for it, and that is said by name
        with pytest.raises(ConversionError, match=f"0: {kind} is a subclass|nothing to quantize"):
            an.prepare_qat(model)


def test_a_convolution_takes_a_weight_that_is_computed():
    """Of any profile: the same as a layer that has this weight, and its gradient goes on to what it is made of."""
    conv = an.AnalogConv2d(4, 6, 3, padding=1, profile=FINE.varied(adc={"bits": 6, "full_scale": 4.0}))
    twin = copy.deepcopy(conv)
    scale = torch.full((6, 1, 1, 1), 0.5, requires_grad=True)
    twin.weight.data.mul_(0.5)
    out = conv.convolve(IMAGES, conv.weight * scale, conv.bias)
    assert torch.equal(out, twin(IMAGES))
    assert torch.equal(conv.convolve(IMAGES[0], conv.weight * scale, conv.bias), twin(IMAGES[0]))
    out.sum().backward()
    twin(IMAGES).sum().backward()
    expected = (twin.weight.grad * conv.weight.detach()).sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-4, atol=1e-4)


# --- subclasses ------------------------------------------------------------------------------------------------------


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


class Mixin:
    def _conv_forward(self, x, weight, bias):
        return F.conv2d(x, weight * 2, bias)


class Mixed(Mixin, nn.Conv2d):
    """Changes what its parent's forward calls."""


class Computed(nn.Linear):
    """Has a weight that is no parameter."""

    weight = property(lambda self: self.other * 2)


class Called(nn.Linear):
    def __call__(self, x):
        return super().__call__(x) + 1


@pytest.mark.parametrize("kind", [Halved, Mixed, Called])
def test_a_subclass_that_computes_otherwise_is_refused(kind):
    model = nn.Sequential(kind(4, 6, 3) if kind is Mixed else kind(4, 6))
    with pytest.raises(ConversionError, match=f"0: {kind.__name__} is a subclass.*keep_digital, or register"):
        an.convert(model, FINE)
    assert exactly(kind) is exactly(Computed) is None


def test_a_subclass_that_adds_nothing_stays_itself():
    class Attention(nn.MultiheadAttention):
        pass

    class Cell(nn.LSTMCell):
        pass

    model = nn.ModuleDict({"named": Named(4, 6), "attention": Attention(4, 2), "cell": Cell(4, 4)})
    parametrizations.weight_norm(model["named"])
    made = an.convert(model, FINE)
    assert made["named"].describe() == "here"
    assert isinstance(made["named"], an.AnalogLinear)
    assert isinstance(made["attention"], Attention)
    assert isinstance(made["cell"], an.AnalogLSTMCell)
    x = torch.randn(3, 4)
    torch.testing.assert_close(made["cell"](x)[0], model["cell"](x)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(copy.deepcopy(made)["named"](x), model["named"](x), rtol=1e-3, atol=1e-3)
    back = an.to_digital(made)
    assert [plain_class(one) for one in back.values()] == [Named, Attention, Cell]
    assert torch.equal(back["named"](x), model["named"](x))


# --- mixtures of experts ---------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}


def experts(name):
    """Experts with a gate; of gpt-oss with biases, transposed and interleaved; of Nemotron without a gate."""
    transformers = pytest.importorskip("transformers")
    if name == "nemotron_h":
        config = transformers.NemotronHConfig(**SMALL, n_routed_experts=3, moe_intermediate_size=24, moe_latent_size=16)
    else:
        kind = {"mixtral": transformers.MixtralConfig, "gpt_oss": transformers.GptOssConfig}[name]
        config = kind(**SMALL, num_local_experts=3)
    config._experts_implementation = "eager"
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    kind = {"mixtral": "MixtralExperts", "gpt_oss": "GptOssExperts", "nemotron_h": "NemotronHExperts"}[name]
    made = getattr(module, kind)(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "nemotron_h"])
def test_every_expert_has_two_crossbars(name):
    model = experts(name)
    x, chosen, weights = torch.randn(7, 16), torch.randint(3, (7, 2)), torch.rand(7, 2)
    chosen[:, 1] = (chosen[:, 0] + 1) % 2
    made = an.convert(model, FINE.varied(dac={"input_range": 64.0}))
    assert len(list(an.analog_layers(made))) == 6
    assert torch.equal(an.convert(model, an.HardwareProfile())(x, chosen, weights), model(x, chosen, weights))
    results = []
    for net in (model, made):
        net(x, chosen, weights).square().sum().backward()
        results.append([net(x, chosen, weights).detach(), *(p.grad for p in net.parameters())])
    for wanted, got in zip(*results, strict=True):
        assert (got - wanted).abs().max() < 3e-3 * wanted.abs().max()
    assert not torch.equal(results[0][0], results[1][0])
    noisy = an.inject_noise(model, an.NoiseSpec(sigma=1.0, target="weights"))
    assert not torch.equal(noisy(x, chosen, weights), model(x, chosen, weights))
    assert type(an.to_digital(made)) is type(copy.deepcopy(made).to_digital()) is type(model)
    assert torch.equal(pickle.loads(pickle.dumps(made))(x, chosen, weights), made(x, chosen, weights))


# --- PEFT ------------------------------------------------------------------------------------------------------------


def adapted(**options):
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))
    config = peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=False, **options)
    return peft.get_peft_model(base, config)


def test_adapters_are_on_crossbars_of_their_own_until_they_are_merged():
    model, x = adapted(), torch.randn(5, 16)
    made = an.convert(model, FINE)
    names = [name.removeprefix("base_model.model.") for name, _ in an.analog_layers(made)]
    parts = ("base_layer", "lora_A.default", "lora_B.default")
    assert names == [f"{number}.{part}" for number in (0, 2) for part in parts]
    torch.testing.assert_close(made(x), model(x), rtol=1e-3, atol=2e-3)
    made(x).sum().backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None}
    assert moved == {name for name, p in made.named_parameters() if "lora" in name}
    made.eval()
    before = made(x)
    made.merge_adapter()  # changes the base's weights in place
    torch.testing.assert_close(made(x), before, rtol=1e-3, atol=2e-3)
    made.unmerge_adapter()
    merged = made.merge_and_unload()
    assert [name for name, _ in an.analog_layers(merged)] == ["0", "2"]
    torch.testing.assert_close(merged(x), before, rtol=1e-3, atol=2e-3)


def test_adapters_that_call_layers_for_their_weights_are_refused():
    with pytest.raises(ConversionError, match=r"base_model\.model\.0: Linear .*DoraLinearVariant.*merge_and_unload"):
        an.convert(adapted(use_dora=True), FINE)
    with pytest.raises(ConversionError, match="nothing to convert"):
        an.convert(adapted(use_dora=True), FINE, keep_digital="*.model.?")


# --- where they come from --------------------------------------------------------------------------------------------


def test_nothing_of_others_is_imported_for_a_network_of_torch():
    code = """if True:
        import sys, torch, analogsim as an
        model = an.convert(torch.nn.Sequential(torch.nn.Linear(4, 2)), an.HardwareProfile())
        an.inject_noise(model, an.NoiseSpec(sigma=1.0))
        print([name for name in ("transformers", "timm", "peft", "torch_geometric") if name in sys.modules])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_lazy_layer_of_another_library_is_refused():
    graph = pytest.importorskip("torch_geometric.nn.dense.linear")
    with pytest.raises(ConversionError, match="0: Linear has no weights yet; run one batch"):
        an.convert(nn.Sequential(graph.Linear(-1, 3)), FINE)


def test_conversion_says_nothing_of_what_it_knows():
    with warnings.catch_warnings():
        warnings.simplefilter("error", an.UnreachedWarning)
        an.convert(network("transformers.pytorch_utils.Conv1D")[0], FINE)
