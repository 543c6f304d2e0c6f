"""What makes an epoch of training shorter on a CPU: number format, memory layout, batches, threads, groups."""

import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import nn

from analogsim import NoiseSpec, inject_noise
from analogsim.bench import Case, Report, compare, threads
from analogsim.training.data import DataSet
from analogsim.training.group.group import Group, Member
from analogsim.training.spec import TrainSpec
from analogsim.training.step import adam
from models.lenet import LeNet5
from models.resnet import ResNet18
from models.vgg import VGG11

from .common import Out, Quick, finish

SIGMA = 0.1
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "LeNet-5": (lambda: LeNet5(pool="average"), 4096, 7),
    "ResNet-18": (lambda: ResNet18(batch_norm=True, conv_bias=True, one_relu=True), 512, 3),
    "VGG-11": (VGG11, 256, 3),
}
"""Constructors, images of a call, and rounds."""
GROUPS = (1, 8, 17)


def training(build: Callable[[], nn.Module], images: int, batch: int, *, half: bool, last: bool) -> Callable[[], None]:
    """Return a function that trains on so many images: noise at all sites, Adam and all."""
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    model = inject_noise(build(), NoiseSpec(sigma=SIGMA), inplace=True).to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=layout)
    y = torch.randint(10, (batch,))

    def run() -> None:
        for _ in range(images // batch):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            optimiser.step()

    return run


def formats(name: str, count: int, quick: bool) -> Case:
    """Compare ways to train on the same number of images."""
    build, images, rounds = NETWORKS[name]
    ways = {
        "float32, batch 128": training(build, images, 128, half=False, last=False),
        **{f"batch {b}": training(build, images, b, half=False, last=False) for b in (256, 512) if b <= images},
        "channels-last": training(build, images, 128, half=False, last=True),
        "bfloat16": training(build, images, 128, half=True, last=False),
        "bfloat16, channels-last": training(build, images, 128, half=True, last=True),
    }
    with threads(count):
        found = compare(
            ways, "float32, batch 128", 1 if quick else rounds, name=name, shape={"images": images}, warmup=0
        )
    return found


def together(quick: bool) -> tuple[Case, str]:
    """Compare groups of LeNet-5 that differ in σ alone, the time of one network's share."""
    torch.manual_seed(0)
    x, y = torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (2048,))
    data = DataSet("random", x, y, x[:500], y[:500], (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    spec = TrainSpec(epochs=10_000)
    build = NETWORKS["LeNet-5"][0]
    groups, memory = {}, {}
    for size in GROUPS:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        members = [Member(str(k), build(), spec.varied(sigma=0.01 * 1.5**k)) for k in range(size)]
        groups[size] = Group(members, data, torch.device("cpu"))
        groups[size].run_epoch()
        memory[size] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times: dict[str, Callable[[], object]] = {f"{size} together": groups[size].run_epoch for size in GROUPS}

    def share(call: Callable[[], object]) -> float:
        call()
        group: Group = call.__self__  # type: ignore[attr-defined]
        return group.members[0].history[-1]["seconds"]  # of the group's, one network's

    with threads(1):
        case = compare(times, "1 together", 1 if quick else 5, name="LeNet-5, groups", warmup=0, measure=share)
    note = ", ".join(f"{size}: {more:.0f} MiB" for size, more in memory.items())
    return case, f"Memory that groups of LeNet-5 add to the process, one after the other: {note}."


def optimisers(quick: bool) -> list[Case]:
    """Compare a step of Adam in several passes over the weights with that of our trainings, on each network."""
    cases = []
    for network, (build, _, _) in NETWORKS.items():
        ways = {}
        for way in ("several passes", "as trained"):
            parameters = list(build().parameters())
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            groups: list[dict[str, Any]] = [{"params": parameters}]
            ways[way] = (adam(groups, TrainSpec()) if way == "as trained" else torch.optim.Adam(groups)).step
        with threads(1):
            cases.append(compare(ways, "several passes", 3 if quick else 25, name=f"Adam, {network}"))
    return cases


def main(
    name: Annotated[str, typer.Argument(help="LeNet-5, ResNet-18, VGG-11, groups, or Adam.")],
    quick: Quick = False,
    count: Annotated[int, typer.Option("--threads")] = 1,
    out: Out = None,
) -> None:
    """Measure one network, and write it beside the others that the file has."""
    path = Path(out) if out else None
    before = Report.load(path) if path and path.exists() else None
    notes = before.notes if before else ()
    if name == "groups":
        case, note = together(quick)
        cases, notes = [case], (note,)
    else:
        cases = optimisers(quick) if name == "Adam" else [formats(name, count, quick)]
    new = {(case.name, case.threads) for case in cases}
    others = [one for one in before.cases if (one.name, one.threads) not in new] if before else []
    finish("Ways to train on the same images", [*others, *cases], path, notes)


if __name__ == "__main__":
    typer.run(main)
