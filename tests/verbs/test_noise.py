"""Injected noise: where it enters, how large it is, and that the network is otherwise the same."""

import copy

import pytest
import torch
from torch import nn

from analogsim.errors import ConversionError, ProfileError, ShapeError
from analogsim.noise import NoiseSpec, inject_noise, noise_sites, remove_noise, set_noise


def small():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 4))


def test_structure_and_original_stay():
    model = small()
    noisy = inject_noise(model, NoiseSpec(sigma=0.5))
    x = torch.randn(3, 1, 8, 8)
    assert list(noisy.state_dict()) == list(model.state_dict())
    assert not noise_sites(model)
    set_noise(noisy, 0.0)
    assert torch.equal(noisy(x), model(x))
    set_noise(noisy, 0.5)
    remove_noise(noisy)
    assert torch.equal(noisy(x), model(x))
    assert not any(module._forward_hooks for module in noisy.modules())


def test_the_noise_has_its_size_at_every_site():
    # n = 40,000 a site: a σ off by 2.5 % is seen at α = 1e-4 (z = 3.9, relative standard error 1/sqrt(2n) = 0.35 %).
    model = inject_noise(nn.Sequential(nn.Identity(), nn.ReLU()), NoiseSpec(sigma=0.5, layers={"input": 0.0}))
    n = model(torch.zeros(40_000))
    assert n.std().item() == pytest.approx(0.5, rel=0.014)
    set_noise(model, 0.5 * 1.05)
    assert model(torch.zeros(40_000)).std().item() != pytest.approx(0.5, rel=0.014)


def test_sites_calls_and_seeds_draw_independently_and_replay():
    model = inject_noise(nn.Sequential(nn.ReLU(), nn.ReLU()), NoiseSpec(sigma=1.0))
    drawn = []
    for module in model:
        module.register_forward_hook(lambda m, i, o: drawn.append(o.clone()))
    x = torch.full((10_000,), 50.0)
    first = model(x)
    a, b = drawn[0] - x, drawn[1] - drawn[0]
    assert abs((a * b).mean()) < 3.9 / 100  # α = 1e-4
    second = model(x)
    assert abs(((first - x) * (second - x)).mean()) < 3 * 3.9 / 100
    torch.manual_seed(0)
    assert torch.equal(model(x), first)


def test_switches_for_training_and_evaluation():
    x = torch.randn(2, 1, 8, 8)
    model = inject_noise(small(), NoiseSpec(sigma=0.5, eval=False))
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    set_noise(model, train=False, eval=True)
    assert not torch.equal(model.eval()(x), model(x))
    assert torch.equal(model.train()(x), model(x))


def test_an_explicit_seed_fixes_each_call():
    x = torch.randn(2, 1, 8, 8)
    one, two = (inject_noise(small().requires_grad_(False), NoiseSpec(sigma=1.0, seed=5)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), one(x))


def test_single_sites_by_name_and_index():
    model = inject_noise(small(), NoiseSpec(sigma=0.0, layers={"0": 0.5, -1: 0.25}))
    assert [site.sigma for site in noise_sites(model).values()] == [0.0, 0.5, 0.0, 0.0, 0.25]
    with pytest.raises(ConversionError, match="no noise site 'conv9'; there are 5: input, 0"):
        set_noise(model, layers={"conv9": 1.0})


def test_a_sigma_for_every_sample():
    model = inject_noise(nn.Sequential(nn.ReLU()), NoiseSpec(layers={"input": 0.0}))
    set_noise(model, layers={"0": torch.tensor([0.0, 1.0])})
    out = model(torch.zeros(2, 20_000))
    assert out[0].eq(0).all()
    assert out[1].std().item() == pytest.approx(1, rel=0.02)
    with pytest.raises(ShapeError, match="2 values for a batch of 3"):
        model(torch.zeros(3, 5))


def test_gradients():
    x = torch.randn(5, 7, requires_grad=True)
    model = inject_noise(nn.Sequential(nn.Identity(), nn.Linear(7, 7)), NoiseSpec(sigma=0.7))
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, model[1].weight.sum(0).expand(5, 7))
    x.grad = None
    times = inject_noise(nn.Sequential(nn.ReLU()), NoiseSpec(multiplicative=0.3, layers={}))
    set_noise(times, layers={"input": 0.0})
    noise_sites(times)["input"].multiplicative = 0.0
    out = times(x.abs() + 1)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out / (x.abs() + 1)).detach() * x.detach().sign(), atol=1e-5, rtol=1e-4)


def test_weight_noise_reaches_the_gradient_and_leaves_nothing_behind():
    model = inject_noise(small(), NoiseSpec(sigma=0.1, target="weights"))
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model(x).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3, 8, 8))
    assert "weight" not in vars(model[0])
    assert isinstance(model[0].weight, nn.Parameter)


def test_a_copy_is_independent():
    model = inject_noise(small(), NoiseSpec(sigma=0.5))
    other = copy.deepcopy(model)
    set_noise(other, 0.0)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(other(x), other(x))
    assert not torch.equal(model(x), model(x))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConversionError, match="no convolution, linear"):
        inject_noise(nn.Sequential(nn.Flatten()), NoiseSpec())
    with pytest.raises(ConversionError, match="inject_noise"):
        set_noise(small(), 1.0)
    with pytest.raises(ProfileError, match="sigma"):
        NoiseSpec(sigma=-1.0)
    with pytest.raises(ShapeError, match="floating-point"):
        inject_noise(small(), NoiseSpec(sigma=1.0))(torch.ones(1, 1, 8, 8, dtype=torch.complex64))
