"""The device model above the plain kernel, each effect against a naive float64 oracle; chips that replay."""

import copy
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import analogsim as an
from analogsim.device import Layout, converters, derive, draw
from analogsim.errors import AnalogSimError, ConversionError, ProfileError, ProgrammingError
from analogsim.kernels import MatmulSpec, Read, cpu, philox, plain
from analogsim.nn import AnalogConv2d, AnalogConvTranspose2d, AnalogLinear, AnalogLSTM
from analogsim.profile import ADC, HardwareProfile, Noise

from . import oracle

LAWS = {
    "nu": {"constant": 0.0244, "slope": -0.0155, "low": 0.049, "high": 0.1},
    "nu_sigma": {"constant": -0.0059, "slope": -0.0125, "low": 0.008, "high": 0.045},
}
POLYNOMIAL = (0.01, 0.08, -0.05)
IDEAL = HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0})


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the tensors are tiny


def linear(profile, n=7, k=12, seed=0, **options):
    """A layer in evaluation, float64, whose weights fill [-1, 1]."""
    layer = AnalogLinear(k, n, bias=False, dtype=torch.float64, profile=profile, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(n, k, generator=generator, dtype=torch.float64) * 2 - 1)
        layer.weight.flatten()[:3] = torch.tensor([1.0, -1.0, 0.0])
    return layer


def effective(layer):
    """The matrix that a layer multiplies by: its answer to unit vectors."""
    with torch.no_grad():
        return layer(torch.eye(layer.in_features, dtype=torch.float64)).T.numpy()


def drawn(shape, seed, what, array):
    return philox.normals(shape, seed, what, array).numpy()


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["signed", "differential", "offset"])
def test_cells_are_programmed_aged_and_stuck_as_the_oracle_says(mapping):
    g_min = 0.0 if mapping == "signed" else 0.1
    profile = IDEAL.varied(
        tile={"cols": 3},
        cells={"mapping": mapping, "g_min": g_min},
        programming={"sigma": POLYNOMIAL},
        drift={"t0": 25.0, **LAWS},
        faults={"stuck_off": 0.1, "stuck_on": 0.05},
    )
    layer = linear(profile)
    an.program(layer, 5)
    an.at_time(layer, 3600.0)
    seed, w = int(layer.chip_seed), layer.weight.detach().numpy()
    n, k = w.shape
    blocks = [range(0, 3), range(3, 6), range(6, 7)]

    def array(target, number):
        arrays = [drawn(target.shape, seed, what, number) for what in (draw.PROGRAMMING, draw.DRIFT, draw.STUCK)]
        out = np.zeros_like(target)
        for index in np.ndindex(target.shape):
            n_program, n_drift, n_stuck = (float(values[index]) for values in arrays)
            out[index] = oracle.cell(
                float(target[index]),
                polynomial=POLYNOMIAL,
                n_program=n_program,
                n_drift=n_drift,
                nu=oracle.log_law(**LAWS["nu"]),
                nu_sigma=oracle.log_law(**LAWS["nu_sigma"]),
                t0=25.0,
                seconds=3600.0,
                g_min=g_min,
                stuck_off=0.1,
                stuck_on=0.05,
                u=stats.norm.cdf(n_stuck),
                negative=mapping == "signed",
            )
        return out

    if mapping == "signed":
        want = np.where(w < 0, -1, 1) * array(np.abs(w), 0)
    elif mapping == "differential":
        plus, minus = (array(g_min + (1 - g_min) * np.maximum(sign * w, 0), i) for i, sign in enumerate((1, -1)))
        want = (plus - minus) / (1 - g_min)
    else:
        half = np.full((1, k), g_min + (1 - g_min) / 2)
        target = g_min + (1 - g_min) * (1 + w) / 2
        g = array(np.concatenate([part for block in blocks for part in (target[list(block)], half)]), 0)
        want, row = np.zeros_like(w), 0
        for block in blocks:
            reference = g[row + len(block)]
            for j in block:
                want[j] = 2 * (g[row] - reference) / (1 - g_min)
                row += 1
            row += 1
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)
    assert n == 7


