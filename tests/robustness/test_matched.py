"""A matched curve: what of each network's curve is in it, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analogsim.errors import FitError
from analogsim.robustness import RobustnessCurve, matched_curve

GRID = np.array([0.1, 0.3, 1.0, 3.0, 10.0])


def swept(seed, columns=2, grid=GRID, **changes):
    """A network's curve: any accuracies."""
    values = np.random.default_rng(seed).uniform(0.1, 0.9, (len(grid), columns))
    about = {"sigmas": grid, "values": values, "noise_free": 0.5 + seed / 100, "chance": 0.1, "samples": 1000 + seed}
    return RobustnessCurve(**(about | changes))


@given(chosen=st.sets(st.integers(0, 4), min_size=1), columns=st.integers(1, 3), float_too=st.booleans())
def test_each_point_is_of_the_network_that_was_trained_at_it(chosen, columns, float_too):
    curves = {float(GRID[row]): swept(row, columns) for row in sorted(chosen, reverse=True)}
    if float_too:
        curves[0.0] = swept(9, columns)
    found = matched_curve(curves)
    rows = sorted(chosen)
    assert found.sigmas.tolist() == GRID[rows].tolist()
    for place, row in enumerate(rows):
        assert found.values[place].tolist() == curves[float(GRID[row])].values[row].tolist()
    # Without noise: the network that was trained without, else the one that was trained under the least.
    lowest = 9 if float_too else rows[0]
    assert found.noise_free == swept(lowest).noise_free
    assert found.samples == 1000 + min([*rows, *([9] if float_too else [])])


def test_pooling_seeds_first_or_last_is_the_same():
    seeds = [{sigma: swept(10 * seed + row) for row, sigma in enumerate(GRID)} for seed in range(3)]
    last = RobustnessCurve.pool(matched_curve(curves) for curves in seeds)
    first = matched_curve({sigma: RobustnessCurve.pool(curves[sigma] for curves in seeds) for sigma in GRID})
    assert np.array_equal(first.values, last.values)
    assert first.trainings.tolist() == last.trainings.tolist() == [0, 0, 1, 1, 2, 2]
    assert first.noise_free == pytest.approx(last.noise_free)


def test_what_is_known_of_all_is_kept_and_the_file_says_what_it_is(tmp_path):
    curves = {sigma: swept(row, about={"data": "digits", "seed": row}) for row, sigma in enumerate(GRID)}
    found = matched_curve(curves)
    assert found.about == {"data": "digits", "trained": "at the σ of each point"}
    found.save(tmp_path / "curve.json")
    again = RobustnessCurve.load(tmp_path / "curve.json")
    assert again.digest == found.digest
    assert again.about == found.about


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({}, "at least one above 0"),
        ({0.0: swept(0)}, "at least one above 0"),
        ({-0.1: swept(0), 0.1: swept(0)}, "finite σ of training"),
        ({float("inf"): swept(0)}, "finite σ of training"),
        ({0.2: swept(0)}, r"curves\[0.2\]: not evaluated at its own σ"),
        ({0.1: swept(0), 0.3: swept(1, quantity="weights")}, r"curves\[0.3\]: quantity"),
        ({0.1: swept(0), 0.3: swept(1, columns=3)}, r"curves\[0.3\]: quantity"),
        ({0.1: swept(0), 0.3: swept(1, chance=0.2)}, r"curves\[0.3\]: quantity"),
        ({0.0: swept(0, trainings=[0, 1]), 0.3: swept(1)}, r"curves\[0\]: quantity"),
    ],
    ids=str,
)
def test_what_is_no_matched_curve(curves, words):
    with pytest.raises(FitError, match=words):
        matched_curve(curves)
