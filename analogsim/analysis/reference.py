"""What networks on hardware are compared with: the digital one, its data and its measure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches import Batch, Batches, Step, device_of, repeatable
from ..convert import to_digital
from ..nn import analog_layers
from ..nn.copies import copied
from ..noise import remove_noise
from ..program import at_time, program
from ..robustness.measure import Measure, as_measure
from ..robustness.metric import guessed, made, measured, noiseless, with_worst
from ..robustness.sweep import reseed
from ..seeds import Key, derive
from ..storage.tensors import tensors_checksum


@dataclass(frozen=True)
class Reference:
    """A digital network in evaluation, and what it is worth.

    Attributes
    ----------
    network : nn.Module
        A copy, without injected noise.
    batches : iterable of batches
        With targets, where the network is; may be run through many times.
    measure : Measure
    metric : object
        Computes it.
    step : callable or None
        How a network is called.
    value : float
        The network's.
    guess : float or None
        What guessing gives on this data, where it is known.
    samples : int
    """

    network: nn.Module
    batches: Iterable[Batch]
    measure: Measure
    metric: Any
    step: Step | None
    value: float
    guess: float | None
    samples: int

    @property
    def checksum(self) -> str:
        """CRC-32 of the network's parameters and buffers, whatever the data say of it."""
        state = self.network.state_dict().items()
        tensors = {name: value.detach().cpu() for name, value in state if isinstance(value, Tensor)}
        return tensors_checksum(tensors, {})

    def value_of(self, model: nn.Module) -> float:
        """Return what another network is worth on the same data; NaN where it is not finite."""
        found = measured(model, self.batches, self.metric, self.measure, step=self.step)[0]
        return found if math.isfinite(float(self.measure.heights(found))) else math.nan

    def on_chips(
        self,
        analog: nn.Module,
        chips: int,
        ages: Sequence[float | None],
        seed: int,
        done: Callable[[], object] = lambda: None,
        own_chip: bool = False,
        prepare: Callable[[nn.Module, int], object] | None = None,
    ) -> list[list[float]]:
        """Return what a network is worth on several chips, a row for each age; NaN where it is not finite.

        A chip and its noise depend on the seed and its number only: not on the hardware, nor on other ages.
        An age is in seconds; None: the layers keep theirs. `own_chip`: the network stays on the chip that it was
        programmed for. `prepare` gets the network on each chip at each age, and a seed, before it is measured.
        """
        rows: list[list[float]] = [[] for _ in ages]
        aged = any(analog_layers(analog))
        for chip in range(chips):
            if aged and not own_chip:
                program(analog, derive(seed, Key.VARIED, chip, 0))
            for row, age in zip(rows, ages):
                if aged and age is not None:
                    at_time(analog, age)
                if prepare is not None:
                    prepare(analog, derive(seed, Key.VARIED, chip, 1))
                reseed(analog, derive(seed, Key.VARIED, chip, 1))
                row.append(self.value_of(analog))
                done()
        return rows

    def settled(self, verb: str, values: Any) -> np.ndarray:
        """Return values in which NaN is the worst, of which a warning tells; see `noise_sweep`."""
        return with_worst(verb, np.asarray(values, dtype=float), self.measure, self.value, self.guess)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of the chips that these are a sample of; NaN of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def digital_copy(model: nn.Module) -> nn.Module:
    """Return a network's digital twin without injected noise, a copy: another thread may be using the network."""
    copy = to_digital(model) if any(analog_layers(model)) else copied(model)
    remove_noise(copy)
    return copy


def reference(
    model: nn.Module, data: Batches, metric: Any, step: Step | None, device: torch.device | str | None = None
) -> Reference:
    """Measure a network's digital twin.

    Raises
    ------
    FitError, DataError, ShapeError, NonFiniteError
        As `noise_sweep` of data, metric and the network's output.
    """
    network, measure = digital_copy(model).eval(), as_measure(metric)
    network = network if device is None else network.to(device)
    batches, score = repeatable(data, device_of(network), step), made(measure)
    with torch.no_grad():
        value, samples = noiseless(network, batches, score, measure, step)
    return Reference(network, batches, measure, score, step, value, guessed(measure, score), samples)
