"""The one table of layers that the library knows, and what each verb may do with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..errors import ConversionError
from ..profile.kinds import same_class
from .attention import AnalogMultiheadAttention, AnalogOutProjection
from .conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from .crossbar import AnalogComposite
from .layer import AnalogLayer
from .linear import AnalogLinear
from .others import found
from .recurrent import AnalogGRU, AnalogGRUCell, AnalogLSTM, AnalogLSTMCell, AnalogRNN, AnalogRNNCell
from .subclass import adds_nothing, joined
from .transpose import AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d

# What a network's values go through between its layers; attention and softmax stand in the same file of torch.
_OTHERS = ("MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")
_ACTIVATIONS = tuple(
    getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__ if name not in _OTHERS
)
_ACTIVATION_FILES = ("transformers.activations", "timm.layers.activations", "timm.layers.activations_me")

Weights = Callable[[Any], list[tuple[nn.Module, str]]]


def its_weight(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return whose parameters, and which, are a layer's weights: of most, its own `weight`."""
    return [(module, "weight")]


def of_attention(module: nn.MultiheadAttention) -> list[tuple[nn.Module, str]]:
    """Return the projections of an attention layer."""
    keys = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    own: list[tuple[nn.Module, str]] = [(module, key) for key in keys if getattr(module, key) is not None]
    return [*own, (module.out_proj, "weight")]


@dataclass(frozen=True)
class Known:
    """What is known of one layer class.

    Attributes
    ----------
    analog : type
        What `convert` puts in its place; its `digital` is the class.
    weights : callable or None
        Says which parameters injected noise on weights disturbs; a layer that has it is a noise site of activations,
        too. None: no noise site.
    quantized : bool
        Whether `prepare_qat` has a Brevitas layer for it.
    packed : callable or None
        torch's function of (x, weight, bias, …) that computes many of them as one, for groups of networks.
    """

    analog: type[AnalogLayer] | type[AnalogComposite]
    weights: Weights | None = None
    quantized: bool = False
    packed: Callable[..., Tensor] | None = None

    @property
    def digital(self) -> type[nn.Module]:
        """The class of torch (or of whoever registered it)."""
        return self.analog.digital


_TABLE: dict[type[nn.Module], Known] = {
    row.digital: row
    for row in (
        Known(AnalogLinear, its_weight, quantized=True, packed=F.linear),
        Known(AnalogOutProjection, its_weight),
        Known(AnalogConv1d, its_weight, quantized=True, packed=F.conv1d),
        Known(AnalogConv2d, its_weight, quantized=True, packed=F.conv2d),
        Known(AnalogConv3d, its_weight, quantized=True),
        Known(AnalogConvTranspose1d, its_weight),
        Known(AnalogConvTranspose2d, its_weight),
        Known(AnalogConvTranspose3d, its_weight),
        Known(AnalogMultiheadAttention, of_attention),
        Known(AnalogLSTM),
        Known(AnalogGRU),
        Known(AnalogRNN),
        Known(AnalogLSTMCell),
        Known(AnalogGRUCell),
        Known(AnalogRNNCell),
    )
}


def add(row: Known) -> None:
    """Add a layer to the table.

    Raises
    ------
    ConversionError
        Another class stands for the same layer.
    """
    known = _TABLE.get(row.digital)
    if known is not None and not same_class(known.analog, row.analog):
        raise ConversionError(f"register: {known.analog.__name__} stands for {row.digital.__name__} already")
    _TABLE[row.digital] = row


def rows() -> list[Known]:
    """Return the whole table."""
    return list(_TABLE.values())


def exactly(kind: type[nn.Module]) -> Known | None:
    """Return what is known of this very class, or of one that it only derives from and computes like."""
    row = _row(kind)
    if row is not None:
        return row
    parent = next(filter(None, map(_row, kind.__mro__)), None)
    if parent is None or issubclass(kind, LazyModuleMixin) or not adds_nothing(kind, parent.digital):
        return None
    return replace(parent, analog=joined(parent.analog, kind))


def like(module: nn.Module) -> Known | None:
    """Return what is known of a layer's class, or of the nearest of its bases."""
    return next(filter(None, map(_row, type(module).__mro__)), None)


def _row(kind: type[Any]) -> Known | None:
    return _TABLE.get(kind) or found(kind)


def is_activation(module: nn.Module) -> bool:
    """Say whether a module is an activation: one of torch's, or of transformers' and timm's files of them."""
    known = any(kind.__module__ in _ACTIVATION_FILES for kind in type(module).__mro__)
    return isinstance(module, _ACTIVATIONS) or (known and type(module).__name__ != "LinearActivation")


def kinds(wanted: Callable[[Known], object] = lambda row: True) -> tuple[type[nn.Module], ...]:
    """Return torch's classes and registered ones for which `wanted` is true, in the table's order."""
    return tuple(kind for kind, row in _TABLE.items() if wanted(row))
