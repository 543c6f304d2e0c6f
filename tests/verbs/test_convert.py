"""convert and to_digital: which layers, what is kept, what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from analogsim.convert import convert, to_digital
from analogsim.errors import AnalogSimError, ConversionError, ProfileError
from analogsim.nn import (
    AnalogConv2d,
    AnalogLayer,
    AnalogLinear,
    AnalogLSTM,
    AnalogMultiheadAttention,
    AnalogOutProjection,
    analog_layers,
    set_seed,
)
from analogsim.nn.known import kinds, rows
from analogsim.noise import NoiseSpec, inject_noise
from analogsim.profile import HardwareProfile
from analogsim.qat import prepare_qat
from analogsim.ranges.calibrate import calibrate
from analogsim.robustness.sweep import noise_sweep

COARSE = HardwareProfile(
    tile={"rows": 16}, dac={"bits": 5, "input_range": 2.0}, adc={"bits": 6, "full_scale": 4.0}, noise={"output": 0.05}
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        return self.head(self.norm(self.features(x)).flatten(1))


def analog_names(model):
    return [name for name, _ in analog_layers(model)]


# --- what is converted -----------------------------------------------------------------------------------------------


def test_every_convertible_layer_is():
    model = nn.Sequential(*(kind(4, 4, 1) if "Conv" in kind.__name__ else kind(4, 4) for kind in kinds()))
    converted = convert(model, COARSE)
    assert [type(layer) for layer in converted] == [row.analog for row in rows()]
    assert [type(layer) for layer in to_digital(converted)] == list(kinds())


def test_the_rest_stays_digital():
    converted = convert(Net(), COARSE)
    assert analog_names(converted) == ["features.0", "features.2", "head"]
    assert type(converted.norm) is nn.BatchNorm2d
    embedding = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    assert type(convert(embedding, COARSE)[0]) is nn.Embedding


def test_a_copy_unless_in_place():
    model = Net()
    converted = convert(model, COARSE)
    assert type(model.head) is nn.Linear
    assert type(converted.head) is AnalogLinear
    with torch.no_grad():
        converted.head.weight.zero_()
    assert model.head.weight.any()
    head, weight = model.head, model.head.weight
    assert convert(model, COARSE, inplace=True) is model
    assert model.head is head
    assert head.weight is weight
    assert type(head) is AnalogLinear
    assert to_digital(model, inplace=True) is model
    assert model.head is head
    assert head.weight is weight
    assert type(head) is nn.Linear


def test_the_model_itself_may_be_a_layer():
    layer = nn.Linear(4, 3)
    converted = convert(layer, COARSE)
    assert type(converted) is AnalogLinear
    assert type(layer) is nn.Linear
    assert type(to_digital(converted)) is nn.Linear
    assert type(convert(nn.LSTM(4, 3), COARSE)) is AnalogLSTM
    attention = convert(nn.MultiheadAttention(4, 2), COARSE)
    assert (type(attention), type(attention.out_proj)) == (AnalogMultiheadAttention, AnalogOutProjection)


def test_training_modes_and_hooks_and_frozen_parameters_stay():
    model = Net()
    model.features.eval()
    model.head.weight.requires_grad_(False)
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append("forward"))
    model.head.register_forward_pre_hook(lambda *_: seen.append("before"))
    for net in (converted := convert(model, COARSE), to_digital(converted)):
        assert [module.training for module in net.features] == [False] * 4
        assert net.head.training
        assert not net.head.weight.requires_grad
        assert net.head.bias.requires_grad
        seen.clear()
        net(torch.randn(2, 1, 8, 8))
        assert seen == ["before", "forward"]
    assert len(net.head._forward_pre_hooks) == 1


def test_shared_module_is_converted_once():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": nn.Linear(4, 4)})
    converted = convert(model, COARSE)
    assert converted["a"] is converted["b"][0]
    assert analog_names(converted) == ["a", "c"]
    digital = to_digital(converted)
    assert digital["a"] is digital["b"][0]
    assert type(digital["a"]) is nn.Linear


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7), "other": nn.Linear(4, 7)})
    model["head"].weight = model["embedding"].weight
    model["other"].weight = model["head"].weight
    for net in (converted := convert(model, COARSE), to_digital(converted)):
        assert net["head"].weight is net["embedding"].weight is net["other"].weight
        assert net["head"].weight is not model["head"].weight
    converted["head"](converted["embedding"](torch.tensor([1, 2]))).sum().backward()
    assert converted["embedding"].weight.grad is converted["head"].weight.grad
    assert converted["embedding"].weight.grad.isfinite().all()


def test_layers_learn_their_names_and_streams():
    converted = convert(Net(), HardwareProfile(dac={"bits": 8}))
    assert [layer.stream for _, layer in analog_layers(converted)] == [0, 1, 2]
    with pytest.raises(AnalogSimError, match=r"features\.0 = AnalogConv2d"):
        converted(torch.zeros(1, 1, 8, 8))


def test_converting_anew_changes_the_profile():
    first = convert(Net(), COARSE)
    second = convert(first, COARSE.varied(noise={"output": 0.5}))
    assert {layer.profile.noise.output for _, layer in analog_layers(first)} == {0.05}
    assert {layer.profile.noise.output for _, layer in analog_layers(second)} == {0.5}
    third = convert(second, COARSE, keep_digital="head")
    assert [layer.profile.noise.output for _, layer in analog_layers(third)] == [0.05, 0.05, 0.5]
    lstm = convert(convert(nn.LSTM(3, 4), COARSE), HardwareProfile())
    assert {layer.profile for _, layer in analog_layers(lstm)} == {HardwareProfile()}


def test_converting_anew_forgets_ranges_that_mean_something_else():
    """input_range is in activation units; adc_full_scale depends on the tile, the weights' scale and input_range."""
    profile = HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"})
    model = convert(Net(), profile)
    calibrate(model, torch.randn(4, 1, 8, 8), progress=False)
    head = model.head
    for change, kept in [
        ({"noise": {"output": 1.0}}, (True, True)),
        ({"adc": {"bits": 4}}, (True, True)),
        ({"tile": {"rows": 8}}, (True, False)),
        ({"weight": {"w_max": "tensor"}}, (True, False)),
        ({"dac": {"input_range": 1.0}}, (False, False)),
    ]:
        again = convert(model, profile.varied(**change)).head
        ranges = (again.input_range, again.adc_full_scale)
        assert tuple(torch.equal(a, b) for a, b in zip(ranges, (head.input_range, head.adc_full_scale))) == kept
        assert tuple(not value.isnan() for value in ranges) == kept


