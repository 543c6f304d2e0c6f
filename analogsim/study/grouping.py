"""Which jobs of a study are trained together."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import refuse_links
from .folder import GROUP, GroupFolder, JobFolder
from .grid import Job
from .job import Task
from .records import Failure, GroupJobs, read
from .store import GROUPS

AUTO = 32
"""Networks of a group on a GPU, where `--group auto` decides."""
FREE = ("seed", "sigma", "multiplicative", "layers", "ramp_epochs", "variance")
"""Fields of TrainSpec in which the jobs of a group may differ."""


@dataclass(frozen=True)
class GroupTask:
    """Jobs to be trained as one group, and where.

    Attributes
    ----------
    tasks : tuple of Task
        Of one device.
    folder : Path
        The group's; absolute.
    compile : bool
        See `Group`.
    """

    tasks: tuple[Task, ...]
    folder: Path
    compile: bool = False


def family(job: Job) -> str | None:
    """Return what the jobs of a group have in common; None where a job must be trained singly."""
    qat = job.qat
    if job.train.clip_weights is not None:
        return None
    if qat is not None and (qat.scaling == "dynamic" and qat.act_bits is not None or qat.input_bits is not None):
        return None
    if qat is not None and job.train.target == "weights" and not job.train.silent:
        return None
    common = job.identity
    common["train"] = {name: value for name, value in common["train"].items() if name not in FREE}
    if qat is not None:
        common["qat"] = {name: value for name, value in common["qat"].items() if name != "s"}
    # Where the data lie is no part of an identity.
    return json.dumps([common, job.data], sort_keys=True)


def form_groups(jobs: Iterable[tuple[str, Job]], size: int) -> list[tuple[str, ...]]:
    """Return the groups, as job identities in order, that a study's jobs (by identity) make.

    They depend on the study alone, not on what is done of it, so that a run goes on with the groups it began with.
    """
    families: dict[str, list[str]] = {}
    for name, job in jobs:
        if (common := family(job)) is not None:
            families.setdefault(common, []).append(name)
    return [
        tuple(names[start : start + size])
        for names in families.values()
        for start in range(0, len(names), size)
        if size > 1 and len(names[start : start + size]) > 1
    ]


def assign(tasks: Sequence[Task], jobs: dict[str, Job], root: Path, size: int) -> list[Task | GroupTask]:
    """Return tasks in groups of at most `size`, and singly where they are left over; interrupted ones as they began.

    Parameters
    ----------
    tasks : sequence of Task
        What is to be done.
    jobs : dict
        All jobs of the study.
    root : Path
        The study's directory, absolute.
    size : int
        1: no new groups.
    """
    open_ = {task.job.id: task for task in tasks if not JobFolder(task.folder).checkpoint.exists()}
    units: list[Task | GroupTask] = []

    refuse_links(root / GROUPS)

    def make(names: Iterable[str], folder: Path) -> None:
        refuse_links(folder)
        members = [open_.pop(name) for name in names if name in open_]
        if members:
            units.append(GroupTask(tuple(members), folder))

    for about in sorted((root / GROUPS).glob(f"*/{GROUP}")):
        files = GroupFolder(about.parent)
        # What was damaged begins anew, as the group that it was.
        if files.checkpoint.exists() or files.damaged.exists():
            known = read(about, GroupJobs)
            make(known.jobs if known else (), about.parent)
    for names in form_groups(jobs.items(), size):
        digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        make(names, root / GROUPS / digest)
    grouped = {task.job.id for unit in units if isinstance(unit, GroupTask) for task in unit.tasks}
    return units + [task for task in tasks if task.job.id not in grouped]


def tasks_of(unit: Task | GroupTask) -> tuple[Task, ...]:
    """Return the tasks of a unit."""
    return (unit,) if isinstance(unit, Task) else unit.tasks


def left_over(unit: Task | GroupTask) -> list[Task]:
    """Return the tasks of a unit that have neither a result nor an error."""
    return [task for task in tasks_of(unit) if not JobFolder(task.folder).ended]


def refusal(unit: Task | GroupTask) -> str:
    """Say why a group was not trained as one; "" where it was."""
    if isinstance(unit, Task):
        return ""
    failure = read(GroupFolder(unit.folder).refused, Failure)
    return failure.message if failure else ""
