"""The fit of µ: known curves are recovered, intervals cover as often as they say, and no flag is missed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from analogsim.errors import FitError
from analogsim.robustness import law
from analogsim.robustness.midpoint import MidpointFit, fit_midpoint

GRID = np.logspace(-2, 2, 17)
NOISY_TRAINED = [0.42, 0.42, 0.42, 0.43, 0.44, 0.45, 0.46, 0.44, 0.33, 0.20, 0.14, 0.11] + [0.10] * 5


def logistic(mu, k=3.0, peak=0.9, floor=0.1, sigmas=GRID):
    return floor + (peak - floor) / (1 + (sigmas / mu) ** k)


def measured(rng, accuracy, samples=1000, repeats=5):
    """Binomial counts around true accuracies (S,) or (S, R)."""
    accuracy = np.reshape(accuracy, (len(accuracy), -1))
    return rng.binomial(samples, np.repeat(accuracy, repeats, 1)) / samples


@given(
    mu=st.floats(0.03, 30),
    k=st.floats(1, 8),
    peak=st.floats(0.3, 1),
    floor=st.floats(0.02, 0.1),
)
def test_recovers_every_noise_free_curve(mu, k, peak, floor):
    fit = fit_midpoint(GRID, logistic(mu, k, peak, floor), chance=0.1, resamples=1)
    assert fit.midpoint == pytest.approx(mu, rel=1e-3)
    assert fit.flags == ()


def test_recovers_known_parameters_from_binomial_noise():
    accuracies = measured(np.random.default_rng(0), logistic(0.5, 2.5, 0.56), samples=10_000)
    fit = fit_midpoint(GRID, accuracies, chance=0.1, samples=10_000)
    assert fit.midpoint == pytest.approx(0.5, rel=0.03)
    assert fit.slope == pytest.approx(2.5, rel=0.06)
    assert (fit.top, fit.floor) == pytest.approx((0.56, 0.1), abs=0.005)
    assert fit.peak == accuracies.mean(1).max()
    assert fit.r2 > 0.999
    assert fit.flags == ()


def test_mu_scales_with_sigma():
    accuracies = measured(np.random.default_rng(0), logistic(0.5))
    one, thousand = (fit_midpoint(GRID * scale, accuracies, chance=0.1) for scale in (1, 1000))
    assert np.array([*thousand.ci, thousand.midpoint]) == pytest.approx(
        1000 * np.array([*one.ci, one.midpoint]), rel=1e-4
    )


def test_the_same_call_gives_the_same_result():
    accuracies = measured(np.random.default_rng(0), logistic(0.5))
    assert fit_midpoint(GRID, accuracies, chance=0.1) == fit_midpoint(GRID, accuracies, chance=0.1)


# Intervals. n = 200 curves, each with its own noise; the count of intervals that cover µ is Binomial(200, 0.95) where
# they keep their word. Outside [ppf(α/2), ppf(1 − α/2)], α = 1e-3, they do not: this rejects coverages below 0.83 with
# a power of 0.99.
CURVES, ALPHA = 200, 1e-3
ALLOWED = stats.binom.ppf([ALPHA / 2, 1 - ALPHA / 2], CURVES, 0.95)


def keeps_its_word(intervals, mu):
    covered = sum(low <= mu <= high for low, high in intervals)
    return ALLOWED[0] <= covered <= ALLOWED[1]


def halved(fit):
    half = math.sqrt(fit.ci[1] / fit.midpoint), math.sqrt(fit.midpoint / fit.ci[0])
    return fit.midpoint / half[1], fit.midpoint * half[0]


@pytest.mark.parametrize(("mu", "k", "peak", "samples", "repeats"), [(0.3, 3, 0.56, 1000, 5), (1.35, 1.5, 0.9, 360, 3)])
def test_intervals_cover_the_truth(mu, k, peak, samples, repeats):
    fits = []
    for seed in range(CURVES):
        accuracies = measured(np.random.default_rng(seed), logistic(mu, k, peak), samples, repeats)
        fits.append(fit_midpoint(GRID, accuracies, chance=0.1, resamples=400, seed=seed))
    assert keeps_its_word([fit.ci for fit in fits], mu)
    assert not keeps_its_word([halved(fit) for fit in fits], mu)


@pytest.mark.slow
def test_intervals_of_pooled_trainings_cover_the_truth():
    trainings = np.repeat(np.arange(5), 3)

    def population(rng, count):
        mu, peak = 0.3 * np.exp(0.2 * rng.standard_normal(count)), 0.56 + 0.02 * rng.standard_normal(count)
        return logistic(mu, 3.0, peak, sigmas=GRID[:, None])

    everyone = population(np.random.default_rng(99), 100_000).mean(1)
    mu = fit_midpoint(GRID, everyone, chance=0.1).midpoint
    pooled, unpooled = [], []
    for seed in range(CURVES):
        rng = np.random.default_rng(seed)
        accuracies = measured(rng, population(rng, 5), 10_000, 3)
        for intervals, groups in ((pooled, trainings), (unpooled, None)):
            fit = fit_midpoint(GRID, accuracies, chance=0.1, trainings=groups, resamples=400, seed=seed)
            intervals.append(fit.ci)
    assert keeps_its_word(pooled, mu)
    assert not keeps_its_word(unpooled, mu), "taking trainings for repeats must show"


def test_one_repeat_has_an_interval_only_where_the_samples_are_known():
    accuracies = measured(np.random.default_rng(0), logistic(0.5), repeats=1)
    without, known = (fit_midpoint(GRID, accuracies, chance=0.1, samples=samples) for samples in (None, 1000))
    assert np.isnan(without.ci).all()
    assert known.ci[0] < 0.5 < known.ci[1]
    assert str(without) == f"µ = {without.midpoint:.3g}"


def test_an_unresolved_fall_is_as_uncertain_as_the_grid():
    fit = fit_midpoint(GRID, np.repeat([[0.9]] * 8 + [[0.1]] * 9, 5, 1), chance=0.1)
    assert fit.ci[0] <= GRID[7] < fit.midpoint < GRID[8] <= fit.ci[1]


# The descent that fits all bootstrap samples at once


def test_descent_finds_what_curve_fit_finds():
    rng = np.random.default_rng(0)
    curves = np.stack([measured(rng, logistic(0.3, 3, 0.56), 200, 1)[:, 0] for _ in range(20)])
    t = np.log(GRID)
    bounds = law.bounds(t, 0.1)
    start = np.log([0.3, 3.0]).tolist() + [0.56, 0.05]
    comp = law.descend(t, curves, np.repeat([start], 20, 0), bounds)

    def model(t, mu, log_k, top, floor):
        return floor + (top - floor) / (1 + np.exp(np.exp(log_k) * (t - mu)))

    ref = np.stack([optimize.curve_fit(model, t, y, start, bounds=bounds, xtol=1e-12, ftol=1e-12)[0] for y in curves])
    np.testing.assert_allclose(comp, ref, atol=2e-4)


def test_jacobian_is_the_derivative():
    t, params, step = np.log(GRID), np.array([[-1.2, 1.1, 0.8, 0.06]]), 1e-6
    comp = law.jacobian(t, params)[0]
    for column, shift in enumerate(np.eye(4) * step):
        ref = (law.curve(t, params + shift) - law.curve(t, params - shift))[0] / (2 * step)
        np.testing.assert_allclose(comp[:, column], ref, atol=1e-8)


# Which points


def test_fits_the_falling_flank_from_the_peak_on():
    fit = fit_midpoint(GRID, NOISY_TRAINED, chance=0.1)
    assert fit.points_used == tuple(range(6, 17))
    assert fit.peak == 0.46
    assert fit.flags == ()
    below = [0.2] * 6 + NOISY_TRAINED[6:]
    assert fit_midpoint(GRID, below, chance=0.1).midpoint == fit.midpoint, "the rise before the peak is no evidence"


def test_at_least_four_points_are_fitted():
    fit = fit_midpoint(GRID, [0.8] * 15 + [0.9, 0.3], chance=0.1)
    assert fit.points_used == (13, 14, 15, 16)


def test_a_grid_that_starts_below_the_plateau_needs_the_noise_free_accuracy():
    accuracies = logistic(0.013, 3)
    assert accuracies[0] < 0.65
    with_it = fit_midpoint(GRID, accuracies, chance=0.1, noise_free=0.9)
    assert with_it.midpoint == pytest.approx(0.013, rel=1e-3)
    assert with_it.top == pytest.approx(0.9, abs=1e-3)


def test_predict_is_the_fitted_curve():
    fit = fit_midpoint(GRID, logistic(0.5, 2), chance=0.1)
    np.testing.assert_allclose(fit.predict(GRID), logistic(0.5, 2), atol=1e-4)
    assert fit.predict(0.0) == pytest.approx(0.9, abs=1e-4)
    assert np.isnan(fit_midpoint(GRID, [0.1] * 17, chance=0.1).predict(GRID)).all()


# Flags


def test_collapsed():
    fit = fit_midpoint(GRID, [0.1] * 17, chance=0.1)
    assert fit.flags == ("collapsed",)
    assert math.isnan(fit.midpoint)
    assert str(fit) == "no µ (collapsed)"


def test_collapsed_is_a_matter_of_the_number_of_samples():
    accuracies = logistic(1.0, 3, 0.14)
    few, many = (fit_midpoint(GRID, accuracies, chance=0.1, samples=samples).flags for samples in (100, 10_000))
    assert few == ("collapsed",)
    assert many == ()


def test_guessing_is_called_collapsed():
    # n = 500 guessing networks, five repeats each. At the stated rate of at most 1e-3, five or more misses happen with
    # probability 2e-4; a criterion of two standard deviations would miss about 190.
    rng = np.random.default_rng(0)
    missed = sum(
        "collapsed" not in fit_midpoint(GRID, guesses, chance=0.1, samples=200, resamples=1).flags
        for guesses in np.repeat(rng.binomial(200, 0.1, (500, 17, 1)) / 200, 5, 2)
    )
    assert missed < 5


def test_extrapolated():
    flat = fit_midpoint(GRID, [0.9] * 17, chance=0.1)
    assert (flat.midpoint, flat.ci) == (math.inf, (GRID[-1], math.inf))
    assert str(flat) == "µ > 100 (extrapolated)"
    falling = fit_midpoint(GRID, logistic(150, 3), chance=0.1)
    assert falling.midpoint == pytest.approx(150, rel=0.1)
    lost = fit_midpoint(GRID, [0.12] + [0.1] * 16, chance=0.1, noise_free=0.9)
    assert str(lost) == "µ < 0.0100 (extrapolated)"
    early = fit_midpoint(GRID, logistic(0.008, 3), chance=0.1, noise_free=0.9)
    assert early.midpoint == pytest.approx(0.008, rel=0.01)
    # Measured: a peak at σ = 1 alone, from which a logistic falls whose µ, 0.32, is where the curve was lower.
    spike = [0.145, 0.144, 0.145, 0.143, 0.146, 0.142, 0.139, 0.159, 0.179, 0.128, 0.114, 0.114, 0.1, 0.106, 0.108]
    lone = fit_midpoint(GRID, [*spike, 0.111, 0.104], chance=0.1)
    assert lone.midpoint < 0.5
    assert lone.flags[0] == "extrapolated"
    assert {fit.flags for fit in (flat, falling, lost, early)} == {("extrapolated",)}


def test_poor_fit():
    stairs = [0.9] * 4 + [0.5] * 8 + [0.1] * 5
    fit = fit_midpoint(GRID, stairs, chance=0.1)
    assert fit.r2 < 0.95
    assert fit.flags == ("poor_fit",)
    assert str(fit).endswith(" (poor_fit)")


def test_brittle():
    baseline, half, third = (fit_midpoint(GRID, logistic(mu, peak=0.8), chance=0.1) for mu in (1.2, 0.7, 0.4))
    low = fit_midpoint(GRID, logistic(0.4, peak=0.5), chance=0.1)
    assert third.against(baseline).flags == ("brittle",)
    assert third.against((1.2, 0.8)).flags == ("brittle",)
    assert str(third.against(baseline)).endswith("(brittle)")
    assert half.against(baseline).flags == ()
    assert low.against(baseline).flags == (), "a low peak fools nobody"
    assert third.against(baseline).against(third).flags == ()
    assert third.against(fit_midpoint(GRID, [0.8] * 17, chance=0.1)).flags == ("brittle",)
    lost = fit_midpoint(GRID, [0.12] + [0.1] * 16, chance=0.1, noise_free=0.8)
    assert lost.against(baseline).flags == ("extrapolated", "brittle")
    collapsed = fit_midpoint(GRID, [0.1] * 17, chance=0.1)
    assert collapsed.against(baseline).flags == ("collapsed",)


def test_brittle_needs_intervals_apart():
    def fit(mu, low, high):
        return MidpointFit(mu, 3, 0.8, 0.8, 0.1, 1, (low, high), 0.1)

    assert fit(0.4, 0.3, 0.5).against(fit(1.0, 0.6, 1.5)).flags == ("brittle",)
    assert fit(0.4, 0.1, 0.7).against(fit(1.0, 0.6, 1.5)).flags == ()


def test_a_baseline_without_midpoint_is_refused():
    collapsed = fit_midpoint(GRID, [0.1] * 17, chance=0.1)
    with pytest.raises(FitError, match="no midpoint"):
        fit_midpoint(GRID, NOISY_TRAINED, chance=0.1).against(collapsed)


@pytest.mark.parametrize("flags", [("poor_fit",), ("extrapolated", "brittle")])
@pytest.mark.parametrize("mu", [0.0, 0.3, math.inf, math.nan])
def test_no_midpoint_is_printed_without_its_flags(mu, flags):
    text = str(MidpointFit(mu, 3, 0.8, 0.8, 0.1, 1, (0.28, 0.33), 0.1, flags=flags))
    assert text.endswith(f"({', '.join(flags)})")


# Curves that the law does not describe


def falls(share, first, second, sigmas=GRID):
    """Two plateaus: a share of the fall at the first σ, the rest at the second."""
    return 0.1 + share * (logistic(first, sigmas=sigmas) - 0.1) + (1 - share) * (logistic(second, sigmas=sigmas) - 0.1)


def risen(low, high, at, mu, sigmas=GRID):
    """A curve that rises from a level to another one before it falls."""
    level = high + (low - high) / (1 + (sigmas / at) ** 3)
    return 0.1 + (level - 0.1) / (1 + (sigmas / mu) ** 3)


def truly(curve, *values):
    """Where a curve falls through half its height above chance, from its formula."""
    fine = np.geomspace(GRID[0], GRID[-1], 20_001)
    accuracies = curve(*values, sigmas=fine)
    peak = int(accuracies.argmax())
    return fine[peak + np.nonzero(accuracies[peak:] < (accuracies[peak] + 0.1) / 2)[0][0]]


KINDS = {
    "two falls, the second larger": (falls, 0.4, 0.3, 3.0),
    "two falls alike": (falls, 0.5, 0.2, 2.0),
    "two falls, the first smaller": (falls, 0.3, 0.1, 1.0),
    "rises far": (risen, 0.3, 0.8, 0.5, 2.0),
    "rises a little": (risen, 0.42, 0.48, 0.3, 2.0),
}


@pytest.mark.parametrize("kind", [name for name in KINDS if "falls" in name])
def test_a_curve_of_two_falls_says_so(kind):
    curve, *values = KINDS[kind]
    truth = truly(curve, *values)
    flagged = 0
    for seed in range(20):
        accuracies = measured(np.random.default_rng(seed), curve(*values))
        fit = fit_midpoint(GRID, accuracies, chance=0.1, samples=1000, resamples=200)
        flagged += fit.flags == ("poor_fit",)
        # On a plateau at half height noise moves the crossing along.
        assert fit.crossing == pytest.approx(truth, rel=0.4)
    # Noise alone has it unflagged in less than 1 of 100, and in two of 20 with probability 0.02.
    assert flagged >= 19


def test_what_is_flagged_is_printed_with_its_half_height():
    fit = fit_midpoint(GRID, falls(0.4, 0.3, 3.0), chance=0.1, samples=1000)
    assert fit.crossing == pytest.approx(truly(falls, 0.4, 0.3, 3.0), rel=0.05)
    assert not 1 / 1.25 < fit.midpoint / fit.crossing < 1.25
    assert str(fit).endswith(f", half height at {fit.crossing:#.3g} (poor_fit)")
    assert fit.ci[0] < fit.midpoint < fit.crossing < fit.ci[1]


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_have_the_misfit(kind):
    # n = 40 curves. Where 0.92 of the intervals have the truth, 31 or fewer do with probability 1e-3; of those without
    # the misfit none to half did.
    curve, *values = KINDS[kind]
    truth, covered = truly(curve, *values), 0
    for seed in range(40):
        accuracies = measured(np.random.default_rng(seed), curve(*values))
        free = curve(*values, sigmas=np.array([1e-9]))[0]
        fit = fit_midpoint(GRID, accuracies, chance=0.1, samples=1000, noise_free=free, resamples=200, seed=seed)
        covered += fit.ci[0] <= truth <= fit.ci[1]
    assert covered > 31


@given(mu=st.floats(0.03, 30), k=st.floats(1, 4), top=st.floats(0.3, 1), floor=st.floats(0.02, 0.1))
def test_half_height_is_where_the_law_s_curve_has_it(mu, k, top, floor):
    # A grid of 17 points resolves falls up to k = 4; half height is of what the grid shows, which for µ near its end is
    # less than the whole fall.
    fit = fit_midpoint(GRID, logistic(mu, k, top, floor), chance=0.1, resamples=1)
    assert fit.crossing == pytest.approx(mu, rel=0.2)


def test_half_height_of_noisy_curves_is_not_where_noise_first_crosses_it():
    accuracies = np.array([0.9, 0.9, 0.45, 0.9, 0.9, 0.8, 0.2, 0.1, 0.1])
    fit = fit_midpoint(np.geomspace(0.01, 100, 9), accuracies, chance=0.1)
    assert 10**0.5 < fit.crossing < 10


@pytest.mark.parametrize(
    ("accuracies", "noise_free", "crossing"),
    [
        ([0.1] * 17, None, math.nan),
        ([0.9] * 17, None, math.inf),
        ([0.12] + [0.1] * 16, 0.9, 0.0),
        (logistic(0.008), 0.9, 0.0),
        (logistic(300, 2), None, math.inf),
    ],
)
def test_half_height_beyond_the_grid(accuracies, noise_free, crossing):
    fit = fit_midpoint(GRID, accuracies, chance=0.1, noise_free=noise_free)
    assert fit.crossing == crossing or (math.isnan(crossing) and math.isnan(fit.crossing))
    assert "poor_fit" not in fit.flags


def test_noise_alone_is_no_misfit():
    # n = 100 curves of the law with the noise of 360 samples and of 2 repeats: at the rate of 0.01 at which a misfit is
    # told from noise, which a point off by 5 % must join, 6 or more are flagged with probability 5e-4.
    flagged = 0
    for seed in range(100):
        accuracies = measured(np.random.default_rng(seed), logistic(1.0, 2.0), 360, 2)
        flagged += "poor_fit" in fit_midpoint(GRID, accuracies, chance=0.1, samples=360, resamples=2).flags
    assert flagged < 6


@pytest.mark.parametrize("points", [17, 1000])
def test_a_fit_of_a_long_grid_is_that_of_a_short_one(points):
    # In blocks: what a fit needs at a time does not grow with the grid.
    grid = np.geomspace(0.01, 100, points)
    accuracies = measured(np.random.default_rng(0), logistic(0.5, 2.5, sigmas=grid))
    fit = fit_midpoint(grid, accuracies, chance=0.1, resamples=50)
    assert fit.midpoint == pytest.approx(0.5, rel=0.03)
    assert fit.ci[0] < fit.midpoint < fit.ci[1]


def test_blocks_change_nothing(monkeypatch):
    accuracies = measured(np.random.default_rng(0), logistic(0.5))
    whole = fit_midpoint(GRID, accuracies, chance=0.1)
    monkeypatch.setattr(law, "AT_ONCE", 500)
    parts = fit_midpoint(GRID, accuracies, chance=0.1)
    assert np.array([parts.midpoint, *parts.ci]) == pytest.approx(np.array([whole.midpoint, *whole.ci]), rel=1e-9)


# What cannot be fitted

GOOD = logistic(1.0)


@pytest.mark.parametrize(
    ("sigmas", "accuracies", "options", "message"),
    [
        ([1.0], [0.5], {}, "at least 4 points"),
        (GRID[:3], GOOD[:3], {}, "at least 4 points"),
        (GRID, GOOD[:-1], {}, "shape"),
        (GRID, np.empty((17, 0)), {}, "shape"),
        (GRID, np.where(GRID > 1, np.nan, GOOD), {}, r"fractions.*nan at \[9, 0\]"),
        (GRID, 100 * GOOD, {}, "fractions"),
        (GRID[::-1], GOOD, {}, "ascending"),
        (np.r_[0, GRID[1:]], GOOD, {}, "positive"),
        (np.r_[GRID[:-1], np.inf], GOOD, {}, "finite"),
        (GRID, GOOD, {"chance": 0.0}, "chance"),
        (GRID, GOOD, {"noise_free": math.nan}, "noise_free"),
        (GRID, GOOD, {"samples": 0}, "samples"),
        (GRID, GOOD, {"trainings": [0, 1]}, "trainings"),
    ],
)
def test_impossible_curves_are_refused(sigmas, accuracies, options, message):
    with pytest.raises(FitError, match=message):
        fit_midpoint(sigmas, accuracies, **{"chance": 0.1, **options})
