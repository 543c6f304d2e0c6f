"""The optimiser of a training: Adam as its paper has it, in one pass or in several."""

import numpy as np
import pytest
import torch
from torch import nn

from analogsim.training import train as loops
from analogsim.training.data import load_data
from analogsim.training.spec import TrainSpec
from analogsim.training.step import adam, set_rate
from analogsim.training.train import train

B1, B2, EPS = 0.9, 0.999, 1e-8
SPEC = TrainSpec(epochs=4, batch_size=32, lr=1e-3)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_algorithm(decay):
    """D. P. Kingma and J. Ba, *Adam: a method for stochastic optimization*, 2015, algorithm 1; in float64."""
    torch.manual_seed(0)
    spec = TrainSpec(epochs=4, lr=1e-2, weight_decay=decay)
    sizes = {1: (7, 5), 30: (3,)}  # how much faster than spec.lr: weights
    found = {faster: nn.Parameter(torch.randn(size)) for faster, size in sizes.items()}
    optimiser = adam([{"params": [p], "faster": faster} for faster, p in found.items()], spec)
    assert all(group["fused"] for group in optimiser.param_groups)
    want = {faster: p.detach().double().numpy().copy() for faster, p in found.items()}
    moments = {faster: [np.zeros(size), np.zeros(size)] for faster, size in sizes.items()}
    for step in range(1, 9):
        epoch = (step - 1) // 2
        set_rate(optimiser, spec, epoch)
        for faster, p in found.items():
            p.grad = torch.randn_like(p)
            g, (m, v) = p.grad.double().numpy() + decay * want[faster], moments[faster]
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
            moments[faster] = [m, v]
            rate = faster * spec.lr * (1 + np.cos(np.pi * epoch / spec.epochs)) / 2
            want[faster] = want[faster] - rate * (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPS)
        optimiser.step()
    for faster, p in found.items():
        assert np.allclose(p.detach().numpy(), want[faster], rtol=1e-4, atol=1e-5), faster


def test_a_checkpoint_of_several_passes_goes_on_in_one(tmp_path, monkeypatch):
    """As versions up to 0.2 wrote it; and so one of a device that had another way."""
    data, steps, step = load_data("digits").subset(96, 30), [], torch.optim.Adam.step

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))

    def counted(optimiser):
        steps.append(optimiser.param_groups[0]["fused"])
        return step(optimiser)

    with monkeypatch.context() as before:
        before.setattr(loops, "adam", lambda groups, spec: torch.optim.Adam(groups, lr=spec.lr))
        before.setattr(loops, "has_ended", lambda spec, history, data: len(history) == 2)
        train(network(), data, SPEC, out=tmp_path, progress=False)
    unbroken = train(network(), data, SPEC, progress=False).model
    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    broken = train(network(), data, SPEC, out=tmp_path, progress=False).model
    assert steps == [True] * 6  # two epochs of three steps were left
    torch.testing.assert_close(broken[1].weight, unbroken[1].weight, rtol=1e-4, atol=1e-6)


def test_what_torch_cannot_fuse_is_optimised_all_the_same():
    p = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    optimiser = adam([{"params": [p]}], TrainSpec(epochs=1))
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    optimiser.step()
    assert (p != before).all()
