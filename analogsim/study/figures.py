"""A study's pictures as files: accuracy curves with their fits and µ, peak against µ, learning curves."""

import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..quantities import QUANTITIES
from ..robustness.curve import COLORS
from ..robustness.midpoint import MidpointFit
from ..storage.files import write_aside
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = (*COLORS, "#999933")  # one a method, lighter from variant to variant
MARKERS = "osD^vP"  # of networks, where one picture has several
LIGHTEST = 0.5  # share of white in the colour of a method's last variant
FORMATS = ("png", "svg")
LONGEST = 60  # letters of a name in a picture, or in the name of its file
LINE = 48  # letters of a line beside a picture
MOST = 60  # lines of a picture that are named beside it


def write_figures(variants: Sequence[Variant], folder: Path) -> list[Path]:
    """Draw a study's figures into a folder, each as PNG and as SVG.

    Raises
    ------
    CheckpointError
        A file cannot be written.
    """
    files = []
    colors = variant_colors(variants)
    for model, name in file_names(variant.cell.model for variant in variants).items():
        own = [variant for variant in variants if variant.cell.model == model]
        files += _draw(_curves, own, colors, folder / f"curves-{name}", short(model))
        files += _draw(_learning, own, colors, folder / f"learning-{name}", short(model))
        for variant, stem in zip(maps := with_maps(own), file_names(one.name for one in maps).values()):
            files += _draw(_map, [variant], colors, folder / f"map-{name}-{stem}", short(f"{model}, {variant.name}"))
        if any(variant.hardware for variant in own):
            files += _draw(_hardware, own, colors, folder / f"hardware-{name}", f"{short(model)} on hardware")
    return files + _draw(_tradeoff, variants, colors, folder / "tradeoff", "peak accuracy against µ")


def has_midpoint(variant: Variant) -> MidpointFit | None:
    """Return the fit of a variant whose µ is a number that can be drawn, else None."""
    fit = variant.curve.fitted if variant.curve else None
    return fit if fit and 0 < fit.midpoint < math.inf else None


def with_maps(variants: Iterable[Variant]) -> list[Variant]:
    """Return the variants whose networks were trained at several σ, each evaluated at all of them."""
    return [variant for variant in variants if len(variant.swept) > 1]


def learning_curve(variant: Variant) -> list[tuple[int, float, float, float]]:
    """Return (epoch, mean, lowest, highest test accuracy) over the seeds that reached the epoch.

    There is none of a matched curve, whose trainings differ in σ.
    """
    if variant.cell.matched:
        return []
    points: dict[int, list[float]] = {}
    for history in variant.histories.values():
        for entry in history:
            points.setdefault(int(entry["epoch"]), []).append(entry["test_accuracy"])
    return [(epoch, float(np.mean(values)), min(values), max(values)) for epoch, values in sorted(points.items())]


def variant_colors(variants: Sequence[Variant]) -> dict[tuple[str, str], str]:
    """Return (method, variant) → colour, the same on every network."""
    groups: dict[str, dict[str, None]] = {}
    for variant in variants:
        groups.setdefault(variant.cell.method, {})[variant.cell.variant] = None
    colors = {}
    for number, (method, own) in enumerate(groups.items()):
        base = PALETTE[number % len(PALETTE)]
        for place, variant in enumerate(own):
            colors[method, variant] = _lighter(base, place / max(1, len(own) - 1))
    return colors


