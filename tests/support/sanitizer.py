"""What compute-sanitizer looks for on a GPU, looked for in Triton's interpreter: bounds, uninitialised reads, races.

Between programs only: those of a launch may run in any order and at once, while the threads of one program are the
compiler's. A program is also told that reads what it wrote itself, since its threads would need a barrier.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

NOBODY, MANY = -1, -2


class MemoryFault(AssertionError):
    """A kernel reads or writes what it must not."""


class Region:
    """Bytes that a launch may touch, and who read and wrote the element that begins at each."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.writer, self.reader = (np.full(stop - start, NOBODY, np.int32) for _ in range(2))


class Sanitizer:
    """Checks every access of the launches within its block.

    Attributes
    ----------
    accesses : int
        Elements looked at.
    """

    def __init__(self) -> None:
        self.accesses = 0
        self._regions: list[Region] = []
        self._empty: list[tuple[Tensor, np.ndarray]] = []  # kept, so that their memory is not used again
        self._kernel, self._program = "", 0

    def begin(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        """Start a launch: programs of earlier ones are through."""
        spans = sorted(_span(tensor) for tensor in arguments if isinstance(tensor, Tensor) and tensor.numel())
        self._kernel, self._regions = kernel.fn.__name__, []
        for start, stop in spans:
            if self._regions and start < self._regions[-1].stop:
                last = self._regions.pop()
                start, stop = last.start, max(stop, last.stop)
            self._regions.append(Region(start, stop))

    def program(self) -> None:
        """Say that the next program runs from now on."""
        self._program += 1

    def allocated(self, tensor: Tensor) -> Tensor:
        """Take note of memory with nothing in it yet."""
        if tensor.numel():
            start, stop = _span(tensor)
            self._empty.append((tensor, np.ones(stop - start, bool)))
        return tensor

    def read(self, at: np.ndarray, size: int) -> None:
        """Check addresses (uint64) that are read."""
        for region, index in self._located(at, size):
            if (region.writer[index] != NOBODY).any():
                raise MemoryFault(f"{self._kernel} reads what the same launch writes")
            before = region.reader[index]
            region.reader[index] = np.where((before == NOBODY) | (before == self._program), self._program, MANY)
        for start, empty in self._overlapping(at):
            if empty[start].any():
                raise MemoryFault(f"{self._kernel} reads what nobody has written")

    def written(self, at: np.ndarray, size: int) -> None:
        """Check addresses (uint64) that are written."""
        for region, index in self._located(at, size):
            alone = np.isin(region.reader[index], (NOBODY, self._program)).all()
            if len(np.unique(index)) < len(index) or not alone or (region.writer[index] != NOBODY).any():
                raise MemoryFault(f"{self._kernel}: two programs meet at an element, or one writes it twice")
            region.writer[index] = self._program
        for start, empty in self._overlapping(at):
            for byte in range(size):
                empty[start + byte] = False

    def _located(self, at: np.ndarray, size: int) -> Iterator[tuple[Region, np.ndarray]]:
        """Return where addresses lie, by region."""
        self.accesses += len(at)
        found = 0
        for region in self._regions:
            inside = (at >= region.start) & (at + size <= region.stop)
            if inside.any():
                found += int(inside.sum())
                yield region, (at[inside] - region.start).astype(np.int64)
        if found < len(at):
            raise MemoryFault(f"{self._kernel}: {len(at) - found} of {len(at)} addresses lie outside its arguments")

    def _overlapping(self, at: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for tensor, empty in self._empty:
            start = tensor.data_ptr()
            inside = (at >= start) & (at < start + len(empty))
            if inside.any():
                yield (at[inside] - start).astype(np.int64), empty


@contextmanager
def sanitized() -> Iterator[Sanitizer]:
    """Check all kernels that `gpu.launch` starts within this block, in Triton's interpreter.

    Raises
    ------
    triton.runtime.interpreter.InterpreterError
        With a MemoryFault's words.
    """
    from triton.runtime.interpreter import interpreter_builder as builder

    from analogsim.kernels.backends.triton import matmul as gpu

    found = Sanitizer()
    launch, place = gpu.launch, builder.set_grid_idx
    load, store = builder.create_masked_load, builder.create_masked_store
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def launched(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
        found.begin(kernel, (like, *arguments))
        launch(kernel, grid, like, *arguments, **constants)

    def placed(x: int, y: int, z: int) -> None:
        found.program()
        place(x, y, z)

    def loaded(pointers: Any, mask: Any, *more: Any) -> Any:
        found.read(*_wanted(pointers, mask))
        return load(pointers, mask, *more)

    def stored(pointers: Any, value: Any, mask: Any, *more: Any) -> Any:
        found.written(*_wanted(pointers, mask))
        return store(pointers, value, mask, *more)

    def refused(*given: Any) -> None:
        raise MemoryFault("an atomic operation, which these checks do not know")

    changes = [
        (gpu, "launch", launched),
        (builder, "set_grid_idx", placed),
        (builder, "create_masked_load", loaded),
        (builder, "create_masked_store", stored),
        (builder, "create_atomic_rmw", refused),
        (Tensor, "new_empty", lambda *given, **more: found.allocated(new_empty(*given, **more))),
        (torch, "empty_like", lambda *given, **more: found.allocated(empty_like(*given, **more))),
    ]
    with ExitStack() as stack:
        for where, name, value in changes:
            stack.enter_context(patch.object(where, name, value))
        yield found


def _wanted(pointers: Any, mask: Any) -> tuple[np.ndarray, int]:
    """Return the addresses that a mask lets through, and an element's bytes."""
    at, let = np.broadcast_arrays(pointers.data, mask.data)
    return at[let.astype(bool)], max(1, pointers.get_element_ty().primitive_bitwidth // 8)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor's elements, and the one after the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
