"""Running a study: what is left to do, given to an engine, watched, and put into tables."""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import closing
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
        Show a progress bar where standard error is a terminal, and a line for each job that ends.
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
    done = {job: min(store.epochs(job), epochs[job]) for job in epochs}
    open_, failed, total = set(epochs), 0, len(names)
    with bar(progress) as shown:
        line = shown.add_task("", total=sum(epochs.values()), completed=sum(done.values()))
        if progress:
            shown.console.print(f"{total} jobs: {total - len(tasks)} done before, {len(tasks)} to do")
        for task in events:
            if task is not None:
                job = task.job.id
                open_.discard(job)
                done[job] = epochs[job]
                (task.folder / RUNNING).unlink(missing_ok=True)
                write_results(store)
                state = store.state(job)
                failed += state == "failed"
                if progress:
                    why = f": {store.error(job).get('message', '')}" if state == "failed" else ""
                    text = f"{total - len(open_)}/{total} {names[job].title}: {state}{why}"
                    shown.console.print(text, markup=False, highlight=False, soft_wrap=True)
            running = [job for job in open_ if (store.folder(job) / RUNNING).exists()]
            for job in running:
                done[job] = min(store.epochs(job), epochs[job])
            parts = [f"{total - len(open_)} jobs done", f"{len(running)} running", f"{len(open_) - len(running)} left"]
            parts += [f"[red]{failed} failed[/]"] * bool(failed)
            shown.update(line, completed=sum(done.values()), description=", ".join(parts) + "; epochs")


def _devices(device: str) -> list[str]:
    import torch

    many = device in ("auto", "cuda") and torch.cuda.is_available() and torch.cuda.device_count() > 1
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if many else [device]
