"""Jobs of a study that are trained as a group: which go together, and a group in a folder of its own.

==================  =============================================================================================
groups/ID/          one folder a group
group.json          its jobs
checkpoint.pt       every network's training after a whole epoch, while the group is at work; where it cannot be used,
                    its jobs fail, and --retry-failed trains the group from the start
refused.json        why its jobs are trained singly after all
==================  =============================================================================================

A job's own folder gets what it gets otherwise; its sweep is made singly, when the group's training is over.
"""

import contextlib
import hashlib
import json
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, DivergenceError, StudyError
from ..machine import choose_device
from ..storage.files import lock, refuse_links
from ..storage.kept import sealed_text
from ..training.checkpoint import load_checkpoint, save_checkpoint, write_text
from ..training.data import DataSet
from ..training.group.group import Group, Member
from ..training.group.noise import site_sigmas
from ..training.train import CHECKPOINT, HISTORY, describe_data, identity, write_history
from .grid import Job
from .job import (
    ERROR,
    GROUPED,
    LOCK,
    PATIENCE,
    RESULT,
    RUNNING,
    Task,
    announce,
    at_work,
    attempt,
    job_data,
    job_network,
    record_failure,
)
from .records import Failure, GroupJobs, read
from .store import DAMAGED, GROUPS

ABOUT, REFUSED = "group.json", "refused.json"
AUTO = 32
"""Networks of a group on a GPU, where `--group auto` decides."""
FREE = ("seed", "sigma", "multiplicative", "layers", "ramp_epochs", "variance")
"""Fields of TrainSpec in which the jobs of a group may differ."""
SPARE = 20  # a checkpoint is written when training has taken so many times what writing the last one took


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
    open_ = {task.job.id: task for task in tasks if not (task.folder / CHECKPOINT).exists()}
    units: list[Task | GroupTask] = []

    refuse_links(root / GROUPS)

    def make(names: Iterable[str], folder: Path) -> None:
        refuse_links(folder)
        members = [open_.pop(name) for name in names if name in open_]
        if members:
            units.append(GroupTask(tuple(members), folder))

    for about in sorted((root / GROUPS).glob(f"*/{ABOUT}")):
        # What was damaged begins anew, as the group that it was.
        if any((about.parent / name).exists() for name in (CHECKPOINT, DAMAGED)):
            known = read(about, GroupJobs)
            make(known.jobs if known else (), about.parent)
    for names in form_groups(jobs.items(), size):
        digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        make(names, root / GROUPS / digest)
    grouped = {task.job.id for unit in units if isinstance(unit, GroupTask) for task in unit.tasks}
    return units + [task for task in tasks if task.job.id not in grouped]


