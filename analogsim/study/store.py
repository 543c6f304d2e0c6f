"""A study's directory.

=================  ====================================================================================
study.yaml         the study as it was last run
plan.json          the cells of its grid, and their jobs
runs.jsonl         every run: when, command, engine, versions, commit
jobs/ID/           one folder a job: result.json and sweep.json, or error.json, or checkpoint.pt
groups/ID/         one folder a group of jobs that are trained together; see group_job
results.csv        one row a training; summary.csv: one row a method, over its seeds. Derived: made anew from
                   the jobs whenever one ends
lock, lock.json    held while a run is at work, and by whom
=================  ====================================================================================
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, StudyError
from .checkpoint import write_text
from .file import load_study, study_text
from .grid import Entry, Study
from .job import ABOUT, ERROR, GROUPED, RESULT, RUNNING, now, read_json
from .train import CHECKPOINT, HISTORY

STUDY, PLAN, RUNS, JOBS = "study.yaml", "plan.json", "runs.jsonl", "jobs"
STATES = ("finished", "collapsed", "diverged", "failed", "running", "interrupted", "waiting")
DONE = STATES[:3]


class Store:
    """The directory of one study.

    Parameters
    ----------
    root : path
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def folder(self, job: str) -> Path:
        """Return a job's folder."""
        return self.root / JOBS / job

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
        path = self._found(PLAN)
        values = read_json(path)
        try:
            return [Entry(**cell) for cell in (values or {})["cells"]]
        except (KeyError, TypeError) as error:
            raise StudyError(f"{path}: damaged ({error}); run the study again, which keeps what is finished") from None

    def state(self, job: str) -> str:
        """Return one of STATES; collapsed and diverged trainings are finished, too."""
        folder = self.folder(job)
        if result := read_json(folder / RESULT):
            return str(result["status"])
        if (folder / ERROR).exists():
            return "failed"
        if (folder / RUNNING).exists() and self.busy():
            return "running"
        return "interrupted" if (folder / ABOUT).exists() else "waiting"

    def epochs(self, job: str) -> int:
        """Return how many epochs of an unfinished job are done."""
        try:
            return (self.folder(job) / HISTORY).read_bytes().count(b"\n")
        except OSError:
            return 0

    def error(self, job: str) -> dict[str, Any]:
        """Return a failed job's message, traceback, and when it failed."""
        return read_json(self.folder(job) / ERROR) or {}

    def forget_failure(self, job: str) -> None:
        """Let a failed job be tried again, from its checkpoint if that is sound."""
        folder = self.folder(job)
        if self.error(job).get("message", "").startswith(CheckpointError.__name__):
            (folder / CHECKPOINT).unlink(missing_ok=True)
            (folder / GROUPED).unlink(missing_ok=True)
        (folder / ERROR).unlink(missing_ok=True)

    def busy(self) -> bool:
        """Say whether a run is at work here."""
        from filelock import FileLock, Timeout

        if not (self.root / "lock").exists():
            return False
        try:
            with FileLock(self.root / "lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a directory that may only be read
            return (self.root / "lock.json").exists()

    def owner(self) -> str:
        """Say which run is at work here; "" where none is."""
        if not self.busy():
            return ""
        who: dict[str, Any] = {}
        with suppress(StudyError):
            who = read_json(self.root / "lock.json") or {}
        if not who:
            return "a run is at work"
        return f"process {who['process']} on {who['host']} is at work since {who['since']} ({who['command']})"

    @contextmanager
    def held(self, command: str | None) -> Iterator[None]:
        """Keep other runs out; a lock goes with the process that holds it, however that ends.

        Raises
        ------
        StudyError
            Another run is at work, or the directory cannot be written.
        """
        from filelock import FileLock, Timeout

        owner = self.root / "lock.json"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Whoever only asks for the status holds it for a moment.
            lock = FileLock(self.root / "lock", timeout=1)
            lock.acquire()
        except Timeout:
            # Between the two it may have ended.
            who = self.owner() or "a run was at work"
            raise StudyError(f"{self.root}: locked: {who}; wait for it, or end that process") from None
        except OSError as error:
            raise StudyError(f"{self.root}: cannot be written: {error.strerror}") from None
        who = {"process": os.getpid(), "host": platform.node(), "command": command or "from Python", "since": now()}
        try:
            write_text(owner, json.dumps(who) + "\n")
            # Those of a run that was killed.
            for left in (self.root / JOBS).glob(f"*/{RUNNING}"):
                left.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):
                owner.unlink()
            lock.release()

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
            write_text(self.root / STUDY, study_text(study))
            cells = ",\n".join(json.dumps(asdict(entry), ensure_ascii=False) for entry in entries)
            write_text(self.root / PLAN, f'{{"cells": [\n{cells}\n]}}\n')
            with (self.root / RUNS).open("a", encoding="utf-8") as runs:
                runs.write(json.dumps({"when": now(), **about}) + "\n")
        except (OSError, CheckpointError) as error:
            raise StudyError(f"{self.root}: cannot be written: {error}") from None

    def runs(self) -> list[dict[str, Any]]:
        """Return every run that was recorded, the first one first."""
        try:
            lines = (self.root / RUNS).read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            # A kill may leave half a line.
            with suppress(ValueError):
                found.append(json.loads(line))
        return found
