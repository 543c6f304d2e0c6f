"""Cells on crossbars (programming, ageing, faults, wires, slices), each effect against a naive float64 oracle."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import analogsim as an
from analogsim.chip import cells
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import HardwareProfile
from analogsim.seeds import Stream
from tests.support import oracle
from tests.support.chips import IDEAL, LAWS, POLYNOMIAL, drawn, effective, linear

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
        arrays = [drawn(target.shape, seed, what, number) for what in (Stream.PROGRAMMING, Stream.DRIFT, Stream.STUCK)]
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
        idle = POLYNOMIAL[0] * drawn((count, 1), int(layer.chip_seed), Stream.PROGRAMMING, 1).clip(min=0)
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


def test_what_is_stuck_has_the_flicker_noise_of_where_it_is():
    """Cells of all targets, stuck at g_max: σ = amplitude·√ln(…) each, whatever they would have been programmed to."""
    law = {"amplitude": 0.0088, "exponent": 0.65, "maximum": 0.2, "read_time": 250e-9}
    layer = linear(IDEAL.varied(flicker=law, cells={"mapping": "differential"}, faults={"stuck_on": 1.0}))
    an.program(layer, 1)
    (plane,) = layer.write(layer.weight.detach()).chip.planes
    want = 2 * oracle.flicker(1.0, 1.0, **law, time=20.0) ** 2
    np.testing.assert_allclose(plane.variance.numpy(), want, rtol=1e-12)


# --- faults and wires ------------------------------------------------------------------------------------------------


def test_dead_lines_silence_their_cells():
    profile = IDEAL.varied(
        tile={"rows": 5, "cols": 3}, faults={"dead_rows": 0.2, "dead_columns": 0.15}, cells={"mapping": "differential"}
    )
    layer = linear(profile)
    an.program(layer, 2)
    seed, w = int(layer.chip_seed), layer.weight.detach().numpy()
    rows = stats.norm.cdf(drawn((3, 12), seed, Stream.ROWS, 0)) < 0.2
    columns = [stats.norm.cdf(drawn((7, 3), seed, Stream.COLUMNS, sign)) < 0.15 for sign in (0, 1)]
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


SLICED = IDEAL.varied(
    tile={"rows": 4, "cols": 11},  # two weights of four bit lines; three are left over
    weight={"bits": 5},
    cells={"mapping": "differential", "bits": 2, "subtraction": "digital", "g_min": 0.1},
)


def test_slices_and_digital_pairs_lie_side_by_side():
    """Their rows' wires carry the currents of all of them, and a dead row is all of theirs."""
    layer = linear(SLICED.varied(wires={"row": 1e-5, "column": 1e-5}), 5, 8)
    w, x = layer.weight.detach().numpy(), np.linspace(0, 1, 8)
    codes, want = np.round(w * 15), np.zeros(5)
    for outputs in (range(0, 2), range(2, 4), range(4, 5)):
        for rows in (slice(0, 4), slice(4, 8)):
            lines, gains = [], []
            for j in outputs:
                for i in range(2):
                    digit = np.sign(codes[j, rows]) * (np.abs(codes[j, rows]) // 4**i % 4) / 3
                    for sign in (1, -1):
                        lines.append(0.1 + 0.9 * np.maximum(sign * digit, 0))
                        gains.append((j, sign * 4**i * 3 / 15 / 0.9))
            current = oracle.network(np.array(lines).T, x[rows], 1e-5, 1e-5)
            for (j, gain), one in zip(gains, current, strict=True):
                want[j] += gain * one
    got = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got, want, atol=2e-7)
    assert np.abs(got - codes / 15 @ x).max() > 1e-4
    dead = linear(SLICED.varied(faults={"dead_rows": 0.3}), 5, 8)
    an.program(dead, 1)
    rows = stats.norm.cdf(drawn((3, 8), int(dead.chip_seed), Stream.ROWS, 0)) < 0.3
    np.testing.assert_allclose(effective(dead), np.where(rows[np.arange(5) // 2], 0, codes / 15), atol=1e-12)


def test_each_slice_has_a_reference_column_of_the_digit_of_zero():
    profile = IDEAL.varied(weight={"bits": 5}, cells={"mapping": "offset", "bits": 2}, programming={"sigma": 0.02})
    layer = linear(profile, 3, 6)
    an.program(layer, 1)
    planes = layer.write(layer.weight).chip.planes
    noise = 0.02 * drawn((12, 6), int(layer.chip_seed), Stream.PROGRAMMING, 0)
    held = np.round(layer.weight.detach().numpy() * 15) + 16
    for i, plane in enumerate(planes):
        g = np.maximum(held // 4**i % 4 / 3 + noise[i:9:3], 0)
        reference = np.maximum(16 // 4**i % 4 / 3 + noise[9 + i], 0)
        np.testing.assert_allclose(plane.weight.numpy(), g - reference, atol=1e-12)


# --- slices ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["signed", "differential", "offset"]), st.integers(2, 10), st.integers(1, 9), st.booleans())
def test_a_cell_of_some_bits_has_as_many_levels(mapping, weight_bits, cell_bits, analog):
    """Of every mapping: 2^bits conductances, evenly spaced from g_min to 1, and together they are the weights."""
    g_min = 0.0 if mapping == "signed" else 0.2
    cell_bits = min(cell_bits, weight_bits - (mapping != "offset"))
    subtraction = "digital" if mapping == "differential" and not analog else "analog"
    profile = IDEAL.varied(
        weight={"bits": weight_bits},
        cells={"mapping": mapping, "bits": cell_bits, "g_min": g_min, "subtraction": subtraction},
    )
    top = 2 ** (weight_bits - 1) - 1
    w = torch.linspace(-top, top, 2 * top + 1, dtype=torch.float64)[:, None].round() / top
    steps = 2**cell_bits - 1
    for part in cells.slices(w, profile):
        for g in (*cells.targets(part.digits, profile.cells), w.new_tensor(g_min + (1 - g_min) * part.reference)):
            level = (g - g_min) / (1 - g_min) * steps
            torch.testing.assert_close(level, level.round(), atol=1e-9, rtol=0)
            assert level.min() >= -1e-9
            assert level.max() <= steps + 1e-9
    layer = linear(profile, len(w), 1)
    layer.weight.data.copy_(w)
    np.testing.assert_allclose(effective(layer), w.numpy(), atol=1e-12)


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
