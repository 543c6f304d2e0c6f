"""summary: one line a layer, with numbers that are those of the layer, and a reason for what is digital."""

import copy

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import ConversionError
from tests.verbs.test_saving import IDS, PCM, Net, fresh, hardware


def by_name(model, data=None):
    return {one.name: one for one in an.summary(model, data).layers}


def test_every_matrix_has_a_line_with_its_numbers():
    model = hardware()
    found = by_name(model, IDS)
    assert list(found) == [
        "embed", "conv", "lstm.ih_l0", "lstm.hh_l0", "attention.q", "attention.k", "attention.v", "attention.out_proj",
        "top", "head",
    ]  # fmt: skip
    conv, hidden = found["conv"], found["lstm.hh_l0"]
    assert (conv.kind, conv.shape, conv.profile, conv.backend) == ("AnalogConv1d", (6, 6, 3), "pcm", "auto")
    assert conv.input_range == float(model.conv.input_range)
    assert conv.full_scale == float(model.conv.adc_full_scale)
    assert (conv.chip, conv.age) == (model.conv.chip_seed, 1e5)
    assert hidden.shape == (24, 6)
    assert hidden.chip == model.lstm.crossbar_hh_l0.chip_seed
    assert {one.calls for one in found.values()} == {1}
    assert found["top"].why == "kept digital"
    assert found["embed"].why == "looked up, not multiplied"


def test_tiles_are_those_that_cost_counts():
    """Of linear layers, convolutions with groups, transposed ones, and matrices wider than a tile."""
    profile = an.HardwareProfile(tile={"rows": 16, "cols": 8})
    net = nn.Sequential(
        nn.Conv2d(4, 12, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 2, groups=3),
        nn.Flatten(),
        nn.Linear(6 * 49, 5),
    )
    counted = {one.name: one.tiles for one in an.cost(net, profile, (4, 8, 8)).layers}
    assert {one.name: one.tiles for one in an.summary(an.convert(net, profile)).layers} == counted


def test_why_a_layer_is_digital():
    class Halved(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 2

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.v = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))

    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "halved": Halved(2, 2), "bare": Bare()})
    model["quantized"] = an.prepare_qat(nn.Linear(2, 2))
    assert {name: one.why for name, one in by_name(model).items()} == {
        "plain": "not converted",
        "halved": "a subclass that computes otherwise",
        "bare.w": "no layer stands for it",
        "bare.v": "no layer stands for it",
        "quantized": "quantized: freeze_quantization, then convert",
    }


def test_layers_that_are_never_called_have_no_calls():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(self.used(x))

    assert {name: one.calls for name, one in by_name(Idle(), torch.randn(2, 4)).items()} == {"used": 2, "idle": 0}


@pytest.mark.parametrize("width", [80, 200])
def test_it_is_a_table_in_any_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    model = nn.Sequential()
    model.add_module("a_network_with_a_long_name", nn.Sequential(hardware()))
    lines = str(an.summary(model)).splitlines()
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    for word in ("layer", "class", "shape", "tiles", "DACα", "24×6", "1.16d", "keptdigital", "weightson9tiles"):
        assert word in text or width == 80, word
    assert "24×6" in text
    frame = an.summary(model).to_frame()
    assert len(frame) == 10
    assert frame.tiles.sum() == 9
    assert "<table" in an.summary(model)._repr_html_()


def test_ranges_that_are_not_set_are_words():
    layers = by_name(an.convert(Net(), PCM))
    assert (layers["conv"].input_range, layers["conv"].full_scale) == ("not calibrated", "not calibrated")
    layers = by_name(an.convert(Net(), an.HardwareProfile(dac={"bits": 8, "input_range": "dynamic"})))
    assert (layers["conv"].input_range, layers["conv"].full_scale) == ("dynamic", None)


def test_the_network_stays_as_it_is():
    model = hardware().train()
    before, calls = copy.deepcopy(model.state_dict()), [layer.calls for _, layer in an.analog_layers(model)]
    an.summary(model, IDS)
    assert model.training
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert [layer.calls for _, layer in an.analog_layers(model)] == calls
    assert not any(module._forward_pre_hooks for module in fresh().modules())


def test_a_network_without_matrices_is_refused():
    with pytest.raises(ConversionError, match="no layer of it has a matrix"):
        an.summary(nn.Sequential(nn.ReLU()))
