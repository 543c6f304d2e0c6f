"""One step of a training, of one network or of a group of G that are packed into one: batch, losses, gradients, rate.

What is one number for a network is (G,) for a group, and what is (B,) for a network is (B, G).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DivergenceError
from .augment import cut
from .data import DataSet
from .epoch import EpochOrder
from .spec import TrainSpec


def adam(groups: list[dict[str, Any]], spec: TrainSpec) -> torch.optim.Adam:
    """Return the optimiser of a training; a parameter group's "faster" multiplies its rate (see `set_rate`)."""
    parameters = [p for group in groups for p in group["params"]]
    # One pass over the weights in place of a dozen, where torch has it.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.Adam(groups, lr=spec.lr, weight_decay=spec.weight_decay, fused=fused or None)


def learning_rate(spec: TrainSpec, epoch: int) -> float:
    """Return Adam's learning rate in an epoch (from 0): a cosine from spec.lr towards 0."""
    return spec.lr * (1 + math.cos(math.pi * epoch / spec.epochs)) / 2


def set_rate(optimiser: torch.optim.Optimizer, spec: TrainSpec, epoch: int) -> None:
    """Set the learning rates of an epoch (from 0)."""
    rate = learning_rate(spec, epoch)
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("faster", 1)


def take_batch(data: DataSet, images: Tensor, labels: Tensor, step: EpochOrder) -> tuple[Tensor, Tensor]:
    """Return the batch of a step, with the networks' images side by side as channels.

    Parameters
    ----------
    data : DataSet
        Which normalises the images.
    images : Tensor (N, C, H, W), uint8
    labels : Tensor (N,), int64
    step : EpochOrder
        Of B images, on the device of the images.

    Returns
    -------
    images : Tensor (B, C, H, W) or (B, G·C, H, W)
    labels : Tensor (B,) or (B, G)
    """
    taken = images[step.images]
    cropped = cut(taken.flatten(0, -4), step.crops)
    return data.normalise(cropped).view(len(taken), -1, *taken.shape[-2:]), labels[step.images]


def losses_and_hits(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy of a batch, and how many of its images the network names right."""
    logits = network(images)
    if labels.ndim == 1:
        losses = F.cross_entropy(logits, labels)
    else:
        logits = logits.view(*labels.shape, -1)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = each.view_as(labels).mean(0)
    return losses, (logits.detach().argmax(-1) == labels).sum(0)


def differentiate(
    compute: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Set the gradients of a batch; return its losses, detached, and hits.

    Parameters
    ----------
    compute : callable
        `losses_and_hits` of a network, perhaps compiled.
    optimiser : torch.optim.Optimizer
        Its parameters' gradients are cleared first.
    images, labels : Tensor
        Of `take_batch`.
    """
    optimiser.zero_grad()
    losses, hits = compute(images, labels)
    # The networks of a group share no weight, so the gradient of the sum is that of each one's own loss.
    losses.sum().backward()
    return losses.detach(), hits


def divergence(spec: TrainSpec, epoch: int, history: Sequence[Any] = ()) -> DivergenceError:
    """Return what is to be said of a training that is no longer finite in an epoch (from 0), and of those before."""
    noise = "" if spec.silent else ", or the noise, or raise it slowly by ramp_epochs"
    return DivergenceError(
        f"the training diverged in epoch {epoch + 1}: its loss or weights are no longer finite; lower the "
        f"learning rate (now {spec.lr:g}){noise}",
        history,
    )
