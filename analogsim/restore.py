"""Attributes of objects that are changed for a while and then set back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def restored(owners: Iterable[object], *names: str) -> Iterator[None]:
    """Set these attributes of every owner back at the end of the block, also where the block raises an error.

    Parameters
    ----------
    owners : iterable of object
        Each must have all the attributes when the block begins.
    *names : str
        Names of the attributes. Their values at the beginning of the block are what they are set back to.
    """
    before = [(owner, name, getattr(owner, name)) for owner in owners for name in names]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
