"""What must not change an answer: scale, empty columns and channels, the order of outputs, how rows come, copies.

Where the law speaks of the same random numbers, the noise is on; elsewhere its statistics, or what is left without it.
"""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an

CONVERTERS = {"tile": {"rows": 6}, "dac": {"bits": 6, "input_range": 2.0}, "adc": {"bits": 7, "full_scale": 3.0}}
MEASURED = [[math.sin(3.0 * code + curve) / 3 for code in range(127)] for curve in range(4)]
DACS = [math.sin(code - 31) / 3 for code in range(63)]  # of code 0, 0
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
    "noise of cells": {"cells": {"mapping": "offset", "read_noise": {"g": [0, 1], "value": [0.1, 0.3]}}},
    "measured cells": {
        "programming": {"sigma": {"g": [0, 1], "value": [0.1, 0.2]}, "mean": {"g": [0, 1], "value": [0.1, -0.1]}},
        "drift": {"table": {"g0": [0, 1], "seconds": [1, 1e9], "g": [[0, 0.1], [1, 0.6]]}},
    },
    "stuck cells": {"faults": {"stuck_on": 0.3, "stuck_off": 0.1}},
    "dead lines": {"faults": {"dead_rows": 0.2, "dead_columns": 0.2}},
    "wires": {"wires": {"row": 1e-3, "column": 1e-3}, "cells": {"mapping": "differential"}},
    "exact wires": {
        "wires": {"row": 1e-3, "column": 1e-3, "solution": "exact", "interleaved": True},
        "cells": {"mapping": "differential"},
    },
    "gated rows": {
        "wires": {"row": 1e-3, "column": 1e-3, "solution": "exact", "gated": True},
        "cells": {"mapping": "differential"},
    },
    "curved cells": {
        "iv": {"second": {"log": [0.1, 0.2]}, "third": -0.2},
        "cells": {"mapping": "offset", "g_min": 0.1},
    },
    "offset cells": {"cells": {"mapping": "offset", "g_min": 0.1}, "programming": {"sigma": 0.1}},
    "digital subtraction": {"cells": {"mapping": "differential", "subtraction": "digital"}, "noise": {"output": 0.2}},
    "slices": SLICED | {"noise": {"output": 0.2}, "programming": {"sigma": 0.1}},
    "steps": {"dac": {"step_bits": 2}, "noise": {"output": 0.2}},
    "ADC errors": {"adc": {"gain_error": 0.2, "offset_error": 0.2}},
    "unsigned ADC": {"adc": {"signed": False, "offset_error": 0.2}, "noise": {"output": 0.3}},
    "SAR": {"adc": {"kind": "sar", "capacitor_mismatch": 0.2}},
    "measured converters": {
        "adc": {"kind": "measured", "transfer": {"inl": MEASURED}},
        "dac": {"inl": DACS},
    },
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
DRAWN_BY_READ = [
    name for name, part in PARTS.items() if "noise" in part or "flicker" in part or name == "noise of cells"
]
RULES = ["column", "tensor", 1.5, "tile", "tile-column", {"percentile": 80.0, "per": "column"}]
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
        if part in ("offset cells", "wires", "exact wires", "gated rows", "curved cells"):
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
        if "inl" in PARTS[part].get("dac", {}):
            converted += torch.tensor(DACS)[(converted / 2 * 31).round().long() + 31] / 31 * 2
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


# --- scale -----------------------------------------------------------------------------------------------------------

# Of these nothing is drawn, nor does anything depend on what lies beside a column.
SILENT = ("converters", "unsigned", "SAR, ideal", "slices, ideal", "steps, ideal", "digital subtraction, ideal")
IDEAL = {
    "converters": {},
    "unsigned": {"adc": {"signed": False}},
    "SAR, ideal": {"adc": {"kind": "sar"}},
    "slices, ideal": SLICED,
    "steps, ideal": {"dac": {"step_bits": 2}},
    "digital subtraction, ideal": {"cells": {"mapping": "differential", "subtraction": "digital"}},
}


