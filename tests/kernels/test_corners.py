"""Every kernel of every backend against the reference, over sizes at the corners of its blocks.

Blocks are made small, so that {1, 2, block - 1, block, block + 1} of every dimension is a product of small cases. Where
a size is written into machine code (chunks of 1024 numbers, panels of 128, 16 lanes), the sizes are around that. The
product with everything is slow; the fast tests take each size with a part of the rest. Memory that nobody has written
holds NaN here (conftest.py), so that none of it can pass.
"""

import itertools
import math
import os

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.chip.adc import Converters
from analogsim.kernels import (
    ConvGeometry,
    MatmulSpec,
    Read,
    add_noise,
    choose,
    conv_job,
    reference,
    tiled_conv,
    tiled_matmul,
    triton_installed,
)
from analogsim.kernels.backends.numba import conv as conv_cpu
from analogsim.kernels.backends.numba import device as device_cpu
from analogsim.kernels.backends.numba import jit
from analogsim.kernels.backends.numba import matmul as cpu
from analogsim.kernels.backends.reference import Reference
from analogsim.profile import ADC, Noise
from tests.support.machine_code import from_python

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = triton_installed() and (INTERPRETED or torch.cuda.is_available())
BACKENDS = ["triton"] if INTERPRETED else ["numba", *(["triton"] if ON_GPU else [])]
DEVICE = {"numba": "cpu", "triton": "cpu" if INTERPRETED else "cuda"}
SEED, STREAM = 2**63 + 5, 2**40 + 9
ALPHA, LEVELS = 1.5, 7  # of the DACs here
DAC, CLIP = {"input_range": ALPHA, "dac_bits": 4}, {"adc_full_scale": 0.8}
READS = {
    "nothing": {},
    "α": {"input_range": ALPHA},
    "DAC": DAC,
    "unsigned DAC": DAC | {"dac_signed": False, "dac_bits": 3},
    "σ_out": {"noise_output": 0.1},
    "σ_r": {"noise_read": 0.05},
    "σ_m": {"noise_multiplicative": 0.1},
    "clips": CLIP,
    "rounds": CLIP | {"adc_bits": 5},
    "all noise": DAC | CLIP | {"noise_output": 0.1, "noise_read": 0.05, "noise_multiplicative": 0.1},
    "all": DAC | CLIP | {"adc_bits": 5, "noise_output": 0.1, "noise_read": 0.05, "noise_multiplicative": 0.1},
}
ENDS = [(False, False), (True, False), (False, True), (True, True)]  # scale, bias


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def small_blocks(request, monkeypatch):
    """Make blocks small, with one thread or two for however few elements."""
    torch.set_num_threads(request.param)
    changes = [
        *((cpu, "SLAB", 1), (cpu, "BLOCK", 1), (cpu, "ROWS", 4), (cpu, "INPUTS", 32), (cpu, "FEW_OUTPUTS", 4)),
        *((cpu, "LONG", 6), (conv_job, "CHUNK", 64)),
        *((conv_cpu, "SUMS", 1), (conv_cpu, "OUTPUTS", 4), (conv_cpu, "FEW", 2), (conv_cpu, "SMALL", 9)),
        *((conv_cpu, "SMALL_COLUMNS", 32), (conv_cpu, "FEW_SUMS", 16)),
    ]
    for where, name, value in changes:
        monkeypatch.setattr(where, name, value)
    return request.param


