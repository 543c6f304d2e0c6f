"""Every gradient against finite differences with the same random numbers, in float64 through the reference backend.

Where nothing rounds, an output is a smooth function of what it is differentiated by, apart from where an ADC clips; a
gradient along a direction v must be (L(θ + hv) - L(θ - hv))/2h. What the straight-through rule leaves out (rounding,
how noise depends on inputs and weights, what a chip makes of a weight) is held to the rule as it is stated in
docs/design.md instead.
"""

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.kernels import philox
from analogsim.seeds import Stream, numbered
from tests.properties.test_invariances import Attention

SMOOTH = {"tile": {"rows": 5}, "dac": {"input_range": 1.0}, "adc": {"bits": None, "full_scale": 1.2}}
WIDE = {"full_scale": 100.0}  # where one weight has several conversions, all of which the rule drops where one clips
DIFFERENTIAL = {"mapping": "differential", "g_min": 0.1}

# Each non-ideality by itself, on top of tiles and an ADC that clips.
PARTS = {
    "nothing": {},
    "unclipped": {"adc": {"full_scale": None}},
    "unsigned ADC": {"adc": {"signed": False}},
    "output noise": {"noise": {"output": 0.3}},
    "read noise": {"noise": {"read": 0.3}},
    "multiplicative noise": {"noise": {"multiplicative": 0.5}},
    "uniform noise": {"noise": {"output": 0.2, "read": 0.3, "distribution": "uniform"}},
    "laplace noise": {"noise": {"output": 0.2, "multiplicative": 0.3, "distribution": "laplace"}},
    "wander": {"noise": {"wander": 0.3, "read": 0.2}},
    "flicker": {"flicker": {"amplitude": 0.5}, "cells": DIFFERENTIAL},
    "noise of cells": {"cells": DIFFERENTIAL | {"read_noise": {"g": [0, 1], "value": [0.1, 0.5]}}},
    "programming": {"programming": {"sigma": 0.1, "mean": -0.02}},
    "ageing": {"drift": {"nu": 0.1, "nu_sigma": 0.02, "compensation": "global"}, "cells": DIFFERENTIAL},
    "faults": {"faults": {"stuck_on": 0.1, "stuck_off": 0.1, "dead_rows": 0.1, "dead_columns": 0.1}},
    "wires": {"wires": {"row": 1e-2, "column": 1e-2}, "cells": DIFFERENTIAL},
    "exact wires": {"wires": {"row": 1e-2, "column": 1e-2, "solution": "exact"}, "cells": DIFFERENTIAL},
    "offset cells": {"cells": {"mapping": "offset", "g_min": 0.1}, "programming": {"sigma": 0.05}},
    "digital subtraction": {"cells": DIFFERENTIAL | {"subtraction": "digital"}, "noise": {"read": 0.1}, "adc": WIDE},
    "slices": {"weight": {"bits": 5}, "cells": {"bits": 2}, "noise": {"output": 0.1, "read": 0.2}, "adc": WIDE},
    "offsets of ADCs": {"adc": {"offset_error": 0.2}, "noise": {"multiplicative": 0.2}},
    "everything": {
        "noise": {"output": 0.1, "read": 0.2, "multiplicative": 0.2, "wander": 0.1, "distribution": "laplace"},
        "weight": {"bits": 5},
        "cells": DIFFERENTIAL | {"bits": 2},
        "programming": {"sigma": 0.05},
        "drift": {"nu": 0.1, "nu_sigma": 0.02},
        "flicker": {"amplitude": 0.2},
        "faults": {"stuck_on": 0.05},
        "wires": {"row": 1e-3},
        "adc": WIDE | {"offset_error": 0.001},
    },
}
# What noise depends on inputs and weights with is left out by rule, and what a chip makes of a weight.
NOISE_OF_THE_SIGNAL = [
    name
    for name, part in PARTS.items()
    if {"read", "multiplicative"} & {*part.get("noise", {})}
    or "flicker" in part
    or "read_noise" in part.get("cells", {})
]
OF_WEIGHTS = [name for name in ("nothing", "unclipped", "unsigned ADC", "output noise", "programming")]
LAYERS = {
    "linear": (lambda: nn.Linear(12, 6), (7, 12)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), (3, 4, 7)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, (3, 2), padding=1, groups=2), (3, 4, 4, 4)),
    "conv3d, dilated": (lambda: nn.Conv3d(2, 3, 2, dilation=2), (2, 2, 4, 4, 3)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2), (2, 12, 3, 3)),
    "lstm": (lambda: nn.LSTM(7, 5, num_layers=2, bidirectional=True), (3, 2, 7)),
    "gru": (lambda: nn.GRU(7, 5), (3, 2, 7)),
    "rnn cell": (lambda: nn.RNNCell(7, 5), (4, 7)),
    "attention": (Attention, (2, 3, 8)),
}
SEVERAL = ("lstm", "gru", "attention")  # reads of which one's inputs are another's outputs, noise included
CASES = [
    (kind, part)
    for kind in LAYERS
    for part in (
        PARTS
        if kind in ("linear", "conv2d, groups")
        else ("output noise", "offset cells", "faults", "unsigned ADC")
        if kind in SEVERAL
        else ("everything",)
    )
]


