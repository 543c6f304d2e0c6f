"""`analogsim sensitivity`: which layers of a trained network suffer most from the hardware."""

import typer

from ..profile import HardwareProfile
from .base import EXIT_CODES, doing
from .options import (
    Age,
    Arg,
    Calibration,
    Chips,
    Data,
    MetricName,
    Model,
    Out,
    Profile,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    TestSubset,
    Threads,
    WeightsFile,
    method_of,
    own_profile,
)
from .output import Force, FormOption, asked, claimed, file_name, kept
from .subject import subject
from .values import use_threads

EPILOG = (
    "[bold]How to read it:[/] 'alone' is the accuracy (or --metric) with this layer on hardware and all others "
    "digital, 'others' with this layer digital and all others on hardware. The first layer gains most by staying "
    "digital. Means of --chips chips, the same ones in every row.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim sensitivity --model my_net:MyNet --weights net.pt --data my_data:loader --profile pcm\n\n"
    "analogsim sensitivity runs/plain --profile pcm --age 1d\n\n"
    "analogsim sensitivity runs/plain --profile mychip.yaml --chips 10 --test-subset 500\n\n"
    f"{EXIT_CODES}"
)


def sensitivity(
    context: typer.Context,
    run: RunPath = None,
    profile: Profile = None,
    chips: Chips = 3,
    age: Age = 0.0,
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
    """Say which layers suffer most from the hardware: each alone on it, and all but each."""
    from ..analysis.sensitivity import sensitivity as measure

    use_threads(threads)
    wanted = asked(context)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    hardware = own_profile(on.network) if profile is None else HardwareProfile.load(profile)
    name = file_name("sensitivity", profile, [age], ranges)
    path = claimed(target or on.folder / f"{name}{on.suffix}.json", wanted, force)
    doing("measuring")
    result = measure(
        on.network,
        hardware,
        on.test,
        **on.measure,
        calibration=on.sample(calibration),
        method=method_of(ranges, None),
        chips=chips,
        age=age,
        seed=seed,
    )
    kept(result, path, wanted, (8, 1.6 + 0.28 * len(result.layers)), form)
