"""Where tensors are handed to machine code: it sees an address and trusts it, so all it may assume is checked here."""

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from ..errors import BackendError, ShapeError
from .philox import refuse_recording

_LINE = 16  # numbers of a cache line
_WIDEST = 2**31 - 1  # rows apart and rows' lengths that BLAS can count
_READ = ("cpu", "cuda", "meta")  # devices whose tensors machine code reads, or which have nothing to be read


def address(array: Tensor | None, count: int, dtype: torch.dtype = torch.float32) -> int:
    """Return where an array begins; 0 for none, or for nothing in it.

    Parameters
    ----------
    array : Tensor or None
        Of any shape, contiguous, on the CPU.
    count : int
        How many numbers machine code takes it to hold.
    dtype : torch.dtype

    Raises
    ------
    ShapeError
        The array is not what machine code takes it for.
    BackendError
        It has no memory of its own, or less than its shape says.
    """
    if array is None:
        return 0
    if array.dtype is not dtype or array.numel() != count or not array.is_contiguous() or not array.is_cpu:
        raise ShapeError(f"a kernel needs {count} contiguous numbers of {dtype} on the CPU, got {described(array)}")
    return _begin(array, count)


def rows_address(matrix: Tensor, rows: int, width: int) -> tuple[int, int]:
    """Return where a float32 matrix begins whose rows are contiguous, and how far apart they are (`in_rows`)."""
    apart, step = matrix.stride()
    shaped = tuple(matrix.shape) == (rows, width) and step == 1 and width <= apart <= _WIDEST
    if not shaped or matrix.dtype is not torch.float32 or not matrix.is_cpu:
        raise ShapeError(
            f"a kernel needs {rows} rows of {width} contiguous numbers of float32 on the CPU, at most {_WIDEST} apart, "
            f"got {described(matrix)}"
        )
    return _begin(matrix, (rows - 1) * apart + width if rows and width else 0), apart


def checked(array: Tensor, count: int, like: Tensor) -> Tensor:
    """Return an array for a kernel that takes tensors, on the device of another, after `address`'s checks but dtype."""
    if array.numel() != count or not array.is_contiguous() or array.device != like.device:
        raise ShapeError(f"a kernel needs {count} contiguous numbers on {like.device}, got {described(array)}")
    _begin(array, count)
    return array


def _begin(array: Tensor, extent: int) -> int:
    """Return where an array begins that reaches over `extent` numbers of memory."""
    if not extent:
        return 0
    try:
        begin, held = array.data_ptr(), array.untyped_storage().nbytes()
    except RuntimeError:
        begin = held = 0
    if not begin or (array.storage_offset() + extent) * array.dtype.itemsize > held:
        raise BackendError(_without_memory(array))
    return begin


def in_rows(matrix: Tensor) -> Tensor:
    """Return a matrix as one whose rows are contiguous, in memory one after the other."""
    matrix = matrix.resolve_neg()
    rows, width = matrix.shape
    if matrix.stride(1) == 1 and width <= matrix.stride(0) <= _WIDEST:
        return matrix
    # `contiguous` leaves the stride of a single row, or of a single column, as it is, and `view` that of one number.
    return matrix.contiguous().as_strided((rows, width), (width, 1))


def contiguous(array: Tensor) -> Tensor:
    """Return an array as one that lies in memory as its elements are counted (and not with the other sign)."""
    return array.resolve_neg().contiguous()


def room(like: Tensor, *lengths: int) -> tuple[Tensor, list[int]]:
    """Return memory for several arrays of like's dtype, and where each begins, at a cache line; 0 for one of length 0.

    The memory is there for as long as the tensor is kept.
    """
    starts = _starts(lengths)
    memory = like.new_empty(starts[-1])
    begin, size = address(memory, starts[-1], like.dtype), like.dtype.itemsize
    return memory, [begin + size * start if length else 0 for start, length in zip(starts, lengths)]


@lru_cache(maxsize=1024)
def _starts(lengths: tuple[int, ...]) -> list[int]:
    """Return where each array begins, and where the last one ends."""
    return [0, *accumulate(-(-length // _LINE) * _LINE for length in lengths)]


def refuse_unreal(*arrays: Tensor | None) -> None:
    """Refuse what layers and noise cannot compute on, before they begin: `refuse_recording` and `refuse_bodiless`."""
    refuse_recording()
    for array in arrays:
        if array is not None and not _is_plain(array):
            refuse_symbols(array)
            refuse_bodiless(array)


def _is_plain(array: Tensor) -> bool:
    """Return whether nothing can be wrong with a tensor: the few questions that answer for most; the others are asked
    where one of these is answered with no.
    """
    usual = type(array) is Tensor or type(array) is Parameter
    return usual and array.is_cpu and array.layout is torch.strided and not array.is_nested and array.data_ptr() != 0


def refuse_symbols(x: object) -> None:
    """Refuse what stands for a tensor while torch.fx traces: which way a layer goes depends on numbers and shapes.

    Raises
    ------
    BackendError
        It is one.
    """
    if type(x).__module__.startswith("torch.fx"):
        raise BackendError(
            "torch.fx traces symbols, but crossbars and noise compute on numbers: trace the digital network and "
            "convert that, or let is_leaf_module of the torch.fx.Tracer return True for layers of analogsim"
        )


def refuse_bodiless(*arrays: Tensor | None) -> None:
    """Refuse tensors whose numbers are not in memory of their own.

    Raises
    ------
    BackendError
        A wrapper (DTensor, FakeTensor, torch.func's), a sparse, nested or otherwise packed tensor, freed storage, or
        one on the meta device.
    """
    for array in arrays:
        if array is None or array.device.type not in _READ:  # elsewhere torch's own operations do all the work
            continue
        try:
            # A subclass that answers torch's operations itself may hold anything, and machine code would not ask it.
            plain = type(array).__torch_dispatch__ is Tensor.__torch_dispatch__  # type: ignore[attr-defined]
            dense = plain and array.layout is torch.strided and not array.is_nested
            held = dense and not array.is_meta and (array.data_ptr() != 0 or array.numel() == 0)
        except RuntimeError:
            held = False
        if not held:
            raise BackendError(_without_memory(array))


def described(array: Tensor) -> str:
    """Return what a message says of a tensor."""
    strides = f", strides {tuple(array.stride())}" if array.layout is torch.strided and array.ndim else ""
    return f"shape {tuple(array.shape)}{strides} of {array.dtype} on {array.device}"


def _without_memory(array: Tensor) -> str:
    kind = type(array).__name__
    if array.is_meta:
        kind = "tensor on the meta device"
    elif array.layout is not torch.strided:
        kind = f"{array.layout} tensor"
    return (
        f"crossbars and noise read numbers from memory, and this {kind} has none that holds them all (wrappers such as "
        "DTensor and FakeTensor have none, nor sparse, nested and meta tensors and freed storage): give a plain dense "
        "tensor, for example x.to_local() or x.to_dense()"
    )
