"""Many LeNet-5 trained under noise: in groups (`study run --group`), and one process a network."""

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Annotated, Any

import torch
import typer
from torch import nn

from analogsim.bench import Case, compare, threads
from analogsim.machine import usable_cores
from analogsim.qat import QATSpec, prepare_qat
from analogsim.training.data import DataSet
from analogsim.training.group.group import Group, Member
from analogsim.training.network import find
from analogsim.training.spec import TrainSpec
from analogsim.training.train import train
from models.lenet import LeNet5

from .common import Out, Quick, finish, keep

SPEC = TrainSpec(epochs=10**6, sigma=0.5)
GOAL = 0.1
"""Of a group on a GPU: a tenth of the time for a network's epoch."""


class Crew:
    """Processes that train at the same time.

    Parameters
    ----------
    processes : int
    settings : dict
        Of `serve`.
    """

    def __init__(self, processes: int, **settings: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.networks = processes * max(1, settings["group"])
        pairs = [context.Pipe() for _ in range(processes)]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=serve, args=(theirs,), kwargs=settings, daemon=True) for _, theirs in pairs
        ]
        for process in self.processes:
            process.start()

    def epoch(self) -> int:
        """Train every network for one epoch; return how many networks."""
        for pipe in self.pipes:
            pipe.send(None)
        for pipe in self.pipes:
            try:
                pipe.recv()
            except EOFError:
                raise RuntimeError("a process that trains died; its reason is above, or memory is short") from None
        return self.networks

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
            process.join()


def serve(pipe: Any, *, group: int, quantized: bool, how: Any, compile: bool, device: str, threads: int, images: int):
    """Train an epoch whenever asked: one network (group 0), or a group of them."""
    torch.set_num_threads(threads)
    data = pictures(images)
    together = cache(
        lambda: Group(
            [Member(str(n), network(quantized), SPEC.varied(seed=n)) for n in range(group)],
            data,
            torch.device(device),
            how=how,
            compile=compile,
        )
    )
    alone = network(quantized)
    while True:
        pipe.recv()
        if group:
            together().run_epoch()
        else:
            train(alone, data, SPEC.varied(epochs=1), device=device, progress=False)
        pipe.send(None)


def network(quantized: bool, make: Callable[[], nn.Module] = LeNet5) -> nn.Module:
    """Return a network, plain or with 8 bits and constant scaling."""
    return prepare_qat(make(), QATSpec(scaling="constant", s=0.5), inplace=True) if quantized else make()


def pictures(count: int) -> DataSet:
    """Return random images of CIFAR-10's shape: what they show is no matter here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count + 256, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.randint(10, (count + 256,), generator=generator)
    classes = tuple("0123456789")
    return DataSet("noise", x[:count], y[:count], x[count:], y[count:], (0.5,) * 3, (0.25,) * 3, classes)


def per_network(call: Callable[[], int]) -> float:
    """Return seconds for one network's epoch."""
    started = time.perf_counter()
    networks = call()
    return (time.perf_counter() - started) / networks


