"""What is shown to a person: consoles on which text is text, and progress bars where standard error is a terminal."""

import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from operator import length_hint
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .text import printable

T = TypeVar("T")
QUIET = ContextVar("QUIET", default=False)
"""Whether the person asked for no progress (-q); a caller's own `progress=` decides besides."""


class Terminal(Console):
    """A console that shows text from outside and does not obey it: neither control characters nor :names: of emoji."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Any:
        """Return what a string looks like; the cells and titles of a table pass here, too."""
        return super().render_str(printable(text), **options)


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
        console=Terminal(stderr=True),
        disable=QUIET.get() or not (show and sys.stderr.isatty()),
    )


def track(items: Iterable[T], description: str, show: bool = True) -> Iterator[T]:
    """Yield the items under a progress bar."""
    total = length_hint(items) or None  # a loader of an endless data set has no length
    with bar(show) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)
