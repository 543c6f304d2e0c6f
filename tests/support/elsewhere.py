"""A second device, computed on the CPU: whatever mixes tensors of the two raises, as it would with a GPU.

Tensors on it hold a CPU tensor; torch's dispatcher hands every operation to `run`, which takes them out, computes and
puts the result back. It stands for any device that analogsim has no kernels for, and for a GPU in all code but those.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
CROSSING = {"aten::copy_", "aten::_to_copy"}
ASKING = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"}
INDEXING = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}  # as on a GPU, indices may be on the CPU
MAKING = {torch.tensor, torch.as_tensor, torch.arange, torch.linspace, torch.randperm, torch.eye}


class _Module:
    """What torch asks of a device's module."""

    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    manual_seed_all = staticmethod(lambda seed: None)


class Elsewhere(Tensor):
    """A tensor on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        about = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **about, device=torch.device(NAME, 0))
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = Elsewhere(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made.detach(), self.requires_grad)
        return memo.setdefault(id(self), made)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)  # to a file, from which it comes back to the CPU

    def tolist(self) -> Any:
        crossings["tolist"] += 1
        return self.held.tolist()

    def new_tensor(self, data: Any, *, dtype: Any = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(NAME)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor that is elsewhere has no NumPy array")

    def data_ptr(self) -> int:
        raise RuntimeError("a tensor that is elsewhere has no address here")


class _Making(TorchFunctionMode):
    """Factories that fill what they make do it on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in MAKING and torch.device(kwargs.get("device") or "cpu").type == NAME:
            del kwargs["device"]
            made = func(*args, **kwargs)
            # What is listed comes from the CPU; the others a GPU makes itself.
            return made.to(NAME) if func in (torch.tensor, torch.as_tensor) else Elsewhere(made)
        return func(*args, **kwargs)


crossings: Counter[str] = Counter()
"""How often something was carried over, or a value asked for: on a GPU, each waits for it."""


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation, on one device only."""
    name = func.name().split(".")[0]
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    away = [t for t in tensors if isinstance(t, Elsewhere)]
    here = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
    if away and here and name not in CROSSING | INDEXING:
        raise RuntimeError(f"{name}: tensors on the CPU {[tuple(t.shape) for t in here]} and elsewhere")
    if (device := kwargs.get("device")) is not None:
        to = torch.device(device).type == NAME
    else:
        to = isinstance(args[0], Elsewhere) if name == "aten::copy_" else bool(away)

    patient = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
    crosses = name in CROSSING and (to != bool(away) or bool(here)) and patient
    if crosses or name in ASKING and away:
        crossings[name] += 1

    def taken(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.held if isinstance(value, Elsewhere) else value

    out = func(*tree_map(taken, args), **tree_map(taken, kwargs))
    if not to:
        return out
    out = tree_map(lambda value: Elsewhere(value) if isinstance(value, Tensor) else value, out)
    return out if name == "aten::_to_copy" else return_and_correct_aliasing(func, args, kwargs, out)


_setup_privateuseone_for_python_backend(NAME, _Module)
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")


class _Generator(torch.Generator):
    """The CPU's, wherever it is said to be."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls)


@contextmanager
def elsewhere() -> Iterator[str]:
    """Make tensors on the device possible within a block; yields its name."""
    before, torch.Generator = torch.Generator, _Generator
    try:
        with _Making():
            yield NAME
    finally:
        torch.Generator = before
