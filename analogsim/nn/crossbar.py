"""For torch modules that hold several matrices: a `Crossbar` for each, and the mixin that keeps them."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConversionError
from ..profile import HardwareProfile
from .function import exact_dtype
from .layer import AnalogLayer
from .management import multiplied
from .surgery import forbid_fused_inference, plain_class, twin


class Crossbar(AnalogLayer):
    """The crossbars of one matrix of a module that holds several; the matrix itself stays that module's parameter.

    It has what every analog layer has: a profile, calibrated ranges, a seed and a stream of its own.
    """

    def __init__(self, profile: HardwareProfile | None = None, device: torch.device | None = None) -> None:
        super().__init__()
        self._init_analog(profile, device or torch.device("cpu"))
        forbid_fused_inference(self)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply rows (..., K) by a matrix (N, K), once; see `multiply`."""
        return F.linear(x, weight, bias) if self.transparent else self.multiply(x, weight, bias)

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Program a matrix once, for many reads.

        Parameters
        ----------
        weight : Tensor (N, K)
            Digital weights, weight units.
        bias : Tensor (N,) or None

        Returns
        -------
        callable
            Multiplies rows (M, K), activation units, by the matrix: (M, N).
        """
        if self.transparent:
            return lambda rows: F.linear(rows, weight, bias)
        with exact_dtype(weight, bias) as (w, b), torch.no_grad():
            written = self.write(w)

        def multiply(rows: Tensor) -> Tensor:
            with exact_dtype(rows, w, b) as (x, _, _):
                if not x.numel():
                    return F.linear(x, w, b).to(rows.dtype)
                return multiplied(x, w, b, self.read(x, written), self.learned_range).to(rows.dtype)

        return multiply

    def forward(self, x: Tensor) -> Tensor:
        """Refuse: a crossbar without its module has no matrix."""
        raise ConversionError(f"{self._where()}: holds no matrix of its own; call the module that it belongs to")

    def to_digital(self) -> nn.Module:
        """Refuse: only the module that the crossbar belongs to can become digital."""
        raise ConversionError(f"{self._where()}: has no digital twin; use to_digital of the module that it belongs to")

    def extra_repr(self) -> str:
        """Name the profile."""
        return f"profile={self.profile.name!r}"


def called_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return what a network calls of its analog layers: modules of several matrices in the place of their crossbars."""
    kinds = AnalogLayer, AnalogComposite
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and not isinstance(m, Crossbar)}


class AnalogComposite(nn.Module):
    """Mixin: a torch module with several matrices, each multiplied on a child `crossbar_<matrix>`.

    A concrete one inherits from this and from its digital twin, and names its matrices. Parameters and their
    `state_dict` keys are the twin's; the crossbars add only their ranges.
    """

    digital: type[nn.Module]

    def __init__(self, *args: Any, profile: HardwareProfile | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._add_crossbars(profile)

    def matrices(self) -> list[str]:
        """Return the names of this module's matrices."""
        raise NotImplementedError

    def weight_of(self, name: str) -> Tensor:
        """Return one of the matrices (N, K), weight units."""
        return getattr(self, f"weight_{name}")

    @classmethod
    def from_digital(cls, module: nn.Module, profile: HardwareProfile) -> Self:
        """Turn a digital module, itself, into its analog twin; parameters, hooks and parametrisations stay.

        Raises
        ------
        ConversionError
            The module is not of the class that this one replaces.
        """
        if plain_class(module) is not cls.digital:
            raise ConversionError(f"{cls.__name__} replaces {cls.digital.__name__}, not {type(module).__name__}")
        module.__class__ = twin(module, cls)
        module._add_crossbars(profile)  # type: ignore[operator]
        return module  # type: ignore[return-value]

    def to_digital(self) -> nn.Module:
        """Turn this module, itself, back into its digital twin; parameters, hooks and parametrisations stay."""
        for name in self.matrices():
            delattr(self, f"crossbar_{name}")
        self.__class__ = twin(self, self.digital)  # type: ignore[assignment]
        return self

    @property
    def transparent(self) -> bool:
        """True where every crossbar is."""
        return all(self._crossbar(name).transparent for name in self.matrices())

    def _add_crossbars(self, profile: HardwareProfile | None) -> None:
        device = next(self.parameters()).device
        for name in self.matrices():
            self.add_module(f"crossbar_{name}", Crossbar(profile, device).train(self.training))

    def _crossbar(self, name: str) -> Crossbar:
        crossbar = getattr(self, f"crossbar_{name}")
        assert isinstance(crossbar, Crossbar)  # for the type checker
        return crossbar