# --- keep_digital ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("head", ["features.0", "features.2"]),
        ("features", ["head"]),
        ("features.*", ["head"]),
        ("*.0", ["features.2", "head"]),
        (nn.Linear, ["features.0", "features.2"]),
        (nn.Sequential, ["head"]),
        (lambda name, module: getattr(module, "in_channels", 0) == 1, ["features.2", "head"]),
        (["head", "features.0"], ["features.2"]),
        (("head", nn.BatchNorm2d), ["features.0", "features.2"]),
        ([lambda name, module: name.endswith("2"), "features.0"], ["head"]),
        ([], ["features.0", "features.2", "head"]),
        (iter(["head"]), ["features.0", "features.2"]),
    ],
)
def test_keep_digital(rules, expected):
    assert analog_names(convert(Net(), COARSE, keep_digital=rules)) == expected


def test_a_shared_module_stays_where_a_rule_names_any_of_its_places():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": nn.Linear(4, 4)})
    for rule in ("a", "b", "b.0", nn.Sequential):
        assert analog_names(convert(model, COARSE, keep_digital=rule)) == ["c"]


def test_parts_of_attention_can_stay_digital():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)})
    part = convert(model, COARSE, keep_digital="attention.out_proj")["attention"]
    assert type(part.out_proj) is nn.modules.linear.NonDynamicallyQuantizableLinear
    assert analog_names(part) == ["crossbar_q", "crossbar_k", "crossbar_v"]
    part(*[torch.randn(3, 2, 4)] * 3)
    with pytest.raises(ConversionError, match="nothing to convert"):
        convert(model, COARSE, keep_digital=nn.MultiheadAttention)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("haed", "no module is called 'haed'; there are features, features.0"),
        (["head", "layers.*"], r"no module is called 'layers\.\*'"),
        (int, "a rule is a layer's name or pattern.*got int"),
        (3, "got int"),
        ([None], "got NoneType"),
        (nn.Linear(2, 2), "got Linear"),
        ("*", "nothing to convert"),
    ],
)
def test_bad_rules_are_refused(rules, message):
    with pytest.raises(ConversionError, match=message):
        convert(Net(), COARSE, keep_digital=rules)