def hardware(part, **changes):
    return an.HardwareProfile(**SMOOTH).varied(**PARTS[part]).varied(**changes)


def on_chip(kind, profile, scale=1.0):
    """A layer on one chip, float64 and the reference, its outputs' gradient, and its loss by replayed noise."""
    make, shape = LAYERS[kind]
    model = an.convert(make().double(), profile).eval()
    if profile.is_drawn:
        an.program(model, seed=1)
        an.at_time(model, 3600.0)
    for _, layer in an.analog_layers(model):
        layer.backend = "reference"
    x = (torch.randn(shape, dtype=torch.float64) * scale).requires_grad_()
    g = None

    def loss():
        nonlocal g
        an.set_seed(model, 3)
        out = model(x)
        out = out[0] if isinstance(out, tuple) else out
        g = torch.randn_like(out) if g is None else g
        return (out * g).sum()

    return model, x, loss


def check(loss, tensors, h=1e-6, rtol=1e-5):
    """Compare autograd with central differences, along a random direction of each tensor by itself."""
    grads = torch.autograd.grad(loss(), tensors)
    for tensor, grad in zip(tensors, grads):
        assert grad.isfinite().all()
        direction = torch.randn_like(tensor)
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * h)
                found.append(float(loss()))
                tensor.sub_(direction, alpha=sign * h)
        difference = (found[0] - found[1]) / (2 * h)
        scale = float((grad.double() * direction).abs().sum()) + 1e-3
        assert abs(float((grad * direction).sum()) - difference) <= rtol * scale


def biases(model):
    return [p for name, p in model.named_parameters() if "bias" in name]


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_inputs_and_biases(kind, part):
    model, x, loss = on_chip(kind, hardware(part))
    check(loss, [*biases(model), *([] if part in NOISE_OF_THE_SIGNAL else [x])])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("part", OF_WEIGHTS)
def test_weights(kind, part):
    model, x, loss = on_chip(kind, hardware(part, weight={"w_max": 10.0}, adc={"full_scale": 0.15}))
    check(loss, [x, *model.parameters()])


@pytest.mark.parametrize("part", NOISE_OF_THE_SIGNAL)
def test_noise_is_a_constant_for_inputs_and_weights(part):
    """With no ADC to clip, their gradients are those without noise."""
    for kind in LAYERS if part == "read noise" else ("linear", "conv2d, groups"):
        found = []
        for noisy in (True, False):
            torch.manual_seed(0)
            own = {} if noisy else {"noise": {"output": 0.0, "read": 0.0, "multiplicative": 0.0, "wander": 0.0}}
            own = own if noisy or "flicker" not in PARTS[part] else own | {"flicker": {"amplitude": 0.0}}
            own = own if noisy or part != "noise of cells" else own | {"cells": {"read_noise": 0.0}}
            free = {"adc": {"full_scale": None, "offset_error": 0.0}}
            model, x, loss = on_chip(kind, hardware(part, **own, **free))
            if kind != "rnn cell" and kind not in SEVERAL:  # their outputs are no linear functions
                found.append(torch.autograd.grad(loss(), [x, *model.parameters()]))
        for noisy, plain in zip(*found):
            torch.testing.assert_close(noisy, plain)


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_input_ranges(kind, part):
    """Of noise, α scales what has a constant σ in normalised units, and not what grows with the inputs."""
    if part == "unclipped":
        return  # α cancels
    torch.manual_seed(2)
    model, _, loss = on_chip(kind, hardware(part, dac={"input_range": "calibrated"}))
    for _, layer in an.analog_layers(model):
        layer.input_range.fill_(1.5)
    alphas = an.learn_ranges(model)
    for alpha in alphas:
        alpha.data = alpha.data.double()
    check(loss, alphas)


