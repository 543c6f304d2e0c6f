"""What is lent and given back as it was: objects' attributes, and torch's random generators."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

_LENT = threading.RLock()


@contextmanager
def restored(owners: Iterable[object], *names: str) -> Iterator[None]:
    """Give each owner these attributes back as they are now, however the block ends."""
    before = [(owner, name, getattr(owner, name)) for owner in owners for name in names]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Give torch's generators of the CPU and of a device back as they are now, when the block ends.

    All threads have the same generators: those that ask for them here take turns.
    """
    with _LENT, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of a device, and no other's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
