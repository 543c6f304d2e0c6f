"""Converters whose range is [low, high]: what they make of numbers, against a float64 oracle, and their calibration."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import CalibrationError, ConversionError, ProfileError
from analogsim.kernels import MatmulSpec, tiled_matmul
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import Range
from analogsim.ranges.two_sided import TwoSided, best_range, range_error

ENDS = st.tuples(st.floats(-3, 0), st.floats(0, 3)).filter(lambda ends: ends[1] - ends[0] > 0.1)


def quantized(v, low, high, bits):
    """The nearest of 2^bits levels, whole multiples of a step; and whether v lies beyond them."""
    step = (high - low) / (2**bits - 1)
    lowest = -round(-low / step)
    code = min(lowest + 2**bits - 1, max(lowest, round(v / step)))
    return code * step, not lowest * step <= v <= (lowest + 2**bits - 1) * step


def product(x, w, dac, adc, bits, rows):
    """Σ_t ADC(s_t) of inputs (M, K) and weights (N, K) with w_max 1, activation units; where a tile's ADC clipped."""
    low, high = (quantized(end, *dac, bits[0])[0] for end in dac)
    alpha = max(-low, high)
    codes = np.vectorize(lambda v: quantized(v, *dac, bits[0])[0])(x) / alpha
    out, clipped = np.zeros((len(x), len(w))), []
    for start in range(0, x.shape[1], rows):
        sums = codes[:, start : start + rows] @ w[:, start : start + rows].T
        values = [quantized(v, *adc, bits[1]) for v in sums.ravel()]
        out += np.array([v for v, _ in values]).reshape(sums.shape)
        clipped.append(np.array([c for _, c in values]).reshape(sums.shape))
    return alpha * out, np.array(clipped)


def profile(dac, adc, bits, rows=5, **parts):
    return an.HardwareProfile(
        tile={"rows": rows},
        dac={"bits": bits[0], "symmetric": False, "input_range": dac},
        weight={"w_max": 1.0},
        adc={"bits": bits[1], "symmetric": False, "full_scale": adc},
        **parts,
    )


@given(ENDS, ENDS, st.tuples(st.integers(1, 8), st.integers(2, 8)), st.integers(0, 99))
@example((0.0, 2.0), (-0.5, 3.0), (8, 8), 0)
@settings(max_examples=40)
def test_products_are_the_oracles(dac, adc, bits, seed):
    generator = np.random.default_rng(seed)
    x, w = generator.uniform(-3, 3, (6, 12)), generator.uniform(-1, 1, (4, 12))
    want, _ = product(x, w, dac, adc, bits, 5)
    layer = AnalogLinear(12, 4, bias=False, dtype=torch.float64, profile=profile(dac, adc, bits)).eval()
    layer.weight.data.copy_(torch.from_numpy(w))
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.from_numpy(x)), torch.from_numpy(want), rtol=1e-9, atol=1e-9)
        # float32 and numba: the same but where a number is within rounding of a threshold
        fast = layer.float()(torch.from_numpy(x).float()).double()
    assert ((fast - torch.from_numpy(want)).abs() > 1e-4).double().mean() < 0.1


@given(ENDS, st.integers(1, 12))
def test_levels_are_multiples_of_the_step_and_the_range_moves_by_half_a_step(ends, bits):
    wanted = Range(*ends)
    lowest, highest, step = wanted.codes(bits)
    found = wanted.aligned(bits)
    assert lowest <= 0 <= highest
    assert highest - lowest == 2**bits - 1
    assert found == (lowest * step, highest * step)
    assert max(abs(found.low - wanted.low), abs(found.high - wanted.high)) <= step / 2 + 1e-9
    again = found.aligned(bits)
    assert again == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
def test_convolutions_are_products_of_patches(mapping):
    """Padding is 0, which is a level."""
    own = profile((-0.4, 1.3), (-1.0, 2.5), (5, 6), rows=20).varied(tile={"mapping": mapping})
    generator = torch.Generator().manual_seed(0)
    layer = AnalogConv2d(4, 3, 3, padding=1, bias=False, dtype=torch.float64, profile=own).eval()
    layer.weight.data = torch.rand(3, 4, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    x = torch.rand(2, 4, 6, 6, generator=generator, dtype=torch.float64) * 2 - 0.5
    patches = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 36).numpy()
    rows = 18 if mapping == "channel" else 20
    want, _ = product(patches, layer.weight.detach().flatten(1).numpy(), (-0.4, 1.3), (-1.0, 2.5), (5, 6), rows)
    got = layer(x).detach().permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(got, torch.from_numpy(want), rtol=1e-9, atol=1e-9)


