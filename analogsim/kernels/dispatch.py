"""Which backend computes: they are asked in order, and say themselves what they cannot."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import BackendError
from .backend import Backend, BackendName
from .backends.numba import Numba
from .backends.reference import Reference
from .backends.triton import Triton
from .memory import refuse_bodiless
from .philox import refuse_recording

BACKENDS: tuple[Backend, ...] = (Numba(), Triton(), Reference())
"""In the order in which `auto` asks them: the fast ones, then the one that computes everything."""
P = ParamSpec("P")
R = TypeVar("R")


def choose(x: Tensor, backend: BackendName | Backend = "auto") -> Backend:
    """Return the backend that will compute on tensors like x.

    Raises
    ------
    BackendError
        The backend asked for cannot run on this device, dtype or installation; the call is being recorded; or x's
        numbers are not in memory of its own.
    """
    refuse_recording()
    found = find(x.device.type, x.dtype, backend)
    refuse_bodiless(x)
    return found


def resolve(device: str, dtype: torch.dtype, backend: BackendName | Backend = "auto") -> str:
    """Return the name of the backend that will compute on tensors of this kind, without loading it.

    `auto` takes numba for float32 on the CPU, triton (where it is installed) for float32 and half precision on CUDA
    devices, and the reference for everything else.

    Parameters
    ----------
    device : str
        Its type: "cpu", "cuda", …
    dtype : torch.dtype
    backend : {"auto", "reference", "numba", "triton"} or Backend

    Raises
    ------
    BackendError
        The backend asked for cannot run on this device, dtype or installation; or the call is being recorded.
    """
    refuse_recording()
    return find(device, dtype, backend).name


def find(device: str, dtype: torch.dtype, backend: BackendName | Backend = "auto") -> Backend:
    """Return the backend that will compute on tensors of this kind, or raise a BackendError, as `resolve`."""
    if backend == "auto":
        for one in BACKENDS:  # the last computes everything; asked several times at every call of a layer
            if one.why_not(device, dtype) is None:
                return one
    asked = next((one for one in BACKENDS if one.name == backend), backend)
    if not isinstance(asked, Backend):
        names = ", ".join(sorted(one.name for one in BACKENDS))
        raise BackendError(f"no backend {backend!r}: choose auto, {names}, or give an object of a class of Backend's")
    reason = asked.why_not(device, dtype)
    if reason is not None:
        raise BackendError(f"backend {asked.name!r}: {reason}")
    return asked


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that torch.compile shall call and not trace: its graph breaks here.

    As `torch.compiler.disable`, which however imports the compiler (a second) wherever it decorates.
    """

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return torch.compiler.disable(function)(*args, **kwargs)  # type: ignore[call-arg]
        return function(*args, **kwargs)

    return inner
