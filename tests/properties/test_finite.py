"""Finite numbers (design 3): what is finite comes out finite, whatever its size; what is not stays in its sample."""

import math

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.chip.distributions import shaped
from analogsim.errors import AnalogSimError, CalibrationError, ProfileError
from analogsim.kernels import MatmulSpec
from analogsim.ranges.full_scale import best_scale
from analogsim.ranges.histogram import Histogram
from analogsim.value import LARGEST_SCALE, LEAST_SCALE

METHODS = ["maximum", "percentile", "mse", "noise-aware"]
EIGHT = an.HardwareProfile(
    tile={"rows": 4}, dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}, noise={"output": 1e-3}
)


def one_hot(*shape):
    x = torch.zeros(*shape)
    x[0, 0] = 1.0
    return x


@pytest.mark.parametrize("per", ["network", "layer", "tile"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-20, 1.0, 1e20, 1e30, "one-hot", "a tile of zeros"])
def test_inputs_of_any_size_can_be_calibrated(size, method, per):
    """Ranges are positive, outputs finite, and right to the converters' steps where the range is no smaller than the
    least one."""
    digital, generator = nn.Linear(8, 3, bias=False), torch.Generator().manual_seed(0)
    x = one_hot(6, 8) if size == "one-hot" else torch.randn(6, 8, generator=generator)
    if size == "a tile of zeros":
        x[:, 4:] = 0
    elif size != "one-hot":
        x = x * size
    layer = an.convert(digital, EIGHT.varied(noise={"output": 0.0})).eval()
    report = an.calibrate(layer, x, method, per=per, progress=False)[""]
    scales = torch.tensor([report["input_range"], *torch.tensor(report["adc_full_scale"]).flatten().tolist()])
    assert bool(((scales >= LEAST_SCALE) & (scales <= LARGEST_SCALE)).all())
    for backend in ("numba", "reference"):
        layer.backend = backend
        out, want = layer(x), digital(x)
        assert out.isfinite().all()
        if method == "maximum":
            reach = max(float(x.abs().max()), LEAST_SCALE)
            assert (out - want).abs().max() <= 0.2 * reach


@pytest.mark.parametrize("w_max", ["column", "tensor", 1.0])
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-38, 1e-30, 1e20])
@pytest.mark.parametrize("method", METHODS)
def test_weights_of_any_size_can_be_calibrated(size, w_max, method):
    digital = nn.Linear(8, 3, bias=False)
    with torch.no_grad():
        digital.weight.copy_(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * size)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    layer = an.convert(digital, EIGHT.varied(weight={"w_max": w_max})).eval()
    an.calibrate(layer, x, method, progress=False)
    for backend in ("numba", "reference"):
        layer.backend = backend
        out = layer(x)
        assert out.isfinite().all()
        if w_max != 1.0:
            assert (out - digital(x)).abs().max() <= 0.3 * digital(x).abs().max() + 1e-44
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("bits", [None, 2, 8, 16])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_dynamic_range_of_tiny_inputs(bits, backend):
    profile = an.HardwareProfile(dac={"bits": bits, "input_range": "dynamic"}, adc={"bits": 8, "full_scale": 4.0})
    layer = an.convert(nn.Linear(8, 3), profile).eval()
    layer.backend = backend
    for size in (1e-45, 1e-40, 1e-37, 1e-33, 1e-20, 1e30):
        x = torch.linspace(-1, 1, 16).view(2, 8) * size
        assert layer(x).isfinite().all()
        assert (layer(x) - layer.bias).abs().max() <= 10 * max(size, LEAST_SCALE)


