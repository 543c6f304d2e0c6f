"""The part of a read's noise that grows with the inputs, drawn anew: what the gradient of an input range leaves out."""

from typing import Any

import torch
from torch import Tensor

from ..kernels import Backend, Clips, ConvGeometry, MatmulSpec, Read
from ..kernels.conv_job import Job
from ..kernels.reference import dac_clipped
from ..kernels.tiles import Tile, cut
from .build import Plane
from .distributions import shaped
from .planes import of_images
from .read import DeviceKernel
from .read_noise import normals_of


def follows_signal(kernel: Any, spec: MatmulSpec) -> bool:
    """Return whether any of a layer's noise grows with its inputs: that of weights and cells, and multiplicative."""
    cells = isinstance(kernel, DeviceKernel) and any(plane.variance is not None for plane in kernel.chip.planes)
    return bool(spec.noise_read or spec.noise_multiplicative or cells)


@torch.no_grad()
def signal_noise(
    kernel: Backend, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read, clips: Clips | None
) -> Tensor:
    r"""Return how much of a convolution's output is noise that grows with the inputs which the DAC does not clip.

    A conversion's noise is n = √V·z with V = σ_out² + σ_r²·‖x̂‖² + Σ x̂²v + σ_m²·s², v being the variance of each cell's
    own. Inputs that are not clipped go as 1/α, so that with the same z

        α·∂n/∂α = -n·V_x/V,    V_x = σ_r²·‖x̂_u‖² + Σ x̂_u²v + σ_m²·s·s_u,

    where x̂_u are the inputs with 0 in place of what the DAC clipped, and s_u is their sum
    (where cells are not linear, Σ x̂_u·∂s/∂x̂).

    Parameters
    ----------
    kernel : Backend
    x : Tensor (B, C, *spatial)
        Activation units.
    w : Tensor (N, C / groups, *kernel)
        ŵ, normalised units.
    read : Read
        The one whose noise it is.

    Returns
    -------
    Tensor (B, N, *output spatial)
        scale·Σ n·V_x/V over planes, steps and tiles, each with the coefficient that it is added up with, but for the
        conversions in `clips`; activation units.
    """
    spec, tiles = read.spec, cut(w, read.spec)
    reads, distribution = [(kernel, 1.0, kernel.dac(x.contiguous(), spec), Plane(1.0, w), read)], "gaussian"
    if isinstance(kernel, DeviceKernel):
        distribution = kernel.profile.noise.distribution
        reads = [(base, c, step, plane, own) for base, _, c, step, plane, own in kernel.reads(x, read)]
    passed = ~dac_clipped(x, spec) if spec.dac_levels else None
    job = Job(kernel, x, tiles, w, geometry, read)
    total = x.new_zeros(job.shape)
    for base, coefficient, step, plane, own in reads:
        for number, tile in enumerate(tiles):
            part = job.inputs(step, tile)
            kept = part if passed is None else part * job.inputs(passed, tile)
            cells = None if plane.variance is None else tile.of(plane.variance.view(w.shape)).contiguous()
            s = of_images(plane, base, job, part, tile)
            s_kept = s if kept is part and plane.is_product else of_images(plane, base, job, kept, tile, slopes=True)

            sigma = (_variance(job, part, tile, s.square(), cells) + spec.noise_output**2).sqrt()
            z = shaped(normals_of(base, s.contiguous(), own, number), distribution).to(s.dtype)
            n = torch.where(sigma > 0, _variance(job, kept, tile, s * s_kept, cells) / sigma, 0) * z
            n = n if clips is None else n.masked_fill(clips.mask(number).view_as(n), 0)
            if read.tile_gains is not None:
                n = n * read.tile_gains[number].view(-1, *[1] * (n.ndim - 2))
            total += coefficient * n
    return total if read.scale is None else total * read.scale.view(-1, *[1] * (total.ndim - 2))


def _variance(job: Job, inputs: Tensor, tile: Tile, square: Tensor, cells: Tensor | None) -> Tensor:
    """Return σ_r²·‖x̂‖² + Σ x̂²v + σ_m²·s² of a tile."""
    found, spec = torch.zeros_like(square), job.spec
    if spec.noise_multiplicative:  # what has no σ is left out, as in `reference.noise_variance`
        found = found + spec.noise_multiplicative**2 * square
    if (lengths := job.squared_lengths(inputs, tile)) is not None:
        found = found + spec.noise_read**2 * lengths
    return found if cells is None else found + job.convolve(inputs.square(), cells)
