"""A network on chips that age: what `evaluate` measures is what the steps by hand give."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import (
    AnalogSimError,
    AnalogSimWarning,
    ConversionError,
    ProfileError,
    ProgrammingError,
    UnreachedWarning,
)
from analogsim.robustness.sweep import accuracy
from analogsim.seeds import Key, derive

PCM = an.HardwareProfile(
    name="ageing",
    dac={"bits": 8},
    adc={"bits": 8},
    noise={"output": 0.02},
    cells={"mapping": "differential"},
    programming={"sigma": 0.05},
    drift={"nu": 0.05, "nu_sigma": 0.02},
)
PLAIN = an.HardwareProfile(name="plain", dac={"bits": 4, "input_range": 3.0}, adc={"bits": 3, "full_scale": 3.0})
X = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)).eval()


with torch.no_grad():
    Y = network()(X).argmax(1)
DATA = X, Y


def test_an_evaluation_is_what_the_steps_by_hand_give():
    model = network()
    found = an.evaluate(model, DATA, profile=PCM, chips=3, ages=("0", "1d"), calibration=X[:100], seed=7)
    assert (found.digital, found.samples, found.chance, found.profile) == (1.0, 300, 1 / 5, "ageing")
    assert found.ages == (0, 86400)
    analog = an.convert(model, PCM)
    an.calibrate(analog, X[:100], progress=False)
    for chip in range(3):
        an.program(analog, derive(7, Key.VARIED, chip, 0))
        for row, age in zip(found.values, found.ages):
            an.at_time(analog, age)
            an.set_seed(analog, derive(7, Key.VARIED, chip, 1))
            assert row[chip] == accuracy(analog, [DATA])
    assert len(set(found.values[0])) > 1
    assert found.mean[1] < found.mean[0] < 1
    assert found.std == pytest.approx([np.std(row, ddof=1) for row in found.values])


def test_a_point_of_a_hardware_sweep_is_that_evaluation():
    axes = {"adc.bits": [3, 8], "age": ["0", "1y"]}
    swept = an.hardware_sweep(network(), DATA, axes, profile=PCM, chips=2, seed=3)
    for bits in axes["adc.bits"]:
        one = an.evaluate(network(), DATA, profile=PCM.varied(adc={"bits": bits}), chips=2, ages=axes["age"], seed=3)
        assert [values for point, values in swept.points if point["adc.bits"] == bits] == list(one.values)
    twice = an.hardware_sweep(network(), DATA, {"age": [0, 0], "adc.bits": [8, 8]}, profile=PLAIN)
    assert len(twice.points) == 4, "one for each combination, whatever the values"


def test_a_converted_network_is_measured_as_it_is():
    analog = an.convert(network(), PCM)
    an.calibrate(analog, X, progress=False)
    an.program(analog, 5)
    an.at_time(analog, 1e7)
    state = {key: value.clone() for key, value in analog.state_dict().items()}
    own = an.evaluate(analog, DATA, seed=1)
    assert own.ages == (1e7,)
    assert own == an.evaluate(analog, DATA, ages=1e7, seed=1)
    assert own != an.evaluate(analog, DATA, ages=0, seed=1)
    assert all(torch.equal(value, state[key]) for key, value in analog.state_dict().items())
    an.at_time(analog[0], 0)
    mixed = an.evaluate(analog, DATA, seed=1)
    assert mixed.ages == (1e7,)
    an.set_seed(analog, derive(1, Key.VARIED, 0, 1))
    assert mixed.values == ((accuracy(analog, [DATA]),),)
    an.at_time(analog, 1e7)
    several = an.evaluate(analog, DATA, chips=3, ages=1e7, seed=1)
    an.program(analog, 6)
    assert an.evaluate(analog, DATA, ages=1e7, seed=1) != own, "it has another chip"
    assert an.evaluate(analog, DATA, chips=3, ages=1e7, seed=1) == several, "these are none of its own"
    assert several.digital == 1.0


def test_its_ranges_are_its_own_without_a_profile():
    analog = an.convert(network(), PLAIN)
    for _, layer in an.analog_layers(analog):
        layer.input_range.fill_(0.01)  # everything clips
    assert an.evaluate(analog, DATA).mean[0] < 0.6
    assert an.evaluate(analog, DATA, profile=PCM).mean[0] > 0.8


def test_a_digital_network_is_measured_with_the_noise_that_it_has():
    found = an.evaluate(network(), DATA)
    assert found.values == ((1.0,),)
    assert math.isnan(found.std[0])
    assert found.profile == "no hardware"
    noisy = an.inject_noise(network(), an.NoiseSpec(sigma=2.0, eval=True))
    assert an.evaluate(noisy, DATA).mean[0] < 0.9
    assert an.evaluate(noisy, DATA).digital == 1.0
    options = {"profile": PCM, "chips": 2, "seed": 3, "ages": np.int64(60)}
    assert an.evaluate(noisy, DATA, **options) == an.evaluate(network(), DATA, **options), "put on hardware digitally"
    for options in ({"chips": 2}, {"ages": "1d"}):
        with pytest.raises(ConversionError, match="chips, ages and outputs need a profile="):
            an.evaluate(network(), DATA, **options)


def test_chips_that_do_not_differ_are_one():
    assert len(an.evaluate(network(), DATA, profile=PLAIN, chips=10).values[0]) == 1
    assert len(an.evaluate(network(), DATA, profile=PLAIN.varied(noise={"read": 0.1}), chips=10).values[0]) == 10


def test_an_evaluation_of_a_loss_is_shown_drawn_and_written(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    found = an.evaluate(network(), DATA, metric="perplexity", profile=PCM, chips=2, ages=[0, "1h"])
    assert all(mean > found.digital for mean in found.mean)
    found.save(tmp_path / "evaluation.csv")
    frame = pd.read_csv(tmp_path / "evaluation.csv")
    assert list(frame) == ["age_s", "chip", "value"]
    assert frame.value.tolist() == pytest.approx([value for row in found.values for value in row])
    table = found.table().frame()
    assert table.worst.tolist() == [max(row) for row in found.values]
    assert table.lost.tolist() == pytest.approx([mean - found.digital for mean in found.mean])
    assert "ageing; 300 samples" in str(found)
    assert [line.split()[:2] for line in str(found).splitlines()[2:4]] == [["0", "s"], ["1", "h"]]
    assert "<table" in found._repr_html_()
    axes = found.plot(Figure().subplots())
    assert (axes.get_ylabel(), axes.get_yscale()) == ("perplexity", "log")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 s", "1 h"]


class Root(nn.Module):
    """Its output is NaN where noise makes it negative."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.net.weight)

    def forward(self, x):
        return self.net(x).sqrt()