def test_gradients_stop_where_a_converter_clips():
    dac, adc, bits = (-0.5, 1.5), (-0.3, 1.0), (6, 6)
    layer = AnalogLinear(12, 4, bias=False, dtype=torch.float64, profile=profile(dac, adc, bits)).eval()
    generator = np.random.default_rng(0)
    x, w = generator.uniform(-1, 2, (20, 12)), generator.uniform(-1, 1, (4, 12))
    layer.weight.data.copy_(torch.from_numpy(w))
    inputs = torch.from_numpy(x).requires_grad_()
    g = torch.from_numpy(generator.standard_normal((20, 4)))
    layer(inputs).backward(g)
    _, clipped = product(x, w, dac, adc, bits, 5)
    assert 0.1 < clipped.mean() < 0.9
    codes, beyond = (np.vectorize(lambda v, i=i: quantized(v, *dac, 6)[i])(x) for i in (0, 1))
    for t, rows in enumerate((slice(0, 5), slice(5, 10), slice(10, 12))):
        g_t = np.where(clipped[t], 0, g.numpy())
        np.testing.assert_allclose(layer.weight.grad.numpy()[:, rows], g_t.T @ codes[:, rows], atol=1e-9)
        want = np.where(beyond[:, rows], 0, g_t @ w[:, rows])
        np.testing.assert_allclose(inputs.grad.numpy()[:, rows], want, atol=1e-9)


def test_noise_grows_with_the_farther_end():
    """20,000 sums of σ_out = 0.1, α = 2: the standard error of the spread is 0.5 %."""
    own = an.HardwareProfile(
        dac={"bits": 8, "symmetric": False, "input_range": (-0.5, 2.0)},
        weight={"w_max": 1.0},
        adc={"full_scale": None},
        noise={"output": 0.1},
    )
    layer = AnalogLinear(4, 20_000, bias=False, profile=own).eval()
    an.set_seed(layer, 1)
    with torch.no_grad():
        assert float(layer(torch.zeros(1, 4)).std()) == pytest.approx(0.2, rel=0.02)


# --- calibration -----------------------------------------------------------------------------------------------------

CALIBRATED = an.HardwareProfile(
    tile={"rows": 16}, dac={"bits": 6, "symmetric": False}, adc={"bits": 6, "symmetric": False}
)
X = torch.randn(500, 40, generator=torch.Generator().manual_seed(1)).exp() - 0.4


def network(own=CALIBRATED):
    torch.manual_seed(0)
    return an.convert(nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)), own).eval()


def counted(values):
    found = TwoSided()
    for part in torch.as_tensor(values).split(97):
        found.add(part)
    return found


@pytest.mark.parametrize("per", ["network", "layer", "tile"])
@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
def test_every_method_and_granularity(method, per):
    model = network(CALIBRATED.varied(noise={"output": 0.01}))
    symmetric = network(model[0].profile.varied(dac={"symmetric": True}, adc={"symmetric": True}))
    digital = an.to_digital(model)
    found = an.calibrate(model, X, method, per=per, progress=False)
    first, second = (layer for _, layer in an.analog_layers(model))
    tiles = {"tile": (3, 2)}.get(per, (1, 1))
    assert (first.adc_full_scale.shape, second.adc_full_scale.shape) == ((tiles[0], 2), (tiles[1], 2))
    assert per != "network" or torch.equal(first.adc_full_scale, second.adc_full_scale)
    # What came from a ReLU has no negative side, and no codes are spent there.
    assert float(second.input_range[0]) == 0.0
    assert first.input_range[0] <= 0 < first.input_range[1]
    assert method in ("mse", "noise-aware") or found["0"]["input_clipped"] <= (0.02 if method == "percentile" else 0.01)
    an.calibrate(symmetric, X, method, per=per, progress=False)
    errors = [float((one(X) - digital(X)).detach().square().mean()) for one in (model, symmetric)]
    assert errors[0] < 0.85 * errors[1]
    again = network(model[0].profile)
    again.load_state_dict(model.state_dict())
    an.set_seed(model, 3)
    an.set_seed(again, 3)
    assert torch.equal(again(X), model(X))


