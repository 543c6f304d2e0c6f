"""The picture of robustness curves that `sweep` and `plot` share."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DataError
from ..terminal.text import label as as_label
from .output import write_picture

if TYPE_CHECKING:
    from ..robustness.curve import RobustnessCurve

FORMATS = ("png", "svg", "pdf")


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
