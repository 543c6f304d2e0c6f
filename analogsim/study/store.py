"""A study's directory.

=================  ====================================================================================
study.yaml         the study as it was last run
plan.json          the cells of its grid, and their jobs
runs.jsonl         every run: when, command, engine, versions, commit
jobs/ID/           one folder a job: result.json and sweep.json, or error.json, or checkpoint.pt; see folder
jobs.jsonl         finished jobs in one file, a line each, made of their folders by `analogsim study pack`; see packing
groups/ID/         one folder a group of jobs that are trained together; see folder
networks/ID/       model.safetensors, the trained network of a job, where networks are kept
trained/ID.pt      the checkpoint of a finished training that jobs have in common, until all of them are finished
results.csv        one row a training; summary.csv: one row a method, over its seeds. Derived: made anew from
                   the jobs whenever one ends
fits.json          fits of pooled curves, by what they are of; made anew where it is missing
lock, lock.json    held while a run is at work, and by whom
=================  ====================================================================================
"""

import hashlib
import os
import platform
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, StudyError
from ..robustness.curve import RobustnessCurve
from ..robustness.midpoint import MidpointFit
from ..storage.files import append_line, content, lock, refuse_links, write_text
from ..storage.kept import read_lines, sealed_text
from ..training.run_file import WEIGHTS
from .file import load_study, study_text
from .folder import RUNNING, GroupFolder, JobFolder
from .grid import Entry, Study
from .job import now
from .records import (
    AGAIN,
    Failure,
    Fits,
    Owner,
    Packed,
    Plan,
    Result,
    Run,
    misfit,
    read,
    read_packed,
    read_result,
)

STUDY, PLAN, RUNS, FITS = "study.yaml", "plan.json", "runs.jsonl", "fits.json"
JOBS, PACKED, GROUPS, TRAINED, NETWORKS = "jobs", "jobs.jsonl", "groups", "trained", "networks"
STATES = ("finished", "collapsed", "diverged", "failed", "running", "interrupted", "waiting")
DONE, LEARNED = STATES[:3], STATES[:2]
"""With a result; with a network."""