def attempt_unit(unit: Task | GroupTask) -> None:
    """Do a job, or train a group of them; what goes wrong is recorded."""
    if isinstance(unit, Task):
        attempt(unit)
        return
    unit.folder.mkdir(parents=True, exist_ok=True)
    try:
        with at_work(unit.tasks[0], unit.folder):
            _run(unit)
    except CheckpointError as error:
        # Trained singly its jobs would have other numbers, and what the checkpoint has of them would be lost.
        for task in left_over(unit):
            record_failure(task.folder, f"{type(error).__name__}: {error}", traceback.format_exc())
    except Exception as error:
        about = {"message": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        write_text(unit.folder / REFUSED, sealed_text(about))


def tasks_of(unit: Task | GroupTask) -> tuple[Task, ...]:
    """Return the tasks of a unit."""
    return (unit,) if isinstance(unit, Task) else unit.tasks


def left_over(unit: Task | GroupTask) -> list[Task]:
    """Return the tasks of a unit that have neither a result nor an error."""
    return [task for task in tasks_of(unit) if not any((task.folder / name).exists() for name in (RESULT, ERROR))]


def refusal(unit: Task | GroupTask) -> str:
    """Say why a group was not trained as one; "" where it was."""
    if isinstance(unit, Task):
        return ""
    failure = read(unit.folder / REFUSED, Failure)
    return failure.message if failure else ""


def _run(unit: GroupTask) -> None:
    """Train a group, or what is left of it, and finish its jobs one by one."""
    folder, tasks = unit.folder, {task.job.id: task for task in left_over(unit)}
    if not tasks:
        return
    device = choose_device(unit.tasks[0].device)
    (folder / REFUSED).unlink(missing_ok=True)
    if not (folder / ABOUT).exists():
        write_text(folder / ABOUT, sealed_text({"jobs": [task.job.id for task in unit.tasks]}))
    with _held(tasks, device) as release:
        data = job_data(unit.tasks[0].job)
        known = describe_data(data)
        members = _members(tasks, data)
        abouts = {member.name: identity(member.network, known, member.spec) for member in members}
        working, ended = _restored(folder / CHECKPOINT, members, abouts)
        saved_in, saved_at = 0.0, -math.inf

        def finish(member: Member) -> None:
            release(member.name)
            _finish(tasks[member.name], member, abouts[member.name], folder.name, len(unit.tasks))

        for member in ended:
            if member.diverged:
                finish(member)
        group = Group(working, data, torch.device(device), compile=unit.compile) if working else None
        while group and group.members:
            left = group.run_epoch()
            ended += left
            for member in working:
                # In no hurry to the disk: the checkpoint has them, too.
                write_history(tasks[member.name].folder / HISTORY, member.history, durable=False)
            started = time.monotonic()
            if left or started - saved_at > SPARE * saved_in:
                _save(folder / CHECKPOINT, group.members, ended, abouts)
                saved_at = time.monotonic()
                saved_in = saved_at - started
            for member in left:
                if member.diverged:
                    finish(member)
        for member in ended:
            if not member.diverged:
                finish(member)
    (folder / CHECKPOINT).unlink(missing_ok=True)


@contextlib.contextmanager
def _held(tasks: Mapping[str, Task], device: str) -> Iterator[Callable[[str], None]]:
    """Keep other processes out of jobs' folders; yield the function that lets one go."""
    from filelock import Timeout

    locks = {name: lock(task.folder / LOCK, PATIENCE) for name, task in tasks.items()}

    def release(name: str) -> None:
        (tasks[name].folder / RUNNING).unlink(missing_ok=True)
        locks.pop(name).release()

    try:
        for name, task in tasks.items():
            task.folder.mkdir(parents=True, exist_ok=True)
            try:
                locks[name].acquire()
            except Timeout:
                raise StudyError(f"{task.folder}: another process is at this job; end it, or wait") from None
            announce(task.job, task.folder, device)
        yield release
    finally:
        for name in list(locks):
            release(name)


def _members(tasks: Mapping[str, Task], data: DataSet) -> list[Member]:
    """Build the networks; one that cannot be built, or has no place for its noise, is a failure of its own job."""
    members = []
    for name, task in tasks.items():
        try:
            network = job_network(task.job, data)
            site_sigmas(network, task.job.train)
            members.append(Member(name, network, task.job.train))
        except Exception as error:
            record_failure(task.folder, f"{type(error).__name__}: {error}", traceback.format_exc())
    return members


def _restored(
    path: Path, members: list[Member], abouts: Mapping[str, dict[str, Any]]
) -> tuple[list[Member], list[Member]]:
    """Return who is to be trained on and who has ended, as the group's checkpoint says; without one, all and none."""
    if not path.exists():
        return members, []
    state = load_checkpoint(path, {"group": path.parent.name})
    known = [member for member in members if member.name in state["trainings"]]
    for member in known:
        before = state["trainings"][member.name]
        if before["identity"] != json.dumps(abouts[member.name]):
            raise CheckpointError(
                f"checkpoint of another training: the network or the data of job {member.name} changed; move it away "
                f"to train from the start: {path}"
            )
        member.state, member.diverged = before["state"], before["diverged"]
    # One that failed before, and is tried again, is not as far as the others: it is left over.
    working = [member for member in known if member.name in state["working"]]
    return working, [member for member in known if member.name not in state["working"]]


def _save(path: Path, working: list[Member], ended: list[Member], abouts: Mapping[str, dict[str, Any]]) -> None:
    trainings = {
        member.name: {
            "identity": json.dumps(abouts[member.name]),
            "state": member.state,
            "diverged": member.diverged,
        }
        for member in (*working, *ended)
    }
    state = {"working": [member.name for member in working], "trainings": trainings}
    save_checkpoint(path, {"group": path.parent.name}, state)


def _finish(task: Task, member: Member, about: dict[str, Any], group: str, size: int) -> None:
    """Leave a job's checkpoint as a single training would, and let the job be done from there: sweep and result."""
    folder = task.folder
    if (folder / RESULT).exists() or (folder / ERROR).exists():
        return
    write_history(folder / HISTORY, member.history)
    write_text(folder / GROUPED, sealed_text({"group": group, "of": size}, None))
    if not member.diverged:
        save_checkpoint(folder / CHECKPOINT, about, member.state)
    attempt(task, DivergenceError(member.diverged, member.history) if member.diverged else None)
    # Only now: whatever finds a checkpoint without a result goes on from it.
    if member.diverged and member.state:
        save_checkpoint(folder / CHECKPOINT, about, member.state)
