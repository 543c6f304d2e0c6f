"""What a calibrated range is for is kept with it: it is refused or forgotten, in a line, on hardware that is other."""

import copy

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

import analogsim as an
from analogsim.errors import CalibrationError

BASE = an.HardwareProfile(
    tile={"rows": 8},
    dac={"bits": 8},
    adc={"bits": 8, "full_scale": "calibrated"},
    weight={"bits": 7},
    cells={"mapping": "differential", "bits": 3},
)
# A change, the field that the message names, and whether the input range outlives it.
CHANGES = [
    ({"dac": {"signed": False}}, "dac.signed", False),
    ({"dac": {"step_bits": 2}}, "dac.step_bits", False),
    ({"tile": {"rows": 4}}, "tile.rows", True),
    ({"tile": {"rows": None}}, "tile.rows", True),
    ({"tile": {"mapping": "im2col"}}, "tile.mapping", True),
    ({"weight": {"w_max": "tensor"}}, "weight.w_max", True),
    ({"weight": {"w_max": 1.0}}, "weight.w_max", True),
    ({"weight": {"w_max": "tile"}}, "weight.w_max", True),
    ({"weight": {"w_max": {"percentile": 99.0}}}, "weight.w_max", True),
    ({"weight": {"bits": 4}}, "weight.bits", True),
    ({"cells": {"bits": 2}}, "cells.bits", True),
    ({"cells": {"mapping": "offset"}}, "cells.mapping", True),
    ({"cells": {"subtraction": "digital"}}, "cells.subtraction", True),
    ({"cells": {"g_min": 0.1}}, "cells.g_min", True),
    ({"adc": {"signed": False}}, "adc.signed", True),
    ({"dac": {"symmetric": False}}, "dac.symmetric", False),
    ({"adc": {"symmetric": False}}, "adc.symmetric", True),
]
KEPT = [
    {"adc": {"bits": 5}},
    {"dac": {"bits": 5}},
    {"adc": {"rounding": "down"}},
    {"adc": {"sum_bits": 12}},
    {"adc": {"kind": "ramp"}},
    {"noise": {"output": 0.1, "read": 0.1}},
    {"name": "other"},
]


def test_steps_of_inputs_are_seen_as_measured_dacs_apply_them():
    """The second code of two bits a step is twice as large; whole codes are seen as they should be."""
    steps, table = BASE.varied(dac={"step_bits": 1}), [-1.0, 0.0, 1.0]
    model = calibrated(steps)
    assert (calibrated(steps.varied(dac={"inl": table})).head.adc_full_scale > 1.5 * model.head.adc_full_scale).all()
    for _, layer in an.analog_layers(model):
        layer.profile = steps.varied(dac={"inl": table})
    with pytest.raises(CalibrationError, match=r"calibrated for another dac\.inl \(now .{,60}\); run calibrate"):
        model(X)
    whole = [float(code != 0) for code in range(-127, 128)]
    for _, layer in an.analog_layers(kept := calibrated()):
        layer.profile = BASE.varied(dac={"inl": whole})
    kept(X)