@pytest.mark.parametrize("mapping", ["signed", "differential", "offset"])
def test_ideal_cells_hold_the_weights(mapping):
    layer = linear(IDEAL.varied(cells={"mapping": mapping, "g_min": 0.0 if mapping == "signed" else 0.25}))
    np.testing.assert_allclose(effective(layer), layer.weight.detach().numpy(), atol=1e-15)


def test_programming_noise_has_its_polynomial_variance():
    """60 000 cells at each of three targets; two-sided χ² at α = 1e-4 each, which a σ 5 % off does not pass."""
    count = 60_000
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], count - 1) / (count - 1)
    for target in (0.3, 0.6, 1.0):
        layer = linear(IDEAL.varied(programming={"sigma": POLYNOMIAL}, cells={"mapping": "differential"}), count, 1)
        layer.weight.data.fill_(target)
        an.program(layer, 3)
        # The idle half of the pair, at 0, has max(N(0, c0²), 0) and is told apart by its own draw.
        idle = POLYNOMIAL[0] * drawn((count, 1), int(layer.chip_seed), draw.PROGRAMMING, 1).clip(min=0)
        g = effective(layer) + idle
        sigma = 0.01 + 0.08 * target - 0.05 * target**2
        ratio = g.var(ddof=1) / sigma**2
        assert low < ratio < high
        assert not low < ratio * 1.05**2 < high
        assert abs(g.mean() - target) < 4 * sigma / math.sqrt(count)


def test_drift_compensation_restores_the_sum_of_magnitudes():
    profile = IDEAL.varied(drift=LAWS, cells={"mapping": "differential"})
    plain, compensated = linear(profile), linear(profile.varied(drift={"compensation": "global"}))
    for layer in (plain, compensated):
        an.program(layer, 1)
    fresh = effective(plain)
    np.testing.assert_array_equal(fresh, effective(compensated))
    for layer in (plain, compensated):
        an.at_time(layer, 1e6)
    aged = effective(plain)
    assert np.abs(aged).sum() < 0.7 * np.abs(fresh).sum()
    np.testing.assert_allclose(effective(compensated), aged * np.abs(fresh).sum() / np.abs(aged).sum(), rtol=1e-12)


# --- read noise of cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AnalogLinear, AnalogConv2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flicker_noise_is_the_sum_of_the_cells(kind, dtype):
    """4000 reads of 6 columns; two-sided χ² at α = 1e-4 in all (each column 1e-4/6); 1.1·σ must not pass."""
    law = {"amplitude": 0.0088, "exponent": 0.65, "maximum": 0.2, "read_time": 250e-9}
    profile = IDEAL.varied(flicker=law, cells={"mapping": "differential"}, drift={"nu": 0.06}, tile={"rows": 8})
    reads, n, k, seconds = 4000, 6, 12, 86400.0
    layer = (
        AnalogLinear(k, n, bias=False, profile=profile)
        if kind is AnalogLinear
        else AnalogConv2d(3, n, 2, bias=False, profile=profile)
    )
    layer = layer.to(dtype).eval()
    nn.init.uniform_(layer.weight, -1, 1)
    an.program(layer, 1)
    an.at_time(layer, seconds)
    an.set_seed(layer, 3)
    x = torch.linspace(-1, 1, k, dtype=dtype)
    shaped = x.expand(reads, k) if kind is AnalogLinear else x.view(1, 3, 2, 2).expand(reads, 3, 2, 2)
    with torch.no_grad():
        got = layer(shaped).reshape(reads, n).double().numpy()
    w, shrink = layer.weight.detach().flatten(1).double().numpy(), ((20 + seconds) / 20) ** -0.06
    mean = w @ x.double().numpy() * shrink
    variance = np.zeros(n)
    for j in range(n):
        for r in range(k):
            g = abs(float(w[j, r]))
            variance[j] += float(x[r]) ** 2 * oracle.flicker(g * shrink, g, **law, time=20 + seconds) ** 2
    low, high = stats.chi2.ppf([1e-4 / 12, 1 - 1e-4 / 12], reads) / reads
    ratio = ((got - mean) ** 2).mean(0) / variance
    assert np.all((low < ratio) & (ratio < high))
    assert not np.any((low < ratio * 1.1**2) & (ratio * 1.1**2 < high))
    # Fresh at each read, and independent between columns (|r| < 4.5/√n: α = 1e-4 over 15 pairs).
    correlation = np.corrcoef(got.T) - np.eye(n)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(reads)