VERBS = {
    "evaluate": lambda net, data, profile, **more: an.evaluate(net, data, profile=profile, **more).values[0],
    "hardware_sweep": lambda net, data, profile, **more: an.hardware_sweep(
        net, data, {"tile.rows": [4]}, profile=profile, **more
    ).points[0][1],
    "sensitivity": lambda net, data, profile, **more: an.sensitivity(net, profile, data, **more).whole,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_value_that_is_not_finite_is_the_worst(verb):
    x = torch.tensor([[0.5, 0.1], [0.1, 0.5]]).repeat(20, 1)
    noisy = an.HardwareProfile(noise={"output": 9})
    with pytest.warns(AnalogSimWarning, match=f"{verb}: perplexity is not finite in"):
        found = VERBS[verb](Root(), (x, torch.arange(40) % 2), noisy, metric="perplexity", chips=2)
    assert found == (2.0, 2.0)


@pytest.mark.parametrize("options", [{"chips": 0}, {"ages": []}, {"chips": 1.5}])
def test_no_chip_and_no_age_are_refused(options):
    with pytest.raises(ProgrammingError):
        an.evaluate(network(), DATA, profile=PCM, **options)


@pytest.mark.parametrize("age", ["", "1 fortnight", -1, "d", "inf", math.nan])
def test_what_is_no_age_is_refused(age):
    with pytest.raises(ProfileError, match="age: "):
        an.evaluate(network(), DATA, profile=PCM, ages=[age])


def test_layers_that_are_never_called_are_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = network(), nn.Linear(8, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(AnalogSimWarning) as said:
        an.evaluate(Half(), DATA, profile=PLAIN)
    own = [str(one.message) for one in said if one.category is UnreachedWarning]
    assert len(own) == 1
    assert own[0].startswith("evaluate: 1 of 4 layers")
    assert "idle" in own[0]


def test_a_step_calls_networks_in_its_way():
    batches = [(part.double(), labels, "text") for part, labels in zip(X.split(100), Y.split(100))]

    def step(model, batch):
        return model(batch[0].float()), batch[1]

    found = an.evaluate(network(), batches, profile=PCM, step=step, seed=2)
    assert found == an.evaluate(network(), list(zip(X.split(100), Y.split(100))), profile=PCM, seed=2)
    with pytest.raises(AnalogSimError, match="give step="):
        an.evaluate(network(), batches, profile=PCM)


def test_outputs_are_measured_on_every_chip_at_every_age():
    """Without it a chip whose drift nobody compensates is lost."""
    torch.manual_seed(0)
    net, x = torch.nn.Linear(30, 4), torch.randn(400, 30)
    labels = net(x).argmax(1)
    profile = an.HardwareProfile.load("pcm").varied(drift={"compensation": "none"})
    options = {"profile": profile, "chips": 2, "ages": [0, "1y"], "progress": False}
    plain = an.evaluate(net, (x, labels), **options)
    corrected = an.evaluate(net, (x, labels), outputs=x, **options)
    assert corrected.mean[1] > plain.mean[1] + 0.02
    alone = an.evaluate(net, (x, labels), outputs=x, **(options | {"ages": "1y"}))
    assert alone.values[0] == corrected.values[1]  # each age by itself
    with pytest.raises(an.AnalogSimError, match="outputs need a profile"):
        an.evaluate(net, (x, labels), outputs=x, progress=False)


def test_statistics_of_batch_normalisation_are_those_of_each_chip_at_each_age():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)).eval()
    before = model[1].running_var.clone()
    state = torch.random.get_rng_state()
    noisy = PCM.varied(noise={"output": 0.5})  # other noise, other statistics
    settings = {"profile": noisy, "chips": 2, "ages": ("0", "1y"), "calibration": X[:100], "seed": 3}
    found = an.evaluate(model, DATA, batch_norm=X[:200], progress=False, **settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model[1].running_var, before)
    assert an.evaluate(model, DATA, batch_norm=X[:200], progress=False, **settings) == found
    assert an.evaluate(model, DATA, progress=False, **settings).values != found.values
    # The last chip at the last age, alone: nothing is left of those before it.
    analog = an.convert(model, noisy)
    an.calibrate(analog, X[:100], progress=False)
    an.program(analog, derive(3, Key.VARIED, 1, 0))
    an.at_time(analog, 365.25 * 86400)
    an.set_seed(analog, derive(derive(3, Key.VARIED, 1, 1), Key.SWEEP_STATISTICS, 0))
    an.estimate_batch_norm(analog, X[:200], progress=False)
    an.set_seed(analog, derive(3, Key.VARIED, 1, 1))
    assert found.values[1][1] == accuracy(analog, [DATA])


def test_outputs_beside_statistics_are_those_of_a_chip_by_itself():
    """No other chip's statistics, nor those of another age, are in what its outputs are compared with."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)).eval()
    noisy = PCM.varied(noise={"output": 1.0})
    settings = {
        "profile": noisy,
        "calibration": X[:100],
        "metric": nn.functional.cross_entropy,
        "seed": 3,
        "progress": False,
    }
    adapted = {"outputs": X[:200], "batch_norm": X[:200]}
    found = an.evaluate(model, DATA, chips=2, ages=("0", "1y"), **adapted, **settings)
    one_chip = an.evaluate(model, DATA, chips=1, ages=("0", "1y"), **adapted, **settings)
    one_age = an.evaluate(model, DATA, chips=2, ages="1y", **adapted, **settings)
    assert [row[0] for row in found.values] == [row[0] for row in one_chip.values]
    assert found.values[1] == one_age.values[0]


def test_statistics_without_batch_normalisation_are_refused():
    with pytest.raises(ConversionError, match="no batch normalisation"):
        an.evaluate(network(), DATA, profile=PCM, calibration=X[:100], batch_norm=X[:200], progress=False)
