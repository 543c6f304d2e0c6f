"""The `reference` backend: the functions that every backend has, in terms of `reference.py`."""

from torch import Tensor

from . import Clips, reference
from .spec import MatmulSpec


def matmul(
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    seed: int,
    stream: int,
    scale: Tensor | None,
    bias: Tensor | None,
    record_clips: bool,
) -> tuple[Tensor, Clips | None]:
    """Compute `tiled_matmul` by its statement."""
    out, clipped = reference.tiled_matmul(x, w, spec, seed, stream)
    if scale is not None:
        out = out * scale
    if bias is not None:
        out = out + bias
    return out, Clips.pack(clipped) if record_clips and spec.adc_full_scale else None


dac = reference.dac
noisy = reference.add_noise


def accumulate(
    out: Tensor,
    partial: Tensor,
    norm2: Tensor | None,
    spec: MatmulSpec,
    seed: int,
    stream: int,
    tile: int,
    offset: int,
    bits: Tensor | None,
    first: bool = False,
) -> int:
    """Add ADC(partial + noise) to `out`, mark clips in `bits` (uint8, bit tile % 8), return how many were marked.

    `first` overwrites `out` instead.

    `out`, `partial` and `bits` are contiguous blocks of one shape which start at element `offset` of the whole output.
    """
    norm2 = partial.new_zeros(()) if norm2 is None else norm2
    converted, clipped = reference.adc(partial, norm2, spec, seed, stream, tile, offset)
    out.copy_(converted) if first else out.add_(converted)
    if bits is None:
        return 0
    bits |= clipped.to(bits.dtype) << tile % 8
    return int(clipped.sum())
