"""`analogsim sweep`: one trained network over a noise grid, and its midpoint noise level µ."""

from dataclasses import replace
from typing import Annotated

import typer

from ..errors import FitError
from ..machine import choose_device
from ..quantities import quantity_named
from ..result import write_frame
from ..storage.files import writable
from .base import EXIT_CODES, doing, present
from .curves import draw
from .options import (
    Age,
    Arg,
    Calibration,
    Data,
    Device,
    MetricName,
    Model,
    Out,
    Percentile,
    PutOn,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    TestSubset,
    Threads,
    WeightsFile,
    check_ranges,
    method_named,
    method_of,
    on_hardware,
    own_profile,
)
from .output import Force, FormOption, asked, claimed, file_name, written
from .subject import subject
from .values import sigma_grid, use_threads

EPILOG = (
    "[bold]Examples:[/]\n\n"
    "analogsim sweep runs/plain\n\n"
    "analogsim sweep runs/plain --sigmas 'logspace(-1,1,9)' --repeats 10\n\n"
    "analogsim sweep runs/plain --profile 8bit   (convert, calibrate, then sweep the noise at the ADC)\n\n"
    "analogsim sweep --model my_net:MyNet --weights net.pt --data my_data:loader --metric perplexity\n\n"
    "analogsim sweep runs/noisy --quantity weights --out weights.json\n\n"
    "analogsim sweep runs/resnet --batch-norm 1000   (statistics as they are under each noise)\n\n"
    "A run that was trained with --profile is swept on its own hardware, with the ranges that it was trained with, "
    "unless another --profile is given.\n\n"
    f"{EXIT_CODES}"
)


def _named(quantity: str | None) -> str | None:
    try:
        return quantity and quantity_named(quantity)
    except FitError as error:
        raise typer.BadParameter(str(error)) from None


def sweep(
    context: typer.Context,
    run: RunPath = None,
    sigmas: Annotated[
        str,
        typer.Option(
            metavar="GRID", help="Noise levels: logspace(a,b,n), geomspace(a,b,n), linspace(a,b,n) or a list 0.1,0.3,1."
        ),
    ] = "logspace(-2,2,17)",
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Evaluations at each σ, with independent noise.")
    ] = 5,
    quantity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_named,
            help="What σ is of: activations (the default), weights, or a field of the hardware: noise.output (the "
            "default with --profile), noise.read, noise.multiplicative.",
        ),
    ] = None,
    profile: PutOn = None,
    age: Age = 0.0,
    calibration: Calibration = 1024,
    ranges: RangesOption = None,
    percentile: Percentile = None,
    batch_norm: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Estimate batch normalisation's statistics anew at every σ, from N training images. 0: keep them.",
        ),
    ] = 0,
    data: Data = None,
    test_subset: TestSubset = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    metric: MetricName = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    target: Out = None,
    form: FormOption = "table",
    force: Force = False,
) -> None:
    """Measure a trained network's accuracy (or --metric) over a grid of noise, and its midpoint noise level µ."""
    grid = sigma_grid(sigmas)
    check_ranges(ranges, percentile, profile)
    # Noise on weights is added before they are quantized; hardware is programmed with what they were quantized to.
    on = subject(run, model, arg, weights, data, step, metric, test_subset, frozen=profile is not None)
    network = on.network
    on_chips = profile is not None or on.hardware
    what = quantity_named(quantity or ("noise.output" if on_chips else "activations"))
    if what.startswith("noise.") and not on_chips:
        raise typer.BadParameter(f"{what} is a field of the hardware: give --profile too", param_hint="--quantity")
    wanted = asked(context)
    more = method_named(ranges, percentile), "batch-norm" if batch_norm else None
    name = file_name("sweep", profile, [age], None if what == "activations" else what, *more)
    path = claimed(target or on.folder / f"{name}{on.suffix}.json", wanted, force)

    from ..batches import BATCH
    from ..machine import provenance
    from ..program import at_time, program
    from ..robustness.curve_table import curves_table
    from ..robustness.sweep import noise_sweep

    use_threads(threads)
    where = choose_device(device)
    if profile is not None:
        network = on_hardware(network, profile, on.sample(calibration), percentile, ranges, on.step)
    if on_chips:
        if profile is not None or not on.has_chip:
            program(network, seed)
        if profile is not None or not on.has_chip or age:
            at_time(network, age)
    statistics = on.sample(batch_norm, BATCH) if batch_norm else None
    doing("measuring")
    curve = noise_sweep(
        network,
        on.test,
        grid,
        repeats,
        quantity=what,
        chance=on.chance,
        **on.measure,
        seed=seed,
        device=where,
        batch_norm=statistics,
    )
    measured = on.about | {"batch_norm_images": batch_norm}
    if on_chips:
        measured |= {"profile": own_profile(network).model_dump(mode="json"), "age": age}
    if profile is not None:
        measured |= {"ranges": method_of(ranges, percentile), "percentile": percentile, "calibration": calibration}
    curve = replace(curve, about=curve.about | measured | provenance(where) | {"asked": wanted})

    with writable(path):
        curve.save(path)
    write_frame(curve.to_frame(), path.with_suffix(".csv"))
    curves = {on.folder.resolve().name: curve}
    draw(curves, path.with_suffix(".png"))
    present(curves_table(curves), form)
    written(path)
