"""Cells whose current is no product: g·x + NL₂(g)·x² + NL₃(g)·x³, against loops in float64."""

import math

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.errors import CalibrationError, ProfileError, ProgrammingError
from analogsim.nn import AnalogConv2d
from analogsim.profile import HardwareProfile
from tests.support.chips import IDEAL, effective, linear

SECOND, THIRD = (0.05, 0.2, -0.1), (-0.1, 0.05)
CURVES = {"second": {"log": SECOND}, "third": {"log": THIRD}}
PAIRS = {"mapping": "differential", "g_min": 0.1}
CURVED = IDEAL.varied(tile={"rows": 4, "cols": 3}, cells=PAIRS, iv=CURVES)


def current(g, x):
    """A cell's current, in units of the largest."""
    if g == 0:
        return 0.0
    second, third = (sum(c * math.log(g) ** i for i, c in enumerate(law)) for law in (SECOND, THIRD))
    return g * x + second * x**2 + third * x**3


def pairs(w, x, g_min=0.1):
    """What a layer of differential pairs gives."""
    out = np.zeros(len(w))
    for j, k in np.ndindex(w.shape):
        sides = [g_min + (1 - g_min) * max(sign * w[j, k], 0) for sign in (1, -1)]
        out[j] += (current(sides[0], x[k]) - current(sides[1], x[k])) / (1 - g_min)
    return out


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_pairs_have_the_current_of_their_cells(backend):
    layer, x = linear(CURVED, 5, 10), np.linspace(-1, 1, 10)
    w = layer.weight.detach().numpy()
    dtype = torch.float32 if backend == "numba" else torch.float64
    layer = layer.to(dtype)
    layer.backend = backend
    got = layer(torch.tensor(x, dtype=dtype)).detach().numpy()
    np.testing.assert_allclose(got, pairs(w, x), atol=2e-6 if backend == "numba" else 1e-12)
    assert np.abs(got - w @ x).max() > 0.05


def test_slices_references_steps_and_converters_of_cells_that_are_not_linear():
    """Every slice and bit is converted by itself, each from the currents of the cells of its tile."""
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 6},
        dac={"bits": 3, "signed": False, "step_bits": 2},
        weight={"bits": 4},
        cells={"mapping": "offset", "g_min": 0.1, "bits": 2},
        adc={"bits": 7, "full_scale": 3.0},
        iv=CURVES,
    )
    layer, inputs = linear(profile, 5, 8), np.random.default_rng(0).integers(0, 8, 8)
    codes, want, step = np.round(layer.weight.detach().numpy() * 7).astype(int) + 8, np.zeros(5), 3.0 / 63
    for first in (0, 4):
        for i in range(2):
            for part in range(2):
                x = (inputs[first : first + 4] >> 2 * part & 3) / 3
                for j in range(5):
                    s = 0.0
                    for k in range(4):
                        g = 0.1 + 0.9 * (codes[j, first + k] >> 2 * i & 3) / 3
                        reference = 0.1 + 0.9 * (8 >> 2 * i & 3) / 3
                        s += (current(g, x[k]) - current(reference, x[k])) / 0.9
                    want[j] += 4**i * 3 / 7 * 4**part * 3 / 7 * step * np.round(min(max(s / step, -63), 63))
    got = layer(torch.from_numpy(inputs / 7)).detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_a_convolution_is_the_product_of_patches():
    layer = AnalogConv2d(4, 6, 2, groups=2, bias=False, profile=CURVED.varied(tile={"rows": 4})).double().eval()
    torch.nn.init.uniform_(layer.weight, -1, 1)
    x = torch.linspace(-1, 1, 2 * 4 * 3 * 3, dtype=torch.float64).view(2, 4, 3, 3)
    got = layer(x).detach()
    for group in range(2):
        one = linear(CURVED, 3, 8)
        one.weight.data.copy_(layer.weight.detach()[3 * group : 3 * group + 3].flatten(1))
        under = torch.nn.functional.unfold(x[:, 2 * group : 2 * group + 2], 2).transpose(1, 2)
        want = one(under).detach().transpose(1, 2).unflatten(2, (2, 2))
        assert (got[:, 3 * group : 3 * group + 3] - want).abs().max() < 1e-12


