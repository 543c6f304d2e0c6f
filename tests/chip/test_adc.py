"""ADCs that are no ideal quantizers, and noise that is not white and Gaussian, against a naive float64 oracle."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import analogsim as an
from analogsim.chip import adc as converters
from analogsim.chip.read_noise import wandering
from analogsim.kernels import MatmulSpec, Read, philox
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.reference import Reference
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import ADC, Noise
from analogsim.seeds import Key, Stream, derive
from tests.support import oracle
from tests.support.chips import IDEAL, drawn, linear


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
    chip = converters.Converters(adc, Noise(), 9)
    got, clipped = chip.converted(x, 2.0, 4)
    gains, offsets = (drawn((3,), 9, what, 4) for what in (Stream.ADC_GAIN, Stream.ADC_OFFSET))
    own = 1 if kind == "ramp" else 3
    capacitors = drawn((own, bits - signed + 1), 9, Stream.CAPACITORS, 4)
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
    for base in (Reference(), Numba()):
        out, bits = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
        chip = converters.Converters(adc, Noise(), 3, base)
        count = chip.accumulate(out, sums, norm2, Read(spec, 11, 12), 2, 0, bits)
        assert count == int((bits >> 2).sum())
        outs.append(out)
        marks.append(bits)
    assert ((outs[0] - outs[1]).abs() > 1e-5).double().mean() < 0.003
    assert (marks[0] != marks[1]).double().mean() < 0.001
    assert len(outs[0].unique()) <= 127


@pytest.mark.parametrize("kind", ["ideal", "sar", "ramp"])
def test_bit_lines_have_adcs_of_their_own(kind):
    """Two slices, and both halves of each pair: gains, offsets and a SAR's capacitors; a ramp is that of the tile."""
    mismatch = 0.0 if kind == "ideal" else 0.2
    profile = IDEAL.varied(
        weight={"bits": 5},
        cells={"mapping": "differential", "bits": 2, "subtraction": "digital"},
        adc={"bits": 6, "full_scale": 4.0, "gain_error": 0.1, "offset_error": 0.1, "kind": kind}
        | {"capacitor_mismatch": mismatch},
    )
    layer, x = linear(profile, 3, 6), torch.linspace(-1, 1, 30, dtype=torch.float64).view(5, 6)
    an.program(layer, 1)
    chip, want = int(layer.chip_seed), np.zeros((5, 3))
    codes = np.round(layer.weight.detach().numpy() * 15)
    for line in range(4):
        slice_, sign = line // 2, 1 - line % 2 * 2
        w = np.maximum(sign * np.sign(codes) * (np.abs(codes) // 4**slice_ % 4) / 3, 0)
        seed = derive(chip, Key.LINE, line) if line else chip
        gains, offsets = (drawn((3,), seed, what, 0) for what in (Stream.ADC_GAIN, Stream.ADC_OFFSET))
        one = kind == "ramp"
        capacitors = drawn((1 if one else 3, 6), chip if one else seed, Stream.CAPACITORS, 0)
        for i, c in np.ndindex(5, 3):
            value = float(x[i].numpy() @ w[c]) * (1 + 0.1 * gains[c]) + 0.4 * offsets[c]
            value = min(4.0, max(-4.0, value)) / 4 * 31
            level = functools.partial(
                oracle.capacitive_level, bits=6, signed=True, mismatch=mismatch, normals=capacitors[0 if one else c]
            )
            search = {"sar": oracle.sar, "ramp": oracle.ramp}.get(kind)
            code = round(value) if search is None else max(search(value, level, 6, True), -31)
            want[i, c] += sign * 4**slice_ * 3 / 15 * code * 4 / 31
    np.testing.assert_allclose(layer(x).detach().numpy(), want, atol=1e-12)


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
    got = wandering(Reference(), like, Read(MatmulSpec(), 7, 5), 2, noise.wander_length).numpy()
    n = philox.normals((50, 3), 7, Stream.WANDER + 5, 2).numpy()
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
