"""Backends that take notes, put into a network's layers for a while."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ConversionError
from ..kernels import Backend, Clips, MatmulSpec, Read, reference
from ..kernels.tiles import ROWS
from ..restore import restored
from .layer import AnalogLayer, analog_layers
from .matrix import ProgrammedMatrix


@contextmanager
def observed(model: nn.Module, make: Callable[[AnalogLayer], Any]) -> Iterator[list[tuple[str, AnalogLayer, Any]]]:
    """Put a backend that takes notes into every analog layer, for as long as the context lasts.

    The network is in evaluation mode meanwhile. Noise that was injected is heard: enter `noise.without_noise` as well
    where it must not be.

    Parameters
    ----------
    model : nn.Module
        Converted.
    make : callable
        Makes a layer's backend.

    Yields
    ------
    list of (name, layer, what `make` made for it)

    Raises
    ------
    ConversionError
        The model has no analog layer.
    """
    layers = [(name, layer, make(layer)) for name, layer in analog_layers(model)]
    if not layers:
        raise ConversionError(f"{type(model).__name__}: no layer is analog; convert(model, profile) first")
    owners = restored(model.modules(), "training"), restored((layer for _, layer, _ in layers), "_observer")
    with owners[0], owners[1]:
        model.eval()
        for _, layer, observer in layers:
            layer._observer = observer
        yield layers


class Observing(Backend):
    """A backend that takes notes: what a layer asks of it beside what it asks of every backend.

    Attributes
    ----------
    reads_chips : bool
        Whether it gets every plane of a chip's cells, and every step of inputs, by itself, since ADCs convert each.
    wants_the_chip : bool
        Whether cells are as they were programmed and have aged; else as they were wanted.
    """

    reads_chips: bool = False
    wants_the_chip: bool = False

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Take note of the matrix that is read next."""

    @abstractmethod
    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the scalars that an input x of a layer is to be computed with."""


class RowsAsImages(Observing):
    """One whose `convolve` does all the work: rows are images of one position."""

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Multiply rows (M, K)."""
        return self.convolve(x[..., None], w[..., None], ROWS, read)[0][..., 0], None

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs, as the reference."""
        return reference.dac(x, spec)

    def accumulate(self, *args: Any, **options: Any) -> int:
        """Do what nobody asks for: `convolve` converts by itself."""
        raise NotImplementedError
