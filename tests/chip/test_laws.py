"""Laws of the conductance, each against its formula in float64, and what is done beyond measured points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import analogsim as an
from analogsim.chip.laws import evaluate
from analogsim.errors import ProgrammingError
from analogsim.profile import HardwareProfile, Table
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
    "table": (POINTS, lambda g: naive(POINTS, g)),
}
FIELDS = [("programming", "sigma"), ("drift", "nu"), ("drift", "nu_sigma"), ("flicker", "amplitude")]


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
    layer = linear(IDEAL.varied(cells={"mapping": "differential"}, **{part: {field: table}}))
    an.program(layer, 1)
    with pytest.raises(
        ProgrammingError, match=rf"^{part}.{field}: cells' targets reach from 0 to 1 of g_max, its table"
    ):
        effective(layer)
    held = linear(IDEAL.varied(cells={"mapping": "differential"}, **{part: {field: table | {"outside": "hold"}}}))
    wide = {
        "g": [0.0, *g] if end == "first" else [*g, 1.0],
        "value": [0.01, 0.01, 0.02] if end == "first" else [0.01, 0.02, 0.02],
    }
    same = linear(IDEAL.varied(cells={"mapping": "differential"}, **{part: {field: wide}}))
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
