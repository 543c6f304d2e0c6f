"""The fast convolution against the reference, noise and clip marks included, over shapes that take each of its ways."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analogsim.kernels import ConvGeometry, MatmulSpec, Read, tiled_conv
from analogsim.kernels.backends.numba import conv as conv_cpu
from analogsim.kernels.conv_job import Job
from analogsim.kernels.tiles import cut
from analogsim.nn import AnalogConv2d
from analogsim.profile import HardwareProfile

SPEC = MatmulSpec(40, 1.5, 6, True, 2.0, None, 0.2, 0.05, 0.1)


def compare(x, w, spec, geometry, mapping="channel", **options):
    """Hold the fast result to the reference's: where a sum is near full scale, rounding may decide whether it clips."""
    results = [
        tiled_conv(x, w, spec, geometry, 5, 9, mapping=mapping, record_clips=True, backend=backend, **options)
        for backend in ("numba", "reference")
    ]
    (out, clips), (want, wanted) = results
    torch.testing.assert_close(out, want, atol=2e-4, rtol=1e-4)
    assert clips is not None
    assert wanted is not None
    for tile, (count, expected) in enumerate(zip(clips.counts, wanted.counts, strict=True)):
        differ = int((clips.mask(tile) != wanted.mask(tile)).sum())
        assert differ <= 1e-4 * out.numel() + 1
        assert abs(count - expected) <= differ
        assert count == int(clips.mask(tile).sum())


def operands(batch, channels, outputs, kernel, spatial, groups=1):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, channels, *spatial, generator=generator)
    return x, torch.rand(outputs, channels // groups, *kernel, generator=generator) * 2 - 1


@given(
    st.sampled_from([1, 3, 17, 40]),
    st.integers(1, 9),
    st.sampled_from([1, 5, 16, 33]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from(["channel", "im2col"]),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(batch, channels, outputs, spatial, kernel, stride, padding, dilation, mapping):
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(spatial, padding, dilation, kernel, strict=True)))
    x, w = operands(batch, channels, outputs, kernel, spatial)
    compare(x, w, SPEC, ConvGeometry(stride, padding, dilation), mapping)


WAYS = {
    "small images": (64, 12, 24, (3, 3), (4, 4), (1, 1), (1, 1), 1, True),
    "small, strided": (33, 12, 24, (3, 3), (8, 8), (2, 2), (1, 1), 1, True),
    "small, one dimension": (32, 9, 8, (5,), (11,), (1,), (2,), 1, True),
    "a large image": (2, 3, 8, (3, 3), (40, 56), (1, 1), (1, 1), 1, False),
    "one number, strided": (3, 12, 8, (1, 1), (20, 17), (2, 3), (0, 0), 1, False),
    "three dimensions": (4, 6, 8, (2, 3, 3), (5, 6, 7), (1, 2, 1), (1, 1, 0), 1, False),
    "groups": (3, 8, 16, (3, 3), (6, 6), (1, 1), (1, 1), 2, False),
    "small, groups": (20, 8, 16, (3, 3), (6, 6), (1, 1), (1, 1), 2, True),
    "small, three dimensions": (33, 6, 8, (2, 3, 3), (3, 4, 2), (1, 2, 1), (1, 1, 1), 1, True),
    "depthwise": (3, 8, 8, (3, 3), (6, 6), (1, 1), (1, 1), 8, None),
    "depthwise, strided": (3, 8, 24, (3, 3), (13, 37), (2, 2), (1, 1), 8, None),
    "nothing but padding": (32, 4, 8, (1, 1), (3, 3), (1, 1), (1, 1), 1, True),
}


PROFILE = HardwareProfile(dac={"bits": 8, "input_range": 1.0}, adc={"bits": 8, "full_scale": 4.0})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", [0.0, 0.05])
@pytest.mark.parametrize("threads", [1, 2])
def test_each_way(way, read, threads):
    batch, channels, outputs, kernel, spatial, stride, padding, groups, small = WAYS[way]
    x, w = operands(batch, channels, outputs, kernel, spatial, groups)
    spec = MatmulSpec(40, 1.5, 6, True, 2.0, None, 0.2, read)
    geometry = ConvGeometry(stride, padding, (1,) * len(kernel), groups)
    job = Job(None, x, cut(w, spec), w, geometry, Read(spec))
    assert conv_cpu.way_of(job, 1).__name__ == {True: "_run_small", False: "_run_large", None: "_run_few"}[small]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(x, w, spec, geometry, scale=torch.linspace(0.5, 2, outputs), bias=torch.linspace(-1, 1, outputs))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spatial", [(4, 4), (20, 20)])
def test_each_tile_has_its_own_full_scale(spatial):
    x, w = operands(32, 12, 8, (3, 3), spatial)
    spec = MatmulSpec(40, 1.5, 6, True, (0.5, 2.0, 8.0), None, 0.2)
    compare(x, w, spec, ConvGeometry((1, 1), (1, 1), (1, 1)))


def test_a_level_flips_only_where_rounding_decides():
    x, w = operands(64, 12, 24, (3, 3), (4, 4))
    spec, geometry = MatmulSpec(40, 1.5, 6, True, 2.0, 5, 0.2), ConvGeometry((1, 1), (1, 1), (1, 1))
    out, want = (tiled_conv(x, w, spec, geometry, 5, 9, backend=backend)[0] for backend in ("numba", "reference"))
    levels = ((out - want) / (2.0 / 15)).round()
    torch.testing.assert_close(out, want + levels * (2.0 / 15), atol=1e-5, rtol=0)
    assert int((levels != 0).sum()) <= 1e-3 * out.numel()


def test_convolutions_go_the_fast_way(monkeypatch):
    """What computes is the backend's own way, and not the plain one that gives the same numbers more slowly."""
    went = []
    for name in ("_run_large", "_run_small", "_run_few"):
        own = getattr(conv_cpu, name)
        monkeypatch.setattr(conv_cpu, name, lambda *args, name=name, own=own: (went.append(name), own(*args))[1])
    layer = AnalogConv2d(8, 16, 3, padding=1, profile=PROFILE)
    layer.eval()(torch.rand(40, 8, 6, 6))
    layer(torch.rand(1, 8, 40, 40))
    AnalogConv2d(8, 8, 3, groups=8, profile=PROFILE)(torch.rand(40, 8, 6, 6))
    assert went == ["_run_small", "_run_large", "_run_few"]
