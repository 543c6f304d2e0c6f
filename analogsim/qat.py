"""Quantization-aware training: Brevitas quantizers on the layers of a plain torch network (design section 7).

What is quantized: weights of linear and convolution layers (signed, narrow range: 2^b - 1 levels, scale from the
largest absolute weight) and the outputs of ReLU modules (unsigned, 2^b levels, one scale a tensor). Biases, pooling,
residual additions, other activation functions and the network's output stay as they are. Gradients are Brevitas'
straight-through: 1 inside the range, 0 where the quantizer clips. Brevitas is imported by this file alone, and only
when it is needed.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from .errors import CalibrationError, ConversionError, QuantizationError
from .profile import explain
from .restore import copied
from .value import Value

Bits = Annotated[int, Field(ge=2, le=16)]
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PER_LAYER = ("weight_bits", "weight_scaling", "act_bits", "scaling", "s", "act_dynamic")


class QATSpec(Value):
    """How a network is quantized. A value: immutable and comparable.

    Examples
    --------
    >>> QATSpec(scaling="constant", s=0.1).act_step
    0.10039215686274511
    """

    weight_bits: Bits | None = 8
    """Resolution of the weights in bits. null: weights stay floating point."""
    act_bits: Bits | None = 8
    """Resolution of ReLU outputs in bits, unsigned. null: activations stay floating point."""
    weight_scaling: Literal["channel", "tensor"] = "channel"
    """One weight scale per output channel, or one for the whole tensor."""
    head_weight_scaling: Literal["channel", "tensor"] = "tensor"
    """The same for the last linear layer in the order of the modules, the classifier's output (the paper: tensor)."""
    scaling: Literal["constant", "dynamic"] = "dynamic"
    """Range of the activations: `constant`, [0, 2^b·s] for ever, or `dynamic`, found by `act_dynamic`."""
    s: Annotated[float, Field(gt=0)] | None = None
    """Scaling factor of constant scaling, activation units; the quantization step is s·2^b/(2^b - 1)."""
    act_dynamic: Literal["learned", "statistics"] = "learned"
    """Dynamic scaling. learned (Brevitas' default): the 99.999th percentile, averaged over the first `collect_steps`
    training steps, then a parameter that is trained. statistics: each training batch's maximum; its running mean in
    evaluation."""
    collect_steps: Annotated[int, Field(ge=1)] = 300
    """Training steps after which a learned range becomes a parameter (Brevitas' collect_stats_steps)."""
    input_bits: Bits | None = None
    """Resolution of the network's input, signed, learned range; applied where the first quantized layer reads it.
    null (the paper): the input is not quantized."""
    relu_noise: Literal["before", "after"] = "before"
    """Where noise injected at a ReLU meets its quantizer. before: noise is added to the activation, then quantized.
    after: the quantized activation is disturbed."""
    overrides: dict[str, dict[str, Any]] = {}
    """Per layer: module name or pattern ("fc*", "features.0"; a container means all in it) → changed fields out of
    weight_bits, weight_scaling, act_bits, scaling, s, act_dynamic. Where several match, the last wins."""
    exclude: tuple[str, ...] = ()
    """Names or patterns of what stays floating point."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise QuantizationError(explain(error)) from None

    @model_validator(mode="after")
    def _constant_scaling_needs_s(self) -> Self:
        if self.scaling == "constant" and self.s is None:
            raise ValueError("constant scaling needs the factor s (the activations' range is [0, 2^b·s])")
        if self.scaling == "dynamic" and self.s is not None:
            raise ValueError("s belongs to constant scaling; give scaling='constant' or leave s out")
        return self

    @model_validator(mode="after")
    def _overrides_are_possible(self) -> Self:
        for name, changes in self.overrides.items():
            if unknown := set(changes) - set(PER_LAYER):
                raise ValueError(
                    f"overrides[{name!r}]: {', '.join(sorted(unknown))}: a layer may change {', '.join(PER_LAYER)}"
                )
            self._merged(changes)
        return self

    @property
    def act_step(self) -> float | None:
        """Quantization step of constant scaling, s·2^b/(2^b - 1), activation units; None where there is none."""
        if self.s is None or self.act_bits is None:
            return None
        return 2**self.act_bits * self.s / (2**self.act_bits - 1)

    def layer(self, *names: str, head: bool = False) -> "QATSpec":
        """Return what holds for one layer: this spec with the overrides that match one of its names merged in."""
        spec = self._merged({"weight_scaling": self.head_weight_scaling} if head else {})
        for pattern, changes in self.overrides.items():
            if _matches(pattern, names):
                spec = spec._merged(changes)
        return spec

    def _merged(self, changes: dict[str, Any]) -> "QATSpec":
        if changes.get("scaling") == "dynamic":
            changes = {"s": None} | changes
        return QATSpec(**(self.model_dump(exclude={"overrides"}) | changes))


class QuantReLU(nn.ReLU):
    """nn.ReLU followed by a quantizer, the child `quant`; put in place by `prepare_qat`.

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

    def forward(self, input: Tensor) -> Tensor:
        """Apply ReLU, and the quantizer where noise comes after it."""
        out = super().forward(input)
        return out if self.noise_first else self.quant(out)


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


