"""For torch modules that hold several matrices: a `Crossbar` for each, and the mixin that keeps them."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..chip import DeviceKernel
from ..errors import ConversionError
from ..kernels import Cell, Read, Recurrence
from ..profile import HardwareProfile
from .function import exact_dtype
from .layer import AnalogLayer
from .management import Management, multiplied
from .matrix import ProgrammedMatrix
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

    def matrix(self, weight: Tensor, bias: Tensor | None) -> "Reads":
        """Program a matrix once, for many reads.

        Parameters
        ----------
        weight : Tensor (N, K)
            Digital weights, weight units.
        bias : Tensor (N,) or None
        """
        return Reads(self, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Refuse: a crossbar without its module has no matrix."""
        raise ConversionError(f"{self._where()}: holds no matrix of its own; call the module that it belongs to")

    def to_digital(self) -> nn.Module:
        """Refuse: only the module that the crossbar belongs to can become digital."""
        raise ConversionError(f"{self._where()}: has no digital twin; use to_digital of the module that it belongs to")

    def extra_repr(self) -> str:
        """Name the profile."""
        return f"profile={self.profile.name!r}"


class Reads:
    """A matrix W (N, K) that is on a crossbar already, and its bias: multiplies rows (M, K), activation units."""

    def __init__(self, crossbar: Crossbar, weight: Tensor, bias: Tensor | None) -> None:
        self._crossbar, self._weight, self._bias = crossbar, weight, bias
        self._written: ProgrammedMatrix | None = None
        if not crossbar.transparent:
            with exact_dtype(weight, bias) as (self._weight, self._bias), torch.no_grad():
                self._written = crossbar.write(self._weight)

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply rows (M, K): (M, N)."""
        crossbar, weight, bias = self._crossbar, self._weight, self._bias
        if self._written is None:
            return F.linear(rows, weight, bias)
        with exact_dtype(rows, weight, bias) as (x, w, b):
            if not x.numel():
                return F.linear(x, w, b).to(rows.dtype)
            return multiplied(x, w, b, crossbar.read(x, self._written), crossbar.learned_range).to(rows.dtype)

    def recur(
        self, cell: Cell, x: Tensor, sizes: list[int], backwards: bool, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Make all steps of a recurrent layer in one pass, where hidden states are multiplied by this matrix.

        Parameters
        ----------
        cell, x, sizes, backwards, state
            As of `Recurrence`.

        Returns
        -------
        out, state
            As of `Backend.recur`. None where each step is to be read by itself: one step alone; for training, gradients
            or calibration; in half or double precision; on hardware that the backend's plain product is not, or whose
            reads depend on the states that they are of.
        """
        written, crossbar, profile = self._written, self._crossbar, self._crossbar.profile
        if written is None or crossbar.training or crossbar._observer is not None or len(sizes) == 1:
            return None
        if not (written.programmed.numel() and len(x)):
            return None
        followed = [t for t in (self._weight, self._bias, x, *state) if t is not None]
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*followed, crossbar.input_range)):
            return None
        if any(t.dtype is not torch.float32 for t in followed) or written.tile_gains is not None:
            return None
        if profile.dac.input_range == "dynamic" or Management.of(profile) is not None:
            return None
        if written.chip is not None and DeviceKernel.needed(written.chip, profile):
            return None
        kernel = crossbar._kernel(x)
        if not kernel.recurs:
            return None
        with exact_dtype(*followed):
            spec = crossbar.spec(x)
            keys = [crossbar.draw(spec) for _ in sizes]
            bias = written.shifted(None if self._bias is None else self._bias.detach())
            read = Read(spec, scale=written.gain(spec.input_range), bias=bias)
            what = Recurrence(cell, x.detach(), sizes, backwards, keys, [part.detach() for part in state])
            return kernel.recur(written.programmed, read, what)


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
