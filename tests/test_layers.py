"""Analog layers, conversion and calibration: the digital twin where nothing is analog, the stated gradients where it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analogsim import AnalogConv2d, AnalogLinear, HardwareProfile, calibrate, convert, set_seed, to_digital
from analogsim.errors import CalibrationError, ConversionError, ShapeError
from analogsim.kernels import ConvGeometry, MatmulSpec, tiled_conv, tiled_matmul
from analogsim.nn import AnalogConv1d, AnalogConv3d, analog_layers
from models.lenet import LeNet5

IDEAL = HardwareProfile.load("ideal")
CLIPPING = HardwareProfile(
    tile={"rows": 20}, dac={"bits": 8, "input_range": 1.0}, noise={"output": 0.1}, adc={"bits": 6, "full_scale": 1.0}
)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_an_ideal_convolution_is_its_twin_in_every_padding(padding, padding_mode):
    layer = AnalogConv2d(4, 6, 3, padding=padding, padding_mode=padding_mode, profile=IDEAL)
    assert list(nn.Conv2d(4, 6, 3).state_dict()) == ["weight", "bias"]
    x = torch.randn(2, 4, 9, 9)
    twin = nn.Conv2d(4, 6, 3, padding=padding, padding_mode=padding_mode)
    layer.load_state_dict(twin.state_dict())
    torch.testing.assert_close(layer(x), twin(x))
    # Fine converters take the crossbar's path and come close.
    layer.profile = HardwareProfile(dac={"bits": 16, "input_range": 8.0}, tile={"rows": 20})
    torch.testing.assert_close(layer(x), twin(x), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("kind", "twin", "dims"), [(AnalogConv1d, nn.Conv1d, 1), (AnalogConv3d, nn.Conv3d, 3)])
def test_one_and_three_dimensions(kind, twin, dims):
    layer = kind(4, 6, 3, stride=2, dilation=1, groups=2, profile=HardwareProfile(noise={"read": 1e-9}))
    digital = twin(4, 6, 3, stride=2, groups=2)
    layer.load_state_dict(digital.state_dict())
    x = torch.randn(2, 4, *[7] * dims)
    torch.testing.assert_close(layer(x), digital(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer(x[0]), digital(x[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_both_mappings_are_the_unfolded_matmul_where_tiles_coincide(groups):
    x, w = torch.randn(3, 8, 6, 6), torch.rand(4, 8 // groups, 3, 3) * 2 - 1
    spec = MatmulSpec(18, 3.0, 8, True, 4.0, 8, 0.1)
    geometry = ConvGeometry((1, 1), (1, 1), (1, 1), groups)
    for backend in ("numba", "reference"):
        a, _ = tiled_conv(x, w, spec, geometry, 1, 2, backend=backend)
        b, _ = tiled_conv(x, w, spec, geometry, 1, 2, mapping="im2col", backend=backend)
        torch.testing.assert_close(a, b)
    if groups == 1:
        quiet = MatmulSpec(18, 3.0, 8, True, 4.0, 8)
        rows = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 72)
        want, _ = tiled_matmul(rows, w.flatten(1), quiet, backend="reference")
        got, _ = tiled_conv(x, w, quiet, geometry)
        difference = (got.flatten(2).transpose(1, 2).reshape(-1, 4) - want).abs()
        assert (difference > 1e-4).float().mean() < 0.01
        assert difference.max() < 4 * 4.0 / 127 + 1e-4


def test_im2col_cuts_anywhere():
    x, w = torch.randn(2, 5, 6, 6), torch.rand(4, 5, 3, 3)
    out, _ = tiled_conv(x, w, MatmulSpec(7, 2.0), ConvGeometry((1, 1), (0, 0), (1, 1)), mapping="im2col")
    torch.testing.assert_close(out * 2, F.conv2d(x, w), atol=1e-5, rtol=1e-5)


def oracle_gradients(x, w, g, noise_free_sums, rows, alpha, full_scale):
    """Design section 3: straight through, zero where the DAC or a tile's ADC clipped."""
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    x_hat = (x.clamp(-alpha, alpha) / alpha * 127).round() / 127
    for tile, start in enumerate(range(0, x.shape[1], rows)):
        part = slice(start, start + rows)
        g_t = g * (noise_free_sums[tile].abs() <= full_scale)
        grad_x[:, part] = g_t @ w[:, part]
        grad_w[:, part] = g_t.T @ (alpha * x_hat[:, part])
    return grad_x * (x.abs() <= alpha), grad_w


def test_gradients_are_straight_through_with_exact_clip_masks():
    layer = AnalogLinear(50, 7, profile=CLIPPING.varied(noise={"output": 0.0})).double()
    x = torch.randn(30, 50, dtype=torch.float64, requires_grad=True)
    g = torch.randn(30, 7, dtype=torch.float64)
    layer(x).backward(g)
    w = layer.weight.detach()
    w_hat = w / w.abs().amax(1, keepdim=True)
    x_hat = (x.detach().clamp(-1, 1) * 127).round() / 127
    sums = [x_hat[:, a : a + 20] @ w_hat[:, a : a + 20].T for a in (0, 20, 40)]
    assert any((s.abs() > 1).any() for s in sums)
    grad_x, grad_w = oracle_gradients(x.detach(), w, g, sums, 20, 1.0, 1.0)
    torch.testing.assert_close(x.grad, grad_x)
    torch.testing.assert_close(layer.weight.grad, grad_w)
    torch.testing.assert_close(layer.bias.grad, g.sum(0))


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
def test_a_convolutions_gradients_are_the_unfolded_linears(mapping):
    profile = CLIPPING.varied(tile={"rows": 18, "mapping": mapping}, noise={"output": 0.0})
    conv = AnalogConv2d(6, 4, 3, profile=profile).double()
    linear = AnalogLinear(54, 4, profile=profile).double()
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    conv(x).backward(g)
    grad_x, x.grad = x.grad, None
    linear(F.unfold(x, 3).transpose(1, 2)).backward(g.flatten(2).transpose(1, 2))
    torch.testing.assert_close(grad_x, x.grad)
    torch.testing.assert_close(conv.weight.grad.flatten(1), linear.weight.grad)
    torch.testing.assert_close(conv.bias.grad, linear.bias.grad)


