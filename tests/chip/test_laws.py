"""Laws of the conductance, each against its formula in float64, and what is done beyond measured points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import analogsim as an
from analogsim.chip import CellModel
from analogsim.chip.laws import evaluate
from analogsim.errors import ProgrammingError
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import HardwareProfile, Table, kinds
from analogsim.seeds import Stream
from tests.support.chips import IDEAL, drawn, effective, linear

POINTS = {"g": [0.0, 0.1, 0.4, 1.0], "value": [0.03, 0.005, 0.02, 0.01]}


def naive(points, g):
    """Between its neighbours, as a mean weighted by the distances; the end's value beyond an end."""
    pairs = list(zip(points["g"], points["value"]))
    if g <= pairs[0][0]:
        return pairs[0][1]
    for (a, u), (b, v) in zip(pairs, pairs[1:]):
        if g <= b:
            return (u * (b - g) + v * (g - a)) / (b - a)
    return pairs[-1][1]


LAWS = {
    "constant": (0.02, lambda g: 0.02),
    "polynomial": ((0.01, -0.2, 0.3), lambda g: max(0.01 - 0.2 * g + 0.3 * g**2, 0)),
    "saturating": ({"amplitude": 0.02, "scale": 0.3}, lambda g: 0.02 * (1 - math.exp(-g / 0.3))),
    "log": (
        {"constant": 0.02, "slope": -0.01, "low": 0.005, "high": 0.05},
        lambda g: min(max(0.02 - 0.01 * math.log(max(g, 1e-7)), 0.005), 0.05),
    ),
    "branches": (
        {"below": {"constant": 0.02, "slope": -0.01}, "limit": 0.4, "above": [0.05, -0.1]},
        lambda g: min(max(0.02 - 0.01 * math.log(max(g, 1e-7)), 0), 1) if g < 0.4 else max(0.05 - 0.1 * g, 0),
    ),
    "branches of branches": (
        {"below": {"below": 0.03, "limit": 0.1, "above": [0.02, -0.05]}, "limit": 0.4, "above": [0.05, -0.1]},
        lambda g: 0.03 if g < 0.1 else max(0.02 - 0.05 * g if g < 0.4 else 0.05 - 0.1 * g, 0),
    ),
    "a polynomial below": (
        {"below": [0.01, 0.2, -0.3], "limit": 0.4, "above": [0.05, -0.1]},
        lambda g: max(0.01 + 0.2 * g - 0.3 * g**2 if g < 0.4 else 0.05 - 0.1 * g, 0),
    ),
    "table": (POINTS, lambda g: naive(POINTS, g)),
}
FIELDS = [
    ("programming", "sigma"),
    ("drift", "nu"),
    ("drift", "nu_sigma"),
    ("flicker", "amplitude"),
    ("cells", "read_noise"),
]


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_every_field_takes_every_law(part, field, kind):
    given, want = LAWS[kind]
    law = getattr(getattr(HardwareProfile(**{part: {field: given}}), part), field)
    g = np.concatenate([np.linspace(0, 1.2, 61), [0.1, 0.4]])
    got = evaluate(law, torch.from_numpy(g)).numpy()
    np.testing.assert_allclose(got, [want(float(value)) for value in g], rtol=1e-13, atol=1e-16)
    single = evaluate(law, torch.from_numpy(g).float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), got, rtol=1e-4, atol=1e-6)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e3)), min_size=2, max_size=9, unique_by=lambda pair: pair[0]))