def prepare_qat(model: nn.Module, spec: QATSpec | None = None, *, inplace: bool = False) -> nn.Module:
    """Put Brevitas quantizers on the linear, convolution and ReLU layers of a network, for training with them.

    Linear and convolution layers become Brevitas' QuantLinear, QuantConv1d, 2d, 3d (instances of torch's classes too),
    ReLU modules become `QuantReLU`. Tensors between layers are plain torch tensors.

    Parameters
    ----------
    model : nn.Module
        A plain torch network, trained or not: weights, hooks, noise sites, tied weights and training modes are kept,
        and weights and biases keep their `state_dict` keys.
    spec : QATSpec
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module

    Raises
    ------
    ConversionError
        There is nothing to quantize, a name or pattern matches nothing, or a layer cannot be quantized or the model
        not be copied.

    Notes
    -----
    A dynamic range has no value before the first forward pass in training mode, and evaluating before it raises
    CalibrationError; to quantize a trained network without training it further, run a few batches through it in
    training mode under `torch.no_grad()`. All of the quantizers' state is in the `state_dict`, so a resumed training
    continues exactly. `freeze_quantization` gives the network that `convert` puts on crossbars.

    With `inject_noise`, in either order: noise on the output of a linear, convolution or pooling layer reaches the next
    ReLU's quantizer; noise at a ReLU is added before its own (`relu_noise`); noise on weights is quantized with them.
    To disturb the quantized weights instead, as noise of the memory cells does, inject it after `freeze_quantization`.
    """
    spec = spec or QATSpec()
    if not inplace:
        model = copied(model)
    named = _modules(model)
    patterns = [*spec.overrides, *spec.exclude]
    if missing := [pattern for pattern in patterns if not any(_matches(pattern, names) for _, names in named)]:
        known = ", ".join(names[0] for _, names in named if names[0])
        raise ConversionError(f"overrides, exclude: no module is called {missing[0]!r}; there are {known}")
    chosen = [
        (module, names)
        for module, names in named
        if not any(_matches(pattern, names) for pattern in spec.exclude) and _quantizable(module, names[0])
    ]
    linear = [module for module, _ in chosen if isinstance(module, nn.Linear)]
    plan = [(module, spec.layer(*names, head=linear[-1:] == [module])) for module, names in chosen]
    weighted = [module for module, _ in plan if not isinstance(module, nn.ReLU)]
    plan = [(module, own) for module, own in plan if _active(module, own) or module in weighted[:1] and spec.input_bits]
    if not plan:
        raise ConversionError(
            f"{type(model).__name__}: nothing to quantize: no linear, convolution or ReLU module outside `exclude` "
            "with bits to round to"
        )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(()))
    for module, own in plan:
        training = module.training
        if isinstance(module, nn.ReLU):
            _quantize_relu(module, own)
        else:
            _quantize_weighted(module, own, spec.input_bits if module is weighted[0] else None)
        module.train(training)
        for child in module.children():
            child.to(parameter.device, parameter.dtype)
    return model


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
    proxy = _quantizer(module)
    if not proxy.is_quant_enabled:
        return 0.0, None
    if any(True for _ in proxy.parameters()) or "Const" not in type(_scaling(proxy)).__name__:
        raise ConversionError("its quantizer's range is dynamic")
    return float(proxy.scale()), round(float(proxy.bit_width()))