def test_maximum_and_percentile_are_those_of_both_ends():
    model = network()
    an.calibrate(model, X, progress=False)
    low, high = model[0].input_range.tolist()
    step = float(X.max() - X.min()) / 63
    assert abs(low - float(X.min())) <= step / 2 + 1e-6
    assert abs(high - float(X.max())) <= step / 2 + 1e-6
    found = counted(X.flatten()).percentile(98.0)
    assert found.low == pytest.approx(float(X.quantile(0.01)), abs=0.002)
    assert found.high == pytest.approx(float(X.quantile(0.99)), rel=0.01)
    assert counted(X.flatten().abs()).percentile(98.0).low == 0.0


@pytest.mark.parametrize("sigma", [0.0, 0.15])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_errors_of_ranges_are_those_of_samples(bits, sigma):
    """400,000 samples: the mean square scatters by less than 1 % at these tails."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(400_000, generator=generator).exp().double() - 0.6
    noisy = values + sigma * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    histogram = counted(values)
    for ends in ((-0.5, 3.0), (0.0, 8.0), (-0.2, 1.0), (-4.0, 4.0)):
        step = (ends[1] - ends[0]) / (2**bits - 1)
        lowest = -round(-ends[0] / step)
        codes = (noisy / step).round().clamp(lowest, lowest + 2**bits - 1)
        want = float((codes * step - noisy).square().mean())
        assert float(range_error(histogram, [ends], bits, sigma)[0]) == pytest.approx(want, rel=0.02), ends


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_the_best_range_is_as_good_as_the_best_of_a_fine_grid(bits):
    histogram = counted(X.flatten().double())
    grid = np.stack(np.meshgrid(np.linspace(-0.6, 0, 25), np.geomspace(0.5, 30, 120)), -1).reshape(-1, 2)
    best = min(float(e) for part in np.array_split(grid, 60) for e in range_error(histogram, part, bits))
    found = best_range(histogram, bits)
    assert float(range_error(histogram, [found], bits)[0]) <= 1.01 * best


def test_an_asymmetric_range_behind_a_relu_is_worth_a_bit():
    """One sign needs one bit less: a uniform quantizer's mean square error falls by four, or less where it clips."""
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(3)).clamp(min=0)
    own = counted(values)
    two_sided = float(range_error(own, [best_range(own, 6)], 6)[0])
    from analogsim.ranges.full_scale import best_scale, conversion_error
    from analogsim.ranges.histogram import Histogram

    plain = Histogram()
    plain.add(values)
    symmetric = float(conversion_error(plain, np.array([best_scale(plain, 31)]), 31)[0])
    assert 3 < symmetric / two_sided < 4.2


def test_zeros_and_what_is_not_finite():
    model = network()
    assert an.calibrate(model, X, progress=False)
    with pytest.warns(an.AnalogSimWarning, match="inputs are all zero"):
        an.calibrate(model, torch.zeros(3, 40), progress=False)
    assert torch.equal(model[0].input_range, model[2].input_range)
    with pytest.raises(CalibrationError, match="not finite"):
        an.calibrate(model, torch.full((3, 40), math.nan), progress=False)
    model[0].weight.data.zero_()
    model[0].bias.data.fill_(0.5)
    with pytest.warns(an.AnalogSimWarning, match="partial sums are all zero"):
        an.calibrate(model, X, progress=False)
    assert model(X).isfinite().all()


def test_dynamic_ranges_are_the_batchs_two_ends():
    own = CALIBRATED.varied(dac={"input_range": "dynamic"}, adc={"bits": None, "symmetric": True, "full_scale": None})
    fixed = own.varied(dac={"input_range": (float(X.min()), float(X.max()))})
    assert torch.equal(network(own)[0](X), network(fixed)[0](X))
    assert torch.equal(network(own)[0](torch.zeros(2, 40)), network(own)[0].bias.expand(2, -1))


