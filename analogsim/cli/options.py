"""What the commands share that put a trained network on hardware: options, conversion and calibration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..ages import seconds
from ..errors import ProfileError
from ..profile import HardwareProfile
from .base import doing
from .values import MOST_THREADS

if TYPE_CHECKING:
    from torch import nn

    from ..batches import Batches, Step

Ranges = Literal["maximum", "percentile", "mse", "noise-aware"]


def read_age(text: str) -> float:
    """Read an age as a shell gives it."""
    try:
        return seconds(text)
    except ProfileError as error:
        raise typer.BadParameter(str(error)) from None


def check_suffix(target: Path | None, suffix: str) -> None:
    """Refuse a file to write whose name does not end so."""
    if target is not None and target.suffix != suffix:
        raise typer.BadParameter(f"{target}: the name must end in {suffix}", param_hint="--out")


RunPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, or its model.safetensors. Without one, name your own network and data: --model, "
        "--weights and --data.",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        help="The hardware: a shipped profile, YAML or JSON. Default: what the run was trained on.",
    ),
]
PutOn = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        help="Put the network on this hardware first (shipped profile, YAML or JSON) and calibrate it. Default: the "
        "network as it is.",
    ),
]
Varied = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME|FILE",
        help="The hardware that is varied: a shipped profile, YAML or JSON. Default: what the run was trained on, else "
        "8bit. Ranges are calibrated anew for each variant.",
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
    typer.Option(
        "--percentile",
        metavar="P",
        min=0,
        max=100,
        help="Ranges at this percentile. Default: the maximum, or --ranges.",
    ),
]
Calibration = Annotated[
    int,
    typer.Option(
        "--calibration", metavar="N", min=1, help="Training images (or samples) that the ranges are taken from."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|MODULE:NAME",
        help="Data to use: digits, cifar10, npz:PATH, folder:PATH; or MODULE:NAME, your own: batches, or a function "
        "that returns them, or a dict of them with 'test' and 'train' (for calibration). Default: the run's.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:NAME",
        help="Your network: a class or function that makes it, or the network itself. With a RUN: what it is built "
        "from; default: what its file says.",
    ),
]
Arg = Annotated[
    list[str] | None,
    typer.Option(
        "--arg", metavar="KEY=VALUE", help="An argument for --model; may be given several times. Default: none."
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights of --model: safetensors (of analogsim.save with hardware and chip), or a state_dict that "
        "torch.save wrote. No code in it is run. Default: those that --model gives.",
    ),
]
StepPath = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="MODULE:NAME",
        help="How your network is called, where the default does not know your batches: a function (model, batch) -> "
        "(output, target).",
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME|MODULE:NAME",
        help="What is measured. Default: accuracy; also top5, token_accuracy, perplexity, f1, miou, auroc, mse, mae, "
        "r2, cosine, spearman; or your own: a torchmetrics.Metric, or a function (output, target).",
    ),
]
TestSubset = Annotated[
    int | None,
    typer.Option(
        "--test-subset",
        metavar="N",
        min=1,
        help="Test on N images only, drawn at random; of your own data on the first batches that hold N samples. "
        "Default: all.",
    ),
]
Chips = Annotated[int, typer.Option("--chips", metavar="N", min=1, help="Chips, where they differ or are noisy.")]
Age = Annotated[
    float,
    typer.Option(
        "--age",
        metavar="AGE",
        parser=read_age,
        help="Of the chips since their first read, for drift: seconds, or 1h, 1d, 1y.",
    ),
]
Ages = Annotated[
    list[float] | None,
    typer.Option(
        "--age",
        metavar="AGE",
        parser=read_age,
        help="Of the chips since their first read: seconds, or 1h, 1d, 1y. May be given several times. Default: 0.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Decides all noise, and the chips.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="JSON to write; .csv and .png go beside it. Default: in the run's folder, named by the command and what "
        "it was asked.",
    ),
]
OutToo = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="JSON to write, too; .csv and .png go beside it. Default: none."),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, or auto (a GPU if there is one).")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, max=MOST_THREADS, help="CPU threads. Default: torch's.")
]


def check_ranges(ranges: str | None, percentile: float | None, profile: str | None) -> None:
    """Refuse a percentile beside another method, and either where nothing is calibrated."""
    for option, given in (("--ranges", ranges), ("--percentile", percentile)):
        if given is not None and profile is None:
            raise typer.BadParameter("ranges are calibrated for a --profile: give one too", param_hint=option)
    if percentile is not None and ranges not in (None, "percentile"):
        raise typer.BadParameter(f"{ranges} takes no percentile; leave one out", param_hint="--percentile")


def own_profile(network: "nn.Module") -> HardwareProfile:
    """Return the hardware that a network is on.

    Raises
    ------
    typer.BadParameter
        It is on none.
    """
    from ..nn import analog_layers

    for _, layer in analog_layers(network):
        return layer.profile
    raise typer.BadParameter("the network is on no hardware: name some", param_hint="--profile")


def hardware_of(network: "nn.Module", profile: str | None, default: str) -> HardwareProfile:
    """Return the hardware that an option names; without one what the run was trained on, else a shipped profile."""
    from ..nn import analog_layers

    trained_on = profile is None and any(analog_layers(network))
    return own_profile(network) if trained_on else HardwareProfile.load(profile or default)


def on_hardware(
    network: "nn.Module",
    profile: str | HardwareProfile,
    batches: "Batches",
    percentile: float | None = None,
    ranges: Ranges | None = None,
    step: "Step | None" = None,
) -> "nn.Module":
    """Convert the network and calibrate its ranges on batches."""
    from ..convert import convert, to_digital
    from ..nn import analog_layers
    from ..ranges.calibrate import calibrate

    if any(analog_layers(network)):  # trained on other hardware
        network = to_digital(network)
    doing("converting and calibrating")
    analog = convert(network, HardwareProfile.load(profile) if isinstance(profile, str) else profile)
    share = 99.9 if percentile is None else percentile
    calibrate(analog, batches, method_of(ranges, percentile), percentile=share, step=step)
    return analog


def method_named(ranges: Ranges | None, percentile: float | None) -> str | None:
    """Return a method of calibration as files are named by it; None of the default."""
    return ranges if percentile is None else f"percentile{percentile:g}"


def method_of(ranges: Ranges | None, percentile: float | None) -> Ranges:
    """Return the method of calibration that two options name."""
    return ranges or ("maximum" if percentile is None else "percentile")
