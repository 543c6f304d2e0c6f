"""One job of a study in a folder of its own: train, sweep, write the result; or say why not."""

import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..analysis.hardware_sweep import hardware_sweep
from ..batch_norm import batch_norms
from ..errors import AnalogSimError, DivergenceError, StudyError
from ..machine import choose_device, provenance, versions
from ..profile import HardwareProfile
from ..qat import freeze_quantization, prepare_qat
from ..robustness.sweep import noise_sweep
from ..seeds import forked, seed_generators
from ..storage.files import appended, lock, write_text
from ..storage.kept import sealed_text
from ..training.data import DataSet, load_data
from ..training.network import build, check_fit, find_class, with_data
from ..training.run_file import Run
from ..training.train import TrainResult, train
from .folder import LOG, JobFolder
from .grid import Job
from .records import Grouped, Owner, Result, read

PATIENCE = 60.0  # seconds to wait for another process to leave the job's folder


@dataclass(frozen=True)
class Task:
    """A job, and where and how to do it; what an engine sends to its workers.

    Attributes
    ----------
    job : Job
    folder : Path
        Absolute.
    cwd : str
        Folder that import paths and the data's path are relative to.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …
    threads : int or None
        CPU threads; None: torch's default.
    trained : Path or None
        Where the checkpoint of the finished training is taken from, if it is there, and left: for jobs that have it in
        common.
    network : Path or None
        Where the trained network is kept; None: nowhere.
    """

    job: Job
    folder: Path
    cwd: str
    device: str = "auto"
    threads: int | None = None
    trained: Path | None = None
    network: Path | None = None


def attempt(task: Task, diverged: DivergenceError | None = None) -> None:
    """Do a job; whatever goes wrong is recorded with its traceback in `error.json`.

    `diverged`: how its training ended, where that is known already.
    """
    folder = task.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with at_work(task, folder):
            run_job(task.job, folder, task.device, diverged, task.trained, task.network)
    except Exception as error:
        record_failure(folder, f"{type(error).__name__}: {error}", traceback.format_exc())


@contextlib.contextmanager
def at_work(task: Task, folder: Path) -> Iterator[None]:
    """Be where a task is to be done, on as many threads; what is printed goes into the folder's log."""
    with appended(folder / LOG) as log, contextlib.chdir(task.cwd):
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            if task.threads:
                torch.set_num_threads(task.threads)
            yield


def run_job(
    job: Job,
    folder: Path,
    device: str = "auto",
    diverged: DivergenceError | None = None,
    trained: Path | None = None,
    network: Path | None = None,
) -> None:
    """Train a job's network and sweep it; continue where an earlier attempt was killed.

    `diverged`: as in `attempt`; `trained`, `network`: as in `Task`.

    Raises
    ------
    AnalogSimError
        What training or sweep say; a training that diverges is a result and raises nothing.
    """
    from filelock import Timeout

    try:
        with lock(JobFolder(folder).lock, PATIENCE):
            if not JobFolder(folder).finished:
                _run(job, folder, choose_device(device), diverged, trained, network)
    except Timeout:
        raise StudyError(f"{folder}: another process is at this job ({_holder(folder)}); end it, or wait") from None


def _run(
    job: Job, folder: Path, device: str, diverged: DivergenceError | None, kept: Path | None, place: Path | None
) -> None:
    started, files = now(), JobFolder(folder)
    announce(job, folder, device)
    taken = False
    if kept is not None and not files.checkpoint.exists():
        # Moved, not copied: one that is of no use is put away with the job's failure, and the training begins anew.
        with contextlib.suppress(FileNotFoundError):
            kept.replace(files.checkpoint)
            taken = True
    try:
        data = job_data(job)
        network = job_network(job, data)
        about: dict[str, Any] = {"job": job.identity, "data": data.label, "fingerprint": data.fingerprint}
        try:
            if diverged:
                raise diverged
            trained = train(network, data, job.train, out=folder, device=device, progress=False)
        except DivergenceError as error:
            about |= {"status": "diverged", "message": str(error), "history": error.history}
        else:
            if place is not None:
                _keep(trained, job, data, place)
            clock = time.perf_counter()
            fitting = job.sweep.batch_norm and batch_norms(network)
            statistics = data.train_sample(job.sweep.batch_norm) if fitting else None
            curve = noise_sweep(
                network,
                list(data.test_batches()),
                job.sweep.grid,
                job.sweep.repeats,
                quantity=job.sweep.quantity,
                chance=data.chance,
                seed=job.train.seed,
                device=device,
                batch_norm=statistics,
                progress=False,
            )
            curve.save(files.sweep)
            if job.hardware is not None:
                about["hardware"] = on_hardware(network, job, data)
            # Of all epochs, also those before a kill, or the job's share of a group's; another job's are its own.
            trained_in = 0.0 if taken else sum(epoch["seconds"] for epoch in trained.history)
            swept_in = time.perf_counter() - clock
            about |= {"status": trained.status, "message": "", "history": trained.history}
            about |= {"seconds": {"training": round(trained_in, 2), "all": round(trained_in + swept_in, 2)}}
        about |= {"started": started, "finished": now(), **provenance(device)}
        if group := read(files.grouped, Grouped):
            about["grouped"] = group.model_dump()
        write_text(files.result, sealed_text(Result(**about)))
        # Only now: all that it held is in the result. Of a divergence the last good epoch stays, to look at.
        if about["status"] != "diverged":
            if kept is not None and files.checkpoint.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                files.checkpoint.replace(kept)
            files.checkpoint.unlink(missing_ok=True)
        files.error.unlink(missing_ok=True)
    finally:
        files.running.unlink(missing_ok=True)


