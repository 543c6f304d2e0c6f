"""`analogsim compare`: one network on several kinds of hardware, side by side."""

from pathlib import Path
from typing import Annotated

import typer

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
    "[bold]What it does:[/] it puts the network on each --profile, calibrates its ranges, programs --chips chips, "
    "measures the accuracy (or --metric) of each at every --age, and counts what one input costs.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim compare runs/plain --profile pcm --profile hermes --profile mychip.yaml --age 0 --age 1mo\n\n"
    "analogsim compare --model my_net:MyNet --weights net.pt --data my_data:loader --profile 8bit --profile isaac\n\n"
    f"{EXIT_CODES}"
)


def compare(
    context: typer.Context,
    run: RunPath = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="NAME|FILE",
            help="Hardware: a shipped profile, YAML or JSON. May be given several times; none is the default.",
        ),
    ] = None,
    chips: Chips = 3,
    age: Ages = None,
    ranges: RangesOption = None,
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
    """Compare a network on several kinds of hardware: how good on each, as chips age, and what it costs."""
    if not profile:
        raise typer.BadParameter("name the hardware, several times", param_hint="--profile")

    from ..analysis.compare import compare as measure

    use_threads(threads)
    wanted = asked(context)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    name = "-".join(["comparison", *(Path(one).stem for one in profile)])
    path = claimed(target or on.folder / f"{file_name(name, None, age, ranges)}{on.suffix}.json", wanted, force)
    doing("measuring")
    result = measure(
        on.network,
        on.test,
        profile,
        **on.measure,
        chips=chips,
        ages=age or 0,
        calibration=on.sample(calibration),
        method=method_of(ranges, None),
        seed=seed,
    )
    kept(result, path, wanted, (7, 4.2), form)
