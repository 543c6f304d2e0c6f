"""A study's pictures as files: accuracy curves with their fits and µ, peak against µ, learning curves."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import style
from ..quantities import QUANTITIES, midpoint_title
from ..robustness.measure import ACCURACY
from ..robustness.midpoint import MidpointFit
from ..terminal.text import label as as_label
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks = Mapping[tuple[str, str], style.Look]
TRAINING = "σ of training (as σ)"
FORMATS = ("png", "svg")
LONGEST = 60  # letters of a name in a picture, or in the name of its file
LINE = 52  # letters of a line beside a picture
MOST = 60  # lines of a picture that are named beside it


def write_figures(variants: Sequence[Variant], folder: Path) -> list[Path]:
    """Draw a study's figures into a folder, each as PNG and as SVG.

    Raises
    ------
    CheckpointError
        A file cannot be written.
    """
    files = []
    looks = variant_looks(variants)
    for model, name in file_names(variant.cell.model for variant in variants).items():
        own = [variant for variant in variants if variant.cell.model == model]
        files += _draw(_curves, own, looks, folder / f"curves-{name}", short(model))
        files += _draw(_learning, own, looks, folder / f"learning-{name}", short(model))
        for variant, stem in zip(maps := with_maps(own), file_names(one.name for one in maps).values()):
            files += _draw(_map, [variant], looks, folder / f"map-{name}-{stem}", short(f"{model}, {variant.name}"))
        if any(variant.hardware for variant in own):
            files += _draw(_hardware, own, looks, folder / f"hardware-{name}", f"{short(model)} on hardware")
    return files + _draw(_tradeoff, variants, looks, folder / "tradeoff", "peak accuracy against µ")


def caption(name: str, variant: Variant, width: int) -> list[str]:
    """Return lines that say a variant's name and its µ: one, where so many letters have room for both."""
    found = str(variant.midpoint or f"no µ{_marks(variant)}")
    whole = f"{name}: {found}"
    return [whole] if len(whole) <= width else [*textwrap.wrap(f"{name}:", width), *textwrap.wrap(found, width)]


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


def variant_looks(variants: Sequence[Variant]) -> dict[tuple[str, str], style.Look]:
    """Return (method, variant) → how it is drawn, the same on every network; a method's variants have one colour."""
    groups: dict[str, dict[str, None]] = {}
    for variant in variants:
        groups.setdefault(variant.cell.method, {})[variant.cell.variant] = None
    return {
        (method, variant): style.look(number, place)
        for number, (method, own) in enumerate(groups.items())
        for place, variant in enumerate(own)
    }


def tradeoff_lines(variants: Sequence[Variant]) -> list[tuple[str, style.Look, list[Variant]]]:
    """Return the variants that have a µ, those of one method on one network together: by σ of training, then s, then
    in the order of its grid.

    Each line has its name and how it is drawn: in its method's colour, with a dash and a marker that are the network's.
    """
    models, methods = (list(dict.fromkeys(getattr(one.cell, key) for one in variants)) for key in ("model", "method"))
    lines: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        if variant.midpoint:
            lines.setdefault((variant.cell.model, variant.cell.method), []).append(variant)
    return [
        (
            f"{model}, {method}" if len(models) > 1 else method,
            style.look(methods.index(method), models.index(model)),
            sorted(line, key=lambda one: (one.cell.sigma, one.cell.s or 0.0)),
        )
        for (model, method), line in lines.items()
    ]


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
    return as_label(text)


def _draw(paint: Any, variants: Sequence[Variant], looks: Looks, stem: Path, title: str) -> list[Path]:
    files = []
    for kind in FORMATS:
        path = stem.with_name(f"{stem.name}.{kind}")
        with style.picture(path, (8.6, 4.8), dpi=130) as figure:
            paint(figure, variants, looks)
            figure.axes[0].set_title(title)
        files.append(path)
    return files


def _legend(axes: "Axes") -> None:
    """Name the lines beside the picture, which grows with them; of more than it has room for, say how many."""
    handles, labels = axes.get_legend_handles_labels()
    more = [f"… and {len(labels) - MOST} more"] if len(labels) > MOST else []
    labels = [textwrap.fill(label, LINE) for label in labels[:MOST]] + more
    lines = sum(label.count("\n") + 1 for label in labels)
    figure: Any = axes.figure
    figure.set_figheight(max(figure.get_figheight(), 1.0 + 0.18 * lines))
    style.beside(axes, handles=handles[: len(labels)], labels=labels)


