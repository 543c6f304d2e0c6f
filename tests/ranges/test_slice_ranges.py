"""Full scales of slices of weights and steps of inputs: what they mean, how they are found, and who keeps them."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim import HardwareProfile, convert
from analogsim.errors import CalibrationError, ProfileError, TranslationWarning
from analogsim.kernels import BySlice, MatmulSpec, tiled_matmul
from analogsim.nn import AnalogConv2d, AnalogLinear
from tests.support import oracle
from tests.support.chips import linear

SLICED = HardwareProfile(
    tile={"rows": 24},
    dac={"bits": 7, "input_range": 2.0, "step_bits": 3},
    weight={"bits": 7, "w_max": 1.0},
    cells={"mapping": "differential", "bits": 2},
    adc={"bits": 6, "per": "slice"},
)
ONE_STEP = SLICED.varied(dac={"step_bits": None})
VARIANTS = {
    "plain": {},
    "one step": {"dac": {"step_bits": None}},
    "one slice": {"cells": {"bits": None}},
    "digital": {"cells": {"subtraction": "digital"}},
    "errors": {"adc": {"gain_error": 0.05, "offset_error": 0.02}},
    "sar": {"adc": {"kind": "sar", "capacitor_mismatch": 0.02}},
    # Sums of cells that are where they should be lie on codes, and float32 puts half of these below.
    "down": {"adc": {"rounding": "down"}, "programming": {"sigma": 0.01}},
    "register": {"adc": {"sum_bits": 5}},
    "asymmetric": {"adc": {"symmetric": False}},
    "cells' noise": {"flicker": {"amplitude": 0.02}, "adc": {"gain_error": 0.05}},
}


def sums_of(x, w, profile):
    """The partial sums of every slice, step and tile, from codes: {(slice, step): array}; float64."""
    weights, inputs = profile.weight.levels, profile.dac.levels
    each_w, each_x = 2**profile.cells.bits, 2**profile.dac.step_bits
    w, x = np.round(w * weights), np.round(np.clip(x / profile.dac.input_range, -1, 1) * inputs)
    found = {}
    for i in range(profile.slices):
        digits_w = np.sign(w) * (np.abs(w) // each_w**i % each_w) / (each_w - 1)
        for j in range(profile.dac.steps):
            digits_x = np.sign(x) * (np.abs(x) // each_x**j % each_x) / (each_x - 1)
            tiles = [slice(at, at + profile.tile.rows) for at in range(0, w.shape[1], profile.tile.rows)]
            found[i, j] = np.stack([digits_x[:, t] @ digits_w[:, t].T for t in tiles])
    return found


def calibrated(profile, x, n=9, **options):
    layer = linear(profile, n, x.shape[1])
    report = an.calibrate(layer, x, progress=False, **options)[""]
    return layer, report


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 6), st.integers(1, 4), st.booleans(), st.integers(0, 9))
@settings(max_examples=25)
def test_each_slice_and_step_is_converted_in_its_own_range(weight_bits, cell_bits, dac_bits, step_bits, digital, seed):
    cell_bits, step_bits = min(cell_bits, weight_bits - 1), min(step_bits, dac_bits - 1)
    slices, steps = -(-(weight_bits - 1) // cell_bits), -(-(dac_bits - 1) // step_bits)
    scales = np.random.default_rng(seed).uniform(0.3, 3.0, (slices, steps))
    profile = HardwareProfile(
        tile={"rows": 5},
        dac={"bits": dac_bits, "input_range": 1.5, "step_bits": step_bits},
        weight={"bits": weight_bits, "w_max": 1.0},
        cells={"mapping": "differential", "bits": cell_bits, "subtraction": "digital" if digital else "analog"},
        adc={"bits": 6, "full_scale": scales.flatten().tolist()},
    )
    layer, levels = linear(profile, 4, 8), 2 ** (weight_bits - 1) - 1
    x = torch.randn(3, 8, dtype=torch.float64)
    want = 1.5 * oracle.sliced(
        x.numpy(),
        np.round(layer.weight.detach().numpy() * levels) / levels,
        rows=5,
        alpha=1.5,
        dac_bits=dac_bits,
        step_bits=step_bits,
        weight_bits=weight_bits,
        cell_bits=cell_bits,
        digital=digital,
        full_scale=scales.tolist(),
        adc_bits=6,
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), want, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_numba_and_convolutions_compute_what_the_reference_states(name):
    """In one pass over all lines and steps, and (a convolution of one position) plane by plane."""
    profile = SLICED.varied(**VARIANTS[name])
    torch.manual_seed(1)
    x = 0.4 * torch.randn(60, 50)
    layer = AnalogLinear(50, 9, bias=False, profile=profile)
    nn.init.normal_(layer.weight, std=0.2)
    an.program(layer.eval(), 4)
    an.calibrate(layer, x, progress=False, method="mse")
    conv = AnalogConv2d(50, 9, 1, bias=False, profile=profile).eval()
    conv.load_state_dict({k: v.view(9, 50, 1, 1) if k == "weight" else v for k, v in layer.state_dict().items()})
    assert conv.adc_full_scale.shape == (profile.slices, profile.dac.steps, 1 + (not profile.adc.symmetric))
    scales = conv.adc_full_scale.abs().amax(-1).flatten()
    assert scales.max() > 1.5 * scales.min()
    found = []
    for one, backend, inputs in ((layer, "numba", x), (layer, "reference", x), (conv, "numba", x[..., None, None])):
        an.set_seed(one, 3)
        one.backend = backend
        with torch.no_grad():
            found.append(one(inputs).flatten(1))
    # A sum at a threshold may land on the other side in float32: rarely, and by one code.
    step = float(scales.max()) / profile.adc.levels * profile.dac.input_range * 1.3
    for other in (found[0], found[2]):
        off = (other - found[1]).abs()
        assert off.max() <= step
        assert (off > 1e-4).float().mean() < 0.02


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_range_is_that_of_its_own_sums(method, symmetric):
    """Maxima and percentiles of what codes give; ranges of least error have nearly the least error of any."""
    profile = SLICED.varied(adc={"symmetric": symmetric}, noise={"output": 0.02})
    x = torch.randn(300, 60, dtype=torch.float64)
    layer, report = calibrated(profile, x, method=method, percentile=99.0)
    sums = sums_of(x.numpy(), layer.weight.detach().numpy(), profile)
    assert layer.adc_full_scale.shape == (3, 2, 1 if symmetric else 2)
    sigma = 0.02 if method == "noise-aware" else 0.0
    levels = profile.adc.levels

    def error(v, scale):
        noisy = v + sigma * np.random.default_rng(0).standard_normal(v.shape)
        return np.mean((np.clip(np.round(noisy / scale * levels), -levels, levels) * scale / levels - noisy) ** 2)

    for (i, j), own in sums.items():
        got = report["adc_full_scale"][i][j]
        np.testing.assert_allclose(layer.adc_full_scale[i, j].numpy(), got, rtol=1e-6)
        if method == "maximum" and symmetric:
            assert got == pytest.approx(np.abs(own).max(), rel=1e-6)
        elif method == "maximum":
            step = (own.max() - own.min()) / 63
            assert got == pytest.approx((own.min(), own.max()), abs=step / 2 + 1e-6)
        elif method == "percentile" and symmetric:
            assert got == pytest.approx(np.percentile(np.abs(own), 99), rel=0.02)
        elif symmetric:
            best = min(error(own, scale) for scale in np.abs(own).max() * np.linspace(0.1, 1.2, 111))
            assert error(own, got) <= 1.05 * best
    assert report["adc_clipped"] == 0 if method == "maximum" and symmetric else report["adc_clipped"] < 0.05


@pytest.mark.parametrize(("step_bits", "by_layer", "by_slice"), [(None, 0.177, 0.100), (3, 0.288, 0.116)])
def test_ranges_of_slices_are_worth_what_the_documentation_says(step_bits, by_layer, by_slice):
    """Large weights are few, so that the highest slice's sums are small: with one range for all it has few codes."""
    profile = SLICED.varied(
        tile={"rows": None},
        dac={"input_range": "calibrated", "step_bits": step_bits},
        weight={"w_max": "tensor"},
        adc={"bits": 4},
    )
    torch.manual_seed(0)
    layer = AnalogLinear(200, 16, bias=False, profile=profile).eval()
    nn.init.normal_(layer.weight, std=0.15)
    x = torch.randn(500, 200)
    exact = x @ layer.weight.detach().T
    for per, error in (("layer", by_layer), ("slice", by_slice)):
        an.calibrate(layer, x, "mse", per=per, progress=False)
        with torch.no_grad():
            assert float((layer(x) - exact).norm() / exact.norm()) == pytest.approx(error, rel=0.05)


