"""What a verb adds to a network, or puts in a layer's place, has the mode, device, type and hooks of what was there."""

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.nn.known import kinds

PCM = an.HardwareProfile.load("pcm").varied(dac={"input_range": 4.0}, adc={"full_scale": 8.0})


def layer(kind):
    return kind(4, 4, 1) if "Conv" in kind.__name__ else kind(4, 4)


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("kind", kinds())
def test_crossbars_have_their_layers_mode(kind, inner, outer):
    net = nn.Sequential(layer(kind), nn.ReLU(), nn.Linear(4, 4)).train(outer)
    net[0].train(inner)
    analog = an.convert(net, PCM)
    assert {training for name, training in modes(analog).items() if name.startswith("0")} == {inner}
    assert analog.training == analog[2].training == outer
    assert modes(an.to_digital(analog)) == modes(net)


@pytest.mark.parametrize("kind", kinds())
def test_crossbars_are_on_their_layers_device(kind):
    net = nn.Sequential(layer(kind).to("meta"), nn.Linear(4, 4))
    analog = an.convert(net, PCM)
    assert {buffer.device.type for buffer in analog[0].buffers()} == {"meta"}
    assert {buffer.device.type for buffer in analog[1].buffers()} == {"cpu"}


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.LSTM(4, 3), (2, 1, 4)),
        (lambda: nn.GRU(4, 3), (2, 1, 4)),
        (lambda: nn.RNN(4, 3), (2, 1, 4)),
        (lambda: nn.LSTMCell(4, 3), (1, 4)),
        (lambda: nn.MultiheadAttention(4, 2), (2, 1, 4)),
        (lambda: nn.Linear(4, 3), (2, 4)),
    ],
)
def test_a_network_in_evaluation_is_read_on_its_chip(build, shape):
    """A year changes what it gives, a call does not draw another chip; crossbars in training mode ignored both."""
    model = an.convert(build().eval(), PCM.varied(noise={"output": 0.0, "read": 0.0}, flicker={"amplitude": 0.0}))
    an.program(model, 1)
    inputs = [torch.randn(shape)] * (3 if isinstance(model, nn.MultiheadAttention) else 1)

    def read(seconds):
        an.at_time(model, seconds)
        out = model(*inputs)
        return out if isinstance(out, torch.Tensor) else out[0]

    with torch.no_grad():
        first = read(0.0)
        assert torch.equal(read(0.0), first)
        assert not torch.equal(read(3e7), first)


# --- quantizers ------------------------------------------------------------------------------------------------------


def quantized(net, **spec):
    return an.prepare_qat(net, an.QATSpec(scaling="constant", s=0.1, **spec))


@pytest.mark.parametrize("training", [True, False])
def test_quantizers_have_their_layers_mode_device_and_type(training):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).train(not training)
    net[2:].train(training)
    net[2].double()
    made = an.prepare_qat(net, an.QATSpec(input_bits=8))
    frozen = an.freeze_quantization(quantized(net, input_bits=None))
    for one in (made, frozen):
        for part, mode in zip(one, (not training, not training, training, training)):
            # Brevitas' quantizers share one clamp, which knows no modes.
            assert {m.training for m in part.modules() if type(m).__name__ != "TensorClamp"} == {mode}
    for part, dtype in zip(made, (torch.float32, torch.float32, torch.float64, torch.float64)):
        assert {p.dtype for p in part.parameters()} <= {dtype}
    split = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    devices = [{p.device.type for p in part.parameters()} for part in an.prepare_qat(split)]
    assert devices == [{"meta"}, {"meta"}, {"cpu"}, {"cpu"}]


def test_frozen_quantizers_have_the_hooks_of_those_before():
    seen = []
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    made = an.prepare_qat(net, an.QATSpec(scaling="constant", s=0.1))
    made[1].quant.register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    handle = made[1].quant.register_forward_pre_hook(lambda module, args: seen.append("before"))
    an.freeze_quantization(made, inplace=True)
    made(torch.randn(2, 4))
    assert seen == ["before", "FixedQuantizer"]
    handle.remove()
    seen.clear()
    made(torch.randn(2, 4))
    assert seen == ["FixedQuantizer"]


def test_frozen_weights_stay_frozen():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.requires_grad_(False)
    for made in (quantized(net), an.freeze_quantization(quantized(net)), an.convert(net, PCM)):
        assert [p.requires_grad for p in made.parameters()] == [False, True, True, True]
