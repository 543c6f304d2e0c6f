"""`analogsim plot`: several robustness curves in one picture and one table."""

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..result import write_frame
from .base import EXIT_CODES, note, plain, present
from .curves import check_picture, draw
from .output import FormOption, Overwrite, check_free

EPILOG = (
    "[bold]Examples:[/]\n\n"
    "analogsim plot runs/plain runs/noisy --out curves.png --table curves.csv\n\n"
    "analogsim plot runs/*/sweep.json --baseline runs/plain/sweep.json --title 'LeNet-5 on digits' -o curves.svg\n\n"
    f"{EXIT_CODES}"
)


def plot(
    sweeps: Annotated[
        list[Path], typer.Argument(metavar="SWEEP...", help="What `analogsim sweep` wrote: JSON files, or run folders.")
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            callback=check_picture,
            help="Picture to write: .png, .svg or .pdf. Default: none.",
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--table", "-t", metavar="FILE", help="CSV to write the table to. Default: none.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="SWEEP",
            help="Sweep of the floating-point network: the others are flagged `brittle` against it. Default: none is.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name of a curve, in the order of the files (default: its run's name)."),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the picture. Default: none.")] = None,
    form: FormOption = "table",
    force: Overwrite = False,
) -> None:
    """Draw robustness curves in one picture, µ marked, and print one table."""
    from ..robustness.curve import RobustnessCurve
    from ..robustness.curve_table import curves_table

    for target in (picture, results):
        check_free(target, force)
    files = [sweep_file(path) for path in sweeps]
    if label and len(label) != len(files):
        raise typer.BadParameter(f"{len(label)} labels for {len(files)} curves", param_hint="--label")
    loaded = [RobustnessCurve.load(path) for path in files]
    if baseline is not None:
        judge = RobustnessCurve.load(sweep_file(baseline))
        where = sweep_file(baseline).resolve()
        judged = [curve.fitted is not None and path.resolve() != where for path, curve in zip(files, loaded)]
        loaded = [curve.against(judge) if fit else curve for fit, curve in zip(judged, loaded)]
    curves = dict(zip(unique(label or [name(path) for path in files]), loaded))
    if picture is not None:
        draw(curves, picture, title)
    table = curves_table(curves)
    if results is not None:
        write_frame(table.frame(), results, "%.5g")
    present(table, form)
    for file in filter(None, (picture, results)):
        note(f"written: {plain(file)}")


def sweep_file(path: Path) -> Path:
    """Return the sweep's file; of a run's folder, its sweep.json.

    Raises
    ------
    DataError
        There is none.
    """
    file = path / "sweep.json" if path.is_dir() else path
    if not file.is_file():
        what = "this folder holds no sweep.json" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; `analogsim sweep RUN` writes one")
    return file


def name(path: Path) -> str:
    """Return a curve's name: its folder's, and what the file's name adds to "sweep"."""
    folder, extra = path.resolve().parent.name, path.stem.removeprefix("sweep").strip("-")
    return f"{folder} {extra}".strip()


def unique(names: list[str]) -> list[str]:
    """Return the names, numbered where one comes twice; no two are the same.

    Examples
    --------
    >>> unique(["a", "a", "a (1)", "b"])
    ['a (2)', 'a (3)', 'a (1)', 'b']
    """
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in count(1))
        free = (text for text in numbered if text not in found and text not in names)
        found.append(name if names.count(name) == 1 else next(free))
    return found
