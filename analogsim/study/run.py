"""Running a study: what is left to do, given to an engine, watched, and put into tables."""

import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from ..errors import StudyError
from ..machine import usable_cores
from ..progress import bar
from .grid import Entry, Study
from .job import RUNNING, Task, commit, versions
from .results import write_results, write_summary
from .store import DONE, Store

ENGINES = ("local", "ray")


def run_study(
    study: Study,
    out: str | os.PathLike[str],
    *,
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    progress: bool = True,
    command: str | None = None,
) -> Counter[str]:
    """Run what is not finished of a study, in a directory that keeps it.

    It can be killed at any moment and run again: finished jobs are kept, an interrupted one goes on from its last whole
    epoch.

    Parameters
    ----------
    study : Study
    out : path
        The study's directory; with engine "ray", one that every node sees under this path.
    engine : {"local", "ray"}
        Processes of this machine, or a Ray cluster.
    workers : int, optional
        "local": processes at a time; default: one a core. The cores are shared among them.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …; with engine "local", "cuda" means all GPUs in turn.
    retry_failed : bool
        Also run jobs again that failed before.
    address : str, optional
        "ray": of an existing cluster; default: the one that RAY_ADDRESS names, or one of this machine's own.
    cpus, gpus : float
        "ray": share of CPUs and GPUs of one job; gpus=0.25 puts four jobs on a GPU.
    progress : bool
        Say on standard error how many jobs are done, running and left, and how long it will take: in a line for each
        job that ends, and where it is a terminal in a progress bar.
    command : str, optional
        What is recorded as the command of this run.

    Returns
    -------
    Counter
        How many jobs are "finished", "collapsed", "diverged", "failed".

    Raises
    ------
    StudyError
        The study cannot be expanded, another run is at work in the directory, or it holds another study.
    BackendError
        Ray is not installed, or there is no cluster at the address.
    """
    if engine not in ENGINES:
        raise StudyError(f"engine: no {engine!r}; choose {' or '.join(ENGINES)}")
    entries, jobs = study.expand()
    store = Store(Path(out).absolute())
    with store.held(command):
        states = {job: store.state(job) for job in jobs}
        store.begin(study, entries, command=command, engine=engine, commit=commit(), versions=versions())
        kept = (*DONE,) if retry_failed else (*DONE, "failed")
        left = [job for job, state in states.items() if state not in kept]
        for job in left:
            store.forget_failure(job)
        # Not by what is left to do: a run goes on with as many threads as it began with, to give the same to the bit.
        cores = usable_cores()
        threads = max(1, cores // (workers or cores)) if engine == "local" else max(1, int(cpus))
        places = _devices(device) if engine == "local" else [device]
        tasks = [
            Task(jobs[job], store.folder(job), os.getcwd(), places[number % len(places)], threads)
            for number, job in enumerate(left)
        ]
        if engine == "ray":
            from .engine_ray import run_ray

            events = run_ray(tasks, address=address, cpus=cpus, gpus=gpus)
        else:
            from .engine_local import run_local

            events = run_local(tasks, workers or cores)
        try:
            with closing(events):
                _watch(store, entries, tasks, events, progress)
        finally:
            write_results(store)
            write_summary(store)
        return Counter(store.state(job) for job in jobs)


def _watch(
    store: Store, entries: list[Entry], tasks: list[Task], events: Generator[Task | None], progress: bool
) -> None:
    """Follow an engine; after each job make the table of results anew."""
    names = {entry.job: entry for entry in reversed(entries)}
    epochs = {task.job.id: task.job.train.epochs for task in tasks}
    before = {job: min(store.epochs(job), epochs[job]) for job in epochs}
    done, open_, failed, total = dict(before), set(epochs), 0, len(names)
    started = time.monotonic()
    # rich's own estimate knows the last 30 seconds only, in which a large network ends no epoch.
    with bar(progress, remaining=False) as shown:
        line = shown.add_task("", total=sum(epochs.values()), completed=sum(done.values()))
        if progress:
            shown.console.print(f"{total} jobs: {total - len(tasks)} done before, {len(tasks)} to do")
        for task in events:
            if task is not None:
                open_.discard(task.job.id)
                (task.folder / RUNNING).unlink(missing_ok=True)
                write_results(store)
                failed += store.state(task.job.id) == "failed"
            running = {job for job in open_ if (store.folder(job) / RUNNING).exists()}
            for job in running | ({task.job.id} if task else set()):
                done[job] = min(store.epochs(job), epochs[job])
            trained = sum(done.values()) - sum(before.values())
            left = sum(epochs[job] - done[job] for job in open_)
            parts = [f"{total - len(open_)} jobs done", f"{len(running)} running", f"{len(open_) - len(running)} left"]
            parts += [f"{failed} failed"] * bool(failed) + [time_left(trained, left, time.monotonic() - started)]
            if task is not None and progress:
                state = store.state(task.job.id)
                why = f": {store.error(task.job.id).get('message', '')}" if state == "failed" else ""
                text = f"{names[task.job.id].title}: {state}{why} ({', '.join(parts)})"
                shown.console.print(text, markup=False, highlight=False, soft_wrap=True)
            # What ended early, collapsed or failed, has no epochs left.
            ended = sum(epochs[job] for job in epochs if job not in open_)
            shown.update(
                line,
                completed=ended + sum(done[job] for job in open_),
                description=", ".join(parts) + "; epochs",
            )


def time_left(trained: int, left: int, seconds: float) -> str:
    """Say how long the remaining epochs take at the pace so far, all of a study's epochs counting as equal.

    Parameters
    ----------
    trained, left : int
        Epochs of this run that are behind and ahead.
    seconds : float
        Of this run so far.

    Examples
    --------
    >>> time_left(trained=40, left=60, seconds=7200)
    'about 3:00:00 to go'
    """
    if not left:
        return "no epoch to go"
    if trained <= 0:
        return "time to go not known yet"
    return f"about {timedelta(seconds=round(seconds * left / trained))} to go"


def _devices(device: str) -> list[str]:
    import torch

    many = device in ("auto", "cuda") and torch.cuda.is_available() and torch.cuda.device_count() > 1
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if many else [device]
