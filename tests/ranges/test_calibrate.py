"""Calibration: streaming histograms, least-error ranges against brute force, granularity, and learned input ranges."""

import copy
import math
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from analogsim import (
    AnalogConv2d,
    AnalogConvTranspose2d,
    AnalogLinear,
    HardwareProfile,
    calibrate,
    calibrate_outputs,
    convert,
    learn_ranges,
    set_seed,
)
from analogsim.errors import AnalogSimWarning, CalibrationError, ConversionError
from analogsim.kernels import philox
from analogsim.ranges.full_scale import best_scale, conversion_error
from analogsim.ranges.histogram import BINS, Histogram, pooled
from analogsim.seeds import Stream

EIGHT = HardwareProfile(
    tile={"rows": 20}, dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}, weight={"w_max": 1.0}
)


def heavy(n=20000, seed=0):
    """Numbers with long tails, half of them zero, as after ReLU."""
    values = np.random.default_rng(seed).laplace(size=n)
    return torch.tensor(np.maximum(values, 0) * 1.3, dtype=torch.float64)


def counted(values):
    histogram = Histogram()
    histogram.add(values)
    return histogram


def quantized(values, scale, levels):
    return np.rint(np.clip(values, -scale, scale) / scale * levels) / levels * scale


# --- histograms ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_a_histogram_does_not_depend_on_the_batches(values, cuts):
    whole, parts = counted(torch.tensor(values)), Histogram()
    for part in np.split(np.array(values, np.float32), sorted(min(cut, len(values)) for cut in cuts)):
        parts.add(torch.tensor(part))
    assert (whole.top, whole.number, whole.zeros, whole.maximum) == (
        parts.top,
        parts.number,
        parts.zeros,
        parts.maximum,
    )
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.counts.sum() + whole.zeros == len(values)
    assert whole.squares == pytest.approx(parts.squares)


def test_pooled_histograms_are_the_histogram_of_all():
    parts = [heavy(1000, 1) * 9, heavy(3000, 2), -heavy(500, 3)]
    together, whole = pooled([counted(part) for part in parts]), counted(torch.cat(parts))
    np.testing.assert_array_equal(together.counts, whole.counts)
    assert (together.number, together.zeros, together.maximum) == (whole.number, whole.zeros, whole.maximum)


@pytest.mark.parametrize("percent", [10.0, 60.0, 99.0, 99.9, 100.0])
def test_percentiles_and_fractions_are_those_of_the_data(percent):
    values = heavy()
    histogram = counted(values)
    width = histogram.top / BINS
    exact = float(np.percentile(values.abs().numpy(), percent, method="inverted_cdf"))
    assert abs(histogram.percentile(percent) - exact) <= width
    level = float(values.max()) / 3
    share = float((values > level).double().mean())
    near = float(((values - level).abs() <= width).double().mean())
    assert abs(histogram.above(level) - share) <= near + 1e-12
    assert histogram.above(histogram.maximum) == 0


def test_not_finite_stays_so():
    histogram = Histogram()
    for value in (1.0, math.nan, 2.0):
        histogram.add(torch.tensor([value]))
    assert math.isnan(histogram.maximum)


# --- least error -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1, 7, 127])
@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_the_error_is_that_of_the_quantizer(levels, sigma):
    values = heavy(40000).numpy()
    scales = np.array([0.7, 2.0, 6.0])
    noisy = values + sigma * np.random.default_rng(1).standard_normal(values.shape)
    found = conversion_error(counted(torch.tensor(values)), scales, levels, sigma)
    for scale, error in zip(scales, found):
        converted = quantized(noisy, scale, levels) if levels else np.clip(noisy, -scale, scale)
        samples = (converted - noisy) ** 2
        # Five standard errors of the sample, and a percent for what a bin smooths.
        assert abs(error - samples.mean()) <= 5 * samples.std() / len(values) ** 0.5 * (sigma > 0) + 0.01 * error + 1e-9