# --- faults and wires ------------------------------------------------------------------------------------------------


def test_dead_lines_silence_their_cells():
    profile = IDEAL.varied(
        tile={"rows": 5, "cols": 3}, faults={"dead_rows": 0.2, "dead_columns": 0.15}, cells={"mapping": "differential"}
    )
    layer = linear(profile)
    an.program(layer, 2)
    seed, w = int(layer.chip_seed), layer.weight.detach().numpy()
    rows = stats.norm.cdf(drawn((3, 12), seed, draw.ROWS, 0)) < 0.2
    columns = [stats.norm.cdf(drawn((7, 3), seed, draw.COLUMNS, sign)) < 0.15 for sign in (0, 1)]
    want = w.copy()
    for j, r in np.ndindex(w.shape):
        if rows[j // 3, r] or columns[int(w[j, r] < 0)][j, r // 5]:
            want[j, r] = 0
    assert 5 < (want == 0).sum() < 60
    np.testing.assert_allclose(effective(layer), want, atol=1e-15)


@pytest.mark.parametrize("resistance", [1e-3, 1e-4])
def test_ir_drop_is_first_order_of_the_network(resistance):
    """Against Kirchhoff: the error left is of second order, so a tenth of the resistance leaves a hundredth of it."""
    generator = np.random.default_rng(0)
    g, x = generator.uniform(0.05, 1, (12, 9)), generator.uniform(0, 1, 12)
    ideal = x @ g
    row, column = resistance, 2 * resistance
    exact = oracle.network(g, x, row, column)
    layer = linear(IDEAL.varied(wires={"row": row, "column": column}), 9, 12)
    layer.weight.data.copy_(torch.from_numpy(g.T))
    got = layer(torch.from_numpy(x)).detach().numpy()
    drop = (ideal - exact).max()
    assert drop > 20 * resistance
    assert np.abs(got - exact).max() < 20 * drop**2 / ideal.max()
    # A wrong orientation is seen: with rows and columns of the array turned around, the agreement is lost.
    turned = oracle.network(g[::-1, ::-1], x[::-1], row, column)[::-1]
    assert np.abs(got - turned).max() > 5 * np.abs(got - exact).max()


def test_ir_drop_knows_tiles_and_references():
    """Each tile of a layer cut into 2 x 2 arrays, with reference columns, drops as the network of that array alone."""
    generator = np.random.default_rng(1)
    w, x = generator.uniform(-1, 1, (6, 8)), generator.uniform(0, 1, 8)
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 3}, wires={"row": 1e-5, "column": 1e-5}, cells={"mapping": "offset", "g_min": 0.1}
    )
    layer = linear(profile, 6, 8)
    layer.weight.data.copy_(torch.from_numpy(w))
    want = np.zeros(6)
    for block in (slice(0, 3), slice(3, 6)):
        for rows in (slice(0, 4), slice(4, 8)):
            g = 0.1 + 0.9 * (1 + w[block, rows].T) / 2
            g = np.concatenate([g, np.full((4, 1), 0.55)], 1)
            current = oracle.network(g, x[rows], 1e-5, 1e-5)
            want[block] += 2 * (current[:3] - current[3]) / 0.9
    got = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert np.abs(got - w @ x).max() > 1e-4


