"""Networks as others build them: converted, run, trained, saved, copied, compiled, and turned back."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from analogsim import HardwareProfile, analog_layers, calibrate, convert, set_seed, to_digital
from analogsim.errors import CalibrationError
from analogsim.kernels import choose

HARDWARE = HardwareProfile(
    tile={"rows": 256},
    dac={"bits": 8, "input_range": "calibrated"},
    noise={"output": 0.02},
    adc={"bits": 8, "full_scale": "calibrated"},
)
IDEAL = HardwareProfile(tile={"rows": 256})


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32 * 6, 10))


NETWORKS = {
    # name: (constructor, input's shape, matrices on crossbars)
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64), 21),
    "vgg11": (lambda: torchvision.models.vgg11(num_classes=10), (3, 32, 32), 11),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), (3, 64, 64), 54),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(image_size=32, num_classes=10), (3, 32, 32), 1 + 12 * 6 + 1),
    "TransformerEncoder": (encoder, (6, 32), 2 * 6 + 1),
}


LARGE = ("vgg11", "vit_b_16")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS])
def case(request):
    build, shape, matrices = NETWORKS[request.param]
    torch.manual_seed(0)
    model = build().eval()
    if request.param == "vit_b_16":
        nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision's is zero: nothing to calibrate on
    return model, torch.randn(4, *shape), matrices


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_a_whole_life(case):
    model, x, matrices = case
    analog = convert(model, HARDWARE)
    assert len(list(analog_layers(analog))) == matrices
    with torch.no_grad():
        expected = model(x)
        # Without calibration: said so; and an ideal crossbar is the digital network, by way of tiles too.
        with pytest.raises(CalibrationError, match="was never set; run calibrate"):
            analog(x)
        torch.testing.assert_close(convert(model, IDEAL)(x), expected)

        report = calibrate(analog, [x], progress=False)
        assert len(report) == matrices
        set_seed(analog, 1)
        noisy = analog(x)
        error = (noisy - expected).std() / expected.std()
        assert 0 < error < 0.6

        # Saved and loaded: ranges and all.
        other = convert(model, HARDWARE)
        other.load_state_dict(analog.state_dict())
        set_seed(other, 1)
        assert torch.equal(other(x), noisy)
        copied = copy.deepcopy(analog)
        set_seed(copied, 1)
        assert torch.equal(copied(x), noisy)

        # torch.compile traces what is digital and calls the crossbars.
        torch.compiler.reset()
        set_seed(copied, 1)
        compiled = torch.compile(copied, backend="eager")(x)
        torch.testing.assert_close(compiled, noisy)
        with torch.autocast("cpu", torch.bfloat16):
            half = analog(x)
        assert half.isfinite().all()
        assert (half - expected).std() / expected.std() < 0.7

        digital = to_digital(analog)
        assert not list(analog_layers(digital))
        assert torch.equal(digital(x), expected)
        assert digital.state_dict().keys() == model.state_dict().keys()

    analog(x).square().sum().backward()
    for name, parameter in analog.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert choose(x).name == "numba"
