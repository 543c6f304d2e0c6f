"""Files that commands write: pictures and tables."""

from pathlib import Path
from typing import Any

from ..storage.files import replaced, writable


def draw(result: Any, path: Path, size: tuple[float, float]) -> None:
    """Write the picture that a result's `plot` draws, of so many inches.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    result.plot(figure.subplots())
    write_picture(figure, path)


def write_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure; aside, then renamed.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    kind = path.suffix[1:].lower()
    with writable(path), replaced(path) as aside:
        figure.savefig(aside, format=kind, metadata={"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind))


def write_table(frame: Any, path: Path, numbers: str | None = "%.6g") -> None:
    """Write a pandas frame as CSV, numbers in this format (None: unrounded); aside, then renamed.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    with writable(path), replaced(path) as aside:
        frame.to_csv(aside, index=False, float_format=numbers)
