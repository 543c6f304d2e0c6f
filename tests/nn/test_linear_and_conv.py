"""AnalogLinear and the analog convolutions as torch layers: twins, shapes, ranges, noise replay, gradients."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analogsim.errors import BackendError, CalibrationError, ProfileError, ShapeError
from analogsim.kernels.philox import normals
from analogsim.nn import AnalogConv1d, AnalogConv2d, AnalogConv3d, AnalogLinear, analog_layers, set_seed
from analogsim.profile import HardwareProfile
from analogsim.seeds import Stream

# Not `is_ideal`, so that the analog path runs; exact up to rounding.
EXACT = HardwareProfile(tile={"rows": 20}, dac={"input_range": 2.0}, adc={"full_scale": 1e6})
COARSE = HardwareProfile(
    tile={"rows": 5}, dac={"bits": 4, "input_range": 1.5}, adc={"bits": 5, "full_scale": 1.0}, weight={"bits": 5}
)
NOISY = COARSE.varied(noise={"output": 0.1})
CONVS = [(AnalogConv1d, (9,)), (AnalogConv2d, (9, 8)), (AnalogConv3d, (5, 4, 6))]


def twins(kind, *args, profile=EXACT, **options):
    """An analog layer and its digital twin with the same weights."""
    digital = kind.digital(*args, **options)
    analog = kind(*args, **options, profile=profile)
    analog.load_state_dict(digital.state_dict())
    return analog, digital


# --- construction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "options"),
    [
        (AnalogLinear, (5, 3), {"bias": False}),
        (AnalogLinear, (5, 3, True), {}),
        (AnalogConv1d, (4, 6, 3), {"padding": "same", "padding_mode": "reflect"}),
        (AnalogConv2d, (4, 6, (3, 2)), {"stride": 2, "groups": 2, "bias": False}),
        (AnalogConv3d, (4, 6, 3), {"dilation": (1, 2, 1)}),
    ],
)
def test_constructor_is_the_twins(kind, args, options):
    """Same arguments, same initial weights from the same seed, same keys and only the two ranges beside them."""
    torch.manual_seed(1)
    digital = kind.digital(*args, **options)
    torch.manual_seed(1)
    analog = kind(*args, **options, profile=COARSE)
    assert isinstance(analog, kind.digital)
    state = analog.state_dict()
    assert list(state) == [*digital.state_dict(), "input_range", "adc_full_scale"]
    assert all(torch.equal(value, state[key]) for key, value in digital.state_dict().items())
    assert state["input_range"].isnan()
    assert state["adc_full_scale"].isnan()
    assert analog.profile == COARSE
    assert repr(analog) == f"Analog{repr(digital)[:-1]}, profile='custom')"


def test_layer_without_a_profile_is_ideal():
    analog, digital = twins(AnalogLinear, 5, 3, profile=None)
    x = torch.randn(4, 5)
    assert analog.profile.is_ideal
    assert torch.equal(analog(x), digital(x))


def test_layer_refuses_what_is_no_profile():
    with pytest.raises(ProfileError, match="HardwareProfile is needed, got str"):
        AnalogLinear(5, 3, profile="8bit")


def test_device_and_dtype_arguments():
    layer = AnalogLinear(5, 3, device="meta", dtype=torch.float64, profile=COARSE)
    assert (layer.weight.device.type, layer.input_range.device.type) == ("meta", "meta")
    layer = layer.to_empty(device="cpu")
    assert layer.input_range.device.type == "cpu"
    assert layer.input_range.isnan()
    assert AnalogConv2d(2, 3, 1, dtype=torch.float64, profile=COARSE)(torch.zeros(1, 2, 3, 3).double()).dtype == (
        torch.float64
    )


# --- the twin's function ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "bias": False},
        {"groups": 2, "padding": 1},
        {"groups": 4, "stride": 2},
        {"padding": "valid"},
        *({"padding": "same", "padding_mode": mode} for mode in ("zeros", "reflect", "replicate", "circular")),
        *({"padding": 2, "padding_mode": mode} for mode in ("zeros", "reflect", "replicate", "circular")),
    ],
    ids=str,
)
@pytest.mark.parametrize(("kind", "spatial"), CONVS)
def test_convolution_is_its_twin_on_exact_hardware(kind, spatial, options, mapping):
    analog, digital = twins(kind, 4, 8, 3, profile=EXACT.varied(tile={"mapping": mapping}), **options)
    if kind is AnalogConv3d and options.get("dilation") == 2:
        spatial = (6, 7, 6)
    x = torch.randn(2, 4, *spatial)
    torch.testing.assert_close(analog(x), digital(x), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(analog(x[0]), digital(x[0]), atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_even_kernel_with_same_padding():
    """One more on the right, as torch pads."""
    analog, digital = twins(AnalogConv2d, 2, 3, (4, 2), padding="same")
    x = torch.randn(1, 2, 6, 7)
    torch.testing.assert_close(analog(x), digital(x), atol=2e-5, rtol=1e-4)


def test_channels_last_and_strided_inputs():
    analog, digital = twins(AnalogConv2d, 4, 8, 3, padding=1, profile=COARSE)
    x = torch.randn(2, 4, 6, 5)
    ref = analog(x)
    assert torch.equal(analog(x.contiguous(memory_format=torch.channels_last)), ref)
    assert torch.equal(analog(x.transpose(2, 3).contiguous().transpose(2, 3)), ref)
    layer = copy.deepcopy(analog).to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), ref, atol=1e-6, rtol=0)
    linear = AnalogLinear(6, 3, profile=COARSE)
    rows = torch.randn(6, 4)
    assert torch.equal(linear(rows.T), linear(rows.T.contiguous()))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
def test_linear_takes_any_leading_shape(shape):
    analog, digital = twins(AnalogLinear, 5, 3)
    x = torch.randn(shape)
    torch.testing.assert_close(analog(x), digital(x), atol=1e-5, rtol=1e-4)


def test_empty_batch_of_images():
    analog, digital = twins(AnalogConv2d, 4, 8, 3, profile=NOISY)
    x = torch.zeros(0, 4, 6, 6, requires_grad=True)
    assert analog(x).shape == digital(x).shape
    analog(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    for layer, x in [
        (AnalogLinear(6, 3, profile=COARSE), torch.randn(4, 6)),
        (AnalogConv2d(4, 3, 3, profile=COARSE), torch.randn(2, 4, 5, 5)),
    ]:
        low = copy.deepcopy(layer).to(dtype)
        single = copy.deepcopy(low).float()
        out = low(x.to(dtype))
        assert out.dtype == dtype
        assert torch.equal(out, single(x.to(dtype).float()).to(dtype))


def test_half_precision_keeps_the_ranges_exact():
    """input_range and adc_full_scale stay float32: float16 would round them, and overflow above 65504."""
    layer = AnalogLinear(6, 3, profile=HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}))
    layer.input_range.fill_(100_000.0)
    layer.adc_full_scale.fill_(1.0001)
    layer.half()
    assert layer.weight.dtype == torch.float16
    assert (float(layer.input_range), round(float(layer.adc_full_scale), 4)) == (100_000.0, 1.0001)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (AnalogLinear(5, 3, profile=EXACT), (4, 6)),
        (AnalogLinear(5, 3), (4, 6)),
        (AnalogLinear(5, 3), ()),
        (AnalogConv1d(4, 2, 3, profile=EXACT), (4,)),
        (AnalogConv1d(4, 2, 3, profile=EXACT), (1, 4, 5, 5)),
        (AnalogConv2d(4, 2, 3), (1, 3, 5, 5)),
        (AnalogConv2d(4, 2, 3, profile=EXACT), (1, 4, 2, 5)),
        (AnalogConv3d(4, 2, 3, profile=EXACT), (1, 3, 5, 5, 5)),
    ],
)
def test_wrong_shapes_are_refused(layer, shape):
    with pytest.raises(ShapeError, match=type(layer).__name__):
        layer(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ShapeError, match=f"of one dtype.*{dtype}"):
        AnalogLinear(5, 3, profile=EXACT)(torch.zeros(2, 5, dtype=dtype))


def test_uncalibrated_layer_says_which_and_what_to_do():
    model = nn.Sequential(AnalogConv2d(1, 2, 3, profile=HardwareProfile(dac={"bits": 8})))
    with pytest.raises(
        CalibrationError, match=r"AnalogConv2d\(1, 2, .*dac.input_range is 'calibrated'.*calibrate\(model"
    ):
        model(torch.zeros(1, 1, 4, 4))
    layer = AnalogLinear(5, 3, profile=HardwareProfile(adc={"bits": 8, "full_scale": "calibrated"}))
    layer.input_range.fill_(1.0)
    with pytest.raises(CalibrationError, match=r"AnalogLinear.*adc.full_scale is 'calibrated'"):
        layer(torch.zeros(1, 5))


def test_backend_by_name():
    layer = AnalogLinear(5, 3, profile=NOISY)
    set_seed(layer, 1)
    x = torch.randn(4, 5)
    outputs = []
    for backend in ("auto", "reference", "numba"):
        layer.backend, layer.calls = backend, 0
        outputs.append(layer(x))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)
    assert torch.equal(outputs[0], outputs[2])
    layer.backend = "numba"
    with pytest.raises(BackendError, match="float32"):
        layer.double()(x.double())
    layer.backend = "cuda"
    with pytest.raises(BackendError, match="no backend 'cuda'"):
        layer(x.double())


# --- input ranges ----------------------------------------------------------------------------------------------------


def test_dynamic_input_range_is_the_batch_maximum():
    """Full scale is reached by the largest input, so scaling a batch scales the output."""
    layer = AnalogLinear(5, 3, bias=False, profile=HardwareProfile(dac={"bits": 4, "input_range": "dynamic"}))
    x = torch.randn(4, 5)
    torch.testing.assert_close(layer(x * 1024), layer(x) * 1024, atol=0, rtol=1e-6)
    fixed = copy.deepcopy(layer)
    fixed.profile = HardwareProfile(dac={"bits": 4, "input_range": float(x.abs().max())})
    assert torch.equal(layer(x), fixed(x))
    assert not layer(torch.zeros(2, 5)).any()


def test_calibrated_range_is_used_where_the_profile_says_so():
    layer = AnalogLinear(
        5, 3, profile=COARSE.varied(dac={"input_range": "calibrated"}, adc={"full_scale": "calibrated"})
    )
    layer.input_range.fill_(1.5)
    layer.adc_full_scale.fill_(1.0)
    fixed = copy.deepcopy(layer)
    fixed.profile = COARSE
    layer.input_range.fill_(1.5)
    fixed.input_range.fill_(9.0)  # the constant in the profile decides
    x = torch.randn(4, 5)
    assert torch.equal(layer(x), fixed(x))


def test_zero_and_constant_weight_scales():
    layer = AnalogLinear(4, 2, bias=False, profile=COARSE)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, -0.5, 0.25, 2]]))
    assert not layer(torch.randn(3, 4))[:, 0].any()
    layer.profile = HardwareProfile(weight={"w_max": 1.0})  # the weight of 2 clips to 1
    x = torch.randn(3, 4)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight.clamp(-1, 1)))


# --- noise -----------------------------------------------------------------------------------------------------------


def test_torchs_seed_decides_the_noise():
    layer = AnalogLinear(5, 3, profile=NOISY)
    x = torch.randn(4, 5)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    state = torch.get_rng_state()
    third = layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), third)


def test_noiseless_layers_leave_torchs_generator_alone():
    layer = AnalogLinear(5, 3, profile=COARSE)
    state = torch.get_rng_state()
    layer(torch.zeros(2, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_explicit_seed_replays_call_by_call():
    layer = AnalogLinear(5, 3, profile=NOISY)
    x = torch.randn(4, 5)
    set_seed(layer, 9)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(123)  # does not matter now
    set_seed(layer, 9)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    set_seed(layer, 10)
    assert not torch.equal(layer(x), first)
    set_seed(layer, None)
    torch.manual_seed(3)
    ref = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), ref)


@pytest.mark.parametrize("seed", [None, 5])
def test_layers_never_share_numbers(seed):
    """Three equal layers on the same input: their noises differ everywhere."""
    model = nn.ModuleList(
        AnalogLinear(5, 3, profile=NOISY.varied(adc={"bits": None, "full_scale": None})) for _ in "abc"
    )
    for layer in model:
        layer.load_state_dict(model[0].state_dict())
    set_seed(model, seed)
    x = torch.randn(40, 5)
    outputs = [layer(x) for layer in model]
    for a, b in itertools.combinations(outputs, 2):
        assert (a - b).abs().min() > 0
    assert [layer.stream for _, layer in analog_layers(model)] == [0, 1, 2]


def test_noise_is_that_of_the_philox_counters():
    """Call c of a layer with an explicit seed draws READ + stream·2^32 + c; element e = row·N + column of each tile."""
    profile = HardwareProfile(tile={"rows": 2}, noise={"output": 0.5}, dac={"input_range": 2.0})
    layer = AnalogLinear(5, 3, bias=False, profile=profile).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    layer.seed, layer.stream = 21, 6
    for call in (1, 2):
        noise = sum(normals((4, 3), 21, Stream.READ + (6 << 32) + call, tile) for tile in range(3))
        ref = x @ layer.weight.T + 2.0 * layer.weight.abs().amax(1) * 0.5 * noise
        torch.testing.assert_close(layer(x), ref, atol=1e-12, rtol=0)


# --- gradients -------------------------------------------------------------------------------------------------------


def naive_linear(x, weight, bias, profile, noise):
    """Design section 3 with straight-through rounding as `detach`, in torch ops that autograd differentiates."""
    dac_levels, adc_levels, w_levels = 7, 15, 15
    alpha, scale = profile.dac.input_range, profile.adc.full_scale

    def rounded(v):
        return v + (v.round() - v).detach()

    x_hat = rounded((x / alpha).clamp(-1, 1) * dac_levels) / dac_levels
    w_max = weight.abs().amax(1, keepdim=True).detach()
    w_hat = rounded(weight / w_max * w_levels) / w_levels
    total = 0
    for tile, start in enumerate(range(0, x.shape[1], profile.tile.rows)):
        rows = slice(start, start + profile.tile.rows)
        s = x_hat[:, rows] @ w_hat[:, rows].T + profile.noise.output * noise[tile]
        # clamp's own gradient is the mask of the unclipped
        total = total + rounded(s.clamp(-scale, scale) / scale * adc_levels) / adc_levels * scale
    return alpha * w_max.T * total + bias


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_linear_gradients_against_autograd(sigma):
    """The straight-through rule with its DAC and per-tile ADC masks; some of each must clip."""
    profile = COARSE.varied(noise={"output": sigma})
    layer = AnalogLinear(13, 6, profile=profile).double()
    x = torch.randn(20, 13, dtype=torch.float64, requires_grad=True)
    set_seed(layer, 4)
    noise = [normals((20, 6), 4, Stream.READ + 1, tile) for tile in range(3)]
    ref = naive_linear(x, layer.weight, layer.bias, profile, noise)
    g = torch.randn_like(ref)
    ref_grads = torch.autograd.grad(ref, (x, layer.weight, layer.bias), g)
    comp = layer(x)
    torch.testing.assert_close(comp, ref, atol=1e-12, rtol=0)
    comp_grads = torch.autograd.grad(comp, (x, layer.weight, layer.bias), g)
    for a, b in zip(comp_grads, ref_grads):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert (x.abs() > 1.5).any()
    assert not ref_grads[0][x.abs() > 1.5].any()
    unclipped = naive_linear(x, layer.weight, layer.bias, profile.varied(adc={"full_scale": 50.0}), noise)
    assert (torch.autograd.grad(unclipped, x, g)[0] - ref_grads[0]).abs().max() > 0.1


def test_convolution_gradients_are_the_linear_layers():
    """A convolution is the linear layer on its unfolded input, tile by tile (im2col order), gradients included."""
    conv = AnalogConv2d(2, 4, 3, profile=COARSE.varied(tile={"mapping": "im2col", "rows": 7})).double()
    linear = AnalogLinear(18, 4, profile=COARSE.varied(tile={"rows": 7})).double()
    linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
    x = torch.randn(3, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    ref = linear(F.unfold(x, 3).transpose(1, 2)).transpose(1, 2).reshape(3, 4, 4, 3)
    comp = conv(x)
    torch.testing.assert_close(comp, ref, atol=1e-12, rtol=0)
    g = torch.randn_like(ref)
    (ref_x,) = torch.autograd.grad(ref, x, g, retain_graph=True)
    ref_w, ref_b = torch.autograd.grad(ref, (linear.weight, linear.bias), g)
    comp_x, comp_w, comp_b = torch.autograd.grad(comp, (x, conv.weight, conv.bias), g)
    torch.testing.assert_close(comp_x, ref_x, atol=1e-12, rtol=0)
    torch.testing.assert_close(comp_w.flatten(1), ref_w, atol=1e-12, rtol=0)
    torch.testing.assert_close(comp_b, ref_b, atol=1e-12, rtol=0)


def test_frozen_parameters_and_inputs_get_no_gradient():
    layer = AnalogLinear(5, 3, profile=NOISY)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 5)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 4.0))
    layer.bias.requires_grad_(False)
    assert not layer(x).requires_grad


def test_second_derivatives_are_refused():
    layer = AnalogLinear(5, 3, profile=COARSE)
    x = torch.randn(4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|differentiate twice"):
        grad.sum().backward()


def test_training_moves_the_digital_weights():
    """100 steps on one batch under 4-bit converters and noise: the loss falls to less than a tenth."""
    layer = AnalogLinear(8, 2, profile=NOISY.varied(noise={"output": 0.01}, adc={"full_scale": 4.0}))
    x = torch.randn(32, 8).clamp(-1.5, 1.5)
    y = x[:, :2] - x[:, 2:4]
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(100):
        loss = F.mse_loss(layer(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert math.isfinite(losses[-1])
