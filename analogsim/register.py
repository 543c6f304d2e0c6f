"""The one verb by which others add to what the library knows."""

from typing import Any, TypeVar

from .chip import ADCKind, CellModel, NoiseDistribution
from .errors import ConversionError, ProfileError
from .nn import AnalogComposite, AnalogLayer
from .nn.known import Known, Weights, add, its_weight
from .profile.kinds import ADC_KINDS, CELL_MODELS, DISTRIBUTIONS

T = TypeVar("T")
_TABLES = {ADCKind: ADC_KINDS, CellModel: CELL_MODELS, NoiseDistribution: DISTRIBUTIONS}


def register(extension: T, *, weights: Weights | None = its_weight) -> T:
    """Make a layer class, a kind of ADC, a cell model or a distribution of noise known by its name.

    Parameters
    ----------
    extension : class
        One that derives from `AnalogLayer` (or `AnalogComposite`) and a layer of torch's or your own, its `digital`:
        from then on `convert`, `cost` and `inject_noise` know that layer. Or one that derives from
        `analogsim.chip.ADCKind`, `CellModel` or `NoiseDistribution`, or an object of such a class: from then on
        profiles may name it in `adc.kind`, `cells.model` or `noise.distribution`.
    weights : callable, optional
        Of a layer: says of a module whose parameters, and which, its weights are, a list of (module, name), for
        injected noise on weights. By default its own `weight`; None: the layer is no noise site.

    Returns
    -------
    class
        The same, so that `register` may decorate it.

    Raises
    ------
    ConversionError
        It is none of these, or another class stands for the same layer.
    ProfileError
        Its name is missing, or taken; no object can be made of the class; or a distribution's mean is not 0 or its
        variance not 1.

    Notes
    -----
    Registered is what this process knows. A worker of a study has to import the module that registers it: do so in the
    module that defines the network.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> class Doubled(torch.nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> @an.register
    ... class AnalogDoubled(an.AnalogLinear, Doubled):
    ...     digital = Doubled
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> type(an.convert(Doubled(8, 4), an.HardwareProfile.load("8bit"))).__name__
    'AnalogDoubled'
    """
    given: Any = extension
    if isinstance(given, type) and issubclass(given, AnalogLayer | AnalogComposite):
        digital = getattr(given, "digital", None)
        if not isinstance(digital, type) or not issubclass(given, digital):
            raise ConversionError(f"register: {given.__name__} must derive from the layer that its `digital` names")
        add(Known(given, weights))
        return extension
    for base, table in _TABLES.items():
        try:
            made = given() if isinstance(given, type) and issubclass(given, base) else given
        except TypeError as error:
            raise ProfileError(f"register: {given.__name__}: {error}; give an object of a finished class") from None
        if isinstance(made, base):
            if not isinstance(getattr(made, "name", None), str) or not made.name:
                raise ProfileError(f"register: {type(made).__name__} has no name; give its class one")
            if isinstance(made, NoiseDistribution):
                made.check()
            table.add(made)
            return extension
    raise ConversionError(
        f"register: {getattr(extension, '__name__', extension)!r} derives from none of AnalogLayer, AnalogComposite, "
        "ADCKind, CellModel and NoiseDistribution (a metric, a backend and an engine of studies are arguments)"
    )