@pytest.mark.parametrize("levels", [3, 15, 127])
def test_the_best_full_scale_is_the_best(levels):
    values = heavy().numpy()
    found = best_scale(counted(torch.tensor(values)), levels)

    def error(scale):
        return np.mean((quantized(values, scale, levels) - values) ** 2)

    least = min(error(scale) for scale in np.linspace(0.02, 1, 300) * values.max())
    assert error(found) <= 1.01 * least
    assert error(found) < 0.97 * error(values.max()), "the data is such that clipping pays"


def test_mse_ranges_are_each_converters_best():
    layer = convert(nn.Linear(40, 8), EIGHT.varied(dac={"bits": 4}, adc={"bits": 4}))
    x = heavy(40 * 500).float().view(500, 40)
    report = calibrate(layer, x, "mse")[""]
    assert report["input_range"] == pytest.approx(best_scale(counted(x), 7), rel=1e-6)
    w = layer.write(layer.weight).programmed
    sums = torch.cat([(x[:, part] @ w[:, part].T).detach().flatten() for part in (slice(0, 20), slice(20, 40))])
    expected = best_scale(counted(sums), 7) / report["input_range"]
    assert report["adc_full_scale"] == pytest.approx(expected, rel=0.02)
    assert report["input_clipped"] == pytest.approx(float((x > report["input_range"]).float().mean()), abs=1e-3)


def output_error(layer, x, exact, alpha, full_scale=None):
    layer.input_range.fill_(alpha)
    if full_scale is not None:
        layer.adc_full_scale = torch.tensor(full_scale)
    set_seed(layer, 3)
    return float((layer(x) - exact).square().mean())


@pytest.mark.parametrize("noise", [{"output": 0.05}, {"output": 0.4}, {"output": 0.2, "read": 0.05}])
def test_noise_aware_ranges_are_best_under_noise(noise):
    torch.manual_seed(1)
    digital = nn.Linear(40, 16)
    layer = convert(digital, EIGHT.varied(noise=noise, adc={"bits": 6}, weight={"w_max": "column"}))
    x = heavy(40 * 1000).float().view(1000, 40)
    with torch.no_grad():
        exact = digital(x)
        errors = {}
        for method in ("maximum", "mse", "noise-aware"):
            found = calibrate(layer, x, method)[""]
            errors[method] = output_error(layer, x, exact, found["input_range"])
        # Brute force over both ranges, by simulation.
        brute = min(
            output_error(layer, x, exact, alpha, beta * 1.0)
            for alpha in np.geomspace(0.1, 1, 14) * float(x.max())
            for beta in np.geomspace(0.5, 14, 14)
        )
    assert errors["noise-aware"] <= 1.1 * brute
    assert errors["noise-aware"] < errors["mse"] < errors["maximum"]


@pytest.mark.parametrize("method", ["mse", "noise-aware"])
def test_an_unsigned_adc_has_a_level_more_a_bit(method):
    # Sums that are never negative: b bits without a sign are b + 1 with one.
    x, scales = torch.rand(200, 30), []
    for adc in ({"bits": 3, "signed": False}, {"bits": 4}, {"bits": 3}):
        layer = convert(nn.Linear(30, 8), HardwareProfile(dac={"bits": 8}, adc=adc, noise={"output": 0.05}))
        nn.init.uniform_(layer.weight, 0, 1, generator=torch.Generator().manual_seed(0))
        calibrate(layer, [x], method, progress=False)
        scales.append(float(layer.adc_full_scale))
    assert scales[0] == scales[1] != scales[2]


