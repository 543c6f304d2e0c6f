"""A network by its import path: found, built with what the data decide, and tried on two images."""

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import AnalogSimError, ShapeError
from ..restore import restored
from .data import DataSet


def find(path: str) -> Callable[..., Any]:
    """Import a network's class or function from "module:name"; the current folder is looked in first.

    Raises
    ------
    AnalogSimError
        There is no such module or name, or importing it fails.
    """
    found = imported(path, "model")
    if not callable(found):
        raise AnalogSimError(f"model {path!r}: it is {type(found).__name__}, no network and nothing that makes one")
    if inspect.isroutine(found) or inspect.isclass(found):
        _refuse_standard(path, getattr(found, "__module__", None) or "")
    return found


def imported(path: str, what: str) -> Any:
    """Import anything from "module:name"; the current folder is looked in first.

    Parameters
    ----------
    path : str
    what : str
        What it is to be, for messages.

    Raises
    ------
    AnalogSimError
        There is no such module or name, or importing it fails.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name) or "/" in module_name or module_name.endswith(".py"):
        example = "models.lenet:LeNet5" if what == "model" else f"my_code:{what}"
        raise AnalogSimError(f"{what} {path!r}: an import path 'module:name' is needed, such as {example}")
    here = _look_here()
    _refuse_standard(path, module_name, what)
    try:
        module_name = _place(module_name)
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise AnalogSimError(
                f"{what} {path!r}: no module {error.name!r} in this folder ({here}) or among the installed packages"
            ) from None
        raise AnalogSimError(f"{what} {path!r}: importing {module_name} fails: {error}") from error
    except (Exception, SystemExit) as error:
        raise AnalogSimError(
            f"{what} {path!r}: importing {module_name} fails: {type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            has = f"; it has {', '.join(_networks(module)) or 'no network'}" if what == "model" else ""
            raise AnalogSimError(f"{what} {path!r}: {module_name} has no {name!r}{has}")
        found = getattr(found, part)
    return found


def find_class(path: str, trusted: bool, trust: str) -> Callable[..., Any]:
    """Import a network that a file names, not the user: nothing is called but a subclass of nn.Module.

    Nor is a module imported, which runs it, in whose source there is no class of that name.

    Parameters
    ----------
    path : str
        "module:name".
    trusted : bool
        Whether the user said to take it, whatever it is.
    trust : str
        How to say so, for the message.

    Raises
    ------
    AnalogSimError
        It is not to be trusted, or as `find`.
    """
    module_name, _, name = path.partition(":")
    _refuse_standard(path, module_name)
    if trusted or _has_class(module_name, name.partition(".")[0]):
        found = find(path)
        if trusted or isinstance(found, type) and issubclass(found, nn.Module):
            return found
    raise AnalogSimError(
        f"model {path!r}: it is named by a file, and is no nn.Module class that its module defines, so it was not "
        f"called; if you trust it, say so by {trust} {path}"
    )


def _look_here() -> str:
    """Let modules be found in the current folder first; return it."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def _place(module_name: str) -> str:
    """Return where a module is: the project's own networks, `models`, are in the package where no folder has them."""
    if module_name.partition(".")[0] == "models" and importlib.util.find_spec("models") is None:
        inside = f"{__name__.partition('.')[0]}.models"
        if importlib.util.find_spec(inside) is not None:
            return inside + module_name.removeprefix("models")
    return module_name


def _refuse_standard(path: str, module_name: str, what: str = "model") -> None:
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        has = {"model": "no networks"}.get(what, f"no {what} for this")
        raise AnalogSimError(f"{what} {path!r}: Python's standard library has {has}, so it was not called")


def _has_class(module_name: str, name: str) -> bool:
    """Return whether a module's source defines a class, without running it; and True of what is imported already, or
    is not there, which says so itself.
    """
    if module_name in sys.modules:
        return True
    _look_here()
    module_name = _place(module_name)
    known, where, spec = "", None, None
    for part in module_name.split("."):
        known = f"{known}.{part}" if known else part
        finders = (finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next(filter(None, (find_spec(known, where) for find_spec in finders)), None)
        if spec is None:
            return True
        where = spec.submodule_search_locations
    source = getattr(spec and spec.loader, "get_source", None)
    try:
        tree = ast.parse((source(module_name) if source else None) or "")
    except (SyntaxError, ValueError, ImportError, OSError, RecursionError):
        return False
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def build(factory: Callable[..., Any], args: dict[str, Any]) -> nn.Module:
    """Call a network's constructor.

    Raises
    ------
    AnalogSimError
        It does not take these arguments, or what it returns is no nn.Module.
    """
    title = getattr(factory, "__name__", repr(factory))
    given = ", ".join(f"{key}={value!r}" for key, value in args.items())
    try:
        model = factory(**args)
    except Exception as error:
        raise AnalogSimError(
            f"{title}({given}) fails: {type(error).__name__}: {error}; it takes {title}{_signature(factory)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise AnalogSimError(f"{title}({given}) gives {type(model).__name__}, an nn.Module is needed")
    return model


def with_data(factory: Callable[..., Any], args: dict[str, Any], **known: Any) -> dict[str, Any]:
    """Return the arguments, completed by those facts of the data that the constructor has a parameter for."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        names = {}
    return {key: value for key, value in known.items() if key in names} | args


def check_fit(model: nn.Module, data: DataSet) -> None:
    """Run two images through a network.

    Raises
    ------
    ShapeError
        It does not take the data's images, or does not return (batch, classes).
    """
    images = data.normalise(data.train_x[:2])
    what = f"{type(model).__name__} on {data.label}, images {tuple(images.shape[1:])}"
    with restored(model.modules(), "training"), torch.no_grad():
        model.eval()
        try:
            logits = model(images)
        except Exception as error:  # a network's forward is anybody's code
            raise ShapeError(f"{what}: the network cannot take them: {type(error).__name__}: {error}") from error
    wanted = (len(images), len(data.classes))
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ShapeError(f"{what}: its output must be (batch, classes) = {wanted}, got {got}; see --arg")


def _networks(module: Any) -> list[str]:
    return [
        n
        for n, v in vars(module).items()
        if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == module.__name__
    ]


def _signature(factory: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return "(…)"
