"""Random crops and flips of whole batches in memory: no worker processes, no loop over images."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..value import Value


class Augmentation(Value):
    """How training images are varied; the defaults are the paper's for CIFAR-10."""

    crop: Annotated[int, Field(ge=0)] = 4
    """Every image is shifted by up to this many pixels in each direction; what comes in is black. 0: no shift."""
    flip: bool = True
    """Whether half of the images are mirrored left to right; wrong where a mirrored image means something else."""


NONE = Augmentation(crop=0, flip=False)
"""Images as they are."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Where the crops of some images lie, and which images are mirrored; on the CPU.

    Attributes
    ----------
    rows, columns : Tensor (B, 1), int64
        First pixel of the crop in the padded image, 0 … 2·crop.
    mirrored : Tensor (B, 1), bool
    """

    rows: Tensor
    columns: Tensor
    mirrored: Tensor


def draw_crops(batch: int, generator: torch.Generator, how: Augmentation) -> Crops:
    """Draw the crops of so many images.

    Parameters
    ----------
    batch : int
    generator : torch.Generator
        On the CPU: one seed gives the same crops everywhere.
    how : Augmentation
    """
    if how == NONE or not batch:
        still = torch.zeros(batch, 1, dtype=torch.int64)
        return Crops(still, still, still.bool())
    rows, columns = torch.randint(0, 2 * how.crop + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5 if how.flip else torch.zeros(batch, 1, dtype=torch.bool)
    return Crops(rows, columns, mirrored)


def cut(images: Tensor, crops: Crops, how: Augmentation) -> Tensor:
    """Cut crops out of images.

    Parameters
    ----------
    images : Tensor (B, C, H, W), uint8
    crops : Crops
        Of B images; on the images' device there is no copy.
    how : Augmentation
        That they were drawn for.

    Returns
    -------
    Tensor (B, C, H, W), uint8

    Notes
    -----
    One gather for crop and mirror image: 0.6 ms for 128 images of 3×32×32 on one core.
    """
    batch, channels, height, width = images.shape
    if how == NONE or not batch:
        return images
    device = images.device
    # Without waiting: what is small is copied aside before it is sent.
    rows, columns, mirrored = (
        part.to(device, non_blocking=True) for part in (crops.rows, crops.columns, crops.mirrored)
    )
    rows, columns = rows + torch.arange(height, device=device), columns + torch.arange(width, device=device)
    if how.flip:
        columns = torch.where(mirrored, columns.flip(1), columns)
    # Pixel (i, j) of image b comes from row rows[b, i], column columns[b, j] of its padded self.
    index = rows[:, :, None] * (width + 2 * how.crop) + columns[:, None, :]
    padded = F.pad(images, (how.crop,) * 4).flatten(2)
    return padded.gather(2, index.view(batch, 1, -1).expand(-1, channels, -1)).view_as(images)


def augment(images: Tensor, generator: torch.Generator, how: Augmentation) -> Tensor:
    """Crop every image (B, C, H, W), uint8, at random from its padded self, and mirror half of them.

    The generator is on the CPU, whatever the images' device.
    """
    return cut(images, draw_crops(len(images), generator, how), how)