def cases(quantized: bool, device: str, images: int, rounds: int) -> list[Case]:
    """Find the best number of processes, then measure groups against it."""
    cuda, cores = device.startswith("cuda"), usable_cores()
    title = f"LeNet-5{', 8 bits, constant scaling' if quantized else ''}, σ = 0.5, {device}"
    common = {"quantized": quantized, "device": device, "images": images}

    def alone(processes: int) -> dict[str, Any]:
        threads = max(1, cores // processes)
        return common | {"processes": processes, "group": 0, "how": None, "compile": False, "threads": threads}

    def grouped(processes: int, size: int, how: str, compile: bool = False) -> dict[str, Any]:
        return alone(processes) | {"group": size, "how": how, "compile": compile}

    counts = (1, 2, 4, 8, 16) if cuda else sorted({1, cores, 2 * cores})
    singles = {f"{n} process{'es' if n > 1 else ''}": alone(n) for n in counts}
    if cuda:
        groups = {f"group of {n}": grouped(1, n, "grouped") for n in (8, 32, 128)}
        groups |= {"group of 32, compiled": grouped(1, 32, "grouped", True)}
        groups |= {"group of 32, a call a convolution": grouped(1, 32, "separate")}
        groups |= {"group of 32, unfolded": grouped(1, 32, "unfolded")}
        groups |= {"group of 32, unfolded, compiled": grouped(1, 32, "unfolded", True)}
    else:
        groups = {
            f"{cores} groups of {n}, {text}": grouped(cores, n, how)
            for n in (2, 8)
            for how, text in (("separate", "a call a convolution"), ("grouped", "grouped convolutions"))
        }
    found = measured(singles, None, max(1, rounds // 2), f"{title}: processes")
    best = min(found.results, key=lambda result: result.value.median).name
    return [found, measured({best: singles[best], **groups}, best, rounds, f"{title}: groups")]


def one_thread(make: Callable[..., nn.Module], quantized: bool, images: int, rounds: int) -> Case:
    """Measure the processor's time of one thread, on the CPU: on a busy machine no other says anything."""
    data, single = pictures(images), network(quantized, make)

    def alone() -> int:
        train(single, data, SPEC.varied(epochs=1), progress=False)
        return 1

    def together(size: int, how: Any) -> Callable[[], int]:
        members = [Member(str(n), network(quantized, make), SPEC.varied(seed=n)) for n in range(size)]
        group = Group(members, data, torch.device("cpu"), how=how)

        def epoch() -> int:
            group.run_epoch()
            return size

        return epoch

    calls: dict[str, Callable[[], int]] = {"singly": alone}
    for size in (4, 8):
        calls[f"group of {size}, a call a convolution"] = together(size, "separate")
        calls[f"group of {size}, grouped convolutions"] = together(size, "grouped")

    def used(call: Callable[[], int]) -> float:
        started = time.process_time()
        networks = call()
        return (time.process_time() - started) / networks

    title = f"{make.__name__}{', 8 bits, constant scaling' if quantized else ''}, σ = 0.5, processor's time"
    with threads(1):
        return compare(calls, "singly", rounds, name=title, measure=used)


def measured(settings: dict[str, dict[str, Any]], baseline: str | None, rounds: int, name: str) -> Case:
    """Measure crews in turn; the others wait."""
    with ExitStack() as stack:
        calls: dict[str, Callable[[], int]] = {}
        for key, values in settings.items():
            crew = Crew(**values)
            stack.callback(crew.close)
            calls[key] = crew.epoch
        goals = dict.fromkeys(calls, GOAL) if "cuda" in name and baseline else {}
        goals = {key: goal for key, goal in goals.items() if key != baseline}
        return compare(calls, baseline, rounds, name=name, measure=per_network, goals=goals)


def main(
    quick: Quick = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto (a GPU if there is one).")] = "auto",
    images: Annotated[int, typer.Option(help="Training images; 0: 12,800 on a GPU, 2,560 on the CPU.")] = 0,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="One thread on the CPU, and its time only: for a busy machine.")
    ] = False,
    model: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="With --processor-time: the network.")
    ] = "models.lenet:LeNet5",
    rounds: Annotated[int, typer.Option(help="Measured rounds.")] = 5,
    out: Out = None,
) -> None:
    """Measure seconds for a network's epoch, groups against the best number of processes with one network each."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    images = images or (12_800 if device.startswith("cuda") else 2560)
    if processor_time:
        images, rounds = (512, 3) if quick else (images, rounds)
        finish("Groups", [one_thread(find(model), quantized, images, rounds) for quantized in (False, True)], out)
        return
    results: list[Case] = []
    for quantized in (False, True):
        results += cases(quantized, device, 512 if quick else images, 1 if quick else rounds)
        keep("Groups", results, out)
    notes = []
    for case in results:
        rates = ", ".join(f"{r.name}: {1 / r.value.median:.3g}" for r in case.results)
        notes.append(f"{case.name}, network·epochs of {images:,} images a second: {rates}.")
    notes.append(f"Load average at the end: {os.getloadavg()[0]:.1f} (these processes included).")
    finish("Groups", results, out, tuple(notes))


if __name__ == "__main__":
    typer.run(main)
