"""Running a study: what is left to do, given to an engine, watched, and put into tables."""

import os
import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from ..errors import StudyError, warn
from ..machine import commit, usable_cores, versions
from ..storage.files import refuse_links
from ..terminal.progress import bar
from .engine import Engine, Local, Ray
from .folder import JobFolder
from .grid import Entry, Job, Study
from .grouping import AUTO, GroupTask, assign, left_over, refusal, tasks_of
from .job import Task
from .results import write_hardware, write_map, write_results, write_summary
from .store import DONE, LEARNED, TRAINED, Store

ENGINES = (Local.name, Ray.name)


def run_study(
    study: Study,
    out: str | os.PathLike[str],
    *,
    engine: str | Engine = "local",
    workers: int | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    group: int | Literal["auto"] = "auto",
    compile: bool = False,
    keep_networks: bool = False,
    trust: Collection[str] = (),
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
    engine : {"local", "ray"} or Engine
        Processes of this machine, a Ray cluster, or an engine of your own (docs/extending.md).
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
    group : int or "auto"
        Largest number of jobs that are trained together as one batched network; 1: none are. Jobs go together that
        differ in seed, in the σ of training (or multiplicative, layers, ramp_epochs, variance) and in s of constant
        scaling alone; dynamic scaling is trained singly. "auto": 32 on a GPU, 1 on the CPU. A group that was
        interrupted goes on as it is, whatever is asked for now.
    compile : bool
        Groups: forward and backward by torch.compile, CUDA graphs included; a step that cannot be compiled is not.
    keep_networks : bool
        Keep each trained network, as `networks/ID/model.safetensors`: `load_network` loads it, and the shell's commands
        take `networks/ID` as a RUN. Else it is gone once it is measured.
    trust : collection of str
        Import paths of the study that may be called though they are no classes of nn.Module but, say, functions.
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
        The study cannot be expanded, `group` is no such number, another run is at work in the directory, or it holds
        another study.
    BackendError
        Ray is not installed, or there is no cluster at the address.

    Warns
    -----
    AnalogSimWarning
        Networks are to be kept of jobs that were finished without; these are not trained again.
    """
    if not isinstance(engine, Engine):
        if engine not in ENGINES:
            raise StudyError(f"engine: no {engine!r}; choose {' or '.join(ENGINES)}, or give an Engine")
        engine = Ray(address, cpus, gpus) if engine == Ray.name else Local()
    if group != "auto" and group < 1:
        raise StudyError(f"group: 'auto', or at least 1 job, got {group}")
    entries, jobs = study.expand(trust)
    store = Store(Path(out).absolute())
    with store.held(command):
        states = {job: store.state(job) for job in jobs}
        store.begin(study, entries, command=command, engine=engine.name, commit=commit(), versions=versions())
        kept = (*DONE,) if retry_failed else (*DONE, "failed")
        left = [job for job, state in states.items() if state not in kept]
        for job in left:
            store.forget_failure(job)
        if keep_networks:
            _say_gone([job for job, state in states.items() if state in LEARNED and not store.network(job).exists()])
        places = engine.places(device)
        on_gpu = engine.on_gpu(places)
        size = (AUTO if on_gpu else 1) if group == "auto" else group
        # Groups fill a GPU; singly, several processes share it.
        workers = workers or (len(places) if on_gpu and size > 1 else usable_cores())
        # Not by what is left to do: a run goes on with as many threads as it began with, to give the same to the bit.
        threads = engine.threads(workers)
        shared = _shared(store, jobs)
        common = {"cwd": os.getcwd(), "device": device, "threads": threads}
        places_kept = {job: store.network(job) for job in left} if keep_networks else {}
        tasks = [
            Task(jobs[job], store.folder(job), **common, trained=shared.get(job), network=places_kept.get(job))
            for job in left
        ]
        units = [
            _placed(unit, places[number % len(places)], compile)
            for number, unit in enumerate(assign(tasks, jobs, store.root, size))
        ]
        try:
            with closing(engine.run(units, workers)) as events:
                _watch(store, entries, units, events, progress)
        finally:
            _drop_trained(store, shared)
            write_results(store)
            write_summary(store)
            write_hardware(store)
            write_map(store)
        return Counter(store.state(job) for job in jobs)


def _say_gone(jobs: Sequence[str]) -> None:
    """Warn of finished jobs whose networks were not kept."""
    if jobs:
        some = ", ".join(jobs[:3]) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
        warn(
            f"{len(jobs)} finished jobs have no network, since they were run without keep_networks ({some}); to have "
            "them, run the study in a new folder"
        )


def _shared(store: Store, jobs: Mapping[str, Job]) -> dict[str, Path]:
    """Return where jobs whose training another job has as well, with another sweep, find it when it is done."""
    counts = Counter(job.training for job in jobs.values())
    refuse_links(store.root / TRAINED)
    return {name: store.root / TRAINED / f"{job.training}.pt" for name, job in jobs.items() if counts[job.training] > 1}


def _drop_trained(store: Store, shared: Mapping[str, Path]) -> None:
    """Remove the checkpoints of trainings whose jobs are all finished."""
    open_ = {path for job, path in shared.items() if store.state(job) not in DONE}
    for path in set(shared.values()) - open_:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        (store.root / TRAINED).rmdir()  # where it is empty


def _watch(
    store: Store,
    entries: list[Entry],
    units: list[Task | GroupTask],
    events: Generator[Task | GroupTask | None],
    progress: bool,
) -> None:
    """Follow an engine; after each job make the table of results anew."""
    names = {entry.job: entry for entry in reversed(entries)}
    tasks = [task for unit in units for task in tasks_of(unit)]
    open_ = {task.job.id: task for task in tasks}
    epochs = {job: task.job.train.epochs for job, task in open_.items()}
    before = {job: min(store.epochs(job), epochs[job]) for job in epochs}
    done, failed, total = dict(before), 0, len(names)
    started = time.monotonic()
    # rich's own estimate knows the last 30 seconds only, in which a large network ends no epoch.
    with bar(progress, remaining=False) as shown:
        line = shown.add_task("", total=sum(epochs.values()), completed=sum(done.values()))

        def say(text: str) -> None:
            if progress:
                shown.console.print(text, markup=False, highlight=False, soft_wrap=True)

        groups = [len(unit.tasks) for unit in units if isinstance(unit, GroupTask)]
        how = f", {sum(groups)} of them in {len(groups)} groups, the others singly" if groups else ""
        say(f"{total} jobs: {total - len(tasks)} done before, {len(tasks)} to do{how}")
        for unit in events:
            if unit is not None:
                for task in tasks_of(unit):
                    JobFolder(task.folder).running.unlink(missing_ok=True)
                if why := refusal(unit):
                    say(f"a group of {len(tasks_of(unit))} is trained singly: {why}")
            # Of a group some end before the others.
            ended = [job for job, task in open_.items() if not left_over(task)]
            for job in ended:
                del open_[job]
            running = [job for job in open_ if store.files(job).running.exists()]
            for job in (*running, *ended):
                done[job] = min(store.epochs(job), epochs[job])
            if ended:
                write_results(store)
                failed += sum(store.state(job) == "failed" for job in ended)
            trained = sum(done.values()) - sum(before.values())
            left = sum(epochs[job] - done[job] for job in open_)
            parts = [f"{total - len(open_)} jobs done", f"{len(running)} running", f"{len(open_) - len(running)} left"]
            parts += [f"{failed} failed"] * bool(failed) + [time_left(trained, left, time.monotonic() - started)]
            for job in ended:
                state = store.state(job)
                why = f": {store.error(job)}" if state == "failed" else ""
                say(f"{names[job].title}: {state}{why} ({', '.join(parts)})")
            # What ended early, collapsed or failed, has no epochs left.
            over = sum(epochs[job] for job in epochs if job not in open_)
            shown.update(
                line,
                completed=over + sum(done[job] for job in open_),
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


def _placed(unit: Task | GroupTask, device: str, compile: bool) -> Task | GroupTask:
    if isinstance(unit, Task):
        return replace(unit, device=device)
    return replace(unit, tasks=tuple(replace(task, device=device) for task in unit.tasks), compile=compile)
