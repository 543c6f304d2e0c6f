"""`analogsim study`: a grid of trainings from one file, run, watched and reported."""

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import StudyError
from ..tables import Column, Table
from ..terminal.text import text
from .base import EXIT_CODES, USER_ERROR, Program, Subgroup, note, out, plain, present, say
from .options import Device
from .output import FormOption, JsonOption

if TYPE_CHECKING:
    from ..study.grid import Entry, Job
    from ..study.store import Store

app = Program(
    cls=Subgroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train and sweep a whole grid of networks and methods, described by one file.",
    epilog="[bold]Example:[/] analogsim study run benchmarks/paper/lenet5.yaml, and while it runs "
    "analogsim study status runs/lenet5, then analogsim study report runs/lenet5\n\n"
    "The file is explained in docs/studies.md.",
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The study: a YAML file.")]
Directory = Annotated[Path, typer.Argument(metavar="FOLDER", help="A study's folder.")]
Data = Annotated[str | None, typer.Option(metavar="NAME", help="Data set to use. Default: the file's.")]
COLORS = {"finished": "green", "collapsed": "yellow", "diverged": "yellow", "failed": "red", "running": "cyan"}

RUN_EPILOG = (
    "[bold]Examples:[/]\n\n"
    "analogsim study run benchmarks/paper/lenet5.yaml --dry-run\n\n"
    "analogsim study run benchmarks/paper/long/vgg11.yaml --estimate\n\n"
    "analogsim study run benchmarks/paper/lenet5.yaml --data cifar10 --out runs/lenet5\n\n"
    "analogsim study run benchmarks/paper/full/vgg11.yaml --engine ray --address auto --gpus 0.25\n\n"
    "Killed at any moment, the same command goes on: finished jobs are kept, an interrupted one continues from its "
    "last epoch.\n\n"
    f"{EXIT_CODES}"
)


def _group(text: str) -> str:
    if text != "auto" and not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise typer.BadParameter(f"'auto' or a whole number from 1 is needed, got {text!r}")
    return text


@app.command(epilog=RUN_EPILOG)
def run(
    file: File,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="The study's folder. Default: runs/ and the file's name."),
    ] = None,
    data: Data = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="local: processes at a time. Default: one a core.")
    ] = None,
    device: Device = "auto",
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="ray: an existing cluster's; default: one of this machine's own.")
    ] = None,
    cpus: Annotated[float, typer.Option(metavar="X", min=0, help="ray: CPUs of one job.")] = 1.0,
    gpus: Annotated[float, typer.Option(metavar="X", min=0, help="ray: GPUs of one job; 0.25: four share one.")] = 0.0,
    group: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            callback=_group,
            help="Jobs that differ in seed, σ or s are trained together, up to N as one network; 1: each by itself. "
            "auto: 32 on a GPU, 1 on the CPU.",
        ),
    ] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Groups: compile the training step (CUDA graphs on a GPU).")
    ] = False,
    keep_networks: Annotated[
        bool,
        typer.Option(
            "--keep-networks",
            help="Keep each trained network: networks/ID is then a RUN of `analogsim sweep` and others.",
        ),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also run again what failed before.")] = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="A network of the file that may be called though it is no nn.Module class (a function). May be "
            "given several times. Default: none.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    estimated: Annotated[
        bool,
        typer.Option(
            "--estimate", help="As --dry-run, and measure a few steps of each kind of job: how long it takes."
        ),
    ] = False,
    form: FormOption = "table",
) -> None:
    """Run what is not finished of a study; Ctrl-C ends it, and the same command goes on."""
    from ..study.file import load_study
    from ..study.store import DONE, Store

    study = load_study(file, **({} if data is None else {"data": data}))
    folder = folder or Path("runs") / file.stem
    if dry_run or estimated:
        entries, jobs = study.expand(trust or ())
        store = Store(folder)
        states = {job: store.state(job) for job in jobs}
        seconds = _estimate(jobs, workers, device) if estimated else {}
        present(_jobs_table(entries, store, seconds), form)
        epochs = sum(job.train.epochs for job in jobs.values())
        counts = _counts(Counter(states.values()))
        note(f"{plain(study.name)}: {len(jobs)} jobs ({counts}), {epochs:,} epochs in all; nothing was done")
        if seconds:
            left = sum(time for job, time in seconds.items() if states[job] not in DONE)
            note(
                f"measured now, each job by itself: {sum(seconds.values()) / 3600:.3g} hours of jobs, of which "
                f"{left / 3600:.3g} are not done; divide by the number of jobs that run at a time"
            )
        return

    from ..study.results import summarise
    from ..study.run import run_study

    command = text(shlex.join(["analogsim", *sys.argv[1:]]))
    try:
        counts = run_study(
            study,
            folder,
            engine=engine,
            workers=workers,
            device=device,
            retry_failed=retry_failed,
            address=address,
            cpus=cpus,
            gpus=gpus,
            group="auto" if group == "auto" else int(group),
            compile=compile,
            keep_networks=keep_networks,
            trust=trust or (),
            command=command,
        )
    except KeyboardInterrupt as stop:
        stop.add_note(f"; the same command goes on from there ({folder})")
        raise
    present(_summary_table(summarise(folder)), form)
    note(f"{_counts(counts)}; results: {plain(folder / 'results.csv')}; next: analogsim study report {plain(folder)}")
    if counts["failed"]:
        say(f"why: analogsim study status {plain(folder)}; again: --retry-failed")
        raise typer.Exit(USER_ERROR)


