"""`analogsim evaluate`: how good a network is on hardware, on several chips and as they age."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ..ages import text
from ..profile import HardwareProfile
from .base import EXIT_CODES, note, numbers, out, plain
from .options import (
    Arg,
    Calibration,
    Chips,
    Data,
    MetricName,
    Model,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    TestSubset,
    Threads,
    WeightsFile,
    check_suffix,
    method_of,
    read_age,
)
from .output import draw
from .subject import subject
from .values import use_threads

if TYPE_CHECKING:
    from ..analysis.evaluate import Evaluation

EPILOG = (
    "[bold]What it does:[/] it puts the network on --profile, calibrates its ranges, programs --chips chips, and "
    "measures the accuracy (or --metric) of each at every --age. Without --profile a network that is on hardware is "
    "measured on that, with the ranges that it has; and a digital one as it is.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim evaluate runs/plain --profile pcm --chips 10 --age 0 --age 1d --age 1mo\n\n"
    "analogsim evaluate runs/plain --profile pcm --age 1y --calibrate-outputs\n\n"
    "analogsim evaluate runs/aware --chips 10   (of a run that was trained with --profile: its own hardware)\n\n"
    "analogsim evaluate --model my_net:MyNet --weights net.pt --data my_data:loader --profile 8bit\n\n"
    f"{EXIT_CODES}"
)


def evaluate(
    run: RunPath = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="NAME|FILE", help="Put the network on this hardware: shipped profile, YAML or JSON."
        ),
    ] = None,
    chips: Chips = 1,
    age: Annotated[
        list[float] | None,
        typer.Option(
            "--age",
            metavar="AGE",
            parser=read_age,
            help="Of the chips since their first read: seconds, or 1h, 1d, 1y. May be given several times. Default: 0.",
        ),
    ] = None,
    ranges: RangesOption = None,
    outputs: Annotated[
        bool,
        typer.Option(
            "--calibrate-outputs",
            help="Measure gain and offset of each output on every chip at every age, on the calibration images, and "
            "correct them digitally.",
        ),
    ] = False,
    calibration: Calibration = 1024,
    data: Data = None,
    test_subset: TestSubset = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    metric: MetricName = None,
    seed: Seed = 0,
    threads: Threads = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="CSV to write, a row for each age and chip; .png goes beside it. Default: evaluation-PROFILE.csv in "
            "the run.",
        ),
    ] = None,
) -> None:
    """Say how good a network is on hardware: on several chips, now and in a month."""
    check_suffix(target, ".csv")
    if ranges is not None and profile is None:
        raise typer.BadParameter("ranges are calibrated for a --profile: give one too", param_hint="--ranges")

    from ..analysis.evaluate import evaluate as measure

    use_threads(threads)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    result = measure(
        on.network,
        on.test,
        **on.measure,
        profile=None if profile is None else HardwareProfile.load(profile),
        chips=chips,
        ages=age or None,
        calibration=None if profile is None else on.sample(calibration),
        method=method_of(ranges, None),
        outputs=on.sample(calibration) if outputs else None,
        seed=seed,
    )
    name = f"evaluation{f'-{Path(profile).stem}' if profile else ''}{'-calibrated-outputs' if outputs else ''}"
    csv = target or on.folder / f"{name}{on.suffix}.csv"
    result.save(csv)
    picture = csv.with_suffix(".png")
    draw(result, picture, (6, 4))
    out().print(table(result))
    note(f"written: {plain(csv)}, {plain(picture.name)}")


def table(found: "Evaluation") -> Table:
    """Return a row an age."""
    show = found.metric.text
    caption = f"digital network: {show(found.digital)}; {plain(found.profile)}; {found.samples} samples"
    result = Table(
        Column("age", no_wrap=True), *numbers(found.metric.title, "std", "worst", "lost", "chips"), caption=caption
    )
    for age, row, values in zip(found.ages, found.summary().to_dict("records"), found.values):
        std = "" if math.isnan(row["std"]) else show(row["std"])
        result.add_row(text(age), show(row["mean"]), std, show(row["worst"]), show(row["lost"]), str(len(values)))
    return result
