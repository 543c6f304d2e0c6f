"""Convolutions by the triton backend: cuDNN for each tile's channels, then one pass over its partial sums."""

from torch import Tensor

from ...conv_job import Job
from ...precision import float32_precision
from . import matmul as gpu


def run(job: Job, out: Tensor, bits: Tensor | None) -> None:
    """Compute a convolution; clips stay on the device, uncounted.

    Products are of the DAC's codes, which every arithmetic holds exactly (docs/gpu.md, Precision).
    """
    weights = [tile.of(job.w).contiguous() for tile in job.tiles]
    per_image, unit = out[:1].numel(), gpu.unit_of(job.spec)
    with float32_precision(out.device, job.spec.precision):
        for chunk in job.chunks(most=gpu.CHUNK):
            inputs, into = gpu.codes(job.x[chunk], job.spec), out[chunk]
            for t, tile in enumerate(job.tiles):
                part = job.inputs(inputs, tile)
                partial, norm2 = job.convolve(part, weights[t]).contiguous(), job.squared_lengths(part, tile)
                plane, last = None if bits is None else bits[t // 8, chunk], t == len(job.tiles) - 1
                gpu.add_tile(into, partial, norm2, job.read, t, chunk.start * per_image, plane, t == 0, last, unit)