def tradeoff_lines(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Return the variants that have a µ, those of one method on one network together, in the order of its grid."""
    lines: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        if has_midpoint(variant):
            lines.setdefault((variant.cell.model, variant.cell.method), []).append(variant)
    return list(lines.values())


def sigma_range(variants: Sequence[Variant]) -> tuple[float, float]:
    """Return the σ axis of a figure: all that was measured; an interval of µ may reach far beyond."""
    grids = [variant.curve.sigmas for variant in variants if variant.curve is not None]
    return min(grid[0] for grid in grids) / 1.3, max(grid[-1] for grid in grids) * 1.3


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return name → what a file of it is called: letters that every file system has, and no two names the same.

    Examples
    --------
    >>> file_names(["LeNet-5", "LeNet 5", "α"])
    {'LeNet-5': 'lenet-5', 'LeNet 5': 'lenet-5-2', 'α': 'network'}
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        stem = re.sub(r"[^a-z0-9.]+", "-", name.lower())[:LONGEST].strip("-.") or "network"
        free = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        found[name] = next(text for text in free if text not in found.values())
    return found


def short(name: str) -> str:
    """Return a name as a picture has room for it: one line, cut where it is too long."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves such a name out of its legends


def _lighter(color: str, share: float) -> str:
    # Towards white, not by lightness alone: that would turn a muted colour into a glaring one.
    white = 255 * LIGHTEST * share
    parts = (int(color[i : i + 2], 16) * (1 - LIGHTEST * share) + white for i in (1, 3, 5))
    return "#" + "".join(f"{round(part):02x}" for part in parts)


def _draw(paint: Any, variants: Sequence[Variant], colors: dict[Any, str], stem: Path, title: str) -> list[Path]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    files = []
    # A fixed salt and no date: the same results give the same file. A name is text, and a $ in it no mathematics.
    style: Any = {"font.size": 10, "svg.hashsalt": "analogsim", "text.parse_math": False}
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for it
        figure = Figure(figsize=(8.6, 4.8), dpi=130, layout="constrained")
        axes = figure.subplots()
        paint(axes, variants, colors)
        axes.set_title(title, loc="left")
        axes.grid(True, color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _legend(figure, axes)
        for kind in FORMATS:
            path = stem.with_name(f"{stem.name}.{kind}")
            about = {"Date": None} if kind == "svg" else None
            write_aside(path, lambda aside, kind=kind, about=about: figure.savefig(aside, format=kind, metadata=about))
            files.append(path)
    return files


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Name the lines beside the picture, which grows with them; of more than it has room for, say how many."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    more = [f"… and {len(labels) - MOST} more"] if len(labels) > MOST else []
    labels = [textwrap.fill(label, LINE) for label in labels[:MOST]] + more
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(max(figure.get_figheight(), 1.0 + 0.18 * lines))
    axes.legend(
        handles[: len(labels)], labels, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small", frameon=False
    )


def _curves(axes: "Axes", variants: Sequence[Variant], colors: dict[Any, str]) -> None:
    axes.set_xscale("log")
    axes.set_ylabel("accuracy")
    for variant in variants:
        curve, color = variant.curve, colors[variant.cell.method, variant.cell.variant]
        if curve is None:
            continue
        fit = has_midpoint(variant)
        matched = variant.cell.matched
        marker, size = ("s", 5.5) if matched else ("o", 3.5)
        axes.plot(
            curve.sigmas, curve.mean, marker, linestyle="" if fit else ":", markersize=size, color=color, linewidth=1
        )
        label = f"{short(variant.name)}: {fit or 'no µ' + _marks(variant)}"
        if fit:
            fine = np.geomspace(curve.sigmas[fit.points_used[0]], max(curve.sigmas[-1], fit.midpoint), 200)
            axes.plot(fine, fit.predict(fine), color=color, linewidth=2.5 if matched else 1.5, label=label)
            level = float(fit.predict(fit.midpoint))
            axes.plot(fit.midpoint, level, "D", color=color, markeredgecolor="black", markersize=6, zorder=4)
            if not math.isnan(fit.ci[0]):
                axes.plot(fit.bar, (level, level), "-", color="black", linewidth=1, zorder=3)
        else:
            axes.plot([], [], f"{marker}:", color=color, label=label)
    first = next((variant.curve for variant in variants if variant.curve), None)
    if first is not None:
        axes.axhline(first.chance or 0.0, color="0.5", linestyle=":", linewidth=1, zorder=0)
        axes.set_xlabel(QUANTITIES[first.quantity])
        axes.set_ylim(0, None)
        axes.set_xlim(*sigma_range(variants))
        _plain_ticks(axes, (1.0,))


def _map(axes: "Axes", variants: Sequence[Variant], colors: dict[Any, str]) -> None:
    """Draw the accuracy of networks (rows: σ of training) at every σ (columns); the matched ones have a frame."""
    swept = variants[0].swept
    first = next(iter(swept.values()))
    image = axes.imshow(
        np.stack([curve.mean for curve in swept.values()]),
        aspect="auto",
        origin="lower",
        vmin=0,
        cmap="viridis",
        zorder=1,
    )
    for row, sigma in enumerate(swept):
        for column in np.flatnonzero(np.isclose(first.sigmas, sigma)):
            axes.plot(column, row, "s", markersize=9, markerfacecolor="none", markeredgecolor="white")
    columns, rows = ([f"{sigma:g}" for sigma in np.round(list(sigmas), 3)] for sigmas in (first.sigmas, swept))
    axes.set_xticks(range(len(columns)), columns, rotation=60, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xlabel(QUANTITIES[first.quantity])
    axes.set_ylabel("σ of training")
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, label="accuracy")


def _hardware(axes: "Axes", variants: Sequence[Variant], colors: dict[Any, str]) -> None:
    labels = list(dict.fromkeys(label for variant in variants for label in variant.hardware))
    for number, variant in enumerate(variants):
        places = [place for place, label in enumerate(labels) if label in variant.hardware]
        found = [variant.hardware[labels[place]] for place in places]
        shift = 0.3 * (number / max(len(variants) - 1, 1) - 0.5)
        axes.errorbar(
            [place + shift for place in places],
            [float(np.mean(one)) for one in found],
            [float(np.std(one, ddof=1)) if len(one) > 1 else 0.0 for one in found],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="",
            capsize=2,
            color=colors[variant.cell.method, variant.cell.variant],
            label=short(variant.name),
        )
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("accuracy, of all seeds and chips")


def _tradeoff(axes: "Axes", variants: Sequence[Variant], colors: dict[Any, str]) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("µ, the midpoint noise level")
    axes.set_ylabel("peak accuracy")
    models = list(dict.fromkeys(variant.cell.model for variant in variants))
    several = len(models) > 1
    for line in tradeoff_lines(variants):
        cell = line[0].cell
        fits = [fit for fit in map(has_midpoint, line) if fit]
        name = short(f"{cell.model}, {cell.method}" if several else cell.method)
        color = colors[cell.method, cell.variant]
        x, y = [fit.midpoint for fit in fits], [fit.peak for fit in fits]
        marker = MARKERS[models.index(cell.model) % len(MARKERS)]
        axes.plot(x, y, f"{marker}-", color=color, linewidth=1, label=name)
        for fit in fits:
            if not math.isnan(fit.ci[0]):
                axes.plot(fit.bar, (fit.peak, fit.peak), "-", color=color, alpha=0.35, linewidth=3, zorder=1)
        for variant, fit in zip(line, fits):
            text = short(variant.cell.variant) + _marks(variant)
            axes.annotate(text, (fit.midpoint, fit.peak), (5, 5), textcoords="offset points", fontsize="x-small")
    _plain_ticks(axes, (1.0, 2.0, 5.0))


def _learning(axes: "Axes", variants: Sequence[Variant], colors: dict[Any, str]) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, without noise")
    for variant in variants:
        points = np.array(learning_curve(variant))
        if len(points):
            color = colors[variant.cell.method, variant.cell.variant]
            axes.plot(points[:, 0], points[:, 1], color=color, linewidth=1.3, label=short(variant.name))
            axes.fill_between(points[:, 0], points[:, 2], points[:, 3], color=color, alpha=0.15, linewidth=0)


def _plain_ticks(axes: "Axes", digits: Sequence[float]) -> None:
    """Write a logarithmic axis as 0.5, 1, 2, where matplotlib writes powers, and lets those of a short axis overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=digits))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _marks(variant: Variant) -> str:
    return f" ({', '.join(variant.flags)})" if variant.flags else ""
