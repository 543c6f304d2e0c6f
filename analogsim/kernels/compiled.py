"""Numba's compiler for kernels, and where machine code is kept: on disk if there is a place, else in this process.

Numba's own cache raises where it can be neither read nor written, and believes whatever it reads: garbled machine code
ends the interpreter. Here each entry has a checksum, what cannot be read is compiled and written anew, and what cannot
be written is said once.
"""

import pickle
import tempfile
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps

from ..errors import AnalogSimWarning
from .openmp import SIGNATURE

ADVICE = "set NUMBA_CACHE_DIR to a folder that this user can write, with 10 MB free"
_said: list[str] = []  # why code could not be kept, once it was said


def compiled(function: Callable[..., Any]) -> CFunc:
    """Decorate a kernel, a function of one address: compile it, or take its machine code from the disk."""
    kernel = CFunc(function, sigutils.normalize_signature(SIGNATURE), locals={}, options={})
    try:
        kernel._cache = _Cache(function)  # type: ignore[attr-defined]
    except (RuntimeError, OSError) as error:  # no folder that can be written
        _say(error)
    kernel.compile()
    return kernel


def place(of: Callable[..., Any] | None = None) -> tuple[Path | None, str | None]:
    """Return the folder that the machine code of a function (or of the library's kernels) is kept in, or None and why
    it cannot be kept; compiles nothing.
    """
    try:
        path = Path(_Checked(of or place).locator.get_cache_path())
        with tempfile.TemporaryFile(dir=path) as file:  # a full disk takes an empty one
            file.write(bytes(2**16))
    except (RuntimeError, OSError) as error:
        return None, _reason(error)
    return path, None


class _Checked(CompileResultCacheImpl):
    """Entries with a checksum."""

    def reduce(self, cres: Any) -> tuple[str, bytes]:
        content = dumps(super().reduce(cres))
        return sha256(content).hexdigest(), content

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        digest, content = payload
        if sha256(content).hexdigest() != digest:
            raise ValueError("damaged")
        return super().rebuild(target_context, pickle.loads(content))


class _Cache(FunctionCache):
    """A cache that no disk can make fail."""

    _impl_class = _Checked

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # cut, garbled or of another version, unpickling raises anything
            try:
                self.flush()  # else what is written next would be added to an index that cannot be read
            except OSError as error:
                _say(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _say(error)


def _say(error: Exception) -> None:
    if not _said:
        _said.append(_reason(error))
        warnings.warn(
            f"machine code cannot be kept ({_said[0]}), so that each process compiles it anew, which takes half a "
            f"minute; {ADVICE}",
            AnalogSimWarning,
            stacklevel=2,
        )


def _reason(error: Exception) -> str:
    text = "no cache folder can be written" if "no locator available" in str(error) else str(error)
    return " ".join(text.split()) or type(error).__name__