def numbers(*shape, seed=0):
    """Multiples of a DAC's step and a bit, in and out of its range: rounding decides no code."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    codes = torch.randint(-LEVELS - 1, LEVELS + 2, shape, generator=generator)
    return (codes + 0.3 * torch.rand(shape, generator=generator)) * (ALPHA / LEVELS)


def spread(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.rand(shape, generator=generator) * 2 - 1


def ends(n, which):
    scale, bias = which
    return {"scale": spread(n).add(2) if scale else None, "bias": spread(n, seed=5) if bias else None}


def agree(got, want, spec, scale, where):
    """Hold a result to the reference's; one sum may be an ADC's step off, where rounding decides."""
    (out, clips), (expected, expected_clips) = got, want
    assert out.shape == expected.shape, where
    assert out.dtype == expected.dtype, where
    off = ((out.cpu() - expected).abs() > 1e-4 + 1e-4 * expected.abs()) | out.cpu().isnan()
    step = spec.full_scales[0] / spec.adc_levels if spec.adc_levels else 0.0
    reach = 1.01 * step * (1.0 if scale is None else float(scale.abs().max()))
    assert int(off.sum()) <= (1 if step else 0), where
    assert ((out.cpu() - expected).abs() <= 1e-3 + reach).all(), where
    assert (clips is None) == (expected_clips is None), where
    if clips is not None:
        for tile in range(clips.tiles):
            differ = int((clips.mask(tile).cpu() != expected_clips.mask(tile)).sum())
            assert differ <= 1, where
            assert clips.counts[tile] == int(clips.mask(tile).sum()), where


def moved(given, device):
    return {name: value if value is None else value.to(device) for name, value in given.items()}


ROWS, DEPTHS, OUTPUTS = (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 8, 9), (1, 2, 3, 4, 5)


def check_product(backend, m, k, n, name, which, record, rows=4):
    spec = MatmulSpec(rows, **READS[name])
    x, w, given = numbers(m, k), spread(n, k), ends(n, which)
    got, want = (
        tiled_matmul(x.to(d), w.to(d), spec, SEED, STREAM, **moved(given, d), record_clips=record, backend=b)
        for b, d in ((backend, DEVICE[backend]), ("reference", "cpu"))
    )
    agree(got, want, spec, given["scale"], (backend, m, k, n, name, which, record, rows))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", READS)
def test_products(backend, name, small_blocks):
    for number, (m, k, n) in enumerate(itertools.product(ROWS, DEPTHS, OUTPUTS)):
        if number % {"numba": (1, 6), "triton": (11, 67)}[backend][small_blocks - 1]:
            continue
        check_product(backend, m, k, n, name, ENDS[number % 4], number % 3 > 0, (4, None)[number % 5 == 0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", READS)
def test_products_with_everything(backend, name, small_blocks):
    cases = itertools.product(ROWS, DEPTHS, OUTPUTS, ENDS, (False, True), (1, 4, None))
    for number, (m, k, n, which, record, rows) in enumerate(cases):
        if number % {"numba": (1, 7), "triton": (101, 1009)}[backend][small_blocks - 1] == 0:
            check_product(backend, m, k, n, name, which, record, rows)


# As they are: 16 columns, and 16 rows of a thread; the blocks and panels of a GPU's programs.
REAL = {"numba": ((1, 2, 15, 16, 17, 33), (1, 31, 32, 33), (1, 2, 15, 16, 17, 64, 65)), "triton": None}
REAL["triton"] = ((1, 2, 63, 64, 65), (1, 15, 16, 17, 33), (1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_products_in_blocks_as_they_are(backend, threads, monkeypatch):
    torch.set_num_threads(threads)
    monkeypatch.setattr(cpu, "SLAB", 1)
    every = {"numba": (2, 11), "triton": (31, 331)}[backend][threads - 1]
    for number, (m, k, n) in enumerate(itertools.product(*REAL[backend])):
        if number % every == 0:
            name = list(READS)[number % len(READS)]
            check_product(backend, m, k, n, name, ENDS[number // 3 % 4], number % 2 > 0, 16)


def test_each_tile_has_a_full_scale_of_its_own(small_blocks):
    for m, k, n in itertools.product((1, 5), DEPTHS, (1, 5)):
        scales = tuple(0.3 + 0.2 * tile for tile in range(-(-k // 4)))
        spec = MatmulSpec(4, adc_full_scale=scales, noise_output=0.1)
        x, w = numbers(m, k), spread(n, k)
        got, want = (
            tiled_matmul(x, w, spec, SEED, STREAM, record_clips=True, backend=b) for b in ("numba", "reference")
        )
        agree(got, want, spec, None, (m, k, n))


# Of a convolution: batch, channels of a group, outputs of a group, groups, kernel, output sizes.
BATCHES, CHANNELS, WIDTHS = (1, 2, 15, 16, 17), (1, 2, 3), (1, 2, 7, 8, 9, 15, 16, 17)


def convolutions(spatial):
    """Yield every (batch, channels, outputs, groups, kernel, output size, stride, padding, dilation)."""
    lines = itertools.product((1, 2, 3), WIDTHS, (1, 2), (0, 1), (1, 2))
    walks = list(lines) if spatial == 1 else [line for line in lines if line[1] in (1, 2, 7, 9)]
    layers = itertools.product(BATCHES, CHANNELS, (1, 2, 3, 17), (1, 2))
    return itertools.product(list(layers), walks)


def check_convolution(backend, spatial, layer, walk, number, mapping):
    (batch, channels, outputs, groups), (kernel, width, stride, padding, dilation) = layer, walk
    # Other dimensions are short, and differ.
    sizes = [1 + number % 2, 1 + number % 3][: spatial - 1] + [width]
    extents = [max(1, (size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding) for size in sizes]
    if any(extent + 2 * padding < dilation * (kernel - 1) + 1 for extent in extents):
        return
    name = list(READS)[number % len(READS)]
    spec = MatmulSpec(2 * kernel**spatial, **READS[name])
    x, w = numbers(batch, groups * channels, *extents), spread(groups * outputs, channels, *[kernel] * spatial)
    given, record = ends(groups * outputs, ENDS[number // 2 % 4]), number % 3 > 0
    geometry = ConvGeometry(*((value,) * spatial for value in (stride, padding, dilation)), groups)
    got, want = (
        tiled_conv(
            *(x.to(d), w.to(d), spec, geometry, SEED, STREAM),
            **moved(given, d),
            mapping=mapping,
            record_clips=record,
            backend=b,
        )
        for b, d in ((backend, DEVICE[backend]), ("reference", "cpu"))
    )
    agree(got, want, spec, given["scale"], (backend, layer, walk, name, number, mapping))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolutions(backend, spatial, small_blocks):
    every = {"numba": (101, 607), "triton": (1999, 19997)}[backend][small_blocks - 1]
    for number, (layer, walk) in enumerate(convolutions(spatial)):
        if number % every == 0:
            check_convolution(backend, spatial, layer, walk, number // every, ("channel", "im2col")[number % 5 == 0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolutions_with_everything(backend, mapping, spatial, small_blocks):
    every = {"numba": (5, 43), "triton": (997, 9973)}[backend][small_blocks - 1]
    for number, (layer, walk) in enumerate(convolutions(spatial)):
        if number % every == 0:
            check_convolution(backend, spatial, layer, walk, number, mapping)


# Positions around a panel of 128 and what a thread holds, outputs around what registers and a thread hold.
LONG = (1, 2, 15, 16, 17, 33, 127, 128, 129, 255, 256, 257, 1024, 1025)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_in_blocks_as_they_are(groups, threads, monkeypatch):
    torch.set_num_threads(threads)
    monkeypatch.setattr(cpu, "SLAB", 1)
    outputs = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 127, 128, 129, 130)
    cases = itertools.product((1, 2, 17, 33), outputs, LONG, (1, 3), (1, 2))
    for number, (batch, share, width, kernel, stride) in enumerate(cases):
        if number % 29 == 0 and batch * share * width < 200_000:
            walk = kernel, width, stride, kernel // 2, 1
            check_convolution("numba", 1, (batch, 3, share, groups), walk, number // 29, "channel")


# Gradients, through the layers.
HARDWARE = {
    "DAC": {"dac": {"bits": 4, "input_range": ALPHA}},
    "clips": {"dac": {"input_range": ALPHA}, "adc": {"full_scale": 0.8}},
    "all": {
        "dac": {"bits": 4, "input_range": ALPHA},
        "adc": {"full_scale": 0.8},
        "noise": {"output": 0.1, "read": 0.05, "multiplicative": 0.1},
    },
}


def check_layer(backend, make, x, profile, where):
    """Hold a layer's output and gradients to those of the reference."""
    results = []
    for name, device in ((backend, DEVICE[backend]), ("reference", "cpu")):
        torch.manual_seed(0)
        layer = make(profile).to(device)
        layer.backend = name
        an.set_seed(layer, 7)
        given = x.to(device).requires_grad_()
        out = layer(given)
        out.backward(spread(*out.shape, seed=3).to(device))
        results.append([out, given.grad, *(p.grad for p in layer.parameters())])
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape, where
        torch.testing.assert_close(got.cpu(), want, atol=2e-4, rtol=1e-3, msg=lambda text: f"{where}: {text}")  # noqa: B023


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", HARDWARE)
def test_gradients_of_linear_layers(backend, name, small_blocks):
    profile = an.HardwareProfile(tile={"rows": 4}, **HARDWARE[name])
    for number, (m, k, n) in enumerate(itertools.product((1, 2, 5), (1, 3, 4, 5, 9), (1, 2, 4, 5))):
        if number % {"numba": (2, 9), "triton": (11, 61)}[backend][small_blocks - 1] == 0:
            bias = number % 2 > 0
            make = lambda profile: an.nn.AnalogLinear(k, n, bias, profile=profile)  # noqa: B023, E731
            check_layer(backend, make, numbers(m, k), profile, (m, k, n))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transposed", [False, True], ids=["convolution", "transposed"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_gradients_of_convolutions(backend, transposed, spatial, small_blocks):
    kind = getattr(an.nn, f"AnalogConv{'Transpose' * transposed}{spatial}d")
    sizes = itertools.product((1, 2, 17), (1, 3), (1, 2), (1, 2), (1, 2, 3), (1, 2, 7))
    every = {"numba": (11, 37), "triton": (97, 211)}[backend][small_blocks - 1]
    for number, (batch, channels, outputs, groups, kernel, extent) in enumerate(sizes):
        if number % every or extent < kernel:
            continue
        name = list(HARDWARE)[number % 3]
        profile = an.HardwareProfile(tile={"rows": 2 * kernel**spatial}, **HARDWARE[name])
        x = numbers(batch, groups * channels, *[max(kernel, 2)] * (spatial - 1), extent)
        given = groups * channels, groups * outputs, kernel, 1 + number % 2
        more = {"groups": groups, "bias": number % 3 > 0}
        make = lambda profile: kind(*given, **more, profile=profile)  # noqa: B023, E731
        check_layer(backend, make, x, profile, (batch, channels, outputs, groups, kernel, extent, name))