def test_equal_ranges_are_one_range():
    x = torch.randn(40, 50, dtype=torch.float64)
    one, many = (linear(SLICED.varied(adc={"full_scale": scale}), 5, 50) for scale in (3.1, [3.1] * 6))
    assert torch.equal(one(x), many(x))


def test_gradients_stop_where_a_slice_or_step_clips():
    """The highest slice's ADC clips always, the others never: no weight has a gradient then, as with one range."""
    profile = ONE_STEP.varied(adc={"bits": None, "full_scale": [1e3, 1e3, 1e-3]})
    layer = linear(profile, 3, 20)
    x = torch.rand(6, 20, dtype=torch.float64) + 0.5
    layer(x).sum().backward()
    assert not layer.weight.grad.any()
    layer.profile = ONE_STEP.varied(adc={"bits": None, "full_scale": [1e3, 1e3, 1e3]})
    layer(x).sum().backward()
    assert layer.weight.grad.all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["plain", "one step", "errors", "register", "asymmetric"])
def test_the_budget_foretells_the_error(name, bits):
    profile = SLICED.varied(**VARIANTS[name]).varied(adc={"bits": bits}, noise={"output": 0.02})
    x = torch.randn(2000, 48)
    torch.manual_seed(2)
    layer = AnalogLinear(48, 16, bias=False, profile=profile).eval()
    nn.init.uniform_(layer.weight, -1, 1)
    an.program(layer, 0)
    an.calibrate(layer, x, "mse", progress=False)
    (line,) = an.noise_budget(layer, x, progress=False).layers
    assert line.total == pytest.approx(line.measured, rel=0.06)


