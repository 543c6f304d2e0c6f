"""The presets of real chips."""

import numpy as np
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.chip import cells
from analogsim.kernels import philox
from analogsim.profile import HardwareProfile
from analogsim.seeds import Stream, numbered

# Largest error of an untrained network, relative to how its outputs differ between inputs: at least twice what it is.
CHIPS = {
    "brainscales2": 3.0,
    "cmo-reram": 0.3,
    "hermes": 0.6,
    "hermes-1": 0.8,
    "isaac": 0.001,
    "pcm": 0.6,
    "pcm-afm": 0.7,
    "reram": 0.4,
    "reram-crosssim": 0.4,
    "reram-milo": 0.4,
    "sonos": 0.2,
    "sram": 0.1,
}


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
    assert model[0].profile.needs_chip


# What a comment may name, and words that the description says of it: who, where, when.
SOURCES = {
    "Shafiee et al. 2016": ("A. Shafiee et al.", "ISCA 2016"),
    "Wan et al. 2022": ("W. Wan et al.", "Nature 608 (2022)"),
    "Le Gallo et al. 2023": ("M. Le Gallo et al.", "Nature Electronics 6 (2023)"),
    "Joshi et al. 2020": ("V. Joshi et al.", "Nature Communications 11, 2473 (2020)"),
    "Jia et al. 2020": ("H. Jia et al.", "JSSC 55 (2020)"),
    "hxtorch:": ("hxtorch", "include/hxtorch/perceptron/constants.h", "src/hxtorch/perceptron/detail/mac.cpp"),
    "CrossSim:": ("CrossSim",),
    "CrossSim's": ("CrossSim",),
    "aihwkit:": ("aihwkit",),
    "analog-foundation-models:": ("Analog foundation models", "arXiv 2505.09663", "apply_noise_model.py"),
}