@pytest.mark.parametrize("method", ["maximum", "mse"])
@pytest.mark.filterwarnings("ignore:calibrate. converters cut off")
def test_what_a_converter_without_a_sign_cannot_convert_is_beyond_its_range(method):
    """Inputs and sums that are mostly below 0: the range is that of the others, and the report counts them."""
    dac, adc = {"bits": 6, "signed": False}, {"bits": 4, "signed": False}
    layer = convert(nn.Linear(12, 8, bias=False), HardwareProfile(dac=dac, adc=adc))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 12, generator=generator) * 4 - 3
    nn.init.uniform_(layer.weight, -1, 0.5, generator=generator)
    report = calibrate(layer, x, method)[""]
    sums = (x @ (layer.weight / layer.write(layer.weight).w_max[:, None]).T).detach()
    for values, top, name, levels in (
        (x, report["input_range"], "input_clipped", 63),
        (sums, report["adc_full_scale"] * report["input_range"], "adc_clipped", 15),
    ):
        assert report[name] == pytest.approx(float(((values < 0) | (values > top)).double().mean()), abs=2e-3)
        if method == "maximum":
            assert top == pytest.approx(float(values.max()))
            continue
        steps = torch.tensor(np.geomspace(0.2, 1, 60)) * values.max() / levels
        errors = [float((((values / s).round().clamp(0, levels)) * s - values).square().mean()) for s in steps]
        own = top / levels
        error = float((((values / own).round().clamp(0, levels)) * own - values).square().mean())
        unavoidable = float(values.clamp(max=0).square().mean())
        assert error - unavoidable < 1.02 * (min(errors) - unavoidable)


def test_an_ideal_dac_converts_what_is_below_zero():
    layer = convert(nn.Linear(2, 1), HardwareProfile(dac={"signed": False}, adc={"bits": 4}))
    assert calibrate(layer, torch.tensor([[-3.0, 1.0]]))[""]["input_range"] == 3.0


def test_an_offset_that_wanders_counts_as_noise():
    x, found = heavy(40 * 500).float().view(500, 40), []
    digital = nn.Linear(40, 8)
    for noise in ({"output": 0.2}, {"wander": 0.2}, {}):
        layer = convert(digital, EIGHT.varied(noise=noise, adc={"bits": 6}))
        found.append(calibrate(layer, x, "noise-aware")[""])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("method", ["maximum", "percentile"])
