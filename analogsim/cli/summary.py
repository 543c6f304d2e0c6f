"""`analogsim summary`: which layer of a network is on which hardware, and what stays digital and why."""

import typer

from .base import EXIT_CODES, present
from .options import (
    Arg,
    Calibration,
    Data,
    Model,
    OutToo,
    Profile,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    WeightsFile,
    on_hardware,
)
from .output import Force, FormOption, asked, claimed, kept
from .subject import subject

EPILOG = (
    "[bold]How to read it:[/] a row is a matrix: the arrays that it takes, the ranges of its converters, its chip, how "
    "often a batch of test data calls it, and what computes it; of a digital one, why it is digital.\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim summary runs/plain --profile pcm\n\n"
    "analogsim summary --model my_net:MyNet --data my_data:loader --profile 8bit\n\n"
    f"{EXIT_CODES}"
)


def summary(
    context: typer.Context,
    run: RunPath = None,
    profile: Profile = None,
    ranges: RangesOption = None,
    calibration: Calibration = 1024,
    data: Data = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    seed: Seed = 0,
    target: OutToo = None,
    form: FormOption = "table",
    force: Force = False,
) -> None:
    """Say which layer of a network is on which hardware, and what stays digital and why."""
    from ..program import program
    from ..summary import summary as found_in

    wanted = asked(context)
    path = None if target is None else claimed(target, wanted, force)
    on = subject(run, model, arg, weights, data, step, None)
    network = on.network
    if profile is not None:
        network = on_hardware(network, profile, on.sample(calibration), None, ranges, on.step)
        program(network, seed)
    result = found_in(network, on.test_sample(1), step=on.step)
    if path is not None:
        kept(result, path, wanted, (7, 1.2 + 0.26 * len(result.layers)), form)
    else:
        present(result.table(), form)