# --- slices ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 6), st.integers(1, 4), st.booleans())
@settings(max_examples=25)
def test_slices_of_weights_and_inputs(weight_bits, cell_bits, dac_bits, step_bits, digital):
    cell_bits, step_bits = min(cell_bits, weight_bits - 1), min(step_bits, dac_bits - 1)
    profile = HardwareProfile(
        tile={"rows": 5},
        dac={"bits": dac_bits, "input_range": 1.5, "step_bits": step_bits},
        weight={"bits": weight_bits, "w_max": 1.0},
        cells={"mapping": "differential", "bits": cell_bits, "subtraction": "digital" if digital else "analog"},
        adc={"bits": 6, "full_scale": 2.3},
    )
    layer = linear(profile, 4, 8)
    x = torch.randn(3, 8, dtype=torch.float64)
    levels = 2 ** (weight_bits - 1) - 1
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
        full_scale=2.3,
        adc_bits=6,
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), want, atol=1e-9)


@pytest.mark.parametrize("signed", [True, False])
def test_slices_add_up_where_adcs_are_ideal(signed):
    """With exact ADCs the slices and steps change nothing, on a convolution too, in both kernels."""
    whole = HardwareProfile(tile={"rows": 9}, dac={"bits": 7, "signed": signed, "input_range": 1.0}, weight={"bits": 8})
    cut = whole.varied(dac={"step_bits": 2}, cells={"mapping": "differential", "bits": 3, "subtraction": "digital"})
    a, b = (AnalogConv2d(3, 4, 3, padding=1, profile=profile).eval() for profile in (whole, cut))
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(a(x), b(x), atol=3e-6, rtol=1e-5)
    b.backend = "reference"
    torch.testing.assert_close(a(x), b(x), atol=3e-6, rtol=1e-5)


def test_slices_have_noise_of_their_own():
    """σ of the sum is σ_out·√Σ c²: 7 magnitude bits in slices of 2; 20 000 reads, χ² at α = 1e-4; a mutant fails."""
    profile = HardwareProfile(
        dac={"input_range": 1.0}, weight={"bits": 8, "w_max": 1.0}, cells={"bits": 2}, noise={"output": 0.1}
    )
    layer = AnalogLinear(4, 1, bias=False, profile=profile).eval()
    an.set_seed(layer, 1)
    out = layer(torch.zeros(20_000, 4)).detach().double().numpy()
    variance = sum((0.1 * 4**i * 3 / 127) ** 2 for i in range(4))
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 20_000) / 20_000
    ratio = (out**2).mean() / variance
    assert low < ratio < high
    assert not low < (out**2).mean() / 0.1**2 < high


def test_gradients_are_the_digital_ones_of_what_was_programmed():
    """Straight through rounding and slicing; zero where an ADC clipped any of a tile's conversions."""
    profile = HardwareProfile(
        tile={"rows": 6},
        dac={"bits": 6, "input_range": 2.0, "step_bits": 2},
        weight={"bits": 5, "w_max": 1.0},
        cells={"mapping": "differential", "bits": 2},
        programming={"sigma": 0.05},
        adc={"bits": 8, "full_scale": 50.0},
    )
    layer = linear(profile)
    an.program(layer, 1)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 7, dtype=torch.float64)
    layer(x).backward(g)
    profile_exact = profile.varied(dac={"bits": None, "step_bits": None}, adc={"bits": None, "full_scale": None})
    twin = copy.deepcopy(layer)
    twin.profile = profile_exact
    w = torch.from_numpy(effective(twin))
    inside = (x.abs() <= 2.0).double()
    torch.testing.assert_close(x.grad, (g @ w) * inside)
    code = (x.detach() / 2).clamp(-1, 1).mul(31).round() / 31 * 2
    torch.testing.assert_close(layer.weight.grad, g.T @ code)
    layer.profile = profile.varied(adc={"full_scale": 1e-3})
    x.grad = None
    layer(x).backward(g)
    assert not x.grad.any()


# --- converters ------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["ideal", "sar", "ramp"]),
    st.integers(2, 6),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=40)
