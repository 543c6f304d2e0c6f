"""`analogsim search`: the cheapest hardware on which a trained network stays accurate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import DataError, SearchError
from ..result import write_frame
from ..storage.files import writable
from .base import EXIT_CODES, doing, note, plain, present, say
from .options import (
    Age,
    Arg,
    Calibration,
    Data,
    MetricName,
    Model,
    RunPath,
    StepPath,
    Threads,
    Varied,
    WeightsFile,
    hardware_of,
)
from .output import FormOption, draw
from .subject import subject
from .values import use_threads

if TYPE_CHECKING:
    from ..analysis.search import DesignSearch

EPILOG = (
    "[bold]What it does:[/] it tries designs (ADC and DAC bits, rows of a tile, how ranges are calibrated, or whatever "
    "fields of the profile --space names), each on the test images, and keeps the cheapest whose accuracy is "
    "within --drop of the digital network's. Every design goes into a journal in the output folder: the same command "
    "goes on where it was interrupted, and with more --trials it searches on. Needs Optuna: pip install "
    "'analogsim\\[search]'.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim search runs/plain --drop 0.005\n\n"
    "analogsim search runs/plain --space adc.bits=4-8 --space tile.rows=64,128,256 --trials 100\n\n"
    "analogsim search runs/plain --profile mychip.yaml --objective energy   (needs the profile's part cost)\n\n"
    f"{EXIT_CODES}"
)


def search(
    run: RunPath = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUES",
            help="A field of the profile and its values, 4-8 or 64,128,256; calibration=maximum,mse for the method. "
            "May be given several times. Default: adc.bits=3-10 dac.bits=3-8 tile.rows=64,128,256,512, and "
            "calibration by maximum, percentile or mse.",
        ),
    ] = None,
    profile: Varied = None,
    objective: Annotated[
        Literal["conversion_steps", "energy", "latency", "adc_conversions"],
        typer.Option(
            metavar="NAME",
            help="What is to be low: conversion_steps (conversions times 2^bits, which energy grows with), energy, "
            "latency, adc_conversions.",
        ),
    ] = "conversion_steps",
    drop: Annotated[
        float,
        typer.Option(
            metavar="P", min=0, help="Allowed loss of accuracy; 0.01 is one point. Of another --metric in its own unit."
        ),
    ] = 0.01,
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Designs to try in all.")] = 60,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Evaluations of a noisy design, each a chip.")] = 1,
    calibration: Calibration = 512,
    data: Data = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    metric: MetricName = None,
    age: Age = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Decides noise, chips and proposals.")] = 0,
    threads: Threads = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Gets search.journal, designs.json, designs.csv, pareto.png, best.yaml. Default: search in the run.",
        ),
    ] = None,
    form: FormOption = "table",
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew where the folder holds a search with other options.")
    ] = False,
) -> None:
    """Find the cheapest hardware (converter bits, tile rows, ranges) on which the network stays accurate."""
    from ..analysis.search import design_search

    use_threads(threads)
    choices = read_space(space) if space else None
    on = subject(run, model, arg, weights, data, step, metric)
    base = hardware_of(on.network, profile, "8bit")
    folder = target or on.folder / f"search{on.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None
    journal = folder / "search.journal"
    if force:
        with writable(journal):
            journal.unlink(missing_ok=True)
    doing("measuring")
    result = design_search(
        on.network,
        on.test,
        choices,
        objective,
        **on.measure,
        calibration=on.sample(calibration),
        base=base,
        max_drop=drop,
        trials=trials,
        repeats=repeats,
        seed=seed,
        age=age,
        storage=journal,
    )
    result.save(folder / "designs.json")
    write_frame(result.to_frame(), folder / "designs.csv")
    draw(result, folder / "pareto.png", (8, 4.6))
    if result.best is not None:
        write_profile(result, folder / "best.yaml")
    present(result.table(), form)
    if result.best is None:
        digital = result.metric.text(result.accuracy)
        say(f"[yellow]no design keeps within {drop:g} of {digital}[/]: allow more, or search wider")
    best = "" if result.best is None else "best.yaml, "
    note(f"written: {plain(folder)}: {best}designs.json, designs.csv, pareto.png, search.journal")


def read_space(items: Sequence[str]) -> dict[str, list[Any]]:
    """Read a space as a shell gives it: "adc.bits=4-8", "tile.rows=64,128,256", "calibration=maximum,mse".

    Raises
    ------
    SearchError
        An item is not FIELD=VALUES.
    """
    space: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        first, dash, last = text.partition("-")
        if not (key and equals and text):
            raise SearchError(f"{item!r}: FIELD=VALUES is needed, such as adc.bits=4-8 or tile.rows=64,128")
        if dash and first.isdigit() and last.isdigit():
            space[key] = list(range(int(first), int(last) + 1))
        else:
            space[key] = [_value(part.strip()) for part in text.split(",")]
        if not space[key]:
            raise SearchError(f"{item!r}: holds no value")
    return space


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def write_profile(search: "DesignSearch", path: Path) -> None:
    """Write the best design's profile as YAML, or as JSON where the path ends in `.json`."""
    design = search.best
    profile = search.profile(design)
    assert design is not None  # profile() raises
    method = design.values.get("calibration", "maximum")
    profile.varied(name=path.stem, description=f"Found by a design search; calibrate its ranges by {method}.").save(
        path
    )