def _curves(figure: "Figure", variants: Sequence[Variant], looks: Looks) -> None:
    """Draw the curves, and beneath them on the same axis a row for each with its name, its µ and the interval."""
    drawn = [variant for variant in variants if variant.curve is not None]
    texts = ["\n".join(caption(short(one.name), one, LINE)) for one in drawn[:MOST]]
    texts += [f"… and {len(drawn) - MOST} more"] if len(drawn) > MOST else []
    lines = [text.count("\n") + 1 for text in texts]
    strip = 0.2 * max(sum(lines), 1)
    figure.set_figheight(4.6 + strip)
    axes, rows = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, strip))
    style.axes(axes).set_xscale("log")
    axes.set_ylabel(ACCURACY.title)
    for variant in drawn:
        _curve(axes, variant, looks[variant.key])
    place = 0.0
    for variant, text, height in zip([*drawn[:MOST], None], texts, lines):
        middle, place = place - (height - 1) / 2, place - height
        side = rows.get_yaxis_transform()
        rows.text(1.09, middle, text, transform=side, va="center", fontsize="small")
        if variant is not None:
            look, fit = looks[variant.key], variant.midpoint
            rows.plot([1.01, 1.045, 1.08], [middle] * 3, transform=side, clip_on=False, markevery=[1], **_thin(look))
            if fit:
                _midpoint(rows, fit, middle, look)
    style.axes(rows).spines["left"].set_visible(False)
    rows.set_yticks([])
    rows.set_ylim(place + 0.4, 0.6)
    rows.set_title("µ and its 95 % interval", fontsize="small")
    first = next((variant.curve for variant in drawn if variant.curve), None)
    if first is not None:
        axes.axhline(first.chance or 0.0, color="0.5", linestyle=":", linewidth=1, zorder=0)
        rows.set_xlabel(QUANTITIES[first.quantity])
        axes.set_ylim(0, None)
        axes.set_xlim(*sigma_range(drawn))
        style.plain_ticks(rows, (1.0,))


def _thin(look: style.Look) -> dict[str, Any]:
    return look.line | {"linewidth": 1.3, "markersize": 4.5}


def _curve(axes: "Axes", variant: Variant, look: style.Look) -> None:
    """Draw what was measured, and the fit; of a matched curve in a thick line."""
    curve, fit = variant.curve, variant.midpoint
    assert curve is not None
    own: dict[str, Any] = _thin(look) | ({"linestyle": ""} if fit else {})
    axes.plot(curve.sigmas, curve.mean, **own)
    if fit:
        fine = np.geomspace(curve.sigmas[fit.points_used[0]], max(curve.sigmas[-1], fit.midpoint), 200)
        width = 2.5 if variant.cell.matched else 1.3
        axes.plot(fine, fit.predict(fine), color=look.color, linestyle=look.style, linewidth=width)


def _midpoint(rows: "Axes", fit: MidpointFit, height: float, look: style.Look) -> None:
    rows.plot(fit.midpoint, height, look.marker, color=look.color, markersize=4.5, zorder=3)
    if not math.isnan(fit.ci[0]):
        rows.plot(fit.bar, (height, height), "-", color=look.color, linewidth=5, alpha=0.4, solid_capstyle="butt")


def _map(figure: "Figure", variants: Sequence[Variant], looks: Looks) -> None:
    """Draw the accuracy of networks (rows: σ of training) at every σ (columns); the matched ones have a frame."""
    axes = figure.subplots()
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
    axes.set_ylabel(TRAINING)
    figure.colorbar(image, ax=axes, label=ACCURACY.title)


def _hardware(figure: "Figure", variants: Sequence[Variant], looks: Looks) -> None:
    axes = style.axes(figure.subplots())
    labels = list(dict.fromkeys(label for variant in variants for label in variant.hardware))
    for number, variant in enumerate(variants):
        places = [place for place, label in enumerate(labels) if label in variant.hardware]
        found = [variant.hardware[labels[place]] for place in places]
        shift = 0.3 * (number / max(len(variants) - 1, 1) - 0.5)
        axes.errorbar(
            [place + shift for place in places],
            [float(np.mean(one)) for one in found],
            [float(np.std(one, ddof=1)) if len(one) > 1 else 0.0 for one in found],
            capsize=2,
            label=short(variant.name),
            **_thin(looks[variant.key]),
        )
    axes.set_xticks(range(len(labels)), [short(label) for label in labels], rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("accuracy of all seeds and chips (fraction)")
    _legend(axes)


def _tradeoff(figure: "Figure", variants: Sequence[Variant], looks: Looks) -> None:
    axes = style.axes(figure.subplots())
    axes.set_xscale("log")
    quantity = next((variant.curve.quantity for variant in variants if variant.curve), "activations")
    axes.set_xlabel(midpoint_title(quantity))
    axes.set_ylabel(f"peak {ACCURACY.title}")
    points = []
    for name, look, line in tradeoff_lines(variants):
        fits = [fit for one in line if (fit := one.midpoint)]
        x, y = [fit.midpoint for fit in fits], [fit.peak for fit in fits]
        axes.plot(x, y, **_thin(look), label=short(name), zorder=3)
        for fit in fits:
            if not math.isnan(fit.ci[0]):
                axes.plot(fit.bar, (fit.peak, fit.peak), "-", color=look.color, alpha=0.35, linewidth=3, zorder=1)
        points += [(*at, short(one.cell.variant) + _marks(one)) for *at, one in zip(x, y, line)]
    style.plain_ticks(axes, (1.0, 2.0, 5.0))
    _legend(axes)
    style.annotate(axes, points)


def _learning(figure: "Figure", variants: Sequence[Variant], looks: Looks) -> None:
    axes = style.axes(figure.subplots())
    axes.set_xlabel("training time (epochs)")
    axes.set_ylabel("test accuracy without noise (fraction)")
    for variant in variants:
        points = np.array(learning_curve(variant))
        if len(points):
            look = looks[variant.key]
            axes.plot(points[:, 0], points[:, 1], **_thin(look), markevery=0.12, label=short(variant.name))
            axes.fill_between(points[:, 0], points[:, 2], points[:, 3], color=look.color, alpha=0.12, linewidth=0)
    _legend(axes)


def _marks(variant: Variant) -> str:
    return f" ({', '.join(variant.flags)})" if variant.flags else ""
