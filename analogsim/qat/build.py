"""One layer's quantizers: built into it by Brevitas, and built anew where a pickle of it is read.

What Brevitas builds cannot be pickled (its quantizers hold classes that were made on the way). So a pickle holds the
layer without them, how they were described, and their tensors.
"""

import copy
from functools import cache
from typing import Any

from torch import nn

from ..nn.subclass import joined
from .brevitas_parts import brevitas_parts
from .layers import WEIGHTED, QuantActivation, QuantReLU
from .spec import QATSpec

# Activations whose outputs are never negative.
_POSITIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus)


def quantize_activation(module: Any, spec: QATSpec) -> None:
    """Let a quantizer follow an activation; the module itself changes its class, so its names, hooks and site stay."""
    signed, own = not isinstance(module, _POSITIVE), type(module)
    module.__class__ = QuantReLU if own is nn.ReLU else joined(QuantActivation, own, "Quant")
    module.noise_first = spec.relu_noise == "before"
    module.quant = _identity()()
    _add_quantizer(module.quant, spec, signed)


def quantize_layer(module: Any, spec: QATSpec, input_bits: int | None) -> None:
    """Quantize the weights of a linear or convolution layer, itself; bits for its input are those of a network's."""
    own = type(module)
    kind = next(kind for kind in WEIGHTED if issubclass(own, kind))
    module.__class__ = _layer(kind, own)
    _add_quantizers(module, spec, input_bits)


@cache
def _layer(kind: type[nn.Module], own: type[nn.Module]) -> type[Any]:
    """Return Brevitas' class for a layer of `kind`, which stays one of the class `own`."""
    quantized = getattr(brevitas_parts().nn, f"Quant{kind.__name__}")
    members = {"digital": own, "__reduce_ex__": _reduce_layer, "__deepcopy__": _copy, "__doc__": quantized.__doc__}
    return type(f"Quant{own.__name__}", (quantized, own), members | {"__module__": quantized.__module__})


@cache
def _identity() -> type[Any]:
    quantized = brevitas_parts().nn.QuantIdentity
    members = {"__init__": nn.Module.__init__, "__reduce_ex__": _reduce_identity, "__deepcopy__": _copy}
    return type("QuantIdentity", (quantized,), members | {"__module__": quantized.__module__})


def _add_quantizers(module: Any, spec: QATSpec, input_bits: int | None) -> None:
    brevitas, is_linear = brevitas_parts(), issubclass(type(module), nn.Linear)
    weight = None
    if spec.weight_bits is not None:
        weight = brevitas.weight[spec.weight_scaling].let(bit_width=spec.weight_bits)
    inputs = None
    if input_bits is not None:
        dynamic = QATSpec(act_bits=input_bits, collect_steps=spec.collect_steps)
        inputs = _act_injector(dynamic, signed=True)
    before = _own(module)
    brevitas.QuantLayer.__init__(
        module, weight_quant=weight, bias_quant=None, input_quant=inputs, output_quant=None, return_quant_tensor=False
    )
    if not is_linear:
        module.is_same_padded_strided = False
    module.described_by = spec, input_bits
    module._added_by_qat = sorted(_own(module) - before)


def _add_quantizer(quant: Any, spec: QATSpec, signed: bool) -> None:
    before = _own(quant)
    brevitas_parts().nn.QuantIdentity.__init__(quant, act_quant=_act_injector(spec, signed=signed))
    quant.described_by = spec, signed
    quant._added_by_qat = sorted(_own(quant) - before)


def _act_injector(spec: QATSpec, *, signed: bool) -> Any:
    """Describe one activation quantizer in Brevitas' terms."""
    brevitas = brevitas_parts()
    assert spec.act_bits is not None
    base = brevitas.act[signed].let(bit_width=spec.act_bits)
    if spec.s is not None:
        return base.let(scaling_impl_type="const", scaling_init=spec.act_range)
    if spec.act_dynamic == "learned":
        return base.let(scaling_impl=brevitas.LearnedRange, collect_stats_steps=spec.collect_steps)
    return base.let(scaling_impl_type="stats", scaling_stats_op="max", scaling_impl=brevitas.RunningRange)


# --- pickles ---------------------------------------------------------------------------------------------------------


def _own(module: nn.Module) -> set[str]:
    return set(vars(module)) | set(module._modules)


def _copy(module: Any, memo: dict[int, Any]) -> Any:
    """Copy as every object is, quantizers and all; Python would go by the way of pickles."""
    made: Any = object.__new__(type(module))
    memo[id(module)] = made
    made.__setstate__(copy.deepcopy(vars(module), memo))
    return made


def _reduce_layer(module: Any, protocol: Any) -> tuple[Any, ...]:
    kind = next(kind for kind in WEIGHTED if isinstance(module, kind))
    return _new_layer, (kind, vars(type(module))["digital"]), _state(module), None, None, _set_layer


def _reduce_identity(module: Any, protocol: Any) -> tuple[Any, ...]:
    return _new_identity, (), _state(module), None, None, _set_identity


def _state(module: Any) -> dict[str, Any]:
    added = {*module._added_by_qat, "_added_by_qat", "_modules"}
    modules = {key: child for key, child in module._modules.items() if key not in added}
    quantizers = {key: child for key, child in module._modules.items() if key in added}
    tensors = {key: child.state_dict(keep_vars=True) for key, child in quantizers.items()}
    modes = {key: child.training for key, child in quantizers.items()}
    plain = {key: value for key, value in vars(module).items() if key not in added} | {"_modules": modules}
    return {"plain": plain, "how": module.described_by, "tensors": tensors, "modes": modes}


def _new_layer(kind: type[nn.Module], own: type[nn.Module]) -> nn.Module:
    return object.__new__(_layer(kind, own))


def _new_identity() -> nn.Module:
    kind: Any = _identity()
    return object.__new__(kind)


def _set_layer(module: Any, state: dict[str, Any]) -> None:
    module.__setstate__(state["plain"])
    _add_quantizers(module, *state["how"])
    _fill(module, state)


def _set_identity(module: Any, state: dict[str, Any]) -> None:
    nn.Module.__init__(module)  # as Brevitas does once more
    _add_quantizer(module, *state["how"])
    module.__setstate__(state["plain"] | {"_modules": module._modules})
    _fill(module, state)


def _fill(module: Any, state: dict[str, Any]) -> None:
    """Give quantizers the tensors of those that were pickled: the same parameters, for an optimiser beside them."""
    like = next((p for p in module.parameters(recurse=False)), None)
    for name, tensors in state["tensors"].items():
        child = module._modules[name].train(state["modes"][name])
        if like is not None:
            child.to(like.device, like.dtype)
        for key, value in tensors.items():
            path, _, leaf = key.rpartition(".")
            owner = child.get_submodule(path)
            if leaf == "_extra_state":
                owner.set_extra_state(value)
            else:
                (owner._parameters if leaf in owner._parameters else owner._buffers)[leaf] = value