def test_a_table_goes_through_its_points_and_stays_between_neighbours(pairs):
    g, value = zip(*sorted(pairs))
    table = Table(g=g, value=value)
    at = torch.tensor(g, dtype=torch.float64)
    np.testing.assert_allclose(evaluate(table, at).numpy(), value, rtol=1e-9, atol=1e-9)
    between = torch.from_numpy(np.linspace(0, 11, 40))
    found = evaluate(table, between).numpy()
    np.testing.assert_allclose(found, np.interp(between.numpy(), g, value), rtol=1e-6, atol=1e-6)
    assert found.min() >= min(value) - 1e-9
    assert found.max() <= max(value) + 1e-9


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_cells_are_programmed_and_drift_by_tables(backend):
    """Of a layer on a chip, an hour old: g = max(ĝ + σ(ĝ)·n, 0)·(3620/20)^(-|ν(ĝ) + σ_ν(ĝ)·m|), by its oracle."""
    nu, spread = {"g": [0, 1], "value": [0.1, 0.02]}, {"g": [0.0, 0.5, 1.0], "value": [0.01, 0.03, 0.0]}
    profile = IDEAL.varied(
        cells={"mapping": "differential"}, programming={"sigma": POINTS}, drift={"nu": nu, "nu_sigma": spread}
    )
    layer = linear(profile)
    an.program(layer, 3)
    an.at_time(layer, 3600.0)
    w, seed, arrays = layer.weight.detach().numpy(), int(layer.chip_seed), []
    for number, target in enumerate((np.maximum(w, 0), np.maximum(-w, 0))):
        n, m = (drawn(w.shape, seed, what, number) for what in (Stream.PROGRAMMING, Stream.DRIFT))
        law = np.vectorize(naive, excluded=[0])
        written = np.maximum(target + law(POINTS, target) * n, 0)
        arrays.append(written * (3620 / 20) ** -np.abs(law(nu, target) + law(spread, target) * m))
    want = arrays[0] - arrays[1]
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)
    single = layer.float()
    single.backend = backend
    x = torch.randn(5, 12)
    np.testing.assert_allclose(single(x).detach().numpy(), x.numpy() @ want.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("part", "field"), FIELDS)
@pytest.mark.parametrize("end", ["first", "last"])
def test_targets_beyond_a_table_are_refused_unless_it_holds(part, field, end):
    g = [0.2, 1.0] if end == "first" else [0.0, 0.8]
    table = {"g": g, "value": [0.01, 0.02]}
    base = IDEAL.varied(cells={"mapping": "differential"})
    layer = linear(base.varied(**{part: {field: table}}))
    an.program(layer, 1)
    with pytest.raises(
        ProgrammingError, match=rf"^{part}.{field}: cells' targets reach from 0 to 1 of g_max, its table"
    ):
        effective(layer)
    held = linear(base.varied(**{part: {field: table | {"outside": "hold"}}}))
    wide = {
        "g": [0.0, *g] if end == "first" else [*g, 1.0],
        "value": [0.01, 0.01, 0.02] if end == "first" else [0.01, 0.02, 0.02],
    }
    same = linear(base.varied(**{part: {field: wide}}))
    for one in (held, same):
        an.program(one, 1)
        an.at_time(one, 100.0)
        an.set_seed(one, 1)
    np.testing.assert_allclose(effective(held), effective(same), rtol=1e-12, atol=1e-15)


def test_a_table_that_begins_at_g_min_is_enough():
    """Noise takes conductances below it and above 1, where the table holds; float32 rounds targets at its ends."""
    cells = {"mapping": "differential", "g_min": 0.1}
    table = {"g": [0.1, 1.0], "value": [0.2, 0.3]}
    profile = IDEAL.varied(cells=cells, programming={"sigma": table}, flicker={"amplitude": table})
    layer = linear(profile).float()
    an.program(layer, 1)
    assert layer(torch.randn(3, 12)).isfinite().all()
    narrow = linear(profile.varied(cells={"g_min": 0.05})).float()
    an.program(narrow, 1)
    with pytest.raises(ProgrammingError, match=r"from 0.05 to 1 of g_max, its table from 0.1 to 1; .*`outside: hold`"):
        narrow(torch.randn(3, 12))


# --- the mean error --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["signed", "differential", "offset"])
@pytest.mark.parametrize("mean", [-0.02, (0.01, -0.06, 0.03), {"g": [0, 0.5, 1], "value": [0.02, -0.05, 0.01]}])
def test_the_mean_error_shifts_every_cell(mean, mapping):
    """Cells and the reference columns beside them; alone, it is the same on every chip, and nothing need be drawn."""
    profile = IDEAL.varied(cells={"mapping": mapping}, programming={"mean": mean})
    assert profile.needs_chip
    assert not profile.is_random
    assert profile.without_variation().programming.mean == 0
    layer = linear(profile)
    w = layer.weight.detach().numpy()

    def shift(g):
        if isinstance(mean, dict):
            return g + naive(mean, g)
        return g + (mean if isinstance(mean, float) else sum(c * g**i for i, c in enumerate(mean)))

    held = np.vectorize(lambda g: max(shift(g), 0.0))
    if mapping == "differential":
        want = held(np.maximum(w, 0)) - held(np.maximum(-w, 0))
    elif mapping == "offset":
        want = 2 * (held((1 + w) / 2) - held(0.5))
    else:
        want = np.where(w < 0, -1, 1) * np.vectorize(shift)(np.abs(w))
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)


