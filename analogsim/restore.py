"""What is lent and given back as it was: objects' attributes, and torch's random generators."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def restored(owners: Iterable[object], *names: str) -> Iterator[None]:
    """Give each owner these attributes back as they are now, however the block ends."""
    before = [(owner, name, getattr(owner, name)) for owner in owners for name in names]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Give torch's generators of the CPU and of a device back as they are now, when the block ends."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of a device, and no other's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
