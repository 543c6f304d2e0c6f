"""Accuracy of ResNet-14 on PCM against time, trained plainly and for hardware, beside V. Joshi et al.'s."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.lines import Line2D
from torch import nn

from analogsim import HardwareProfile, evaluate, style
from analogsim.training.data import DataSet

from ..common import IMAGES as PICTURES
from .kept import Chips, Folder, Kept
from .recovery import CHIPS_SEED, IMAGES, METHOD, OUT, PRESETS, SPEC, seen, shown, trained, training_data

FIGURE = PICTURES / "over-time.png"
AGES = ("0", "1000s", "1h", "1d", "1mo", "1y")
LABELS = ("first read", "1000 s", "1 hour", "1 day", "1 month", "1 year")
JOSHI = ((0, 0.12, "25 s"), (1, 83.9, "no compensation"), (3, 1.27, "one factor"), (3, 0.37, "statistics anew"))
"""Place on the axis of ages, and what V. Joshi et al. (2020) lost of 93.87 %: their figures for a day are bounds."""
WAYS = {
    "none": "nothing",
    "global": "one factor a layer",
    "statistics": "one factor a layer, statistics of batch normalisation anew",
    "output": "one factor an output",
    "outputs": "`calibrate_outputs`",
}
"""What is done against drift; `statistics` are those of batch normalisation, as Joshi et al. renew them."""
NETWORKS = ("published", "noise")


def measure(net: nn.Module, preset: str, way: str, folder: Path, chips: int) -> dict[str, Any]:
    """Return a network's accuracy on the lossless images, digitally, and for each age that of every chip."""
    compensation = {"none": "none", "outputs": "none", "output": "output"}.get(way, "global")
    found = evaluate(
        net,
        shown(folder, "lossless"),
        profile=HardwareProfile.load(preset).varied(drift={"compensation": compensation}),
        chips=chips,
        ages=AGES,
        calibration=seen(folder),
        method=METHOD,
        outputs=seen(folder) if way == "outputs" else None,
        batch_norm=seen(folder, varied=True) if way == "statistics" else None,
        seed=CHIPS_SEED,
        progress=False,
    )
    return {"samples": found.samples, "digital": found.digital, "accuracy": [list(row) for row in found.values]}


def over_time(
    folder: Folder,
    chips: Chips = 5,
    epochs: Annotated[int, typer.Option(min=1, help="As of `recovery`, whose networks are measured.")] = SPEC.epochs,
    count: Annotated[int, typer.Option("--images", min=1, help="As of `recovery`.")] = IMAGES,
    only: Annotated[list[str] | None, typer.Option(help="Presets, networks, ways; repeatable. Default: all.")] = None,
    out: Annotated[Path, typer.Option(help="As of `recovery`.")] = OUT,
) -> None:
    """Measure ResNet-14 on PCM for a year, trained plainly and under noise, with each way to compensate the drift."""
    kept = Kept("over-time", {"epochs": epochs, "images": count, "ages": list(AGES)})
    data: DataSet | None = None
    presets = [one for one in PRESETS if only is None or one in only] or PRESETS
    names = [one for one in NETWORKS if only is None or one in only] or NETWORKS
    ways = [one for one in WAYS if only is None or one in only] or WAYS
    for part in kept.missing(f"{preset}, {name}, {way}" for way in ways for preset in presets for name in names):
        preset, name, way = part.split(", ")
        data = training_data(folder, count) if data is None else data
        net = trained(name, folder, data, SPEC.varied(epochs=epochs), out)
        found = measure(net, preset, way, folder, chips)
        kept.keep(part, found)
        typer.echo(f"{part}: digital {found['digital']:.4f}, {np.mean(found['accuracy'], 1).round(4)}")
    draw(kept.values["parts"], FIGURE)


def draw(parts: dict[str, Any], path: Path) -> None:
    """Draw what is lost of the digital accuracy against the age of a chip, a panel for each preset."""
    with style.picture(path, (9.5, 5), dpi=110) as figure:
        drawn(parts, figure)


def drawn(parts: dict[str, Any], figure: Any) -> None:
    """Draw the panels into a figure."""
    panels = figure.subplots(1, len(PRESETS), sharey=True, squeeze=False)[0]
    places = range(len(AGES))
    for ax, preset in zip(panels, PRESETS):
        for number, way in enumerate(WAYS):
            for name, line in (("published", "--"), ("noise", "-")):
                if (found := parts.get(f"{preset}, {name}, {way}")) is None:
                    continue
                lost = 100 * (found["digital"] - np.array(found["accuracy"]))
                look = style.look(number)
                ax.plot(places, lost.mean(1), f"{look.marker}{line}", color=look.color, linewidth=1.3, markersize=4)
                if len(lost[0]) > 1:
                    low, high = lost.mean(1) - lost.std(1, ddof=1), lost.mean(1) + lost.std(1, ddof=1)
                    ax.fill_between(places, low, high, color=look.color, alpha=style.BAND, linewidth=0)
        ax.set_title(preset)
        ax.set_xticks(places, LABELS, fontsize=8)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([0, 1, 2, 5, 10, 20, 50, 90], ["0", "1", "2", "5", "10", "20", "50", "90"])
        ax.set_ylim(-0.3, 95)
        style.axes(ax).set_xlabel("age of the chip t")
    for place, lost, text in JOSHI:
        panels[0].plot(place, lost, "k*", markersize=9)
        panels[0].annotate(text, (place, lost), (6, -3), textcoords="offset points", fontsize=7)
    panels[0].set_ylabel("accuracy lost to digital (percentage points)")
    looks = [(style.look(number), way) for number, way in enumerate(WAYS)]
    measured = [(look, way) for look, way in looks if any(part.endswith(f", {way}") for part in parts)]
    lines = [
        Line2D([], [], color=look.color, marker=look.marker, label=WAYS[way].replace("`", "")) for look, way in measured
    ]
    lines += [Line2D([], [], color="k", label="trained under weight noise")]
    lines += [Line2D([], [], color="k", linestyle="--", label="as published")]
    lines += [Line2D([], [], color="k", marker="*", linestyle="", label="Joshi et al., ResNet-32; a day: bounds")]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
