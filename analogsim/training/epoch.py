"""What a training sees in an epoch: which image when, its crop, and how strong variance-aware noise is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .augment import Crops, draw_crops
from .data import DataSet
from .spec import TrainSpec


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """An epoch of N images, of one training (N,) or of a group of G of them (N, G).

    Attributes
    ----------
    images : Tensor, int64
        Which training image.
    crops : Crops
        Where its crop lies.
    z : Tensor
        |z| of variance-aware noise; 0 where there is none.
    """

    images: Tensor
    crops: Crops
    z: Tensor

    @classmethod
    def draw(cls, spec: TrainSpec, epoch: int, data: DataSet) -> "EpochOrder":
        """Draw a training's, on the CPU, all at once: its seed and the epoch (from 0) decide it everywhere."""
        generator = torch.Generator().manual_seed(epoch_seeds(spec, epoch)[0])
        count, variance = len(data.train_y), spec.variance
        images = torch.randperm(count, generator=generator)
        crops = draw_crops(count, generator, spec.augment or data.augmentation)
        if variance is None:
            z = torch.zeros(count)
        elif variance.per == "image":
            z = torch.randn(count, generator=generator).abs()
        else:
            steps = -(-count // spec.batch_size)
            z = torch.randn(steps, generator=generator).abs().repeat_interleave(spec.batch_size)[:count]
        return cls(images, crops, z)

    @classmethod
    def together(cls, orders: Sequence["EpochOrder"]) -> "EpochOrder":
        """Return those of several trainings, of one augmentation, as a group's."""
        images, z = (torch.stack(column, 1) for column in zip(*((order.images, order.z) for order in orders)))
        parts = ((crops.rows, crops.columns, crops.mirrored) for crops in (order.crops for order in orders))
        return cls(images, Crops(orders[0].crops.how, *(torch.stack(column, 1) for column in zip(*parts))), z)

    def to(self, device: torch.device) -> "EpochOrder":
        """Return it on a device."""
        return EpochOrder(self.images.to(device), self.crops.to(device), self.z.to(device))

    def part(self, start: int, stop: int) -> "EpochOrder":
        """Return that of one step."""
        return EpochOrder(self.images[start:stop], self.crops[start:stop], self.z[start:stop])


def epoch_seeds(spec: TrainSpec, epoch: int) -> tuple[int, int]:
    """Return the seeds of an epoch (from 0): of its order, and of dropout and noise."""
    # Its words are 32 bits each, and zeros at the end are none: so the seed's upper half comes last.
    words = spec.seed % 2**32, epoch, spec.seed >> 32
    order, noise = np.random.SeedSequence(words).generate_state(2, np.uint64).tolist()
    return order, noise