def test_noise_is_drawn_about_the_mean_with_the_sigma_of_the_target():
    laws = {"sigma": POINTS, "mean": {"g": [0, 1], "value": [0.1, -0.1]}}
    layer = linear(IDEAL.varied(programming=laws))
    an.program(layer, 2)
    w = layer.weight.detach().numpy()
    n = drawn(w.shape, int(layer.chip_seed), Stream.PROGRAMMING, 0)
    size = np.abs(w)
    want = size + 0.1 - 0.2 * size + np.vectorize(naive, excluded=[0])(POINTS, size) * n
    np.testing.assert_allclose(effective(layer), np.where(w < 0, -1, 1) * want, rtol=1e-9, atol=1e-12)


# --- read noise of cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("kind", [AnalogLinear, AnalogConv2d])
def test_read_noise_of_cells_is_that_of_their_conductances(kind, backend):
    """4000 reads of 6 columns of pairs; two-sided χ² at α = 1e-4 in all (each column 1e-4/6); 1.1·σ must not pass."""
    law = {"g": [0, 0.3, 1.0], "value": [0.02, 0.1, 0.03]}
    profile = IDEAL.varied(
        cells={"mapping": "differential", "read_noise": law}, programming={"mean": 0.1}, tile={"rows": 8}
    )
    assert profile.is_random
    assert not profile.is_drawn
    reads, n, k = 4000, 6, 12
    layer = AnalogLinear(k, n, bias=False) if kind is AnalogLinear else AnalogConv2d(3, n, 2, bias=False)
    layer.profile = profile
    layer.eval().backend = backend
    torch.nn.init.uniform_(layer.weight, -1, 1, generator=torch.Generator().manual_seed(1))
    an.set_seed(layer, 3)
    x = torch.linspace(-1, 1, k)
    with torch.no_grad():
        shaped = x.expand(reads, k) if kind is AnalogLinear else x.view(1, 3, 2, 2).expand(reads, 3, 2, 2)
        got = layer(shaped).reshape(reads, n).double().numpy()
        again = layer(shaped).reshape(reads, n).double().numpy()
    w, x = layer.weight.detach().flatten(1).double().numpy(), x.double().numpy()
    sigma = np.vectorize(lambda g: naive(law, g + 0.1))  # of where a cell is, and not of where it was wanted
    variance = (sigma(np.maximum(w, 0)) ** 2 + sigma(np.maximum(-w, 0)) ** 2) @ x**2
    low, high = stats.chi2.ppf([1e-4 / 12, 1 - 1e-4 / 12], reads) / reads
    for out in (got, again):
        ratio = ((out - w @ x) ** 2).mean(0) / variance
        assert np.all((low < ratio) & (ratio < high))
        assert not np.any((low < ratio * 1.1**2) & (ratio * 1.1**2 < high))
    # Anew at every read of every cell (|r| < 4.5/√n: α = 1e-4 over 15 + 6 pairs).
    correlation = np.corrcoef(np.concatenate([got, again], 1).T) - np.eye(2 * n)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(reads)


def test_read_noise_of_cells_adds_to_one_over_f_noise():
    flicker = {"amplitude": 0.02, "read_time": 250e-9}
    base = IDEAL.varied(cells={"mapping": "differential"}, drift={"nu": 0.05})
    planes = []
    for parts in (
        {"flicker": flicker},
        {"cells": {"read_noise": POINTS}},
        {"flicker": flicker, "cells": {"read_noise": POINTS}},
    ):
        layer = linear(base.varied(**parts))
        an.program(layer, 1)
        an.at_time(layer, 1e4)
        planes.append(layer.write(layer.weight.detach()).chip.planes[0].variance.numpy())
    np.testing.assert_allclose(planes[0] + planes[1], planes[2], rtol=1e-12)


def test_noise_of_somebody_s_cells_is_drawn_anew(monkeypatch):
    """Of a model that says so, whatever else the profile has."""
    monkeypatch.setattr(kinds.CELL_MODELS, "_made", dict(kinds.CELL_MODELS._made))

    class Noisy(CellModel):
        name = "noisy cells"

        def program(self, target, profile, draws):
            return target

        def read_noise(self, now, written, profile, seconds):
            return torch.full_like(now, 0.1)

    an.register(Noisy)
    layer = linear(IDEAL.varied(cells={"model": "noisy cells"}))
    an.program(layer, 1)
    x = torch.ones(3, 12, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))


# --- measured drift --------------------------------------------------------------------------------------------------

