"""What all commands share: where they print, and how they end."""

import math
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from ..errors import AnalogSimError, DivergenceError
from ..tables import Form, Table
from ..terminal.progress import QUIET, Terminal
from ..terminal.stop import Stops, raised
from ..terminal.text import is_text, printable
from .streams import ReaderGone, safe

USER_ERROR, WRONG_USAGE, COLLAPSED, BROKEN_PIPE = 1, 2, 3, 141
VERBOSE = ContextVar("VERBOSE", default=False)
STARTED = time.monotonic()
LARGEST = 2**63 - 1  # whole number that torch takes
NARROW = 60  # columns, below which a table of options cuts words off
BOLD = re.compile(r"\[/?(?:bold)?\]")  # markup that helps have

FLAGS = {"-q": "--quiet", "--quiet": "--quiet", "-v": "--verbose", "--verbose": "--verbose", "--debug": "--debug"}
"""What may stand anywhere on the line, and what it is called before the command."""

EXIT_CODES = (
    "[bold]Of every command:[/bold] -q no progress and no notes · -v what is being done, with times · --debug the "
    "traceback of an error\n\n[bold]Exit codes:[/bold] 0 done · 1 an error, said in one line · 2 wrong usage · "
    "3 the training diverged or collapsed to guessing · 130 interrupted by Ctrl-C · 143 ended by SIGTERM"
)


class _WholeHelp:
    """Help of which nothing is cut off: on a narrow terminal it is no table, which would have no room for its words."""

    rich_markup_mode: Any

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        columns = shutil.get_terminal_size().columns
        if columns >= NARROW:
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        self.rich_markup_mode = None
        for command in getattr(self, "commands", {}).values():
            command.short_help = command.short_help or command.help
        formatter.width = columns
        formatter.write_dl = partial(formatter.write_dl, col_max=6)  # what is explained above its explanation
        super().format_help(ctx, formatter)  # type: ignore[misc]
        formatter.buffer[:] = [BOLD.sub("", part) for part in formatter.buffer]


class Subgroup(_WholeHelp, TyperGroup):
    """Commands of one kind, as `analogsim study`."""


class Group(_WholeHelp, TyperGroup):
    """A command group that ends every command with an exit code and, if it went wrong, one line on standard error.

    So that no traceback reaches a user who did not ask for it by --debug.
    """

    stops = Stops()

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the program."""
        args = _flags_first(list(sys.argv[1:] if args is None else args))
        # Pictures go into files: a backend for windows, which may not be there, must not matter.
        os.environ["MPLBACKEND"] = "agg"
        with safe(), raised() as self.stops, warnings.catch_warnings():
            warnings.showwarning = _warn
            code: Any = 0
            try:
                super().main(args, *more, **options)
            except SystemExit as end:
                code = end.code
            except Exception as error:
                code = self._end(error, "--debug" in args[:3])
            try:
                sys.stdout.flush()
            except (OSError, ReaderGone) as error:
                code = code or self._end(error, debug=False)
            if self.stops.received is not None:
                say(plain(self.stops.received))
                code = self.stops.received.code
            sys.exit(code)

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise  # Typer's own: it says them itself
            raise typer.Exit(self._end(error, bool(ctx.params.get("debug")))) from None

    def _end(self, error: Exception, debug: bool) -> int:
        """Say an error, and return the exit code."""
        if isinstance(error, ReaderGone):
            return BROKEN_PIPE
        if self.stops.received is not None:
            return self.stops.received.code  # what a signal breaks is no error of its own
        if debug:
            raise error
        fail(error)
        return COLLAPSED if isinstance(error, DivergenceError) else USER_ERROR


class Command(_WholeHelp, TyperCommand):
    """A command whose values are checked for what their types do not say: text is text, and numbers are a machine's."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the command.

        Raises
        ------
        typer.BadParameter
            A value is impossible for every command.
        """
        param: Any
        for param in self.params:
            given = ctx.params.get(param.name or "")
            for value in given if isinstance(given, list | tuple) else (given,):
                if problem := _problem(value):
                    raise typer.BadParameter(f"{value!r}: {problem}", ctx=ctx, param=param)
        return super().invoke(ctx)


class Program(typer.Typer):
    """Commands of that class."""

    def command(self, *args: Any, **options: Any) -> Any:
        """Register a command."""
        return super().command(*args, **{"cls": Command} | options)


def _problem(value: Any) -> str:
    if isinstance(value, str) and not is_text(value):  # paths may be of any bytes, and are no str here
        return f"not all of it is text ({sys.getfilesystemencoding()}, by the locale)"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number is needed"
    if isinstance(value, int) and value > LARGEST:
        return f"too large, {LARGEST} is the most"
    return ""


def _flags_first(args: list[str]) -> list[str]:
    """Return the arguments with what is of every command in front, where the program itself reads it."""
    end = args.index("--") if "--" in args else len(args)
    flags = dict.fromkeys(FLAGS[one] for one in args[:end] if one in FLAGS)
    return [*flags, *(one for one in args[:end] if one not in FLAGS), *args[end:]]


def out() -> Terminal:
    """Return the console for results, on standard output; wide enough for a table where that is no terminal."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 160
    return Terminal(width=width)


def present(table: Table, form: Form) -> None:
    """Print a result on standard output."""
    if form == "table":
        out().print(table)
    else:
        typer.echo(table.text(form))


def say(text: str) -> None:
    """Say something (rich markup) to the person at the terminal, on standard error, one line however long."""
    Terminal(stderr=True, soft_wrap=True).print(text)


def note(text: str) -> None:
    """Say what a person who asked for quiet does without."""
    if not QUIET.get():
        say(text)


def doing(text: str) -> None:
    """Say what is being done, and how long it was since the start, to a person who asked for it (-v)."""
    if VERBOSE.get():
        say(f"[dim]{time.monotonic() - STARTED:7.1f} s[/]  {plain(text)}")


def fail(error: Exception) -> None:
    """Say an error in one line on standard error."""
    say(f"[bold red]error:[/] {plain(' '.join(said(error).split()))}")


def said(error: Exception) -> str:
    """Return what an error says to a person."""
    if isinstance(error, AnalogSimError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names}: {error.strerror}" if names else error.strerror
    if isinstance(error, MemoryError):
        return f"out of memory; ask for less at a time{f' ({error})' if str(error) else ''}"
    return f"{type(error).__name__}: {error}; this was not foreseen: `analogsim --debug …` shows where it happened"


def plain(value: object) -> str:
    """Return text in which rich sees no markup, and a terminal no control characters."""
    return escape(printable(value))


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    say(f"[yellow]warning:[/] {plain(' '.join(str(message).split()))}")
