"""The JSON files of a study's directory, field by field: what is read back must be what was written."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from ..errors import StudyError
from ..robustness.midpoint import MidpointFit
from ..storage.files import content
from ..storage.kept import Record, read_kept
from ..training.history import History, numbered
from ..value import NonNegative, Value
from .grid import Entry, digest

__all__ = ["Failure", "GroupJobs", "Grouped", "Owner", "Plan", "Result", "Run", "read"]

Crc = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
JobName = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
AGAIN = "run the study again, which keeps what is finished"
T = TypeVar("T", bound=Record)


def read(path: Path, kind: type[T]) -> T | None:
    """Return what a file of a study says; None where there is no such file.

    Raises
    ------
    StudyError
        It cannot be read, or is damaged.
    """
    return read_kept(path, kind, StudyError)


class Grouped(Record):
    """In which group a job was trained: grouped.json."""

    group: str
    of: Annotated[int, Field(ge=1)]
    """How many jobs it began with."""


class Seconds(Value):
    """What a job took."""

    training: NonNegative
    all: NonNegative


class Result(Record):
    """A finished job: result.json."""

    remedy: ClassVar[str] = (
        "put a good copy in its place; where there is none, move it away and run the study again: that trains this "
        "job anew"
    )

    job: dict[str, Any]
    """The job's identity."""
    data: str
    fingerprint: Crc
    status: Literal["finished", "collapsed", "diverged"]
    message: str
    history: History
    seconds: Seconds | None = None
    started: str
    finished: str
    versions: dict[str, str]
    commit: str | None
    processor: str
    device: str
    threads: Annotated[int, Field(ge=1)]
    grouped: Grouped | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        numbered(self.history)
        if self.status != "diverged" and not (self.history and self.seconds):
            raise ValueError(f"{self.status}, but without a history or the time it took")
        return self


def read_result(path: Path) -> Result | None:
    """Return a job's result from its folder, which has the job's name; None where it has none.

    Raises
    ------
    StudyError
        It cannot be read, is damaged, or is another job's.
    """
    try:
        known = hashlib.sha256(content(path)).digest()
    except OSError:
        known = b""  # `read` says what it is
    return _read_result(path, known) if known else _result(path)


@lru_cache(maxsize=10_000)
def _read_result(path: Path, _: bytes) -> Result | None:
    # By the file's content: of a study of thousands of jobs reading takes seconds, checking it minutes.
    return _result(path)


def _result(path: Path) -> Result | None:
    result = read(path, Result)
    if result is not None and (job := digest(result.job)) != path.parent.name:
        raise StudyError(f"{path}: damaged (it is of job {job}, not of its folder's); {Result.remedy}")
    return result


class Fits(Record):
    """Fits of pooled curves, by the curve's digest: fits.json."""

    # A fit has what JSON has not: NaN and infinity, as text.
    model_config = ConfigDict(allow_inf_nan=True)

    fits: dict[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], MidpointFit]


class Failure(Record):
    """Why a job failed: error.json; or why a group is trained singly: refused.json."""

    message: str
    traceback: str
    when: str = ""


class Owner(Record):
    """Who is at work: lock.json of a study, running.json of a job."""

    process: int
    host: str
    since: str
    command: str = ""
    device: str = ""


class GroupJobs(Record):
    """The jobs of a group: group.json."""

    jobs: tuple[JobName, ...]


class Plan(Record):
    """The cells of a study's grid: plan.json."""

    remedy: ClassVar[str] = AGAIN

    study: Crc | None = None
    """Of the study's text that it was made from."""
    cells: tuple[Entry, ...]


class Run(Record):
    """One run of a study: a line of runs.jsonl."""

    when: str
    command: str | None = None
    engine: str = ""
    commit: str | None = None
    versions: dict[str, str] = {}
