"""Each layer alone on hardware, and any field of the hardware as an axis."""

import importlib
import re

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.ages import seconds, text
from analogsim.analysis.fields import varied
from analogsim.analysis.sensitivity import LayerSensitivity, Sensitivity
from analogsim.errors import (
    AnalogSimError,
    AnalogSimWarning,
    DataError,
    FitError,
    ProfileError,
    SearchError,
    ShapeError,
    UnreachedWarning,
)

NOISY = an.HardwareProfile(name="noisy", noise={"output": 0.3}, tile={"rows": 16})
EXACT = an.HardwareProfile(name="exact")


class Slope:
    """How near the output is to the target: 1 / (1 + mean square error)."""

    def reset(self) -> None:
        self.errors: list[torch.Tensor] = []

    def update(self, preds, target) -> None:
        self.errors.append((preds - target).square().flatten())

    def compute(self) -> float:
        return float(1 / (1 + torch.cat(self.errors).double().mean()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)).eval()


@pytest.fixture
def data(net):
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    return x, net(x).detach()


def test_a_layer_alone_is_the_network_converted_but_for_the_others(net, data):
    found = an.sensitivity(net, NOISY.varied(dac={"input_range": 3.0}), data, metric=Slope(), chips=2, seed=5)
    assert found.digital == 1.0
    assert {layer.name for layer in found.layers} == {"0", "2", "4"}
    assert all(len(layer.alone) == len(layer.others) == len(found.whole) == 2 for layer in found.layers)
    # By hand, with another seed, so to the statistics of 1,200 outputs.
    for layer in found.layers:
        others = [name for name in ("0", "2", "4") if name != layer.name]
        for keep, values in ((others, layer.alone), ([layer.name], layer.others)):
            by_hand = an.convert(net, NOISY.varied(dac={"input_range": 3.0}), keep_digital=keep).eval()
            an.set_seed(by_hand, 99)
            wanted = (by_hand(data[0]) - data[1]).square().mean().item()
            errors = [1 / value - 1 for value in values]
            assert errors == pytest.approx([wanted] * 2, rel=0.25)
    assert [float(sum(layer.others)) for layer in found.layers] == sorted(
        (float(sum(layer.others)) for layer in found.layers), reverse=True
    )


def test_chips_of_a_layer_are_the_same_whichever_others_are_on_hardware(net, data):
    profile = an.HardwareProfile(programming={"sigma": 0.05}, cells={"mapping": "differential"})
    first = an.sensitivity(net, profile, data, metric=Slope(), chips=2, seed=3)
    again = an.sensitivity(net, profile, data, metric=Slope(), chips=2, seed=3)
    assert first == again
    kept = nn.Sequential(*(module for module in net))
    chip = an.convert(kept, profile, keep_digital=["0", "2"]).eval()
    full = an.convert(kept, profile).eval()
    an.program(full, an.seeds.derive(3, an.seeds.Key.SENSITIVITY, 0, 0))
    an.program(chip, 0)
    chip[4].chip_seed = full[4].chip_seed
    score = Slope()
    score.reset()
    score.update(chip(data[0]).detach(), data[1])
    alone = next(layer.alone[0] for layer in first.layers if layer.name == "4")
    assert score.compute() == pytest.approx(alone, rel=1e-6)


