"""Progress bars, in one place: shown on standard error where that is a terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def bar(show: bool = True, remaining: bool = True) -> Progress:
    """Return a rich progress bar; a disabled one where `show` is False or standard error is no terminal.

    `remaining` adds rich's estimate of the time that is left, which forgets steps older than 30 seconds.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] * remaining),
        console=Console(stderr=True),
        disable=not (show and sys.stderr.isatty()),
    )


def track(items: Iterable[T], description: str, show: bool = True) -> Iterator[T]:
    """Yield the items under a progress bar."""
    total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    with bar(show) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)