def test_full_scales_that_float32_cannot_convert_with_are_refused():
    for value in (0.0, -1.0, 1e-46, 1e-34, 1e34, 1e300, math.inf, math.nan):
        for field in ({"dac": {"input_range": value}}, {"adc": {"full_scale": value}}, {"weight": {"w_max": value}}):
            with pytest.raises(ProfileError):
                an.HardwareProfile(**field)
        with pytest.raises(ProfileError, match="input_range"):
            MatmulSpec(input_range=value)
        with pytest.raises(ProfileError, match=r"adc\.full_scale"):
            MatmulSpec(adc_full_scale=value)
    for value in (LEAST_SCALE, LARGEST_SCALE):
        for field in ({"dac": {"input_range": value}}, {"adc": {"full_scale": value}}, {"weight": {"w_max": value}}):
            profile = an.HardwareProfile(
                dac={"bits": 16, "input_range": 1.0}, adc={"bits": 16, "full_scale": 1.0}
            ).varied(**field)
            layer = an.convert(nn.Linear(4, 3, bias=False), profile).eval()
            for backend in ("numba", "reference"):
                layer.backend = backend
                assert not layer(torch.zeros(2, 4)).any()
                assert layer(torch.ones(2, 4)).isfinite().all()


def test_what_is_too_large_to_convert_is_refused_by_calibration():
    layer = an.convert(nn.Linear(4, 3), EIGHT)
    with pytest.raises(CalibrationError, match="its inputs reach 1e"):
        an.calibrate(layer, torch.full((2, 4), 1e35), progress=False)


def test_histograms_of_any_size():
    for dtype, sizes in ((torch.float32, (1e-45, 1e-38, 1.0, 1e38)), (torch.float64, (5e-324, 1e-300, 1e200))):
        for size in sizes:
            histogram, apart = Histogram(), Histogram()
            values = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).mul(size).to(dtype)
            histogram.add(values)
            for value in values:
                apart.add(value)
            assert (apart.counts == histogram.counts).all()
            assert apart.top == histogram.top
            assert histogram.counts.sum() + histogram.zeros == 3
            assert histogram.maximum == float(values.max())


def test_zeros_need_no_range():
    histogram = Histogram()
    histogram.add(torch.zeros(5))
    assert best_scale(histogram, 7) == 0.0
    assert best_scale(histogram, 7, 0.1) > 0


KINDS = {
    "plain": {},
    "noise": {"noise": {"output": 0.1, "read": 0.1, "multiplicative": 0.1}},
    "laplace": {"noise": {"output": 0.1, "distribution": "laplace"}},
    "wander": {"noise": {"wander": 0.1}},
    "sar": {"adc": {"bits": 6, "full_scale": 2.0, "kind": "sar", "capacitor_mismatch": 0.05}},
    "ramp": {"adc": {"bits": 6, "full_scale": 2.0, "kind": "ramp", "inl": 0.5}},
    "errors": {"adc": {"bits": 6, "full_scale": 2.0, "gain_error": 0.1, "offset_error": 0.1, "signed": False}},
    "slices": {"weight": {"bits": 4}, "cells": {"bits": 1, "mapping": "offset"}, "dac": {"bits": 4, "step_bits": 1}},
    "flicker": {"flicker": {"amplitude": 0.1}},
    "noise of cells": {"cells": {"read_noise": 0.1}},
    "faults": {"faults": {"dead_rows": 0.5, "stuck_on": 0.2}},
}
LAYERS = {
    "linear": (nn.Linear(5, 3), (4, 5)),
    "few": (nn.Linear(5, 40), (40, 5)),
    "conv1d": (nn.Conv1d(4, 3, 3, padding=1), (4, 4, 6)),
    "conv2d": (nn.Conv2d(4, 8, 3, padding=1), (20, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (4, 4, 5, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2), (3, 2, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(4, 2, 2), (4, 4, 3, 3)),
}


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_nan_in_its_own_sample(kind, layer, backend, mapping):
    digital, shape = LAYERS[layer]
    profile = an.HardwareProfile(tile={"rows": 5, "mapping": mapping}, dac={"bits": 6, "input_range": 2.0})
    model = an.convert(digital, profile.varied(**KINDS[kind])).eval()
    model.backend = backend
    an.program(model, 1)
    results = []
    for value in (0.5, math.nan):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        x[1] = value
        an.set_seed(model, 3)
        results.append(model(x).detach())
    clean, broken = results
    assert torch.equal(clean[0], broken[0])
    assert torch.equal(clean[2:], broken[2:])
    assert broken[1].isnan().all()
    assert clean.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, 1e36])