def test_exact_hardware_costs_nothing_and_the_network_is_left_alone(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = an.sensitivity(net, EXACT, data, metric=Slope())
    assert all(layer.alone == layer.others == (1.0,) for layer in found.layers)
    assert not any(an.analog_layers(net))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    frame = found.to_frame()
    assert frame["share"].sum() == pytest.approx(1)
    assert (frame["lost_alone"] == 0).all()
    assert "digital 1; all on exact 1" in str(found)
    assert "<table" in found._repr_html_()


def test_a_module_of_several_matrices_is_one_layer():
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    net = Recurrent().eval()
    x = torch.randn(32, 5, 6)
    found = an.sensitivity(net, NOISY, (x, net(x).detach()), metric=Slope(), chips=1)
    assert {layer.name for layer in found.layers} == {"lstm", "head"}


def test_every_combination_is_what_it_says(net, data):
    axes = {"age": ["0", "1y"], "noise.output": [0.0, 0.3], "tile.rows": [4, 16]}
    base = an.HardwareProfile(
        dac={"input_range": 3.0}, programming={"sigma": 0.02}, drift={"nu": 0.05}, cells={"mapping": "differential"}
    )
    found = an.hardware_sweep(net, data, axes, profile=base, metric=Slope(), chips=2, seed=1)
    frame = found.to_frame()
    assert len(frame) == 2 * 2 * 2 * 2
    assert set(frame.columns) == {"age", "noise.output", "tile.rows", "chip", "value"}
    mean = frame.groupby(["age", "noise.output"])["value"].mean()
    assert mean["0", 0.0] > mean["1y", 0.0]
    assert mean["0", 0.0] > mean["0", 0.3]
    # More tiles, more noise.
    by_rows = frame[(frame["noise.output"] == 0.3) & (frame["age"] == "0")].groupby("tile.rows")["value"].mean()
    assert by_rows[16] > by_rows[4]
    assert len(found.table().frame()) == 8
    assert found.digital == 1.0


def test_an_interrupted_sweep_goes_on_and_ends_as_one_that_was_not(net, data, tmp_path, monkeypatch):
    """Stopped in its third combination, it measures only what is missing."""
    module = importlib.import_module("analogsim.analysis.hardware_sweep")
    axes = {"adc.bits": [3, 4, 5, 6], "age": [0, "1d"]}
    settings = {"profile": an.HardwareProfile.load("pcm"), "metric": Slope(), "chips": 2}
    wanted = an.hardware_sweep(net, data, axes, **settings)
    calibrate, calls = module.calibrate, []

    def stopping(*args, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        calibrate(*args, **more)

    monkeypatch.setattr(module, "calibrate", stopping)
    journal = tmp_path / "new" / "sweep.journal"
    with pytest.raises(KeyboardInterrupt):
        an.hardware_sweep(net, data, axes, **settings, storage=journal)
    assert an.hardware_sweep(net, data, axes, **settings, storage=journal) == wanted
    assert len(calls) == 3 + 2
    assert an.hardware_sweep(net, data, axes, **settings, storage=journal) == wanted
    assert len(calls) == 5, "all is there"
    other_net = nn.Sequential(
        *(nn.Linear(*layer.weight.shape[::-1]) if hasattr(layer, "weight") else layer for layer in net)
    )
    with pytest.raises(SearchError, match="another network"):
        an.hardware_sweep(other_net, (data[0], other_net(data[0]).detach()), axes, **settings, storage=journal)
    for other in ({"chips": 3}, {"seed": 1}, {"profile": an.HardwareProfile.load("hermes")}, {"method": "mse"}):
        with pytest.raises(SearchError, match="another network, other data or other hardware"):
            an.hardware_sweep(net, data, axes, **settings | other, storage=journal)
    journal.write_text(journal.read_text().replace('"0": [', '"0": [[0.5, 0.5], ', 1))
    with pytest.raises(SearchError, match="damaged"):
        an.hardware_sweep(net, data, axes, **settings, storage=journal)


def test_calibration_is_an_axis_and_ranges_are_found_anew(net, data):
    profile = an.HardwareProfile.load("8bit")
    axes = {"adc.bits": [3, 8], "calibration": ["maximum", "noise-aware"]}
    found = an.hardware_sweep(net, data, axes, profile=profile, metric=Slope())
    values = {(p["adc.bits"], p["calibration"]): v[0] for p, v in found.points}
    assert values[8, "maximum"] > values[3, "maximum"]
    assert values[3, "noise-aware"] > values[3, "maximum"]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"adc.bit": [3]}, "did you mean 'adc.bits'"),
        ({"cols": [3]}, "did you mean 'tile.cols'"),
        ({"columns": [3]}, "no field"),
        ({"adc.bits": [0]}, "adc.bits"),
        ({"age": ["soon"]}, "such as 1d"),
        ({"calibration": ["max"]}, "choose maximum"),
    ],
)
def test_impossible_axes_are_refused_before_anything_is_computed(axes, words, net):
    class Never:
        def __iter__(self):
            raise AssertionError("asked for data")

    with pytest.raises(ProfileError, match=words):
        an.hardware_sweep(net, Never(), axes, profile=EXACT)


def test_no_axes_and_no_chips_are_refused(net, data):
    for axes, chips in (({}, 1), ({"adc.bits": []}, 1), ({"adc.bits": [4]}, 0)):
        with pytest.raises(AnalogSimError, match="at least"):
            an.hardware_sweep(net, data, axes, profile=EXACT, chips=chips)
    with pytest.raises(AnalogSimError, match="chips"):
        an.sensitivity(net, EXACT, data, chips=0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(0, 0), (90, 90), ("90", 90), ("1.5h", 5400), ("1 d", 86400), ("2w", 1209600), ("1y", 31557600), ("1mo", 2629800)],
)
def test_ages_are_read(text, wanted):
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "d", "-1", "1x", "nan", "inf", "1e999", "1 d d", None])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ProfileError, match="age"):
        seconds(text)


