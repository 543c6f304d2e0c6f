"""What the commands share that put a trained network on hardware: options, conversion and calibration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..ages import seconds
from ..errors import ProfileError
from ..profile import HardwareProfile
from .run_file import Run, weights_file
from .values import MOST_THREADS

if TYPE_CHECKING:
    from torch import nn

    from ..training.data import DataSet

Ranges = Literal["maximum", "percentile", "mse", "noise-aware"]


def _age(text: str) -> float:
    try:
        return seconds(text)
    except ProfileError as error:
        raise typer.BadParameter(str(error)) from None


def check_suffix(target: Path | None, suffix: str) -> None:
    """Refuse a file to write whose name does not end so."""
    if target is not None and target.suffix != suffix:
        raise typer.BadParameter(f"{target}: the name must end in {suffix}", param_hint="--out")


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its model.safetensors.")]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        help="The hardware: a shipped profile, YAML or JSON. Default: what the run was trained on.",
    ),
]
RangesOption = Annotated[
    Ranges | None,
    typer.Option(
        "--ranges",
        metavar="METHOD",
        help="How converters' ranges follow from data: maximum (the default), percentile, mse (least error of each "
        "converter), noise-aware (least output error under the profile's noise).",
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option("--percentile", metavar="P", min=0, max=100, help="Ranges at this percentile instead of the maximum."),
]
Calibration = Annotated[
    int, typer.Option("--calibration", metavar="N", min=1, help="Training images that the ranges are taken from.")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Data set to use: digits, cifar10, npz:PATH, folder:PATH. Default: the run's.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:NAME",
        help="Import path to build the network from, instead of the one in the file.",
    ),
]
TestSubset = Annotated[
    int | None, typer.Option("--test-subset", metavar="N", min=1, help="Test on N images drawn at random only.")
]
Chips = Annotated[int, typer.Option("--chips", metavar="N", min=1, help="Chips, where they differ or are noisy.")]
Age = Annotated[
    float,
    typer.Option(
        "--age",
        metavar="AGE",
        parser=_age,
        help="Of the chips since their first read, for drift: seconds, or 1h, 1d, 1y.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Decides all noise, and the chips.")]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, or auto (a GPU if there is one).")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, max=MOST_THREADS, help="CPU threads. Default: torch's.")
]


def load_run(
    run: Path, model: str | None, data: str | None, test_subset: int | None = None, about: Run | None = None
) -> tuple[Path, "nn.Module", "DataSet"]:
    """Return a run's weights file, its network and its data; `about`: what was loaded from there already."""
    from ..training.data import load_data
    from ..training.network import check_fit

    file = weights_file(run)
    about = about or Run.load(file)
    network = about.network(file, model)
    images = load_data(data or about.data).subset(test=test_subset or (about.test_subset if data is None else None))
    check_fit(network, images)
    return file, network, images


def check_ranges(ranges: str | None, percentile: float | None, profile: str | None) -> None:
    """Refuse a percentile beside another method, and either where nothing is calibrated."""
    for option, given in (("--ranges", ranges), ("--percentile", percentile)):
        if given is not None and profile is None:
            raise typer.BadParameter("ranges are calibrated for a --profile: give one too", param_hint=option)
    if percentile is not None and ranges not in (None, "percentile"):
        raise typer.BadParameter(f"{ranges} takes no percentile; leave one out", param_hint="--percentile")


def own_profile(network: "nn.Module") -> HardwareProfile:
    """Return the hardware that a run was trained on.

    Raises
    ------
    typer.BadParameter
        It was trained without.
    """
    from ..nn import analog_layers

    for _, layer in analog_layers(network):
        return layer.profile
    raise typer.BadParameter("the run was trained without hardware: name some", param_hint="--profile")


def hardware_of(network: "nn.Module", profile: str | None, default: str) -> HardwareProfile:
    """Return the hardware that an option names; without one what the run was trained on, else a shipped profile."""
    from ..nn import analog_layers

    trained_on = profile is None and any(analog_layers(network))
    return own_profile(network) if trained_on else HardwareProfile.load(profile or default)


def on_hardware(
    network: "nn.Module",
    profile: str | HardwareProfile,
    images: "DataSet",
    calibration: int,
    percentile: float | None = None,
    ranges: Ranges | None = None,
) -> "nn.Module":
    """Convert the network and calibrate its ranges on training images."""
    from ..convert import convert, to_digital
    from ..nn import analog_layers
    from ..ranges.calibrate import calibrate

    if any(analog_layers(network)):  # trained on other hardware
        network = to_digital(network)
    analog = convert(network, HardwareProfile.load(profile) if isinstance(profile, str) else profile)
    batches = images.train_sample(calibration)
    calibrate(analog, batches, method_of(ranges, percentile), percentile=99.9 if percentile is None else percentile)
    return analog


def method_of(ranges: Ranges | None, percentile: float | None) -> Ranges:
    """Return the method of calibration that two options name."""
    return ranges or ("maximum" if percentile is None else "percentile")
