"""The contract of a backend: all of ours fulfil it, and one from outside the package needs only two methods."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import BackendError, ShapeError
from analogsim.kernels import BACKENDS, Backend, ConvGeometry, MatmulSpec, philox, tiled_conv, tiled_matmul


class Columns(Backend):
    """A backend as somebody else would write one: NumPy in float64, and nothing but what must be there."""

    name = "columns"

    def __init__(self):
        self.asked = []

    def why_not(self, device, dtype):
        return None if device == "cpu" and dtype != torch.float16 else "it has no half precision"

    def dac(self, x, spec):
        self.asked.append("dac")
        if not spec.dac_levels:
            return x / spec.input_range
        codes = np.clip(x.double().numpy() * (spec.dac_levels / spec.input_range), -spec.dac_levels, spec.dac_levels)
        return torch.from_numpy(np.round(codes) / spec.dac_levels).to(x.dtype)

    def accumulate(self, out, partial, norm2, read, tile, offset=0, bits=None, first=False):
        self.asked.append("accumulate")
        spec, s = read.spec, partial.double().numpy()
        length = 0.0 if norm2 is None else norm2.double().numpy()
        variance = spec.noise_output**2 + (spec.noise_read**2 * length) + (spec.noise_multiplicative * s) ** 2
        n = philox.normals(tuple(partial.shape), read.seed, read.stream, tile, offset=offset).double().numpy()
        s = s + np.sqrt(variance) * n
        full, clipped = spec.full_scale(tile), 0
        if full is not None:
            beyond = np.abs(s) > full
            clipped = int(beyond.sum())
            s = np.clip(s, -full, full)
            if spec.adc_levels:
                s = np.round(s * spec.adc_levels / full) * full / spec.adc_levels
            if bits is not None:
                bits |= torch.from_numpy(beyond).to(torch.uint8) << tile % 8
        out.copy_(torch.from_numpy(s)) if first else out.add_(torch.from_numpy(s))
        return clipped if bits is not None else 0


SPEC = MatmulSpec(
    rows=5, input_range=2.0, dac_bits=6, adc_full_scale=2.5, adc_bits=7, noise_output=0.05, noise_read=0.02
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_the_references(dtype):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(9, 12, generator=generator).to(dtype), torch.randn(4, 12, generator=generator).to(dtype)
    more = {"scale": torch.rand(4).to(dtype), "bias": torch.rand(4).to(dtype), "record_clips": True}
    own = Columns()
    got, clips = tiled_matmul(x, w, SPEC, 7, 3, backend=own, **more)
    want, expected = tiled_matmul(x, w, SPEC, 7, 3, backend="reference", **more)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert clips.counts == expected.counts
    assert sum(clips.counts)
    images, kernel = x.view(9, 3, 4), w.view(4, 3, 4)[:, :, :3].contiguous()
    geometry = ConvGeometry((1,), (1,), (1,))
    for mapping in ("channel", "im2col"):
        got, clips = tiled_conv(images, kernel, SPEC, geometry, 7, 3, backend=own, mapping=mapping, **more)
        want, expected = tiled_conv(images, kernel, SPEC, geometry, 7, 3, backend="reference", mapping=mapping, **more)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        assert clips.counts == expected.counts
    assert {"dac", "accumulate"} == set(own.asked)


HARDWARE = {
    "plain": {},
    "chip": {"cells": {"mapping": "differential"}, "programming": {"sigma": 0.05}, "faults": {"stuck_off": 0.1}},
    "adcs of their own": {"adc": {"bits": 6, "full_scale": "calibrated", "kind": "sar", "capacitor_mismatch": 0.1}},
    "steps": {"dac": {"bits": 5, "step_bits": 2}, "weight": {"bits": 5}, "cells": {"bits": 2}},
    "uniform noise": {"noise": {"output": 0.05, "distribution": "uniform"}},
}


@pytest.mark.parametrize("kind", HARDWARE)
def test_networks_are_the_references(kind):
    """Calibrated, programmed, trained a step, copied, saved: with the reference's numbers, in float64 to rounding."""
    base = {"tile": {"rows": 8}, "dac": {"bits": 6}, "adc": {"bits": 6}, "noise": {"output": 0.05}}
    profile = an.HardwareProfile(**base).varied(**HARDWARE[kind])
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()
    x = torch.rand(6, 2, 4, 4, dtype=torch.float64)
    results = []
    for backend in (Columns(), "reference"):
        model = an.convert(digital, profile)
        for _, layer in an.analog_layers(model):
            layer.backend = backend
        an.calibrate(model, x, "maximum", progress=False)
        if profile.is_drawn:
            an.program(model, 3)
        an.set_seed(model, 5)
        out = copy.deepcopy(model).eval()(x)
        model.train()(x).square().sum().backward()
        results.append((out, *(p.grad for p in model.parameters())))
        an.set_seed(model, 6)
        assert torch.equal(pickle.loads(pickle.dumps(model)).eval()(x), model.eval()(x))
        if backend != "reference":
            assert backend.asked
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)


def test_reasons_are_told():
    x = torch.ones(2, 3, dtype=torch.float16)
    with pytest.raises(BackendError, match="backend 'columns': it has no half precision"):
        tiled_matmul(x, x, MatmulSpec(), backend=Columns())
    with pytest.raises(BackendError, match="choose auto, numba, reference, triton, or give an object"):
        tiled_matmul(x.float(), x.float(), MatmulSpec(), backend="columns")
    with pytest.raises(BackendError, match="choose auto"):
        tiled_matmul(x.float(), x.float(), MatmulSpec(), backend=Columns)
    with pytest.raises(ShapeError, match="one dtype"):
        tiled_matmul(x.double(), x.float(), MatmulSpec(), backend=Columns())
    for backend in BACKENDS:
        for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16), ("mps", torch.float64)):
            reason = backend.why_not(device, dtype)
            assert reason is None or reason.strip() == reason != ""


def test_who_lacks_a_method_is_no_backend():
    class Half(Backend):
        def dac(self, x, spec):
            return x

    with pytest.raises(TypeError, match="accumulate"):
        Half()