def test_outputs_are_measured_and_summed_up():
    profile = SLICED.varied(adc={"gain_error": 0.1})
    x = torch.randn(400, 48)
    layer = AnalogLinear(48, 16, bias=False, profile=profile).eval()
    an.calibrate(layer, x, "mse", progress=False)
    an.program(layer, 1)
    found = an.calibrate_outputs(layer, x, progress=False)[""]
    assert found["after"] < found["before"]
    (line,) = an.summary(layer).layers
    assert line.full_scale == tuple(layer.adc_full_scale.flatten().tolist())
    layer.profile = ONE_STEP.varied(adc={"symmetric": False, "full_scale": [[-1, 2], [0, 3], [-2, 0.5]]})
    assert an.summary(layer).layers[0].full_scale == (-1, 2, 0, 3, -2, 0.5)
    assert "-2…3" in str(an.summary(layer))


def test_ranges_of_slices_live_in_the_state_dict():
    x = torch.randn(50, 48, dtype=torch.float64)
    one, _ = calibrated(SLICED, x)
    two = linear(SLICED, 9, 48)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))
    assert two.calibrated_for == one.calibrated_for
    an.calibrate(one, x, per="layer", progress=False)
    two.load_state_dict(one.state_dict())
    assert two.adc_full_scale.shape == ()


