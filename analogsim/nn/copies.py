"""Copies of networks that share nothing with their originals, and what a network holds beside its modules."""

import copy
import dis
import gc
import logging
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AnalogSimError, ConversionError

REGISTERED = ("_parameters", "_buffers", "_modules")
POST_HOOKS = "_post_accumulate_grad_hooks"
_LIBRARIES = ("torch", "torchvision", "brevitas", "analogsim")
_LOAD_GLOBAL, _LOAD_NAME = dis.opmap["LOAD_GLOBAL"], dis.opmap["LOAD_NAME"]
_CLOSED = (type, types.ModuleType, types.CodeType, str, bytes, int, float, logging.Logger)


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network that computes with nothing of the original.

    `copy.deepcopy` takes functions as they are: a closure, a lambda or a compiled function that holds a module or a
    weight of the original goes on computing with it in the copy. Such a network is refused.

    Raises
    ------
    ConversionError
        It cannot be copied, or the copy would go on using a part of the original.
    """
    memo: dict[Any, Any] = {}
    try:
        with torch.inference_mode(False):  # a copy that was made in it could not be trained
            made = copy.deepcopy(model, memo)
            _bring_along(model, memo)
    except (AnalogSimError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # anything a network may hold has its own way to refuse
        raise ConversionError(
            f"{_culprit(model)}: cannot be copied ({' '.join(str(error).split())}); give inplace=True, or take it away "
            "first. Known causes: locks, open files and generators; the hook-based torch.nn.utils.weight_norm "
            "(torch.nn.utils.parametrizations.weight_norm can be copied), and torch.nn.utils.prune (once "
            "torch.nn.utils.prune.remove has made pruning permanent, it can)"
        ) from None
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}

    def is_shared(part: object) -> bool:
        if id(part) in parts:
            return True
        # What no module has registered, a list of layers for instance, is known by having been copied.
        return isinstance(part, nn.Module | nn.Parameter) and memo.get(id(part), part) is not part

    for name, module in made.named_modules():
        for key, part in ((name, module), *own_tensors(name, module)):
            if is_shared(part):
                raise ConversionError(
                    f"{key or type(model).__name__}: a copy would share it with the original, by a __deepcopy__ of its "
                    "own; take that away first, or give inplace=True"
                )
    for where, part in held(made):
        if is_shared(part):
            what = f"a {type(part).__name__}" if isinstance(part, nn.Module) else "a weight"
            raise ConversionError(
                f"{where or type(model).__name__}: a function there holds {what} of this very network (a closure, a "
                "lambda, a replaced or compiled forward, a hook), and in a copy would go on computing with it; give "
                "inplace=True, or make it a method that takes what it needs from self"
            )
    return made


def held(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a network's modules hold beside registered parameters, buffers and modules, each object once.

    Followed are attributes, containers, objects, partials, bound methods, and functions: their closures and defaults,
    and where they are no library's the globals that their code reads. So are methods of the modules' own classes.

    Yields
    ------
    (where, object)
        "block.act": the module's name, and its attribute.
    """
    registered = {id(module) for module in model.modules()}
    seen: dict[int, Any] = {}  # which keeps them, so that no other object gets their id
    for name, module in model.named_modules():
        own = [(key, value) for key, value in vars(module).items() if key not in REGISTERED]
        for kind in type(module).__mro__:
            if id(kind) not in seen:
                seen[id(kind)] = kind
                own += [(key, value) for key, value in vars(kind).items() if _is_the_users(value)]
        for key, tensor in own_tensors("", module):
            own.append((key, [vars(tensor), tensor._backward_hooks, getattr(tensor, POST_HOOKS, None)]))
        for key, value in own:
            todo = [value]
            while todo:
                one = todo.pop()
                if id(one) in seen or isinstance(one, _CLOSED) or one is None:
                    continue
                seen[id(one)] = one
                yield f"{name}.{key}".lstrip("."), one
                if id(one) not in registered:
                    todo += _referents(one)


