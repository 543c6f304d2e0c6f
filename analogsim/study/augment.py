"""Random crops and flips of whole batches in memory: no worker processes, no loop over images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift every image by up to `padding` pixels (zeros come in), and mirror half of them.

    Parameters
    ----------
    images : Tensor (B, C, H, W), uint8
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor (B, C, H, W), uint8
    """
    batch, channels, height, width = images.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator).to(images.device)
    rows = shifts[0] + torch.arange(height, device=images.device)
    columns = shifts[1] + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(batch, 1, generator=generator).to(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, index.view(batch, 1, -1).expand(-1, channels, -1)).view_as(images)