def test_the_budget_is_what_simulation_measures():
    """20,000 outputs of each layer: the measured mean square scatters by 1 %."""
    model = network(CALIBRATED.varied(dac={"bits": 4}, adc={"bits": 5}, noise={"output": 0.02}))
    x = torch.randn(2000, 40, generator=torch.Generator().manual_seed(5)).exp() - 0.4
    an.calibrate(model, x, "mse", progress=False)
    for layer in an.noise_budget(model, x, repeats=4).layers:
        assert layer.measured == pytest.approx(layer.total, rel=0.05)


def test_ranges_are_for_their_kind_of_converter():
    model = network()
    an.calibrate(model, X, progress=False)
    for part in ("dac", "adc"):
        other = network(CALIBRATED.varied(**{part: {"symmetric": True}}))
        other.load_state_dict(model.state_dict())
        with pytest.raises(CalibrationError, match=rf"{part}\.symmetric"):
            other(X)
    an.convert(model, CALIBRATED.varied(dac={"symmetric": True}))
    again = an.convert(model, CALIBRATED.varied(adc={"symmetric": True}))
    assert not again[0].input_range.isnan().any()
    assert again[0].adc_full_scale.isnan().all()
    # By hand, without a record.
    by_hand = network()
    by_hand[0].input_range, by_hand[0].adc_full_scale = torch.tensor(2.0), torch.tensor([[-3.0, 3.0]])
    first = by_hand[0](X)
    by_hand[0].input_range, by_hand[0].adc_full_scale = torch.tensor([-2.0, 2.0]), torch.tensor(3.0)
    assert torch.equal(by_hand[0](X), first)
    by_hand[0].input_range = torch.tensor([2.0, 2.0])
    with pytest.raises(CalibrationError, match=r"no range of a converter with dac\.symmetric: false"):
        by_hand(X)
    by_hand[0].profile = CALIBRATED.varied(adc={"symmetric": True})
    by_hand[0].input_range, by_hand[0].adc_full_scale = torch.tensor(2.0), torch.tensor([[-3.0, 3.0]])
    with pytest.raises(CalibrationError, match=r"adc\.symmetric: true"):
        by_hand(X)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dac": {"input_range": [-1.0, 2.0]}}, "is of symmetric: false"),
        ({"dac": {"bits": 8, "symmetric": False, "input_range": 2.0}}, r"a range \[low, high\]"),
        ({"dac": {"bits": 8, "symmetric": False, "input_range": [0.5, 2.0]}}, "low <= 0 <= high"),
        ({"dac": {"bits": 8, "symmetric": False, "input_range": [0.0, 0.0]}}, "low <= 0 <= high"),
        ({"dac": {"symmetric": False}}, "a DAC with bits"),
        ({"dac": {"bits": 8, "symmetric": False, "step_bits": 1}}, "all of which it applies at once"),
        ({"dac": {"bits": 8, "symmetric": False, "signed": False}}, "signed: false is of"),
        ({"adc": {"symmetric": False, "full_scale": None}}, "need a full_scale"),
        ({"adc": {"bits": 8, "symmetric": False, "kind": "sar"}}, "of a kind 'ideal'"),
        ({"adc": {"bits": 8, "symmetric": False, "rounding": "down"}}, "to the nearest"),
        ({"adc": {"full_scale": [-1.0, 2.0]}}, "is of symmetric: false"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(change, words):
    with pytest.raises(ProfileError, match=words):
        an.HardwareProfile(**change)


def test_profiles_with_ranges_survive_a_file_and_are_not_learned(tmp_path):
    own = profile((-0.5, 2.0), (-1.0, 3.0), (8, 8))
    own.save(tmp_path / "own.yaml")
    assert an.HardwareProfile.load(tmp_path / "own.yaml") == own
    model = network()
    an.calibrate(model, X, progress=False)
    with pytest.raises(ConversionError, match="only symmetric input ranges are learned"):
        an.learn_ranges(model)
    assert "0" in str(an.summary(model))
    spec = MatmulSpec.of(own, own.dac.input_range, own.adc.full_scale)
    assert (spec.dac_levels, spec.dac_codes) == (204, (-51, 204))
    with pytest.raises(ProfileError, match="are of layers"):
        tiled_matmul(X, torch.zeros(3, 40), spec)
