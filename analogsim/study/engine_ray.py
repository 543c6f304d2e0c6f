"""Jobs on a Ray cluster: several share a GPU by fractions; a job whose worker or node dies is tried again elsewhere."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

from ..errors import BackendError
from ..storage.files import first_line
from .folder import JobFolder
from .group_job import attempt_unit
from .grouping import GroupTask, left_over
from .job import Task, record_failure

RETRIES = 3  # of a job whose worker died
TICK = 0.5  # seconds
PATIENCE = 60.0  # seconds in which a cluster must have answered; Ray itself waits for many minutes
KNOCK = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='error')"


def run_ray(
    tasks: Sequence[Task | GroupTask], *, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0
) -> Generator[Task | GroupTask | None]:
    """Do jobs on a Ray cluster.

    Parameters
    ----------
    tasks : sequence of Task or GroupTask
        Their folders must be the same files on every node, as must be the networks' modules and the data.
    address : str, optional
        Of an existing cluster ("auto", "HOST:PORT", "ray://…"); default: the one that RAY_ADDRESS names, else a new one
        of this machine, which ends with the run. A session that is connected already is used as it is.
    cpus, gpus : float
        Share of one job, such as gpus=0.25.

    Yields
    ------
    Task, GroupTask or None
        A task that has ended, finished or failed; None at least twice a second, to look around. Jobs that a group
        leaves undone come singly after it.

    Raises
    ------
    BackendError
        Ray is not installed, no cluster answers at the address within a minute, or no node of it has what a job needs.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    waiting: dict[Any, Task | GroupTask] = {}
    try:
        _check_resources(ray, cpus, gpus)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(attempt_unit)

        def submit(task: Task | GroupTask) -> None:
            name = task.folder.name
            waiting[remote.options(name=name).remote(task)] = task

        for task in tasks:
            submit(task)
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=TICK)
            for reference in ready:
                task = waiting.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    # A retry may have been lost after it had finished the job.
                    if isinstance(task, Task) and not JobFolder(task.folder).finished:
                        record_failure(task.folder, f"the Ray task was lost: {first_line(error, 200)}", str(error))
                if isinstance(task, GroupTask):
                    for single in left_over(task):
                        submit(single)
                yield task
            if not ready:
                yield None
    finally:
        for reference in waiting:
            with suppress(Exception):
                ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise BackendError("--engine ray: Ray is not installed; pip install 'analogsim[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    if known := address or os.environ.get("RAY_ADDRESS"):
        _knock(known)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address!r}" if address else "on this machine"
        raise BackendError(
            f"--engine ray: no cluster {where}: {first_line(error, 200)}; start one by `ray start`"
        ) from None


def _knock(address: str) -> None:
    """Refuse an address at which no cluster answers in time: a port that is closed at once, another one by a trial.

    The trial is a process of its own, for Ray cannot be stopped while it connects, and may end the process.
    """
    remedy = "start a cluster there by `ray start`, or give the address of one that runs"
    try:
        if named := re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address):
            socket.create_connection((named[1], int(named[2])), timeout=PATIENCE).close()
        found = subprocess.run(
            [sys.executable, "-c", KNOCK, address], capture_output=True, text=True, timeout=PATIENCE, errors="replace"
        )
    except subprocess.TimeoutExpired:
        why = f"no answer in {PATIENCE:g} seconds"
    except (OSError, OverflowError) as error:
        why = first_line(error, 200)
    else:
        why = (found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1][:200]
        if not found.returncode:
            return
    raise BackendError(f"--engine ray: no cluster at {address!r}: {why}; {remedy}")


def _check_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Refuse what would wait for ever."""
    needs = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in nodes):
        have = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in needs) for node in nodes)
        raise BackendError(f"--engine ray: a job needs {cpus:g} CPU and {gpus:g} GPU, no node has that ({have})")
