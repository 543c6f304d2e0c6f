"""Where the ADCs of a layer clipped in one call, one bit a tile and output."""

import torch
from torch import Tensor


class Clips:
    """Clip bits of T tiles.

    Parameters
    ----------
    bits : Tensor (ceil(T/8), *output shape), uint8
        Bit t % 8 of plane t // 8 is set where tile t clipped.
    tiles : int
        T.
    counts : list of int, optional
        Clipped conversions of each tile, where they are known already.
    """

    def __init__(self, bits: Tensor, tiles: int, counts: list[int] | None = None) -> None:
        self.bits, self.tiles, self._counts = bits, tiles, counts

    @classmethod
    def none(cls, tiles: int, like: Tensor) -> "Clips":
        """Return clips of outputs like these, no bit set yet."""
        return cls(like.new_zeros((-(-tiles // 8), *like.shape), dtype=torch.uint8), tiles)

    @classmethod
    def of(cls, masks: Tensor) -> "Clips":
        """Pack the reference's bool masks (T, *output shape)."""
        clips = cls.none(len(masks), masks.new_empty(masks.shape[1:]))
        for tile, mask in enumerate(masks):
            clips.bits[tile // 8] |= mask.to(torch.uint8) << tile % 8
        return clips

    def everywhere(self, full: Tensor) -> "Clips":
        """Return these clips, and those of every tile where `full` (bool, the output's shape) says so."""
        return Clips(self.bits | full.to(torch.uint8) * 255, self.tiles)

    @property
    def counts(self) -> list[int]:
        """Clipped conversions of each tile; where they must be counted on a GPU, this waits for it."""
        if self._counts is None:
            sums = [self.mask(tile).sum() for tile in range(self.tiles)]
            self._counts = torch.stack(sums).tolist() if sums else []
        return self._counts

    def any(self) -> bool:
        """Return whether a conversion clipped; cheaper than counting."""
        return bool(self.bits.any()) if self._counts is None else any(self._counts)

    def among(self, outputs: Tensor) -> "Clips":
        """Return the clips of some outputs (N,), bool, alone; or of each tile's own (T, N)."""
        if outputs.ndim == 1:
            return Clips(self.bits * outputs.view(-1, *[1] * (self.bits.ndim - 3)), self.tiles)
        kept = Clips.of(outputs).bits  # (planes, N)
        return Clips(self.bits & kept.view(len(kept), 1, -1, *[1] * (self.bits.ndim - 3)), self.tiles)

    def mask(self, tile: int) -> Tensor:
        """Return where this tile clipped (bool, the output's shape)."""
        return (self.bits[tile // 8] >> tile % 8 & 1).bool()
