"""Which file of a job's folder, or of a group's, holds what: the one place that knows their names.

===================  =========================================================================================
jobs/ID/             one folder a job
job.json             what the job is
running.json         who is at it, while somebody is
checkpoint.pt        its training after a whole epoch; when the job has finished it is gone, but where the training
                     diverged the last good epoch stays, to look at
checkpoint.pt.damaged  a checkpoint that was of no use, put away
history.jsonl        a line an epoch
grouped.json         in which group it was trained, where it was
sweep.json           its robustness curve
result.json          written last: with it the job is finished
error.json           why it failed
log.txt              what was printed at work
lock                 held by the process that is at it
groups/ID/           one folder a group of jobs that are trained together
group.json           its jobs
checkpoint.pt        every network's training after a whole epoch, while the group is at work; where it cannot be
                     used, its jobs fail, and --retry-failed trains the group from the start
refused.json         why its jobs are trained singly after all
===================  =========================================================================================
"""

from dataclasses import dataclass
from pathlib import Path

from ..training.train import CHECKPOINT, HISTORY

ABOUT, RUNNING, SWEEP, RESULT, ERROR = "job.json", "running.json", "sweep.json", "result.json", "error.json"
LOG, LOCK, GROUPED = "log.txt", "lock", "grouped.json"
DAMAGED = CHECKPOINT + ".damaged"
GROUP, REFUSED = "group.json", "refused.json"


@dataclass(frozen=True)
class JobFolder:
    """The files of a job, whether they are there or not.

    Parameters
    ----------
    path : Path
        The folder; its name is the job's identity.
    """

    path: Path

    @property
    def about(self) -> Path:
        """What the job is."""
        return self.path / ABOUT

    @property
    def running(self) -> Path:
        """Who is at it."""
        return self.path / RUNNING

    @property
    def checkpoint(self) -> Path:
        """Its training after a whole epoch."""
        return self.path / CHECKPOINT

    @property
    def damaged(self) -> Path:
        """Where a checkpoint that is of no use is put."""
        return self.path / DAMAGED

    @property
    def history(self) -> Path:
        """One line an epoch."""
        return self.path / HISTORY

    @property
    def grouped(self) -> Path:
        """In which group it was trained."""
        return self.path / GROUPED

    @property
    def sweep(self) -> Path:
        """Its robustness curve."""
        return self.path / SWEEP

    @property
    def result(self) -> Path:
        """What came out."""
        return self.path / RESULT

    @property
    def error(self) -> Path:
        """Why it failed."""
        return self.path / ERROR

    @property
    def log(self) -> Path:
        """What was printed at work."""
        return self.path / LOG

    @property
    def lock(self) -> Path:
        """Held by the process that is at it."""
        return self.path / LOCK

    @property
    def finished(self) -> bool:
        """Whether the job has a result here."""
        return self.result.exists()

    @property
    def ended(self) -> bool:
        """Whether the job has a result or an error here."""
        return self.finished or self.error.exists()

    def epochs(self) -> int:
        """Return how many epochs are done."""
        try:
            return self.history.read_bytes().count(b"\n")
        except OSError:
            return 0


@dataclass(frozen=True)
class GroupFolder:
    """The files of a group, whether they are there or not.

    Parameters
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def about(self) -> Path:
        """Its jobs."""
        return self.path / GROUP

    @property
    def checkpoint(self) -> Path:
        """Every network's training after a whole epoch."""
        return self.path / CHECKPOINT

    @property
    def damaged(self) -> Path:
        """Where a checkpoint that is of no use is put."""
        return self.path / DAMAGED

    @property
    def refused(self) -> Path:
        """Why its jobs are trained singly."""
        return self.path / REFUSED
