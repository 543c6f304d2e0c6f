"""Who does the jobs of a study: the contract of an engine, and the two of the package."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from ..machine import choose_device, usable_cores
from .grouping import GroupTask
from .job import Task


class Engine(ABC):
    """Does a study's jobs, each in a process that may die; an object of it is `run_study`'s argument `engine`.

    A worker of an engine calls `group_job.attempt_unit(task)`, which trains, sweeps, writes the results into the job's
    folder, and takes note there of an error. The folder must be one that the workers see.
    """

    name: str

    def places(self, device: str) -> list[str]:
        """Return the devices that jobs are given in turn, of the one that was asked for."""
        return [device]

    def on_gpu(self, places: Sequence[str]) -> bool:
        """Say whether jobs compute on GPUs, where they are trained in groups."""
        return choose_device(places[0]).startswith("cuda")

    def threads(self, workers: int) -> int:
        """Return how many threads a job computes with; results depend on it."""
        return max(1, usable_cores() // workers)

    @abstractmethod
    def run(self, tasks: Sequence[Task | GroupTask], workers: int) -> Generator[Task | GroupTask | None]:
        """Do jobs.

        Parameters
        ----------
        tasks : sequence of Task or GroupTask
        workers : int
            How many at a time, where that is the engine's to decide.

        Yields
        ------
        Task, GroupTask or None
            A task that has ended, finished or failed; None at least twice a second, to look around. Jobs that a group
            leaves undone (`grouping.left_over`) come singly after it. Closing the generator ends the jobs.
        """


class Local(Engine):
    """Processes of this machine, which shares its cores and GPUs among them."""

    name = "local"

    def places(self, device: str) -> list[str]:
        """Return all GPUs, where "cuda" or "auto" means several."""
        import torch

        many = device in ("auto", "cuda") and torch.cuda.is_available() and torch.cuda.device_count() > 1
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if many else [device]

    def run(self, tasks: Sequence[Task | GroupTask], workers: int) -> Generator[Task | GroupTask | None]:
        """Give each of some processes a job after the other."""
        from .engine_local import run_local

        return run_local(tasks, workers)


class Ray(Engine):
    """A Ray cluster.

    Parameters
    ----------
    address : str, optional
        Of an existing cluster; default: the one that RAY_ADDRESS names, or one of this machine's own.
    cpus, gpus : float
        Share of CPUs and GPUs of one job.
    """

    name = "ray"

    def __init__(self, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus

    def on_gpu(self, places: Sequence[str]) -> bool:
        """Say whether a job has a share of a GPU."""
        return self.gpus > 0

    def threads(self, workers: int) -> int:
        """Return a job's CPUs."""
        return max(1, int(self.cpus))

    def run(self, tasks: Sequence[Task | GroupTask], workers: int) -> Generator[Task | GroupTask | None]:
        """Give all jobs to the cluster, which decides how many run at a time."""
        from .engine_ray import run_ray

        return run_ray(tasks, address=self.address, cpus=self.cpus, gpus=self.gpus)