def silent(part, **changes):
    return an.HardwareProfile(**CONVERTERS).varied(**IDEAL[part]).varied(**changes)


def matrix_layer(k=10, n=6):
    return nn.Linear(k, n, bias=False)


@settings(max_examples=80)
@given(st.sampled_from(sorted(PARTS)), st.sampled_from(["column", "tensor"]), st.integers(-30, 30), st.booleans())
def test_weights_times_a_power_of_two_give_exactly_that_many_times_as_much(part, rule, power, conv):
    torch.manual_seed(0)
    make, shape = LAYERS["conv2d, groups"] if conv and part in FEW else LAYERS["linear"]
    digital, x = make(), torch.randn(shape)
    with torch.no_grad():
        digital.bias.zero_()
        once = answer(on_chip(digital, hardware(part, rule)), x)
        digital.weight.mul_(2.0**power)
        assert torch.equal(answer(on_chip(digital, hardware(part, rule)), x), once * 2.0**power)


@given(st.sampled_from(sorted(PARTS)), st.integers(-20, 20))
def test_a_dynamic_range_scales_with_its_inputs(part, power):
    torch.manual_seed(0)
    analog = on_chip(matrix_layer(), hardware(part, dac={"input_range": "dynamic", "bits": 6}))
    x = torch.randn(7, 10)
    assert torch.equal(answer(analog, x * 2.0**power), answer(analog, x) * 2.0**power)


# --- zero rows and columns, dead channels, order ---------------------------------------------------------------------


@given(st.sampled_from(SILENT), st.integers(1, 9), st.integers(1, 20), st.sampled_from(["column", "tensor"]))
def test_more_empty_columns_change_no_output(part, extra, k, rule):
    torch.manual_seed(k)
    small, x = matrix_layer(k).double(), torch.randn(7, k, dtype=torch.float64)
    one, other = (
        answer(on_chip(layer, silent(part, weight={"w_max": rule}), "reference"), x)
        for layer in (small, widened(small, extra))
    )
    torch.testing.assert_close(other[:, :6], one, rtol=1e-12, atol=1e-12)
    assert not other[:, 6:].any()


@given(st.sampled_from([*SILENT, "output noise", "read noise", "multiplicative noise", "laplace noise", "wander"]))
def test_more_empty_rows_of_a_tile_change_nothing_noise_included(part):
    profile = (silent if part in IDEAL else hardware)(part, tile={"rows": 16})
    small, x = matrix_layer(10).double(), torch.randn(7, 10, dtype=torch.float64)
    wide = matrix_layer(16).double()
    with torch.no_grad():
        wide.weight.zero_()[:, :10] = small.weight
    found = answer(on_chip(wide, profile, "reference"), torch.cat([x, torch.zeros(7, 6, dtype=torch.float64)], 1))
    torch.testing.assert_close(found, answer(on_chip(small, profile, "reference"), x), rtol=1e-12, atol=1e-12)