@pytest.mark.parametrize("name", CHIPS)
def test_presets_cite_every_number(name):
    """Every line with a number names, in a comment of its own or the one above, a source that the description cites in
    full, and where in it; or says that it is assumed. "The same" or "the file" is no citation.
    """
    text = (an.profile.hardware._preset_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    start = text.index("\ntile:")
    description = " ".join(text[:start].split())
    comment, numbers = "", 0
    for line in text[start:].splitlines():
        value, _, own = line.partition("#")
        if not value.strip():  # a comment of several lines is of what follows
            comment = f"{comment} {own}" if own else ""
            continue
        own, comment = own or comment, ""
        if not any(letter.isdigit() for letter in value.split(":", 1)[-1]):
            continue
        numbers += 1
        named = [source for source in SOURCES if source in own]
        assert named or "assumed" in own, f"no source: {line}"
        for source in named:
            assert all(words in description for words in SOURCES[source]), f"{source} is not in the description: {line}"
            assert len(own.split(source, 1)[1].strip(" :,")) > 3, f"where in {source}? {line}"
    assert numbers >= 6


def coefficients(values, unit):
    return [value / unit for value in values]


# What is written in the sources, and how a profile's number follows from it.
DERIVED = {
    "pcm": {"programming.sigma": coefficients((0.26348, 1.9650, -1.1731), 25.0)},
    "hermes": {
        "programming.sigma": coefficients((0.16603222, 4.71806468, -8.48101252, 4.68961419), 20.7),
        "cost.read_energy": 2 * 256 * 256 / 2.48,
        "cost.read_latency": 64 * 2 * 256 * 256 / 16.1e3,
    },
    "hermes-1": {"programming.sigma": coefficients((0.15781817, 2.32443916, -2.16310839, 0.68841818), 10.35)},
    "reram-milo": {"programming.sigma": [4.782321 / 225, -0.009107], "cells.g_min": 50 / 225},
    "cmo-reram": {"programming.sigma": [0.00081107 / 88.2, 0.00106879], "cells.g_min": 9 / 88.199997},
    "pcm-afm": {"tile.rows": 512},
    "reram": {"programming.sigma": coefficients((0.348, 16.030, -43.853, 45.393, -16.815), 40.0)},
    "reram-crosssim": {
        "programming.sigma": [c * 39.26 ** (i - 1) for i, c in enumerate((1.053, 2.374e-1, -1.167e-2, 1.536e-4))]
    },
    "sonos": {
        "programming.sigma": {"amplitude": 19.88665 / (60e6 / 35e3), "scale": 176.3115 / (60e6 / 35e3)},
        "noise.read": 12.58037 / (60e6 / 35e3),
    },
    "isaac": {
        "adc.full_scale": (2**8 - 1) / 3,
        "cost.dac_energy": 4 * 100 / (8 * 128),
        "cost.adc_energy": 16.01 * 100 / (8 * 128),
        "cost.mac_energy": 2.4 * 100 * 1000 / (8 * 128 * 128),
        "cells.g_min": 2e3 / 2e6,
    },
    "brainscales2": {"noise.output": 2 / (0.002 * 31 * 63), "adc.full_scale": 127 / (0.002 * 31 * 63)},
    "sram": {"tile.rows": 590 * 1000 // 256},
}


@pytest.mark.parametrize("name", CHIPS)
def test_numbers_follow_from_what_the_sources_say(name):
    values = HardwareProfile.load(name).model_dump()
    for path, want in DERIVED[name].items():
        part, field = path.split(".")
        assert values[part][field] == pytest.approx(
            want if isinstance(want, dict | float | int) else tuple(want), rel=1e-4
        )


# --- isaac: cells of two bits ----------------------------------------------------------------------------------------


def test_isaacs_cells_hold_four_levels():
    profile = HardwareProfile.load("isaac")
    w = torch.cat([torch.linspace(-1, 1, 4001, dtype=torch.float64), torch.zeros(1)])[:, None]
    w = (w * 32767).round() / 32767
    for part in cells.slices(w, profile):
        (g,) = cells.targets(part.digits, profile.cells)
        assert len(g.unique()) <= 4


def test_isaac_is_exact_up_to_its_sixteen_bits():
    """No sum of ordinary inputs is beyond the ADC, whose every step is one level of one cell."""
    layer = an.AnalogLinear(300, 20, dtype=torch.float64, profile=HardwareProfile.load("isaac")).eval()
    x = torch.rand(50, 300, dtype=torch.float64)
    an.calibrate(layer, x, progress=False)
    with torch.no_grad():
        error = layer(x) - nn.functional.linear(x, layer.weight, layer.bias)
    assert float(error.abs().max()) < 300 * float(layer.weight.detach().abs().max()) * 2**-15


# --- brainscales2: the mock of its own software ----------------------------------------------------------------------


def mock(x, w, noise):
    """What hxtorch's mac_mock_forward computes of integers x (M, K) and w (N, K) with noise (T, M, N), in LSB."""
    results = np.zeros((len(x), len(w)))
    for block, start in enumerate(range(0, x.shape[1], 128)):
        local = x[:, start : start + 128] @ w[:, start : start + 128].T * 0.002 + noise[block]
        results += np.clip(np.floor(local), -128, 127)
    return np.clip(results, -128, 127)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["reference", "numba"])
@pytest.mark.parametrize("tiles", [1, 3])
def test_brainscales2_computes_as_its_mock(tiles, dtype):
    """Given the mock our random numbers, code by code: float32 may round a sum across a code's threshold, rarely."""
    generator, k = np.random.default_rng(tiles), 128 * tiles
    x, w = generator.integers(0, 32, (200, k)), generator.integers(-63, 64, (40, k))
    w[:, 0], x[:100] = 63, x[:100] * (generator.random((100, k)) < 0.1)
    w[20:] = (w[20:] + 40).clip(max=63)  # so that some sums are beyond the range
    layer = an.AnalogLinear(k, 40, bias=False, profile=HardwareProfile.load("brainscales2")).to(dtype).eval()
    layer.weight.data.copy_(torch.from_numpy(w))
    layer.input_range.fill_(31.0)
    an.set_seed(layer, 5)
    who = numbered(5, Stream.READ, 0, 1)
    noise = np.stack([philox.normals((200, 40), *who, tile).numpy() for tile in range(tiles)])
    with torch.no_grad():
        got = layer(torch.from_numpy(x).to(dtype)).double().numpy() * 0.002
    want = mock(x, w, 2 * noise)
    assert (want == 127).mean() > 0.05
    assert want.min() < -20
    off = np.abs(got - want) > 0.01
    if dtype is torch.float64:
        assert not off.any()
    assert off.mean() < 1e-3
    np.testing.assert_allclose(got[off], want[off], atol=1.01)


def test_a_register_that_is_full_passes_no_gradient():
    """Where the digital sum of the blocks saturates, no weight of any block matters; elsewhere all do."""
    profile = HardwareProfile.load("brainscales2").varied(noise={"output": 0.0})
    layer = an.AnalogLinear(256, 2, bias=False, profile=profile)
    layer.input_range.fill_(31.0)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 63.0, 2.0  # 0.002·31·63·128 = 500 LSB a block, and 16
        layer.weight[0, 2:] = 10.0  # now about 80 LSB a block: neither clips, their sum does
    x = torch.full((1, 256), 31.0)
    layer(x).sum().backward()
    assert layer.weight.grad[0].abs().max() == 0
    assert layer.weight.grad[1].abs().min() > 0