class Net(nn.Module):
    """A convolution, an attention and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.attend, self.head = (
            nn.Conv2d(2, 8, 3),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = self.conv(x).relu().flatten(2).transpose(1, 2)
        return self.head(self.attend(x, x, x)[0].mean(1))


X = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def calibrated(profile=BASE, method="maximum"):
    torch.manual_seed(0)
    model = an.convert(Net(), profile).eval()
    an.calibrate(model, X, method, progress=False)
    return model


def by_assignment(profile):
    model = calibrated()
    for _, layer in an.analog_layers(model):
        layer.profile = profile
    return model


def by_loading(profile, **options):
    model = an.convert(Net(), profile).eval()
    model.load_state_dict(calibrated().state_dict(), **options)
    return model


def by_file(profile, path):
    save_model(calibrated(), str(path / "model.safetensors"))
    model = an.convert(Net(), profile).eval()
    load_model(model, str(path / "model.safetensors"))
    return model


WAYS = {
    "assigned": lambda profile, path: by_assignment(profile),
    "loaded": lambda profile, path: by_loading(profile),
    "loaded, not strict": lambda profile, path: by_loading(profile, strict=False),
    "loaded, assigned": lambda profile, path: by_loading(profile, assign=True),
    "copied": lambda profile, path: copy.deepcopy(by_assignment(profile)),
    "cast": lambda profile, path: by_assignment(profile).half().float(),
    "from a file": by_file,
}


@pytest.mark.parametrize(("change", "field", "_"), CHANGES, ids=str)
@pytest.mark.filterwarnings("ignore:calibrate. converters cut off")
def test_other_hardware_is_refused_by_name(change, field, _, tmp_path):
    profile = BASE.varied(**change)
    for way, make in WAYS.items():
        if way not in ("assigned", "loaded") and field not in ("dac.signed", "tile.rows"):
            continue
        model = make(profile, tmp_path)
        with pytest.raises(CalibrationError, match=rf"^conv = .*calibrated for another.*{field} \(now .*run calibrate"):
            model(X)
        if field != "dac.signed":  # which the head's inputs, all below 0, are nothing for
            an.calibrate(model, X, progress=False)
            model(X)


@pytest.mark.parametrize("change", KEPT, ids=str)
def test_what_ranges_do_not_depend_on_may_change(change, tmp_path):
    for make in WAYS.values():
        make(BASE.varied(**change), tmp_path)(X)


@pytest.mark.parametrize("method", ["mse", "noise-aware"])
@pytest.mark.parametrize("change", [{"adc": {"bits": 5}}, {"dac": {"bits": 5}}], ids=str)
def test_ranges_of_least_error_are_for_their_bits(method, change):
    model = calibrated(method=method)
    for _, layer in an.analog_layers(model):
        layer.profile = BASE.varied(**change)
    with pytest.raises(CalibrationError, match=r"calibrated for another (adc|dac)\.bits"):
        model(X)


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
@pytest.mark.parametrize("change", [{"rounding": "down"}, {"sum_bits": 9}, {"kind": "sar"}], ids=str)
def test_how_the_adc_rounds_and_adds_up_moves_no_range(method, change):
    """So it is not in the record: sums are seen before they are converted, and taken to be rounded to the nearest."""
    noisy = BASE.varied(noise={"output": 0.05})
    plain, other = (calibrated(one, method) for one in (noisy, noisy.varied(adc=change)))
    for (_, mine), (_, theirs) in zip(an.analog_layers(plain), an.analog_layers(other), strict=True):
        assert torch.equal(mine.input_range, theirs.input_range)
        assert torch.equal(mine.adc_full_scale, theirs.adc_full_scale)
        assert mine.calibrated_for == theirs.calibrated_for


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(("change", "_", "input_range_stays"), CHANGES, ids=str)
def test_conversion_forgets_what_is_for_other_hardware(change, _, input_range_stays, by_hand):
    model = calibrated()
    if by_hand:
        for _, layer in an.analog_layers(model):
            layer.calibrated_for = None
    again = an.convert(model, BASE.varied(**change))
    assert again.head.adc_full_scale.isnan()
    assert again.head.input_range.isnan() == (not input_range_stays)
    with pytest.raises(CalibrationError, match="never set; run calibrate"):
        again(X)
    for _, layer in an.analog_layers(again):  # by hand again, which nobody refuses
        layer.input_range.fill_(2.0)
        layer.adc_full_scale.fill_(2.0)
    again(X)
    assert torch.equal(model(X), calibrated()(X)), "the first is as it was"


def test_records_are_tensors_beside_the_ranges_and_go_with_them():
    model = calibrated()
    state = model.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = an.convert(Net(), BASE).eval()
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(X), model(X))
    # Without a record (a file of an earlier version) nothing is known of its ranges, whatever was here.
    older = {key: value for key, value in state.items() if "calibrated_for" not in key}
    other.load_state_dict(older, strict=True)
    assert all(layer.calibrated_for is None for _, layer in an.analog_layers(other))
    assert torch.equal(other(X), model(X))
    # A digital state leaves the ranges and what they are for.
    model.load_state_dict(Net().state_dict(), strict=True)
    assert all(layer.calibrated_for is not None for _, layer in an.analog_layers(model))
    digital = an.to_digital(model)
    assert set(digital.state_dict()) == set(Net().state_dict())


def test_learned_ranges_keep_their_record():
    model = calibrated()
    an.learn_ranges(model)
    for _, layer in an.analog_layers(model):
        layer.profile = BASE.varied(dac={"signed": False})
    with pytest.raises(CalibrationError, match=r"dac\.signed"):
        model(X)