def test_convert_and_back_keeps_weights_hooks_and_ties():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    analog = convert(model, IDEAL)
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [name for name, _ in analog_layers(analog)] == ["0", "2"]
    assert analog[0].weight is analog[2].weight
    x = torch.randn(3, 6)
    assert torch.equal(analog(x), model(x))
    analog.load_state_dict(model.state_dict())
    back = to_digital(analog)
    assert [type(m) for m in back] == [nn.Linear, nn.ReLU, nn.Linear]
    assert list(back.state_dict()) == list(model.state_dict())
    same = convert(model, IDEAL, inplace=True)
    assert same is model


def test_rules_for_what_stays_digital():
    for rule in ("classifier*", ["classifier.linear?"], nn.Linear, lambda name, module: name == "classifier"):
        names = [name for name, _ in analog_layers(convert(LeNet5(), IDEAL, keep_digital=rule))]
        assert names == ["features.conv1", "features.conv2"]
    with pytest.raises(ConversionError, match="no module is called 'head'"):
        convert(LeNet5(), IDEAL, keep_digital="head")
    with pytest.raises(ConversionError, match="nothing to convert"):
        convert(nn.Sequential(nn.ReLU()), IDEAL)
    with pytest.raises(ConversionError, match="no layer is analog"):
        to_digital(LeNet5())
    with pytest.raises(ConversionError, match="no weights yet"):
        convert(nn.Sequential(nn.LazyLinear(3)), IDEAL)


def test_calibration_sets_ranges_that_the_state_dict_keeps():
    model = convert(LeNet5(channels=1), HardwareProfile.load("8bit"))
    x = torch.randn(64, 1, 32, 32)
    with pytest.raises(CalibrationError, match=r"calibrate\(model, batches\)"):
        model(x)
    report = calibrate(model, [(x, torch.zeros(64))])
    assert report["features.conv1"]["input_range"] == pytest.approx(x.abs().max().item())
    digital = to_digital(model)
    error = (model(x) - digital(x)).norm() / digital(x).norm()
    assert 1e-4 < error < 0.1
    other = convert(LeNet5(channels=1), HardwareProfile.load("8bit"))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    smaller = calibrate(model, x, "percentile", percentile=99)
    assert all(smaller[name]["input_range"] < report[name]["input_range"] for name in report)
    with pytest.raises(CalibrationError, match="empty"):
        calibrate(model, [])
    with pytest.raises(CalibrationError, match="all zero"):
        calibrate(model, torch.zeros(2, 1, 32, 32))
    with pytest.raises(CalibrationError, match="not finite"):
        calibrate(model, torch.full((2, 1, 32, 32), torch.nan))


def test_noise_follows_torch_manual_seed_and_explicit_seeds():
    model = convert(nn.Sequential(nn.Linear(30, 9), nn.Linear(9, 9)), CLIPPING)
    x = torch.randn(4, 30)
    torch.manual_seed(3)
    first = model(x)
    assert not torch.equal(model(x), first)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    set_seed(model, 7)
    one = [model(x), model(x)]
    set_seed(model, 7)
    assert torch.equal(model(x), one[0])
    assert torch.equal(model(x), one[1])
    assert not torch.equal(*one)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))


def test_two_layers_never_share_numbers():
    profile = HardwareProfile(dac={"input_range": 1.0}, noise={"output": 1.0})
    model = convert(nn.Sequential(nn.Linear(4, 1000, bias=False), nn.Linear(1000, 1000, bias=False)), profile)
    set_seed(model, 1)
    with torch.no_grad():
        a, b = (layer(torch.zeros(20, layer.in_features)) / layer.weight.abs().amax(1) for layer in model)
    assert abs((a * b).mean()) < 3.9 / 20_000**0.5  # α = 1e-4
    assert a.std().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_goes_in_and_comes_out(dtype):
    layer = AnalogLinear(8, 3, profile=CLIPPING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(2, 8, dtype=dtype, requires_grad=True))
    assert out.dtype == dtype
    out.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match="must be 8, got shape"):
        AnalogLinear(8, 3, profile=CLIPPING)(torch.zeros(2, 7))
    with pytest.raises(ShapeError, match="dimension -3 of the input must be 3"):
        AnalogConv2d(3, 3, 3, profile=CLIPPING)(torch.zeros(1, 4, 8, 8))


def test_a_converted_network_trains():
    model = convert(LeNet5(channels=1), CLIPPING.varied(tile={"rows": 256}, adc={"full_scale": 8.0}))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    x, y = torch.randn(64, 1, 32, 32), torch.arange(64) % 10
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
