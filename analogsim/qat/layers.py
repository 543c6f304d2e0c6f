"""Quantized layers: what stands for a ReLU, and what can be read off the quantizers of any layer."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConversionError
from ..nn.known import kinds

WEIGHTED = kinds(lambda row: row.quantized)


class QuantActivation(nn.Module):
    """Mixin: an activation followed by a quantizer, the child `quant`; put in its place by `prepare_qat`.

    Forward hooks see the activation before it is quantized, so noise that a hook adds (`inject_noise`) is quantized
    with it, in whichever order the two transforms were applied; with `noise_first` False they see, and disturb, the
    quantized one. A hook on `quant` always sees the quantized one.
    """

    quant: nn.Module
    noise_first: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the hooks around `forward`, then quantize."""
        out = super().__call__(*args, **kwargs)
        return self.quant(out) if self.noise_first else out

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the activation, and the quantizer where noise comes after it."""
        out = super().forward(*args, **kwargs)
        return out if self.noise_first else self.quant(out)


class QuantReLU(QuantActivation, nn.ReLU):
    """nn.ReLU followed by a quantizer; see `QuantActivation`."""


class FixedQuantizer(nn.Module):
    """q(x) = scale · round(clip(x/scale, low, high)): a quantizer whose training is over; no Brevitas in it.

    Attributes
    ----------
    scale : Tensor (), buffer
        The quantization step, activation units.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Quantize; straight-through gradient, 0 where it clips."""
        if not torch.is_grad_enabled():
            return x.div(self.scale).round_().clamp_(self.low, self.high).mul_(self.scale)
        steps = torch.clamp(x / self.scale, self.low, self.high)
        return (steps + (steps.round() - steps).detach()) * self.scale

    def extra_repr(self) -> str:
        """Name the levels and their distance."""
        return f"levels={self.low}..{self.high}, step={self.scale.item():g}"


def modules_of(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Return every module once, with all its names; what is inside a layer or quantizer of Brevitas is left out."""
    found: dict[nn.Module, list[str]] = {}

    def walk(name: str, module: nn.Module) -> None:
        found.setdefault(module, []).append(name)
        if not is_quantized(module):
            for child_name, child in module.named_children():
                walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", model)
    return list(found.items())


def is_quantized(module: nn.Module) -> bool:
    """Say whether a module is one that `prepare_qat` made."""
    return isinstance(module, QuantActivation) or hasattr(module, "weight_quant")


def described(module: Any) -> str | None:
    """Return how the quantizers of a module were described, as text; None where there are none of training."""
    how = getattr(module, "described_by", None)
    return None if how is None else f"{how[0].model_dump_json(exclude_defaults=True)}, {how[1]}"


def quantizer_of(module: Any) -> Any:
    """Return the quantizer of a quantized activation, or that of a layer's input."""
    return module.quant.act_quant if isinstance(module, QuantActivation) else module.input_quant


def quantized_weight(module: nn.Module) -> Tensor:
    """Return the weight that a layer computes with: the quantized one after `prepare_qat`, else its weight itself."""
    layer: Any = module
    weight = layer.quant_weight() if hasattr(layer, "quant_weight") else layer.weight
    return getattr(weight, "value", weight).detach()


def weight_quantizer(module: nn.Module) -> tuple[int, bool, float] | None:
    """Return bits, whether there is a scale per channel, and the smallest scale, of a layer's weight quantizer.

    None where the weight is not quantized.

    Raises
    ------
    ConversionError
        Its input is quantized.
    """
    layer: Any = module
    if not hasattr(layer, "weight_quant"):
        return None
    if layer.input_quant.is_quant_enabled:
        raise ConversionError("its input is quantized with a range that it learns")
    if not layer.weight_quant.is_quant_enabled:
        return None
    clamp = layer.weight_quant.tensor_quant.scaling_impl.stats_scaling_impl.clamp_scaling.clamp_min_ste
    smallest = float(clamp.min_val) if hasattr(clamp, "min_val") else 0.0
    return round(float(layer.weight_quant.bit_width())), layer.weight_quant.scale().numel() > 1, smallest


def activation_quantizer(module: "QuantReLU") -> tuple[float, int | None]:
    """Return the step (activation units) and the bits of a ReLU's quantizer of constant range; (0, None) without one.

    Raises
    ------
    ConversionError
        Its range is dynamic.
    """
    proxy = quantizer_of(module)
    if not proxy.is_quant_enabled:
        return 0.0, None
    scaling = proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl
    if any(True for _ in proxy.parameters()) or "Const" not in type(scaling).__name__:
        raise ConversionError("its quantizer's range is dynamic")
    return float(proxy.scale()), round(float(proxy.bit_width()))
