"""Whole questions: a network programmed and evaluated on chips, beside CrossSim where it is importable, and a sweep."""

from itertools import count as counted
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from threadpoolctl import threadpool_limits

from analogsim import analog_layers, noise_sweep, program
from analogsim.bench import Case, compare, threads
from analogsim.terminal.progress import track

from .common import Out, Quick, Threads, finish
from .published.resnet14 import crosssim, ours

IMAGES, CHIP_IMAGES = 256, 1000
SIGMAS, REPEATS = (0.1, 0.2, 0.3, 0.4), 5  # of the short sweep that is timed
Folder = Annotated[Path | None, typer.Option(help="Of the trained network and its ranges; see published/resnet14.py.")]


def chips(folder: Path | None, number: int, rounds: int) -> Case:
    """Measure ResNet-14 on SONOS cells: programmed anew and read by 256 images, to the digital network."""
    digital, analog = ours(folder, "digital"), ours(folder, "sonos")
    x, seeds = torch.randn(IMAGES, 3, 32, 32), counted()
    program(analog, 0)

    def programmed() -> Any:
        program(analog, next(seeds))
        return analog(x)

    calls = {"digital": lambda: digital(x), "programmed": programmed, "again": lambda: analog(x)}
    with threads(number), torch.no_grad():
        return compare(calls, "digital", rounds, name=f"ResNet-14 on SONOS, {IMAGES} images", goals={"programmed": 1.5})


def peer(folder: Path | None, number: int, rounds: int) -> Case:
    """Measure one chip of ResNet-14 and 1,000 images, programming included, and CrossSim's to it."""
    analog, seeds = ours(folder, "sonos"), counted()
    theirs, reprogram = crosssim(folder, "sonos")
    batches = torch.randn(CHIP_IMAGES, 3, 32, 32).split(IMAGES)

    def here() -> None:
        program(analog, next(seeds))
        for x in batches:
            analog(x)

    def there() -> None:
        reprogram(theirs)
        for x in batches:
            theirs(x)

    with threads(number), threadpool_limits(number, "blas"), torch.no_grad():
        name = f"a chip of ResNet-14 on SONOS, {CHIP_IMAGES} images"
        return compare({"analogsim": here, "CrossSim": there}, "analogsim", rounds, name=name)


def sweep(folder: Path | None, number: int, rounds: int) -> Case:
    """Measure a noise sweep of a converted network, to as many forwards of it."""
    analog = ours(folder, "ideal cells")
    x = torch.randn(IMAGES, 3, 32, 32)
    y = torch.zeros(IMAGES, dtype=torch.long)
    evaluations = 1 + len(SIGMAS) * REPEATS

    def forwards() -> None:
        for _ in range(evaluations):
            analog(x)

    def swept() -> Any:
        return noise_sweep(analog, (x, y), SIGMAS, REPEATS, quantity="noise.output", progress=False)

    with threads(number), torch.no_grad():
        for _, layer in analog_layers(analog):  # a forward with the noise that is swept
            layer.profile = layer.profile.varied(noise={"output": SIGMAS[0]})
        calls = {"forwards": forwards, "sweep": swept}
        return compare(calls, "forwards", rounds, name=f"{evaluations} evaluations of ResNet-14", goals={"sweep": 1.15})


def main(
    quick: Quick = False,
    count: Threads = [1, 2],  # noqa: B006 - typer copies it
    folder: Folder = None,
    out: Out = None,
) -> None:
    """Measure ResNet-14 programmed and read, beside CrossSim (ten chips of it), and within a sweep."""
    jobs, notes = [(job, n) for n in count for job in (chips, sweep)], []
    try:
        crosssim(folder, "sonos")
        jobs += [(peer, n) for n in count]
    except ImportError:
        notes = ["CrossSim cannot be imported here, and is not measured."]
    rounds = {chips: 11, sweep: 5, peer: 10}
    cases = [job(folder, n, 2 if quick else rounds[job]) for job, n in track(jobs, "Questions")]
    finish("Whole questions", cases, out, tuple(notes))


if __name__ == "__main__":
    typer.run(main)