def test_read_noise_counts_the_inputs_alone():
    layer = linear(CURVED.varied(noise={"read": 0.1}), 3, 10)
    x = torch.linspace(-1, 1, 10, dtype=torch.float64).expand(20_000, 10)
    an.set_seed(layer, 1)
    with torch.no_grad():
        noise = layer(x) - linear(CURVED, 3, 10)(x)
    assert abs(float(noise.std() / (0.1 * x[0].norm())) - 1) < 0.02  # 60 000 numbers: 7 standard deviations


def test_inputs_have_the_derivative_of_the_current_and_weights_that_of_a_product():
    layer = linear(CURVED, 5, 10)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(2, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: layer(one), (x,))
    g = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer(x).backward(g)
    np.testing.assert_allclose(layer.weight.grad.numpy(), (g.T @ x).detach().numpy(), atol=1e-12)


def test_tiles_with_scales_of_their_own_have_them_in_gradients_too():
    layer = linear(CURVED.varied(weight={"w_max": "tile"}), 5, 10)
    layer.weight.data[:, :4] *= 0.1
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(2, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: layer(one), (x,))
    (one,) = an.noise_budget(layer, x.detach(), repeats=1).layers
    assert one.measured == pytest.approx(one.total, rel=1e-6)


def test_a_convolutions_inputs_have_the_derivative_of_the_current():
    layer = AnalogConv2d(4, 6, 2, groups=2, bias=False, profile=CURVED.varied(tile={"rows": 4})).double().eval()
    torch.nn.init.uniform_(layer.weight, -1, 1)
    x = torch.linspace(-1, 1, 4 * 3 * 3, dtype=torch.float64).view(1, 4, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda one: layer(one), (x,))


def test_a_learned_range_has_the_gradient_of_the_current():
    """Without converters the output's derivative by α is that of α·S(x/α), by differences."""
    profile = CURVED.varied(dac={"bits": 16, "input_range": "calibrated"}, adc={"bits": None})
    layer, x = linear(profile, 5, 10), torch.linspace(0.2, 1.8, 10, dtype=torch.float64)
    layer.input_range.fill_(2.0)
    an.learn_ranges(layer)
    outputs = []
    for alpha in (1.95, 2.0, 2.05):
        layer.input_range.data.fill_(alpha)
        out = layer(x).sum()
        outputs.append(float(out.detach()))
        if alpha == 2.0:
            out.backward()
    slope = (outputs[2] - outputs[0]) / 0.1
    assert float(layer.input_range.grad) == pytest.approx(slope, rel=0.02)
    assert abs(slope) > 0.02