# --- what rounds -----------------------------------------------------------------------------------------------------


def straight_through(exact, value):
    return exact + (value - exact).detach()


def emulated(x, w, bias, alpha, profile, z):
    """A linear layer in operations that autograd differentiates, by the rule as docs/design.md states it.

    z (T, M, N) are the reads' standard normals. Rounding is straight through; noise is a constant for x and w, and for
    α what it is at the same z with inputs that go as 1/α where the DAC does not clip.
    """
    dac, noise, full_scale = profile.dac, profile.noise, profile.adc.full_scale
    levels, low = 2 ** (dac.bits - dac.signed) - 1, -1.0 if dac.signed else 0.0
    clamped = (x / alpha).clamp(low, 1)
    x_hat = straight_through(clamped, (clamped * levels).round() / levels)
    passed = ((x <= alpha) & (x >= low * alpha)).double()
    applied = x_hat.detach()
    applied = passed * applied * (alpha.detach() / alpha) + (1 - passed) * applied
    w_max = w.detach().abs().amax(1)
    total = 0
    for tile, start in enumerate(range(0, x.shape[1], profile.tile.rows)):
        part = slice(start, start + profile.tile.rows)
        w_hat = w[:, part] / w_max[:, None]
        length2 = applied[:, part].square().sum(1, keepdim=True)
        s = applied[:, part] @ w_hat.detach().T
        n = (noise.output**2 + noise.read**2 * length2 + noise.multiplicative**2 * s.square() + 1e-30).sqrt() * z[tile]
        s = (x_hat[:, part] @ w_hat.T + n).clamp(-full_scale, full_scale)
        step = full_scale / (2 ** (profile.adc.bits - 1) - 1)
        total = total + straight_through(s, (s / step).round() * step)
    return alpha * w_max * total + bias


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("alpha", [0.4, 1.5, 5.0])
@pytest.mark.parametrize(
    "noise",
    [{"output": 0.2}, {"read": 0.3}, {"multiplicative": 0.6}, {"output": 0.1, "read": 0.1, "multiplicative": 0.2}],
)
def test_what_rounds_against_the_rule(noise, alpha, signed):
    """The layer gives what the emulation gives, and its gradients are the emulation's; converters round and clip."""
    profile = hardware(
        "nothing",
        dac={"bits": 4, "signed": signed, "input_range": "calibrated"},
        adc={"bits": 5, "full_scale": 1.5},
        noise=noise,
    )
    layer = an.convert(nn.Linear(12, 6).double(), profile)
    layer.input_range.fill_(alpha)
    (learned,) = an.learn_ranges(layer)
    learned.data = learned.data.double()
    x = torch.randn(25, 12, dtype=torch.float64, requires_grad=True)
    z = torch.stack([philox.normals((25, 6), *numbered(3, Stream.READ, 0, 1), tile) for tile in range(3)])
    g = torch.randn(25, 6, dtype=torch.float64)
    an.set_seed(layer, 3)
    out = layer(x)
    free = learned.detach().clone().requires_grad_()
    expected = emulated(x, layer.weight, layer.bias, free, profile, z)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    parameters = [x, layer.weight, layer.bias]
    found = torch.autograd.grad(out, [*parameters, learned], g)
    for comp, ref in zip(found, torch.autograd.grad(expected, [*parameters, free], g)):
        torch.testing.assert_close(comp, ref.to(comp.dtype), rtol=1e-5, atol=1e-6)
    naive = float(((g * (out - layer.bias)).sum() - (x * found[0]).sum()).detach()) / alpha
    assert noise == {"output": 0.2} or abs(naive - float(found[3])) > 1e-3 * abs(naive), "a rule that this must reject"
