"""Objects that are lent and given back as they were."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def restored(owners: Iterable[object], *names: str) -> Iterator[None]:
    """Give each owner these attributes back as they are now, however the block ends."""
    before = [(owner, name, getattr(owner, name)) for owner in owners for name in names]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