def test_inputs_are_relative_to_their_range_even_where_nothing_converts():
    """α cancels in a product, and not in its square."""
    x = np.linspace(-1, 1, 10)
    layer = linear(CURVED.varied(dac={"input_range": 2.0}), 5, 10)
    w = layer.weight.detach().numpy()
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), 2 * pairs(w, x / 2), atol=1e-12)
    layer = linear(CURVED.varied(dac={"input_range": "dynamic"}), 5, 10)
    np.testing.assert_allclose(layer(torch.from_numpy(3 * x)).detach().numpy(), 3 * pairs(w, x), atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("alpha", [1.0, 2.0, "calibrated"])
def test_calibration_sees_the_sums_that_are_converted(alpha, kind):
    """The full scale by `maximum` is the largest sum of one array."""
    dac, adc = {"bits": 8, "input_range": alpha}, {"bits": 8, "full_scale": "calibrated"}
    profile = CURVED.varied(tile={"rows": 10}, dac=dac, adc=adc)
    layer, x = linear(profile, 5, 10), torch.linspace(-1, 1, 10, dtype=torch.float64)[None]
    if kind == "conv":
        w = layer.weight.detach()
        layer = AnalogConv2d(10, 5, 1, bias=False, profile=profile).double().eval()
        layer.weight.data.copy_(w[..., None, None])
        x = x[..., None, None]
    an.calibrate(layer, [x], method="maximum", progress=False)
    top = 1.0 if alpha == "calibrated" else alpha
    want = np.abs(pairs(layer.weight.detach().numpy().reshape(5, 10), x.numpy().ravel() / top)).max()
    assert float(layer.adc_full_scale) == pytest.approx(want, rel=2e-3)
    linear_sum = float((layer.weight.detach().flatten(1) @ x.flatten()).abs().max()) / top
    assert abs(linear_sum / want - 1) > 0.01


def test_ranges_are_of_cells_of_one_curve():
    profile = CURVED.varied(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"})
    layer = linear(profile, 5, 10)
    an.calibrate(layer, [torch.ones(1, 10, dtype=torch.float64)], method="maximum", progress=False)
    layer.profile = profile.varied(iv={"third": 0.0})
    with pytest.raises(CalibrationError, match="iv.third"):
        layer(torch.ones(1, 10, dtype=torch.float64))


@pytest.mark.parametrize("change", [{}, {"dac": {"bits": 6, "signed": False, "step_bits": 1}}])
def test_the_budget_knows_these_cells(change):
    """What it predicts is what the simulation measures, and all of the excess is the weights'."""
    profile = CURVED.varied(noise={"output": 0.02}, **change)
    layer = linear(profile, 16, 12)
    x = torch.rand(2000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (one,) = an.noise_budget(layer, x, repeats=4).layers
    assert one.measured == pytest.approx(one.total, rel=0.03)
    assert one.stages["weight"] > 0.01


def test_a_table_is_a_curve_and_disconnected_cells_have_none():
    table = {"g": [0.1, 0.5, 1.0], "value": [-0.2, 0.1, 0.0]}
    layer = linear(IDEAL.varied(cells=PAIRS, iv={"second": table}), 3, 4)
    w, x = layer.weight.detach().numpy(), np.full(4, 0.5)
    g = [0.1 + 0.9 * np.maximum(sign * w, 0) for sign in (1, -1)]
    curve = [np.interp(one, table["g"], table["value"]) for one in g]
    want = w @ x + (curve[0] - curve[1]) @ x**2 / 0.9
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, atol=1e-12)
    dead = linear(IDEAL.varied(cells=PAIRS, iv={"second": 0.3, "third": table}, faults={"dead_rows": 1.0}), 3, 4)
    an.program(dead, 1)
    assert not effective(dead).any()
    idle = linear(
        IDEAL.varied(cells={"mapping": "differential"}, iv={"second": 0.3}), 3, 4
    )  # half of each pair is at 0
    want = w @ x + 0.3 * np.sign(w) @ x**2
    np.testing.assert_allclose(idle(torch.from_numpy(x)).detach().numpy(), want, atol=1e-12)
    short = linear(IDEAL.varied(cells=PAIRS, iv={"second": table | {"g": [0.2, 0.5, 1.0]}}), 3, 4)
    with pytest.raises(ProgrammingError, match="iv.second"):
        short(torch.from_numpy(x))


def test_what_does_not_go_together_is_refused():
    for change, message in (
        ({"iv": {"third": 0.1}}, "signed"),
        ({"iv": {"third": 0.1}, "cells": PAIRS, "wires": {"row": 1e-4}}, "wires"),
    ):
        with pytest.raises(ProfileError, match=message):
            HardwareProfile(**change)


@pytest.mark.parametrize("noise", [{"multiplicative": 0.2}, {"multiplicative": 0.2, "output": 0.1, "read": 0.1}])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_learned_range_knows_how_noise_and_current_follow_the_voltage(kind, noise):
    """Nothing is rounded or clipped, so that its gradient is the difference quotient under the same normal numbers.

    Of noise that has a part σ_out, the rule weighs the rest by the inputs: that is the derivative of √V·z, too.
    """
    profile = CURVED.varied(dac={"input_range": "calibrated"}, noise=noise)
    layer = linear(profile, 5, 8)
    if kind == "convolution":
        conv = AnalogConv2d(2, 5, 2, bias=False, profile=profile).double().eval()
        conv.weight.data.copy_(layer.weight.detach().view(5, 2, 2, 2))
        layer = conv
    x = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.view(6, 2, 2, 2) if kind == "convolution" else x
    g = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def total(alpha, learn=False):
        an.set_seed(layer, 3)
        layer.input_range.data.fill_(alpha)
        (parameter,) = an.learn_ranges(layer) if learn else (None,)
        y = (layer(x).flatten(1) * g).sum()
        if not learn:
            return float(y)
        y.backward()
        an.learn_ranges(layer, learn=False)
        return float(parameter.grad)

    with torch.no_grad():
        want = (total(2.01) - total(1.99)) / 0.02
    assert total(2.0, learn=True) == pytest.approx(want, rel=1e-3)
    quiet = layer.profile
    layer.profile = quiet.varied(iv={"second": 0.0, "third": 0.0})
    assert abs(total(2.0, learn=True) - want) > 0.01 * abs(want)