def test_ranges_of_other_slices_are_refused():
    x = torch.randn(50, 48, dtype=torch.float64)
    layer, _ = calibrated(SLICED, x)
    layer.profile = SLICED.varied(cells={"bits": 3})
    with pytest.raises(CalibrationError, match=r"cells\.bits"):
        layer(x)
    layer.calibrated_for = None
    with pytest.raises(CalibrationError, match="3 slices of weights and 2 steps of inputs, and there are 2 and 2"):
        layer(x)
    other = convert(layer, SLICED.varied(cells={"bits": 3}))
    layer.profile = SLICED
    layer.adc_full_scale[1, 1] = math.nan
    with pytest.raises(CalibrationError, match="never set"):
        layer(x)
    assert not other.training
    plain = AnalogLinear(
        48, 9, profile=SLICED.varied(adc={"per": "layer"}, dac={"step_bits": None}, cells={"bits": None})
    )
    with pytest.raises(CalibrationError, match="per 'slice': .* has neither"):
        an.calibrate(plain, x, per="slice", progress=False)


def test_profiles_say_what_ranges_they_need():
    with pytest.raises(ProfileError, match=r"adc\.per: 'slice' needs"):
        HardwareProfile(adc={"per": "slice"})
    with pytest.raises(ProfileError, match="2 numbers for 3 slices of weights .* times 1 steps"):
        ONE_STEP.varied(adc={"full_scale": [1.0, 2.0]})
    with pytest.raises(ProfileError, match=r"2 numbers for 1 slices"):
        HardwareProfile(adc={"full_scale": [1.0, 2.0]})
    with pytest.raises(ProfileError, match="symmetric: false"):
        ONE_STEP.varied(adc={"full_scale": [[-1.0, 1.0]] * 3})
    with pytest.raises(ProfileError, match="it is a range"):
        ONE_STEP.varied(adc={"symmetric": False, "full_scale": [1.0] * 3})
    given = ONE_STEP.varied(adc={"symmetric": False, "full_scale": [[-1, 2], [0, 3], [-2, 0.5]]})
    assert HardwareProfile.model_validate_json(given.model_dump_json()) == given
    assert given.adc.slice_scales[1].high == 3
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", TranslationWarning)
        config = ONE_STEP.varied(adc={"full_scale": [1.0, 2.0, 3.0]}).to_crosssim()
    assert "range for each slice" not in " ".join(str(one.message) for one in said)
    assert config["xbar"]["adc"]["mvm"]["calibrated_range"] == [[-1.0, 1.0], [-2.0, 2.0], [-3.0, 3.0]]
    with pytest.raises(ProfileError, match="slices and steps are of layers"):
        tiled_matmul(torch.ones(2, 3), torch.ones(4, 3), MatmulSpec(adc_full_scale=BySlice(((1.0,), (2.0,)))))


def test_one_slice_in_one_step_is_a_layer():
    profile = ONE_STEP.varied(cells={"bits": 6})
    x = torch.randn(50, 48, dtype=torch.float64)
    one, report = calibrated(profile, x)
    assert one.adc_full_scale.shape == (1, 1, 1)
    two, other = calibrated(profile, x, per="layer")
    assert report["adc_full_scale"] == [[other["adc_full_scale"]]]
    assert torch.equal(one(x), two(x))


def test_idle_layers_and_empty_slices_get_ranges_too():
    """Small weights leave the highest slice empty, and a layer that is never called has one range for all."""
    x = torch.randn(50, 48, dtype=torch.float64)
    layer = linear(ONE_STEP, 9, 48)
    layer.weight.data.mul_(0.2)
    report = an.calibrate(layer, x, progress=False)[""]
    assert min(scale for (scale,) in report["adc_full_scale"]) > 0
    assert layer(x).isfinite().all()
    model = nn.ModuleDict({"used": linear(SLICED, 9, 48), "idle": linear(SLICED, 9, 48)})
    model.forward = lambda batch: model["used"](batch)
    with pytest.warns(an.AnalogSimWarning, match="idle"):
        found = an.calibrate(model, x, progress=False)
    assert found["idle"]["adc_full_scale"] == max(max(steps) for steps in found["used"]["adc_full_scale"])
    assert model["idle"](x).isfinite().all()
