"""The Triton kernels against the reference and the CPU kernel: on a GPU, or in Triton's interpreter.

`pytest -m gpu` runs this file on a machine with a GPU. Without one, `test_gpu_interpreted.py` runs it in a process with
TRITON_INTERPRET=1, where shapes are kept small.
"""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

import analogsim as an
from analogsim import kernels
from analogsim.bench import timed
from analogsim.errors import BackendError
from analogsim.kernels import ConvGeometry, MatmulSpec, Read, add_noise, philox, precision, tiled_conv, tiled_matmul
from analogsim.nn.function import CrossbarConv, CrossbarLinear, Plan
from tests.support.sanitizer import sanitized

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (GPU or INTERPRETED):
    pytest.skip(
        "no CUDA GPU; test_gpu_interpreted.py runs these tests in Triton's interpreter", allow_module_level=True
    )

from analogsim.kernels.backends.triton import matmul as gpu  # noqa: E402 - imports Triton

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPU and not INTERPRETED, reason="no CUDA GPU")]
DEVICE = "cpu" if INTERPRETED else "cuda"
SEED, STREAM = 2**63 + 5, 2**40 + 9
FULL = MatmulSpec(24, 1.5, 8, True, 3.0, 8, 0.2, 0.05, 0.1)
SPECS = {
    "everything": FULL,
    "exact": MatmulSpec(8),
    "no converters": MatmulSpec(32, 2.0, noise_output=0.3),
    "clips without levels": MatmulSpec(32, 2.0, None, True, 1.5, None, 0.1),
    "unsigned, few bits": MatmulSpec(32, 2.0, 4, False, 1.0, 5, 0.1, 0.0, 0.2),
    "one tile": MatmulSpec(None, 1.0, 8, True, 6.0, 8, 0.1),
    "blocks of K fill the tiles": MatmulSpec(32, 1.0, 8, True, 3.0, 8, 0.1, 0.05),
}
# Ragged edges; rows shorter than a panel of random numbers that fill blocks; whole panels, the last block ragged.
SHAPES = [(1, 1, 1), (33, 70, 10), (5, 75, 34), (64, 96, 64), (70, 100, 32), (65, 64, 256)]


@pytest.fixture(autouse=True)
def _watched():
    """Check every access of the kernels; on a GPU compute-sanitizer does (docs/gpu.md)."""
    with sanitized() if INTERPRETED else nullcontext():
        yield


