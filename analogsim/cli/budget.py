"""`analogsim budget`: which stage of the hardware adds how much error to a trained network, layer by layer."""

from typing import Annotated

import typer

from .base import EXIT_CODES, doing
from .options import (
    Age,
    Arg,
    Calibration,
    Data,
    Model,
    Out,
    Percentile,
    Profile,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    Threads,
    WeightsFile,
    check_ranges,
    method_named,
    on_hardware,
    own_profile,
)
from .output import Force, FormOption, asked, claimed, file_name, kept
from .subject import subject
from .values import use_threads

EPILOG = (
    "[bold]How to read it:[/] each number is a standard deviation in activation units of the layer's output, so it "
    "compares directly with the σ of `analogsim sweep`. The largest stage is the one to spend bits or quieter cells "
    "on. The last line is the network's: the σ of noise on all activations that disturbs its output as much as this "
    "hardware does; beside µ of `analogsim sweep` it says how far the network is from failing.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim budget runs/plain --profile 8bit\n\n"
    "analogsim budget runs/plain --profile noisy --ranges noise-aware --out noisy.json\n\n"
    "analogsim budget runs/aware   (of a run that was trained with --profile: its own hardware and ranges)\n\n"
    f"{EXIT_CODES}"
)


def budget(
    context: typer.Context,
    run: RunPath = None,
    profile: Profile = None,
    ranges: RangesOption = None,
    percentile: Percentile = None,
    calibration: Calibration = 1024,
    images: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Test images that the errors are measured on; of your own data the first batch."
        ),
    ] = 256,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Simulated reads that the prediction is compared with.")
    ] = 4,
    data: Data = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    age: Age = 0.0,
    seed: Seed = 0,
    threads: Threads = None,
    target: Out = None,
    form: FormOption = "table",
    force: Force = False,
) -> None:
    """Say which stage of the hardware (DAC, weights, noise, ADC) adds how much error to every layer's output."""
    check_ranges(ranges, percentile, profile)

    from ..analysis.budget import noise_budget
    from ..program import at_time, program

    use_threads(threads)
    wanted = asked(context)
    on = subject(run, model, arg, weights, data, step, None)
    network = on.network
    name = file_name("budget", profile, [age], method_named(ranges, percentile))
    path = claimed(target or on.folder / f"{name}{on.suffix}.json", wanted, force)
    if profile is None:
        own_profile(network)
    else:
        network = on_hardware(network, profile, on.sample(calibration), percentile, ranges, on.step)
    if profile is not None or not on.has_chip:
        program(network, seed)
    if age:
        at_time(network, age)
    doing("measuring")
    result = noise_budget(network, on.test_sample(images), repeats=repeats, step=on.step, seed=seed)
    kept(result, path, wanted, (3.2 + 1.1 * len(result.layers), 4.6), form)
