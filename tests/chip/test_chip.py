"""Chips: what is drawn when a layer is programmed, that it replays, and which layers are on them."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.chip import Layout
from analogsim.errors import ConversionError, ProgrammingError
from analogsim.kernels import MatmulSpec
from analogsim.nn import AnalogConv2d, AnalogConvTranspose2d, AnalogLinear, AnalogLSTM
from analogsim.profile import HardwareProfile
from tests.support.chips import DEEP, IDEAL, effective, linear


def network(profile=DEEP):
    torch.manual_seed(3)
    digital = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4), nn.LSTM(4, 3))
    return an.convert(digital, profile).eval()


def outputs(model, x):
    with torch.no_grad():
        return model(x)[0]


def test_a_saved_chip_is_loaded_as_it_was():
    model, x = network(), torch.randn(3, 2, 6, 6)
    assert an.program(model, 11) == 11
    an.at_time(model, 1e5)
    want = outputs(model, x)
    other = network()
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other, x), want)
    assert torch.equal(outputs(copy.deepcopy(model).double().float(), x), want)
    an.at_time(model, 0.0)
    assert not torch.equal(outputs(model, x), want)
    an.at_time(model, 1e5)
    assert torch.equal(outputs(model, x), want)
    an.at_time(model, "1d")
    assert next(layer for _, layer in an.nn.analog_layers(model)).chip_seconds == 86_400
    with pytest.raises(an.AnalogSimError, match="such as 1d"):
        an.at_time(model, "1 day")
    an.program(model, 12)
    an.at_time(model, 1e5)
    assert not torch.equal(outputs(model, x), want)
    an.program(model, 11)
    an.at_time(model, 1e5)
    assert torch.equal(outputs(model, x), want)


def test_layers_and_cells_are_drawn_independently():
    profile = IDEAL.varied(programming={"sigma": 0.1})
    model = nn.Sequential(linear(profile, 50, 50), linear(profile, 50, 50))
    an.program(model, 0)
    a, b = (effective(layer) - layer.weight.detach().numpy() for layer in model)
    # 2500 pairs: |r| < 4.5/√2500 has a false-alarm rate below 1e-5.
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.09
    assert abs(np.corrcoef(a.ravel(), a.T.ravel())[0, 1]) < 0.09


def test_a_chip_that_was_not_programmed():
    model, x = network(), torch.randn(3, 2, 6, 6)
    with pytest.raises(ProgrammingError, match=r"0 = .*run program\(model, seed\) before evaluating"):
        model(x)
    with pytest.raises(ProgrammingError, match="never programmed"):
        an.at_time(model, 3.0)
    model.train()
    torch.manual_seed(0)
    first, second = outputs(model, x), outputs(model, x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(outputs(model, x), first)
    an.set_seed(model, 4)
    first, second = outputs(model, x), outputs(model, x)
    an.set_seed(model, 4)
    assert not torch.equal(first, second)
    assert torch.equal(outputs(model, x), first)


def test_programming_is_refused_where_it_means_nothing():
    with pytest.raises(ConversionError, match="no layer is analog"):
        an.program(nn.Linear(2, 2))
    with pytest.raises(ProgrammingError, match="seed"):
        an.program(network(), -1)
    model = network()
    an.program(model, 1)
    for seconds in (-1.0, math.nan, math.inf, None, [3.0], 10**400, torch.ones(2)):
        with pytest.raises(ProgrammingError, match="seconds"):
            an.at_time(model, seconds)


def test_another_profile_is_another_chip():
    model = network()
    an.program(model, 1)
    an.convert(model, DEEP.varied(programming={"sigma": 0.01}), inplace=True)
    with pytest.raises(ProgrammingError):
        model(torch.randn(3, 2, 6, 6))
    digital = an.to_digital(model)
    assert not [key for key in digital.state_dict() if "chip" in key]


def test_a_convolution_is_its_unfolded_product():
    """Cells, faults, wires and ADCs of a convolution are those of the linear layer on its unfolded input."""
    profile = DEEP.varied(
        tile={"mapping": "im2col"}, wires={"row": 1e-4, "column": 1e-4}, weight={"bits": 6}, cells={"bits": 2}
    )
    conv = AnalogConv2d(3, 7, 3, bias=False, dtype=torch.float64, profile=profile).eval()
    flat = AnalogLinear(27, 7, bias=False, dtype=torch.float64, profile=profile).eval()
    flat.weight.data.copy_(conv.weight.data.flatten(1))
    x = torch.randn(20, 3, 3, 3, dtype=torch.float64)
    for layer in (conv, flat):
        an.program(layer, 1)
        an.at_time(layer, 1e4)
    torch.testing.assert_close(conv(x).flatten(1), flat(x.flatten(1)), atol=1e-12, rtol=0)


def test_other_layers_run_on_chips_too():
    for layer, x in (
        (AnalogConvTranspose2d(4, 6, 3, groups=2, profile=DEEP), torch.randn(2, 4, 5, 5)),
        (AnalogLSTM(4, 3, profile=DEEP), torch.randn(5, 2, 4)),
    ):
        an.program(layer.eval(), 2)
        with torch.no_grad():
            got, want = (model(x) for model in (layer, an.to_digital(layer)))
            got, want = (out[0] if isinstance(out, tuple) else out for out in (got, want))
        error = float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
        assert 1e-4 < error < 0.3


def test_what_a_profile_does_not_use_costs_nothing():
    """A layer on a plain profile gets a plain kernel and plain weights, and keeps no chip."""
    layer = AnalogLinear(5, 3, profile=HardwareProfile.load("8bit"))
    written = layer.write(layer.weight.detach())
    assert written.chip is None
    profile = IDEAL.varied(cells={"mapping": "differential"}, programming={"sigma": 0.02}, drift={"nu": 0.05})
    layer = AnalogLinear(5, 3, profile=profile).eval()
    an.program(layer, 1)
    kernel = layer.plan(torch.zeros(1, 5), layer.weight.detach()).kernel
    assert kernel.name == "numba"
    assert layer.write(layer.weight).chip is layer.write(layer.weight).chip  # built once


def test_backend_by_name():
    layer = AnalogLinear(5, 3, profile=IDEAL.varied(adc={"full_scale": 2.0, "gain_error": 0.1})).eval()
    an.program(layer, 1)
    want = layer(torch.ones(1, 5))
    for backend in ("numba", "reference"):
        layer.backend = backend
        torch.testing.assert_close(layer(torch.ones(1, 5)), want)


@pytest.mark.parametrize("noise", [{"distribution": "laplace"}, {"distribution": "uniform"}, {"wander": 0.1}], ids=str)
def test_noise_of_every_shape_is_the_references(noise):
    profile = IDEAL.varied(noise={"output": 0.1, "read": 0.02} | noise)
    for layer, x in ((AnalogLinear(9, 5), torch.rand(40, 9)), (AnalogConv2d(2, 3, 3), torch.rand(4, 2, 6, 6))):
        layer.profile = profile
        outs = []
        for backend in ("numba", "reference"):
            layer.backend = backend
            an.set_seed(layer, 3)
            outs.append(layer.eval()(x))
        torch.testing.assert_close(*outs, atol=2e-6, rtol=1e-5)


def test_calibration_sees_every_slice():
    """With calibrated ranges no conversion of the calibration data clips, whatever is sliced."""
    profile = HardwareProfile(
        tile={"rows": 16},
        dac={"bits": 5, "step_bits": 1},
        weight={"bits": 5},
        cells={"mapping": "differential", "bits": 2},
        programming={"sigma": 0.02},
        adc={"bits": 10, "full_scale": "calibrated"},
    )
    model = an.convert(nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5)), profile)
    x = torch.randn(200, 40)
    report = an.calibrate(model, x, progress=False)
    assert report["0"]["input_range"] == pytest.approx(float(x.abs().max()))
    layer = model[0].eval()
    layer.profile = profile.varied(programming={"sigma": 0.0})
    with torch.no_grad():
        plan = layer.plan(x, layer.weight)
        kernel, spec, read = plan.kernel, plan.read.spec, replace(plan.read, record_clips=True)
        _, clips = kernel.matmul(x, layer.weight, read)
    assert sum(clips.counts) == 0
    tight = MatmulSpec(spec.rows, spec.input_range, 5, True, spec.adc_full_scale * 0.9, 10)
    with torch.no_grad():
        assert sum(kernel.matmul(x, layer.weight, replace(read, spec=tight))[1].counts) > 0


@given(st.integers(1, 9), st.integers(1, 4), st.none() | st.integers(1, 5), st.integers(1, 20), st.integers(1, 7))
def test_arrays_hold_every_weight_once(width, groups, cols, k, rows):
    n = width * groups
    layout = Layout.of(MatmulSpec(rows=rows).tiles(k), n, groups, cols)
    seen = np.zeros((n, k), int)
    for outputs_, inputs in layout.arrays():
        seen[outputs_, inputs] += 1
        assert outputs_.start // width == (outputs_.stop - 1) // width
        assert cols is None or outputs_.stop - outputs_.start <= cols
    assert (seen == 1).all()
    block = layout.block_of(torch.device("cpu"))
    assert len(block) == n
    assert layout.tile_of(torch.device("cpu")).tolist() == [r // min(rows, k) for r in range(k)]