def own_tensors(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters and buffers with their full names."""
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield f"{name}.{key}".lstrip("."), tensor


def inherit_from(old: nn.Parameter, new: nn.Parameter, as_copy: Callable[[Any], Any] = lambda value: value) -> None:
    """Give a parameter that stands for another what belongs to that one: attributes, and hooks on its gradient."""
    for key, value in vars(old).items():
        vars(new).setdefault(key, as_copy(value))
    if not new.requires_grad:
        return  # torch takes no hooks then
    for hook in (old._backward_hooks or {}).values():
        new.register_hook(as_copy(hook))
    for hook in (getattr(old, POST_HOOKS, None) or {}).values():
        new.register_post_accumulate_grad_hook(as_copy(hook))


def refuse_script(name: str, module: nn.Module, remedy: str) -> None:
    """Refuse a module that TorchScript compiled, where it has weights: nothing inside it can be replaced or heard.

    Raises
    ------
    ConversionError
        It is one; the message ends with the remedy.
    """
    if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
        raise ConversionError(
            f"{name or 'the model'}: TorchScript has compiled {getattr(module, 'original_name', 'it')}, and nothing "
            f"inside can be changed; start from the network before torch.jit.script or trace{remedy}"
        )


def refuse_held_forwards(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Refuse a network that holds a layer's bound `forward`, which calls what the layer's class was, past its hooks.

    A layer's own replaced forward may call the one before.

    Raises
    ------
    ConversionError
        It does.
    """
    names = {id(layer): name for name, layer in model.named_modules(remove_duplicate=False)}
    wanted = {id(layer) for layer in layers}
    for where, one in held(model):
        owner = None
        if isinstance(one, types.MethodType) and one.__name__ == "forward":
            owner = one.__self__
        elif isinstance(one, partial) and getattr(one.func, "__name__", "") == "forward":
            owner = next(iter(one.args), None)
        if id(owner) in wanted and where != f"{names.get(id(owner))}.forward".lstrip("."):
            raise ConversionError(
                f"{where}: holds the forward of {names.get(id(owner), 'a layer')}, and would go on calling that of a "
                "plain layer, past its hooks; hold the layer itself, and call it"
            )


def _referents(one: Any) -> list[Any]:
    if isinstance(one, types.FunctionType):
        closure = gc.get_referents(*one.__closure__ or ())
        return [*closure, one.__defaults__, one.__kwdefaults__, vars(one), *_globals(one, one.__code__)]
    if isinstance(one, weakref.ref):
        target = one()
        return [target] if isinstance(target, nn.Module) else []
    return gc.get_referents(one)


def _globals(function: types.FunctionType, code: types.CodeType) -> Iterator[Any]:
    """Yield the global variables that a function's code reads: at a prompt, all that a lambda closes over."""
    if not _is_the_users(function):
        return  # a library's own state, which may know every network there is
    known = function.__globals__
    names = [name for name in code.co_names if name in known and not isinstance(known[name], _CLOSED)]
    if names:
        read = global_names(code)
        yield from (known[name] for name in names if name in read)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(function, constant)


def global_names(code: types.CodeType) -> set[str]:
    """Return the names of the global variables that code reads; the functions inside it are code of their own.

    `co_names` has the names of attributes, too, so that only the instructions tell. `dis` would read them as well, but
    it describes each one, which took most of the time that `convert` needed.
    """
    found, more = set(), 0
    for operation, argument in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        argument |= more
        more = argument << 8 if operation == dis.EXTENDED_ARG else 0
        if operation == _LOAD_GLOBAL:
            found.add(code.co_names[argument >> 1])  # the lowest bit says whether it is called
        elif operation == _LOAD_NAME:
            found.add(code.co_names[argument])
    return found


def _is_the_users(value: object) -> bool:
    """Say whether a value is a function that was not written in a library."""
    if not isinstance(value, types.FunctionType):
        return False
    return str(value.__globals__.get("__name__")).partition(".")[0] not in _LIBRARIES


def _bring_along(model: nn.Module, memo: dict[Any, Any]) -> None:
    """Give the copies of parameters what deepcopy leaves out."""
    for old in model.parameters():
        new = memo.get(id(old), old)
        if new is not old:
            inherit_from(old, new, lambda value: copy.deepcopy(value, memo))


def _culprit(model: nn.Module) -> str:
    """Return the name of the attribute that cannot be copied; the network's class where it is not found."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in REGISTERED:
                try:
                    copy.deepcopy(value)
                except Exception:
                    return f"{name or type(model).__name__}.{key}"
    return type(model).__name__
