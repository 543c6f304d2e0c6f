"""What networks on hardware are compared with: the digital one, its data and its measure."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..batches import Labelled, LabelledData, labelled_batches
from ..convert import to_digital
from ..nn import analog_layers
from ..nn.copies import copied
from ..noise import remove_noise
from ..robustness.metric import Metric, check_logits, measured, scored


@dataclass(frozen=True)
class Reference:
    """A digital network in evaluation, and what it is worth.

    Attributes
    ----------
    network : nn.Module
        A copy, without injected noise.
    batches : iterable of (Tensor, Tensor)
        Where the network is; may be run through many times.
    score : Metric
    metric : str
        Name of the measure.
    value : float
        The network's.
    """

    network: nn.Module
    batches: Iterable[Labelled]
    score: Metric
    metric: str
    value: float

    def measure(self, model: nn.Module, where: str) -> float:
        """Return what another network is worth on the same data."""
        return measured(model, self.batches, self.score, where)[0]

    @property
    def inputs(self) -> Iterable[Tensor]:
        """The batches without their labels."""
        return (x for x, _ in self.batches)


def digital_copy(model: nn.Module) -> nn.Module:
    """Return a network's digital twin without injected noise, a copy: another thread may be using the network."""
    copy = to_digital(model) if any(analog_layers(model)) else copied(model)
    remove_noise(copy)
    return copy


def reference(model: nn.Module, data: LabelledData, metric: Metric | None) -> Reference:
    """Measure a network's digital twin.

    Raises
    ------
    FitError
        It is no metric.
    DataError, ShapeError, NonFiniteError
        As `noise_sweep` of data and of the network's output.
    """
    score, network = scored(metric), digital_copy(model).eval()
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    batches = labelled_batches(data, device, classes=metric is None)
    examine = check_logits if metric is None else None
    value = measured(network, batches, score, "of the digital network", examine)[0]
    return Reference(network, batches, score, "accuracy" if metric is None else type(metric).__name__, value)