DRIFT = {"g0": [0.0, 0.2, 1.0], "seconds": [10.0, 100.0, 1e4], "g": [[0, 0.01, 0.03], [0.2, 0.17, 0.1], [1, 0.9, 0.85]]}


def drifted(g0, t):
    """Bilinear in g0 and ln t, naively; beyond the conductances the change of the last one."""
    at = [naive({"g": [math.log(s) for s in DRIFT["seconds"]], "value": row}, math.log(t)) for row in DRIFT["g"]]
    return max(g0 + naive({"g": DRIFT["g0"], "value": [g - start for g, start in zip(at, DRIFT["g0"])]}, g0), 0.0)


@pytest.mark.parametrize("seconds", [0.0, 40.0, 80.0, 3000.0, 1e4 - 20])
@pytest.mark.parametrize("mapping", ["signed", "differential"])
def test_cells_drift_as_they_were_measured(mapping, seconds):
    """What was programmed, with its error, is what drifts; t begins 20 s before the first read."""
    profile = IDEAL.varied(cells={"mapping": mapping}, programming={"sigma": 0.1}, drift={"table": DRIFT})
    layer = linear(profile)
    an.program(layer, 1)
    an.at_time(layer, seconds)
    w, seed = layer.weight.detach().numpy(), int(layer.chip_seed)
    aged = np.vectorize(lambda g: math.copysign(drifted(abs(g), 20 + seconds), g))
    if mapping == "signed":
        want = np.where(w < 0, -1, 1) * aged(np.abs(w) + 0.1 * drawn(w.shape, seed, Stream.PROGRAMMING, 0))
    else:
        sides = [
            aged(np.maximum(np.maximum(sign * w, 0) + 0.1 * drawn(w.shape, seed, Stream.PROGRAMMING, i), 0))
            for i, sign in enumerate((1, -1))
        ]
        want = sides[0] - sides[1]
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)


def test_drift_was_measured_so_long_and_no_longer():
    layer = linear(IDEAL.varied(cells={"mapping": "differential"}, drift={"table": DRIFT}))
    an.program(layer, 1)
    an.at_time(layer, 1e4)
    with pytest.raises(
        ProgrammingError, match=r"drift.table: 1.002e\+04 s after programming .* outside of its 10 to 1e\+04 s"
    ):
        effective(layer)
    held = linear(IDEAL.varied(cells={"mapping": "differential"}, drift={"table": DRIFT | {"outside": "hold"}}))
    an.program(held, 1)
    an.at_time(held, 1e4 - 20)
    last = effective(held)
    an.at_time(held, 1e6)
    np.testing.assert_array_equal(effective(held), last)
    narrow = {"g0": [0.1, 1.0], "seconds": [10, 100], "g": [[0.1, 0.1], [1, 1]]}
    layer = linear(IDEAL.varied(cells={"mapping": "differential"}, drift={"table": narrow}))
    an.program(layer, 1)
    with pytest.raises(
        ProgrammingError, match=r"drift.table: cells' targets reach from 0 to 1 of g_max, its table from 0.1"
    ):
        effective(layer)


def test_compensation_knows_measured_drift():
    plain, compensated = (
        linear(IDEAL.varied(cells={"mapping": "differential"}, drift={"table": DRIFT, "compensation": how}))
        for how in ("none", "global")
    )
    for layer in (plain, compensated):
        an.program(layer, 1)
    fresh = effective(plain)
    np.testing.assert_array_equal(fresh, effective(compensated))
    for layer in (plain, compensated):
        an.at_time(layer, 5000.0)
    aged = effective(plain)
    np.testing.assert_allclose(effective(compensated), aged * np.abs(fresh).sum() / np.abs(aged).sum(), rtol=1e-12)


def test_a_table_of_the_power_law_is_the_power_law():
    """500 times over four decades, of g0·(t/t0)^(-ν): the straight lines between them are near."""
    seconds = np.geomspace(20, 2e5, 500).tolist()
    table = {"g0": [0, 1], "seconds": seconds, "g": [[0.0] * 500, [(t / 20) ** -0.05 for t in seconds]]}
    found = []
    for drift in ({"table": table}, {"nu": 0.05}):
        layer = linear(IDEAL.varied(cells={"mapping": "differential"}, programming={"sigma": 0.02}, drift=drift))
        an.program(layer, 1)
        an.at_time(layer, 12_345.0)
        found.append(effective(layer))
    inside = np.abs(found[1]) < 0.6  # what noise took beyond 1 changes as 1 does
    np.testing.assert_allclose(found[0][inside], found[1][inside], atol=1e-6)
