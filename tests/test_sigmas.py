"""Noise grids: the numbers that are nearest to what they are named by, the same on every processor."""

from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import analogsim as an
from analogsim.sigmas import log_spaced, noise_grid, read_sigmas

WIDE = Context(prec=80)


def nearest(value: float, exact: Decimal) -> bool:
    """Say whether no other float64 is nearer to a number."""
    around = (np.nextafter(value, -np.inf), value, np.nextafter(value, np.inf))
    return min(around, key=lambda one: abs(Fraction(float(one)) - Fraction(exact))) == value


# What numpy gives on processors without AVX-512; with it, 10^(-5/4) and 10^(3/4) come out one unit in the last place
# away. The jobs of kept studies are named by these numbers.
PAPER = (
    "0.01 0.01778279410038923 0.03162277660168379 0.05623413251903491 0.1 0.1778279410038923 0.31622776601683794 "
    "0.5623413251903491 1.0 1.7782794100389228 3.1622776601683795 5.623413251903491 10.0 17.78279410038923 "
    "31.622776601683793 56.23413251903491 100.0"
)


def test_the_paper_s_grid_is_these_numbers_in_every_digit():
    assert " ".join(map(repr, read_sigmas("logspace(-2, 2, 17)").tolist())) == PAPER
    assert " ".join(map(repr, an.SIGMAS.tolist())) == PAPER


@given(st.floats(-12, 12), st.floats(-12, 12), st.integers(1, 40))
def test_a_power_of_ten_is_the_nearest_float64(start, stop, count):
    grid = log_spaced(start, stop, count)
    exponents = np.linspace(start, stop, count)
    assert len(grid) == count
    for value, exponent in zip(grid, exponents):
        assert nearest(float(value), WIDE.power(Decimal(10), Decimal(float(exponent)))), exponent
    assert np.allclose(grid, np.logspace(start, stop, count), rtol=1e-14)


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 40))
def test_equal_ratios_are_too_and_the_ends_are_those_that_were_given(start, stop, count):
    grid = read_sigmas(f"geomspace({start!r}, {stop!r}, {count})")
    assert grid[0] == start
    assert grid[-1] == stop
    ratio = WIDE.divide(Decimal(stop), Decimal(start))
    for k, value in enumerate(grid):
        exact = WIDE.multiply(Decimal(start), WIDE.power(ratio, WIDE.divide(Decimal(k), Decimal(count - 1))))
        assert nearest(float(value), exact), k


@pytest.mark.parametrize("name", ["logspace", "geomspace", "linspace"])
def test_a_grid_of_one_is_its_start(name):
    assert read_sigmas(f"{name}(1, 2, 1)").tolist() == [10.0 if name == "logspace" else 1.0]


@pytest.mark.parametrize(
    "text",
    [
        *("logspace(nan,1,3)", "logspace(1,400,3)", "logspace(1,1e300,3)", "logspace(0,1,0)", "logspace(0,1,2.5)"),
        *("geomspace(0,1,3)", "geomspace(1,0,3)", "geomspace(-1,-2,3)", "geomspace(nan,1,3)", "geomspace(inf,1,3)"),
        *("linspace(inf,1,2)", "linspace(-1,1,3)", "arange(1,2,3)", "", "0.1,,1", "0.1,-1", "logspace(0,1)"),
    ],
)
def test_what_is_no_grid_is_refused_with_what_is_one(text):
    with pytest.raises(ValueError, match=r"give noise levels such as 'logspace\(-2,2,17\)'"):
        read_sigmas(text)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_numbers_come_back_ascending_each_once(numbers):
    assume(all(np.isfinite(numbers)))
    assert noise_grid(tuple(numbers)).tolist() == sorted({x + 0.0 for x in numbers})
