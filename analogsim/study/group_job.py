"""A group of a study's jobs that are trained together, in a folder of its own.

A job's own folder gets what it gets otherwise; its sweep is made singly, when the group's training is over.
"""

import contextlib
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, DivergenceError, StudyError
from ..machine import choose_device
from ..storage.files import lock, write_text
from ..storage.kept import sealed_text
from ..training.checkpoint import load_checkpoint, save_checkpoint
from ..training.data import DataSet
from ..training.group.group import Group, Member
from ..training.group.noise import site_sigmas
from ..training.history import write_history
from ..training.train import describe_data, identity
from .folder import GroupFolder, JobFolder
from .grouping import GroupTask, left_over
from .job import PATIENCE, Task, announce, at_work, attempt, job_data, job_network, record_failure

SPARE = 20  # a checkpoint is written when training has taken so many times what writing the last one took


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
        write_text(GroupFolder(unit.folder).refused, sealed_text(about))


def _run(unit: GroupTask) -> None:
    """Train a group, or what is left of it, and finish its jobs one by one."""
    files, tasks = GroupFolder(unit.folder), {task.job.id: task for task in left_over(unit)}
    if not tasks:
        return
    device = choose_device(unit.tasks[0].device)
    files.refused.unlink(missing_ok=True)
    if not files.about.exists():
        write_text(files.about, sealed_text({"jobs": [task.job.id for task in unit.tasks]}))
    with _held(tasks, device) as release:
        data = job_data(unit.tasks[0].job)
        known = describe_data(data)
        members = _members(tasks, data)
        abouts = {member.name: identity(member.network, known, member.spec) for member in members}
        working, ended = _restored(files.checkpoint, members, abouts)
        saved_in, saved_at = 0.0, -math.inf

        def finish(member: Member) -> None:
            release(member.name)
            _finish(tasks[member.name], member, abouts[member.name], files.path.name, len(unit.tasks))

        for member in ended:
            if member.diverged:
                finish(member)
        group = Group(working, data, torch.device(device), compile=unit.compile) if working else None
        while group and group.members:
            left = group.run_epoch()
            ended += left
            for member in working:
                # In no hurry to the disk: the checkpoint has them, too.
                write_history(JobFolder(tasks[member.name].folder).history, member.history, durable=False)
            started = time.monotonic()
            if left or started - saved_at > SPARE * saved_in:
                _save(files.checkpoint, group.members, ended, abouts)
                saved_at = time.monotonic()
                saved_in = saved_at - started
            for member in left:
                if member.diverged:
                    finish(member)
        for member in ended:
            if not member.diverged:
                finish(member)
    files.checkpoint.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(tasks: Mapping[str, Task], device: str) -> Iterator[Callable[[str], None]]:
    """Keep other processes out of jobs' folders; yield the function that lets one go."""
    from filelock import Timeout

    locks = {name: lock(JobFolder(task.folder).lock, PATIENCE) for name, task in tasks.items()}

    def release(name: str) -> None:
        JobFolder(tasks[name].folder).running.unlink(missing_ok=True)
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
    files = JobFolder(task.folder)
    if files.ended:
        return
    write_history(files.history, member.history)
    write_text(files.grouped, sealed_text({"group": group, "of": size}, None))
    if not member.diverged:
        save_checkpoint(files.checkpoint, about, member.state)
    attempt(task, DivergenceError(member.diverged, member.history) if member.diverged else None)
    # Only now: whatever finds a checkpoint without a result goes on from it.
    if member.diverged and member.state:
        save_checkpoint(files.checkpoint, about, member.state)
