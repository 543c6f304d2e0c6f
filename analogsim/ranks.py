"""Several processes that work on one network: `torch.distributed`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .errors import CalibrationError


@dataclass(frozen=True)
class _Failure:
    """What a process says that has nothing to give."""

    message: str


def distributed() -> bool:
    """Say whether this is one of the processes of torch.distributed."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gathered(own: Any, together: bool = True) -> list[Any]:
    """Return what every process has, in the order of their ranks; of a process by itself, what it has alone.

    All processes call it, and wait for one another; not `together`, each is by itself.

    Raises
    ------
    CalibrationError
        Another process failed before it came here (`heard`).
    """
    if not (together and distributed()):
        return [own]
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    for rank, other in enumerate(ranks):
        if isinstance(other, _Failure) and not isinstance(own, _Failure):
            raise CalibrationError(f"process {rank} of torch.distributed failed: {other.message}")
    return ranks


@contextmanager
def heard(together: bool = True) -> Iterator[None]:
    """Let the processes that wait in the next `gathered` know of an error, so that they fail too and wait no longer."""
    try:
        yield
    except Exception as error:
        gathered(_Failure(str(error)), together)
        raise