@given(st.sampled_from(SILENT), st.permutations(range(6)), st.sampled_from(["column", "tensor"]))
def test_outputs_in_another_order_are_the_same_outputs(part, order, rule):
    torch.manual_seed(0)
    digital, x = matrix_layer().double(), torch.randn(7, 10, dtype=torch.float64)
    profile = silent(part, weight={"w_max": rule})
    one = answer(on_chip(digital, profile, "reference"), x)
    with torch.no_grad():
        digital.weight.copy_(digital.weight[list(order)])
    other = answer(on_chip(digital, profile, "reference"), x)
    torch.testing.assert_close(other, one[:, list(order)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["column", "tensor", 1.5])
def test_a_network_with_dead_channels_has_the_noise_of_one_without(rule):
    """12,000 reads of one input: a mean scatters by σ/110, and a ratio of variances by 2 %; 5 times that is refused."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    live = [0, 2, 3, 7, 11]
    dead = [n for n in range(12) if n not in live]
    pruned = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        whole[0].weight.div_(20)  # beside which noise of a scale of 1 would be loud
        whole[0].weight[dead], whole[0].bias[dead] = 0.0, 0.0
        whole[2].weight[:, dead] = 0.9 * whole[2].weight[:, live].abs().amax(
            1, keepdim=True
        )  # no scale depends on them
        pruned[0].weight.copy_(whole[0].weight[live])
        pruned[0].bias.copy_(whole[0].bias[live])
        pruned[2].weight.copy_(whole[2].weight[:, live])
        pruned[2].bias.copy_(whole[2].bias)
    profile = hardware("output noise", rule, tile={"rows": 16})
    x = torch.randn(1, 10, dtype=torch.float64).expand(12000, -1)
    first, second = answer(on_chip(whole, profile), x), answer(on_chip(pruned, profile), x)
    assert ((first.mean(0) - second.mean(0)).abs() < 5 * second.std(0) * (2 / 12000) ** 0.5).all()
    torch.testing.assert_close(first.var(0), second.var(0), rtol=0.1, atol=0)


# --- batches, threads, casts, copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d, groups", "gru cell"])
@pytest.mark.parametrize("part", PARTS)
def test_the_first_samples_are_the_same_in_any_batch(part, kind):
    """Noise follows the place in the output, so that it is on; without noise, any part of a batch is."""
    if kind != "linear" and part not in FEW:
        return
    make, shape = LAYERS[kind]
    analog, x = on_chip(make().double(), hardware(part), "reference"), torch.randn(shape, dtype=torch.float64)
    whole = answer(analog, x)
    for count in (1, 2):
        torch.testing.assert_close(answer(analog, x[:count]), whole[:count], rtol=1e-12, atol=1e-12)
    if part not in DRAWN_BY_READ and part != "everything":
        parts = torch.cat([answer(analog, x[first : first + 1]) for first in range(len(x))])
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", ["converters", "read noise", "wander", "everything"])
def test_threads_change_nothing_but_rounding(part):
    make, _ = LAYERS["linear"]
    profile = hardware(part, adc={"bits": None, "kind": "ideal", "capacitor_mismatch": 0.0}, dac={"step_bits": None})
    analog, x, found = on_chip(make(), profile), torch.randn(3000, 10), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(answer(analog, x))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def calibrated_on_chip(part):
    profile = hardware(part, dac={"input_range": "calibrated"}, adc={"full_scale": "calibrated"})
    model = an.convert(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)), profile)
    x = torch.randn(9, 4, 4, 4)
    an.calibrate(model, x, progress=False)
    if profile.is_drawn:
        an.program(model, seed=1)
        an.at_time(model, 60.0)
    return model.eval(), x


@pytest.mark.parametrize("part", ["output noise", "programming", "slices", "everything"])
def test_casts_and_the_meta_device_and_back_change_nothing(part):
    model, x = calibrated_on_chip(part)
    expected, state = answer(model, x), {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(answer(model.double().float(), x), expected)
    rounded = {n: v.half().float() if n.endswith(("weight", "bias")) else v for n, v in state.items()}
    model.half().float()
    assert all(torch.equal(value, rounded[name]) for name, value in model.state_dict().items())
    model.to("meta")
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    assert torch.equal(answer(model, x), expected)


@pytest.mark.slow
def test_a_copy_in_another_process_gives_the_same(tmp_path):
    models = {part: calibrated_on_chip(part) for part in ("output noise", "everything")}
    torch.save(models, tmp_path / "models.pt")
    code = """
import sys, torch, analogsim as an
torch.set_num_threads(1)
found = {}
for part, (model, x) in torch.load(sys.argv[1] + "/models.pt", weights_only=False).items():
    an.set_seed(model, 3)
    found[part] = model(x).detach()
torch.save(found, sys.argv[1] + "/found.pt")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    found = torch.load(tmp_path / "found.pt")
    for part, (model, x) in models.items():
        assert torch.equal(found[part], answer(model, x))
