"""Files that are written whole or not at all, how they are opened, and what JSON cannot hold."""

import errno
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock

from ..errors import CheckpointError, DataError, StudyError

try:
    import fcntl
except ImportError:  # Windows: what a kill leaves stays there
    fcntl = None

ASIDE = ".analogsim-", ".part"  # how the names of folders begin and end that files are written in
MOST = 256 * 1024**2  # bytes of a JSON file that is read


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a place aside to write to; what is there takes the file's place when the block ends without an error.

    So there is the old file or the new one, whenever the process dies.

    Notes
    -----
    The place is in a new folder beside the file, of a name that nobody can know before: writers of one file do not
    meet, no link leads elsewhere, and what a writer itself puts aside goes with the folder. A lock tells folders that
    are written in from those that a kill left, which the next write beside them removes.
    """
    _sweep(path.parent)
    folder, lock = _aside(path.parent)
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _aside(parent: Path) -> tuple[Path, int | None]:
    """Make a folder, and lock it where the file system can."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=ASIDE[0], suffix=ASIDE[1], dir=parent))
        lock = _lock(folder, wait=True)
        if folder.exists():
            return folder, lock
        # Somebody swept it up before it was locked.
        if lock is not None:
            os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove the folders that killed writers left; those that cannot be locked may be in use."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(ASIDE[0]) and entry.name.endswith(ASIDE[1]):
                lock = _lock(Path(entry.path), wait=False)
                if lock is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(lock)


def _lock(folder: Path, wait: bool) -> int | None:
    """Return the descriptor that holds a folder's lock until it is closed; None where there is none to be had."""
    if fcntl is None:
        return None
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(held)
        if isinstance(error, OSError):
            return None
        raise
    return held


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Make the folder of a file that the block writes.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write finite values as JSON; never leaves half a file."""
    with replaced(path) as aside:
        aside.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file aside, then rename it; `durable` as in `write_aside`.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    write_aside(path, lambda aside: aside.write_text(text, "utf-8", "backslashreplace"), durable)


def write_aside(path: Path, write: Callable[[Path], Any], durable: bool = True) -> None:
    """Let a file be written aside, then rename it: there is the old one or the new one, whenever the process dies.

    `durable`: even if the power fails.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as aside:
            write(aside)
            if durable:
                with aside.open("rb") as file:
                    # On the disk before it has its name, so that a power failure leaves no empty file.
                    os.fsync(file.fileno())
        if durable and fcntl is not None:  # and the name, before anyone removes what it stands for
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {first_line(error)}") from error


def content(path: Path, most: int | None = MOST) -> bytes:
    """Return what a regular file holds, of at most so many bytes; a pipe or a device is refused, not waited for.

    Raises
    ------
    OSError
        There is no such file, it cannot be read, is no regular one, or is larger.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "No regular file")
        if most is not None and about.st_size > most:
            raise OSError(errno.EFBIG, f"{about.st_size:,} bytes, more than the {most:,} that such a file may have")
        return file.read()


def refuse_links(*places: Path) -> None:
    """Refuse folders and files that are links: what came from elsewhere must not say where we write.

    Raises
    ------
    StudyError
        One is a link.
    """
    for place in places:
        if place.is_symlink():
            raise StudyError(
                f"{place}: is a link, through which nothing is read or written; put what it leads to there"
            )


def lock(path: Path, seconds: float) -> "BaseFileLock":
    """Return the lock that a file stands for, to be waited for so long; never one that a link leads to.

    Raises
    ------
    OSError
        It is a link.
    """
    from filelock import FileLock

    if path.is_symlink():
        raise OSError(errno.ELOOP, "It is a link", str(path))
    return FileLock(path, timeout=seconds)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, below whatever a kill may have left of one; never through a link.

    Raises
    ------
    OSError
        The file cannot be written, or is a link.
    """
    with appended(path) as file:
        file.write(line)


@contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """Open a text file to append whole lines to it; never through a link.

    Raises
    ------
    OSError
        The file cannot be written, or is a link.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "No regular file")
        if about.st_size and os.pread(file.fileno(), 1, about.st_size - 1) != b"\n":
            file.write("\n")
        yield file


def plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become the strings that float() reads, in tuples too."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def first_line(error: Exception, most: int = 120) -> str:
    """Return the first line of what an error says, or the error's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