def operands(m, k, n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(m + k + n)
    x = torch.randn(m, k, generator=generator)
    return x.to(DEVICE, dtype), (torch.rand(n, k, generator=generator) * 2 - 1).to(DEVICE, dtype)


def reference(x, w, spec, **more):
    return tiled_matmul(x.double(), w.double(), spec, SEED, STREAM, record_clips=True, backend="reference", **more)


def flips(difference, spec, tiles):
    """Return how many outputs differ by more than rounding, after checking that none does by more than levels allow.

    A code may flip only where an unrounded value is within float32 rounding of a threshold.
    """
    dac_step = 1 / spec.dac_levels if spec.dac_levels else 0.0
    adc_step = spec.adc_full_scale / spec.adc_levels if spec.adc_levels else 0.0
    rounding = 2e-5 * tiles
    assert difference.max() <= rounding + tiles * (adc_step + 2 * dac_step)
    return int((difference > rounding).sum())


# Every shape with everything on; every specification on every third shape (on a GPU, all with all).
PAIRS = [(s, n) for j, s in enumerate(SHAPES) for i, n in enumerate(SPECS) if GPU or i == 0 or (i + j) % 3 == 0]


@pytest.mark.parametrize(("shape", "name"), PAIRS, ids=str)
def test_the_product_is_what_the_reference_states(shape, name):
    spec = SPECS[name]
    x, w = operands(*shape)
    out, clips = tiled_matmul(x, w, spec, SEED, STREAM, record_clips=True, backend="triton")
    exact, expected = reference(x, w, spec)
    assert flips((out - exact).abs(), spec, len(spec.tiles(shape[1]))) <= 2 + 0.005 * out.numel()
    assert (clips is None) == (expected is None)
    if clips is not None and expected is not None:
        assert clips.bits.shape == expected.bits.shape
        assert (clips.bits != expected.bits).sum() <= 2 + 0.001 * clips.bits.numel()
        assert clips.counts == pytest.approx(expected.counts, abs=2 + 0.001 * out.numel())
        assert clips.any() == (sum(clips.counts) > 0)


def test_each_tile_has_its_own_full_scale():
    x, w = operands(70, 100, 32)
    spec = MatmulSpec(32, 1.0, 8, True, (1.0, 2.0, 4.0, 6.0), None, 0.1)
    out, clips = tiled_matmul(x, w, spec, SEED, STREAM, record_clips=True, backend="triton")
    exact, expected = reference(x, w, spec)
    assert flips((out - exact).abs(), spec, 4) <= 2 + 0.005 * out.numel()
    assert (clips.bits != expected.bits).sum() <= 2


def test_inputs_converted_beforehand_give_the_same(monkeypatch):
    x, w = operands(33, 70, 64)
    at_load, _ = tiled_matmul(x, w, FULL, SEED, STREAM, backend="triton")
    monkeypatch.setattr(gpu, "CONVERT_FIRST", 1)
    before, _ = tiled_matmul(x, w, FULL, SEED, STREAM, backend="triton")
    assert flips((at_load - before).abs(), FULL, 3) <= (2 if GPU else 0)


def test_noise_is_the_cpu_kernels():
    # No converter, so nothing hides a difference: what is left is the rounding of a sum of 32 and of a normal.
    spec = MatmulSpec(32, 1.0, noise_output=1.0)
    for n in (10, 64, 128):
        x, w = operands(40, 64, n)
        out, _ = tiled_matmul(x, w, spec, SEED, STREAM, backend="triton")
        cpu, _ = tiled_matmul(x.cpu(), w.cpu(), spec, SEED, STREAM, backend="numba")
        torch.testing.assert_close(out.cpu(), cpu, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrong", [{"seed": SEED + 1}, {"stream": STREAM + 1}, {"seed": SEED + 2**32}])
def test_another_seed_or_stream_is_other_noise(wrong):
    drawn = {"seed": SEED, "stream": STREAM}
    x = torch.zeros(1000, device=DEVICE)
    one, other = (add_noise(x, 1.0, **key, backend="triton") for key in (drawn, drawn | wrong))
    assert abs(float((one * other).mean())) < 0.15
    assert (one - other).abs().mean() > 0.9


@pytest.mark.parametrize("shape", [(1,), (7, 33), (3, 300), (2, 3, 40, 25), (3, 5000), (2, 4096)], ids=str)
def test_injected_noise_is_the_cpu_kernels(shape):
    x = torch.randn(shape)
    per_sample = torch.rand(len(x), *[1] * (x.ndim - 1))
    for levels in ((0.5, 0.0), (0.0, 0.3), (per_sample, 0.2), (0.1, per_sample)):
        fast = add_noise(x.to(DEVICE), *levels, SEED, STREAM, backend="triton")
        torch.testing.assert_close(fast.cpu(), add_noise(x, *levels, SEED, STREAM), atol=4e-6, rtol=1e-5)


def test_the_normals_are_standard_normal():
    # α = 1e-4 each. 2^16 numbers (a GPU: 2^22) catch, 99 times in 100, a mean off by 0.025 and a σ off by 1.7 %.
    count, z = 2**22 if GPU else 2**16, stats.norm.isf(1e-4 / 2)

    def rejected(n):
        mean, variance = abs(n.mean()) * count**0.5, abs(n.var() - 1) * (count / 2) ** 0.5
        return mean > z, variance > z, stats.kstest(n, "norm").pvalue < 1e-4

    n = add_noise(torch.zeros(count, device=DEVICE), 1.0, 0.0, 11, 0, backend="triton").double().cpu().numpy()
    assert not any(rejected(n))
    assert rejected(n * 1.05)[1]
    assert rejected(n + 0.05)[0]
    assert rejected(np.sign(n) * abs(n) ** 1.2)[2]


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)], ids=str
)
def test_accuracy_against_float64_in_each_dtype(dtype, bound):
    # 8-bit codes are exact in each dtype: what is left is float32 sums, and the result's own rounding.
    spec = MatmulSpec(32, 1.5, 8, True, 3.0, None, 0.1)
    for shape in ((40, 100, 48), (64, 64, 128)):
        x, w = operands(*shape, dtype=dtype)
        out, clips = tiled_matmul(x, w, spec, SEED, STREAM, record_clips=True, backend="triton")
        exact, _ = reference(x, w, spec)
        assert out.dtype == dtype
        assert clips is not None
        assert (out.double() - exact).norm() / exact.norm() < bound


