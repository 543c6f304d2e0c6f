"""What must not change an answer: scale, empty columns and channels, the order of outputs, how rows come, copies.

Where the law speaks of the same random numbers, the noise is on; elsewhere its statistics, or what is left without it.
"""

import pytest
import torch
from torch import nn

import analogsim as an

CONVERTERS = {"tile": {"rows": 6}, "dac": {"bits": 6, "input_range": 2.0}, "adc": {"bits": 7, "full_scale": 3.0}}
SLICED = {"weight": {"bits": 5}, "cells": {"bits": 2, "mapping": "differential"}}
LAWS = {"nu": 0.05, "nu_sigma": 0.01}

# Every non-ideality by itself, on top of converters (or, "no converters", without).
PARTS = {
    "no converters": {"dac": {"bits": None}, "adc": {"bits": None, "full_scale": None}, "noise": {"output": 0.3}},
    "converters": {},
    "output noise": {"noise": {"output": 0.3}},
    "read noise": {"noise": {"read": 0.2}},
    "multiplicative noise": {"noise": {"multiplicative": 0.4}},
    "uniform noise": {"noise": {"output": 0.3, "distribution": "uniform"}},
    "laplace noise": {"noise": {"output": 0.3, "distribution": "laplace"}},
    "wander": {"noise": {"wander": 0.3}},
    "programming": {"programming": {"sigma": 0.1}},
    "drift": {"drift": LAWS | {"compensation": "global"}, "programming": {"sigma": 0.1}},
    "flicker": {"flicker": {"amplitude": 0.2}, "cells": {"mapping": "differential", "g_min": 0.1}},
    "stuck cells": {"faults": {"stuck_on": 0.3, "stuck_off": 0.1}},
    "dead lines": {"faults": {"dead_rows": 0.2, "dead_columns": 0.2}},
    "wires": {"wires": {"row": 1e-3, "column": 1e-3}, "cells": {"mapping": "differential"}},
    "offset cells": {"cells": {"mapping": "offset", "g_min": 0.1}, "programming": {"sigma": 0.1}},
    "digital subtraction": {"cells": {"mapping": "differential", "subtraction": "digital"}, "noise": {"output": 0.2}},
    "slices": SLICED | {"noise": {"output": 0.2}, "programming": {"sigma": 0.1}},
    "steps": {"dac": {"step_bits": 2}, "noise": {"output": 0.2}},
    "ADC errors": {"adc": {"gain_error": 0.2, "offset_error": 0.2}},
    "unsigned ADC": {"adc": {"signed": False, "offset_error": 0.2}, "noise": {"output": 0.3}},
    "SAR": {"adc": {"kind": "sar", "capacitor_mismatch": 0.2}},
    "ramp": {"adc": {"kind": "ramp", "capacitor_mismatch": 0.2, "inl": 2.0}},
    "everything": SLICED
    | {
        "dac": {"step_bits": 3},
        "noise": {"output": 0.2, "read": 0.1, "multiplicative": 0.1, "distribution": "laplace", "wander": 0.1},
        "programming": {"sigma": 0.05},
        "drift": LAWS,
        "flicker": {"amplitude": 0.1},
        "faults": {"stuck_on": 0.1},
        "adc": {"kind": "sar", "capacitor_mismatch": 0.1, "gain_error": 0.1, "offset_error": 0.1},
    },
}
DRAWN_BY_READ = [name for name, part in PARTS.items() if "noise" in part or "flicker" in part]
RULES = ["column", "tensor", 1.5]
LAYERS = {
    "linear": (lambda: nn.Linear(10, 6), (7, 10)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (3, 4, 5)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (3, 4, 3, 3)),
    "lstm": (lambda: nn.LSTM(8, 5, bidirectional=True), (3, 2, 8)),
    "gru cell": (lambda: nn.GRUCell(8, 5), (4, 8)),
    "attention": (lambda: Attention(), (2, 3, 8)),
}


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        nn.init.normal_(self.attend.in_proj_bias)

    def forward(self, x):
        return self.attend(x, x, x)[0]


def hardware(part, rule="column", **changes):
    return an.HardwareProfile(**CONVERTERS).varied(**PARTS[part]).varied(weight={"w_max": rule}).varied(**changes)


def on_chip(model, profile, backend="auto", seed=3):
    """Convert, program and age a network; calls replay."""
    analog = an.convert(model, profile).eval()
    for _, layer in an.analog_layers(analog):
        layer.backend = backend
    if profile.is_drawn:
        an.program(analog, seed=1)
        an.at_time(analog, 3600.0)
    an.set_seed(analog, seed)
    return analog


@torch.no_grad()
def answer(model, x):
    an.set_seed(model, 3)
    out = model(x)
    return out[0] if isinstance(out, tuple) else out


def matrices(model):
    return [p for p in model.parameters() if p.ndim > 1]


# --- a column that holds nothing adds nothing ------------------------------------------------------------------------


FEW = ("output noise", "offset cells", "everything")  # what every kind of layer is tried on


