"""What all commands share: where they print, and how they fail."""

import errno
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..errors import AnalogSimError, DivergenceError

if TYPE_CHECKING:
    from rich.table import Column

USER_ERROR, COLLAPSED, INTERRUPTED, BROKEN_PIPE = 1, 3, 130, 141

EXIT_CODES = (
    "[bold]Exit codes:[/bold] 0 done · 1 an error of input, said in one line · 2 wrong usage · "
    "3 the training diverged or collapsed to guessing · 130 interrupted"
)


class Group(TyperGroup):
    """A command group that turns the library's errors into one line on standard error and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except AnalogSimError as error:
            if ctx.params.get("debug"):
                raise
            fail(error)
            raise typer.Exit(COLLAPSED if isinstance(error, DivergenceError) else USER_ERROR) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(BROKEN_PIPE) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; a reader that has gone away (`analogsim … | head`) is no error worth a traceback."""
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # What is still buffered must not fail again when the interpreter closes standard output.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `Group.main`."""
        raise


def out() -> Console:
    """Return the console for results, on standard output; wide enough for a table where that is no terminal."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 160
    return _Out(width=width, highlight=False)


def numbers(*titles: str) -> "list[Column]":
    """Return a table's columns of numbers, set to the right."""
    from rich.table import Column

    return [Column(title, justify="right") for title in titles]


def note(text: str) -> None:
    """Say something (rich markup) to the person at the terminal, on standard error, one line however long."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def fail(error: Exception) -> None:
    """Say an error in one line on standard error."""
    note(f"[bold red]error:[/] {plain(' '.join(str(error).split()))}")


def plain(value: object) -> str:
    """Return text in which rich sees no markup, and a terminal no control characters."""
    from rich.markup import escape

    return escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "�", str(value)))
