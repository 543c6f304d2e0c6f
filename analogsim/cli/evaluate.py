"""`analogsim evaluate`: how good a network is on hardware, on several chips and as they age."""

from typing import Annotated

import typer

from ..profile import HardwareProfile
from .base import EXIT_CODES, doing
from .options import (
    Ages,
    Arg,
    Calibration,
    Chips,
    Data,
    MetricName,
    Model,
    Out,
    PutOn,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    TestSubset,
    Threads,
    WeightsFile,
    method_of,
)
from .output import Force, FormOption, asked, claimed, file_name, kept
from .subject import subject
from .values import use_threads

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
    context: typer.Context,
    run: RunPath = None,
    profile: PutOn = None,
    chips: Chips = 1,
    age: Ages = None,
    ranges: RangesOption = None,
    outputs: Annotated[
        bool,
        typer.Option(
            "--calibrate-outputs",
            help="Measure gain and offset of each output on every chip at every age, on the calibration images, and "
            "correct them digitally.",
        ),
    ] = False,
    batch_norm: Annotated[
        bool,
        typer.Option(
            "--batch-norm",
            help="Estimate the statistics of batch normalisation anew on every chip at every age, on the calibration "
            "images.",
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
    target: Out = None,
    form: FormOption = "table",
    force: Force = False,
) -> None:
    """Say how good a network is on hardware: on several chips, now and in a month."""
    if ranges is not None and profile is None:
        raise typer.BadParameter("ranges are calibrated for a --profile: give one too", param_hint="--ranges")

    from ..analysis.evaluate import evaluate as measure

    use_threads(threads)
    wanted = asked(context)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    adapted = "calibrated-outputs" if outputs else None, "batch-norm" if batch_norm else None
    name = file_name("evaluation", profile, age, ranges, *adapted)
    path = claimed(target or on.folder / f"{name}{on.suffix}.json", wanted, force)
    doing("measuring")
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
        batch_norm=on.sample(calibration) if batch_norm else None,
        seed=seed,
    )
    kept(result, path, wanted, (6, 4), form)