def test_adcs_are_the_oracles(kind, bits, signed, mismatch, error):
    adc = ADC(
        bits=bits,
        full_scale=2.0,
        signed=signed,
        kind=kind,
        capacitor_mismatch=mismatch if kind != "ideal" else 0.0,
        gain_error=error,
        offset_error=error,
    )
    x = torch.linspace(-2.6, 2.6, 301, dtype=torch.float64)[:, None].expand(301, 3).contiguous()
    chip = converters.Converters(adc, Noise(), 9, cpu)
    got, clipped = chip.convert(x, 2.0, 4)
    gains, offsets = (drawn((3,), 9, what, 4) for what in (draw.ADC_GAIN, draw.ADC_OFFSET))
    own = 1 if kind == "ramp" else 3
    capacitors = drawn((own, bits - signed + 1), 9, draw.CAPACITORS, 4)
    levels = 2 ** (bits - signed) - 1
    for i, c in np.ndindex(301, 3):
        value = float(x[i, c]) * (1 + error * gains[c]) + error * 2.0 * offsets[c]
        out_of_range = abs(value) > 2 if signed else not 0 <= value <= 2
        assert bool(clipped[i, c]) == out_of_range
        value = min(2.0, max(-2.0 if signed else 0.0, value)) / 2.0 * levels
        level = functools.partial(
            oracle.capacitive_level,
            bits=bits,
            signed=signed,
            mismatch=adc.capacitor_mismatch,
            normals=capacitors[c % own],
        )
        search = {"sar": oracle.sar, "ramp": oracle.ramp}.get(kind)
        code = round(value) if search is None else max(search(value, level, bits, signed), -levels)
        at_threshold = abs(value % 1 - 0.5) < 1e-9 and not mismatch
        assert at_threshold or float(got[i, c]) == pytest.approx(code * 2.0 / levels, abs=1e-12)
    # The CPU backend, in float32: but where a sum is within rounding of a threshold, the same numbers and marks.
    out, bits_ = torch.full((301, 3), 7.0), torch.zeros(301, 3, dtype=torch.uint8)
    spec = MatmulSpec(rows=None, adc_bits=bits, adc_full_scale=2.0)
    count = chip.accumulate(out, x.float(), torch.zeros(()), Read(spec), 4, 0, bits_, True)
    assert count == int((bits_ >> 4).sum())
    assert (bits_.bool() != clipped).sum() <= 3
    difference = (out.double() - got).abs()
    assert (difference > 1e-5).double().mean() < 0.02
    chip.accumulate(out, x.float(), torch.zeros(()), Read(spec), 4)
    torch.testing.assert_close(out[difference < 1e-5].double(), 2 * got[difference < 1e-5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(70, 33), (5, 6, 7, 9), (2, 3, 40, 41)])
@pytest.mark.parametrize("kind", ["ideal", "sar", "ramp"])
def test_both_backends_convert_the_same(shape, kind):
    """Noise, errors of each ADC and their places: images, columns, positions; several threads' worth."""
    mismatch = 0.0 if kind == "ideal" else 0.1
    adc = ADC(bits=7, full_scale=3.0, kind=kind, gain_error=0.05, offset_error=0.05, capacitor_mismatch=mismatch)
    spec = MatmulSpec(rows=None, noise_output=0.2, noise_read=0.1, adc_bits=7, adc_full_scale=3.0)
    sums = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    norm2 = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    outs, marks = [], []
    for base in (plain, cpu):
        out, bits = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
        chip = converters.Converters(adc, Noise(), 3, base)
        count = chip.accumulate(out, sums, norm2, Read(spec, 11, 12), 2, 0, bits)
        assert count == int((bits >> 2).sum())
        outs.append(out)
        marks.append(bits)
    assert ((outs[0] - outs[1]).abs() > 1e-5).double().mean() < 0.003
    assert (marks[0] != marks[1]).double().mean() < 0.001
    assert len(outs[0].unique()) <= 127


