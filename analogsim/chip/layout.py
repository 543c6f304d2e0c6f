"""Where each weight's cells are: which array (tile, block of columns), which row and column of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight matrix (N, K) lies on crossbars.

    Attributes
    ----------
    tiles : tuple of (start, stop)
        Rows of the matrix' K inputs that each tile holds.
    widths : tuple of int
        Columns of each block: those of the N outputs in their order, and those of a block share arrays.
    """

    tiles: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]

    @classmethod
    def of(
        cls, tiles: list[tuple[int, int]], n: int, groups: int = 1, cols: int | None = None, lines: int = 1
    ) -> "Layout":
        """Cut n outputs into blocks that fit into `cols` columns (None: any number), none with two groups' outputs.

        An output takes `lines` columns, which are not parted; `widths` count outputs, until `of_lines` is asked.
        """
        width = n // groups
        step = min(cols // lines if cols else width, width) or 1
        widths = [min(step, width - start) for _ in range(groups) for start in range(0, width, step)]
        return cls(tuple(tiles), tuple(widths))

    def of_lines(self, lines: int) -> "Layout":
        """Give every output so many columns, side by side."""
        return replace(self, widths=tuple(width * lines for width in self.widths))

    def with_references(self, count: int) -> "Layout":
        """Add so many columns at the end of every block."""
        return replace(self, widths=tuple(width + count for width in self.widths))

    def ends(self) -> list[int]:
        """Return each block's last column."""
        return [end - 1 for end in accumulate(self.widths)]

    def arrays(self) -> Iterator[tuple[slice, slice]]:
        """Yield (outputs, inputs) of every array."""
        for width, end in zip(self.widths, accumulate(self.widths), strict=True):
            for start, stop in self.tiles:
                yield slice(end - width, end), slice(start, stop)

    def block_of(self, device: torch.device) -> Tensor:
        """Return each output's block (N,), int64."""
        return _repeated(self.widths, device)

    def tile_of(self, device: torch.device) -> Tensor:
        """Return each input's tile (K,), int64."""
        return _repeated([stop - start for start, stop in self.tiles], device)


def _repeated(sizes: tuple[int, ...] | list[int], device: torch.device) -> Tensor:
    counts = torch.tensor(sizes, device=device)
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), counts)
