"""The presets of real chips."""

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.profile import HardwareProfile

# Largest error of an untrained network, relative to how its outputs differ between inputs: at least twice what it is.
CHIPS = {"brainscales2": 3.0, "isaac": 0.001, "pcm": 0.6, "reram": 0.4, "sonos": 0.2, "sram": 0.1}


@pytest.mark.parametrize(("name", "largest"), CHIPS.items())
def test_presets_compute_a_network(name, largest):
    """Each preset runs a small network, about as well as it should, and the same when replayed."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    digital = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 9))
    x = torch.rand(40, 3, 8, 8)
    with torch.no_grad():
        want = digital(x)
        model = an.convert(digital, HardwareProfile.load(name)).eval()
        an.calibrate(model, x, progress=False)
        an.set_seed(model, 0)
        an.program(model, 1)
        an.at_time(model, 3600.0)
        got = model(x)
        an.set_seed(model, 0)
        assert torch.equal(model(x), got)
    centred = want - want.mean(0)
    error = float(((got - want) - (got - want).mean(0)).square().mean().sqrt() / centred.square().mean().sqrt())
    assert largest / 20 < error < largest
    assert model[0].profile.is_deep


@pytest.mark.parametrize("name", CHIPS)
def test_presets_cite_every_number(name):
    """Every line with a number says in a comment where it is from, or that it is assumed."""
    text = (an.profile._preset_dir() / f"{name}.yaml").read_text()
    fields = text[text.index("\ntile:") :].splitlines()
    before = ""
    for line in fields:
        value = line.split("#")[0].split(":", 1)[-1]
        if any(letter.isdigit() for letter in value):
            assert "#" in line or before.lstrip().startswith("#"), line
        before = line
    assert "ssumed" in text or name == "sonos"