def test_ramp_nonlinearity_is_a_bow():
    """inl of 2 LSB moves the middle level by 2 and the outer ones by nothing; thresholds are half way between."""
    like = torch.zeros(1, 1, dtype=torch.float64)
    bowed, straight = (
        converters.Converters(ADC(bits=8, full_scale=127.0, kind="ramp", inl=inl), Noise(), 0).transfer(127.0, 0, like)
        for inl in (2.0, 0.0)
    )
    np.testing.assert_allclose(straight[0][0].numpy(), np.arange(-127, 128) - 0.5, atol=1e-12)
    z = np.arange(-128, 128) / 127
    bow = 2 * (1 - z**2)
    np.testing.assert_allclose((bowed[0] - straight[0])[0].numpy(), (bow[1:] + bow[:-1]) / 2, atol=1e-12)
    np.testing.assert_array_equal(bowed[1], straight[1])


@pytest.mark.parametrize("distribution", ["uniform", "laplace"])
@pytest.mark.parametrize("kind", [AnalogLinear, AnalogConv2d])
def test_noise_has_its_shape_and_the_same_variance(kind, distribution):
    """40 000 numbers: Kolmogorov-Smirnov against SciPy's law at α = 1e-4; against the Gaussian it must be rejected."""
    profile = IDEAL.varied(noise={"output": 0.3, "read": 0.2, "distribution": distribution})
    layer = (
        kind(4, 2, bias=False, profile=profile) if kind is AnalogLinear else kind(4, 2, 1, bias=False, profile=profile)
    )
    an.set_seed(layer.eval(), 4)
    x = torch.full((20_000, 4), 0.5)
    with torch.no_grad():
        exact = x @ layer.weight.flatten(1).T
        noise = layer(x if kind is AnalogLinear else x[:, :, None, None]).flatten(1) - exact
    sigma = math.sqrt(0.3**2 + 0.2**2 * 4 * 0.25)
    law = {
        "uniform": stats.uniform(-sigma * math.sqrt(3), 2 * sigma * math.sqrt(3)),
        "laplace": stats.laplace(0, sigma / math.sqrt(2)),
    }[distribution]
    values = noise.flatten().numpy()
    assert stats.kstest(values, law.cdf).pvalue > 1e-4
    assert stats.kstest(values, stats.norm(0, sigma).cdf).pvalue < 1e-4
    assert values.var() == pytest.approx(sigma**2, rel=0.05)


def test_wander_is_a_slow_gauss_markov_process():
    like = torch.zeros(50, 3, dtype=torch.float64)
    noise = IDEAL.varied(noise={"wander": 0.5, "wander_length": 20.0}).noise
    got = converters.Converters(IDEAL.adc, noise, 0).wander(like, Read(MatmulSpec(), 7, 5), 2).numpy()
    n = philox.normals((50, 3), derive(7, draw.WANDER), 5, 2).numpy()
    rho, slow = math.exp(-1 / 20), n[0]
    for i in range(50):
        slow = n[0] if i == 0 else rho * slow + math.sqrt(1 - rho**2) * n[i]
        np.testing.assert_allclose(got[i], slow, atol=1e-12)
    layer = AnalogLinear(4, 1, bias=False, profile=IDEAL.varied(noise={"wander": 0.5, "wander_length": 20.0})).eval()
    an.set_seed(layer, 3)
    offset = layer(torch.zeros(40_000, 4)).detach().flatten().double().numpy() / 0.5
    # The mean of 40 000 correlated numbers knows the variance to about √(2·20/40 000) = 3 %: 5 of these.
    assert offset.var() == pytest.approx(1.0, abs=0.16)
    for lag in (1, 20, 60):
        assert np.mean(offset[lag:] * offset[:-lag]) == pytest.approx(math.exp(-lag / 20), abs=0.16)


# --- the chip --------------------------------------------------------------------------------------------------------

