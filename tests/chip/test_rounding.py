"""Converters that round down or at random, against a float64 oracle with the same random numbers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import AnalogSimError, ConversionError, ProfileError
from analogsim.kernels import philox
from analogsim.nn import AnalogConv2d
from analogsim.seeds import Stream, numbered
from tests.support.chips import linear

PROFILE = an.HardwareProfile(
    tile={"rows": 6},
    dac={"bits": 5, "input_range": 1.5},
    weight={"w_max": 1.0},
    adc={"bits": 5, "full_scale": 2.0},
)
X = torch.rand(30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 2


def evenly(shape, flag, tile, seed=5):
    """What the first call of a layer of a seed draws."""
    key, stream = numbered(seed, Stream.READ, 0, 1)
    return torch.special.ndtr(philox.normals(shape, key, stream | flag, tile).double()).numpy()


def at(value, levels, rule, u):
    """A value in steps, clipped and rounded."""
    value = min(levels, max(-levels, value))
    return {"nearest": round(value), "down": math.floor(value), "stochastic": math.floor(value + u)}[rule]


def product(x, w, dac, adc, seed=5):
    u = evenly(x.shape, Stream.DAC_ROUNDING, 0, seed)
    codes = np.array([[at(v / 1.5 * 15, 15, dac, r) for v, r in zip(*rows, strict=True)] for rows in zip(x, u)]) / 15
    out = np.zeros((len(x), len(w)))
    for tile, part in enumerate((slice(0, 6), slice(6, 12))):
        sums = codes[:, part] @ w[:, part].T
        u = evenly(sums.shape, Stream.ADC_ROUNDING, tile, seed)
        out += [[at(v / 2 * 15, 15, adc, r) / 15 * 2 for v, r in zip(*rows, strict=True)] for rows in zip(sums, u)]
    return out * 1.5


@pytest.mark.parametrize("adc", ["nearest", "stochastic"])
@pytest.mark.parametrize("dac", ["nearest", "down", "stochastic"])
def test_products_are_the_oracles(dac, adc):
    layer = linear(PROFILE.varied(dac={"rounding": dac}, adc={"rounding": adc}))
    want = product(X.numpy(), layer.weight.detach().numpy(), dac, adc)
    for one in (layer, layer.float()):
        an.set_seed(one, 5)
        got = one(X.to(one.weight.dtype)).detach().double().numpy()
        # float32's normals differ from float64's, so that a few sums round to the other side.
        assert (np.abs(got - want) > 1e-4).mean() < (1e-3 if one.weight.dtype == torch.float64 else 0.02)


def test_the_mean_is_what_is_rounded():
    """4,000 reads: a mean scatters by half a step over √4000; six times that is allowed for (α = 2e-9 a sum)."""
    layer = linear(PROFILE.varied(dac={"rounding": "stochastic"}, adc={"rounding": "stochastic", "full_scale": 8.0}))
    x = X[:1].clamp(-1.4, 1.4)
    an.set_seed(layer, 1)
    with torch.no_grad():
        reads = layer(x.expand(4000, -1))  # each row draws for itself
    exact = x @ layer.weight.detach().T
    spread = reads.std(0)
    assert ((reads.mean(0) - exact).abs() < 6 * spread / math.sqrt(4000)).all()
    assert spread.min() > 0.3 * 8.0 / 15
    down = linear(PROFILE.varied(dac={"rounding": "down"}))
    assert float((down(X) - linear(PROFILE)(X)).detach().abs().mean()) > 0.05


def test_convolutions_round_as_they_are_cut():
    """Noise belongs to an element of the output, however the batch is cut."""
    own = PROFILE.varied(dac={"rounding": "stochastic"}, adc={"rounding": "stochastic"}, tile={"rows": 18})
    layer = AnalogConv2d(4, 3, 3, padding=1, profile=own).eval()
    x = torch.rand(6, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    an.set_seed(layer, 2)
    whole = layer(x).detach()
    an.set_seed(layer, 2)
    assert torch.equal(whole, layer(x).detach())
    assert not torch.equal(whole, layer(x).detach())
    an.set_seed(layer, 2)
    first = layer(x[:2]).detach()
    torch.testing.assert_close(first, whole[:2], atol=1e-5, rtol=1e-5)
    layer.profile = own.varied(dac={"rounding": "nearest"}, adc={"rounding": "nearest"})
    assert (layer(x).detach() - whole).abs().max() < 4 * 1.5 * (2 / 15 + 1 / 15 * 9)


@pytest.mark.parametrize("dac", ["down", "stochastic"])
def test_gradients_are_straight_through(dac):
    layer = linear(PROFILE.varied(dac={"rounding": dac}, adc={"bits": None, "full_scale": None}))
    x = X.clone().requires_grad_()
    an.set_seed(layer, 5)
    g = torch.ones(30, 7, dtype=torch.float64)
    layer(x).backward(g)
    inside = (X.abs() <= 1.5).double()
    torch.testing.assert_close(x.grad, inside * (g @ layer.weight.detach()))
    u = evenly(X.shape, Stream.DAC_ROUNDING, 0)
    codes = torch.tensor([[at(v / 1.5 * 15, 15, dac, r) for v, r in zip(*rows)] for rows in zip(X.tolist(), u)])
    torch.testing.assert_close(layer.weight.grad, g.T @ (codes.double() / 15 * 1.5))


def test_budgets_know_the_adcs_rounding():
    layer = linear(PROFILE.varied(adc={"rounding": "stochastic", "full_scale": 6.0}), n=60).float()
    x = torch.rand(300, 12) * 3 - 1.5
    (one,) = an.noise_budget(nn.Sequential(layer), x, repeats=4, progress=False).layers
    assert one.measured == pytest.approx(one.total, rel=0.03)
    layer.profile = layer.profile.varied(adc={"rounding": "nearest"})
    (plain,) = an.noise_budget(nn.Sequential(layer), x, repeats=0, progress=False).layers
    assert 1.8 < one.stages["adc_rounding"] / plain.stages["adc_rounding"] < 2.2


def test_what_does_not_go_with_it_is_refused():
    with pytest.raises(ProfileError, match="rounding 'down' is of a DAC with bits"):
        an.HardwareProfile(dac={"rounding": "down"})
    with pytest.raises(ProfileError, match="'stochastic' is of a kind 'ideal' with bits"):
        an.HardwareProfile(adc={"bits": 5, "kind": "sar", "rounding": "stochastic", "full_scale": 1.0})
    own = PROFILE.varied(dac={"rounding": "down", "input_range": "calibrated"})
    model = an.convert(nn.Sequential(nn.Linear(12, 4)), own)
    an.calibrate(model, X.float(), progress=False)
    with pytest.raises(ProfileError, match="dac.rounding to 'nearest'"):
        an.noise_budget(model, X.float(), progress=False)
    with pytest.raises(ConversionError, match="round to the nearest"):
        an.learn_ranges(model)
    assert PROFILE.varied(dac={"rounding": "stochastic"}).is_random
    assert not PROFILE.varied(dac={"rounding": "down"}).is_random


@pytest.mark.parametrize("change", [{"rounding": "down"}, {"rounding": "stochastic"}, {"symmetric": False}])
def test_a_range_that_is_learned_is_not_read_by_a_dac_that_it_is_not_of(change):
    """`learn_ranges` refuses such a DAC; so does a layer that got such a profile later, in training."""
    layer = an.convert(nn.Linear(4, 3), an.HardwareProfile(dac={"bits": 6}))
    layer.input_range.fill_(2.0)
    an.learn_ranges(layer)
    layer(torch.randn(2, 4)).sum().backward()
    layer.profile = layer.profile.varied(dac=change)
    with pytest.raises(AnalogSimError):
        layer(torch.randn(2, 4))
    if "rounding" in change:
        with pytest.raises(ProfileError, match="only symmetric input ranges are learned"):
            layer(torch.randn(2, 4))
        with torch.no_grad():
            assert layer(torch.randn(2, 4)).isfinite().all()
