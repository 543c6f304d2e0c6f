"""What users of torch do around a network: default dtypes, inference mode, fused encoders, pruning, token ids."""

import copy
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import analogsim as an
from analogsim.errors import AnalogSimWarning, BackendError, ConversionError

CALIBRATED = an.HardwareProfile(
    tile={"rows": 16}, dac={"bits": 6}, adc={"bits": 7, "full_scale": "calibrated"}, noise={"output": 0.05}
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network():
    """Small images, a depthwise convolution, and rows: every way that the CPU kernels have."""
    convolutions = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 16, 3, bias=False))


@pytest.mark.parametrize("preset", ["noisy", "pcm", "sonos", "sram"])
def test_torchs_defaults_change_nothing(preset):
    x, large, images = torch.randn(16, 1, 8, 8), torch.randn(2, 1, 40, 40), nn.Conv2d(1, 8, 3)

    def life():
        torch.manual_seed(1)
        results = []
        for model, inputs in ((copy.deepcopy(start), x), (copy.deepcopy(images), large)):
            model = an.inject_noise(an.convert(model, an.HardwareProfile.load(preset)), an.NoiseSpec(sigma=0.1))
            an.calibrate(model, [inputs], progress=False)
            an.program(model)
            model.eval()(inputs).square().sum().backward()
            results += [p.grad for p in model.parameters()]
        return results

    start, default = network(), torch.get_default_dtype()
    expected = life()
    try:
        torch.set_default_dtype(torch.float64)
        assert all(map(torch.equal, life(), expected))
        torch.set_default_dtype(default)
        with torch.device("meta"):
            assert all(map(torch.equal, life(), expected))
    finally:
        torch.set_default_dtype(default)


def test_what_is_made_in_inference_mode_can_be_trained_and_loaded():
    x = torch.randn(16, 1, 8, 8)
    with torch.inference_mode():
        model = an.convert(network(), CALIBRATED.varied(programming={"sigma": 0.02}))
        an.calibrate(model, [x], progress=False)
        an.program(model, 1)
        an.learn_ranges(model)
        model.eval()(x)
        quantized = an.prepare_qat(network(), an.QATSpec(scaling="constant", s=0.01))
        frozen = an.freeze_quantization(quantized)
    an.at_time(model, 10.0)
    model.load_state_dict(copy.deepcopy(model).state_dict())
    an.calibrate(model, [x], progress=False)
    for net in (model, quantized, frozen):
        net(x).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def encoder(activation):
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("padded", [False, True])
def test_fused_inference_does_not_pass_by_quantizers(padded):
    x, mask = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([[3], [5], [4]]) if padded else None
    constant = {"scaling": "constant", "s": 0.1, "act_bits": 3, "exclude": ("*.self_attn",)}
    for activation, bits in (("relu", 3), (nn.ReLU(), None)):
        plain = encoder(activation)
        quantized = an.prepare_qat(plain, an.QATSpec(weight_bits=bits, **constant))
        hardware = an.convert(an.freeze_quantization(quantized), an.HardwareProfile())
        for model in (quantized, an.freeze_quantization(quantized), hardware, an.to_digital(hardware)):
            slow = model(x, src_key_padding_mask=mask).detach()
            assert (slow - plain(x, src_key_padding_mask=mask)).abs().max() > 0.01
            with torch.no_grad():
                torch.testing.assert_close(model(x, src_key_padding_mask=mask), slow)
    again = an.to_digital(an.convert(plain, an.HardwareProfile()))
    assert again.use_nested_tensor is True


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("preset", ["noisy", "pcm"])
def test_checkpointing_repeats_the_noise(preset, reentrant):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.attention = nn.LSTM(8, 6, batch_first=True), nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            x = self.lstm(x)[0]
            return self.attention(x, x, x)[0]

    model, x = an.convert(Block(), an.HardwareProfile.load(preset)), torch.randn(4, 5, 8, requires_grad=True)
    an.calibrate(model, [x.detach()], progress=False)
    model = an.inject_noise(model, an.NoiseSpec(sigma=0.1, multiplicative=0.1, extra=("LSTM",))).train()
    gradients = []
    for forward in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        model.zero_grad()
        x.grad = None
        forward(x).square().sum().backward()
        gradients.append([x.grad.clone(), *(p.grad.clone() for p in model.parameters())])
    assert all(map(torch.equal, *gradients))


def test_networks_of_tokens():
    """Integers are no place for noise: the rest of the network has its sites."""
    model = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(40, 3))
    x, y = torch.randint(10, (64, 5)), torch.randint(3, (64,))
    assert torch.equal(an.inject_noise(model, an.NoiseSpec(layers={"input": 5.0}))(x), model(x))
    assert not torch.equal(an.inject_noise(model, an.NoiseSpec(sigma=1.0))(input=x), model(x))
    curve = an.noise_sweep(model, (x, model(x).argmax(1)), [1e-6, 100.0], progress=False)
    assert curve.accuracies.mean(1).tolist() == pytest.approx([1.0, 1 / 3], abs=0.2)
    analog = an.convert(model, CALIBRATED)
    an.calibrate(analog, (x, y), progress=False)
    assert 0 < an.noise_budget(analog, x, progress=False).equivalent_sigma < 1