DEEP = HardwareProfile(
    tile={"rows": 8, "cols": 5},
    dac={"bits": 8, "input_range": 2.0},
    cells={"mapping": "differential"},
    programming={"sigma": 0.02},
    drift=LAWS,
    faults={"stuck_off": 0.01},
    adc={"bits": 8, "full_scale": 4.0, "gain_error": 0.02},
)


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
    for seconds in (-1.0, math.nan, math.inf):
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
    assert written[3] is None
    assert layer._built is None
    profile = IDEAL.varied(cells={"mapping": "differential"}, programming={"sigma": 0.02}, drift={"nu": 0.05})
    layer = AnalogLinear(5, 3, profile=profile).eval()
    an.program(layer, 1)
    kernel = layer.plan(torch.zeros(1, 5), layer.weight.detach()).kernel
    assert kernel.__name__ == "analogsim.kernels.cpu"
    assert layer.chip(layer._built[1]) is layer._built[2]  # built once


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


# --- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": {"g_min": 1.0}}, "cells.g_min"),
        ({"cells": {"g_min": 0.1}}, "signed cell has no g_min"),
        ({"cells": {"subtraction": "digital"}}, "differential pair's"),
        ({"cells": {"bits": 2}}, "needs weight.bits"),
        ({"weight": {"bits": 3}, "cells": {"bits": 3}}, "at most weight.bits - 1"),
        ({"programming": {"sigma": -0.1}}, "programming.sigma"),
        ({"programming": {"sigma": []}}, "programming.sigma"),
        ({"programming": {"sigma": [0.1, math.nan]}}, "programming.sigma"),
        ({"drift": {"t0": 0.0}}, "drift.t0"),
        ({"drift": {"nu": {"constant": 0.1, "low": 0.2, "high": 0.1}}}, "low must not exceed high"),
        ({"flicker": {"read_time": 0.0}}, "flicker.read_time"),
        ({"faults": {"stuck_on": 1.1}}, "faults.stuck_on"),
        ({"faults": {"stuck_on": 0.6, "stuck_off": 0.6}}, "must not exceed 1"),
        ({"wires": {"row": -1.0}}, "wires.row"),
        ({"dac": {"step_bits": 2}}, "step_bits"),
        ({"dac": {"bits": 4, "step_bits": 4}}, "step_bits"),
        ({"adc": {"kind": "sar", "full_scale": 1.0}}, "needs bits"),
        ({"adc": {"capacitor_mismatch": 0.1, "bits": 4, "full_scale": 1.0}}, "kind 'sar' or 'ramp'"),
        ({"adc": {"inl": 0.1, "bits": 4, "full_scale": 1.0, "kind": "sar"}}, "kind 'ramp'"),
        ({"adc": {"offset_error": 0.1, "full_scale": None}}, "need a full_scale"),
        ({"noise": {"distribution": "cauchy"}}, "noise.distribution"),
        ({"noise": {"wander_length": 0.0}}, "noise.wander_length"),
    ],
)
def test_impossible_devices_are_refused(fields, message):
    with pytest.raises(ProfileError, match=message):
        HardwareProfile(**fields)


def test_deep_profiles_survive_a_round_trip(tmp_path):
    profile = DEEP.varied(programming={"sigma": POLYNOMIAL}, flicker={"amplitude": 0.01})
    for name in ("chip.yaml", "chip.json"):
        profile.save(tmp_path / name)
        assert HardwareProfile.load(tmp_path / name) == profile
    assert hash(profile) == hash(DEEP.varied(programming={"sigma": POLYNOMIAL}, flicker={"amplitude": 0.01}))


def test_what_a_profile_knows_of_itself_is_no_part_of_it():
    """Asking whether it is deep changes neither equality, hash, dump nor what a copy knows."""
    asked, fresh = (HardwareProfile(programming={"sigma": 0.1}) for _ in range(2))
    assert asked.is_deep
    assert asked.is_drawn
    assert asked == fresh
    assert hash(asked) == hash(fresh)
    assert asked.model_dump() == fresh.model_dump()
    assert not asked.without_variation().is_deep
    assert not asked.without_variation().is_drawn
    assert asked.varied(name="again").is_deep
    assert copy.deepcopy(asked) == fresh


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


def test_errors_are_this_librarys():
    assert issubclass(ProgrammingError, AnalogSimError)


# --- presets ---------------------------------------------------------------------------------------------------------

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
