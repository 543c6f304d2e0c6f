"""Cells whose mean and spread were measured at some ages: SONOS as CrossSim fits it, and refusals."""

import math

import numpy as np
import pytest

import analogsim as an
from analogsim.errors import ProfileError, ProgrammingError
from analogsim.profile import HardwareProfile
from analogsim.seeds import Key, Stream, derive
from tests.support.chips import IDEAL, drawn, effective, linear

DAY = 86400.0
LARGEST = 0.06 / 35e3 * 1e9  # nA
# CrossSim, SONOS._interpolate_drift: A and B in nA, and the coefficients of the mean's movement, nA in nA.
SIGMA = {0: (19.88665, 176.3115), 1: (25.59102, 186.85544), 3: (31.04318, 198.90332), 5: (34.57909, 207.34309)}
MEAN = {
    0: (0.0,),
    1: (1.72684e-01, 5.72552e-02, -6.85715e-04, 3.50271e-06, -9.37682e-09, 1.40575e-11)
    + (-1.19803e-14, 5.41293e-18, -8.85448e-22, -1.66869e-25, 5.95180e-29),
    3: (-1.75300e-02, 9.76883e-02, -9.63791e-04, 4.55551e-06, -1.22391e-08, 1.93786e-11)
    + (-1.85899e-14, 1.07659e-17, -3.58211e-21, 5.96785e-25, -3.30410e-29),
    5: (3.19927e-01, 1.06596e-01, -1.04054e-03, 4.50290e-06, -1.10352e-08, 1.56477e-11)
    + (-1.27592e-14, 5.45513e-18, -7.26841e-22, -2.43893e-25, 7.14608e-29),
}
CELLS = {"mapping": "differential"}


def theirs(g, day):
    """Mean and standard deviation of cells of a target, fractions of g_max, by CrossSim's equations."""
    current = g * LARGEST
    mean = current + sum(c * current**i for i, c in enumerate(MEAN[day]))
    a, b = SIGMA[day]
    return mean / LARGEST, a * (1 - math.exp(-max(mean, 0.0) / b)) / LARGEST


@pytest.mark.parametrize("day", SIGMA)
@pytest.mark.parametrize("g", [0.03, 0.1, 0.35, 0.7, 1.0])
def test_sonos_is_crosssims_at_each_of_its_days(day, g):
    """40,000 cells of one target: the mean within 4.5 standard errors, the variance within 4.5·√(2/n) = 3.2 %."""
    sonos = HardwareProfile.load("sonos")
    layer = linear(IDEAL.varied(cells=CELLS, programming=sonos.programming.model_dump(), drift=sonos.drift), 200, 200)
    layer.weight.data.fill_(g)
    an.program(layer, 1)
    an.at_time(layer, day * DAY)
    planes = layer.write(layer.weight).chip.planes
    # The other cell of each pair has the target 0: it moves, but does not spread.
    zero = max(theirs(0.0, day)[0], 0.0)
    held = planes[0].weight.numpy() + zero
    mean, sigma = theirs(g, day)
    n = held.size
    assert abs(held.mean() - mean) < 4.5 * sigma / math.sqrt(n) + 1e-5
    assert held.var() / sigma**2 == pytest.approx(1, abs=4.5 * math.sqrt(2 / n) + 0.005)
    assert not abs(held.var() * 1.05**2 / sigma**2 - 1) < 4.5 * math.sqrt(2 / n) + 0.005


LAW = {
    "seconds": [100.0, 300.0],
    "mean": [[0.01, 0.1], [0.02, 0.0, -0.2]],
    "sigma": [[0.05], {"amplitude": 0.2, "scale": 0.5}],
}


@pytest.mark.parametrize("age", [0.0, 40.0, 100.0, 150.0, 300.0])
def test_a_cell_moves_as_the_formula_says(age):
    layer = linear(IDEAL.varied(cells=CELLS, programming={"sigma": 0.03}, drift={"moments": LAW}))
    an.program(layer, 3)
    an.at_time(layer, age)
    w, seed, want = layer.weight.detach().numpy(), derive(3, Key.CHIP, 0), 0
    for array, sign in enumerate((1, -1)):
        target = np.maximum(sign * w, 0)
        first, second = (drawn(w.shape, seed, what, array) for what in (Stream.PROGRAMMING, Stream.DRIFT))
        g = np.maximum(target + 0.03 * first, 0)
        moved = [0 * target, 0.01 + 0.1 * target, 0.02 - 0.2 * target**2]
        low, share = (0, age / 100) if age < 100 else (1, (age - 100) / 200)
        mean = moved[low] * (1 - share) + moved[low + 1] * share
        now = np.maximum(target + mean, 0)
        sigmas = [0.03 + 0 * now, 0.05 + 0 * now, 0.2 * (1 - np.exp(-now / 0.5))]
        sigma = sigmas[low] * (1 - share) + sigmas[low + 1] * share
        if age:
            g = np.maximum(g + mean + np.sqrt(np.maximum(sigma**2 - 0.03**2, 0)) * second, 0)
        want = want + sign * g
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)


def test_older_chips_are_refused_or_held():
    layer = linear(IDEAL.varied(cells=CELLS, drift={"moments": LAW}))
    an.program(layer, 3)
    an.at_time(layer, 301.0)
    with pytest.raises(ProgrammingError, match=r"drift\.moments: a chip of 301 s is older than the last age, 300 s"):
        effective(layer)
    layer.profile = layer.profile.varied(drift={"moments": LAW | {"outside": "hold"}})
    held = effective(layer)
    an.at_time(layer, 300.0)
    np.testing.assert_array_equal(effective(layer), held)


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        ({"moments": LAW, "nu": 0.05}, "leave them out beside moments"),
        ({"moments": LAW | {"seconds": [300.0, 100.0]}}, "ages must increase"),
        ({"moments": LAW | {"mean": [[0.0]]}}, "one mean and one sigma for each age"),
    ],
)
def test_what_does_not_fit_together_is_refused(drift, message):
    with pytest.raises(ProfileError, match=message):
        HardwareProfile(drift=drift)


def test_it_makes_chips_differ_and_is_compensated():
    profile = IDEAL.varied(cells=CELLS, drift={"moments": LAW, "compensation": "output"})
    assert profile.is_drawn
    assert not profile.without_variation().is_drawn
    layer = linear(profile)
    an.program(layer, 1)
    fresh = effective(layer)
    an.at_time(layer, 300.0)
    np.testing.assert_allclose(np.abs(effective(layer)).sum(1), np.abs(fresh).sum(1), rtol=1e-12)
