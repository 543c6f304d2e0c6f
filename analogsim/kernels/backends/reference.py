"""The `reference` backend: the functions that every backend has, in terms of `reference.py`."""

from torch import Tensor

from .. import Clips, reference
from ..spec import Read


def matmul(x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul` by its statement."""
    out, clipped = reference.tiled_matmul(x, w, read.spec, read.seed, read.stream)
    if read.scale is not None:
        out = out * read.scale
    if read.bias is not None:
        out = out + read.bias
    return out, Clips.of(clipped) if read.records else None


dac = reference.dac
noisy = reference.add_noise


def accumulate(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    read: Read,
    tile: int,
    offset: int = 0,
    bits: Tensor | None = None,
    first: bool = False,
) -> int:
    """Add ADC(partial + noise) to `out`, mark clips in `bits` (uint8, bit tile % 8), return how many were marked.

    `first` overwrites `out` instead.

    `out`, `partial` and `bits` are contiguous blocks of one shape which start at element `offset` of the whole output.
    """
    norm2 = partial.new_zeros(()) if norm2 is None else norm2
    converted, clipped = reference.adc(partial, norm2, read.spec, read.seed, read.stream, tile, offset)
    return add(out, converted, clipped, tile, bits, first)


def add(out: Tensor, converted: Tensor, clipped: Tensor, tile: int, bits: Tensor | None, first: bool) -> int:
    """Do the rest of `accumulate`."""
    out.copy_(converted) if first else out.add_(converted)
    if bits is None:
        return 0
    bits |= clipped.to(bits.dtype) << tile % 8
    return int(clipped.sum())