@pytest.mark.parametrize("given", [None, 3.0])
@pytest.mark.filterwarnings("ignore:calibrate. converters cut off")
def test_sums_of_steps_have_the_range_of_their_bits(method, given):
    """The full scale is that of the sums as the ADC gets them, whatever α was found for the inputs."""
    dac = {"bits": 8, "step_bits": 2} | ({} if given is None else {"input_range": given})
    layer = convert(nn.Linear(40, 8, bias=False), HardwareProfile(dac=dac, adc={"bits": 6}))
    x = heavy(40 * 500).float().view(500, 40) * 4
    report = calibrate(layer, x, method)[""]
    alpha = given or report["input_range"]
    assert (alpha == pytest.approx(float(x.max()))) == (given is None and method == "maximum")
    w = layer.write(layer.weight).programmed
    codes = (x / alpha).clamp(-1, 1).mul(127).round()
    sums = [codes.sign() * (codes.abs() // 4**j % 4) / 3 @ w.T for j in range(4)]
    sums = torch.stack(sums).abs().double().flatten()
    want = sums.max() if method == "maximum" else np.percentile(sums.numpy(), 99.9)
    assert report["adc_full_scale"] == pytest.approx(float(want), rel=5e-3 if given or method == "maximum" else 0.1)


def test_noise_aware_ranges_know_slices_and_steps():
    """Each conversion's error counts with the square of its coefficient; brute force over α, by simulation."""
    torch.manual_seed(1)
    digital = nn.Linear(40, 16)
    sliced = {"weight": {"bits": 8}, "cells": {"bits": 1, "mapping": "differential"}, "noise": {"output": 0.2}}
    layer = convert(
        digital, EIGHT.varied(dac={"bits": 6, "step_bits": 1}, adc={"bits": 8, "full_scale": 20.0}, **sliced)
    )
    x = heavy(40 * 400).float().view(400, 40)
    with torch.no_grad():
        exact = digital(x)
        found = calibrate(layer, x, "noise-aware")[""]["input_range"]
        brute = min(output_error(layer, x, exact, a) for a in np.geomspace(0.1, 1, 20) * float(x.max()))
        assert output_error(layer, x, exact, found) <= 1.1 * brute


def test_an_ideal_dac_sets_no_limit_to_the_signal():
    layer = convert(nn.Linear(20, 4), EIGHT.varied(dac={"bits": None}, noise={"output": 0.1}))
    x = torch.randn(50, 20)
    assert calibrate(layer, x, "noise-aware")[""]["input_range"] == pytest.approx(float(x.abs().max()))


# --- granularity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
def test_network_layer_and_tile(method):
    model = convert(nn.Sequential(nn.Linear(50, 12), nn.ReLU(), nn.Linear(12, 5)), EIGHT.varied(noise={"output": 0.1}))
    x = torch.randn(200, 50) * torch.linspace(0.1, 2, 50)
    network, layer, tile = (calibrate(model, x, method, per=per) for per in ("network", "layer", "tile"))
    assert network["0"]["adc_full_scale"] == network["2"]["adc_full_scale"]
    assert layer["0"]["adc_full_scale"] != layer["2"]["adc_full_scale"]
    assert len(tile["0"]["adc_full_scale"]) == 3
    assert len(tile["2"]["adc_full_scale"]) == 1
    assert max(tile["0"]["adc_full_scale"]) >= 0.9 * layer["0"]["adc_full_scale"]
    assert tile["0"]["adc_full_scale"][0] < 0.8 * tile["0"]["adc_full_scale"][2]
    assert model[0].adc_full_scale.tolist() == pytest.approx(tile["0"]["adc_full_scale"])
    assert all(network[name]["input_range"] == layer[name]["input_range"] for name in ("0", "2"))
    model(x)


def test_the_profile_says_what_shares_a_full_scale():
    model = convert(nn.Linear(50, 12), EIGHT.varied(adc={"per": "tile"}))
    assert len(calibrate(model, torch.randn(9, 50))[""]["adc_full_scale"]) == 3
    assert isinstance(calibrate(model, torch.randn(9, 50), per="layer")[""]["adc_full_scale"], float)


def test_tiles_of_a_convolution():
    model = convert(nn.Conv2d(8, 4, 3), EIGHT)
    x = torch.randn(10, 8, 6, 6) * torch.linspace(0.2, 2, 8).view(8, 1, 1)
    report = calibrate(model, x, per="tile")[""]
    w = model.write(model.weight).programmed
    for tile, scale in enumerate(report["adc_full_scale"]):
        part = slice(2 * tile, 2 * tile + 2)
        sums = nn.functional.conv2d(x[:, part], w[:, part])
        assert scale * report["input_range"] == pytest.approx(float(sums.abs().max()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:calibrate. converters cut off")
def test_clip_fractions_beyond_constant_ranges():
    model = convert(nn.Linear(20, 6), EIGHT.varied(dac={"input_range": 0.5}, adc={"full_scale": 1.0}))
    x = torch.randn(400, 20)
    report = calibrate(model, x)[""]
    w = model.write(model.weight).programmed
    assert report["input_clipped"] == pytest.approx(float((x.abs() > 0.5).float().mean()), abs=2e-3)
    assert report["adc_clipped"] == pytest.approx(float(((x @ w.T).abs() > 0.5).float().mean()), abs=2e-3)


def test_what_cannot_be_is_refused():
    model = convert(nn.Linear(4, 2), EIGHT)
    with pytest.raises(CalibrationError, match="method is one of maximum"):
        calibrate(model, torch.randn(2, 4), "median")
    with pytest.raises(CalibrationError, match="per: 'network'"):
        calibrate(model, torch.randn(2, 4), per="column")
    with pytest.raises(CalibrationError, match="not finite"):
        calibrate(model, torch.full((2, 4), torch.nan))
    with pytest.raises(CalibrationError, match="all zero"):
        calibrate(model, torch.zeros(2, 4), "mse")
    assert model._observer is None


# --- learned ranges --------------------------------------------------------------------------------------------------


def straight_through(exact, value):
    return exact + (value - exact).detach()


def emulated(x, w, bias, alpha, noise, rows, full_scale, levels):
    """One linear layer in differentiable torch, w_max = 1: rounding straight through, clipping by torch's clamp."""
    x_hat = (x / alpha).clamp(-1, 1)
    x_hat = straight_through(x_hat, (x_hat * levels).round() / levels)
    total = 0
    for tile, start in enumerate(range(0, x.shape[1], rows)):
        s = x_hat[:, start : start + rows] @ w[:, start : start + rows].T + noise[tile]
        s = s.clamp(-full_scale, full_scale)
        step = full_scale / levels
        total = total + straight_through(s, (s / step).round() * step)
    return alpha * total + bias


def learning(layer, alpha, full_scale=0.9):
    layer = layer.double()
    layer.input_range.fill_(alpha)
    layer.adc_full_scale.fill_(full_scale)
    with torch.no_grad():
        layer.weight.mul_(0.9 / layer.weight.abs().amax())
    (parameter,) = learn_ranges(layer)
    set_seed(layer, 4)
    return layer, parameter


NOISY = HardwareProfile(
    tile={"rows": 6},
    dac={"bits": 5},
    weight={"w_max": 1.0},
    noise={"output": 0.2},
    adc={"bits": 5, "full_scale": "calibrated"},
)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_the_gradient_of_a_linear_layer(alpha):
    layer, parameter = learning(AnalogLinear(15, 7, profile=NOISY), alpha)
    x, g = torch.randn(20, 15, dtype=torch.float64), torch.randn(20, 7, dtype=torch.float64)
    out = layer(x)
    out.backward(g)
    noise = [0.2 * philox.normals((20, 7), 4, Stream.READ + 1, tile) for tile in range(3)]
    free = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    w = layer.weight.detach().requires_grad_()
    want = emulated(x, w, layer.bias.detach(), free, noise, 6, float(layer.adc_full_scale), 15)
    torch.testing.assert_close(out, want.detach(), atol=1e-5, rtol=1e-5)
    want.backward(g)
    torch.testing.assert_close(parameter.grad.double(), free.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight.grad, w.grad, rtol=1e-5, atol=1e-6)
    clipped = (x.abs() > alpha).double() * x.sign()
    pact = (g * (clipped @ w.detach().T)).sum()
    assert abs(float(pact - free.grad)) > 0.01 * abs(float(free.grad)), "a rule without rounding must fail this test"


@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_convolutions_is_that_of_the_product(groups):
    layer, parameter = learning(AnalogConv2d(4, 6, 3, padding=1, groups=groups, profile=EIGHT), 0.8, 2.0)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    out = layer(x)
    g = torch.randn_like(out)
    out.backward(g)
    columns = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).unflatten(-1, (groups, -1))
    free = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    parts = []
    for group in range(groups):
        own = slice(group * 6 // groups, (group + 1) * 6 // groups)
        w = layer.weight.detach()[own].flatten(1)
        flat = columns[:, :, group].flatten(0, 1)
        scale = float(layer.adc_full_scale)
        parts.append(emulated(flat, w, layer.bias.detach()[own], free, [0.0] * 2, 18, scale, 127))
    want = torch.cat(parts, 1).view(3, 25, 6).transpose(1, 2).reshape(out.shape)
    want.backward(g)
    torch.testing.assert_close(parameter.grad.double(), free.grad, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_transposed_convolution():
    layer, parameter = learning(AnalogConvTranspose2d(6, 2, 1, profile=NOISY.varied(noise={"output": 0.0})), 0.8)
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    out = layer(x)
    g = torch.randn_like(out)
    out.backward(g)
    free = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    w = layer.weight.detach().flatten(1).T
    flat, flat_g = (v.movedim(1, -1).flatten(0, 2) for v in (x, g))
    emulated(flat, w, layer.bias.detach(), free, [0.0], 6, float(layer.adc_full_scale), 15).backward(flat_g)
    torch.testing.assert_close(parameter.grad.double(), free.grad, rtol=1e-4, atol=1e-4)


def test_training_finds_a_better_range():
    digital = nn.Linear(40, 16)
    model = convert(digital, EIGHT.varied(dac={"bits": 4}, adc={"bits": None, "full_scale": None}))
    x = heavy(40 * 400).float().view(400, 40)
    calibrate(model, x)
    with torch.no_grad():
        exact = digital(x)
        before = float((model(x) - exact).square().mean())
    start = float(model.input_range)
    optimiser = torch.optim.Adam(learn_ranges(model), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (model(x) - exact).square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        after = float((model(x) - exact).square().mean())
        learned = float(model.input_range)
        calibrate(model, x, "mse")
        best = float((model(x) - exact).square().mean())
    assert learned < start
    assert after < 0.6 * before
    assert after <= 1.1 * best


def test_learned_ranges_are_parameters_and_constants_again():
    model = convert(nn.Sequential(nn.Linear(40, 16), nn.Linear(16, 3)), EIGHT)
    calibrate(model, torch.randn(20, 40))
    keys = set(model.state_dict())
    first, _ = learn_ranges(model)
    assert {"0.input_range", "1.input_range"} <= {name for name, _ in model.named_parameters()}
    assert set(model.state_dict()) == keys
    assert model.double()[0].input_range is first
    assert first.dtype == torch.float32
    assert learn_ranges(model, False) == []
    assert "0.input_range" in dict(model.named_buffers())
    assert torch.equal(model[0].input_range, first.detach())


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(CalibrationError, match="calibrate"):
        learn_ranges(convert(nn.Linear(4, 2), EIGHT))
    with pytest.raises(ConversionError, match="calibrated"):
        learn_ranges(convert(nn.Linear(4, 2), EIGHT.varied(dac={"input_range": 1.0})))


def test_inputs_with_their_labels_are_one_batch():
    x, found = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)), []
    for batches in (x, (x, torch.zeros(64, dtype=torch.int64)), [(x, torch.zeros(64))], (x[:32], x[32:])):
        torch.manual_seed(0)
        found.append(calibrate(convert(nn.Linear(40, 3), EIGHT), batches, progress=False))
    assert found[0] == found[1] == found[2] == found[3]


# --- layers that the batches tell nothing of -------------------------------------------------------------------------


class Experts(nn.Module):
    """A body, an expert that no row is sent to, one that is never called, LoRA's pair and a head that begins at 0."""

    def __init__(self):
        super().__init__()
        self.body, self.empty, self.idle, self.dead = (nn.Linear(12, 12) for _ in range(4))
        self.a, self.b, self.head = nn.Linear(12, 3), nn.Linear(3, 12, bias=False), nn.Linear(12, 5)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.body(x)
        self.empty(x[:0])
        return self.head(x + self.b(self.a(x)) + self.dead(x * 0))


TOLD = {"body", "a"}


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
@pytest.mark.parametrize("per", ["network", "layer", "tile"])
@pytest.mark.parametrize("change", [{}, {"dac": {"step_bits": 2}}, {"noise": {"output": 0.1, "read": 0.05}}], ids=str)
def test_layers_that_the_batches_tell_nothing_of_get_ranges_and_are_named(method, per, change):
    profile = EIGHT.varied(tile={"rows": 5}, weight={"w_max": "column"}, **change)
    model, x = convert(Experts(), profile), torch.randn(50, 12)
    with pytest.warns(AnalogSimWarning) as said:
        report = calibrate(model, x, method, per=per, progress=False)
    (line,) = {str(one.message) for one in said}
    assert {name for name, row in report.items() if "assumed" in row} == set(report) - TOLD
    for name, why in {
        "empty": "never called",
        "idle": "never called",
        "dead": "inputs are all zero",
        "b": "partial sums are all zero",
        "head": "partial sums are all zero",
    }.items():
        assert why in report[name]["assumed"]
        assert f"{name} ({report[name]['assumed']})" in line
    assert "5 of 7 layers" in line
    ranges = [report[name]["input_range"] for name in TOLD]
    assert all(report[name]["input_range"] == max(ranges) for name in ("empty", "idle", "dead"))
    # The ranges of what the batches do tell are those of a network without the rest.
    alone = calibrate(copy.deepcopy(model.body), x, method, progress=False)[""]
    assert report["body"]["input_range"] == pytest.approx(alone["input_range"])
    # What is assumed is of use: filled with weights, the layers compute what they should to a few per cent.
    for name in ("head", "b", "idle"):
        layer = getattr(model, name)
        nn.init.uniform_(layer.weight, -1, 1)
        layer.profile = profile.varied(noise={"output": 0.0, "read": 0.0})
        rows = (torch.rand(200, layer.in_features) * 2 - 1) * layer.input_range / 2
        with torch.no_grad():
            exact = nn.functional.linear(rows, layer.weight, layer.bias)
            assert float((layer(rows) - exact).square().mean() / exact.var()) < 0.02
    model(x)


def test_a_percentile_of_zero_is_the_maximum():
    x = torch.zeros(500, 40)
    x[0] = torch.rand(40) + 1
    model = convert(nn.Linear(40, 8), EIGHT)
    with pytest.warns(AnalogSimWarning, match="at this percentile"):
        report = calibrate(model, x, "percentile", percentile=50.0, progress=False)[""]
    assert report["input_range"] == pytest.approx(float(x.max()))


def test_what_a_converter_without_a_sign_never_sees_is_said():
    model = convert(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), EIGHT.varied(dac={"signed": False}))
    nn.init.constant_(model[0].weight, -0.1)
    nn.init.constant_(model[0].bias, -0.1)
    with pytest.warns(AnalogSimWarning, match=r"1 \(its inputs are all 0 or below, and their converter has no sign\)"):
        calibrate(model, torch.rand(20, 6), progress=False)
    model(torch.rand(20, 6))


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
def test_a_tile_that_saw_only_zeros_has_a_range(method):
    """Pruned rows, and one-hot inputs that never reach a tile: without a word, for any full scale does."""
    digital = nn.Linear(60, 8)
    with torch.no_grad():
        digital.weight[:, 20:40] = 0.0
    x = torch.eye(60)[:15].repeat(3, 1)  # the third tile gets no input at all
    model = convert(digital, EIGHT.varied(adc={"per": "tile"}, weight={"w_max": "column"}))
    scales = calibrate(model, x, method, progress=False)[""]["adc_full_scale"]
    assert len(scales) == 3
    assert all(0 < scale < math.inf for scale in scales)
    error = (model(x) - digital(x)).detach()
    assert error.square().mean() < 0.05 * digital.weight.detach().square().mean()


CUT = "converters cut off much of what these layers get: "


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"dac": {"signed": False}}, r"1 \(5\d% of its inputs are below 0, and their converter has no sign\)"),
        ({"adc": {"signed": False}}, r"partial sums are below 0, and their converter has no sign\); give"),
        ({"dac": {"input_range": 1.0}}, r"1 \(3\d% of its inputs are beyond a range that is given\); give"),
        ({"adc": {"full_scale": 0.5}}, "partial sums are beyond a range that is given"),
        ({"adc": {"full_scale": 0.5, "bound_management": 6}}, None),  # read again, of smaller inputs
        ({}, None),
        ({"dac": {"input_range": 3.0}}, None),  # 0.3 % are beyond it
    ],
)
@pytest.mark.parametrize("method", ["maximum", "mse"])
def test_what_converters_cut_off_is_said_with_its_share(profile, said, method):
    base = HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}).varied(**profile)
    torch.manual_seed(0)
    analog = convert(nn.Sequential(nn.Flatten(), nn.Linear(16, 9)), base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate(analog, torch.randn(400, 4, 4), method=method, progress=False)
    found = [str(one.message) for one in caught]
    assert len(found) == (said is not None)
    assert all(CUT in one and re.search(said, one) and "\n" not in one for one in found)


def test_warnings_name_the_line_that_calls():
    """Not a line of torch's, whose decorators stand between."""
    two = convert(nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)]), HardwareProfile.load("8bit"))
    x = torch.randn(9, 4)
    for verb in (calibrate, calibrate_outputs):
        with pytest.warns(AnalogSimWarning) as caught:
            verb(two, x, step=lambda model, batch: (model[0](batch), None), progress=False)
        assert {warning.filename for warning in caught} == {__file__}