@pytest.mark.skipif(not GPU or INTERPRETED, reason="the interpreter multiplies in float32 whatever it is told")
@pytest.mark.parametrize(("arithmetic", "bound"), [("ieee", 1e-6), ("tf32x3", 3e-6), ("tf32", 1e-3)])
def test_precision_of_float32_is_what_was_asked_for(arithmetic, bound):
    x, w = operands(512, 1024, 512)
    spec = MatmulSpec(256, 1.0, noise_output=1e-30, precision=arithmetic)
    out, _ = tiled_matmul(x, w, spec, backend="triton")
    exact = x.double() @ w.double().T
    error = float((out - exact).norm() / exact.norm())
    assert error < bound
    assert error > 5e-5 or arithmetic != "tf32", "TF32 was not used"


def test_scale_and_bias_come_last_and_strides_are_followed():
    x, w = operands(40, 20, 12)
    scale, bias = torch.rand(12, device=DEVICE), torch.rand(12, device=DEVICE)
    given = {"scale": scale, "bias": bias}
    out, _ = tiled_matmul(x, w, MatmulSpec(8, 2.0), **given, backend="triton")
    torch.testing.assert_close(out, x @ w.T / 2 * scale + bias, atol=1e-5, rtol=1e-5)
    strided, _ = tiled_matmul(x.T.contiguous().T, w.T.contiguous().T, MatmulSpec(8, 2.0), **given, backend="triton")
    part, _ = tiled_matmul(x[:, 3:], w[:, 3:], MatmulSpec(8, 2.0), **given, backend="triton")
    torch.testing.assert_close(strided, out, atol=1e-6, rtol=1e-6)
    spread = {"scale": torch.stack([scale, bias], 1)[:, 0], "bias": bias[:1].expand(12)}
    sparse, _ = tiled_matmul(x, w, MatmulSpec(8, 2.0), **spread, backend="triton")
    torch.testing.assert_close(sparse, x @ w.T / 2 * scale + bias[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part, x[:, 3:] @ w[:, 3:].T / 2 * scale + bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 0, 3), (4, 5, 0)], ids=str)
def test_empty_shapes(shape):
    x, w = operands(*shape)
    out, clips = tiled_matmul(x, w, FULL, record_clips=True, backend="triton")
    assert out.shape == (shape[0], shape[2])
    assert clips is not None
    assert sum(clips.counts) == 0


