"""What networks on hardware are compared with: the digital one, its data and its measure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..batches import Batch, Batches, Step, device_of, repeatable
from ..convert import to_digital
from ..nn import analog_layers
from ..nn.copies import copied
from ..noise import remove_noise
from ..robustness.measure import Measure, as_measure
from ..robustness.metric import guessed, made, measured, noiseless, with_worst


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

    def value_of(self, model: nn.Module) -> float:
        """Return what another network is worth on the same data; NaN where it is not finite."""
        found = measured(model, self.batches, self.metric, self.measure, step=self.step)[0]
        return found if math.isfinite(float(self.measure.heights(found))) else math.nan

    def settled(self, verb: str, values: Any) -> np.ndarray:
        """Return values in which NaN is the worst, of which a warning tells; see `noise_sweep`."""
        return with_worst(verb, np.asarray(values, dtype=float), self.measure, self.value, self.guess)


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
    batches, score = repeatable(data, device_of(network)), made(measure)
    with torch.no_grad():
        value, samples = noiseless(network, batches, score, measure, step)
    return Reference(network, batches, measure, score, step, value, guessed(measure, score), samples)
