"""`analogsim budget`: which stage of the hardware adds how much error to a trained network, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ..storage.files import writable
from .base import EXIT_CODES, note, numbers, out, plain
from .options import (
    Arg,
    Calibration,
    Data,
    Model,
    Percentile,
    Profile,
    RangesOption,
    RunPath,
    StepPath,
    Threads,
    WeightsFile,
    check_ranges,
    check_suffix,
    on_hardware,
    own_profile,
)
from .output import draw, write_table
from .subject import subject
from .values import use_threads

if TYPE_CHECKING:
    from ..analysis.budget import NoiseBudget

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
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Decides the simulated noise, and the chip.")] = 0,
    threads: Threads = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="JSON to write; .csv and .png go beside it. Default: budget-PROFILE.json in the run.",
        ),
    ] = None,
) -> None:
    """Say which stage of the hardware (DAC, weights, noise, ADC) adds how much error to every layer's output."""
    check_ranges(ranges, percentile, profile)
    check_suffix(target, ".json")

    from ..analysis.budget import noise_budget
    from ..program import program

    use_threads(threads)
    on = subject(run, model, arg, weights, data, step, None)
    network = on.network
    if profile is None:
        own_profile(network)
    else:
        network = on_hardware(network, profile, on.sample(calibration), percentile, ranges, on.step)
    if profile is not None or not on.has_chip:
        program(network, seed)
    result = noise_budget(network, on.test_sample(images), repeats=repeats, step=on.step, seed=seed)
    stem = target or on.folder / f"budget{f'-{Path(profile).stem}' if profile else ''}{on.suffix}.json"
    with writable(stem):
        result.save(stem)
    csv, picture = stem.with_suffix(".csv"), stem.with_suffix(".png")
    write_table(result.to_frame(), csv)
    draw(result, picture, (3.2 + 1.1 * len(result.layers), 4.6))
    out().print(table(result))
    out().print(f"equivalent σ of the network: {result.equivalent_sigma:.3g} (profile {plain(result.profile)})")
    note(f"written: {plain(stem)}, {plain(csv.name)}, {plain(picture.name)}")


def table(budget: "NoiseBudget") -> Table:
    """Return a row a layer: the standard deviation that each stage adds, σ predicted and simulated, SNR, clipping."""
    stages = [stage for stage in budget.layers[0].stages if any(layer.stages[stage] for layer in budget.layers)]
    titles = [stage.replace("noise_", "").replace("_", " ") for stage in stages]
    titles += ["σ", "simulated", "SNR dB", "DAC clips", "ADC clips"]
    result = Table(Column("layer", no_wrap=True), *numbers(*titles))
    for layer in budget.layers:
        figures = [layer.stages[stage] ** 0.5 for stage in stages]
        figures += [layer.equivalent_sigma, layer.measured**0.5]
        clipped = f"{layer.input_clipped:.2%}", f"{layer.adc_clipped:.2%}"
        result.add_row(plain(layer.name), *(f"{value:.2g}" for value in figures), f"{layer.snr:.1f}", *clipped)
    return result
