"""What is lent and given back as it was: objects' attributes, and torch's random generators; and networks' copies."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from .errors import ConversionError


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


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network.

    Raises
    ------
    ConversionError
        It cannot be copied.
    """
    try:
        with torch.inference_mode(False):  # a copy that was made in it could not be trained
            return copy.deepcopy(model)
    except RuntimeError as error:
        raise ConversionError(
            f"{type(model).__name__}: cannot be copied ({error}); give inplace=True. Known causes: the hook-based "
            "torch.nn.utils.weight_norm (torch.nn.utils.parametrizations.weight_norm can be copied), and "
            "torch.nn.utils.prune (once torch.nn.utils.prune.remove has made pruning permanent, it can)"
        ) from None
