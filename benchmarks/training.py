"""Training steps of whole networks: converted, with injected noise, and plain."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import typer
from torch import nn

from analogsim import NoiseSpec, convert, inject_noise, noise_sites
from analogsim.bench import Case, compare, threads
from analogsim.terminal.progress import track
from models.lenet import LeNet5
from models.resnet import ResNet18
from models.vgg import VGG11

from .common import Out, Quick, Threads, finish, hardware

NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "LeNet-5": (LeNet5, 1.4),
    "VGG-11": (lambda: VGG11(init="vgg"), 1.2),
    "ResNet-18": (ResNet18, 1.2),
}
"""Constructors, and the goal for a step with injected noise."""
GOAL = 1.6
SIGMA = 0.1


def naively_noisy(model: nn.Module) -> nn.Module:
    """Return a copy with noise as one would write it: a hook with torch.randn_like on every site of `inject_noise`."""
    names = list(noise_sites(inject_noise(model, NoiseSpec(sigma=SIGMA))))
    model = copy.deepcopy(model)
    for name in names:
        if name == "input":
            model.register_forward_pre_hook(lambda _, x: (disturbed(x[0]),))
        else:
            model.get_submodule(name).register_forward_hook(lambda _, __, y: disturbed(y))
    return model


def disturbed(x: Any) -> torch.Tensor:
    """Add noise in torch."""
    return x + SIGMA * torch.randn_like(x)


def case(name: str, rows: int, count: int, quick: bool) -> Case:
    """Measure forward and backward at batch 128."""
    build, noise_goal = NETWORKS[name]
    torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    plain = build()

    def step(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()

        return run

    calls = {
        "plain": step(plain),
        "converted": step(convert(plain, hardware(rows))),
        "inject_noise": step(inject_noise(plain, NoiseSpec(sigma=SIGMA))),
        "noise by torch.randn_like": step(naively_noisy(plain)),
    }
    goals = {"converted": GOAL, "inject_noise": noise_goal}
    rounds = 1 if quick else 25 if name == "LeNet-5" else 5
    with threads(count):
        return compare(calls, "plain", rounds, name=f"{name}, tile {rows}", shape={"rows": rows}, goals=goals)


def main(
    quick: Quick = False,
    count: Threads = [1, 2],  # noqa: B006 - typer copies it
    out: Out = None,
) -> None:
    """Measure training steps (goals: converted 1.6, with injected noise 1.4 for LeNet-5 and 1.2 for the others)."""
    jobs = [(name, rows, n) for n in count for rows in (256, 512) for name in NETWORKS]
    cases = [case(*job, quick) for job in track(jobs[:1] if quick else jobs, "Training steps")]
    finish("Training steps", cases, out)


if __name__ == "__main__":
    typer.run(main)