def _scaling(proxy: Any) -> Any:
    return proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl


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

    Raises
    ------
    ConversionError
        Nothing is quantized.
    CalibrationError
        A dynamic range was never set.
    """
    if not inplace:
        model = copied(model)
    plan: list[Any] = [module for module, _ in _modules(model) if _is_quantized(module)]
    if not plan:
        raise ConversionError(f"{type(model).__name__}: no layer is quantized; prepare_qat(model, spec) makes them so")
    # All that may raise comes before the first change.
    fixed = {module: _fixed(_quantizer(module)) for module in plan}
    weights = {module: quantized_weight(module) for module in plan if hasattr(module, "quant_weight")}
    tied: dict[int, nn.Parameter] = {}
    for module in plan:
        quantizer = fixed[module]
        if isinstance(module, QuantReLU):
            module.quant = quantizer or nn.Identity()
            continue
        old, new = module.weight, nn.Parameter(weights[module], module.weight.requires_grad)
        _strip(module)
        same = tied.setdefault(id(old), new)
        module.weight = same if torch.equal(same, new) else new
        if quantizer is not None:
            module.input_quant = quantizer
            module.register_forward_pre_hook(_quantize_input)
    return model


def _quantize_input(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.input_quant(args[0]), *args[1:])


def _modules(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Return every module once, with all its names; what is inside a layer or quantizer of Brevitas is left out."""
    found: dict[nn.Module, list[str]] = {}

    def walk(name: str, module: nn.Module) -> None:
        found.setdefault(module, []).append(name)
        if not _is_quantized(module):
            for child_name, child in module.named_children():
                walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", model)
    return list(found.items())


def _matches(pattern: str, names: Iterable[str]) -> bool:
    """Say whether the pattern names the module, by one of its names, or a container around it."""
    heads = (name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1))
    return any(fnmatchcase(head, pattern) for head in heads)


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, QuantReLU) or hasattr(module, "weight_quant")


def _quantizable(module: nn.Module, name: str) -> bool:
    if _is_quantized(module):
        raise ConversionError(f"{name}: {type(module).__name__} is quantized already; start from the plain network")
    if isinstance(module, LazyModuleMixin):
        raise ConversionError(f"{name}: {type(module).__name__} has no weights yet; run one batch through the model")
    if isinstance(module, WEIGHTED) and type(module) not in WEIGHTED:
        raise ConversionError(
            f"{name}: {type(module).__name__} is a subclass of a torch layer, and quantization would lose what it "
            "adds; name it in `exclude` (a network on crossbars: prepare_qat, freeze_quantization, then convert)"
        )
    return type(module) in (*WEIGHTED, nn.ReLU)


def _active(module: nn.Module, spec: QATSpec) -> bool:
    return (spec.act_bits if isinstance(module, nn.ReLU) else spec.weight_bits) is not None


def _quantize_relu(module: Any, spec: QATSpec) -> None:
    # The module itself changes its class, so its names, hooks and noise site stay.
    module.__class__ = QuantReLU
    module.noise_first = spec.relu_noise == "before"
    module.quant = _brevitas().nn.QuantIdentity(act_quant=_act_injector(spec, signed=False))


def _quantize_weighted(module: Any, spec: QATSpec, input_bits: int | None) -> None:
    brevitas = _brevitas()
    kind = type(module).__name__
    module.__class__ = getattr(brevitas.nn, f"Quant{kind}")
    weight = None
    if spec.weight_bits is not None:
        weight = brevitas.weight[spec.weight_scaling].let(bit_width=spec.weight_bits)
    inputs = None
    if input_bits is not None:
        dynamic = QATSpec(act_bits=input_bits, collect_steps=spec.collect_steps)
        inputs = _act_injector(dynamic, signed=True)
    before = set(vars(module)) | set(module._modules)
    brevitas.QuantLayer.__init__(
        module, weight_quant=weight, bias_quant=None, input_quant=inputs, output_quant=None, return_quant_tensor=False
    )
    if kind != "Linear":
        module.is_same_padded_strided = False
    module._added_by_qat = sorted((set(vars(module)) | set(module._modules)) - before)


