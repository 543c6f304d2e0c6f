"""Quantizers that are done with training: `freeze_quantization`."""

from typing import Any

import torch
from torch import nn

from ..errors import ConversionError
from ..nn.copies import copied, inherit_from
from .layers import FixedQuantizer, QuantActivation, is_quantized, modules_of, quantized_weight, quantizer_of


@torch.inference_mode(False)  # what is made must outlive it
def freeze_quantization(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """End quantization-aware training: a plain torch network that computes the same as the quantized one in evaluation.

    Linear and convolution layers become torch's own with the quantized weights as their weights; ReLU (and input)
    quantizers become `FixedQuantizer` with their last ranges. This is what `convert(model, profile)` takes, so that the
    quantized weights are what is programmed.

    Parameters
    ----------
    model : nn.Module
        The result of `prepare_qat`; noise sites, hooks and training modes are kept.
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module
        The network of torch's own layers.

    Raises
    ------
    ConversionError
        Nothing is quantized.
    CalibrationError
        A dynamic range was never set.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> quantized = an.prepare_qat(net, an.QATSpec(weight_bits=2, scaling="constant", s=0.1))
    >>> frozen = an.freeze_quantization(quantized)
    >>> type(frozen[0]).__name__, len(frozen[0].weight.unique()) <= 3  # levels -1, 0 and 1
    ('Linear', True)
    >>> x = torch.randn(5, 4)
    >>> torch.allclose(frozen(x), quantized.eval()(x))
    True
    """
    if not inplace:
        model = copied(model)
    plan: list[Any] = [module for module, _ in modules_of(model) if is_quantized(module)]
    if not plan:
        raise ConversionError(f"{type(model).__name__}: no layer is quantized; prepare_qat(model, spec) makes them so")
    # All that may raise comes before the first change.
    fixed = {module: _fixed(quantizer_of(module)) for module in plan}
    weights = {module: quantized_weight(module) for module in plan if hasattr(module, "quant_weight")}
    tied: dict[int, nn.Parameter] = {}
    for module in plan:
        quantizer = fixed[module]
        if isinstance(module, QuantActivation):
            module.quant = _in_place_of(module.quant, quantizer or nn.Identity())
            continue
        old, new = module.weight, nn.Parameter(weights[module], module.weight.requires_grad)
        inherit_from(old, new)
        if quantizer is not None:
            quantizer = _in_place_of(module.input_quant, quantizer)
        _strip(module)
        same = tied.setdefault(id(old), new)
        module.weight = same if torch.equal(same, new) else new
        if quantizer is not None:
            module.input_quant = quantizer
            module.register_forward_pre_hook(_quantize_input)
    return model


def _quantize_input(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.input_quant(args[0]), *args[1:])


def _in_place_of(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give a quantizer the mode and the hooks of the one that it stands for."""
    new.train(old.training)
    for key, value in vars(old).items():
        if key.startswith(("_forward", "_backward", "_is_full_backward")):
            setattr(new, key, value)
    return new


def _strip(module: Any) -> None:
    """Turn a Brevitas layer back into torch's, itself, so that hooks and noise site stay."""
    for name in [*module._added_by_qat, "_added_by_qat"]:
        delattr(module, name)
    object.__setattr__(module, "__class__", type(module).digital)


def _fixed(proxy: Any) -> FixedQuantizer | None:
    """Return the plain twin of one of Brevitas' activation quantizers, None where it does nothing."""
    if not proxy.is_quant_enabled:
        return None
    bits = round(float(proxy.bit_width()))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if proxy.is_signed else (0, 2**bits - 1)
    return FixedQuantizer(proxy.scale(), low, high)
