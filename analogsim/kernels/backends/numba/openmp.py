"""Machine code on the very threads that torch's own operations run on, and torch's own BLAS for it.

A pool of other threads would compete with torch's, which spin for milliseconds after each operation: with one, the
epilogue of a matmul on 2 threads took 4 ms longer than alone (docs/performance.md).

A kernel is a Numba `cfunc` of one argument, the address of 64-bit integers (sizes, and addresses of arrays). Every
thread of the team runs it, and takes its share of the work by its number (`thread_number`) and their count
(`team_size`).
"""

import ctypes
from typing import Any

import torch
from llvmlite import binding
from numba import types
from numba.extending import get_cython_function_address as _blas

from ... import fork
from ...memory import address

torch_library = ctypes.CDLL(torch._C.__file__)  # its symbols are those that torch itself found


def _symbol(name: str, fallback: int) -> None:
    """Tell LLVM where a function of OpenMP is; where torch has none, the team is one thread: number 0 of 1."""
    function: Any = getattr(torch_library, name, None)
    if function is None:
        function = _kept.setdefault(name, ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: fallback))
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    binding.add_symbol(name, address)


_kept: dict[str, Any] = {}
_symbol("omp_get_thread_num", 0)
_symbol("omp_get_num_threads", 1)

# Of BLAS, called by machine code: torch's own is the fastest at hand (MKL on x86). Where it is built into torch without
# a name, that of SciPy.
_sgemm: Any = getattr(torch_library, "sgemm_", None)
_sgemm_address = ctypes.cast(_sgemm, ctypes.c_void_p).value if _sgemm else _blas("scipy.linalg.cython_blas", "sgemm")
assert _sgemm_address is not None
binding.add_symbol("analogsim_sgemm", _sgemm_address)
sgemm = types.ExternalFunction("analogsim_sgemm", types.void(*[types.int64] * 13))
"""C = α·op(A)·op(B) + β·C by addresses: op A, op B, m, n, k, α, A, its stride, B, its stride, β, C, its stride."""

thread_number = types.ExternalFunction("omp_get_thread_num", types.int32())
team_size = types.ExternalFunction("omp_get_num_threads", types.int32())

_parallel: Any = getattr(torch_library, "GOMP_parallel", None)  # of GNU's and, on Linux, LLVM's and Intel's libraries
if _parallel is not None:
    _parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    _parallel.restype = None

SIGNATURE = types.void(types.voidptr)


def run(kernel: Any, threads: int, *values: int | tuple[Any, ...] | ctypes.Array[Any]) -> None:
    """Run a kernel on a team, or on the calling thread where torch's threads cannot be had.

    It returns when every thread is done; the interpreter's lock is free meanwhile.

    Parameters
    ----------
    kernel : numba cfunc of `SIGNATURE`
    threads : int
    *values : int, tuple or ctypes array
        What the kernel finds at the address that it gets: sizes, and addresses. A tuple is an array and what the kernel
        takes it for, the arguments of `memory.address`; it is kept until the kernel is done. Of a ctypes array, whose
        size nothing can change, it is where it begins.

    Raises
    ------
    BackendError
        A fork lost the threads.
    """
    fork.refuse_lost_threads()
    kernel.ready()
    block = (ctypes.c_int64 * len(values))(*[v if type(v) is int else _number(v) for v in values])
    if threads > 1 and _parallel is not None:
        fork.team_ran = True
        _parallel(kernel.address, ctypes.addressof(block), threads, 0)
    else:
        kernel.ctypes(ctypes.addressof(block))


def _number(value: Any) -> int:
    if type(value) is tuple:
        return address(*value)
    return ctypes.addressof(value) if isinstance(value, ctypes.Array) else value
