"""The picture of robustness curves that `sweep` and `plot` share."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .. import style
from ..errors import DataError
from ..terminal.text import label as as_label

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
    quantities = sorted({curve.quantity for curve in curves.values()})
    if len(quantities) > 1:
        raise DataError(f"curves over {' and over '.join(quantities)} have no axis in common; plot them apart")
    with style.picture(path, (8, 4.8)) as figure:
        axes = figure.subplots()
        for name, curve in curves.items():
            curve.plot(axes, label=as_label(name))
        if title:
            figure.suptitle(as_label(title), x=0.01, ha="left")  # above the legend


def check_picture(path: Path | None) -> Path | None:
    """Refuse a picture's name whose format cannot be drawn; a typer callback."""
    if path is not None and path.suffix[1:].lower() not in FORMATS:
        raise typer.BadParameter(f"{path}: the name must end in .{', .'.join(FORMATS)}")
    return path
