"""`analogsim sensitivity`: which layers of a trained network suffer most from the hardware."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ..profile import HardwareProfile
from .base import EXIT_CODES, note, numbers, out, plain
from .options import (
    Age,
    Arg,
    Calibration,
    Chips,
    Data,
    MetricName,
    Model,
    Profile,
    RangesOption,
    RunPath,
    Seed,
    StepPath,
    TestSubset,
    Threads,
    WeightsFile,
    check_suffix,
    method_of,
    own_profile,
)
from .output import draw, write_table
from .subject import subject
from .values import use_threads

if TYPE_CHECKING:
    from ..analysis.sensitivity import Sensitivity

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
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="CSV to write; .png goes beside it. Default: sensitivity-PROFILE.csv in the run.",
        ),
    ] = None,
) -> None:
    """Say which layers suffer most from the hardware: each alone on it, and all but each."""
    check_suffix(target, ".csv")

    from ..analysis.sensitivity import sensitivity as measure

    use_threads(threads)
    on = subject(run, model, arg, weights, data, step, metric, test_subset)
    hardware = own_profile(on.network) if profile is None else HardwareProfile.load(profile)
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
    csv = target or on.folder / f"sensitivity{f'-{Path(profile).stem}' if profile else ''}{on.suffix}.csv"
    write_table(result.to_frame(), csv)
    picture = csv.with_suffix(".png")
    draw(result, picture, (8, 1.6 + 0.28 * len(result.layers)))
    out().print(table(result))
    note(f"written: {plain(csv)}, {plain(picture.name)}")


def table(found: "Sensitivity") -> Table:
    """Return a row a layer, the one to keep digital first."""
    mean = sum(found.whole) / len(found.whole)
    caption = (
        f"digital {found.digital:.4f}; all on {plain(found.profile)} {mean:.4f} (mean of {len(found.whole)} chips)"
    )
    columns = numbers("share", "alone", "others", "lost alone", "gained digital")
    result = Table(Column("layer", no_wrap=True), *columns, caption=caption)
    for row in found.to_frame().to_dict("records"):
        values = (row[key] for key in ("alone", "others", "lost_alone", "gained_digital"))
        result.add_row(plain(row["layer"]), f"{row['share']:.1%}", *(f"{value:.4f}" for value in values))
    return result
