"""Journals of long work: what a design search has tried, or a hardware sweep measured, written anew after each."""

import errno
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..errors import SearchError
from ..storage.files import lock, replaced
from ..storage.kept import Record, read_kept, sealed_text
from ..value import Value


class Tried(Value):
    """A design that was tried."""

    places: dict[str, Annotated[int, Field(ge=0)]]
    """Which of its values each key of the space has, from 0."""
    cost: float
    accuracy: Annotated[float, Field(allow_inf_nan=False)]


class Journal(Record):
    """What the file holds."""

    remedy: ClassVar[str] = "put a good copy in its place, or use another file"

    format: Literal["analogsim-search-1"] = "analogsim-search-1"
    about: str
    """All that decides what a design costs, and how accurate it is."""
    tried: tuple[Tried, ...] = ()

    def save(self, path: Path) -> None:
        """Write the journal; see `written`."""
        written(self, path)


class Measured(Record):
    """What the journal of a hardware sweep holds."""

    remedy: ClassVar[str] = "put a good copy in its place, or use another file"

    format: Literal["analogsim-hardware-sweep-1"] = "analogsim-hardware-sweep-1"
    about: str
    """All that decides what is measured."""
    found: dict[str, tuple[tuple[float | Literal["nan", "inf", "-inf"], ...], ...]] = {}
    """Of each combination, named by its place: the measure on each chip, for each age."""


def written(journal: Record, path: Path) -> None:
    """Write a journal; a kill at any moment, or a full disk, leaves the one before.

    Raises
    ------
    SearchError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as aside:
            aside.write_text(sealed_text(journal.model_dump(mode="json")), encoding="utf-8")
    except OSError as error:
        raise SearchError(f"{path}: cannot be written: {error.strerror}") from None


def alone(path: Path | None) -> AbstractContextManager[object]:
    """Keep other searches out of a journal; None: of none.

    Raises
    ------
    SearchError
        Another search is at work on it, or its folder cannot be written.
    """
    from filelock import Timeout

    if path is None:
        return nullcontext()
    try:
        if not path.parent.is_dir():  # the lock would make it
            raise FileNotFoundError(errno.ENOENT, "No such folder")
        return lock(path.with_name(f"{path.name}.lock"), 0).acquire()
    except Timeout:
        raise SearchError(f"{path}: another search is at work on it; wait, or use another file") from None
    except OSError as error:
        raise SearchError(f"{path}: cannot be written: {error.strerror}") from None


def read_journal(path: Path) -> Journal | None:
    """Read a journal; None where there is no such file.

    Raises
    ------
    SearchError
        It cannot be read, or is damaged.
    """
    return read_kept(path, Journal, SearchError)
