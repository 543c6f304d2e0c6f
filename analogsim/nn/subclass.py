"""Subclasses of a known layer: whether one computes as its parent does, and the class that stands for it then."""

from functools import cache
from typing import Any

from torch import nn

# What a subclass may redefine of its parent and still compute the same.
_HARMLESS = frozenset(
    "__init__ __new__ __init_subclass__ __doc__ __module__ __qualname__ __annotations__ __dict__ __weakref__ __repr__ "
    "__constants__ __getstate__ __hash__ __eq__ __dir__ reset_parameters _reset_parameters extra_repr _get_name "
    "_load_from_state_dict _save_to_state_dict state_dict _version".split()
)


def adds_nothing(kind: type[nn.Module], parent: type[nn.Module]) -> bool:
    """Say whether a subclass leaves alone all that its parent computes with: methods, parameters and attributes."""
    known = {name for base in parent.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))}
    own = (name for base in kind.__mro__ if base not in parent.__mro__ for name in vars(base))
    return not any(name in known and name not in _HARMLESS for name in own)


@cache
def joined(made: type[nn.Module], digital: type[nn.Module], prefix: str = "Analog") -> type[Any]:
    """Return a class that computes as `made` does, and is else a user's subclass of what `made` stands for.

    Copies and pickles of its objects name the two classes, for nobody can import this one.
    """
    own = {
        "digital": digital,
        "prefix": prefix,
        "__reduce_ex__": _reduce,
        "__module__": digital.__module__,
        "__doc__": made.__doc__,
    }
    return type(f"{prefix}{digital.__name__}", (made, digital), own)


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    kind: Any = type(module)
    return _new, (*kind.__bases__, kind.prefix), *nn.Module.__reduce_ex__(module, protocol)[2:]


def _new(made: type[nn.Module], digital: type[nn.Module], prefix: str) -> nn.Module:
    kind: Any = joined(made, digital, prefix)
    return kind.__new__(kind)
