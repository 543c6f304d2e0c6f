"""σ and s of each layer that are chosen by what the layer's noise does to the logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks import findings
from benchmarks.paper import shares

ERRORS = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=12)


@given(st.floats(0.01, 100), ERRORS)
def test_both_ways_make_the_error_of_one_level_everywhere(level, errors):
    for way in ("equal", "proportional"):
        own = shares.spread(level, errors, way)
        assert math.isclose(sum(c * one**2 for c, one in zip(errors, own)), level**2 * sum(errors), rel_tol=1e-9)


@given(st.floats(0.01, 100), ERRORS)
def test_equal_is_the_same_error_of_every_site_and_proportional_follows_it(level, errors):
    each = [c * one**2 for c, one in zip(errors, shares.spread(level, errors, "equal"))]
    assert all(math.isclose(one, each[0], rel_tol=1e-9) for one in each)
    ratios = [one**2 / c for c, one in zip(errors, shares.spread(level, errors, "proportional"))]
    assert all(math.isclose(one, ratios[0], rel_tol=1e-9) for one in ratios)


def test_the_error_of_a_site_is_that_of_the_matrix_behind_it():
    torch.manual_seed(0)
    first, second = nn.Linear(8, 6), nn.Linear(6, 5)
    found = shares.measure(nn.Sequential(first, second), torch.randn(20_000, 8), 0.01)
    # Of independent noise on what a matrix multiplies, the mean square is Σ w² over outputs: 20,000 samples of 5 logits
    # tell it to 1 % (standard deviation 0.5 to 1 %, and 1/√50,000 where the noise is on the logits themselves).
    whole = second.weight @ first.weight
    exact = {"input": whole, "0": second.weight, "1": torch.eye(5)}
    assert found.keys() == exact.keys()
    for name, matrix in exact.items():
        assert found[name] == pytest.approx((matrix**2).sum().item() / 5, rel=0.04), name


def test_what_is_chosen_is_of_the_committed_errors():
    errors = shares.errors()
    assert list(errors)[:2] == ["input", "features.conv1"]
    assert len(errors) == 12
    for way in ("equal", "proportional"):
        own = shares.chosen(1.0, way)
        assert sum(errors[name] * sigma**2 for name, sigma in own.items()) == pytest.approx(
            sum(errors.values()), rel=0.01
        )
        assert list(shares.chosen(8, way, "relu")) == [name for name in errors if "relu" in name]


def test_an_equal_cost_is_read_between_points_and_not_beyond():
    points = [(0.4, 4.0), (0.5, 0.1), (0.6, 1.0)]  # the one in the middle is worse than the last in both
    assert findings.at_cost(0.5, points) == pytest.approx(2.0)
    assert findings.at_cost(0.6, points) == pytest.approx(1.0)
    assert math.isnan(findings.at_cost(0.61, points))
    assert math.isnan(findings.at_cost(0.39, points))


def test_what_is_chosen_is_held_against_one_sigma_at_the_same_cost():
    """By hand: on the line through the two uniform networks nearest in accuracy that none beats in both."""
    rows = {findings.title(row): row for row in findings.load(findings.PAPER / findings.LAYERS)[0]}
    row = rows["σ by error, proportional, as σ=0.316"]
    points = [(a, mu) for a, mu in findings.uniform() if not any(b > a and nu > mu for b, nu in findings.uniform())]
    below = max(point for point in points if point[0] <= row["noise_free"])
    above = min(point for point in points if point[0] >= row["noise_free"])
    share = (row["noise_free"] - below[0]) / (above[0] - below[0])
    one = math.exp((1 - share) * math.log(below[1]) + share * math.log(above[1]))
    assert findings.by_error("proportional", "0.316") == pytest.approx(row["midpoint"] / one)