def _keep(trained: TrainResult, job: Job, data: DataSet, path: Path) -> None:
    """Write the network as `analogsim train` does, so that what takes a run of that takes the file's folder, too."""
    run = Run(
        model=job.model,
        args=_recipe(job, data)[1],
        data=job.data,
        train_subset=job.train_subset,
        test_subset=job.test_subset,
        qat=job.qat and job.qat.model_dump(mode="json"),
        spec=job.train.model_dump(mode="json"),
        version=versions()["analogsim"],
        label=data.label,
        test_accuracy=trained.accuracy,
        status=trained.status,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    run.save_weights(trained.model, path.parent)


def on_hardware(network: nn.Module, job: Job, data: DataSet) -> list[dict[str, Any]]:
    """Return what a trained network is worth on each hardware that its job asks for."""
    hardware: Any = job.hardware
    found = hardware_sweep(
        network if job.qat is None else freeze_quantization(network),
        list(data.test_batches()),
        hardware.vary,
        profile=HardwareProfile(**hardware.profile),
        calibration=data.train_sample(hardware.calibration),
        method=hardware.method,
        chips=hardware.chips,
        seed=job.train.seed,
        progress=False,
    )
    return [{"values": values, "found": accuracies} for values, accuracies in found.points]


def announce(job: Job, folder: Path, device: str) -> None:
    """Write down what a job is, and that this process is at it."""
    files = JobFolder(folder)
    write_text(files.about, json.dumps(job.identity, indent=1) + "\n")
    who = {"process": os.getpid(), "host": platform.node(), "device": device, "since": now()}
    write_text(files.running, sealed_text(who))


def job_network(job: Job, data: DataSet) -> nn.Module:
    """Build a job's network as it is before training: initial weights by the job's seed, and its quantizers."""
    factory, args = _recipe(job, data)
    with forked(cpu := torch.device("cpu")):
        seed_generators(job.train.seed, cpu)
        network = build(factory, args)
    check_fit(network, data)
    return network if job.qat is None else prepare_qat(network, job.qat, inplace=True)


def _recipe(job: Job, data: DataSet) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """Return what makes a job's network, and the arguments for it, with what the data say."""
    factory = find_class(job.model, job.trusted, "--trust")
    return factory, with_data(factory, job.args, classes=len(data.classes), channels=data.train_x.shape[1])


def job_data(job: Job) -> DataSet:
    """Return the images that a job is trained and tested on."""
    return _data(job.data, job.train_subset, job.test_subset)


@lru_cache(maxsize=2)
def _data(name: str, train_subset: int | None, test_subset: int | None) -> DataSet:
    # A worker does many jobs on the same images, which take seconds to decode.
    return load_data(name).subset(train_subset, test_subset)


def record_failure(folder: Path, message: str, trace: str = "") -> None:
    """Record that a job failed, and why."""
    about = {"message": message, "traceback": trace, "when": now()}
    write_text(JobFolder(folder).error, sealed_text(about))


def now() -> str:
    """Return the time as files of a study have it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holder(folder: Path) -> str:
    with contextlib.suppress(AnalogSimError):
        if owner := read(JobFolder(folder).running, Owner):
            return f"process {owner.process} on {owner.host}, since {owner.since}"
    return "it does not say which"
