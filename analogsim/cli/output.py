"""Files that commands write: results, their pictures and tables; nothing is written over what was asked otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import style
from ..ages import text
from ..errors import DataError
from ..result import about, write_frame
from ..tables import Form
from .base import note, plain, present

FormOption = Annotated[
    Form,
    typer.Option("--format", help="How the result is printed; json and csv have unrounded values and all columns."),
]
JsonOption = Annotated[Literal["table", "json"], typer.Option("--format", help="How it is printed.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that holds what was asked with other options.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]

# What decides nothing of a result.
_ASIDE = {"target", "form", "force", "device", "threads", "picture"}


def file_name(what: str, profile: str | None = None, ages: list[float] | None = None, *more: str | None) -> str:
    """Return the name, without ending, of the file of a result: what it is, of which hardware, how old, how asked.

    Examples
    --------
    >>> file_name("evaluation", "chips/mine.yaml", [0.0, 86400.0], "mse", None)
    'evaluation-mine-0s-1d-mse'
    """
    parts = [what, *([Path(profile).stem] if profile else [])]
    if ages and list(ages) != [0]:
        parts += [text(age).replace(" ", "") for age in ages]
    return "-".join([*parts, *filter(None, more)])


def asked(context: typer.Context) -> dict[str, Any]:
    """Return the command, and the options that decide its result and are not at their default, as JSON has them.

    The run is one of them where the file is named: in its own folder a result says by its place whose it is.
    """
    found: dict[str, Any] = {"command": context.command.name}
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        if name == "run" and context.params.get("target") is None:
            continue
        if name not in _ASIDE and value != option.default and value not in (None, [], ()):
            found[name] = value if isinstance(value, bool | int | float) else _words(value)
    return found


def _words(value: Any) -> Any:
    return [_words(one) for one in value] if isinstance(value, list | tuple) else str(value)


def claimed(target: Path, asked: Mapping[str, Any], force: bool) -> Path:
    """Return the JSON file of a result, whose name may have been given as .json, .csv or without ending.

    Raises
    ------
    typer.BadParameter
        The name ends otherwise.
    DataError
        It holds what was asked with other options, or what would be beside it is a file of something else, and `force`
        is not set.
    """
    if target.suffix not in (".json", ".csv", "") and not target.name.startswith("."):
        raise typer.BadParameter(f"{target}: the name must end in .json (or .csv)", param_hint="--out")
    path = target if target.suffix == ".json" else target.with_suffix(".json")
    remedy = "give another --out, or --force to write over it"
    if force:
        return path
    if not path.exists():
        for beside in (path.with_suffix(".csv"), path.with_suffix(".png")):
            if beside.exists():
                raise DataError(f"{beside}: there is such a file, which is of no result; {remedy}")
        return path
    try:
        before = about(path).get("asked")
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from None
    if before is None:
        raise DataError(f"{path}: holds a result of another command or version; {remedy}")
    other = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
    if other:
        said = ", ".join(f"{key} {_said(before, key)} (now {_said(asked, key)})" for key in other)
        raise DataError(f"{path}: holds what was measured with {said}; {remedy}")
    return path


def check_free(target: Path | None, force: bool, option: str = "--out") -> None:
    """Refuse to write over a file, which may be somebody's own.

    Raises
    ------
    DataError
        There is one, and `force` is not set.
    """
    if target is not None and target.exists() and not force:
        raise DataError(f"{target}: is there already; give another {option}, or --force to write over it")


def _said(values: Mapping[str, Any], key: str) -> str:
    found = values.get(key, "its default")
    return " ".join(map(str, found)) if isinstance(found, list) else str(found)


def kept(result: Any, path: Path, asked: Mapping[str, Any], size: tuple[float, float], form: Form) -> None:
    """Write a result as JSON, and beside it its frame as CSV and its picture, of so many inches; then print it.

    Raises
    ------
    DataError
        A file cannot be written.
    """
    result.save(path, {"asked": dict(asked)})
    write_frame(result.to_frame(), path.with_suffix(".csv"))
    draw(result, path.with_suffix(".png"), size)
    present(result.table(), form)
    written(path)


def written(path: Path) -> None:
    """Say which files a result is in."""
    note(f"written: {plain(path)}, {plain(path.with_suffix('.csv').name)}, {plain(path.with_suffix('.png').name)}")


def draw(result: Any, path: Path, size: tuple[float, float]) -> None:
    """Write the picture that a result's `plot` draws, of so many inches.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    with style.picture(path, size) as figure:
        result.plot(figure.subplots())
