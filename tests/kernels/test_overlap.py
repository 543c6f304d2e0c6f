"""Patches of transposed convolutions: the fast way against torch's, and that their gradient is the adjoint."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from analogsim import HardwareProfile, set_seed
from analogsim.kernels import MatmulSpec, Read, overlap
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.numba import matmul as cpu
from analogsim.kernels.backends.numba import overlap as machine
from analogsim.kernels.backends.numba.overlap import add_patches as fast
from analogsim.nn import AnalogConvTranspose2d

TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def walks(spatial):
    """Yield every (extents, kernel, stride, padding, output padding, dilation) whose output has an extent."""
    lines = itertools.product((1, 2, 15, 16, 17, 33), (1, 2, 4, 17), (1, 2, 3), (0, 1), (0, 1), (1, 2))
    for width, kernel, stride, padding, extra, dilation in lines:
        if extra < max(stride, dilation) and (spatial == 1 or kernel < 17):
            each = ((value,) * spatial for value in (kernel, stride, padding, extra, dilation))
            walk = overlap.Overlap((2,) * (spatial - 1) + (width,), *each)
            if min(walk.outputs) > 0:
                yield walk


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_patches_add_up(spatial, threads, monkeypatch):
    torch.set_num_threads(threads)
    monkeypatch.setattr(cpu, "SLAB", 1)
    for number, walk in enumerate(walks(spatial)):
        if number % (1, 3, 11)[spatial - 1]:
            continue
        batch, outputs = 1 + number % 3, 1 + number % 4
        products = torch.randn(batch * math.prod(walk.inputs), outputs * math.prod(walk.kernel))
        bias = torch.randn(outputs) if number % 2 else None
        got, want = fast(products, bias, walk), overlap.add_patches(products, bias, walk)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5, msg=lambda text: f"{walk}: {text}")  # noqa: B023
        given = products.double().requires_grad_()
        (gradient,) = torch.autograd.grad(overlap.add_patches(given, None, walk), given, got.double())
        assert torch.equal(overlap.patches(got, walk).double(), gradient), walk


def test_a_patch_lies_where_torch_puts_it():
    walk = overlap.Overlap((3, 4), (2, 3), (2, 1), (1, 0), (1, 0), (1, 2))
    x, w, bias = torch.randn(2, 5, 3, 4), torch.randn(5, 6, 2, 3), torch.randn(6)
    products = x.movedim(1, -1).reshape(-1, 5) @ w.flatten(1)
    want = TRANSPOSED[2](x, w, bias, walk.stride, walk.padding, walk.extra, 1, walk.dilation)
    torch.testing.assert_close(fast(products, bias, walk), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_one_pass_is_the_product_and_then_its_patches(spatial, threads, monkeypatch):
    """Of sums that float32 holds exactly, so that no order of adding them leads to another code."""
    torch.set_num_threads(threads)
    monkeypatch.setattr(cpu, "SLAB", 1)
    kernel, compared = Numba(), 0
    for number, walk in enumerate(walks(spatial)):
        if number % (7, 23, 31)[spatial - 1]:
            continue
        monkeypatch.setattr(machine, "PRODUCTS", (1, 200, 2**17)[number % 3])  # a row of an image, several, all
        batch, outputs, k = 2 + number % 2, 1 + number % 4, (5, 16, 19)[number % 3]
        sigma, levels, columns = (0.0, 0.3)[number // 7 % 2], (None, 6)[number % 2], outputs * math.prod(walk.kernel)
        spec = MatmulSpec(
            rows=(None, 8)[number % 2],
            adc_bits=levels,
            adc_full_scale=12.0,
            noise_output=sigma,
            noise_multiplicative=sigma * (number % 5 == 0),
        )
        x = torch.randint(-3, 4, (batch, k, *walk.inputs)).float()
        w = torch.randint(-2, 3, (columns, k)).float()
        bias, scale, shift = (torch.randn(n) if number % 3 else None for n in (outputs, columns, columns))
        read = Read(spec, 5, number, scale, shift)
        products, _ = kernel.matmul(x.movedim(1, -1).reshape(-1, k), w, read)
        want, got = fast(products, bias, walk), kernel.convolve_transposed(x, w, bias, walk, read)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5, msg=lambda text: f"{walk}: {text}")  # noqa: B023
        compared += 1
    assert compared > 10


@pytest.mark.parametrize(("bias", "rows"), [(True, None), (False, 5)])
def test_a_layer_in_evaluation_is_that_in_which_gradients_are_kept(bias, rows):
    profile = HardwareProfile(tile={"rows": rows}, dac={"bits": 8, "input_range": 2.0}, noise={"output": 0.2})
    layer = AnalogConvTranspose2d(12, 6, (3, 4), 2, 1, bias=bias, profile=profile).eval()
    x = torch.randn(3, 12, 7, 9)
    found = []
    for tracks in (False, True):
        set_seed(layer, 4)
        with torch.set_grad_enabled(tracks):
            found.append(layer(x))
    assert found[1].requires_grad
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-5)
