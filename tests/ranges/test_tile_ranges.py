"""ADC full scales of single tiles: the fast kernels, convolutions, gradients, and the layers' buffers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from analogsim import HardwareProfile, convert
from analogsim.errors import CalibrationError, ProfileError
from analogsim.kernels import ConvGeometry, MatmulSpec, tiled_conv, tiled_matmul
from analogsim.nn import AnalogConv2d, AnalogLinear
from tests.kernels.test_matmul import operands

CALIBRATED = HardwareProfile(
    tile={"rows": 5}, dac={"bits": 8, "input_range": 2.0}, adc={"bits": 6, "full_scale": "calibrated", "per": "tile"}
)


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(("m", "k", "n"), [(300, 70, 33), (40, 70, 5), (1, 9, 40)])
def test_numba_computes_what_the_reference_states(m, k, n, bits):
    x, w = operands(m, k, n)
    tiles = -(-k // 8)
    scales = tuple(0.3 + 0.4 * tile for tile in range(tiles))
    spec = MatmulSpec(8, 1.5, 8, True, scales, bits, 0.1)
    fast, fast_clips = tiled_matmul(x, w, spec, 5, 9, record_clips=True, backend="numba")
    exact, clips = tiled_matmul(x.double(), w.double(), spec, 5, 9, record_clips=True, backend="reference")
    rounding = 2e-5 * tiles
    steps = sum(scales) / 127 if bits else 0.0
    assert (fast - exact).abs().max() <= rounding + steps
    assert ((fast - exact).abs() > rounding).float().mean() <= 0.01 + 2 / fast.numel()
    assert sum(clips.counts) > 0
    np.testing.assert_allclose(fast_clips.counts, clips.counts, atol=2)


def test_equal_full_scales_are_one_full_scale():
    x, w = operands(64, 40, 20)
    results = [tiled_matmul(x, w, MatmulSpec(8, 1.5, 8, True, scale, 8, 0.1), 1, 2)[0] for scale in (2.0, (2.0,) * 5)]
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [5, 12])
@pytest.mark.parametrize(("mapping", "groups"), [("channel", 1), ("channel", 2), ("im2col", 1)])
def test_convolution_is_the_unfolded_product(mapping, groups, size):
    x, w = torch.randn(3, 4 * groups, size, size), torch.rand(6, 4, 3, 3) * 2 - 1
    rows = 18
    spec = MatmulSpec(rows, 2.0, 8, True, (1.0, 3.0), 8)
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1), groups)
    fast, _ = tiled_conv(x, w, spec, geometry, mapping=mapping)
    exact, _ = tiled_conv(x.double(), w.double(), spec, geometry, mapping=mapping, backend="reference")
    columns = nn.functional.unfold(x.double(), 3, padding=1).transpose(1, 2).unflatten(-1, (groups, -1))
    parts = []
    for group in range(groups):
        own = slice(group * 6 // groups, (group + 1) * 6 // groups)
        flat = columns[:, :, group].flatten(0, 1)
        parts.append(tiled_matmul(flat, w[own].flatten(1).double(), spec, backend="reference")[0])
    want = torch.cat(parts, 1).view(3, size, size, 6).movedim(-1, 1)
    torch.testing.assert_close(exact, want)
    off = (fast - exact).abs() > 1e-4
    assert off.float().mean() < 0.01
    assert (fast - exact).abs().max() <= (1 + 3) / 127 + 1e-4


def test_gradients_stop_at_each_tiles_own_full_scale():
    layer = AnalogLinear(10, 3, bias=False, profile=CALIBRATED).double()
    layer.adc_full_scale = torch.tensor([0.05, 50.0])
    x = torch.rand(7, 10, dtype=torch.float64, requires_grad=True) + 0.1
    layer(x).sum().backward()
    # The first tile's ADC clips on all but a few, the second's never: only there is the gradient the digital one.
    w_max = layer.weight.detach().abs().amax(1)
    sums = (x.detach()[:, :5] / 2 * 127).round() / 127 @ (layer.weight.detach()[:, :5] / w_max[:, None]).T
    passed = (sums.abs() <= 0.05).double()
    x_hat = (x.detach() / 2 * 127).round() / 127 * 2
    torch.testing.assert_close(layer.weight.grad[:, 5:], x_hat[:, 5:].sum(0).expand(3, -1))
    torch.testing.assert_close(layer.weight.grad[:, :5], passed.T @ x_hat[:, :5])
    assert passed.mean() < 0.9


def test_another_number_of_tiles_is_refused():
    x, w = operands(4, 20, 3)
    for backend in ("numba", "reference"):
        with pytest.raises(ProfileError, match="2 values for 3 tiles"):
            tiled_matmul(x, w, MatmulSpec(8, adc_full_scale=(1.0, 1.0)), backend=backend)
    with pytest.raises(ProfileError, match="must be positive"):
        MatmulSpec(8, adc_full_scale=(1.0, 0.0))
    layer = AnalogConv2d(2, 3, 3, profile=CALIBRATED)
    layer.adc_full_scale = torch.ones(5)
    with pytest.raises(ProfileError, match="5 values for 2 tiles"):
        layer(torch.randn(1, 2, 6, 6))


def test_ranges_of_tiles_live_in_the_state_dict():
    one, two = (convert(nn.Linear(10, 3), CALIBRATED) for _ in range(2))
    one.adc_full_scale = torch.tensor([1.0, 2.0])
    two.load_state_dict(one.state_dict())
    assert two.adc_full_scale.tolist() == [1.0, 2.0]
    one.adc_full_scale = torch.tensor(3.0)
    two.load_state_dict(one.state_dict())
    assert two.adc_full_scale.tolist() == 3.0
    assert one.half().adc_full_scale.dtype == torch.float32


def test_a_range_that_one_tile_lacks_is_no_range():
    layer = AnalogLinear(10, 3, profile=CALIBRATED)
    layer.adc_full_scale = torch.tensor([1.0, math.nan])
    with pytest.raises(CalibrationError, match="never set"):
        layer(torch.zeros(1, 10))


def test_another_profile_forgets_them():
    layer = convert(nn.Linear(10, 3), CALIBRATED)
    layer.adc_full_scale = torch.tensor([1.0, 2.0])
    other = convert(layer, CALIBRATED.varied(tile={"rows": 3}))
    assert other.adc_full_scale.shape == ()
    assert other.adc_full_scale.isnan()
