"""Outputs that are corrected by what was measured on a chip: the fit, what it is for, and when it is refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import AnalogSimWarning, CalibrationError, ProgrammingError
from tests.support.processes import two_processes

PCM = an.HardwareProfile.load("pcm").varied(drift={"compensation": "none"})
ERRORS = an.HardwareProfile(
    dac={"bits": 8, "input_range": 4.0},
    adc={"bits": 8, "full_scale": 6.0, "gain_error": 0.1, "offset_error": 0.05},
    tile={"rows": 8},
)


def measured(digital, x, profile, seed=1, age=None):
    analog = an.convert(digital, profile).eval()
    if "calibrated" in (profile.dac.input_range, profile.adc.full_scale):
        an.calibrate(analog, x, progress=False)
    an.program(analog, seed)
    if age is not None:
        an.at_time(analog, age)
    return analog


def error(analog, digital, x):
    with torch.no_grad():
        return float((analog(x) - digital(x)).norm() / digital(x).norm())


def test_the_fit_is_numpys_and_is_what_the_layer_computes():
    torch.manual_seed(0)
    digital, x = nn.Linear(20, 7, dtype=torch.float64), torch.randn(90, 20, dtype=torch.float64)
    analog = measured(digital, x, ERRORS)
    with torch.no_grad():
        before = (analog(x) - analog.bias).numpy()
        wanted = (digital(x) - digital.bias).numpy()
    report = an.calibrate_outputs(analog, x, progress=False)
    fits = [np.polyfit(before[:, n], wanted[:, n], 1) for n in range(7)]
    np.testing.assert_allclose(analog.correction.gain, [fit[0] for fit in fits], rtol=1e-5)
    np.testing.assert_allclose(analog.correction.offset, [fit[1] for fit in fits], atol=1e-6)
    with torch.no_grad():
        got = (analog(x) - analog.bias).numpy()
    want = np.stack([np.polyval(fit, before[:, n]) for n, fit in enumerate(fits)], 1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    rms = np.sqrt((wanted**2).sum())
    assert report[""]["before"] == pytest.approx(np.sqrt(((before - wanted) ** 2).sum()) / rms, rel=1e-6)
    assert report[""]["after"] == pytest.approx(np.sqrt(((got - wanted) ** 2).sum()) / rms, rel=1e-4)
    assert report[""]["after"] < 0.3 * report[""]["before"]


LAYERS = {
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (20, 4, 6, 6)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (20, 4, 5, 5)),
    "lstm": (lambda: nn.LSTM(8, 5), (12, 9, 8)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), (10, 6, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_is_measured_and_corrected(kind):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    digital, x = make().eval(), torch.randn(shape)
    profile = ERRORS.varied(adc={"gain_error": 0.2, "bits": 12}, dac={"bits": 12})
    analog = measured(digital, x, profile)

    def off():
        with torch.no_grad():
            out, want = analog(x), digital(x)
            out, want = (v[0] if isinstance(v, tuple) else v for v in (out, want))
            return float((out - want).norm() / want.norm())

    first = off()
    report = an.calibrate_outputs(analog, x, progress=False)
    assert set(report) == {name for name, _ in an.analog_layers(analog)}
    assert all(one["after"] < 0.7 * one["before"] for one in report.values())
    assert off() < 0.7 * first


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_on_what_it_was_fitted_to_it_is_never_worse(seed):
    torch.manual_seed(seed)
    digital, x = nn.Linear(12, 4), torch.randn(40, 12)
    profile = ERRORS.varied(noise={"output": 0.3}, programming={"sigma": 0.05})
    report = an.calibrate_outputs(measured(digital, x, profile), x, seed=seed, progress=False)
    assert report[""]["after"] <= report[""]["before"] * (1 + 1e-6)


def test_what_drifts_apart_in_one_factor_comes_back():
    torch.manual_seed(0)
    digital, x = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)), torch.randn(300, 40)
    analog = measured(digital, x, PCM.varied(drift={"nu": 0.06, "nu_sigma": 0.0}), age=86400.0)
    first = error(analog, digital, x)
    an.calibrate_outputs(analog, x, progress=False)
    assert error(analog, digital, x) < 0.35 * first


def test_a_correction_is_saved_with_its_chip_and_goes_with_it():
    torch.manual_seed(0)
    digital, x = nn.Sequential(nn.Linear(20, 7)), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS)
    an.calibrate_outputs(analog, x, progress=False)
    with torch.no_grad():
        want = analog(x)
    other = an.convert(digital, ERRORS).eval()
    other.load_state_dict(analog.state_dict())
    assert torch.equal(other(x), want)
    assert torch.equal(copy.deepcopy(analog)(x), want)
    assert other[0].correction.seconds == 0.0
    an.at_time(other, 3600.0)  # measured when the chip was new, and still what is applied
    assert torch.equal(other[0].correction.gain, analog[0].correction.gain)
    an.program(other, 1)
    assert other[0].correction is None
    assert not torch.equal(other(x), want)
    assert an.convert(analog, ERRORS)[0].correction is None
    fresh = measured(digital, x, ERRORS, seed=5)
    analog.load_state_dict(fresh.state_dict())
    assert analog[0].correction is None
    assert "output_correction" not in "".join(an.to_digital(analog).state_dict())


def test_a_file_holds_it(tmp_path):
    digital, x = nn.Sequential(nn.Linear(20, 7)), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS)
    an.calibrate_outputs(analog, x, progress=False)
    an.save(analog, tmp_path / "net.safetensors")
    loaded = an.load(tmp_path / "net.safetensors", nn.Sequential(nn.Linear(20, 7))).eval()
    assert torch.equal(loaded(x), analog(x))


def test_another_chip_or_other_hardware_is_refused():
    digital, x = nn.Linear(20, 7), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS)
    an.calibrate_outputs(analog, x, progress=False)
    analog.profile = ERRORS.varied(noise={"output": 0.1}, name="louder")  # reads only
    analog(x)
    analog.profile = ERRORS.varied(adc={"gain_error": 0.2})
    with pytest.raises(CalibrationError, match="on other hardware than 'custom' is now; run calibrate_outputs"):
        analog(x)
    analog.profile = ERRORS
    analog.chip_seed += 1
    with pytest.raises(CalibrationError, match="measured on another chip"):
        analog(x)
    an.calibrate_outputs(analog, x, progress=False)
    analog(x)
    analog.train()(x)  # on chips of its own, uncorrected
    with pytest.raises(CalibrationError, match="never set"):
        an.calibrate_outputs(an.convert(digital, an.HardwareProfile.load("8bit")), x, progress=False)
    with pytest.raises(ProgrammingError, match="run program"):
        an.calibrate_outputs(an.convert(digital, ERRORS), x, progress=False)


def test_what_was_measured_before_is_kept_where_the_next_fails():
    digital, x = nn.Linear(20, 7), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS)
    an.calibrate_outputs(analog, x, progress=False)
    held = analog.correction
    with pytest.raises(CalibrationError, match="not finite"):
        an.calibrate_outputs(analog, torch.full((3, 20), torch.nan), progress=False)
    assert analog.correction is held


def test_layers_that_are_not_reached_are_named_and_constant_outputs_have_a_gain_of_one():
    net = nn.ModuleDict({"used": nn.Linear(8, 3), "idle": nn.Linear(8, 3)})
    net.forward = None
    model = an.convert(nn.Sequential(nn.Linear(8, 3)), ERRORS).eval()
    model.add_module("idle", an.convert(nn.Linear(8, 3), ERRORS))
    model.forward = lambda x: model[0](x)
    with torch.no_grad():
        model[0].weight[1] = 0
    an.program(model, 1)
    with pytest.warns(AnalogSimWarning, match="never reach idle"):
        an.calibrate_outputs(model, torch.ones(30, 8), progress=False)
    assert model.idle.correction is None
    assert model[0].correction.gain.tolist() == [1, 1, 1]
    x = torch.ones(1, 8)
    torch.testing.assert_close(model[0](x), nn.functional.linear(x, model[0].weight, model[0].bias), atol=1e-5, rtol=0)


def test_the_same_seed_measures_the_same_and_another_seed_other_noise():
    digital, x = nn.Linear(20, 7), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS.varied(noise={"output": 0.2}))
    found = []
    for seed in (3, 3, 4):
        an.calibrate_outputs(analog, x, seed=seed, progress=False)
        found.append(analog.correction.gain)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_gradients_and_budgets_know_of_it():
    torch.manual_seed(0)
    digital, x = nn.Linear(20, 7), torch.randn(400, 20)
    analog = measured(digital, x, ERRORS.varied(noise={"output": 0.05}))
    an.calibrate_outputs(analog, x, progress=False)
    gain = analog.correction.gain
    inputs = torch.zeros(1, 20, requires_grad=True)
    analog(inputs)[0, 2].backward()
    torch.testing.assert_close(inputs.grad[0], gain[2] * analog.weight[2].detach(), rtol=1e-4, atol=1e-5)
    (layer,) = an.noise_budget(analog, x, repeats=8, progress=False).layers
    assert layer.total == pytest.approx(layer.measured, rel=0.05)


# --- compensation of drift by output ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["signed", "differential", "offset"])
def test_every_output_has_a_factor_of_its_own(mapping):
    torch.manual_seed(0)
    base = an.HardwareProfile(
        dac={"input_range": 1.0},
        cells={"mapping": mapping},
        programming={"sigma": 0.02},
        drift={"nu": 0.05, "nu_sigma": 0.03},
        tile={"rows": 5},
    )
    digital = nn.Linear(12, 6, bias=False, dtype=torch.float64)
    digital.weight.data[3] = 0
    eye, held = torch.eye(12, dtype=torch.float64), {}
    for rule in ("none", "output"):
        analog = measured(digital, eye, base.varied(drift={"compensation": rule}))
        with torch.no_grad():
            fresh = analog(eye).T
            an.at_time(analog, 1e6)
            held[rule] = fresh, analog(eye).T
    assert torch.equal(held["none"][0], held["output"][0])
    fresh, aged = held["none"]
    live = [0, 1, 2, 4, 5]
    factor = fresh.abs().sum(1) / aged.abs().sum(1)
    torch.testing.assert_close(held["output"][1][live], (aged * factor[:, None])[live], rtol=1e-12, atol=0)
    assert factor[live].max() > 1.05 * factor[live].min()
    assert not held["output"][1][3].any()


@pytest.mark.parametrize("rule", ["global", "output"])
@pytest.mark.parametrize("w_max", ["tile", "tile-column"])
def test_compensation_counts_weights_of_tiles_in_one_unit(rule, w_max):
    """A tile of weights twenty times smaller, in full scales of its own, says a twentieth of the drift."""
    torch.manual_seed(0)
    base = an.HardwareProfile(
        dac={"input_range": 1.0},
        weight={"w_max": w_max},
        cells={"mapping": "differential"},
        programming={"sigma": 0.02},
        drift={"nu": 0.05, "nu_sigma": 0.03},
        tile={"rows": 5, "cols": 4},
    )
    digital = nn.Linear(10, 6, bias=False, dtype=torch.float64)
    digital.weight.data[:, 5:] *= 0.05
    digital.weight.data[2, :5] = 0  # a tile's empty column, which is not read
    eye, held = torch.eye(10, dtype=torch.float64), {}
    for how in ("none", rule):
        analog = measured(digital, eye, base.varied(drift={"compensation": how}))
        with torch.no_grad():
            fresh = analog(eye).T
            an.at_time(analog, 1e6)
            held[how] = analog(eye).T
    # Of all weights together an output counts as one, whatever its size, as without tiles' full scales.
    size = digital.weight.detach().abs().amax(1)
    if w_max == "tile":
        tiles = digital.weight.detach().abs().unflatten(1, (2, 5)).amax(2)
        size = torch.cat([tiles[:4].amax(0).expand(4, 2), tiles[4:].amax(0).expand(2, 2)])
        size = size.where(tiles > 0, 0).amax(1)
    before, after = ((w / size[:, None]).abs() for w in (fresh, held["none"]))
    factor = before.sum(1) / after.sum(1) if rule == "output" else (before.sum() / after.sum()).expand(6)
    torch.testing.assert_close(held[rule], held["none"] * factor[:, None], rtol=1e-12, atol=0)


def test_a_group_has_its_own_outputs_factors():
    torch.manual_seed(0)
    profile = ERRORS.varied(
        dac={"bits": 12},
        adc={"gain_error": 0.0, "offset_error": 0.0, "bits": 12},
        drift={"nu": 0.05, "nu_sigma": 0.03, "compensation": "output"},
        cells={"mapping": "differential"},
    )
    digital, x = nn.ConvTranspose2d(4, 6, 2, groups=2), torch.randn(3, 4, 5, 5)
    analog = measured(digital, x, profile, age=1e6)
    rebuilt = copy.deepcopy(digital)
    with torch.no_grad():
        held = analog.write(analog.crossbar_weight()).scaled
        rebuilt.weight.copy_(held.unflatten(0, (2, 12)).transpose(1, 2).reshape(4, 3, 2, 2))
        assert float((analog(x) - rebuilt(x)).norm() / rebuilt(x).norm()) < 0.01  # what 12-bit converters add


def test_training_knows_nothing_of_it():
    digital, x = nn.Linear(20, 7), torch.randn(50, 20)
    analog = measured(digital, x, ERRORS)
    an.calibrate_outputs(analog, x, progress=False)
    analog.train()
    found = []
    for held in (analog.correction, None):
        analog.correction = held
        an.set_seed(analog, 1)
        found.append(analog(x))
    assert torch.equal(*found)


def test_an_offset_is_a_bias_to_what_learns_a_range():
    torch.manual_seed(0)
    profile = an.HardwareProfile(dac={"bits": 5}, adc={"bits": 6, "full_scale": 3.0}, tile={"rows": 5})
    x, g = torch.randn(9, 12), torch.randn(9, 4)
    found = []
    for correct in (True, False):
        torch.manual_seed(1)
        layer = an.AnalogLinear(12, 4, profile=profile).eval()
        layer.input_range.fill_(1.5)
        an.calibrate_outputs(layer, x, progress=False)
        offset = layer.correction.offset
        layer.correction = replace(layer.correction, gain=torch.ones(4)) if correct else None
        if not correct:
            layer.bias.data += offset
        (alpha,) = an.learn_ranges(layer)
        found.append(torch.autograd.grad((layer(x) * g).sum(), alpha)[0])
    assert offset.abs().max() > 0.01
    torch.testing.assert_close(*found)


def test_the_budget_of_groups_that_are_read_one_by_one():
    torch.manual_seed(0)
    digital, x = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), torch.randn(30, 4, 5, 5)
    analog = measured(digital, x, ERRORS)
    before = an.noise_budget(analog, x, repeats=0, progress=False).layers[0].total
    an.calibrate_outputs(analog, x, progress=False)
    (layer,) = an.noise_budget(analog, x, repeats=2, progress=False).layers
    assert layer.total < 0.5 * before
    assert layer.total == pytest.approx(layer.measured, rel=0.05)


RANKS = """
import sys
import torch, torch.distributed as dist
from torch import nn
import analogsim as an
from analogsim.errors import CalibrationError