@app.command(epilog="[bold]Example:[/] analogsim study status runs/lenet5 --format json | jq .counts")
def status(
    folder: Directory,
    form: JsonOption = "table",
) -> None:
    """Say how far a study is, and why what failed did."""
    from ..study.store import Store

    store = Store(folder)
    study, plan = store.study(), store.plan()
    jobs = dict.fromkeys(entry.job for entry in plan)
    states = {job: store.state(job) for job in jobs}
    counts = Counter(states.values())
    failed = {job: store.error(job) for job, state in states.items() if state == "failed"}
    if form == "json":
        facts: dict[str, Any] = {"study": study.name, "at_work": store.busy(), "jobs": len(jobs)}
        typer.echo(json.dumps(facts | {"counts": dict(counts), "states": states, "failed": failed}, indent=2))
        return
    out().print(
        f"{plain(study.name)}: {len(jobs)} jobs: {_counts(counts)}; {plain(store.owner() or 'no run is at work')}"
    )
    for job, message in failed.items():
        names = "; ".join(entry.title for entry in plan if entry.job == job)
        out().print(f"[red]failed[/] {plain(job)} ({plain(names)}): {plain(message)}")
        out().print(f"  traceback: {plain(store.folder(job) / 'error.json')}", soft_wrap=True)


@app.command("list", epilog="[bold]Example:[/] analogsim study list runs/lenet5")
def list_jobs(folder: Directory, form: FormOption = "table") -> None:
    """List a study's jobs: identity, network, method, seed, and how far each is."""
    from ..study.store import Store

    store = Store(folder)
    present(_jobs_table(store.plan(), store), form)


@app.command(epilog="[bold]Example:[/] analogsim study report runs/lenet5 && xdg-open runs/lenet5/report.html")
def report(folder: Directory, form: FormOption = "table") -> None:
    """Write report.html, one page that needs no network, and figures/*.png and *.svg into a study's folder."""
    from ..study.report import write_report
    from ..study.results import summarise

    files = write_report(folder)
    present(_summary_table(summarise(folder)), form)
    note(f"written: {', '.join(plain(file) for file in files)}")


PACK_EPILOG = (
    "All commands read jobs.jsonl as they read the folders, and a run does none of its jobs again. It is read back "
    "before anything is removed. Files that say more than a job's line are left where they are, and named: the "
    "checkpoint of a training that diverged, a log that is not empty, and whatever is not the study's.\n\n"
    "[bold]Example:[/] analogsim study pack runs/lenet5"
)


@app.command(epilog=PACK_EPILOG)
def pack(folder: Directory) -> None:
    """Gather what is finished in one file, jobs.jsonl, a line a job, in place of a folder each."""
    from ..study.packing import pack_study

    done = pack_study(folder, command=text(shlex.join(["analogsim", *sys.argv[1:]])))
    if not done.jobs:
        note(f"{plain(folder)}: no job has finished yet; nothing was done")
        return
    note(f"{plain(done.path)}: {done.jobs} jobs, {done.added} of them new")
    for path in done.left:
        note(f"left: {plain(path)}")


def _counts(states: Counter[str]) -> str:
    from ..study.store import STATES

    known = [f"{states[name]} {name}" for name in STATES if states[name]]
    if not known:
        raise StudyError("the study has no job: its methods and networks exclude each other")
    return ", ".join(known)


def _estimate(jobs: Mapping[str, "Job"], workers: int | None, device: str) -> dict[str, float]:
    """Measure what jobs take, with as many threads as a run would give each."""
    from ..machine import choose_device, usable_cores
    from ..study.estimate import estimate

    threads = max(1, usable_cores() // (workers or usable_cores()))
    return estimate(jobs, choose_device(device), threads, lambda kind: note(f"measuring {plain(kind)}"))


def _jobs_table(entries: Iterable["Entry"], store: "Store", seconds: Mapping[str, float] | None = None) -> Table:
    columns = (
        *(Column(name, number=False) for name in ("job", "network", "method")),
        Column("seed"),
        Column("state", number=False, style=lambda state: COLORS.get(state, "dim")),
        Column("epochs", row=lambda row: f"{row['epochs']}/{row['of']}"),
        Column("of", screen=False),
        Column("time", "h", ".2g", "hours"),
    )
    rows = []
    for entry in entries:
        state = store.state(entry.job)
        done = entry.epochs if state in ("finished", "collapsed") else min(store.epochs(entry.job), entry.epochs)
        point = f"σ={entry.sigma:.3g}" if entry.matched else ""
        method = ", ".join(filter(None, (entry.method, entry.variant, point)))
        hours = seconds[entry.job] / 3600 if seconds else None
        rows.append((entry.job, entry.model, method, entry.seed, state, done, entry.epochs, hours))
    return Table(columns, tuple(rows))


def _summary_table(frame: Any) -> Table:
    from ..robustness.curve_table import FITTED

    several = frame["curve"].nunique() > 1
    columns = (
        *(Column(name, number=False) for name in ("network", "method")),
        Column("curve", number=False, screen=several),
        Column("seeds", row=lambda row: f"{row['seeds']}/{row['of']}"),
        Column("of", screen=False),
        *FITTED,
    )
    names = [one.name for one in FITTED]
    rows = []
    for row in frame.to_dict("records"):
        method = ", ".join(filter(None, (row["method"], row["variant"])))
        fitted = (row.get(name) for name in names)
        rows.append((row["model"], method, row["curve"], row["trainings"], row["of"], *fitted))
    return Table(columns, tuple(rows))
