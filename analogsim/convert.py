"""From a digital network to one on crossbars, and back."""

import copy
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from .errors import ConversionError, ProfileError
from .nn import AnalogConv1d, AnalogConv2d, AnalogConv3d, AnalogLayer, AnalogLinear, analog_layers
from .profile import HardwareProfile

ANALOG: dict[type[nn.Module], type[AnalogLayer]] = {
    layer.digital: layer for layer in (AnalogLinear, AnalogConv1d, AnalogConv2d, AnalogConv3d)
}

Rule = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def convert(
    model: nn.Module, profile: HardwareProfile, *, keep_digital: Rule | Iterable[Rule] = (), inplace: bool = False
) -> nn.Module:
    """Put every linear and convolution layer of a network on simulated crossbars.

    Parameters
    ----------
    model : nn.Module
        Any network; layers that are already analog get the new profile.
    profile : HardwareProfile
    keep_digital : rule or iterable of rules
        What to leave as it is: a layer's name or a pattern ("head", "features.*"), a module class, or a function of
        (name, module) that returns True. A rule that matches a container keeps everything inside it.
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module
        The converted network; parameters, hooks, noise sites, tied weights and training modes are kept.

    Raises
    ------
    ConversionError
        There is nothing to convert, a name or pattern matches nothing, or a layer cannot be converted.
    """
    if not isinstance(profile, HardwareProfile):
        raise ProfileError(
            f"profile: a HardwareProfile is needed, got {type(profile).__name__}; HardwareProfile.load(…) reads one"
        )
    rules = [keep_digital] if isinstance(keep_digital, str | type) or callable(keep_digital) else list(keep_digital)
    _check_names(model, rules)
    chosen = [name for name, _ in _convertible(model, rules)]
    if not chosen:
        raise ConversionError(
            f"{type(model).__name__}: nothing to convert: no layer of {', '.join(kind.__name__ for kind in ANALOG)} "
            "outside what keep_digital leaves"
        )
    if not inplace:
        model = copy.deepcopy(model)
    for name in chosen:
        module = model.get_submodule(name)
        if isinstance(module, AnalogLayer):
            module.profile = profile
        else:
            _kind(name, module).from_digital(module, profile)
    for number, (_, layer) in enumerate(analog_layers(model)):
        layer.stream = number
    return model


def to_digital(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn every analog layer back into its torch twin, with the weights it has now.

    Raises
    ------
    ConversionError
        No layer is analog.
    """
    if not inplace:
        model = copy.deepcopy(model)
    layers = list(analog_layers(model))
    if not layers:
        raise ConversionError(f"{type(model).__name__}: no layer is analog; convert(model, profile) makes them so")
    for _, layer in layers:
        layer.to_digital()
    return model


def _convertible(model: nn.Module, rules: list[Rule], prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Walk the tree; a container that a rule keeps is not entered, a module met before is not met again."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def walk(name: str, module: nn.Module) -> None:
        if id(module) in seen or any(_matches(rule, name, module) for rule in rules):
            return
        seen.add(id(module))
        if isinstance(module, AnalogLayer) or any(isinstance(module, kind) for kind in ANALOG):
            _kind(name, module)
            found.append((name, module))
            return
        for child_name, child in module.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)

    walk(prefix, model)
    return found


def _kind(name: str, module: nn.Module) -> type[AnalogLayer]:
    if isinstance(module, AnalogLayer):
        return type(module)
    kind = type(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        raise ConversionError(
            f"{name}: {kind.__name__} has no weights yet; run one batch through the model, then convert"
        )
    parametrized = kind.__name__.startswith("Parametrized")
    base = kind.__mro__[1] if parametrized else kind
    if base not in ANALOG:
        raise ConversionError(
            f"{name}: {kind.__name__} is a subclass of a torch layer, and conversion would lose what it adds; "
            f"name it in keep_digital"
        )
    return ANALOG[base]


def _matches(rule: Rule, name: str, module: nn.Module) -> bool:
    if isinstance(rule, str):
        return fnmatchcase(name, rule)
    return isinstance(module, rule) if isinstance(rule, type) else rule(name, module)


def _check_names(model: nn.Module, rules: list[Rule]) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for rule in rules:
        if isinstance(rule, str) and not any(fnmatchcase(name, rule) for name in names):
            raise ConversionError(
                f"keep_digital: no module is called {rule!r}; there are {', '.join(filter(None, names))}"
            )
