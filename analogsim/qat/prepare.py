"""Quantizers put on a network: `prepare_qat`."""

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..errors import ConversionError, UnreachedWarning, warn
from ..nn import forbid_fused_inference, forbid_nested
from ..nn.copies import copied, refuse_held_forwards, refuse_script
from ..nn.known import exactly, is_activation
from ..nn.reach import Matrix, functional_activations, matrices, some, warn_of_weights, weights_of
from ..noise import replaced_forward
from .build import quantize_activation, quantize_layer
from .layers import WEIGHTED, is_quantized, modules_of
from .spec import QATSpec, matches


@torch.inference_mode(False)  # what is made must outlive it
def prepare_qat(model: nn.Module, spec: QATSpec | None = None, *, inplace: bool = False) -> nn.Module:
    """Put Brevitas quantizers on the linear, convolution and activation layers of a network, for training with them.

    Linear and convolution layers become Brevitas' QuantLinear, QuantConv1d, 2d, 3d (instances of torch's classes too),
    activation modules (torch's, transformers' and timm's) a `QuantActivation`: what they give is quantized, with a sign
    where it has one. Tensors between layers are plain torch tensors.

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

    Warns
    -----
    UnreachedWarning
        Weights or activations stay in floating point that nobody named: other layers with matrices (recurrent ones,
        whose state is another in Brevitas' layers, among them), activation functions that a forward calls.

    Notes
    -----
    A dynamic range has no value before the first forward pass in training mode, and evaluating before it raises
    CalibrationError; to quantize a trained network without training it further, run a few batches through it in
    training mode under `torch.no_grad()`, its batch normalisation and dropout in evaluation mode. All of the
    quantizers' state is in the `state_dict`, so a resumed training continues exactly, and a quantized network can be
    pickled. `freeze_quantization` gives the network that `convert` puts on crossbars.

    With `inject_noise`, in either order: noise on the output of a linear, convolution or pooling layer reaches the next
    activation's quantizer; noise at an activation is added before its own (`relu_noise`); noise on weights is quantized
    with them.
    To disturb the quantized weights instead, as noise of the memory cells does, inject it after `freeze_quantization`.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> quantized = an.prepare_qat(net, an.QATSpec(act_bits=4, scaling="constant", s=0.1))
    >>> [type(layer).__name__ for layer in quantized]
    ['QuantLinear', 'QuantReLU', 'QuantLinear']
    >>> levels = quantized[:2](torch.randn(500, 4)) / 0.1 * 15 / 16  # of the step s·2^b/(2^b - 1)
    >>> torch.allclose(levels, levels.round(), atol=1e-5), int(levels.max()) <= 15
    (True, True)
    """
    spec = spec or QATSpec()
    if not inplace:
        model = copied(model)
    named, every = modules_of(model), matrices(model)
    patterns = [*spec.overrides, *spec.exclude]
    known_names = [names for _, names in named] + [[one.name] for one in every]
    if missing := [pattern for pattern in patterns if not any(matches(pattern, names) for names in known_names)]:
        known = ", ".join(names[0] for _, names in named if names[0])
        raise ConversionError(f"overrides, exclude: no module is called {missing[0]!r}; there are {known}")
    chosen = [
        (module, names) for module, names in named if not _excluded(spec, names) and _quantizable(module, names[0])
    ]
    linear = [module for module, _ in chosen if isinstance(module, nn.Linear)]
    plan = [(module, spec.layer(*names, head=linear[-1:] == [module])) for module, names in chosen]
    weighted = [module for module, _ in plan if not is_activation(module)]
    plan = [(module, own) for module, own in plan if _active(module, own) or module in weighted[:1] and spec.input_bits]
    if not plan:
        raise ConversionError(
            f"{type(model).__name__}: nothing to quantize: no linear, convolution or activation module outside "
            "`exclude` with bits to round to"
        )
    refuse_held_forwards(model, (module for module, _ in plan))
    _warn(model, spec, named, every, [module for module, _ in plan])
    likes = _nearest_parameters(model)
    for module, own in plan:
        training, like = module.training, likes[module]
        if is_activation(module):
            quantize_activation(module, own)
        else:
            quantize_layer(module, own, spec.input_bits if module is weighted[0] else None)
        module.train(training)
        for child in module.children():
            child.to(like.device, like.dtype)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(map(is_quantized, module.modules())):
            forbid_fused_inference(module)  # which reads the layers' weights past their quantizers
    forbid_nested(model)
    return model


def _warn(
    model: nn.Module,
    spec: QATSpec,
    named: list[tuple[nn.Module, list[str]]],
    every: list[Matrix],
    plan: list[nn.Module],
) -> None:
    """Warn of weights and activations that stay in floating point though bits were asked for and nobody named them."""
    own = [(module, names, spec.layer(*names)) for module, names in named if not _excluded(spec, names)]
    if spec.weight_bits is not None:
        asked = {id(module) for module, _, layer in own if layer.weight_bits is not None}
        reached = weights_of([*plan, *(module for module, _ in named if id(module) not in asked)])
        reached |= {id(one.tensor) for one in every if _excluded(spec, [one.name])}
        advice = "make them nn.Linear or nn.Conv, or name in `exclude` what shall stay"
        warn_of_weights("prepare_qat", every, reached, "stay in floating point", advice)
    if spec.act_bits is not None:
        asked = {name for _, names, layer in own if layer.act_bits is not None for name in names}
        planned = {id(module) for module in plan}
        done = {name for module, names in named if id(module) in planned for name in names}
        if calls := [text for name, text in functional_activations(model) if name in asked - done]:
            warn(
                f"prepare_qat: activation functions are not seen, and stay in floating point: {some(calls)}; use "
                "modules (nn.ReLU, nn.GELU, …), or name in `exclude` the modules that call them",
                UnreachedWarning,
            )


def _excluded(spec: QATSpec, names: list[str]) -> bool:
    return any(matches(pattern, names) for pattern in spec.exclude)


def _quantizable(module: nn.Module, name: str) -> bool:
    refuse_script(name, module, ", or name it in `exclude`")
    if is_quantized(module):
        raise ConversionError(f"{name}: {type(module).__name__} is quantized already; start from the plain network")
    if isinstance(module, LazyModuleMixin):
        raise ConversionError(f"{name}: {type(module).__name__} has no weights yet; run one batch through the model")
    known = exactly(type(module))
    weighted = known is not None and known.quantized
    if isinstance(module, WEIGHTED) and not weighted:
        raise ConversionError(
            f"{name}: {type(module).__name__} is a subclass of a torch layer, and quantization would lose what it "
            "adds; name it in `exclude` (a network on crossbars: prepare_qat, freeze_quantization, then convert)"
        )
    if (weighted or is_activation(module)) and replaced_forward(module):
        raise ConversionError(
            f"{name}: something has replaced its forward, which knows no quantizers; take that away first, or name it "
            "in `exclude`"
        )
    return weighted or is_activation(module)


def _nearest_parameters(model: nn.Module) -> dict[nn.Module, torch.Tensor]:
    """Return each module's first parameter, or the last before it: quantizers are of its device and type."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(()))
    found = {}
    for module in model.modules():
        like = next((p for p in module.parameters(recurse=False) if p.is_floating_point()), like)
        found[module] = like
    return found


def _active(module: nn.Module, spec: QATSpec) -> bool:
    return (spec.act_bits if is_activation(module) else spec.weight_bits) is not None