@pytest.mark.parametrize(
    ("kind", "part"), [(kind, part) for kind in LAYERS for part in PARTS if kind == "linear" or part in FEW]
)
def test_a_matrix_of_zeros_gives_what_the_digital_layer_gives(kind, part):
    make, shape = LAYERS[kind]
    digital, x = make(), torch.randn(shape)
    with torch.no_grad():
        for matrix in matrices(digital):
            matrix.zero_()
    for rule in RULES:
        torch.testing.assert_close(
            answer(on_chip(digital, hardware(part, rule)), x), answer(digital, x), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("part", PARTS)
def test_an_empty_column_adds_nothing_and_its_neighbours_are_read(part, rule):
    others = [("conv1d", 0), ("conv2d, groups", 0), ("transposed", 1)] if part in FEW else []
    for kind, dim in [("linear", 0), *others]:
        make, shape = LAYERS[kind]
        digital, x = make(), torch.randn(shape)
        dead = [1] if dim else [1, 4]
        with torch.no_grad():
            digital.weight.mul_(3).index_fill_(dim, torch.tensor(dead), 0)
        analog = on_chip(digital, hardware(part, rule))
        if dim:
            dead = [1, 4]  # of each group
        out, exact = answer(analog, x), answer(digital, x)
        live = [n for n in range(6) if n not in dead]
        assert torch.equal(out[:, dead], exact[:, dead]), kind
        assert not torch.allclose(out[:, live], exact[:, live], rtol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_budgets_know_that_an_empty_column_adds_nothing(rule):
    """The sum over outputs of what is predicted is that of the live ones alone, and the simulation agrees."""
    torch.manual_seed(1)
    small = nn.Linear(10, 4, bias=False)
    wide = widened(small, 3)
    x = torch.randn(300, 10)
    for part in PARTS:
        if part in ("offset cells", "wires"):
            continue  # where a reference column is, and what a wire carries, depends on the neighbours
        found = []
        for digital in (small, wide):
            analog = on_chip(digital, hardware(part, rule, dac={"bits": 6}))
            (budget,) = an.noise_budget(analog, x, repeats=0, progress=False).layers
            plain = analog.profile.adc.is_plain and analog.profile.noise.is_plain
            # Of other converters they are sampled, 1,200 outputs 16 times: a mean square scatters by about 1 %.
            found.append({"total": budget.total, **(budget.stages if plain else {})})
        for name, value in found[0].items():
            expected = pytest.approx(value, abs=1e-7, rel=1e-4 if plain else 0.1)
            assert found[1][name] * 7 / 4 == expected, (part, name)


def widened(linear, count):
    """The same with so many more outputs, whose weights are 0."""
    wide = nn.Linear(linear.in_features, linear.out_features + count, bias=False, dtype=linear.weight.dtype)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([linear.weight, linear.weight.new_zeros(count, linear.in_features)]))
    return wide


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_column_can_be_filled(part):
    """Its weights get the digital layer's gradient for what the DAC gives: no conversion of an empty column counts."""
    harsh = {"full_scale": 0.2} if part not in ("no converters",) else {}
    profile = hardware(part, "column", adc=harsh)
    for kind in ("linear", "conv2d, groups", "transposed") if part in FEW else ("linear",):
        make, shape = LAYERS[kind]
        digital, x = make(), torch.randn(shape)
        with torch.no_grad():
            digital.weight.zero_()
        analog = on_chip(digital, profile)
        g = torch.randn_like(digital(x))
        analog(x.requires_grad_()).backward(g)
        converted = x.detach() if part == "no converters" else (x.detach() / 2).clamp(-1, 1).mul(31).round().div(31) * 2
        digital(converted).backward(g)
        torch.testing.assert_close(analog.weight.grad, digital.weight.grad, rtol=1e-4, atol=1e-5)
        assert not x.grad.any(), "nothing goes back through weights of 0"


def test_training_fills_an_empty_network():
    """LoRA's B and a head that begin at 0 learn on hardware whose ADCs know no sign and have offsets."""
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(digital[2].weight)
    profile = hardware("output noise", adc={"signed": False, "full_scale": 20.0, "offset_error": 0.01, "bits": 10})
    analog = on_chip(digital, profile.varied(noise={"output": 0.01}))
    x = torch.randn(60, 10)
    y = x[:, :3].abs()
    optimizer = torch.optim.Adam(analog.parameters(), 0.05)
    losses = []
    for _ in range(40):
        loss = (analog(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 0.7 * losses[0]
    assert analog[2].weight.all()


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
@pytest.mark.parametrize("per", ["layer", "tile", "network"])
def test_empty_columns_do_not_move_calibrated_ranges(method, per):
    small, x = nn.Linear(10, 4, bias=False), torch.randn(300, 10)
    profile = hardware("output noise", dac={"input_range": "calibrated"}, adc={"full_scale": "calibrated"})
    for extra in ({}, SLICED, {"dac": {"step_bits": 2}}):
        options = {"per": per, "percentile": 90.0, "progress": False}
        one, other = (
            an.calibrate(an.convert(layer, profile.varied(**extra)), x, method, **options)[""]
            for layer in (small, widened(small, 9))
        )
        assert all(one[name] == pytest.approx(other[name], rel=1e-5) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-32])
def test_the_smallest_inputs_and_weights_give_the_bias(size, dtype):
    """A dynamic input range of nothing, or next to it, has no noise to scale; so have columns of such weights."""
    noisy = {"noise": {"output": 0.5, "read": 0.1}, "dac": {"input_range": "dynamic"}}
    for digital, x in ((nn.Linear(10, 6), torch.randn(5, 10) * size), (nn.Linear(10, 6), torch.randn(5, 10))):
        if x.abs().max() > 1e-30:
            nn.init.uniform_(digital.weight, -size, size)
        analog = on_chip(digital.to(dtype), hardware("converters", **noisy))
        out = analog(x.to(dtype).requires_grad_())
        torch.testing.assert_close(out, digital.bias.expand(5, 6), rtol=0, atol=1e-28)
        out.sum().backward()
        assert all(p.grad.isfinite().all() for p in analog.parameters())
