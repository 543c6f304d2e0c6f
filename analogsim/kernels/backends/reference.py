"""The `reference` backend: what `kernels/reference.py` states, on any device, in float32 and float64."""

import torch
from torch import Tensor

from .. import reference
from ..backend import Backend
from ..clips import Clips
from ..spec import MatmulSpec, Read


class Reference(Backend):
    """Plain torch."""

    name = "reference"
    fast = False

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """Return None: it adds noise to everything, and multiplies whatever torch does."""
        return None

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Compute the product by its statement."""
        out, clipped = reference.tiled_matmul(x, w, read.spec, read.seed, read.stream, read.tile_gains)
        if read.scale is not None:
            out = out * read.scale
        if read.bias is not None:
            out = out + read.bias
        return out, Clips.of(clipped) if read.records else None

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs."""
        return reference.dac(x, spec)

    def accumulate(
        self,
        out: Tensor,
        partial: Tensor,
        norm2: Tensor | None,
        read: Read,
        tile: int,
        offset: int = 0,
        bits: Tensor | None = None,
        first: bool = False,
    ) -> int:
        """Convert a tile's sums and add them up."""
        norm2 = partial.new_zeros(()) if norm2 is None else norm2
        converted, clipped = reference.adc(partial, norm2, read.spec, read.seed, read.stream, tile, offset)
        return reference.add(out, converted, clipped, tile, bits, first)
