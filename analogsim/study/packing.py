"""Finished jobs of a study in one file, jobs.jsonl, in place of a folder each.

A line holds a job's identity, what its result.json and its sweep.json said, and a checksum of all that. It is compact
JSON: numbers in their shortest form, which reads back to the bit, and spaces between values, so that a comparison by
words (`git diff --word-diff`) shows which of them changed. Lines have the order of the study's plan; jobs of an earlier
plan come after those of this one.
"""

import errno
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, StudyError
from ..storage.files import MOST, content, refuse_links, write_aside
from ..storage.kept import opened, sealed_text
from .folder import ABOUT, GROUPED, HISTORY, LOCK, LOG, RESULT, SWEEP, JobFolder
from .records import packed_lines
from .store import JOBS, PACKED, Store


@dataclass(frozen=True)
class Packing:
    """What `pack_study` did.

    Attributes
    ----------
    path : Path
        The study's jobs.jsonl.
    jobs : int
        How many finished jobs it holds now.
    added : int
        How many of them it did not hold before.
    left : tuple of Path
        Files in the folders of these jobs that say something that their lines do not.
    """

    path: Path
    jobs: int
    added: int
    left: tuple[Path, ...]


def pack_study(directory: str | os.PathLike[str], *, command: str | None = None) -> Packing:
    """Gather the finished jobs of a study into its jobs.jsonl, and remove what that holds from their folders.

    The file is written aside, read back and compared, and takes its name; then files are removed whose content it has:
    of each job the result first, so that what is left by a kill is no second result. A killed or refused packing is
    finished by the next. Jobs that are not finished, and files that say something else (the checkpoint of a training
    that diverged, a log that is not empty, a file that is not the study's), are left where they are.

    Parameters
    ----------
    directory : path
        The study's.
    command : str, optional
        What whoever wants to run the study meanwhile is told.

    Raises
    ------
    StudyError
        The directory holds no study, a run is at work in it, a file is damaged, a job has two results that differ, the
        file would be larger than is read, or something cannot be written or removed. All but the last leave every
        folder as it was.
    """
    store = Store(directory)
    store.study()
    # A job that several cells have in common stands where the first of them does.
    order = {job: number for number, job in enumerate(dict.fromkeys(entry.job for entry in store.plan()))}
    path = store.root / PACKED
    with store.held(command):
        refuse_links(store.root / JOBS)
        # `packed` has found them sound, and has their order.
        lines = dict(zip(store.packed, map(opened, content(path).split(b"\n")))) if store.packed else {}
        before = len(lines)
        folders = [place for place in sorted((store.root / JOBS).glob("*")) if re.fullmatch("[0-9a-f]{16}", place.name)]
        for folder in folders:
            if store.files(folder.name).finished and folder.name not in lines:
                lines[folder.name] = _line(store, folder.name)
            store.curve(folder.name)  # sound, and the same where it is in both places
        lines = dict(sorted(lines.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))
        text = "".join(sealed_text(line, None) for line in lines.values()).encode()
        if lines and (not path.exists() or content(path) != text):
            _write(path, text)
        left = []
        for folder in folders:
            if folder.name in lines:
                left += _remove(JobFolder(folder), lines[folder.name])
        with suppress(OSError):
            (store.root / JOBS).rmdir()  # where it is empty
    return Packing(path, len(lines), len(lines) - before, tuple(left))


def _line(store: Store, job: str) -> dict[str, Any]:
    """Return what is kept of a job, from its folder."""
    files, curve = store.files(job), store.curve(job)
    return {
        "job": job,
        "result": opened(content(files.result)),
        "curve": None if curve is None else opened(content(files.sweep)),
    }


def _write(path: Path, text: bytes) -> None:
    if len(text) > MOST:
        raise StudyError(f"{path}: would have {len(text):,} bytes, more than the {MOST:,} that such a file may have")
    packed_lines(path, text)  # what a reader will find

    def write(aside: Path) -> None:
        aside.write_bytes(text)
        if content(aside) != text:
            raise OSError(errno.EIO, "what was read back is not what was written")

    try:
        write_aside(path, write)
    except CheckpointError as error:
        raise StudyError(str(error)) from None


def _remove(files: JobFolder, line: Mapping[str, Any]) -> list[Path]:
    """Remove the files of a folder that say nothing that a job's line does not say, and the folder if it is empty then.

    Returns what stays.
    """
    result = line["result"]
    said = {
        RESULT: result,
        SWEEP: line["curve"],
        ABOUT: result["job"],
        GROUPED: result.get("grouped"),
        HISTORY: result["history"] or "",
        LOG: "",
        LOCK: "",
    }
    left = []
    try:
        for path in sorted(files.path.iterdir()):
            says = None if path.is_symlink() else _says(path)
            if says is not None and says == said.get(path.name):
                path.unlink()
            else:
                left.append(path)
        if not left:
            files.path.rmdir()
    except OSError as error:
        raise StudyError(
            f"{error.filename}: cannot be removed: {error.strerror}; its job is packed, and the same command goes on"
        ) from None
    return left


def _says(path: Path) -> Any:
    """Return what a file of a job's folder says; None where that cannot be known."""
    try:
        text = content(path)
        if not text:
            return ""
        return [json.loads(line) for line in text.splitlines()] if path.name == HISTORY else opened(text)
    except (OSError, ValueError, RecursionError):
        return None