rank, where = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
profile = an.HardwareProfile.load("pcm").varied(
    drift={"compensation": "none"}, dac={"input_range": 4.0}, adc={"full_scale": 20.0}, flicker={"amplitude": 0.0}
)
net = an.convert(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 4)), profile).eval()
an.program(net, 3)
an.at_time(net, 86400)
x = torch.randn(96, 16)
an.calibrate_outputs(net, x, progress=False)
whole = net[0].correction
dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)

def step(model, batch):  # one of them never reaches the last layer
    y = model[2](model[1](model[0](batch)))
    return (y if rank else model[3](y)), None

errors = an.calibrate_outputs(net, [x[:32]] if rank else [x[32:64], x[64:]], step=step, progress=False)
both = [None, None]
dist.all_gather_object(both, ([net[i].correction for i in (0, 2, 3)], errors))
for one, other in zip(*(corrections for corrections, _ in both)):
    assert torch.equal(one.gain, other.gain) and torch.equal(one.offset, other.offset)
assert both[0][1] == both[1][1]
assert torch.allclose(net[0].correction.gain, whole.gain, atol=1e-5)
assert torch.allclose(net[0].correction.offset, whole.offset, atol=1e-5)
an.program(net, 3 + rank)
try:
    an.calibrate_outputs(net, x, progress=False)
except CalibrationError as error:
    assert "other chips" in str(error)
    print("done")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_measure_one_chip_together(tmp_path):
    """As one process with all batches does; where only one reaches a layer, both have its correction."""
    two_processes(RANKS, tmp_path)