@pytest.mark.parametrize(
    ("age", "wanted"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (5400, "1.5 h"),
        (86400, "1 d"),
        (2629800, "1 mo"),
        (2629801, "30.4 d"),
        (31557600, "1 y"),
    ],
)
def test_ages_are_shown_in_the_largest_unit(age, wanted):
    assert text(age) == wanted
    assert seconds(wanted) == pytest.approx(age, rel=2e-3)


VERBS = [
    lambda net, data, **options: an.sensitivity(net, EXACT, data, **options),
    lambda net, data, **options: an.hardware_sweep(net, data, {"tile.rows": [4]}, profile=EXACT, **options),
]


@pytest.mark.parametrize("verb", VERBS)
def test_accuracy_of_what_is_no_classifier_is_refused(verb, net, data):
    x = data[0]
    with pytest.raises(ShapeError, match="at least 2 classes"):
        verb(nn.Sequential(nn.Linear(8, 1)), (x, torch.zeros(len(x), dtype=torch.long)))
    with pytest.raises(DataError, match="0 … 2"):
        verb(net, (x, torch.full((len(x),), 3)))
    with pytest.raises(DataError, match="empty"):
        verb(net, (x[:0], torch.zeros(0, dtype=torch.long)))


@pytest.mark.parametrize("verb", VERBS)
def test_a_metric_is_copied_and_must_be_one(verb, net, data):
    metric = Slope()
    verb(net, data, metric=metric)
    assert not hasattr(metric, "errors")
    with pytest.raises(FitError, match="reset, update and compute"):
        verb(net, data, metric=Slope)


@pytest.mark.parametrize("verb", VERBS)
def test_layers_that_are_never_called_are_named(verb, data):
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.used(x)

    net = Half().eval()
    with pytest.warns(AnalogSimWarning) as said:
        verb(net, (data[0], net(data[0]).detach()), metric=Slope())
    own = [str(one.message) for one in said if one.category is UnreachedWarning]
    assert len(own) == 1
    assert re.search("1 of 2 layers .* never called: idle", own[0])


def test_fields_of_one_part_are_changed_together():
    profile = varied(EXACT, {"adc.bits": 6, "adc.full_scale": 2.0, "name": "other", "age": 3, "calibration": "mse"})
    assert (profile.adc.bits, profile.adc.full_scale, profile.name) == (6, 2.0, "other")


def test_a_method_that_is_none_is_refused_beside_other_axes(net, data):
    with pytest.raises(ProfileError, match="choose maximum"):
        an.hardware_sweep(net, data, {"tile.rows": [4]}, profile=EXACT, method="max")


def test_values_that_are_no_numbers_are_drawn_in_their_order(net, data):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = {"adc.bits": [None, 4], "programming.sigma": [0.0, [0.1, 0.2]]}
    base = an.HardwareProfile(adc={"full_scale": 4.0}, dac={"input_range": 3.0}, cells={"mapping": "differential"})
    found = an.hardware_sweep(net, data, axes, profile=base, metric=Slope())
    ax = found.plot(Figure().subplots())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["None", "4"]
    lines = [line.get_ydata().tolist() for line in ax.lines if line.get_label().startswith("programming.sigma")]
    assert len(lines) == 2
    for line, sigma in zip(lines, axes["programming.sigma"]):
        points = [value for point, (value,) in found.points if point["programming.sigma"] == sigma]
        assert line == pytest.approx(points)


def test_pictures_show_every_line(net, data):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    sweep = an.hardware_sweep(
        net, data, {"noise.output": [0.1, 0.2], "age": [0, "1d"]}, profile=NOISY, metric=Slope(), chips=2
    )
    ax = sweep.plot(Figure().subplots())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["age 0", "age 1d", "digital network"]
    ax = an.sensitivity(net, NOISY, data, metric=Slope()).plot(Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()][::-1][0] in ("0", "2", "4")


def test_no_bits_are_drawn_that_there_are_not(net, data):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    profile = NOISY.varied(adc={"bits": 8, "full_scale": 4.0})
    found = an.hardware_sweep(net, data, {"adc.bits": [4, 6]}, profile=profile, metric=Slope())
    ax = found.plot(Figure().subplots())
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_the_legend_stays_within_the_picture_beside_long_names():
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = tuple(
        LayerSensitivity(f"encoder.layer.{number}.attention.output.dense", 9, (0.9,), (0.8,)) for number in range(4)
    )
    found = Sensitivity(layers, 1.0, (0.7,), "pcm", an.Measure("rank_agreement"))
    figure = Figure(figsize=(8, 1.4 + 0.28 * len(layers)), layout="constrained")
    ax = found.plot(figure.subplots())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
    assert 0 <= legend.y0 < legend.y1 <= figure.bbox.height
