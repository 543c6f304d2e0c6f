"""Presets against the formulas of their sources, written out here in the sources' own units, in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import analogsim as an
from analogsim.chip import drift
from analogsim.chip.laws import evaluate
from analogsim.nn import AnalogLinear
from analogsim.profile import HardwareProfile
from tests.support.chips import linear

G = np.linspace(0.001, 1, 997)  # fractions of g_max, on no limit of a law
T = torch.from_numpy(G)
DAY, YEAR = 86_400.0, 365.25 * 86_400.0


def loaded(name):
    """Return the preset, and its σ of programming errors at G."""
    profile = HardwareProfile.load(name)
    return profile, evaluate(profile.programming.sigma, T).numpy()


# --- hermes-1: aihwkit's HermesNoiseModel with one device -------------------------------------------------------------


def test_hermes_1_is_aihwkits_fit_of_one_device():
    profile, sigma = loaded("hermes-1")
    g, log = 10.35 * G, np.log(G)
    want = 0.15781817 + 2.32443916 * (g / 10.35) - 2.16310839 * (g / 10.35) ** 2 + 0.68841818 * (g / 10.35) ** 3
    np.testing.assert_allclose(sigma * 10.35, want, rtol=1e-6)
    nu = np.where(G < 0.0945, np.clip(-0.0387 * log - 0.0182, 0.0720, 0.13), -0.0436 * G**2 - 0.0126 * G + 0.0736)
    np.testing.assert_allclose(evaluate(profile.drift.nu, T), nu, rtol=1e-12)
    spread = np.where(G < 0.3039, np.clip(-0.0120 * log - 0.0023, 0.0124, 0.04), -0.0165 * G**2 + 0.0116 * G + 0.0104)
    np.testing.assert_allclose(evaluate(profile.drift.nu_sigma, T), spread, rtol=1e-12)
    cubic = 0.0664 * G**3 - 0.1352 * G**2 + 0.0768 * G + 0.0088
    q = np.where(G < 0.1591, np.clip(-0.0078 * log + 0.0038, 0.0179, 0.04), cubic)
    for age in (0.0, 1.0, DAY, YEAR):
        t = age + 200
        now = G * (t / 200) ** -nu
        noise = now * q * math.sqrt(math.log((t + 512e-9) / (2 * 512e-9)))
        ours = drift.flicker_sigma(torch.from_numpy(now), T, profile.flicker, profile.drift.t0 + age)
        np.testing.assert_allclose(ours, noise, rtol=1e-9)


# --- reram-milo: CrossSim's RRAMMilo ----------------------------------------------------------------------------------


def test_reram_milo_is_crosssims_fit():
    """I = G·V + NL2·V² + NL3·V³ at 0.5 V, NL2 and NL3 in log10(G), G in siemens."""
    profile, sigma = loaded("reram-milo")
    inside = profile.cells.g_min <= G
    siemens = 225e-6 * G[inside]
    np.testing.assert_allclose(225 * sigma[inside], 4.782321 - 0.009107 * siemens * 1e6, rtol=1e-6)
    log = np.log10(siemens)
    second = np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], log)
    third = np.polyval([8.8710e-05, 6.7919e-04, 1.2968e-03], log)
    ours = [evaluate(law, T[inside]).numpy() for law in (profile.iv.second, profile.iv.third)]
    for x in (-1.0, -0.3, 0.5, 1.0):
        volts = 0.5 * x
        current = siemens * volts + second * volts**2 + third * volts**3
        mine = G[inside] * x + ours[0] * x**2 + ours[1] * x**3
        np.testing.assert_allclose(mine * 225e-6 * 0.5, current, rtol=1e-5)


# --- cmo-reram: aihwkit's ReRamCMONoiseModel --------------------------------------------------------------------------

CMO = 88.199997


@pytest.mark.parametrize("age", [1.0, 60.0, 3600.0, DAY, 7 * DAY, YEAR])
def test_cmo_reram_is_aihwkits_fit_at_its_ages(age):
    """Mean, deviation (of three independent normals) and 1/f noise in µS; the deviation's approximation 2e-4."""
    profile, sigma = loaded("cmo-reram")
    g = CMO * G
    written = 0.00081107 + 0.00106879 * g
    np.testing.assert_allclose(sigma * CMO, written, rtol=1e-5)
    moved, more = (v.numpy() * CMO for v in drift.statistics(T, profile, age))
    fallen = -0.08900206 * math.log(age)
    np.testing.assert_allclose(moved, fallen, rtol=1e-5, atol=1e-12)
    kept = g + moved > 0  # further down nothing is left of a cell, whose σ is that of 0
    relaxed = 0.04201137 * math.log(age) + 0.41183342
    np.testing.assert_allclose(np.hypot(more, written)[kept], np.hypot(relaxed, written)[kept], rtol=4e-4)


