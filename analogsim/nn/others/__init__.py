"""Layers of other libraries, found by name: a file here is imported where a network brings the class it stands for.

So nothing of theirs is imported that the network has not imported before.
"""

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from ..known import Known

# A class's module and name → the file here.
_FILES = {
    "transformers.pytorch_utils.Conv1D": "transformers",
    "timm.layers.linear.Linear": "timm",
    "timm.layers.conv2d_same.Conv2dSame": "timm",
    "timm.layers.conv2d_same.Conv2dSameExport": "timm",
    "timm.layers.std_conv.StdConv2d": "timm",
    "timm.layers.std_conv.StdConv2dSame": "timm",
    "timm.layers.std_conv.ScaledStdConv2d": "timm",
    "timm.layers.std_conv.ScaledStdConv2dSame": "timm",
    "torch_geometric.nn.dense.linear.Linear": "torch_geometric",
}
# Experts of a mixture, kept as stacked matrices: one class a network of transformers, by one contract.
_EXPERTS = re.compile(r"transformers\.models\.\w+\.modeling_\w+\.\w+Experts")


def found(kind: type[nn.Module]) -> "Known | None":
    """Return what is known of a class of another library."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _FILES:
        return import_module(f"{__name__}.{_FILES[name]}").known(kind)
    if _EXPERTS.fullmatch(name) and hasattr(kind, "_apply_gate"):
        return import_module(f"{__name__}.experts").known(kind)
    return None


def why_not(module: nn.Module) -> str | None:
    """Return why a module of another library cannot have its layers on crossbars, and what to do; None where it can."""
    variants: Any = getattr(module, "lora_variant", None)
    if variants and type(module).__module__.startswith("peft."):
        names = ", ".join(sorted({type(one).__name__ for one in variants.values()}))
        return (
            f"{type(module).__name__} computes its weights by calling its layers ({names}), which have noise on "
            "crossbars; merge_and_unload() the adapter first, or name it in keep_digital"
        )
    return None
