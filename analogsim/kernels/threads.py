"""A pool of threads, each of which works alone: torch's own operations use one thread within."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Share = TypeVar("Share")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a fork has no threads


def over_threads(work: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
    """Call `work` on each share, all at once; a single share is done by the calling thread.

    Numba's own parallel loops would do for machine code alone, but not around BLAS and oneDNN calls, whose threads
    they would compete with; and they may not be entered from two threads at once.
    """
    if len(shares) < 2:
        return [work(share) for share in shares]
    inference = torch.is_inference_mode_enabled()

    def call(share: Share) -> Result:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            return work(share)

    # The calling thread takes no share: torch would spread its work over all threads.
    return list(_pool(len(shares)).map(call, shares))


def _pool(size: int) -> ThreadPoolExecutor:
    if size not in _pools:
        threads = torch.get_num_threads()
        _pools[size] = ThreadPoolExecutor(size, "analogsim", torch.set_num_threads, (1,))
        # Each thread sets its own number; but the last one set is also what threads started later begin with.
        list(_pools[size].map(lambda _: torch.set_num_threads(1), range(size)))
        torch.set_num_threads(threads)
    return _pools[size]