def test_cmo_rerams_flicker_is_aihwkits():
    """The table is 1.6 % off at most, and at age 0 there is none."""
    profile, _ = loaded("cmo-reram")
    g = np.linspace(9, CMO, 400)
    for age in (1.0, DAY, YEAR):
        want = 0.0277316483 * np.log10(g) * math.sqrt(math.log((age + 1e-6) / 2e-6))
        held = torch.from_numpy(g / CMO)
        got = drift.flicker_sigma(held, held, profile.flicker, profile.drift.t0 + age).numpy() * CMO
        np.testing.assert_allclose(got, want, rtol=0.016)
    assert float(drift.flicker_sigma(T, T, profile.flicker, profile.drift.t0).max()) == 0


def test_cmo_reram_ages_as_aihwkit_between_its_ages():
    """Linear in time between two ages: 0.07 µS off at most."""
    profile, _ = loaded("cmo-reram")
    for age in np.geomspace(1, YEAR, 300):
        moved, more = (v.numpy() * CMO for v in drift.statistics(T[500:], profile, float(age)))
        assert np.abs(moved + 0.08900206 * math.log(age)).max() < 0.07
        assert np.abs(more - (0.04201137 * math.log(age) + 0.41183342)).max() < 0.035


# --- pcm-afm: the noise of weights in the analog foundation models ----------------------------------------------------


def law(weight):
    """σ of weights of which the largest is 180, as their code has it without float16; 0 of those that become 0."""
    one = np.polyval(
        [2.939751381126213e-05, -0.00371581208142707, 0.22419685954327148, 2.5797410660159494], np.abs(weight)
    )
    two = np.polyval(
        [1.2329755395573392e-05, -0.003054993405157235, 0.2453487119885723, 2.110295720240385], np.abs(weight)
    )
    return np.where(np.abs(weight) < 0.6, 0.0, np.where(np.abs(weight) > 52.5, two, one))


def test_pcm_afm_has_their_law_to_rounding():
    """On both sides of both limits, which are 52.5 and 0.6 of 180."""
    _, sigma = loaded("pcm-afm")
    np.testing.assert_allclose(180 * sigma, law(180 * G), rtol=1e-10)
    profile = HardwareProfile.load("pcm-afm")
    edges = torch.tensor([0.0, 0.3, 0.5999, 0.6001, 52.499, 52.501, 180.0], dtype=torch.float64)
    got = 180 * evaluate(profile.programming.sigma, edges / 180).numpy()
    np.testing.assert_allclose(got, law(edges.numpy()), rtol=1e-10)
    mean = 180 * evaluate(profile.programming.mean, edges / 180, signed=True).numpy()
    np.testing.assert_allclose(mean, [0, -0.3, -0.5999, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_on_pcm_afm_are_theirs(dtype):
    """Two tiles of 512 inputs, each output and tile with a largest weight of its own, and exact zeros.

    A Kolmogorov-Smirnov test of error over σ at α = 1e-4 in each of three ranges of weights; 4 % of spread is rejected.
    """
    layer = AnalogLinear(1024, 200, bias=False, dtype=dtype, profile=HardwareProfile.load("pcm-afm")).eval()
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(200, 1024, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 3, 1024)
    layer.weight.data.copy_(weight)
    an.program(layer, 4)
    tiles = torch.cat([half / half.abs().amax(1, keepdim=True) for half in weight.to(dtype).double().split(512, 1)], 1)
    asked = 180 * tiles.numpy()
    held = 180 * layer.write(layer.weight).programmed.double().numpy()
    small = np.abs(asked) < 0.5999
    assert small.mean() > 0.005
    np.testing.assert_allclose(held[small], 0, atol=1e-12)
    for low, high in ((0.6001, 20), (20, 52.49), (52.51, 180)):
        inside = (np.abs(asked) > low) & (np.abs(asked) <= high)
        error = (held[inside] - asked[inside]) / law(asked[inside])
        assert stats.kstest(error, "norm").pvalue > 1e-4
        assert stats.kstest(error * 1.04, "norm").pvalue < 1e-4


# --- what is programmed is what the laws say --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "g"), [("hermes-1", 0.4), ("reram-milo", 0.6), ("cmo-reram", 0.5)])
def test_cells_are_programmed_with_that_deviation(name, g):
    """40,000 cells of one target: variances within 4.5·√(2/n) = 3.2 %; a spread 5 % off is rejected."""
    profile, _ = loaded(name)
    cells = {"mapping": "offset", "g_min": profile.cells.g_min}
    layer = linear(HardwareProfile(programming=profile.programming, cells=cells, weight={"w_max": 1.0}), 200, 200)
    layer.weight.data.fill_(2 * (g - cells["g_min"]) / (1 - cells["g_min"]) - 1)
    an.program(layer, 1)
    held = layer.write(layer.weight).chip.planes[0].weight[:200].numpy()
    sigma = float(evaluate(profile.programming.sigma, torch.tensor(g, dtype=torch.float64)))
    # A reference column is subtracted from all alike, row by row.
    spread = (held - held.mean(0)).var() * 200 / 199 * ((1 - cells["g_min"]) / 2) ** 2
    allowed = 4.5 * math.sqrt(2 / held.size)
    assert spread / sigma**2 == pytest.approx(1, abs=allowed)
    assert abs(spread * 1.05**2 / sigma**2 - 1) > allowed
