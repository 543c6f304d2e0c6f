"""Convolutions by the triton backend: cuDNN for each tile's channels, then one pass over its partial sums."""

from torch import Tensor

from . import gpu
from .conv import Job
from .precision import float32_precision


def run(job: Job, out: Tensor, bits: Tensor | None) -> None:
    """Compute a convolution; clips stay on the device, uncounted."""
    weights = [tile.of(job.w).contiguous() for tile in job.tiles]
    per_image = out[:1].numel()
    for chunk in job.chunks(most=gpu.CHUNK):
        inputs, into = gpu.dac(job.x[chunk], job.spec), out[chunk]
        for t, tile in enumerate(job.tiles):
            part = job.inputs(inputs, tile)
            with float32_precision(out.device, job.spec.precision):
                partial = job.convolve(part, weights[t]).contiguous()
            norm2, plane = job.squared_lengths(part, tile), None if bits is None else bits[t // 8, chunk]
            last = t == len(job.tiles) - 1
            gpu.add_tile(into, partial, norm2, job.read, t, chunk.start * per_image, plane, t == 0, last)