def test_nan_is_not_turned_into_a_code():
    x, w = operands(4, 30, 3)
    x[1, 2] = torch.nan
    out, _ = tiled_matmul(x, w, FULL, backend="triton")
    assert out[1].isnan().all()
    assert out[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("shape", [(33, 70, 10), (70, 100, 70), (1030, 20, 16)], ids=str)
@pytest.mark.parametrize("name", ["everything", "unsigned, few bits", "no converters"])
def test_gradients_leave_out_what_each_tiles_adc_clipped(shape, name):
    x, w = operands(*shape)
    spec = SPECS[name]
    gradient = torch.randn(shape[0], shape[2], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    scale = torch.ones(shape[2], device=DEVICE)
    grads = []
    for backend in ("triton", "reference"):
        inputs, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        kernel = kernels.choose(x, backend)
        out = CrossbarLinear.apply(inputs, weight, None, Plan(w, None, kernel, Read(spec, SEED, STREAM, scale)))
        out.backward(gradient)
        grads.append((inputs.grad, weight.grad))
    for mine, stated in zip(*grads):
        assert stated.abs().max() > 0.1
        assert (mine - stated).norm() / stated.norm() < 5e-3  # one more clip: 1e-3; none: 1e-6
    assert (grads[0][0] == 0).equal(grads[1][0] == 0)


GEOMETRIES = [((3, 6, 8, 8), 10, 3, 1), ((3, 8, 7, 7), 4, 3, 2), ((4, 12, 4, 4), 16, 1, 1), ((3, 2, 5, 5), 3, 2, 1)]


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_convolutions_are_the_cpu_kernels(case, mapping, monkeypatch):
    monkeypatch.setattr(gpu, "CHUNK", 700)  # several chunks, that begin anywhere in a panel
    size, outputs, kernel, groups = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator)
    w = torch.rand(outputs, size[1] // groups, kernel, kernel, generator=generator) * 2 - 1
    scale, bias = torch.rand(2, outputs, generator=generator)
    spec = MatmulSpec(20, 1.5, 8, True, 1.0, 8, 0.2, 0.05, 0.1)
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1), groups)
    results = []
    for backend, device in (("triton", DEVICE), ("numba", "cpu")):
        tensors = [t.to(device) for t in (x, w)]
        more = {"scale": scale.to(device), "bias": bias.to(device)}
        given = {"mapping": mapping, "record_clips": True, "backend": backend}
        results.append(tiled_conv(*tensors, spec, geometry, SEED, STREAM, **more, **given))
    (out, clips), (cpu, expected) = results
    # Output channels of a scale far below 1 make a step smaller; the largest counts.
    assert flips((out.cpu() - cpu).abs(), spec, len(expected.counts)) <= 2 + 0.005 * out.numel()
    assert (clips.bits.cpu() != expected.bits).sum() <= 2
    assert clips.counts == pytest.approx(expected.counts, abs=2)


def test_gradients_of_a_convolution():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 6, 6, generator=generator).to(DEVICE)
    w = (torch.rand(4, 6, 3, 3, generator=generator) * 2 - 1).to(DEVICE)
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1))
    grads = []
    for backend in ("triton", "reference"):
        inputs, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        plan = Plan(w, None, kernels.choose(x, backend), Read(FULL, SEED, STREAM, torch.ones(4, device=DEVICE)))
        CrossbarConv.apply(inputs, weight, None, geometry, plan).square().sum().backward()
        grads.append((inputs.grad, weight.grad))
    for mine, stated in zip(*grads):
        assert (mine - stated).norm() / stated.norm() < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_convolutions_sum_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, generator=generator).to(DEVICE, dtype)
    w = (torch.rand(4, 8, 3, 3, generator=generator) * 2 - 1).to(DEVICE, dtype)
    spec, geometry = MatmulSpec(20, 1.5, 8, True, 4.0, None, 0.1), ConvGeometry((1, 1), (1, 1), (1, 1))
    out, _ = tiled_conv(x, w, spec, geometry, SEED, STREAM, backend="triton")
    exact, _ = tiled_conv(x.double(), w.double(), spec, geometry, SEED, STREAM, backend="reference")
    assert out.dtype == dtype
    assert (out.double() - exact).norm() / exact.norm() < 2 * torch.finfo(dtype).eps