# Kernels over flat arrays: sizes around a panel, a chunk of machine code, a program of a GPU.
LENGTHS = (1, 2, 127, 128, 129, 1023, 1024, 1025)
OFFSETS = (0, 1, 127, 128, 129)


@pytest.mark.parametrize("backend", BACKENDS)
def test_converted_inputs(backend, small_blocks):
    for count, name in itertools.product(LENGTHS, ("nothing", "α", "DAC", "unsigned DAC")):
        x, spec = numbers(count), MatmulSpec(**READS[name])
        got = choose(x.to(DEVICE[backend]), backend).dac(x.to(DEVICE[backend]), spec).cpu()
        torch.testing.assert_close(got, reference.dac(x, spec), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulated_sums(backend, small_blocks):
    device, names = DEVICE[backend], [name for name in READS if "DAC" not in name]
    module = choose(torch.ones(1, device=device), backend)
    for number, (count, offset) in enumerate(itertools.product(LENGTHS, OFFSETS)):
        few = backend == "triton" or small_blocks == 2
        if backend == "triton" and number % 5:
            continue
        for name in [names[number % len(names)]] if few else names:
            read = Read(MatmulSpec(**READS[name]), SEED, STREAM)
            partial, norm2 = spread(count, 1), spread(count, 1).square()
            marks = torch.zeros(count, 1, dtype=torch.uint8) if "full" in str(READS[name]) else None
            results = []
            for kernel, where in ((module, device), (Reference(), "cpu")):
                out = torch.full((count, 1), torch.nan, device=where)
                first, second = (None if marks is None else marks.clone().to(where) for _ in range(2))
                sums, squares = partial.to(where), norm2.to(where)
                counted = [
                    kernel.accumulate(out, sums, squares, read, 0, offset, first, True),
                    kernel.accumulate(out, sums, squares, read, 9, offset, second, False),
                ]
                results.append((out.cpu(), *(m if m is None else m.cpu() for m in (first, second)), counted))
            (out, *got, counted), (want, *expected, wanted) = results
            off = ((out - want).abs() > 1e-5) | out.isnan()
            assert int(off.sum()) <= ("adc_bits" in READS[name]), (count, offset, name)
            assert counted == wanted or max(abs(a - b) for a, b in zip(counted, wanted)) <= 1, (count, offset, name)
            assert all(a is None or int((a != b).sum()) <= 1 for a, b in zip(got, expected)), (count, offset, name)


LEVELS_OF_NOISE = {
    "none": lambda batch: 0.0,
    "one": lambda batch: 0.5,
    "one, a tensor": lambda batch: torch.tensor(0.5),
    "one a sample": lambda batch: spread(batch).abs() + 0.1,
    "0 for every other sample": lambda batch: (spread(batch).abs() + 0.1) * (torch.arange(batch) % 2),
    "0 for all": lambda batch: torch.zeros(batch),
}
SHAPES = [(), (0,), (1,), (2,), (127,), (128,), (129,), (0, 3), (3, 0), (1, 1023), (2, 1024), (3, 1025), (5, 1, 43)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("additive", LEVELS_OF_NOISE)
@pytest.mark.parametrize("relative", LEVELS_OF_NOISE)
def test_injected_noise(backend, additive, relative, small_blocks):
    for number, shape in enumerate(SHAPES):
        if (number + len(additive) + len(relative)) % {"numba": small_blocks, "triton": 9}[backend]:
            continue
        batch, x = shape[0] if shape else 1, spread(*shape)
        levels = LEVELS_OF_NOISE[additive](batch), LEVELS_OF_NOISE[relative](batch)
        got = add_noise(x.to(DEVICE[backend]), *levels, SEED, STREAM, backend=backend).cpu()
        want = add_noise(x, *levels, SEED, STREAM, backend="reference")
        torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-5)
        if additive in ("none", "0 for all") and relative in ("none", "0 for all"):
            assert torch.equal(got, x)


def test_adcs_of_their_own(small_blocks):
    kinds = [
        ADC(bits=4, full_scale=0.8, gain_error=0.1, offset_error=0.1),
        ADC(full_scale=0.8, signed=False, gain_error=0.1),
        ADC(bits=3, full_scale=0.8, kind="sar", capacitor_mismatch=0.2),
        ADC(bits=3, full_scale=0.8, kind="ramp", capacitor_mismatch=0.2),
    ]
    shapes = [*itertools.product((1, 2, 3, 17), (1, 2, 3), (1, 2, 9)), (1, 1, 1023), (1, 1024, 1), (1025, 1, 1)]
    for number, (shape, adc) in enumerate(itertools.product(shapes, kinds)):
        converters, sums = Converters(adc, Noise(), 9), spread(*shape)
        gains, offsets = converters.errors(0.8, 2, sums)
        table = None if adc.kind == "ideal" else converters.transfer(0.8, 2, sums)
        want, clipped = converters.converted(sums, 0.8, 2)
        step = 0.8 / adc.levels if adc.levels else 0.0
        limits = (-0.8 if adc.signed else 0.0, 0.8)
        out, bits = torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.uint8)
        record = bits if number % 2 else None
        count = device_cpu.convert(out, sums, limits, step, gains, offsets, table, 2, record, True)
        off = ((out - want).abs() > 1e-6) | out.isnan()
        assert int(off.sum()) <= 1, (shape, adc)
        if record is not None:
            assert torch.equal(bits, clipped.to(torch.uint8) << 2), (shape, adc)
            assert count == int(clipped.sum()), (shape, adc)


