"""What a layer's outputs are corrected by, digitally, and which chip and hardware that was measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..profile import HardwareProfile

KEYS = ("output_correction", "corrected_for")
_NO_CHIP = -1


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A gain and an offset for each output: y becomes gain·y + offset, before the bias is added.

    Attributes
    ----------
    gain : Tensor (N,)
        No unit; on the CPU.
    offset : Tensor (N,)
        Activation units; on the CPU.
    chip : int or None
        Seed of the layer's chip that they were measured on; None where chips do not differ.
    hardware : int
        Checksum of that chip's profile, but for its noise and names.
    seconds : float
        The chip's age when they were measured.
    """

    gain: Tensor
    offset: Tensor
    chip: int | None
    hardware: int
    seconds: float

    def why_not(self, profile: HardwareProfile, chip: int | None) -> str | None:
        """Return what they were measured on, where that is not this; None where it is."""
        if self.hardware != profile.checksum:
            return f"on other hardware than {profile.name!r} is now"
        return "on another chip" if profile.is_drawn and self.chip != chip else None

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return what a `state_dict` holds of them, under `KEYS`: (2, N), and four numbers."""
        chip = _NO_CHIP if self.chip is None else self.chip
        about = [chip >> 32, chip & 0xFFFFFFFF, self.hardware, self.seconds]
        return torch.stack([self.gain, self.offset]), torch.tensor(about, dtype=torch.float64, device="cpu")

    @classmethod
    def of(cls, values: Tensor, about: Tensor) -> "Correction":
        """Return those that a `state_dict` holds."""
        gain, offset = values.detach().float().cpu()
        high, low, hardware, seconds = about.tolist()
        chip = None if high < 0 else int(high) << 32 | int(low)
        return cls(gain, offset, chip, int(hardware), seconds)