class Store:
    """The directory of one study.

    Parameters
    ----------
    root : path
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    @cached_property
    def fits(self) -> dict[str, MidpointFit]:
        """Fits of pooled curves that were kept, by the curve's digest; they are made anew where they are damaged."""
        with suppress(StudyError):
            kept = read(self.root / FITS, Fits)
            return dict(kept.fits) if kept else {}
        return {}

    def keep_fits(self, fits: Mapping[str, MidpointFit]) -> None:
        """Keep fits for whoever pools the same curves again, in place of those that were kept."""
        if fits.keys() != self.fits.keys():
            values = {key: fit.to_dict() for key, fit in fits.items()}
            write_text(self.root / FITS, sealed_text({"fits": values}, indent=None))
            self.__dict__["fits"] = dict(fits)

    @cached_property
    def packed(self) -> dict[str, Packed]:
        """Finished jobs that are packed, by their identities; read when first asked for.

        Raises
        ------
        StudyError
            As `read_packed`.
        """
        return read_packed(self.root / PACKED)

    def result(self, job: str) -> Result | None:
        """Return a finished job's result, wherever it is: in the job's folder, or packed; None where there is none.

        Raises
        ------
        StudyError
            It cannot be read, is damaged or another job's, or is in both places and not the same.
        """
        line, own = self.packed.get(job), read_result(self.files(job).result)
        if line and own and own != line.result:
            self._refuse_both(self.files(job).result)
        return own or (line.result if line else None)

    def curve(self, job: str) -> RobustnessCurve | None:
        """Return a finished job's robustness curve, wherever it is; None where the job has none, or diverged.

        Raises
        ------
        StudyError
            As `result`; or the curve is missing, or not over the noise that the job asked for.
        """
        result = self.result(job)
        if result is None or result.status == "diverged":
            return None
        line, files = self.packed.get(job), self.files(job)
        if not files.finished:
            return line.robustness if line else None
        own = _curve(files.sweep, result)
        if line and line.robustness and own.digest != line.robustness.digest:
            self._refuse_both(files.sweep)
        return own

    def _refuse_both(self, path: Path) -> None:
        raise StudyError(
            f"{path}: says something else than the line of its job in {self.root / PACKED}; move one of the two away"
        )

    def folder(self, job: str) -> Path:
        """Return a job's folder.

        Raises
        ------
        StudyError
            It is a link, so that what is written there would be written elsewhere.
        """
        refuse_links(self.root / JOBS, self.root / JOBS / job)
        return self.root / JOBS / job

    def files(self, job: str) -> JobFolder:
        """Return the files of a job's folder; raises what `folder` does."""
        return JobFolder(self.folder(job))

    def network(self, job: str) -> Path:
        """Return where a job's trained network is kept; raises what `folder` does."""
        refuse_links(self.root / NETWORKS, self.root / NETWORKS / job)
        return self.root / NETWORKS / job / WEIGHTS

    def study(self) -> Study:
        """Read the study that was last run here.

        Raises
        ------
        StudyError
            There is none.
        """
        return load_study(self._found(STUDY))

    def _found(self, name: str) -> Path:
        if not (self.root / name).is_file():
            raise StudyError(f"{self.root}: holds no {name}; `analogsim study run FILE --out {self.root}` makes one")
        return self.root / name

    def plan(self) -> list[Entry]:
        """Read the cells of the study that was last run here, whether its data are at hand or not.

        Raises
        ------
        StudyError
            There is none, or it is damaged.
        """
        plan, text = read(self._found(PLAN), Plan), self._found(STUDY).read_bytes()
        assert plan is not None  # it was found
        if plan.study not in (None, text_checksum(text)):
            raise StudyError(f"{self.root}: {STUDY} is not the one that {PLAN} was made from; {AGAIN}")
        return list(plan.cells)

    def state(self, job: str) -> str:
        """Return one of STATES; collapsed and diverged trainings are finished, too."""
        files = self.files(job)
        if result := self.result(job):
            return result.status
        if files.error.exists():
            return "failed"
        if files.running.exists() and self.busy():
            return "running"
        return "interrupted" if files.about.exists() else "waiting"

    def epochs(self, job: str) -> int:
        """Return how many epochs of a job are done."""
        result = self.result(job)
        return len(result.history) if result else self.files(job).epochs()

    def error(self, job: str) -> str:
        """Return a failed job's message; where that is damaged, that it is."""
        try:
            failure = read(self.files(job).error, Failure)
        except StudyError as error:
            return str(error)
        return failure.message if failure else ""

    def forget_failure(self, job: str) -> None:
        """Let a failed job be tried again, from its checkpoint if that is sound."""
        files = self.files(job)
        message = self.error(job)
        # One that could not be written or read may be good.
        if message.startswith(CheckpointError.__name__) and "cannot be" not in message:
            # A group's is named in the failure of each of its jobs.
            groups = [place for place in self.root.glob(f"{GROUPS}/*") if f"{GROUPS}/{place.name}/" in message]
            for place in [GroupFolder(group) for group in groups] or [files]:
                with suppress(FileNotFoundError):
                    place.checkpoint.replace(place.damaged)
            files.grouped.unlink(missing_ok=True)
        files.error.unlink(missing_ok=True)

    def busy(self) -> bool:
        """Say whether a run is at work here."""
        from filelock import Timeout

        if not (self.root / "lock").exists():
            return False
        try:
            with lock(self.root / "lock", 0):
                return False
        except Timeout:
            return True
        except OSError:  # a directory that may only be read
            return (self.root / "lock.json").exists()

    def owner(self) -> str:
        """Say which run is at work here; "" where none is."""
        if not self.busy():
            return ""
        who = None
        with suppress(StudyError):
            who = read(self.root / "lock.json", Owner)
        if who is None:
            return "a run is at work"
        return f"process {who.process} on {who.host} is at work since {who.since} ({who.command})"

    @contextmanager
    def held(self, command: str | None) -> Iterator[None]:
        """Keep other runs out; a lock goes with the process that holds it, however that ends.

        Raises
        ------
        StudyError
            Another run is at work, or the directory cannot be written.
        """
        from filelock import Timeout

        owner = self.root / "lock.json"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Whoever only asks for the status holds it for a moment.
            held = lock(self.root / "lock", 1)
            held.acquire()
        except Timeout:
            # Between the two it may have ended.
            who = self.owner() or "a run was at work"
            raise StudyError(f"{self.root}: locked: {who}; wait for it, or end that process") from None
        except OSError as error:
            raise StudyError(f"{self.root}: cannot be written: {error.strerror}") from None
        who = {"process": os.getpid(), "host": platform.node(), "command": command or "from Python", "since": now()}
        try:
            write_text(owner, sealed_text(who, None))
            # Those of a run that was killed.
            for left in (self.root / JOBS).glob(f"*/{RUNNING}"):
                self.files(left.parent.name).running.unlink(missing_ok=True)  # which refuses links first
            yield
        finally:
            with suppress(OSError):
                owner.unlink()
            held.release()

    def begin(self, study: Study, entries: list[Entry], **about: Any) -> None:
        """Write the study and its plan down, and that it is run.

        Raises
        ------
        StudyError
            The directory holds another study's results.
        """
        if (self.root / STUDY).exists():
            other = self.study().name
            if other != study.name:
                raise StudyError(f"{self.root}: holds the study {other!r}, this is {study.name!r}; use another --out")
        try:
            text = study_text(study)
            write_text(self.root / STUDY, text)
            plan = Plan(study=text_checksum(text.encode()), cells=tuple(entries))
            write_text(self.root / PLAN, sealed_text(plan, None).replace('{"model"', '\n{"model"'))  # one cell a line
            append_line(self.root / RUNS, sealed_text({"when": now(), **about}, None))
        except (OSError, CheckpointError) as error:
            raise StudyError(f"{self.root}: cannot be written: {error}") from None

    def runs(self) -> list[Run]:
        """Return every run that was recorded, the first one first."""
        return list(read_lines(self.root / RUNS, Run))


def _curve(path: Path, result: Result) -> RobustnessCurve:
    try:
        try:
            found = content(path)
        except OSError:
            found = b""  # `load` says what it is
        curve = _loaded(path, hashlib.sha256(found).digest()) if found else RobustnessCurve.load(path)
    except DataError as error:
        raise StudyError(str(error)) from None
    if misfit(result, curve):
        raise StudyError(f"{path}: damaged (it is not over the noise of this job); put a good copy in its place")
    return curve


@lru_cache(maxsize=10_000)
def _loaded(path: Path, _: bytes) -> RobustnessCurve:
    # By the file's content, as results are.
    return RobustnessCurve.load(path)


def text_checksum(text: bytes) -> str:
    """Return the CRC-32 of a text, whatever ends its lines."""
    lines = b"\n".join(text.splitlines())
    return f"{zlib.crc32(lines):08x}"
