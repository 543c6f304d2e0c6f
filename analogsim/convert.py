"""From a digital network to one on crossbars, and back."""

import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from . import nn as layers
from .errors import ConversionError, ProfileError
from .nn import AnalogComposite, AnalogLayer, Crossbar, analog_layers, plain_class
from .nn.basis import ANY, FIELDS, INPUT, basis
from .nn.copies import copied, refuse_held_forwards, refuse_script
from .nn.known import exactly, kinds, like
from .nn.others import why_not
from .nn.reach import Matrix, matrices, some, warn_of_weights, weights_of
from .noise import replaced_forward
from .profile import HardwareProfile

Rule = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def convert(
    model: nn.Module, profile: HardwareProfile, *, keep_digital: Rule | Iterable[Rule] = (), inplace: bool = False
) -> nn.Module:
    """Put every matrix of a network's linear, convolution, attention and recurrent layers on simulated crossbars.

    Parameters
    ----------
    model : nn.Module
        Any network. Layers that are already analog get the new profile; their calibrated ranges are forgotten where
        its DAC, tiles, weights, cells or the ADC's sign make them another quantity, and so is what was programmed.
    profile : HardwareProfile
    keep_digital : rule or iterable of rules
        What to leave as it is: a layer's name or a pattern ("head", "features.*"), a module class, or a function of
        (name, module) that returns True. A rule that matches a container keeps everything inside it, and a module in
        several places stays if a rule matches one of them.
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module
        The converted network; parameters, hooks, noise sites, tied weights, parametrisations and training modes are
        kept.

    Raises
    ------
    ConversionError
        There is nothing to convert, a rule is none or matches nothing, or a layer cannot be converted or the model
        not be copied.

    Warns
    -----
    UnreachedWarning
        Matrices stay digital that nobody named.

    Notes
    -----
    Embeddings, normalisation, activations, pooling and products of data with data (attention scores) stay digital, and
    so does code that reads a layer's weight without calling the layer. Of other matrices that stay digital (a class of
    its own, bare parameters, modules that no nn.ModuleList registers) an `UnreachedWarning` tells, unless
    `keep_digital` names them, or their parameter.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 10))
    >>> analog = an.convert(net, an.HardwareProfile.load("8bit"), keep_digital="2")
    >>> [type(layer).__name__ for layer in analog]
    ['AnalogConv2d', 'Flatten', 'Linear']
    """
    return converted(model, profile, keep_digital, inplace)


@torch.inference_mode(False)  # what is made must outlive it
def converted(
    model: nn.Module,
    profile: HardwareProfile,
    keep_digital: Rule | Iterable[Rule] = (),
    inplace: bool = False,
    verb: str = "convert",
) -> nn.Module:
    """Convert for another verb, which the warning is to name; see `convert`."""
    _check_model(model)
    if not isinstance(profile, HardwareProfile):
        raise ProfileError(
            f"profile: a HardwareProfile is needed, got {type(profile).__name__}; HardwareProfile.load(…) reads one"
        )
    every = matrices(model)
    rules = _rules(model, keep_digital, every)
    chosen = _convertible(model, rules)
    if not chosen:
        weights = f"; its matrices are {some(map(str, every))}" if every else ""
        raise ConversionError(
            f"{type(model).__name__}: nothing to convert: no layer of {', '.join(kind.__name__ for kind in kinds())} "
            f"outside what keep_digital leaves{weights}"
        )
    refuse_held_forwards(model, map(model.get_submodule, chosen))
    reached = weights_of(map(model.get_submodule, chosen)) | _kept_weights(model, rules, every)
    advice = "make them layers of torch (nn.Linear, …, in an nn.ModuleList), or name in keep_digital what shall stay"
    warn_of_weights(verb, every, reached, "stay digital", advice)
    model = model if inplace else copied(model)
    for name in chosen:
        module = model.get_submodule(name)
        if isinstance(module, AnalogLayer):
            _reprofile(module, profile)
        elif not isinstance(module, AnalogComposite):
            exactly(plain_class(module)).analog.from_digital(module, profile)  # type: ignore[union-attr]
    for number, (name, layer) in enumerate(analog_layers(model)):
        layer.stream, layer.layer_name = number, name
    layers.forbid_nested(model)
    return model