def test_a_replaced_forward_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for layer in (model[0], model[1]):
        layer.forward = types.MethodType(type(layer).forward, layer)
    with pytest.raises(ConversionError, match="0: something has replaced its forward.*keep_digital"):
        an.convert(model, CALIBRATED)
    with pytest.raises(ConversionError, match="0: something has replaced its forward.*exclude"):
        an.prepare_qat(model)
    with pytest.raises(ConversionError, match="1: something has replaced its forward"):
        an.prepare_qat(model, an.QATSpec(exclude=("0",)))
    assert [name for name, _ in an.analog_layers(an.convert(model, CALIBRATED, keep_digital="0"))] == ["2"]
    # Noise on weights replaces it too, and knows of the crossbars.
    noisy = an.inject_noise(nn.Linear(4, 2), an.NoiseSpec(sigma=0.1, target="weights"))
    assert isinstance(an.convert(noisy, CALIBRATED), an.AnalogLinear)


def test_pruned_networks_say_what_to_do():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ConversionError, match=r"inplace=True.*prune\.remove"):
        an.convert(model, CALIBRATED)
    an.convert(model, CALIBRATED.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0}), inplace=True)
    model(torch.randn(3, 8)).sum().backward()
    assert model[0].weight_orig.grad.any()
    assert not model[0].weight_orig.grad[model[0].weight_mask == 0].any()


def test_a_layer_that_is_never_called_is_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aux = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return (self.body(x), self.aux(x)) if self.training else self.body(x)

    with pytest.warns(AnalogSimWarning, match=r"1 of 2 layers.*aux \(the network never called it\).*keep_digital"):
        an.calibrate(an.convert(Auxiliary(), CALIBRATED), torch.randn(3, 4), progress=False)
    an.calibrate(an.convert(Auxiliary(), CALIBRATED, keep_digital="aux"), torch.randn(3, 4), progress=False)


def test_a_digital_state_is_assigned_to_a_network_without_storage():
    x, state = torch.randn(16, 1, 8, 8), network().state_dict()
    with torch.device("meta"):
        model = network()
    model = an.convert(model, CALIBRATED)
    model.load_state_dict(state, assign=True)
    an.calibrate(model, [x], progress=False)
    expected = an.convert(network(), CALIBRATED)
    expected.load_state_dict(state)
    an.calibrate(expected, [x], progress=False)
    for net in (model, expected):
        an.set_seed(net, 1)
    assert torch.equal(model(x), expected(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_what_cannot_be_recorded_says_so():
    x, plain = torch.randn(2, 1, 8, 8), network().eval()
    noise = an.NoiseSpec(sigma=0.1), an.NoiseSpec(sigma=0.1, target="weights")
    hardware = CALIBRATED.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0}, noise={"output": 0.0})
    for model in (an.convert(plain, hardware), *(an.inject_noise(plain, spec) for spec in noise)):
        for record in (torch.jit.trace, lambda net, x: torch.export.export(net, (x,))):
            with pytest.raises(BackendError, match=r"cannot record.*to_digital"):
                record(model, x)
    for model in (an.convert(plain, an.HardwareProfile()), an.inject_noise(plain, an.NoiseSpec(sigma=1.0, eval=False))):
        assert torch.equal(torch.export.export(model, (x,)).module()(x), plain(x))


def test_empty_batches_of_transposed_convolutions():
    model = an.convert(
        nn.ConvTranspose2d(2, 4, 3), CALIBRATED.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0})
    )
    x = torch.zeros(0, 2, 8, 8, requires_grad=True)
    model(x).sum().backward()
    assert (model(x).shape, x.grad.shape) == ((0, 4, 10, 10), x.shape)


@pytest.mark.parametrize("hardware", [an.HardwareProfile(), CALIBRATED])
def test_what_is_traced_symbolically_says_so(hardware):
    """torch.fx goes through layers of others, unless its tracer takes them as they are, which is right here."""
    plain = network().eval()
    model = an.convert(plain, hardware.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0}, noise={"output": 0.0}))
    attention = an.convert(nn.MultiheadAttention(4, 2), model[0].profile)
    others = [
        nn.Sequential(an.convert(layer, model[0].profile)) for layer in (nn.ConvTranspose2d(1, 2, 2), nn.LSTM(4, 2))
    ]
    for net in (model, attention, *others[: 1 if hardware.is_ideal else 2]):
        with pytest.raises(BackendError, match="torch.fx traces symbols.*is_leaf_module"):
            torch.fx.symbolic_trace(net)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, an.AnalogLayer) or super().is_leaf_module(module, name)

    x = torch.randn(2, 1, 8, 8)
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.equal(traced(x), model(x))
    assert torch.equal(an.convert(torch.fx.symbolic_trace(plain), model[0].profile)(x), model(x))


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.jacrev, torch.func.functionalize])
def test_what_cannot_be_transformed_says_so(transform):
    model = an.convert(nn.Linear(4, 3), CALIBRATED.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0}))
    for net in (model, an.inject_noise(nn.Linear(4, 3), an.NoiseSpec(sigma=0.1))):
        with pytest.raises(BackendError, match=r"torch\.func .* cannot transform .*use a loop for vmap"):
            transform(net)(torch.randn(2, 4))


def test_a_gradient_has_no_gradient():
    """Straight-through gradients are none of a function; torch refuses to differentiate them."""
    model = an.convert(nn.Linear(4, 3), CALIBRATED.varied(dac={"input_range": 1.0}, adc={"full_scale": 4.0}))
    for net in (model, an.inject_noise(nn.Linear(4, 3), an.NoiseSpec(sigma=0.1))):
        x = torch.randn(2, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            grad.sum().backward()
