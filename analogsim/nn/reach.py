"""What a verb did not reach, said by name and share: weights that stay as they are, layers that were never called."""

import dis
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import UnreachedWarning, warn
from .copies import held

NAMED = 3  # in a message; the others are counted
# Weights that multiply nothing, or what is looked up in them: digital by design (design section 9).
_DIGITAL = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
_DIGITAL_KINDS = re.compile(r"embed|norm", re.IGNORECASE)
_DIGITAL_NAMES = re.compile(r"embed|token|bias|scale|table|prompt|(^|_)pos(_|$|ition)", re.IGNORECASE)
_FUNCTIONS = frozenset("relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish hardswish".split())


@dataclass(frozen=True)
class Matrix:
    """A parameter that looks like a matrix: (N, K, …), not of an embedding or a normalisation."""

    name: str
    owner: nn.Module
    tensor: Tensor

    def __str__(self) -> str:
        return f"{self.name} ({_kind(self.owner)} {'×'.join(map(str, self.tensor.shape))})"


def matrices(model: nn.Module) -> list[Matrix]:
    """Return a network's matrices, once for each module that has it, those of modules that nobody registered too."""
    registered = {id(module) for module in model.modules()}
    places = list(model.named_modules())
    for where, part in held(model):
        if isinstance(part, nn.Module) and id(part) not in registered:
            places += [(f"{where}.{name}".rstrip("."), module) for name, module in part.named_modules()]
    found: dict[tuple[int, int], Matrix] = {}
    for name, module in places:
        if isinstance(module, _DIGITAL) or _DIGITAL_KINDS.search(_kind(module)):
            continue
        for key, tensor in module._parameters.items():
            if tensor is not None and _looks_like_one(key, tensor):
                found.setdefault((id(module), id(tensor)), Matrix(f"{name}.{key}".lstrip("."), module, tensor))
    return list(found.values())


def _looks_like_one(key: str, tensor: Tensor) -> bool:
    if is_lazy(tensor) or not tensor.is_floating_point() or _DIGITAL_NAMES.search(key):
        return False
    wide = sum(size > 1 for size in tensor.shape)
    # (1, N, D) is added to every sample of a batch, as positions and tokens are.
    return wide > 1 and not (tensor.ndim > 2 and tensor.shape[0] == 1)


def weights_of(modules: Iterable[nn.Module]) -> set[int]:
    """Return the identities of modules' own parameters, what they are computed from where parametrised included."""
    found: set[int] = set()
    for module in modules:
        inside = module._modules.get("parametrizations")
        found.update(id(p) for p in module._parameters.values())
        found.update(id(p) for p in (() if inside is None else inside.parameters()))
    return found


def warn_of_weights(verb: str, every: Iterable[Matrix], reached: Collection[int], state: str, advice: str) -> None:
    """Warn of matrices that are not reached: how many, their share, and the largest.

    Parameters
    ----------
    verb : str
        What did not reach them.
    every : iterable of Matrix
    reached : collection of int
        Identities of tensors.
    state, advice : str
        What they are then, and what to do.
    """
    tensors = {id(one.tensor): one for one in every}
    left = [one for key, one in tensors.items() if key not in reached]
    if left:
        share = _share((one.tensor for one in left), (one.tensor for one in tensors.values()))
        left.sort(key=lambda one: -one.tensor.numel())
        said = f"{len(left)} of {len(tensors)} matrices ({share}) {state}: {some(map(str, left))}"
        warn(f"{verb}: {said}; {advice}", UnreachedWarning)


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """Yield the names of the layers that are called in the block, as they are."""
    seen: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args: seen.add(name)

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def warn_of_layers(verb: str, layers: Mapping[str, nn.Module], called: Collection[str], advice: str) -> None:
    """Warn of layers that were never called on the data: how many, their share of the weights, and the largest."""
    left = {name: layer for name, layer in layers.items() if name not in called}
    if left:
        share = _share(_parameters(left), _parameters(layers))
        texts = [
            f"{name} ({_kind(layer)})"
            for name, layer in sorted(left.items(), key=lambda item: -sum(p.numel() for p in item[1].parameters()))
        ]
        said = f"{len(left)} of {len(layers)} layers ({share}) were never called: {some(texts)}"
        warn(f"{verb}: {said}; {advice}", UnreachedWarning)


def functional_activations(model: nn.Module) -> list[tuple[str, str]]:
    """Return what activation functions the forwards of a network's own classes call: ("block", "block: relu").

    Read off their code: `F.relu`, `torch.relu`, `x.relu()`; not `self.relu` where that is a module.
    """
    found: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        forward = getattr(type(module), "forward", None)
        if not isinstance(forward, types.FunctionType) or type(module).__module__.startswith(("torch.", "analogsim.")):
            continue
        before = None
        for step in dis.get_instructions(forward):
            if step.argval in _FUNCTIONS and step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL"):
                child = getattr(module, step.argval, None) if before == forward.__code__.co_varnames[0] else None
                text = f"{name or type(module).__name__}: {step.argval}"
                if not isinstance(child, nn.Module) and (name, text) not in found:
                    found.append((name, text))
            before = step.argval
    return found


def some(names: Iterable[str]) -> str:
    """Name a few, and count the rest."""
    texts = list(names)
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def _parameters(layers: Mapping[str, nn.Module]) -> Iterator[Tensor]:
    return iter({id(p): p for layer in layers.values() for p in layer.parameters()}.values())


def _share(part: Iterable[Tensor], whole: Iterable[Tensor]) -> str:
    few, every = (sum(0 if is_lazy(t) else t.numel() for t in tensors) for tensors in (part, whole))
    return f"{few / max(every, 1):.1%} of the weights"


def _kind(module: nn.Module) -> str:
    return type(module).__name__
