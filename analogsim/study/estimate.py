"""How long a study's jobs will take: a few steps and evaluations of each kind of them, measured here and now."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..robustness.sweep import noise_sweep
from ..training.train import train
from .grid import Job
from .job import job_data, job_network

STEPS = 4, 32
"""Steps of an epoch that is measured; more where they take less than a second."""
SLOW = 1e-9
"""Learning rate of what is measured: no training may diverge in it."""


def estimate(
    jobs: Mapping[str, Job],
    device: str = "cpu",
    threads: int = 1,
    tell: Callable[[str], None] = lambda title: None,
) -> dict[str, float]:
    """Return the seconds that jobs take singly, by their identities.

    Parameters
    ----------
    jobs : mapping
        Of `Study.expand`.
    device : str
    threads : int
        CPU threads of a job.
    tell : callable
        Called with a line on each kind of jobs before it is measured.

    Notes
    -----
    Jobs are of a kind that have the network, its arguments, quantizers, batches and images in common, and noise in
    training or none. Not counted: reading data, what compiles at the first call, and a study's hardware.
    """
    kinds: dict[str, tuple[float, float]] = {}
    found = {}
    with _threads(threads):
        for name, job in jobs.items():
            kind = json.dumps(_kind(job), sort_keys=True)
            if kind not in kinds:
                tell(f"{job.model}, {_words(job)}")
                kinds[kind] = _measured(job, device)
            epoch, image = kinds[kind]
            evaluations = 1 + int((job.sweep.grid > 0).sum()) * job.sweep.repeats
            found[name] = epoch * job.train.epochs + evaluations * len(job_data(job).test_y) * image
    return found


def _kind(job: Job) -> dict[str, Any]:
    quantized = None if job.qat is None else job.qat.model_dump(mode="json") | {"s": None}
    facts = {"model": job.model, "args": job.args, "qat": quantized, "noisy": not job.train.silent}
    return facts | {"batch": job.train.batch_size, "data": job.data, "subsets": [job.train_subset, job.test_subset]}


def _words(job: Job) -> str:
    bits = "floating point" if job.qat is None else f"{job.qat.act_bits} bits, {job.qat.scaling} scaling"
    return bits if job.train.silent else f"{bits}, under noise"


def _measured(job: Job, device: str) -> tuple[float, float]:
    """Return the seconds of an epoch, and of the evaluation of one image under noise."""
    data, batch = job_data(job), job.train.batch_size
    spec = job.train.varied(epochs=2, ramp_epochs=0, stop_on_collapse=None, lr=SLOW)
    for steps in STEPS:
        few = data.subset(min(len(data.train_y), steps * batch), min(len(data.test_y), 250))
        network = job_network(job, few)
        history = train(network, few, spec, device=device, progress=False).history
        if history[1]["seconds"] > 1:
            break
    took = 0.0
    for _ in range(2):
        started = time.perf_counter()
        noise_sweep(network, list(few.test_batches()), [1.0], 1, chance=data.chance, device=device, progress=False)
        took = time.perf_counter() - started
    image = took / (2 * len(few.test_y))
    # The second epoch, and the second sweep: nothing compiles in them. The epoch's test on few images is taken off, and
    # one on all is added.
    steps = -(-len(few.train_y) // batch)
    step = max(history[1]["seconds"] - image * len(few.test_y), 0.0) / steps
    return step * -(-len(data.train_y) // batch) + image * len(data.test_y), image


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