def _strip(module: Any) -> None:
    """Turn a Brevitas layer back into torch's, itself, so that hooks and noise site stay."""
    for name in [*module._added_by_qat, "_added_by_qat"]:
        delattr(module, name)
    object.__setattr__(module, "__class__", next(kind for kind in WEIGHTED if isinstance(module, kind)))


def _quantizer(module: Any) -> Any:
    return module.quant.act_quant if isinstance(module, QuantReLU) else module.input_quant


def _fixed(proxy: Any) -> FixedQuantizer | None:
    """Return the plain twin of one of Brevitas' activation quantizers, None where it does nothing."""
    if not proxy.is_quant_enabled:
        return None
    bits = round(float(proxy.bit_width()))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if proxy.is_signed else (0, 2**bits - 1)
    return FixedQuantizer(proxy.scale(), low, high)


def _act_injector(spec: QATSpec, *, signed: bool) -> Any:
    """Describe one activation quantizer in Brevitas' terms."""
    brevitas = _brevitas()
    assert spec.act_bits is not None
    base = brevitas.act[signed].let(bit_width=spec.act_bits)
    if spec.s is not None:
        return base.let(scaling_impl_type="const", scaling_init=2.0**spec.act_bits * spec.s)
    if spec.act_dynamic == "learned":
        return base.let(scaling_impl=brevitas.LearnedRange, collect_stats_steps=spec.collect_steps)
    return base.let(scaling_impl_type="stats", scaling_stats_op="max", scaling_impl=brevitas.RunningRange)


@cache
def _brevitas() -> SimpleNamespace:
    """Import Brevitas, and mend there what would break a resumed training.

    Brevitas builds its quantizers anew whenever a state is loaded, so that an optimizer made before holds parameters
    that are no longer in the network; and it leaves the count of collected steps, and the statistics so far, out of
    the state.
    """
    from brevitas import nn as layers
    from brevitas.core.scaling import ParameterFromRuntimeStatsScaling, RuntimeStatsScaling
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
    from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
    from brevitas.quant import scaled_int

    class KeepsQuantizer:
        def _load_from_state_dict(self, *args: Any) -> None:
            nn.Module._load_from_state_dict(self, *args)  # type: ignore[arg-type]

    class ActProxy(KeepsQuantizer, ActQuantProxyFromInjector):
        pass

    class WeightProxy(KeepsQuantizer, WeightQuantProxyFromInjector):
        pass

    class LearnedRange(KeepsQuantizer, ParameterFromRuntimeStatsScaling):
        """A parameter, once statistics have been collected; all of it in the state."""

        def forward(self, stats_input: Tensor, threshold: Tensor | None = None) -> Tensor:
            _check_range(self.training, self.counter)
            return super().forward(stats_input, threshold)

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return nn.Module.state_dict(self, *args, **kwargs)

        def get_extra_state(self) -> Tensor:
            return torch.tensor(self.counter)

        def set_extra_state(self, state: Tensor) -> None:
            self.counter = int(state)

    class RunningRange(RuntimeStatsScaling):
        """The batch's maximum in training, the running mean of maxima in evaluation; all of it in the state."""

        def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
            _check_range(self.training, self.runtime_stats.counter)
            return super().forward(x, threshold)

        def get_extra_state(self) -> Tensor:
            return torch.tensor(self.runtime_stats.counter)

        def set_extra_state(self, state: Tensor) -> None:
            self.runtime_stats.counter = int(state)

    weight = {"channel": scaled_int.Int8WeightPerChannelFloat, "tensor": scaled_int.Int8WeightPerTensorFloat}
    act = {True: scaled_int.Int8ActPerTensorFloat, False: scaled_int.Uint8ActPerTensorFloat}
    return SimpleNamespace(
        nn=layers,
        QuantLayer=QuantWeightBiasInputOutputLayer,
        LearnedRange=LearnedRange,
        RunningRange=RunningRange,
        weight={name: kind.let(proxy_class=WeightProxy) for name, kind in weight.items()},
        act={signed: kind.let(proxy_class=ActProxy) for signed, kind in act.items()},
    )


def _check_range(training: bool, counter: int) -> None:
    if not training and counter == 0:
        raise CalibrationError(
            "a dynamic activation range has no value yet: train, or run a few batches through the network in training "
            "mode (under torch.no_grad() to keep its weights), or use constant scaling"
        )