def test_nothing_to_convert_is_refused():
    with pytest.raises(ConversionError, match="ReLU: nothing to convert: no layer of Linear, .*LSTM"):
        convert(nn.ReLU(), COARSE)
    with pytest.raises(ConversionError, match="no layer is analog"):
        to_digital(Net())


def test_what_is_no_model_or_no_profile_is_refused():
    with pytest.raises(ConversionError, match="an nn.Module is needed, got str"):
        convert("model", COARSE)
    with pytest.raises(ConversionError, match="an nn.Module is needed, got list"):
        to_digital([])
    with pytest.raises(ProfileError, match="got str"):
        convert(Net(), "8bit")


def test_lazy_modules_are_refused_until_they_have_weights():
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))
    with pytest.raises(ConversionError, match=r"1: LazyLinear has no weights yet; run one batch"):
        convert(model, COARSE)
    assert analog_names(convert(model, COARSE, keep_digital="1")) == ["0"]
    model(torch.zeros(1, 4))
    assert analog_names(convert(model, COARSE)) == ["0", "1"]
    with pytest.raises(ConversionError, match="the model: LazyConvTranspose2d"):
        convert(nn.LazyConvTranspose2d(4, 3), COARSE)


def test_subclasses_are_refused():
    """A subclass's own forward would be lost; named in keep_digital it stays. In place, nothing has changed by then."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Cell(nn.LSTMCell):
        def forward(self, x):
            return super().forward(x)[0]

    model = nn.ModuleDict({"ok": nn.Linear(2, 2), "special": nn.Sequential(Scaled(2, 2))})
    with pytest.raises(ConversionError, match=r"special\.0: Scaled is a subclass.*keep_digital"):
        convert(model, COARSE, inplace=True)
    assert type(model["ok"]) is nn.Linear
    assert analog_names(convert(model, COARSE, keep_digital=Scaled)) == ["ok"]
    with pytest.raises(ConversionError, match="Cell is a subclass"):
        convert(Cell(2, 2), COARSE)


# --- parametrisations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_convert_train_and_return(norm):
    apply = getattr(parametrizations, norm)
    model = nn.Sequential(apply(nn.Conv2d(1, 4, 3)), nn.Flatten(), apply(nn.Linear(4 * 16, 5)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    converted = convert(model, COARSE)
    # Reading a spectrally normed weight iterates its vectors: conversion must not.
    for net in (model, converted):
        assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert isinstance(converted[0], AnalogConv2d)
    assert parametrize.is_parametrized(converted[0], "weight")
    x, y = torch.randn(16, 1, 6, 6), torch.randint(5, (16,))
    optimizer = torch.optim.SGD(converted.parameters(), 0.5)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(converted(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in converted.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    digital = to_digital(converted)
    assert digital.state_dict().keys() == before.keys()
    parametrize.remove_parametrizations(digital[0], "weight")
    assert type(digital[0]) is nn.Conv2d
    # Last: torch shares the dynamic class among copies, and takes the weight off it.
    copied = copy.deepcopy(converted)
    parametrize.remove_parametrizations(copied[0], "weight")
    assert type(copied[0]) is AnalogConv2d


def test_layers_parametrised_after_conversion():
    converted = convert(nn.Sequential(nn.Linear(4, 3)), COARSE)
    parametrizations.weight_norm(converted[0])
    converted(torch.randn(2, 4)).sum().backward()
    digital = to_digital(converted)
    assert isinstance(digital[0], nn.Linear)
    assert not isinstance(digital[0], AnalogLayer)
    assert parametrize.is_parametrized(digital[0], "weight")


def test_parametrised_modules_of_several_matrices():
    attention, lstm = nn.MultiheadAttention(4, 2), nn.LSTM(3, 4)
    parametrizations.weight_norm(attention, "in_proj_weight")
    parametrizations.weight_norm(lstm, "weight_hh_l0")
    for module, inputs in ((attention, [torch.randn(3, 2, 4)] * 3), (lstm, [torch.randn(3, 2, 3)])):
        converted = convert(module, COARSE)
        converted(*inputs)[0].square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())
        assert to_digital(converted).state_dict().keys() == module.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_hook_based_weight_norm_works_in_place_and_says_so():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    verbs = (
        lambda: convert(model, COARSE),
        lambda: inject_noise(model, NoiseSpec()),
        lambda: prepare_qat(model),
        lambda: noise_sweep(model, (torch.randn(2, 4), torch.zeros(2, dtype=torch.int64))),
    )
    for verb in verbs:
        with pytest.raises(ConversionError, match="cannot be copied.*inplace=True.*parametrizations"):
            verb()
    convert(model, COARSE, inplace=True)
    model(torch.randn(2, 4)).sum().backward()
    assert model[0].weight_g.grad.isfinite().all()
    assert model[0].weight_v.grad.isfinite().all()
    with pytest.raises(ConversionError, match="cannot be copied"):
        to_digital(model)


# --- weights in and out ----------------------------------------------------------------------------------------------


def test_state_dict_round_trip():
    profile = HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}, noise={"output": 0.1})
    model = convert(Net(), profile)
    calibrate(model, torch.randn(4, 1, 8, 8), progress=False)
    other = convert(Net(), profile)
    other.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 1, 8, 8)
    for net in (model, other):
        set_seed(net.eval(), 1)
    assert torch.equal(model(x), other(x))


def test_a_digital_state_dict_loads_and_keeps_the_ranges():
    model, digital = convert(Net(), COARSE), Net()
    model.head.input_range.fill_(3.0)
    state = digital.state_dict()
    keys = list(state)
    model.load_state_dict(state, strict=True)
    assert list(state) == keys
    assert float(model.head.input_range) == 3.0
    assert torch.equal(model.head.weight, digital.head.weight)
    with pytest.raises(RuntimeError, match="Missing key.*head.weight"):
        model.load_state_dict({key: value for key, value in state.items() if key != "head.weight"}, strict=True)
    with pytest.raises(RuntimeError, match="Unexpected key.*head.input_range"):
        digital.load_state_dict(model.state_dict(), strict=True)


def test_a_deep_copy_is_independent():
    model = convert(Net(), COARSE)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight.zero_()
        other.head.input_range.fill_(5.0)
    other.head.profile = HardwareProfile()
    set_seed(other, 3)
    assert model.head.weight.any()
    assert model.head.input_range.isnan()
    assert (model.head.profile, model.head.seed) == (COARSE, None)


def test_whole_models_can_be_saved(tmp_path):
    model = convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.LSTM(3, 2)), COARSE)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    x = torch.randn(5, 4)
    for net in (model, loaded):
        set_seed(net, 2)
    assert torch.equal(model(x)[0], loaded(x)[0])
