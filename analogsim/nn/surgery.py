"""What is done to torch's modules so that they become analog and digital again: their class, and torch's shortcuts."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def forbid_fused_inference(layer: nn.Module) -> None:
    """Keep torch's nn.TransformerEncoderLayer from its fused inference path, which would read this layer's weights
    and never call it; a forward hook on any module inside is what that path respects.
    """
    layer.register_forward_pre_hook(_forbid_fused_inference)


def allow_fused_inference(layer: nn.Module) -> None:
    """Undo `forbid_fused_inference`."""
    for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is _forbid_fused_inference]:
        del layer._forward_pre_hooks[key]


def forbids_fused_inference(layer: nn.Module) -> bool:
    """Say whether `forbid_fused_inference` was said of a layer."""
    return any(hook is _forbid_fused_inference for hook in layer._forward_pre_hooks.values())


def _forbid_fused_inference(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Do nothing, as a hook."""


def twin(module: nn.Module, new: type[nn.Module]) -> type[nn.Module]:
    """Return the class `new`, carrying over what torch's parametrize put on the module's dynamically made subclass."""
    if not parametrize.is_parametrized(module):
        return new
    return type(f"Parametrized{new.__name__}", (new,), dict(vars(type(module))))


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the module's class without the subclass that torch's parametrize makes."""
    return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)


def forbid_nested(model: nn.Module) -> None:
    """Stop torch's TransformerEncoder from passing nested tensors to layers that are kept from its fused inference.

    The encoder's flag becomes None, which torch takes for False and which remembers that it was True. `allow_nested`
    gives it back once no such layer is left.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.TransformerEncoder)
            and getattr(module, "use_nested_tensor", False)
            and any(map(forbids_fused_inference, module.modules()))
        ):
            module.use_nested_tensor = None  # type: ignore[assignment]


def allow_nested(model: nn.Module) -> None:
    """Undo `forbid_nested` in encoders that hold no layer any more that is kept from fused inference."""
    for module in model.modules():
        if (
            isinstance(module, nn.TransformerEncoder)
            and getattr(module, "use_nested_tensor", False) is None
            and not any(map(forbids_fused_inference, module.modules()))
        ):
            module.use_nested_tensor = True
