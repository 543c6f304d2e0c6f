"""Quantization-aware training: the quantizers against float64 formulas, and what survives the transforms."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from analogsim.convert import convert
from analogsim.errors import CalibrationError, ConversionError, QuantizationError
from analogsim.noise import NoiseSpec, inject_noise, noise_sites, remove_noise
from analogsim.profile import HardwareProfile
from analogsim.qat import (
    FixedQuantizer,
    QATSpec,
    QuantActivation,
    QuantReLU,
    freeze_quantization,
    prepare_qat,
    quantized_weight,
)

BITS = st.integers(2, 16)
FACTOR = st.floats(1e-3, 600.0)
DYNAMIC = [QATSpec(collect_steps=3), QATSpec(act_dynamic="statistics"), QATSpec(collect_steps=3, input_bits=6)]
EVERY = [QATSpec(scaling="constant", s=0.02, weight_bits=4), QATSpec(weight_bits=None, collect_steps=2), *DYNAMIC]


def quantize(x, step, low, high):
    """Round to the nearest multiple of the step (halves to even), in float64, inside the range."""
    return np.clip(np.round(np.asarray(x, np.float64) / step), low, high) * step


def same_but_for_ties(ours, expected, x, step):
    """Equal to float32 rounding, and one step apart only where x is so near the middle of two levels that float32
    rounding of x/step, at most 2^-23 of it and of the step itself, decides.
    """
    ours, x = ours.detach().double().numpy(), np.asarray(x, np.float64)
    position = np.abs(x) / step
    near_tie = np.abs(position % 1 - 0.5) <= 4 * 2.0**-23 * np.maximum(position, 1)
    exact = np.isclose(ours, expected, rtol=1e-6, atol=1e-12)
    one_off = np.isclose(np.abs(ours - expected), step, rtol=1e-2)
    return np.all(exact | (near_tie & one_off))


def quant_relu(**spec):
    return prepare_qat(nn.Sequential(nn.ReLU()), QATSpec(**spec))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 2, 8, 8, generator=generator) for _ in range(count)]


def train(model, optimizer, data):
    losses = []
    for x in data:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(spec, steps=5):
    model = prepare_qat(network(), spec)
    train(model, torch.optim.Adam(model.parameters(), 1e-2), batches(steps))
    return model


class TestConstantScaling:
    @given(bits=BITS, s=FACTOR, seed=st.integers(0, 2**31))
    def test_it_is_the_formula(self, bits, s, seed):
        top = 2.0**bits * s
        x = np.random.default_rng(seed).uniform(-0.2, 1.2, 500).astype(np.float32) * np.float32(top)
        ours = quant_relu(act_bits=bits, scaling="constant", s=s)(torch.from_numpy(x))
        step = top / (2**bits - 1)
        assert same_but_for_ties(ours, quantize(x, step, 0, 2**bits - 1), x, step)

    @given(bits=st.integers(2, 10), s=FACTOR)
    def test_two_to_the_b_levels_from_0_to_the_range(self, bits, s):
        top = 2.0**bits * s
        levels = quant_relu(act_bits=bits, scaling="constant", s=s)(torch.linspace(-top, 2 * top, 12 * 2**bits))
        levels = levels.unique()
        assert len(levels) == 2**bits
        assert levels[0] == 0
        assert levels[-1].item() == pytest.approx(top, rel=1e-6)
        assert QATSpec(act_bits=bits, scaling="constant", s=s).act_step == pytest.approx(levels[1].item(), rel=1e-6)

    def test_the_step_of_the_groups_scripts(self):
        # 8 bits, s = 0.5: the range is 128, the step 128/255.
        assert QATSpec(scaling="constant", s=0.5).act_step == 128 / 255
        assert QATSpec().act_step is None
        fifteen = QATSpec(act_bits=4, scaling="constant", s=0.5, span=15)
        assert (fifteen.act_range, fifteen.act_step) == (7.5, 0.5)
        assert (
            QATSpec(scaling="constant", s=2.0, overrides={"fc": {"scaling": "dynamic"}}, span=9).layer("fc").span
            is None
        )

    @given(bits=BITS, s=FACTOR, seed=st.integers(0, 2**31))
    def test_idempotent_monotone_and_within_half_a_step(self, bits, s, seed):
        spec = QATSpec(act_bits=bits, scaling="constant", s=s)
        relu = quant_relu(act_bits=bits, scaling="constant", s=s)
        x = torch.rand(300, generator=torch.Generator().manual_seed(seed)).sort().values * 2**bits * s
        y = relu(x)
        assert torch.equal(relu(y), y)
        assert (y.diff() >= 0).all()
        assert ((y - x).abs() <= spec.act_step * (0.5 + 2.0**bits * 2**-22)).all()

    def test_gradient_is_straight_through_inside_the_range_and_0_where_it_clips(self):
        x = torch.tensor([-1.0, 0.01, 0.3, 0.74, 15.0, 16.1, 100.0], requires_grad=True)
        quant_relu(act_bits=4, scaling="constant", s=1.0)(x).sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]
        # 16.1 rounds to the top level, which is inside; the next half step is clipped.


class TestWeights:
    @pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
    @pytest.mark.parametrize("scaling", ["channel", "tensor"])
    def test_they_are_the_formula(self, bits, scaling):
        spec = QATSpec(weight_bits=bits, weight_scaling=scaling, head_weight_scaling=scaling)
        model = prepare_qat(network(), spec)
        for layer in (model[0], model[4], model[6]):
            w = layer.weight.detach().double().numpy()
            axes = tuple(range(1, w.ndim)) if scaling == "channel" else None
            step = np.abs(w).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
            ours = quantized_weight(layer)
            assert type(ours) is torch.Tensor
            assert same_but_for_ties(ours, quantize(w, step, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1), w, step)
            assert all(len(row.unique()) <= 2**bits - 1 for row in ours)

    def test_the_layer_computes_with_them(self):
        model = prepare_qat(network(), QATSpec(weight_bits=3, scaling="constant", s=1))
        x = batches(1)[0]
        assert torch.equal(model[0](x), nn.functional.conv2d(x, quantized_weight(model[0]), model[0].bias))

    def test_one_scale_a_channel_but_the_head(self):
        model = prepare_qat(network(), QATSpec(scaling="constant", s=1))
        sizes = [model[i].weight_quant.scale().numel() for i in (0, 4, 6)]
        assert sizes == [4, 12, 1]

    def test_gradients_reach_the_float_weights(self):
        # W_q = W in backward: every weight's gradient is that of the quantized one, but the largest of a channel, which
        # is also the scale's.
        model = prepare_qat(nn.Sequential(nn.Linear(5, 3)), QATSpec(weight_bits=3, head_weight_scaling="channel"))
        x = torch.randn(4, 5)
        model(x).sum().backward()
        others = model[0].weight.abs() < model[0].weight.abs().amax(1, keepdim=True)
        assert torch.allclose(model[0].weight.grad[others], x.sum(0).expand(3, 5)[others], atol=1e-6)


class TestDynamicScaling:
    def test_learned_range_is_collected_then_trained(self):
        relu = quant_relu(collect_steps=2)
        x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        relu(x)
        relu(3 * x)
        # The percentile 99.999 of 1000 numbers is their maximum; the running mean has momentum 0.1.
        expected = (0.9 + 0.1 * 3) * x.max()
        assert relu(x).max().item() == pytest.approx(min(expected, x.max().item()), rel=0.01)
        assert relu[0].quant.act_quant.scale().item() == pytest.approx(expected.item() / 255, rel=1e-5)
        (parameter,) = relu.parameters()
        relu(10 * x).sum().backward()
        assert parameter.grad.item() > 0

    def test_statistics_follow_each_training_batch(self):
        relu = quant_relu(act_dynamic="statistics")
        x = torch.rand(1000)
        for factor in (1, 3, 0.5):
            assert relu(factor * x).max().item() == pytest.approx(factor * x.max().item(), rel=1e-5)
        assert not list(relu.parameters())
        expected = (((0.9 + 0.1 * 3) * 0.9) + 0.1 * 0.5) * x.max().item()
        assert relu.eval()[0].quant.act_quant.scale().item() == pytest.approx(expected / 255, rel=1e-5)

    @pytest.mark.parametrize("spec", DYNAMIC)
    def test_evaluating_before_there_is_a_range_is_refused(self, spec):
        model = prepare_qat(network(), spec).eval()
        with pytest.raises(CalibrationError, match="no value yet"):
            model(batches(1)[0])
        with pytest.raises(CalibrationError):
            freeze_quantization(model)
        model.train()
        with torch.no_grad():
            model(batches(1)[0])
        assert model.eval()(batches(1)[0]).isfinite().all()


class TestPrepare:
    def test_a_float_networks_weights_carry_over(self):
        plain = network()
        before, state = copy.deepcopy(plain.state_dict()), torch.get_rng_state()
        model = prepare_qat(plain, QATSpec(scaling="constant", s=0.1))
        assert torch.equal(torch.get_rng_state(), state)
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
        assert [type(m) for m in plain] == [type(m) for m in network()]
        assert isinstance(model[0], nn.Conv2d)
        assert isinstance(model[4], nn.Linear)
        assert isinstance(model[1], nn.ReLU)

    def test_16_bits_are_almost_the_float_network(self):
        plain, x = network(), batches(1)[0]
        model = prepare_qat(plain, QATSpec(weight_bits=16, act_bits=16, scaling="constant", s=1e-4))
        assert torch.allclose(model(x), plain(x), atol=1e-3)
        assert not torch.equal(model(x), plain(x))

    def test_what_is_kept(self):
        plain = network()
        plain[0].weight.requires_grad_(False)
        plain[5] = plain[1]
        plain.add_module("tied", nn.Linear(12, 3))
        plain.tied.weight = plain[6].weight
        plain.eval()
        calls = []
        handle = plain[0].register_forward_hook(lambda module, args, output: calls.append(type(output)))
        model = prepare_qat(plain, QATSpec(scaling="constant", s=1), inplace=True)
        assert model is plain
        assert not any(module.training for module in model.modules())
        assert not model[0].weight.requires_grad
        assert model[5] is model[1]
        assert model.tied.weight is model[6].weight
        model[0](batches(1)[0])
        assert calls == [torch.Tensor]
        handle.remove()
        model[0](batches(1)[0])
        assert len(calls) == 1

    def test_every_output_is_a_plain_tensor(self):
        model = prepare_qat(network(), QATSpec(input_bits=8))
        kinds = set()
        for module in model:
            module.register_forward_hook(lambda module, args, output: kinds.add(type(output)))
        model(batches(1)[0])
        assert kinds == {torch.Tensor}

    def test_double_precision(self):
        model = prepare_qat(network().double(), QATSpec(input_bits=8))
        assert model(batches(1)[0].double()).dtype == torch.float64
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}

    @pytest.mark.parametrize("spec", EVERY)
    def test_quantizers_are_made_on_the_networks_device(self, spec):
        model = prepare_qat(network().to("meta"), spec)
        assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])

    def test_overrides_by_name_and_pattern(self):
        model = nn.ModuleDict({"body": network(), "top": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})
        spec = QATSpec(
            scaling="constant",
            s=1,
            overrides={
                "body": {"weight_bits": 3, "act_bits": 4},
                "body.5": {"s": 0.25},
                "*.0": {"weight_bits": 5},
                "top": {"scaling": "dynamic", "weight_scaling": "channel"},
            },
            exclude=("body.6",),
        )
        model = prepare_qat(model, spec)
        layers = [model["body"][0], model["body"][4], model["top"][0]]
        assert [int(m.weight_quant.bit_width()) for m in layers] == [5, 3, 5]
        assert type(model["body"][6]) is nn.Linear
        assert model["top"][0].weight_quant.scale().numel() == 3
        assert model["body"][1](torch.tensor([1e9])).item() == 16
        assert model["body"][5](torch.tensor([1e9])).item() == 4
        assert len(list(model["top"][1].parameters())) == 1

    def test_none_leaves_floating_point(self):
        weights = prepare_qat(network(), QATSpec(act_bits=None))
        assert type(weights[1]) is nn.ReLU
        acts = prepare_qat(network(), QATSpec(weight_bits=None, overrides={"5": {"act_bits": None}}))
        assert type(acts[0]) is nn.Conv2d
        assert type(acts[5]) is nn.ReLU
        assert isinstance(acts[1], QuantReLU)

    def test_input_is_quantized_by_the_first_layer(self):
        model = prepare_qat(network(), QATSpec(weight_bits=None, act_bits=None, input_bits=4, collect_steps=1))
        x = batches(1)[0]
        model(x)
        # Brevitas' signed activations: 2^b levels, of which the lowest is minus the range.
        q = quantize(x.numpy(), x.abs().max().item() / 8, -8, 7)
        plain = network().double()
        assert torch.allclose(model(x).double(), plain(torch.from_numpy(q)), atol=1e-4)

    @pytest.mark.parametrize(
        ("model", "spec", "message"),
        [
            (nn.Sequential(nn.Softmax(-1)), QATSpec(), "nothing to quantize"),
            (network(), QATSpec(weight_bits=None, act_bits=None), "nothing to quantize"),
            (network(), QATSpec(exclude=("fc",)), "no module is called 'fc'; there are 0, 1"),
            (network(), QATSpec(overrides={"9": {"act_bits": 4}}), "no module is called '9'"),
            (prepare_qat(network()), QATSpec(), "0: QuantConv2d is quantized already"),
            (nn.Sequential(nn.LazyLinear(3)), QATSpec(), "0: LazyLinear has no weights yet"),
            (nn.Sequential(nn.MultiheadAttention(4, 2)), QATSpec(), "0.out_proj: .* is a subclass of a torch layer"),
        ],
    )
    def test_refused_models(self, model, spec, message):
        with pytest.raises(ConversionError, match=message):
            prepare_qat(model, spec)

    def test_crossbars_come_last(self):
        with pytest.raises(ConversionError, match="0: AnalogConv2d .*prepare_qat, freeze_quantization, then convert"):
            prepare_qat(convert(network(), HardwareProfile()))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"weight_bits": 1}, "weight_bits: .*greater than or equal to 2"),
            ({"act_bits": 17}, "act_bits: .*less than or equal to 16"),
            ({"scaling": "constant"}, "needs the factor s"),
            ({"s": 1.0}, "s belongs to constant scaling"),
            ({"span": 15}, "span belongs to constant scaling"),
            ({"scaling": "constant", "s": 1.0, "span": 0}, "span: Input should be greater than 0"),
            ({"scaling": "constant", "s": 0}, "s: .*greater than 0"),
            ({"scaling": "constant", "s": float("nan")}, "s: .*finite"),
            ({"bits": 8}, "bits: unknown key"),
            ({"overrides": {"fc": {"bits": 8}}}, "overrides.'fc'.: bits: a layer may change"),
            ({"overrides": {"fc": {"weight_bits": 0}}}, "weight_bits"),
            ({"overrides": {"fc": {"s": 2.0}}}, "s belongs to constant scaling"),
        ],
    )
    def test_impossible_specs(self, values, message):
        with pytest.raises(QuantizationError, match=message):
            QATSpec(**values)

    def test_a_spec_survives_a_round_trip(self):
        spec = QATSpec(scaling="constant", s=0.5, overrides={"a": {"weight_bits": None}, "b": {"s": 2.0}})
        assert QATSpec(**spec.model_dump()) == spec
        assert QATSpec.model_validate_json(spec.model_dump_json()) == spec


class TestState:
    @pytest.mark.parametrize("stop", [0, 2, 3, 4, 6])
    @pytest.mark.parametrize("spec", EVERY)
    def test_a_resumed_training_equals_an_unbroken_one(self, tmp_path, spec, stop):
        # Broken before, while, just when and after the ranges have been collected.
        data = batches(8)
        unbroken = prepare_qat(network(), spec)
        losses = train(unbroken, torch.optim.Adam(unbroken.parameters(), 1e-2), data)
        first = prepare_qat(network(), spec)
        optimizer = torch.optim.Adam(first.parameters(), 1e-2)
        train(first, optimizer, data[:stop])
        save_file(first.state_dict(), tmp_path / "model.safetensors")

        second = prepare_qat(network(seed=7), spec)
        resumed = torch.optim.Adam(second.parameters(), 1e-2)
        second.load_state_dict(load_file(tmp_path / "model.safetensors"))
        resumed.load_state_dict(optimizer.state_dict())
        assert train(second, resumed, data[stop:]) == losses[stop:]
        assert all(torch.equal(second.state_dict()[key], value) for key, value in unbroken.state_dict().items())
        x = data[0]
        assert torch.equal(second.eval()(x), unbroken.eval()(x))

    @pytest.mark.parametrize("spec", EVERY)
    def test_loading_keeps_the_parameters_an_optimizer_holds(self, spec):
        model = trained(spec)
        held = [id(parameter) for parameter in model.parameters()]
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        assert [id(parameter) for parameter in model.parameters()] == held

    @pytest.mark.parametrize("spec", EVERY)
    def test_copies_are_independent(self, spec):
        model = trained(spec).eval()
        x = batches(1)[0]
        expected = model(x)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), expected)
        train(twin.train(), torch.optim.Adam(twin.parameters(), 0.1), batches(3))
        assert torch.equal(model(x), expected)
        assert not torch.equal(twin.eval()(x), expected)

    @pytest.mark.parametrize("spec", EVERY)
    def test_evaluation_changes_nothing(self, spec):
        model = trained(spec).eval()
        before = copy.deepcopy(model.state_dict())
        model(100 * batches(1)[0])
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


class TestFreeze:
    @pytest.mark.parametrize("spec", EVERY)
    def test_it_computes_the_same_without_brevitas(self, spec):
        model = trained(spec).eval()
        x = batches(1)[0]
        frozen = freeze_quantization(model)
        assert torch.equal(frozen(x), model(x))
        with torch.no_grad():
            assert torch.equal(frozen(x), model(x))
        assert not any(type(module).__module__.startswith("brevitas") for module in frozen.modules())
        plain = network()
        for i in (0, 4, 6):
            assert type(frozen[i]) is type(plain[i])
            assert set(vars(frozen[i])) == set(vars(plain[i]))
        if spec.input_bits is None:
            assert set(frozen[0]._modules) == set()
        assert torch.equal(copy.deepcopy(frozen)(x), model(x))
        assert quantized_weight(model[0]).equal(frozen[0].weight)

    @pytest.mark.parametrize("spec", EVERY)
    def test_crossbars_are_programmed_with_the_quantized_weights(self, spec):
        model = trained(spec).eval()
        x = batches(1)[0]
        analog = convert(freeze_quantization(model), HardwareProfile())
        assert torch.equal(analog(x), model(x))
        assert torch.equal(analog[0].weight, quantized_weight(model[0]))
        # As many weight bits as were trained with change nothing but float rounding.
        bits = HardwareProfile(weight={"bits": spec.weight_bits or 16, "w_max": "column"})
        ours = convert(freeze_quantization(model), bits)[0](x)
        if spec.weight_bits:
            assert torch.allclose(ours, freeze_quantization(model)[0](x), atol=1e-5)

    def test_tied_weights_stay_tied(self):
        plain = network()
        plain.add_module("tied", nn.Linear(12, 3))
        plain.tied.weight = plain[6].weight
        spec = QATSpec(scaling="constant", s=1, head_weight_scaling="channel")
        frozen = freeze_quantization(prepare_qat(plain, spec))
        assert frozen.tied.weight is frozen[6].weight

    def test_gradient_of_the_fixed_quantizer(self):
        quantizer = FixedQuantizer(torch.tensor(0.5), 0, 15)
        x = torch.tensor([-1.0, 0.3, 7.4, 9.0], requires_grad=True)
        y = quantizer(x)
        assert y.tolist() == [0, 0.5, 7.5, 7.5]
        y.sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 0]
        assert "levels=0..15, step=0.5" in repr(quantizer)

    def test_a_plain_network_is_refused(self):
        with pytest.raises(ConversionError, match="no layer is quantized"):
            freeze_quantization(network())


class TestNoise:
    """Noise is a forward hook that adds to a module's output; here a constant, so that the order shows."""

    @staticmethod
    def disturb(model):
        for module in model.modules():
            if isinstance(module, nn.ReLU | nn.Conv2d):
                module.register_forward_hook(lambda module, args, output: output + 0.3)
        return model

    SPEC = {"act_bits": 4, "scaling": "constant", "s": 0.5}

    def test_noise_at_a_relu_is_quantized_with_the_activation(self):
        relu = self.disturb(quant_relu(**self.SPEC))
        x = torch.tensor([-1.0, 0.0, 0.1, 1.0, 100.0])
        step = 8 / 15
        expected = quantize(x.relu().numpy() + 0.3, step, 0, 15)
        assert np.allclose(relu(x).numpy(), expected)
        assert len(torch.tensor(expected).unique()) == 3

    def test_or_added_to_the_quantized_one(self):
        relu = self.disturb(quant_relu(relu_noise="after", **self.SPEC))
        x = torch.tensor([-1.0, 0.0, 0.1, 1.0, 100.0])
        assert np.allclose(relu(x).numpy(), quantize(x.relu().numpy(), 8 / 15, 0, 15) + 0.3)

    @pytest.mark.parametrize("order", ["before", "after"])
    def test_the_order_of_the_transforms_does_not_matter(self, order):
        spec, x = QATSpec(relu_noise=order, **self.SPEC), batches(1)[0]
        one = self.disturb(prepare_qat(network(), spec))
        other = prepare_qat(self.disturb(network()), spec)
        assert torch.equal(one(x), other(x))
        assert not torch.equal(one(x), prepare_qat(network(), spec)(x))
        assert torch.equal(freeze_quantization(other).eval()(x), one(x))

    def test_with_inject_noise(self):
        spec, x = QATSpec(**self.SPEC), batches(1)[0]
        level = NoiseSpec(sigma=0.2, layers={"1": 0.4})
        one = inject_noise(prepare_qat(network(), spec), level)
        other = prepare_qat(inject_noise(network(), level), spec)
        names = list(noise_sites(inject_noise(network(), level)))
        results = []
        for model in (one, other, freeze_quantization(one), freeze_quantization(other)):
            assert list(noise_sites(model)) == names
            torch.manual_seed(3)
            results.append(model(x))
        assert all(torch.equal(result, results[0]) for result in results)
        levels = one[1](x) / (8 / 15)
        assert torch.allclose(levels, levels.round(), atol=1e-5)
        remove_noise(one)
        assert torch.equal(one(x), prepare_qat(network(), spec)(x))

    @pytest.mark.parametrize("inject_first", [True, False])
    def test_noise_on_weights_is_quantized_with_them(self, inject_first):
        level = NoiseSpec(sigma=0.3, target="weights")
        spec = QATSpec(weight_bits=4, head_weight_scaling="channel")
        layer = nn.Linear(9, 5)
        layer = (
            prepare_qat(inject_noise(layer, level), spec)
            if inject_first
            else inject_noise(prepare_qat(layer, spec), level)
        )

        def stands_on_levels(layer):
            response = (layer(torch.eye(9)) - layer.bias).T
            levels = response / response.abs().amax(1, keepdim=True) * 7
            return torch.allclose(levels, levels.round(), atol=1e-4)

        assert stands_on_levels(layer)
        # Noise on memory cells comes after their weights were quantized: freeze, then it is on the quantized weight.
        assert not stands_on_levels(freeze_quantization(layer))
        remove_noise(layer)
        assert stands_on_levels(freeze_quantization(layer))


def accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def test_it_trains_on_digits():
    """Dynamic and small constant scaling reach the float network's accuracy; a step larger than every activation does
    not train at all (design section 7: networks collapse where s is too large).
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    found = {}
    for name, spec in {
        "float": None,
        "dynamic": QATSpec(weight_bits=4, act_bits=4, collect_steps=20),
        "constant": QATSpec(scaling="constant", s=0.1),
        "coarse": QATSpec(scaling="constant", s=64),
    }.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        if spec is not None:
            model = prepare_qat(model, spec)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(15):
            for batch in torch.randperm(1300).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        found[name] = accuracy(model, x[1300:], y[1300:])
    assert found["float"] > 0.88
    assert found["dynamic"] > found["float"] - 0.04
    assert found["constant"] > found["float"] - 0.04
    assert found["coarse"] < 0.2


class TestOtherActivations:
    KINDS = (nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.PReLU)

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_they_give_is_quantized(self, kind):
        x = torch.linspace(-3, 3, 501)
        model = prepare_qat(nn.Sequential(kind()), QATSpec(act_bits=5, scaling="constant", s=0.25))
        expected = kind()(x).detach()
        if kind in (nn.ReLU6, nn.Sigmoid):
            step, low, high = 8 / 31, 0, 31
        else:
            step, low, high = 8 / 16, -16, 15
        assert same_but_for_ties(model(x), quantize(expected, step, low, high), expected, step)
        assert isinstance(model[0], kind)
        frozen = freeze_quantization(model)
        assert isinstance(frozen[0].quant, FixedQuantizer)
        assert torch.equal(frozen(x), model(x))
        assert torch.equal(pickle.loads(pickle.dumps(frozen))(x), model(x))

    def test_those_of_transformers_and_timm_are_activations(self):
        others = pytest.importorskip("transformers.activations")
        timm = pytest.importorskip("timm.layers.activations")
        model = nn.Sequential(nn.Linear(4, 4), others.NewGELUActivation(), timm.Swish(), others.LinearActivation())
        made = prepare_qat(model, QATSpec(scaling="constant", s=0.1))
        assert [isinstance(module, QuantActivation) for module in made] == [False, True, True, False]
        assert list(noise_sites(inject_noise(made, NoiseSpec(sigma=1.0)))) == ["input", "0", "1", "2"]


class TestPickles:
    @pytest.mark.parametrize("spec", EVERY)
    @pytest.mark.parametrize("steps", [0, 1, 5])
    def test_a_pickle_is_the_same_network(self, spec, steps):
        """Its tensors, what it gives, how it trains on, and its optimizer's hold on its parameters."""
        model = prepare_qat(network(), spec)
        train(model, torch.optim.SGD(model.parameters(), 1e-2), batches(steps))
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        again, held = pickle.loads(pickle.dumps((model, optimizer)))
        for one in (again, copy.deepcopy(model)):
            assert list(one.state_dict()) == list(model.state_dict())
            assert all(map(torch.equal, one.state_dict().values(), model.state_dict().values()))
            assert [type(m).__name__ for m in one.modules()] == [type(m).__name__ for m in model.modules()]
        assert all(a is b for a, b in zip(held.param_groups[0]["params"], again.parameters(), strict=True))
        assert train(model, optimizer, batches(4)) == train(again, held, batches(4))
        frozen, other = freeze_quantization(model).eval(), freeze_quantization(again).eval()
        assert torch.equal(frozen(batches(1)[0]), other(batches(1)[0]))
        assert [type(m) for m in other] == [type(m) for m in frozen]

    def test_hooks_sites_and_ties_are_in_it(self):
        net = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).double()
        net[2].weight = net[0].weight
        model = inject_noise(prepare_qat(net, QATSpec(scaling="constant", s=0.1)), NoiseSpec(sigma=1.0, seed=1)).eval()
        again = pickle.loads(pickle.dumps(model))
        assert again[2].weight is again[0].weight
        x = torch.randn(3, 4, dtype=torch.float64)
        assert torch.equal(again(x), model(x))
        assert list(noise_sites(again)) == list(noise_sites(model))
        assert not any(module.training for module in again.modules() if type(module).__name__ != "TensorClamp")
