"""Forked processes have none of the threads of torch's OpenMP team, and OpenMP would wait for them for ever.

So would torch's own operations. A process that was forked from one of several threads computes on one.
"""

import os

import torch

from ..errors import BackendError

team_ran = False  # in this process or one it was forked from: `openmp.run` had a team
_lost = False


def _in_child() -> None:
    global _lost
    _lost = team_ran
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def refuse_lost_threads() -> None:
    """Refuse to compute on threads that a fork lost.

    Raises
    ------
    BackendError
        The process was forked after a team of threads had run, and was given several threads again.
    """
    if _lost and torch.get_num_threads() > 1:
        raise BackendError(
            "this process was forked from one that had computed on several threads, none of which it has, so that "
            "torch would wait for them for ever: leave it one thread, or start processes by 'spawn' or 'forkserver'"
        )
