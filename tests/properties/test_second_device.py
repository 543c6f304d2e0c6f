"""Everything works on a device that is not the CPU: nothing mixes the two, and results are the reference's."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch.utils.backend_registration
from torch import nn

import analogsim as an
from analogsim.profile import presets
from analogsim.training.data import load_data
from analogsim.training.group.group import Group, Member
from analogsim.training.spec import TrainSpec
from analogsim.training.train import train
from models.lenet import LeNet5

if torch.cuda.is_available():
    pytest.skip("with a second kind of accelerator, torch no longer knows the streams of CUDA", allow_module_level=True)

if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch makes no device in Python", allow_module_level=True)

from tests.support.elsewhere import NAME, crossings, elsewhere  # noqa: E402 - makes that device

VARIED = {"mean": 0.8, "spread": 0.4, "per": "image"}


@pytest.fixture(autouse=True)
def _there():
    with elsewhere():
        yield


@pytest.fixture(scope="module")
def data():
    return load_data("digits").subset(256, 128)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]


LAYERS = {
    "linear": (lambda: nn.Linear(20, 7), (5, 20)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    "lstm": (lambda: nn.LSTM(6, 5), (4, 2, 6)),
    "attention": (Attention, (2, 4, 8)),
}


def test_it_is_a_device_of_its_own():
    x = torch.ones(3, device=NAME)
    assert x.device.type == NAME
    assert (x + x).tolist() == [2, 2, 2]
    for wrong in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(3)]), x.numpy, x.data_ptr):
        with pytest.raises((RuntimeError, TypeError), match="elsewhere"):
            wrong()


def first(out):
    return out[0] if isinstance(out, tuple) else out


# All that is made of linear layers and convolutions, on two pieces of hardware; those two on every one.
EVERYWHERE = ("linear", "conv2d, groups")
CASES = [(layer, p) for layer in LAYERS for p in presets() if layer in EVERYWHERE or p in ("8bit", "pcm")]


@pytest.mark.parametrize(("layer", "preset"), CASES)
def test_layers_give_what_the_reference_gives_and_have_gradients(preset, layer):
    make, shape = LAYERS[layer]
    profile = an.HardwareProfile.load(preset)
    module, x = make(), torch.rand(shape)
    results = []
    for device in ("cpu", NAME):
        model = an.convert(module, profile)
        for _, one in an.analog_layers(model):
            one.backend = "reference"
        model, there = model.to(device), x.to(device)
        an.calibrate(model, [there], progress=False)
        if profile.is_drawn:
            an.program(model, seed=1)
            an.at_time(model, 3600.0)
        an.set_seed(model, 5)
        with torch.no_grad():
            out = first(model.eval()(there))
        loss = first(model.train()(there.requires_grad_())).square().sum()
        loss.backward()
        assert out.device.type == device
        assert all(p.grad is None or p.grad.device.type == device for p in model.parameters())
        assert any(p.grad is not None and p.grad.cpu().abs().sum() > 0 for p in model.parameters())
        results.append(out.cpu())
    assert results[0].equal(results[1])


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
@pytest.mark.parametrize("per", ["network", "layer", "tile"])
def test_calibration_finds_the_same_ranges(method, per, data):
    x, network = data.normalise(data.test_x[:64]), LeNet5(channels=1)
    states = []
    for device in ("cpu", NAME):
        model = an.convert(network, an.HardwareProfile.load("8bit")).to(device)
        an.calibrate(model, [x.to(device)], method, per=per, progress=False)
        states.append({name: value.cpu() for name, value in model.state_dict().items()})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=0)


def test_calibrated_ranges_are_asked_for_once_until_they_change(data):
    model = calibrated(data)
    x = data.normalise(data.test_x[:8]).to(NAME)

    def waits():
        before = crossings.total()
        with torch.no_grad():  # the reference counts what clips for gradients
            model(x)
        return crossings.total() - before

    waits()
    assert waits() == 0
    layers = [layer for _, layer in an.analog_layers(model)]
    changes = [
        lambda: layers[0].input_range.fill_(0.5),
        lambda: model.load_state_dict(model.state_dict()),
        lambda: layers[0].adc_full_scale.mul_(2),
        lambda: an.calibrate(model, [x], progress=False),
    ]
    for change in changes:
        before = model(x).cpu()
        change()
        copied = copy.deepcopy(model).to("cpu")
        for _, layer in an.analog_layers(copied):
            layer.backend = "reference"
        assert waits() > 0
        assert waits() == 0
        assert copied(x.cpu()).equal(model(x).cpu())
    assert not before.equal(model(x).cpu())


def calibrated(data, preset="8bit"):
    model = an.convert(LeNet5(channels=1), an.HardwareProfile.load(preset)).to(NAME)
    an.calibrate(model, [data.normalise(data.test_x[:64]).to(NAME)], progress=False)
    return model


@pytest.mark.parametrize("quantity", ["activations", "weights", "noise.output", "noise.read", "noise.multiplicative"])
def test_sweeps(quantity, data):
    model = calibrated(data) if quantity.startswith("noise") else LeNet5(channels=1)
    test = data.normalise(data.test_x), data.test_y  # on the CPU: the sweep carries them over
    curve = an.noise_sweep(model, test, [0.1, 100.0], 2, quantity=quantity, device=NAME, progress=False)
    assert curve.accuracies.shape == (2, 2)


@pytest.mark.parametrize("preset", ["noisy", "reram", "brainscales2"])
@pytest.mark.filterwarnings("ignore:calibrate. converters cut off")
def test_budgets(preset, data):
    model = calibrated(data, preset)
    if an.HardwareProfile.load(preset).is_drawn:
        an.program(model, seed=0)
    budget = an.noise_budget(model, data.normalise(data.test_x[:32]).to(NAME), repeats=2, progress=False)
    assert budget.equivalent_sigma > 0


def test_wander_is_the_cpus(data):
    profile = an.HardwareProfile.load("8bit").varied(noise={"wander": 0.1, "output": 0.1})
    results = []
    for device in ("cpu", NAME):
        model = an.convert(nn.Conv2d(1, 2, 3, bias=False), profile).to(device)
        nn.init.constant_(model.weight, 0.1)
        x = data.normalise(data.test_x[:8]).to(device)
        an.calibrate(model, [x], progress=False)
        an.set_seed(model, 5)
        results.append(model.eval()(x).detach().cpu())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "noise",
    [{"sigma": 0.5, "multiplicative": 0.2}, {"sigma": 0.5, "target": "weights"}, {"multiplicative": 0.2}],
    ids=str,
)
def test_injected_noise_before_and_after_moving(noise, data):
    x, y = data.normalise(data.test_x[:8]).to(NAME), data.test_y[:8].to(NAME)
    spec = an.NoiseSpec(**noise)
    for model in (
        an.inject_noise(LeNet5(channels=1).to(NAME), spec),
        an.inject_noise(LeNet5(channels=1), spec).to(NAME),
    ):
        F.cross_entropy(model(x), y).backward()
        assert all(p.grad.cpu().isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("spec", [{"scaling": "constant", "s": 0.1}, {"scaling": "dynamic"}], ids=str)
def test_quantization_aware_networks(spec, data):
    x = data.normalise(data.test_x[:8]).to(NAME)
    model = an.prepare_qat(LeNet5(channels=1), an.QATSpec(**spec)).to(NAME)
    model(x).square().sum().backward()
    assert model.eval()(x).device.type == NAME
    if spec["scaling"] == "constant":
        assert an.freeze_quantization(model)(x).device.type == NAME


TRAININGS = [
    {},
    {"sigma": 0.5, "ramp_epochs": 1},
    {"sigma": 0.5, "variance": VARIED},
    {"sigma": 0.1, "target": "weights"},
    {"multiplicative": 0.2},
]


@pytest.mark.parametrize("noise", TRAININGS, ids=str)
def test_trainings_are_resumed(noise, data, tmp_path):
    spec, whole = TrainSpec(batch_size=64, epochs=2, **noise), LeNet5(channels=1)
    model, images = copy.deepcopy(whole), iter(range(1000))

    def interrupt(module, _):
        if module.training and next(images) == 5:  # in the second epoch
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(model, data, spec, device=NAME, out=tmp_path, progress=False)
    hook.remove()
    for network, out in ((model, tmp_path), (whole, None)):
        train(network, data, spec, device=NAME, out=out, progress=False)
    for name, value in whole.state_dict().items():
        assert value.cpu().equal(model.state_dict()[name].cpu())


def test_hardware_with_learned_ranges_trains(data):
    model = calibrated(data)
    an.learn_ranges(model)
    result = train(model, data, TrainSpec(epochs=1, batch_size=64), device=NAME, progress=False)
    assert len(result.history) == 1


@pytest.mark.parametrize("how", [None, "separate"])  # None: measured there
@pytest.mark.parametrize("noise", TRAININGS, ids=str)
def test_groups(how, noise, data):
    members = [
        Member(str(seed), LeNet5(channels=1), TrainSpec(epochs=1, batch_size=64, seed=seed, **noise))
        for seed in range(2)
    ]
    Group(members, data, torch.device(NAME), how=how).run_epoch()
    assert all(len(member.history) == 1 for member in members)


@pytest.mark.parametrize("noise", TRAININGS, ids=str)
@pytest.mark.parametrize("together", [True, False])
def test_an_epoch_waits_for_the_device_as_often_however_many_steps_it_has(noise, together, data):
    def waits(batch_size):
        spec = TrainSpec(epochs=1, batch_size=batch_size, **noise)
        if together:
            members = [Member(str(seed), LeNet5(channels=1), spec.varied(seed=seed)) for seed in range(2)]
            group = Group(members, data, torch.device(NAME), how="grouped")
            before = crossings.total()
            group.run_epoch()
        else:
            train(LeNet5(channels=1), data, spec, device=NAME, progress=False)  # whatever is asked for once
            before = crossings.total()
            train(LeNet5(channels=1), data, spec, device=NAME, progress=False)
        return crossings.total() - before

    assert waits(16) == waits(128) > 0


def test_a_search(data):
    test = data.normalise(data.test_x[:64]), data.test_y[:64]
    space = {"adc.bits": [4, 8], "dac.bits": [8]}
    found = an.design_search(
        LeNet5(channels=1).to(NAME), [test], space, calibration=[test[0]], trials=2, max_drop=0.9, progress=False
    )
    assert len(found.designs) == 2