def test_a_layer_trains_on_it():
    profile = an.HardwareProfile(
        tile={"rows": 16},
        dac={"bits": 8, "input_range": 3.0},
        noise={"output": 0.05},
        adc={"bits": 8, "full_scale": 4.0},
    )
    layer = an.AnalogLinear(40, 10, profile=profile).to(DEVICE)
    layer.backend = "triton"
    layer.precision = "tf32x3"
    x = torch.randn(32, 40, device=DEVICE)
    target = torch.randn(32, 10, device=DEVICE)
    optimiser = torch.optim.SGD(layer.parameters(), 0.5)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.skipif(not GPU or INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize("seed", [None, 1])
def test_noise_is_not_captured_in_a_graph(seed):
    profile = an.HardwareProfile(dac={"input_range": 3.0}, noise={"output": 0.1})
    layer = an.AnalogLinear(40, 10, profile=profile).to(DEVICE)
    site = an.inject_noise(torch.nn.Linear(40, 10).to(DEVICE), an.NoiseSpec(sigma=0.1, seed=seed))
    an.set_seed(layer, seed)
    x = torch.randn(32, 40, device=DEVICE)
    for model in (layer, site):
        with torch.no_grad():
            model(x)
            with pytest.raises(BackendError, match="CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
                model(x + 1)  # something is captured before: torch warns of an empty graph


def test_every_case_of_the_benchmark_runs():
    from benchmarks import gpu as bench

    short = bench.Bench(rounds=1, device=DEVICE, measure=timed)
    shape = (16, 64, 128, 32)
    product = bench.product_case(shape, "bfloat16", short)
    cases = [
        product,
        bench.product_case(shape, "tf32", short),
        bench.backward_case(shape, "ieee", short),
        bench.convolution_case((3, 4, 3, 1, 8), 18, "tf32", True, short),
        bench.chunk_case((3, 4, 3, 1, 8), "tf32", short),
    ]
    for case in cases:
        assert all(result.value.median > 0 for result in case.results)
    notes = bench.floors([(shape, "bfloat16", product)], short)
    assert any(note.startswith("16 × 64 → 128, tile 32, bfloat16: matrix") for note in notes)


def test_keys_keep_every_bit_within_int32():
    words = gpu.key(2**63 + 5, 2**32 - 1)
    assert all(-(2**31) <= word < 2**31 for word in words)
    assert [word & 0xFFFFFFFF for word in words] == [5, 2**31, 2**32 - 1, 0]


@given(n=st.integers(0, 2**31 - 1), d=st.integers(1, 2**31 - 1))
@example(n=2**31 - 1, d=1)
@example(n=2**31 - 1, d=3)
@example(n=2**31 - 2, d=2**31 - 1)
def test_division_by_multiplication_is_exact(n, d):
    magic, shift = gpu.divider(d)
    assert -(2**31) <= magic < 2**31
    for near in (n, n // d * d, max(0, n // d * d - 1)):
        assert ((near * (magic & 0xFFFFFFFF) >> 32) + near) >> shift == near // d
        assert (near * (magic & 0xFFFFFFFF) >> 32) + near < 2**32


def test_float64_is_refused_by_name():
    x, w = operands(4, 6, 3)
    with pytest.raises(BackendError, match="float64"):
        tiled_matmul(x.double(), w.double(), MatmulSpec(), backend="triton")


@pytest.mark.skipif(not GPU or INTERPRETED, reason="needs a GPU")
@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch 2.9 has these settings")
def test_auto_takes_it_and_torchs_settings_stay():
    x, _ = operands(4, 6, 3)
    assert kernels.resolve("cuda", torch.float32) == "triton"
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    for asked in ("ieee", "tf32"):
        with precision.float32_precision(x.device, asked):
            assert [setting.fp32_precision for setting in settings] == [asked] * 2
    assert [setting.fp32_precision for setting in settings] == before


@pytest.mark.skipif(not GPU or INTERPRETED, reason="needs a GPU's memory")
def test_outputs_beyond_two_to_the_31():
    # 2^31 + 2^17 elements: flat indices no longer fit 32 bits. The last rows against the numbers of their places.
    m, n = 2**14 + 1, 2**17
    x, w = torch.zeros(m, 16, device=DEVICE), torch.zeros(n, 16, device=DEVICE)
    out, _ = tiled_matmul(x, w, MatmulSpec(16, noise_output=1.0), SEED, STREAM, backend="triton")
    wanted = philox.normals((n,), SEED, STREAM, 0, offset=(m - 1) * n)
    torch.testing.assert_close(out[-1].cpu().double(), wanted, atol=4e-6, rtol=1e-5)
