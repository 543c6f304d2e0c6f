"""Jobs in processes of this machine: each worker takes one job after the other; a dead worker is replaced."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from types import ModuleType
from typing import Any

from .group_job import attempt_unit
from .grouping import GroupTask, left_over
from .job import Task, record_failure

RETRIES = 1  # of a job whose worker died: it may have been the machine's fault (memory), or the job's
TICK = 0.5  # seconds


def run_local(tasks: Sequence[Task | GroupTask], workers: int) -> Generator[Task | GroupTask | None]:
    """Do jobs in parallel.

    Parameters
    ----------
    tasks : sequence of Task or GroupTask
    workers : int
        Processes at a time.

    Yields
    ------
    Task, GroupTask or None
        A task that has ended, finished or failed; None at least twice a second, to look around. Jobs that a group
        leaves undone (it cannot be one, or its worker died twice) come singly after it.

    Notes
    -----
    Processes are spawned, not forked: CUDA and threads survive no fork. They end with this process, even if that is
    killed. Closing the iterator ends them.
    """
    queue = deque((task, RETRIES) for task in tasks)
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, Task | GroupTask, int]] = {}
    try:
        while queue or busy:
            while queue and len(busy) < workers:
                worker = idle.pop() if idle else _Worker()
                task, retries = queue.popleft()
                worker.give(task)
                busy[worker.pipe] = (worker, task, retries)
            ready = connection.wait(list(busy), timeout=TICK)
            for pipe in ready:
                worker, task, retries = busy.pop(pipe)
                code = worker.outcome()
                if code is None:
                    idle.append(worker)
                elif retries and left_over(task):
                    queue.appendleft((task, retries - 1))
                    continue
                if isinstance(task, GroupTask):
                    queue.extend((single, RETRIES) for single in left_over(task))
                elif code is not None and left_over(task):
                    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                    record_failure(
                        task.folder,
                        f"the worker process died ({reason}), {RETRIES + 1} times; out of memory? try fewer --workers",
                    )
                yield task
            if not ready:
                yield None
    finally:
        for worker in (*idle, *(worker for worker, _, _ in busy.values())):
            worker.end()


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        # A worker needs nothing of the main module, and importing it would run a script, and its study, once more.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            with _interrupts_held():
                self.process.start()
        finally:
            sys.modules["__main__"] = main
        # Else the pipe would stay open when the worker dies, and nobody would notice.
        other.close()

    def give(self, task: Task | GroupTask) -> None:
        # What cannot be sent is a worker that died between two jobs: `outcome` finds it so.
        with suppress(OSError):
            self.pipe.send(task)

    def outcome(self) -> int | None:
        """Return None where the job ended, else the dead worker's exit code."""
        try:
            self.pipe.recv()
            return None
        except (EOFError, OSError):
            self.process.join()
            self.pipe.close()
            return self.process.exitcode or 0

    def end(self) -> None:
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a process that is started be born with Ctrl-C held back, as it is for this one until the block ends.

    Else it would come while the new process imports torch, for seconds in which nobody there is ready for it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it lets them through again when it is started itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Any) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
            attempt_unit(task)
            pipe.send(None)
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    """End at once when the parent is gone, even if it was killed: nobody would own this worker's job then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
