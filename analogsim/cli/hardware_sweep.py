"""`analogsim hardware-sweep`: a trained network over any fields of the hardware."""

from pathlib import Path
from typing import Annotated

import typer

from .base import EXIT_CODES, doing
from .options import (
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
    Varied,
    WeightsFile,
    hardware_of,
    method_of,
)
from .output import Force, FormOption, asked, claimed, file_name, kept
from .search import read_space
from .subject import subject
from .values import use_threads

EPILOG = (
    "[bold]What it does:[/] it puts the network on every combination of the values that --vary names, calibrates its "
    "ranges anew, programs --chips chips, and measures the accuracy (or --metric) on the test data. `analogsim profile "
    "schema` lists the fields; age is the chips' (90, 1h, 1d, 1mo, 1y), calibration the method that sets ranges.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim hardware-sweep runs/plain --vary adc.bits=4-8\n\n"
    "analogsim hardware-sweep runs/plain --profile pcm --vary adc.bits=4,6,8 --vary age=0,1d,1y --chips 5\n\n"
    f"{EXIT_CODES}"
)


def hardware_sweep(
    context: typer.Context,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUES",
            help="A field of the profile and its values, 4-8 or 64,128,256; age=0,1d,1y; calibration=maximum,mse. May "
            "be given several times: all combinations are measured, the first is drawn from left to right.",
        ),
    ],
    run: RunPath = None,
    profile: Varied = None,
    chips: Chips = 3,
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
    """Measure the accuracy over any fields of the hardware: --vary adc.bits=4,6,8 --vary age=0,1d,1y."""
    axes = read_space(vary)

    from ..analysis.hardware_sweep import hardware_sweep as measure

    use_threads(threads)
    wanted = asked(context)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    name = file_name(Path(profile).stem if profile else "hardware", None, None, *axes, ranges)
    path = claimed(target or on.folder / f"{name}{on.suffix}.json", wanted, force)
    journal = path.with_suffix(".journal")  # until the result is there, for who is interrupted
    if force:
        journal.unlink(missing_ok=True)
    doing("measuring")
    result = measure(
        on.network,
        on.test,
        axes,
        profile=hardware_of(on.network, profile, "8bit"),
        **on.measure,
        calibration=on.sample(calibration),
        method=method_of(ranges, None),
        chips=chips,
        seed=seed,
        storage=journal,
    )
    kept(result, path, wanted, (7, 4.2), form)
    journal.unlink(missing_ok=True)