def to_digital(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn every analog layer back into its torch twin, with the weights it has now.

    Parameters
    ----------
    model : nn.Module
        Converted, or in part.
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module
        The digital network. Ranges, chips and corrections of outputs are not in it.

    Raises
    ------
    ConversionError
        No layer is analog, or the model cannot be copied.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> analog = an.convert(torch.nn.Linear(4, 2), an.HardwareProfile.load("8bit"))
    >>> type(analog).__name__, type(an.to_digital(analog)).__name__
    ('AnalogLinear', 'Linear')
    """
    _check_model(model)
    if not any(analog_layers(model)):
        raise ConversionError(f"{type(model).__name__}: no layer is analog; convert(model, profile) makes them so")
    model = model if inplace else copied(model)
    for module in list(model.modules()):
        if isinstance(module, AnalogLayer | AnalogComposite) and not isinstance(module, Crossbar):
            module.to_digital()
    layers.allow_nested(model)
    return model


def _convertible(model: nn.Module, rules: list[Rule]) -> list[str]:
    """Return the names of the layers to convert, each layer once; refuse those that cannot be."""
    kept: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if any(_matches(rule, name, module) for rule in rules):
            kept.update(map(id, module.modules()))
    found: list[str] = []

    def walk(name: str, module: nn.Module) -> None:
        if id(module) in kept:
            return
        refuse_script(name, module, ", or name it in keep_digital")
        kept.add(id(module))  # met once is enough
        if reason := why_not(module):
            raise ConversionError(f"{name or 'the model'}: {reason}")
        if isinstance(module, AnalogLayer | AnalogComposite) or like(module) is not None:
            _check_kind(name or "the model", module)
            found.append(name)
        for child_name, child in module.named_children():
            if child_name != "parametrizations":
                walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", model)
    return found


def _check_kind(name: str, module: nn.Module) -> None:
    kind = plain_class(module)
    if isinstance(module, AnalogLayer | AnalogComposite):
        return
    if isinstance(module, LazyModuleMixin) or any(is_lazy(p) for p in module.parameters(recurse=False)):
        raise ConversionError(
            f"{name}: {kind.__name__} has no weights yet; run one batch through the model, then convert"
        )
    if exactly(kind) is None:
        raise ConversionError(
            f"{name}: {kind.__name__} is a subclass of a known layer, and conversion would lose what it adds to it; "
            "name it in keep_digital, or register a layer for it"
        )
    if replaced_forward(module):
        raise ConversionError(
            f"{name}: something has replaced its forward, which would go on computing digitally; take that away first, "
            "or name it in keep_digital"
        )


def _reprofile(layer: AnalogLayer, profile: HardwareProfile) -> None:
    if layer.calibrated_for is None:  # ranges that were set by hand are for the hardware that they were set on
        layer.calibrated_for = basis(layer.profile, least_error=False)
    layer.profile = profile
    layer.chip_seed = layer.chip_seconds = layer.correction = None
    if layer.outlived("adc_full_scale"):
        layer.adc_full_scale = torch.full((), math.nan, device=layer.adc_full_scale.device)
        layer.calibrated_for = tuple(
            value if name in INPUT else ANY for name, value in zip(FIELDS, layer.calibrated_for)
        )
    if layer.outlived("input_range"):
        layer.calibrated_for = None
        with torch.no_grad():
            if layer.input_range.ndim:
                layer.input_range = torch.full((), math.nan, device=layer.input_range.device)
            layer.input_range.fill_(math.nan)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ConversionError(f"model: an nn.Module is needed, got {type(model).__name__}")


def _kept_weights(model: nn.Module, rules: list[Rule], every: list[Matrix]) -> set[int]:
    """Return the identities of the weights that rules name: of modules, and of single parameters."""
    named = {
        id(parameter)
        for name, module in model.named_modules(remove_duplicate=False)
        if any(_matches(rule, name, module) for rule in rules)
        for parameter in module.parameters()
    }
    patterns = [rule for rule in rules if isinstance(rule, str)]
    return named | {id(one.tensor) for one in every if any(fnmatchcase(one.name, rule) for rule in patterns)}


def _rules(model: nn.Module, given: Rule | Iterable[Rule], every: list[Matrix]) -> list[Rule]:
    single = isinstance(given, str | type | nn.Module) or not isinstance(given, Iterable)
    rules: list[Rule] = [given] if single else list(given)  # type: ignore[list-item]
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    # A parameter of a layer that is converted cannot stay by itself.
    bare = [one.name for one in every if like(one.owner) is None]
    for rule in rules:
        known = issubclass(rule, nn.Module) if isinstance(rule, type) else isinstance(rule, str) or callable(rule)
        if not known or isinstance(rule, nn.Module):
            raise ConversionError(
                "keep_digital: a rule is a layer's name or pattern, a module class, or a function of (name, module); "
                f"got {rule.__name__ if isinstance(rule, type) else type(rule).__name__}"
            )
        if isinstance(rule, str) and not any(fnmatchcase(name, rule) for name in names + bare):
            raise ConversionError(
                f"keep_digital: no module is called {rule!r}; there are {', '.join(filter(None, names))}"
            )
    return rules


def _matches(rule: Rule, name: str, module: nn.Module) -> bool:
    if isinstance(rule, str):
        return fnmatchcase(name, rule)
    return isinstance(module, rule) if isinstance(rule, type) else rule(name, module)
