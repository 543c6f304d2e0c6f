"""Several processes that work on one network: `torch.distributed`."""

from typing import Any

import torch


def distributed() -> bool:
    """Say whether this is one of the processes of torch.distributed."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gathered(own: Any, together: bool = True) -> list[Any]:
    """Return what every process has, in the order of their ranks; of a process by itself, what it has alone.

    All processes call it, and wait for one another; not `together`, each is by itself.
    """
    if not (together and distributed()):
        return [own]
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    return ranks
