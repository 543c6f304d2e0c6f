"""The JSON files of a study's directory, field by field: what is read back must be what was written."""

import hashlib
import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from ..errors import StudyError
from ..quantities import BEFORE
from ..robustness.curve import CurveFile, RobustnessCurve
from ..robustness.midpoint import MidpointFit
from ..storage.files import content, refuse_links
from ..storage.kept import Record, opened, read_kept, why
from ..training.history import History, numbered
from ..value import Fraction, NonNegative, Value
from .grid import Entry, digest

__all__ = ["Failure", "GroupJobs", "Grouped", "Owner", "Packed", "Plan", "Result", "Run", "read"]

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


class Point(Value):
    """One hardware of those that a network was measured on."""

    values: dict[str, Any]
    """Of the fields that are varied."""
    found: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    """The accuracy on each chip."""


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
    hardware: tuple[Point, ...] | None = None
    """Accuracies on the job's hardware, where it asks for them."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        numbered(self.history)
        if self.status != "diverged" and not (self.history and self.seconds):
            raise ValueError(f"{self.status}, but without a history or the time it took")
        asked = self.job.get("hardware")
        wanted = math.prod(map(len, asked["vary"].values())) if asked and self.status != "diverged" else 0
        if len(self.hardware or ()) != wanted:
            raise ValueError(f"hardware: {wanted} points are needed")
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


def misfit(result: Result, curve: RobustnessCurve | CurveFile) -> bool:
    """Say whether a curve is over other noise than its job asked for."""
    asked = result.job["sweep"]
    found = [float(sigma) for sigma in curve.sigmas], len(curve.trainings), curve.quantity
    # A σ of 0 is the noise-free evaluation, which every curve has beside its grid.
    levels = [sigma for sigma in asked["sigmas"] if sigma > 0]
    return found != (levels, asked["repeats"], BEFORE.get(asked["quantity"]))


class Packed(Record):
    """A finished job: a line of jobs.jsonl."""

    # A fit has what JSON has not: NaN and infinity, as text.
    model_config = ConfigDict(allow_inf_nan=True)
    remedy: ClassVar[str] = (
        "put a good copy of the file in its place; where there is none, move this line out of it and run the study "
        "again: that trains the line's job anew"
    )

    job: JobName
    result: Result
    """What the job's result.json said."""
    curve: CurveFile | None = None
    """What its sweep.json said; None where the training diverged."""

    @model_validator(mode="after")
    def _of_one_job(self) -> Self:
        if (other := digest(self.result.job)) != self.job:
            raise ValueError(f"its result is of job {other}, not of {self.job}")
        if (self.curve is None) != (self.result.status == "diverged"):
            raise ValueError(f"{self.result.status}, but {'without' if self.curve is None else 'with'} a curve")
        if self.curve is not None and misfit(self.result, self.curve):
            raise ValueError("its curve is not over the noise of this job")
        return self

    @cached_property
    def robustness(self) -> RobustnessCurve | None:
        """The curve, made once: its fit may take a while."""
        return None if self.curve is None else RobustnessCurve.of_file(self.curve)


def read_packed(path: Path) -> dict[str, Packed]:
    """Return the finished jobs that jobs.jsonl holds, by their identities; none where there is no such file.

    Raises
    ------
    StudyError
        It cannot be read, is a link, or a line of it is damaged, of another job than it says, or there twice; the
        message has the line's number.
    """
    refuse_links(path)
    try:
        return packed_lines(path, content(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None


def packed_lines(path: Path, text: bytes) -> dict[str, Packed]:
    """Return the finished jobs that the text of a jobs.jsonl holds; raises what `read_packed` does."""
    found: dict[str, Packed] = {}
    # The last line has an end, too, so that what is cut off is noticed.
    *lines, rest = text.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest or not lines else lines, 1):
        try:
            job = _packed(line)
            if number > len(lines):
                raise ValueError("its end is missing")
            if job.job in found:
                raise ValueError(f"job {job.job} has a line above it already")
        except ValueError as problem:
            raise StudyError(f"{path}, line {number}: damaged ({why(problem)}); {Packed.remedy}") from None
        found[job.job] = job
    return found


@lru_cache(maxsize=10_000)
def _packed(line: bytes) -> Packed:
    # By the line's content, as results are by their files'.
    return Packed.model_validate(opened(line, checked=True))


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
