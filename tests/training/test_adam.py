"""The optimiser of a training: Adam as its paper has it, in one pass or in several."""

import numpy as np
import pytest
import torch
from torch import nn

from analogsim.training.spec import TrainSpec
from analogsim.training.step import adam, set_rate

B1, B2, EPS = 0.9, 0.999, 1e-8


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


def test_the_state_of_one_of_several_passes_goes_on_in_one():
    """As versions up to 0.2 wrote it."""
    spec, start = TrainSpec(epochs=1, lr=1e-2), torch.randn(50, generator=torch.Generator().manual_seed(1))
    grads = torch.randn(6, 50, generator=torch.Generator().manual_seed(2))
    ends = []
    for broken in (False, True):
        p = nn.Parameter(start.clone())
        optimiser = torch.optim.Adam([p], lr=1e-2, fused=None) if broken else adam([{"params": [p]}], spec)
        for number, grad in enumerate(grads):
            if broken and number == 3:
                state, optimiser = optimiser.state_dict(), adam([{"params": [p]}], spec)
                optimiser.load_state_dict(state)
            p.grad = grad.clone()
            optimiser.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_what_torch_cannot_fuse_is_optimised_all_the_same():
    p = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    optimiser = adam([{"params": [p]}], TrainSpec(epochs=1))
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    optimiser.step()
    assert (p != before).all()
