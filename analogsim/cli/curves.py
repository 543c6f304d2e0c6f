"""Robustness curves for people: the table and the picture that `sweep` and `plot` share."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from ..errors import DataError
from ..terminal.text import label as as_label
from .base import numbers, plain
from .output import write_picture, write_table

if TYPE_CHECKING:
    from ..robustness.curve import RobustnessCurve

FORMATS = ("png", "svg", "pdf")


def table(curves: Mapping[str, "RobustnessCurve"]) -> Table:
    """Return peak, noise-free accuracy, µ with its interval and flags, and the half-height crossing of each curve."""
    from ..robustness.midpoint import crossing_text, midpoint_texts

    result = Table("network", *numbers("peak", "noise-free", "µ", "95 % interval", "half height"), "flags")
    for name, curve in curves.items():
        fit = curve.fitted
        midpoint, interval = midpoint_texts(fit.midpoint, *fit.ci) if fit else ("-", "-")
        flags = fit.flags if fit else ("no fit",)
        marks = f"[yellow]{plain(', '.join(flags))}[/]" if flags else "[dim]-[/]"
        half = crossing_text(fit.crossing) if fit else "-"
        result.add_row(plain(name), f"{curve.peak:.3f}", f"{curve.noise_free:.3f}", midpoint, interval, half, marks)
    return result


def save_table(curves: Mapping[str, "RobustnessCurve"], path: Path) -> None:
    """Write the table as CSV, one curve a row; the file is written aside, then renamed.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    import pandas as pd

    rows = []
    for name, curve in curves.items():
        row: dict[str, Any] = {"network": name, "peak": curve.peak, "noise_free": curve.noise_free}
        if fit := curve.fitted:
            low, high = fit.ci
            row |= {"midpoint": fit.midpoint, "ci_low": low, "ci_high": high, "crossing": fit.crossing}
            row |= {"slope": fit.slope, "r2": fit.r2}
        rows.append(row | {"flags": " ".join(fit.flags) if fit else "no fit"})
    write_table(pd.DataFrame(rows), path, "%.5g")


def draw(curves: Mapping[str, "RobustnessCurve"], path: Path, title: str | None = None) -> None:
    """Draw the curves into one picture; the file is written aside, then renamed.

    Raises
    ------
    DataError
        The curves are over different quantities, or the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ..robustness.curve import COLORS

    quantities = sorted({curve.quantity for curve in curves.values()})
    if len(quantities) > 1:
        raise DataError(f"curves over {' and over '.join(quantities)} have no axis in common; plot them apart")
    style: Any = {"font.size": 11, "axes.titlesize": 12, "svg.hashsalt": "analogsim"}
    with rc_context(style):
        figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            curve.plot(axes, label=as_label(name), color=COLORS[number % len(COLORS)])
        if title:
            axes.set_title(as_label(title), loc="left")
        axes.grid(True, axis="y", color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        write_picture(figure, path)


def check_picture(path: Path | None) -> Path | None:
    """Refuse a picture's name whose format cannot be drawn; a typer callback."""
    if path is not None and path.suffix[1:].lower() not in FORMATS:
        raise typer.BadParameter(f"{path}: the name must end in .{', .'.join(FORMATS)}")
    return path
