"""Weights as kernels program them: ŵ and its scale, products of few rows on W itself, and what tells weights apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim.kernels import MatmulSpec, Read
from analogsim.kernels.backend import Backend
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.numba.matmul import FEW_OUTPUTS, FEW_ROWS, HASHED, fingerprint
from analogsim.profile import Weight

NUMBA = Numba()
SPEC = MatmulSpec(rows=32, input_range=3.0, dac_bits=8, adc_full_scale=4.0, adc_bits=8, noise_output=0.1)


def matrix(n, k, seed=0):
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05
    w[n // 2] = 0
    return w


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 1), (33, 2, 3, 3), (0, 4), (4, 0)])
@pytest.mark.parametrize(
    "w_max", ["column", "tensor", 0.03, {"percentile": 90.0}, {"percentile": 55.5, "per": "column"}]
)
@pytest.mark.parametrize("bits", [None, 2, 8])
def test_programming_is_the_readable_one_to_the_bit(shape, w_max, bits):
    w = torch.randn(shape) * 0.05
    w[: len(w) // 3] = 0
    part = Weight(w_max=w_max, bits=bits)
    for got, want in zip(NUMBA.program(w, part), Backend.program(NUMBA, w, part)):
        assert torch.equal(got, want)
    if w.numel():
        w.view(-1)[0] = float("nan")
        for got, want in zip(NUMBA.program(w, part), Backend.program(NUMBA, w, part)):
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def products(x, w, spec, bias=None, record=True):
    """Return the product on W, and that on ŵ, each with its clips and scale."""
    w_max = torch.full((len(w),), 7.0)
    assert NUMBA.programs(len(x), len(w))
    on_w = NUMBA.matmul(x, w, Read(spec, 5, 6, None, bias, record, w_max))
    programmed, scale = NUMBA.program(w, Weight())
    on_programmed = Backend.matmul(NUMBA, x, programmed, Read(spec, 5, 6, scale * spec.input_range, bias, record))
    torch.testing.assert_close(w_max, scale, rtol=0, atol=0, equal_nan=True)
    return on_w, on_programmed


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, FEW_ROWS),
    st.integers(FEW_OUTPUTS, 300),
    st.integers(1, 200),
    st.sampled_from([1, 31, 32, None]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_few_rows_on_the_digital_matrix_are_those_on_the_programmed_one(m, n, k, rows, read, biased, threads):
    torch.manual_seed(m + n + k)
    spec = MatmulSpec(rows, 3.0, 8, True, 4.0, None, 0.1, read, 0.05)  # no rounding, which may tip
    bias = torch.randn(n) if biased else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (got, clips), (want, others) = products(torch.randn(m, k), matrix(n, k), spec, bias)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(clips.bits, others.bits)
    assert list(clips.counts) == list(others.counts)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-10, 1e10, 1e30, 1e37])
@pytest.mark.parametrize("odd", [None, float("nan"), float("inf"), -float("inf")])
def test_scales_at_which_sums_of_weights_would_not_do(scale, odd):
    w = matrix(20, 90) * 20 * scale
    if odd is not None:
        w[3, 4] = odd
    spec = MatmulSpec(32, 3.0, 8, True, 4.0, None, 0.1)
    (got, _), (want, _) = products(torch.randn(5, 90), w, spec)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def test_every_number_of_weights_counts():
    """Above the size that is hashed, at every place of the last blocks, and whatever the change."""
    for count in (HASHED, HASHED + 1, HASHED + 2, 3 * HASHED + 5):
        w = torch.randn(count)
        mark = fingerprint(w)
        assert mark == fingerprint(w.clone())
        for place in [0, 1, 2047, 2048, 4095, *range(count - 9, count)]:
            for change in (lambda v: -v, lambda v: v * (1 + 2**-22), lambda v: v * 0):
                other = w.clone()
                other[place] = change(other[place])
                assert fingerprint(other) != mark, (count, place)
        assert fingerprint(-w) != mark
        assert fingerprint(w.flip(0)) != mark
        assert fingerprint(w.roll(1)) != mark
        assert fingerprint(w.roll(2048)) != mark


@settings(max_examples=100, deadline=None)
@given(st.integers(HASHED + 1, 5 * HASHED), st.data())
def test_swapped_numbers_count(count, data):
    w = torch.randn(count)
    a = data.draw(st.integers(0, count - 1))
    b = data.draw(st.integers(0, count - 1).filter(lambda place: place != a))
    other = w.clone()
    other[a], other[b] = w[b], w[a]
    assert fingerprint(other) != fingerprint(w)


def test_each_of_the_two_hashes_tells_arrays_apart():
    """By itself, so that both together err once in 2^64 times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        w = torch.randn(3 * HASHED)
        swapped = w.clone()
        swapped[:2], swapped[2:4] = w[2:4], w[:2]
        for other in (-w, w.flip(0), w * (1 + 2**-20), swapped):
            one, two = fingerprint(w)[0], fingerprint(other)[0]
            assert len(one) == 16
            assert one[:8] != two[:8]
            assert one[8:] != two[8:]
    finally:
        torch.set_num_threads(before)


def test_the_hashes_of_two_thread_counts_are_each_their_own():
    w = torch.randn(200, 300)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert fingerprint(w) == fingerprint(w.clone()) != fingerprint(w + 1)
    finally:
        torch.set_num_threads(before)
