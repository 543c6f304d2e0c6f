"""Numba's compiler for kernels, and where machine code is kept: on disk if there is a place, else in this process.

Numba's own cache raises where it can be neither read nor written, and believes whatever it reads: garbled machine code
ends the interpreter. Here each file has a checksum, what cannot be read is compiled and written anew, and what cannot
be written is said once.
"""

import pickle
import tempfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps

from ....errors import warn
from .openmp import SIGNATURE

ADVICE = "set NUMBA_CACHE_DIR to a folder that this user can write, with 10 MB free"
_said: list[str] = []  # why code could not be kept, once it was said


_lock = RLock()


class Kernel(CFunc):
    """A kernel, compiled (or taken from the disk) by whoever first needs its address: most programs need few."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function, sigutils.normalize_signature(SIGNATURE), locals={}, options={})
        self._ready = False

    def ready(self) -> "Kernel":
        """Compile now, if nobody has; return itself."""
        if not self._ready:
            with _lock:  # two threads may need it at once
                if not self._ready:
                    try:
                        self._cache = _Cache(self.__wrapped__)
                    except (RuntimeError, OSError) as error:  # no folder that can be written
                        _say(error)
                    self.compile()
                    self._ready = True
        return self


def compiled(function: Callable[..., Any]) -> Kernel:
    """Decorate a kernel, a function of one address."""
    return Kernel(function)


def place(of: Callable[..., Any] | None = None) -> tuple[Path | None, str | None]:
    """Return the folder that the machine code of a function (or of the library's kernels) is kept in, or None and why
    it cannot be kept; compiles nothing.
    """
    try:
        path = Path(CompileResultCacheImpl(of or place).locator.get_cache_path())
        with tempfile.TemporaryFile(dir=path) as file:  # a full disk takes an empty one
            file.write(bytes(2**16))
    except (RuntimeError, OSError) as error:
        return None, _reason(error)
    return path, None


class _File(IndexDataCacheFile):
    """One file for a kernel and a kind of processor, in place of Numba's index and the files that it names.

    All of it is under one checksum. Numba's index has none: a name in it that was garbled would lead to another file.
    """

    def __init__(self, cache_path: str, filename_base: str, source_stamp: Any) -> None:
        super().__init__(cache_path, filename_base, source_stamp)
        self._stem = Path(cache_path) / filename_base

    def _path(self, key: Any) -> Path:
        _, processor, _ = key
        return self._stem.with_name(f"{self._stem.name}.{sha256(repr(processor).encode()).hexdigest()[:8]}.nbc")

    def _about(self, key: Any) -> str:
        return repr((self._version, self._source_stamp, key))

    def load(self, key: Any) -> Any:
        """Return what was saved of this very source, by this version of Numba; None where nothing was."""
        with suppress(FileNotFoundError):
            digest, content = self._path(key).read_bytes().split(b"\n", 1)
            if sha256(content).hexdigest().encode() == digest:
                about, data = pickle.loads(content)
                if about == self._about(key):
                    return data
        return None

    def save(self, key: Any, data: Any) -> None:
        content = dumps((self._about(key), data))
        with self._open_for_write(str(self._path(key))) as file:
            file.write(sha256(content).hexdigest().encode() + b"\n" + content)


class _Cache(FunctionCache):
    """A cache that no disk can make fail."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _beside(Path(function.__code__.co_filename))
        self._cache_file = _File(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file without a first line, or one that cannot be opened: compiled and written anew
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _say(error)


def _beside(source: Path) -> list[tuple[str, int, int]]:
    """Return what changes when any file of machine code beside this one does: Numba looks at a function's own alone."""
    with suppress(OSError):
        found = [(path.name, path.stat()) for path in sorted(source.parent.glob("jit*.py"))]
        return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]
    return []


def _say(error: Exception) -> None:
    if not _said:
        _said.append(_reason(error))
        warn(
            f"machine code cannot be kept ({_said[0]}), so that each process compiles it anew, which takes half a "
            f"minute; {ADVICE}"
        )


def _reason(error: Exception) -> str:
    text = "no cache folder can be written" if "no locator available" in str(error) else str(error)
    return " ".join(text.split()) or type(error).__name__
