"""The tiled matmul: the reference against a naive oracle, and the fast kernel against the reference, noise included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim.errors import BackendError, NonFiniteError, ProfileError, ShapeError
from analogsim.kernels import MatmulSpec, add_noise, philox, tiled_matmul
from tests.support import oracle

sizes, few = st.integers(1, 70), st.integers(1, 11)
specs = st.builds(
    MatmulSpec,
    rows=st.integers(1, 40),
    input_range=st.floats(0.5, 4),
    dac_bits=st.none() | st.integers(2, 10),
    dac_signed=st.booleans(),
    adc_full_scale=st.floats(0.5, 8),
    adc_bits=st.none() | st.integers(2, 10),
    noise_output=st.sampled_from([0.0, 0.1]),
    noise_read=st.sampled_from([0.0, 0.0, 0.05]),
    noise_multiplicative=st.sampled_from([0.0, 0.0, 0.1]),
)


def operands(m, k, n, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator, dtype=dtype)
    return x, torch.rand(n, k, generator=generator, dtype=dtype) * 2 - 1


@given(few, sizes, few, st.integers(2, 9), st.integers(2, 9), st.booleans())
@settings(max_examples=35)
def test_the_reference_is_the_device_model(m, k, n, dac_bits, adc_bits, each_tile):
    x, w = operands(m, k, n, dtype=torch.float64)
    full_scale = tuple(0.5 + 0.7 * tile for tile in range(-(-k // 16))) if each_tile else 3.0
    spec = MatmulSpec(16, 1.5, dac_bits, True, full_scale, adc_bits, 0.2, 0.05, 0.1)
    out, clips = tiled_matmul(x, w, spec, 7, 3, record_clips=True, backend="reference")
    noise = np.stack([philox.normals((m, n), 7, 3, t).numpy() for t in range(len(spec.tiles(k)))])
    want, sums, clipped = oracle.crossbar(
        x.numpy(),
        w.numpy(),
        rows=16,
        alpha=1.5,
        dac_bits=dac_bits,
        signed=True,
        full_scale=full_scale,
        adc_bits=adc_bits,
        noise=noise,
        output=0.2,
        read=0.05,
        multiplicative=0.1,
    )
    np.testing.assert_allclose(out.numpy(), want, atol=1e-9)
    assert clips is not None
    for tile, mask in enumerate(clipped):
        np.testing.assert_array_equal(clips.mask(tile).numpy(), mask)


@given(sizes, sizes, sizes, specs)
def test_numba_computes_what_the_reference_states(m, k, n, spec):
    x, w = operands(m, k, n)
    fast, _ = tiled_matmul(x, w, spec, 5, 2**40 + 1, backend="numba")
    exact, _ = tiled_matmul(x.double(), w.double(), spec, 5, 2**40 + 1, backend="reference")
    difference = (fast - exact).abs()
    tiles = len(spec.tiles(k))
    # Codes may flip only where an unrounded value is within float32 rounding of a threshold: rare, and by one step.
    dac_step = 1 / spec.dac_levels if spec.dac_levels else 0.0
    adc_step = spec.adc_full_scale / spec.adc_levels if spec.adc_levels else 0.0
    rounding = 2e-5 * tiles * max(1.0, spec.adc_full_scale)
    assert difference.max() <= rounding + tiles * (adc_step + 2 * dac_step)
    a_flip = max(2, n if spec.dac_levels else 0)  # outputs: a DAC's code is in all of its row
    assert (difference > rounding).float().mean() <= 0.01 + a_flip / difference.numel()


@given(sizes, sizes, sizes, specs)
@settings(max_examples=20)
def test_results_do_not_depend_on_the_number_of_threads(m, k, n, spec):
    x, w = operands(40 * m, k, 8 * n)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(tiled_matmul(x[:, : k // 2 + 1], w[:, : k // 2 + 1], spec, 1, 2, record_clips=True))
    # BLAS may add in another order with more threads; the conversion itself must not change.
    (a, clips_a), (b, clips_b) = results
    assert (a != b).float().mean() < 0.02
    assert clips_a is not None
    assert clips_b is not None
    assert sum(clips_a.counts) == pytest.approx(sum(clips_b.counts), abs=2)


def test_noise_is_the_same_for_one_thread_and_two():
    x = torch.randn(300, 1001)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(add_noise(x, 0.5, 0.1, 3, 4))
    assert torch.equal(*results)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 5, 3), (4, 0, 3), (4, 5, 0), (1, 1, 1)])
def test_empty_and_smallest_shapes(m, k, n):
    x, w = operands(m, k, n)
    for backend in ("numba", "reference"):
        out, _ = tiled_matmul(x, w, MatmulSpec(4, 2.0, 8, True, 3.0, 8, 0.1), backend=backend)
        assert out.shape == (m, n)


def test_non_contiguous_input_computes_the_same():
    x, w = operands(30, 20, 10)
    spec = MatmulSpec(8, 2.0, 8, True, 3.0, 8, 0.1)
    plain, _ = tiled_matmul(x, w, spec)
    strided, _ = tiled_matmul(x.T.contiguous().T, w.T.contiguous().T, spec)
    assert (plain - strided).abs().max() <= 3.0 / 127 * 3 + 1e-5
    assert (plain != strided).float().mean() < 0.02


def test_an_exact_spec_is_the_matrix_product_and_scale_and_bias_come_last():
    x, w = operands(9, 33, 7)
    scale, bias = torch.rand(7), torch.rand(7)
    for backend in ("numba", "reference"):
        out, clips = tiled_matmul(x, w, MatmulSpec(8), scale=scale, bias=bias, record_clips=True, backend=backend)
        torch.testing.assert_close(out, x @ w.T * scale + bias, atol=1e-5, rtol=1e-5)
        assert clips is None


def test_nan_is_not_turned_into_a_code():
    x, w = operands(4, 6, 3)
    x[1, 2] = torch.nan
    out, _ = tiled_matmul(x, w, MatmulSpec(4, 2.0, 8, True, 3.0, 8, 0.1), backend="numba")
    assert out[1].isnan().all()
    assert out[[0, 2, 3]].isfinite().all()


def test_what_does_not_fit_is_refused():
    x, w = operands(4, 6, 3)
    with pytest.raises(ShapeError, match=r"x \(M, K\) and w \(N, K\)"):
        tiled_matmul(x, w[:, 1:], MatmulSpec())
    with pytest.raises(ShapeError, match="one dtype"):
        tiled_matmul(x.double(), w, MatmulSpec())
    with pytest.raises(BackendError, match="float64"):
        tiled_matmul(x.double(), w.double(), MatmulSpec(), backend="numba")
    with pytest.raises(BackendError, match="choose auto"):
        tiled_matmul(x, w, MatmulSpec(), backend="fpga")
    with pytest.raises(NonFiniteError, match="sigma"):
        add_noise(x, -1.0)
    with pytest.raises(ProfileError, match="input_range"):
        MatmulSpec(input_range=0.0)


@given(st.integers(1, 9), st.integers(1, 400), st.booleans(), st.booleans())
def test_the_fast_noise_is_the_reference_noise(batch, width, additive, per_sample):
    x = torch.randn(batch, width)
    sigma = (torch.rand(batch, 1) if per_sample else 0.5) if additive else 0.0
    multiplicative = 0.0 if additive else 0.3
    fast = add_noise(x, sigma, multiplicative, 2**63 + 5, 2**40 + 9)
    torch.testing.assert_close(
        fast, add_noise(x, sigma, multiplicative, 2**63 + 5, 2**40 + 9, backend="reference"), atol=4e-6, rtol=1e-5
    )
