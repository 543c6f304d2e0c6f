"""Signals that ask the program to end: a word, an exit code, and an exception where something is to be put in order."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

WORDS = {
    "SIGINT": "interrupted",
    "SIGTERM": "ended by SIGTERM",
    "SIGHUP": "ended by SIGHUP, its terminal is gone",
}


class Stopped(KeyboardInterrupt):
    """A signal arrived; whatever puts things in order after Ctrl-C does so after the others, too.

    Parameters
    ----------
    number : int
        The signal's.

    Attributes
    ----------
    code : int
        The exit code that says which signal it was.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.code = 128 + number
        self.word = WORDS[signal.Signals(number).name]

    def __str__(self) -> str:
        return self.word + "".join(getattr(self, "__notes__", ()))


class Stops:
    """What arrived while `raised` was at work.

    Attributes
    ----------
    received : Stopped or None
        Also where a library made another error of it, or lost it.
    """

    received: Stopped | None = None

    def _receive(self, number: int, frame: FrameType | None = None) -> None:
        if self.received is not None:
            _leave(number)  # asked twice: without putting anything in order, as if killed
        self.received = Stopped(number)
        raise self.received

    def _unraisable(self, about: Any) -> None:
        if isinstance(about.exc_value, Stopped):
            _leave(about.exc_value.code - 128)  # in a destructor or a callback, where no exception gets out
        sys.__unraisablehook__(about)


@contextmanager
def raised() -> Iterator[Stops]:
    """Raise `Stopped` in the main thread when one of the signals arrives; elsewhere nothing is changed."""
    stops, hook = Stops(), sys.unraisablehook
    before = _install(stops._receive)
    sys.unraisablehook = stops._unraisable
    try:
        yield stops
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _guard_start() -> None:
    """End at once, with the word alone, while the program's imports last, which is for seconds.

    Only where this process is the program: importing the library changes no signal.
    """
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0] if sys.argv else ""
    program = name == "analogsim" or (name == "-m" and "analogsim" in sys.orig_argv)
    # A worker is given the arguments of the process that started it.
    if program and "--multiprocessing-fork" not in sys.orig_argv:
        _install(_leave)


def _install(handler: Any) -> dict[int, Any]:
    """Return the signals whose handler this replaces, with what it was."""
    before = {}
    for name in WORDS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup, and a shell for what it runs in the background, have signals ignored.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            with suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, handler)
    return before


def _leave(number: int, frame: FrameType | None = None) -> None:
    with suppress(OSError):
        os.write(2, f"{Stopped(number)}\n".encode())
    os._exit(128 + number)


_guard_start()