def test_what_is_refused_is_refused_in_one_line(value):
    x = torch.full((2, 8), value)
    dynamic = an.convert(nn.Linear(8, 3), EIGHT.varied(dac={"input_range": "dynamic"}, adc={"full_scale": 1.0}))
    calibrated = an.convert(nn.Linear(8, 3), EIGHT)
    for call in (lambda: dynamic(x), lambda: an.calibrate(calibrated, x, progress=False)):
        with pytest.raises(AnalogSimError) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("distribution", ["uniform", "laplace"])
def test_every_normal_number_has_its_quantile(distribution):
    """Up to 6.66, the largest that is drawn: of float32 as of float64."""
    n = torch.linspace(-6.66, 6.66, 20_001)
    found, want = (shaped(v, distribution).double() for v in (n, n.double()))
    assert found.isfinite().all()
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)


def test_squares_of_inputs_that_overflow_are_refused_only_where_they_are_needed():
    x = torch.full((2, 8), 1e30)
    layer = an.convert(nn.Linear(8, 3), EIGHT.varied(noise={"read": 0.1}))
    an.calibrate(layer, x, "mse", progress=False)
    with pytest.raises(CalibrationError, match="too large for read noise"):
        an.calibrate(layer, x, "noise-aware", progress=False)


@pytest.mark.parametrize(
    "noise", [{"output": 0.1}, {"multiplicative": 0.1}, {"output": 0.1, "distribution": "laplace"}]
)
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("cells", [{}, {"cells": {"mapping": "differential"}, "faults": {"dead_columns": 0.1}}])
def test_what_has_no_sigma_needs_no_finite_square(cells, kind, backend, noise):
    """Inputs whose squares overflow, on rows whose weights are 0: only σ_r and cells with noise ask for a square."""
    digital, shape = LAYERS[kind]
    profile = an.HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0}, noise=noise, **cells)
    layer = an.convert(digital, profile)
    torch.nn.init.zeros_(layer.weight)
    layer.backend = backend
    if cells:
        an.program(layer, 0)
    assert layer.eval()(torch.full(shape, 1e30)).isfinite().all()
    layer.profile = profile.varied(noise={"read": 0.1})
    if cells:
        an.program(layer, 0)
    assert not layer(torch.full(shape, 1e30)).isfinite().all()


@pytest.mark.parametrize("noise", [{"read": 0.1}, {"read": 0.1, "distribution": "laplace"}])
def test_the_gradient_of_a_range_asks_for_no_square_that_has_no_sigma(noise):
    """Squares of the inputs fit into float32; those of their sum do not, and only σ_m would ask for them."""
    layer = an.convert(nn.Linear(10_000, 1), an.HardwareProfile(tile={"rows": None}, noise=noise))
    torch.nn.init.ones_(layer.weight)
    layer.input_range.fill_(1.0)
    (alpha,) = an.learn_ranges(layer)
    x = torch.full((2, 10_000), 1e17)
    out = layer(x)
    assert not out.square().isfinite().any()
    out.sum().backward()
    # All noise grows with the inputs, and nothing clips or rounds: α has no part in the output, but for float32's own
    # rounding of 1e21.
    assert alpha.grad.abs() < 0.05 * (out.detach() - 1e21).abs().max()


def test_a_budget_asks_for_no_square_that_has_no_sigma():
    layer = an.convert(nn.Linear(10_000, 1), an.HardwareProfile(tile={"rows": None}, noise={"output": 1e-3}))
    torch.nn.init.ones_(layer.weight)
    layer.input_range.fill_(1e-8)
    (line,) = an.noise_budget(layer, torch.full((2, 10_000), 1e12), repeats=0, progress=False).layers
    assert line.stages["noise_multiplicative"] == 0
    assert math.isfinite(line.total)