# Machine code as Python, its scratch memory full of NaN: what is read was written.


class _Filled:
    """NumPy, but that `empty` says what is in it."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, count, dtype):
        return np.full(count, np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max, dtype)


@pytest.fixture
def as_python(monkeypatch):
    """Return machine code's functions as Python ones whose scratch memory nobody has written."""
    key = np.arange(1, 5, dtype=np.uint64)
    with np.errstate(all="ignore"):
        normals = from_python(jit.normals)
        normals(np.zeros(128, np.float32), np.zeros(64, np.uint32), 0, *key, np.uint64(0))  # compiled before
    monkeypatch.setattr(jit, "normals", normals)
    for name in ("reshape_noise", "_draw", "_draws", "_shake", "_correct", "_rows_of_tables", "_gather", "_look_up"):
        monkeypatch.setattr(jit, name, getattr(jit, name).py_func)
    monkeypatch.setattr(jit, "np", _Filled())
    monkeypatch.setattr(jit, "CHUNK", 128)
    monkeypatch.setattr(jit, "_WORDS", 64)
    return {name: getattr(jit, name).py_func for name in ("noise", "accumulate", "convert")}


KEY = np.arange(1, 5, dtype=np.uint64)
COUNTS = (1, 127, 128, 129)


@pytest.mark.parametrize("relative", [[0.0], [0.5], [0.0, 0.5], [0.0, 0.0]])
@pytest.mark.parametrize("additive", [[0.0], [0.5], [0.5, 0.0], [0.0, 0.0]])
def test_noise_reads_only_what_it_has_written(additive, relative, as_python):
    for count in (2, 128, 258):
        levels = [np.array(level, np.float32) for level in (additive, relative)]
        x, out = spread(count).numpy(), np.full(count, np.nan, np.float32)
        as_python["noise"](x, out, *levels, count // 2 if max(map(len, levels)) > 1 else count, 0, KEY)
        assert np.isfinite(out).all()
        if not any(additive) and not any(relative):
            np.testing.assert_array_equal(out, x)


def test_accumulate_and_convert_read_only_what_they_have_written(as_python):
    for count, offset, name, first in itertools.product(COUNTS, (0, 1), READS, (True, False)):
        scalars = np.array(cpu.adc_scalars(MatmulSpec(**READS[name]))[:6], dtype=np.float32)
        out = np.full(count, np.nan if first else 1.0, np.float32)
        norm2 = spread(count).square().numpy() if READS[name].get("noise_read") else np.zeros(0, np.float32)
        bits = np.zeros(count * ("clips" in name), np.uint8)
        as_python["accumulate"](out, spread(count).numpy(), norm2, bits, offset, scalars, KEY, 0, first)
        assert np.isfinite(out).all(), (count, offset, name, first)
    nothing, ones = np.zeros(0, np.float32), np.ones(1, np.float32)
    starts, no_starts = np.zeros(1, np.uint32), np.zeros(0, np.uint32)
    levels = np.array([-0.8, 0.8, 10, 0.1, 5, 4, 4, -4], np.float32)
    table, values = np.arange(-4, 6, dtype=np.float32) / 5, np.arange(10, dtype=np.float32)
    table[8:] = np.nan
    for count, comparisons, search, first in itertools.product(COUNTS, (0, 1, 2), (0, 1, 2), (True, False)):
        out = np.full(count, np.nan if first else 1.0, np.float32)
        searched = [(nothing, nothing, no_starts), (table, values, starts), (table, nothing, no_starts)][search]
        sizes = np.array([1, 1 + count % 2, 3 if search else 0, 10, comparisons, count % 3])
        arrays = spread(count).numpy(), spread(count).square().numpy(), nothing, np.zeros(count, np.uint8)
        ends = KEY, 1, ones, ones, *searched, levels, sizes, first
        as_python["convert"](out, *arrays, 0, 0, np.array([0.1, 0.2 * comparisons, 0.3], np.float32), *ends)
        assert np.isfinite(out).all(), (count, comparisons, search, first)


def test_the_tests_would_notice_memory_that_nobody_has_written():
    spec = {"__name__": "analogsim.somewhere", "torch": torch}
    for code in ("torch.empty(3)", "torch.empty_like(torch.ones(3))", "torch.ones(1).new_empty(3)"):
        assert eval(code, dict(spec)).isnan().all()
    assert (eval("torch.empty(3, dtype=torch.int64)", dict(spec)) == 2**63 - 1).all()
    assert math.isfinite(torch.ones(1).new_zeros(3).sum())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_a_layer_of_one_output(outputs, rows):
    """The first row was right, and the others read from beyond the bias."""
    layer = an.AnalogLinear(16, outputs, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 4.0}))
    x = torch.randn(rows, 16)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=0.05, rtol=0)
