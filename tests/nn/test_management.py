"""Noise and bound management: each vector by its own largest, and read again at half its inputs if an ADC saturated."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import CalibrationError, ProfileError
from analogsim.nn import AnalogConv2d, AnalogConvTranspose2d, AnalogLinear
from tests.support.oracle import quantize


def product(x, w, *, rows, bits, full_scale, vector, retries):
    """Managed products of rows (M, K), α = 1 without `vector`; and how often each row was read. w_max is 1."""
    out, reads = np.zeros((len(x), len(w))), []
    for i, row in enumerate(x):
        factor = (max(abs(row)) or 1.0) if vector else 1.0
        for n in range(retries + 1):
            codes = np.array([quantize(v / factor, bits[0], True) for v in row])
            total, saturated = np.zeros(len(w)), False
            for start in range(0, len(row), rows):
                sums = w[:, start : start + rows] @ codes[start : start + rows]
                saturated |= bool((abs(sums) > full_scale).any())
                total += [full_scale * quantize(s / full_scale, bits[1], True) for s in sums]
            if not saturated or n == retries:
                break
            factor *= 2
        out[i] = total * factor
        reads.append(n + 1)
    return out, reads


def layer_of(w, *, rows, bits, full_scale, vector, retries, **noise):
    profile = an.HardwareProfile(
        tile={"rows": rows},
        dac={"bits": bits[0], "input_range": "vector" if vector else 1.0},
        weight={"w_max": 1.0},
        adc={"bits": bits[1], "full_scale": full_scale, "bound_management": retries},
        noise=noise,
    )
    layer = AnalogLinear(w.shape[1], len(w), bias=False, dtype=torch.float64, profile=profile).eval()
    layer.weight.data.copy_(torch.from_numpy(w))
    return layer


def matrices(seed, m=12, k=10, n=6):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((m, k)) * np.geomspace(0.01, 10, m)[:, None]
    x[m // 2] = 0
    return x, generator.uniform(-1, 1, (n, k))


@given(
    st.integers(0, 99),
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.booleans(),
    st.integers(0, 4),
)
@settings(max_examples=40)
def test_products_are_the_oracles(seed, bits, full_scale, vector, retries):
    x, w = matrices(seed)
    options = {"rows": 4, "bits": bits, "full_scale": full_scale, "vector": vector, "retries": retries}
    want, _ = product(x, w, **options)
    with torch.no_grad():
        got = layer_of(w, **options)(torch.from_numpy(x)).numpy()
    # Rounding of x/α may put a single code on the other side of a threshold.
    wrong = np.abs(got - want) > 1e-9
    assert wrong.any(1).mean() < 0.1


def test_the_example_reads_some_vectors_once_and_some_until_the_last():
    x, w = matrices(0)
    options = {"rows": 4, "bits": (8, 8), "full_scale": 0.7, "vector": True, "retries": 2}
    want, reads = product(x, w, **options)
    assert set(reads) == {1, 2, 3}
    layer = layer_of(w, **options)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, atol=1e-9)
    # With autograd and without it, in float32 with the compiled backend, and as a matrix of a module.
    with torch.no_grad():
        np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), want, atol=1e-9)
        np.testing.assert_allclose(layer.float()(torch.from_numpy(x).float()).numpy(), want, atol=1e-4)


def test_vectors_that_do_not_saturate_are_those_of_the_first_read_with_its_noise():
    x, w = matrices(1, m=60)
    options = {"rows": 4, "bits": (8, 8), "full_scale": 0.8, "vector": True, "output": 0.002}
    once, again = (layer_of(w, retries=n, **options) for n in (0, 3))
    for layer in (once, again):
        an.set_seed(layer, 5)
    with torch.no_grad():
        first, managed = once(torch.from_numpy(x)), again(torch.from_numpy(x))
    same = (first == managed).all(1)
    assert 0 < same.double().mean() < 1
    exact = torch.from_numpy(x @ w.T)
    assert (managed - exact)[~same].square().mean() < (first - exact)[~same].square().mean()


def test_every_read_of_a_vector_draws_anew():
    """A vector that is read five times at σ = 0.1 of 0 weights: what is returned is the last, 16 times as large."""
    w = np.ones((400, 1))
    layer = layer_of(w, rows=None, bits=(8, 16), full_scale=0.5, vector=True, retries=1, output=0.1)
    an.set_seed(layer, 1)
    with torch.no_grad():
        both = layer(torch.ones(1, 1, dtype=torch.float64))[0] / 2 - 0.5
        layer.profile = layer.profile.varied(adc={"bound_management": 0, "full_scale": 4.0})
        an.set_seed(layer, 1)
        first = layer(torch.ones(1, 1, dtype=torch.float64))[0] - 1
    # The first read saturates (1 > 0.5), so that what is returned is the second's, half of whose sums clip again.
    kept = both < 0
    assert abs(float(torch.corrcoef(torch.stack([both[kept], first[kept]]))[0, 1])) < 5 / math.sqrt(int(kept.sum()))


def test_gradients_pass_straight_through_the_read_that_counts():
    x, w = matrices(2, m=30)
    options = {"rows": 4, "bits": (8, 8), "full_scale": 0.8, "vector": True, "retries": 1}
    layer = layer_of(w, **options)
    inputs = torch.from_numpy(x).requires_grad_()
    g = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 6)))
    layer(inputs).backward(g)
    _, reads = product(x, w, **options)
    want_x, want_w = np.zeros_like(x), np.zeros_like(w)
    for i, row in enumerate(x):
        factor = (max(abs(row)) or 1.0) * 2 ** (reads[i] - 1)
        codes = np.array([quantize(v / factor, 8, True) for v in row])
        for start in range(0, 10, 4):
            part = slice(start, start + 4)
            live = np.abs(w[:, part] @ codes[part]) <= 0.8
            want_x[i, part] = (g[i].numpy() * live) @ w[:, part]
            want_w[:, part] += np.outer(g[i].numpy() * live, codes[part] * factor)
    np.testing.assert_allclose(inputs.grad.numpy(), want_x, atol=1e-9)
    np.testing.assert_allclose(layer.weight.grad.numpy(), want_w, atol=1e-9)


def test_a_vector_tells_nothing_to_another():
    x, w = matrices(3)
    layer = layer_of(w, rows=4, bits=(6, 6), full_scale=1.0, vector=True, retries=2)
    with torch.no_grad():
        alone = layer(torch.from_numpy(x))
        x[2] *= 1e6
        x[4, 1] = math.nan
        x[5, 1] = math.inf
        together = layer(torch.from_numpy(x))
    others = [i for i in range(12) if i not in (2, 4, 5)]
    assert torch.equal(together[others], alone[others])
    assert together[[4, 5]].isnan().all()


PROFILE = an.HardwareProfile(
    tile={"rows": 16}, dac={"bits": 8, "input_range": "vector"}, adc={"bits": 9, "bound_management": 2}
)


class Sequences(nn.Module):
    """An attention, a recurrent layer, and a transposed convolution with groups."""

    def __init__(self):
        super().__init__()
        self.attend, self.lstm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LSTM(16, 12, batch_first=True)
        self.head = nn.ConvTranspose1d(12, 4, 3, groups=2)

    def forward(self, x):
        x = self.lstm(self.attend(x, x, x)[0])[0]
        return self.head(x.transpose(1, 2))


def test_every_layer_of_rows_manages_them_and_is_calibrated():
    torch.manual_seed(0)
    digital = Sequences().eval()
    x = torch.randn(8, 5, 16) * torch.logspace(-2, 0, 8)[:, None, None]
    analog = an.convert(digital, PROFILE)
    report = an.calibrate(analog, x, progress=False)
    assert all(one["input_range"] == pytest.approx(1.0) for one in report.values())
    with torch.no_grad():
        found, want = analog(x), digital(x)
        # The smallest sample is as good as the largest, which no range of the whole batch gives.
        error = (found - want).flatten(1).norm(dim=1) / (want - want[:, :, :1]).flatten(1).norm(dim=1).clamp(min=1e-3)
        assert error.max() < 0.1
        whole = an.convert(digital, PROFILE.varied(dac={"input_range": "dynamic"}))
        an.calibrate(whole, x, progress=False)
        assert (whole.attend(x, x, x)[0] - digital.attend(x, x, x)[0])[0].norm() > 3 * (
            analog.attend(x, x, x)[0] - digital.attend(x, x, x)[0]
        )[0].norm()


CONVOLUTIONS = {
    "channels": ({"rows": 20}, 1, {}),
    "anywhere": ({"rows": 7, "mapping": "im2col"}, 1, {}),
    "chip": (
        {"rows": 20, "cols": 6},
        1,
        {
            "cells": {"mapping": "differential", "subtraction": "digital", "g_min": 0.1},
            "programming": {"sigma": 0.02},
            "adc": {"gain_error": 0.05, "offset_error": 0.01, "kind": "sar", "capacitor_mismatch": 0.05},
        },
    ),
    "slices and wires": (
        {"rows": 18},
        1,
        {
            "weight": {"bits": 5},
            "cells": {"mapping": "offset", "bits": 2},
            "wires": {"row": 1e-3, "column": 1e-3, "solution": "exact"},
        },
    ),
    "curved cells": (
        {"rows": 18},
        1,
        {"cells": {"mapping": "differential", "g_min": 0.1}, "iv": {"second": 0.1, "third": -0.1}},
    ),
    "groups": ({"rows": 9}, 2, {"weight": {"w_max": "tile-column"}}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("scales", [True, False])
def test_a_convolution_manages_what_is_under_its_kernel_at_each_position(name, scales):
    """Outputs and gradients are those of unfolded images through a linear layer of the same chip, group by group."""
    tile, groups, parts = CONVOLUTIONS[name]
    profile = an.HardwareProfile(
        tile=tile,
        dac={"bits": 6, "input_range": "vector" if scales else 1.5},
        adc={"bits": 6, "full_scale": 1.2, "bound_management": 2},
    ).varied(**parts)
    walk = {"stride": 2, "padding": 1, "dilation": (1, 2)}
    conv = AnalogConv2d(4, 6, 3, groups=groups, **walk, dtype=torch.float64, profile=profile).eval()
    if profile.is_drawn:
        an.program(conv, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 9, 9, dtype=torch.float64, generator=generator)
    x *= torch.logspace(-3, 0, 3, dtype=torch.float64)[:, None, None, None]
    x.requires_grad_()
    got = conv(x)
    g = torch.randn(got.shape, dtype=torch.float64, generator=generator)
    got.backward(g)
    grad_x, grad_w, x.grad = x.grad, conv.weight.grad, None
    for group in range(groups):
        own, channels = slice(group * 6 // groups, (group + 1) * 6 // groups), 4 // groups
        kernel = 9 * channels
        rows = tile["rows"] if tile.get("mapping") else max(1, tile["rows"] // 9) * 9
        linear = AnalogLinear(
            kernel, 6 // groups, dtype=torch.float64, profile=profile.varied(tile={"rows": rows})
        ).eval()
        linear.weight.data.copy_(conv.weight.detach()[own].flatten(1))
        linear.bias.data.copy_(conv.bias.detach()[own])
        if profile.is_drawn:
            an.program(linear, 1)
        under = torch.nn.functional.unfold(x[:, group * channels : (group + 1) * channels], 3, (1, 2), 1, 2)
        want = linear(under.transpose(1, 2)).transpose(1, 2).reshape(3, 6 // groups, *got.shape[2:])
        assert torch.allclose(got[:, own], want, atol=1e-12)
        want.backward(g[:, own])
        assert torch.allclose(grad_w[own].flatten(1), linear.weight.grad, atol=1e-12)
    assert torch.allclose(grad_x, x.grad, atol=1e-12)
    exact = torch.nn.functional.conv2d(x, conv.weight, conv.bias, groups=groups, **walk)
    assert not torch.allclose(got, exact, atol=1e-3)


def test_what_knows_no_vectors_refuses_them():
    x = torch.randn(2, 3, 8, 8)
    for change in ({"dac": {"input_range": "vector"}}, {"adc": {"bound_management": 1, "full_scale": 1.0}}):
        profile = an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}, adc={"full_scale": None}).varied(**change)
        AnalogConvTranspose2d(3, 4, 3, profile=profile)(x)
        with pytest.raises(ProfileError, match="a budget takes every vector alike"):
            an.noise_budget(nn.Sequential(AnalogLinear(8, 4, profile=profile)), x, progress=False)
        with pytest.raises(CalibrationError, match="outputs are measured with inputs as they are"):
            an.calibrate_outputs(nn.Sequential(AnalogLinear(8, 4, profile=profile)), x, progress=False)
    with pytest.raises(ProfileError, match="needs a full_scale"):
        an.HardwareProfile(adc={"full_scale": None, "bound_management": 1})
    with pytest.raises(ProfileError, match="of symmetric: true"):
        an.HardwareProfile(dac={"bits": 8, "symmetric": False, "input_range": "vector"})


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolutions_full_scales_are_those_of_its_vectors(groups):
    """Those of the linear layers that the unfolded images go through, whose largest counts."""
    x = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    conv = AnalogConv2d(4, 6, 3, groups=groups, bias=False, profile=PROFILE.varied(tile={"rows": 18})).eval()
    an.calibrate(conv, x, method="maximum", progress=False)
    found = []
    for group in range(groups):
        linear = AnalogLinear(36 // groups, 6 // groups, bias=False, profile=conv.profile).eval()
        linear.weight.data.copy_(conv.weight.detach()[group * len(linear.weight) :][: len(linear.weight)].flatten(1))
        under = torch.nn.functional.unfold(x.chunk(groups, 1)[group], 3).transpose(1, 2)
        an.calibrate(linear, under, method="maximum", progress=False)
        found.append(float(linear.adc_full_scale))
    assert float(conv.adc_full_scale) == pytest.approx(max(found), rel=1e-6)


def test_noise_of_a_convolution_is_relative_to_what_is_under_the_kernel():
    """σ_out times max|x| of each position: of two images, one a hundred times as large (4,000 sums: ±5 %)."""
    profile = an.HardwareProfile(dac={"bits": 8, "input_range": "vector"}, noise={"output": 0.1})
    conv = AnalogConv2d(1, 20, 3, bias=False, profile=profile.varied(weight={"w_max": 1.0})).eval()
    x = torch.ones(2, 1, 16, 16)
    x[1] *= 100
    an.set_seed(conv, 1)
    with torch.no_grad():
        noise = conv(x) - torch.nn.functional.conv2d(x, conv.weight)
    assert noise[0].std() == pytest.approx(0.1, rel=0.06)
    assert noise[1].std() == pytest.approx(10.0, rel=0.06)
