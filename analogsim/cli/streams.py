"""Standard output and error as they may be: closed, full, no terminal, or of an encoding without half of our signs."""

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..terminal.text import text

FALLBACK = "analogsim"
# What an encoding lacks is written so; anything else as its escape.
SIGNS = {
    "µ": "u",
    "μ": "u",
    "σ": "sigma",
    "α": "alpha",
    "∂": "d",
    "Σ": "sum ",
    "²": "^2",
    "×": "x",
    "·": "-",
    "…": "...",
    "–": "-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "√": "sqrt ",
    "✓": "*",
    "�": "?",
}


class ReaderGone(Exception):
    """Whoever read standard output has gone away (`analogsim … | head`): no error, and nothing worth a word.

    No `OSError`, which libraries deal with in ways of their own.
    """


@contextmanager
def safe() -> Iterator[None]:
    """Lend the process streams that show what they can.

    Standard output that is closed or full raises an `OSError` that names it. Standard error raises nothing: what is
    said to a person must not end the work.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield  # somebody captures them
        return
    # Else a file of ours would be given the number of one that is closed, and be written to by whatever prints.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    codecs.register_error(FALLBACK, _fallback)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _stream(_Output, 1, sys.stdout), _stream(_Error, 2, sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError, ReaderGone):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])  # whoever shares the pipe made it non-blocking
            return count
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


class _Error(io.FileIO):
    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


def _stream(kind: type[io.FileIO], number: int, old: TextIO | None) -> TextIO:
    # Where there is none it is closed, and its number may be another file's. What may only be read refuses output.
    raw = kind(os.open(os.devnull, os.O_RDONLY), "w") if old is None else kind(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if old is None else old.encoding,
        errors=FALLBACK,
        line_buffering=kind is _Error or raw.isatty(),
        write_through=getattr(old, "write_through", False),
    )


def _fallback(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = text(error.object[error.start : error.end])
    return "".join(SIGNS.get(sign) or _ascii(sign) for sign in part), error.end


def _ascii(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode()
