"""A kernel that computes exactly and, beside it, what every stage of the layer's hardware adds at its output."""

import math
from typing import Any

import torch
from torch import Tensor

from ..kernels import Clips, ConvGeometry, MatmulSpec, choose, reference
from ..kernels.conv import Job, convolve
from ..kernels.conv_tiles import cut
from .conversion import adc_moments

STAGES = (
    "dac_clipping",
    "dac_rounding",
    "weight",
    "noise_read",
    "noise_output",
    "noise_multiplicative",
    "adc_clipping",
    "adc_rounding",
)
"""In the order in which the signal meets them."""
_PART = 2**19  # outputs computed at a time
_ROWS = ConvGeometry((1,), (0,), (1,))  # of a linear layer: a convolution over one position


class RowsAsImages:
    """Mixin of a backend whose `convolve` does all the work: rows are images of one position."""

    convolve: Any

    def matmul(
        self,
        x: Tensor,
        w: Tensor,
        spec: MatmulSpec,
        seed: int,
        stream: int,
        scale: Tensor | None,
        bias: Tensor | None,
        record_clips: bool,
    ) -> tuple[Tensor, Clips | None]:
        """Multiply rows (M, K)."""
        rest = seed, stream, "im2col", scale, bias, False
        return self.convolve(x[..., None], w[..., None], spec, _ROWS, *rest)[0][..., 0], None


class Meter(RowsAsImages):
    """A backend (the functions `matmul` and `convolve`) that is exact, weights included, and keeps sums of squares.

    With e_clip = clip(x) - x and e_round = α·x̂ - clip(x) of the DAC, W the digital and Ŵ = ŵ·w_max the programmed
    weights, and G = α·w_max, the error at the output is

        y - y_exact = e_clip·Wᵀ + e_round·Wᵀ + α·x̂·(Ŵ - W)ᵀ + G·Σ_t (n_t + c_t + r_t),

    n_t the noise, c_t and r_t what a tile's ADC clips and rounds away. The first three are computed as they are; the
    moments of the last three follow from the noise's variance (`conversion.adc_moments`). Nothing is drawn for them.

    Attributes
    ----------
    squares : dict of float
        Σ over outputs of the expected square of each of `STAGES`, of their sum ("total"), of the noisy layer's error as
        simulated ("measured", the mean of `repeats`), and of the exact product ("signal"); squared activation units.
    outputs : int
    """

    reads_chips, wants_the_chip = False, True

    def __init__(self, layer: Any, number: int, repeats: int, seed: int) -> None:
        self.layer, self.number, self.repeats, self.seed = layer, number, repeats, seed
        self.weight: Tensor | None = None
        self.squares: dict[str, float] = {key: 0.0 for key in (*STAGES, "total", "measured", "signal")}
        self.outputs, self.calls = 0, 0
        self.inputs, self.inputs_clipped = 0, 0
        self.conversions, self.conversions_clipped = 0, 0.0

    def written(self, weight: Tensor, programmed: Tensor, w_max: Tensor) -> None:
        """Take note of the digital matrix."""
        self.weight = weight.detach()

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the layer's own scalars."""
        return layer.spec(x)

    def convolve(
        self,
        x: Tensor,
        w: Tensor,
        spec: MatmulSpec,
        geometry: ConvGeometry,
        seed: int,
        stream: int,
        mapping: str,
        scale: Tensor | None,
        bias: Tensor | None,
        record_clips: bool,
    ) -> tuple[Tensor, Clips | None]:
        """Convolve with the digital weights, and add up what the hardware would add; w is ŵ, `scale` (N,) its w_max."""
        assert self.weight is not None  # `written` comes first
        assert scale is not None
        tiles, weight = cut(w, spec, mapping), self.weight.reshape(w.shape)
        spec.check_tiles(len(tiles))
        outputs = []
        whole = Job(self, x, tiles, w, spec, geometry, 0, 0, None, None)
        images = max(1, _PART // max(1, math.prod(whole.shape[1:])))
        for part in x.split(images):
            job = Job(self, part.contiguous(), tiles, w, spec, geometry, 0, 0, None, None)
            outputs.append(self._measure(job, weight, scale, mapping))
        self.calls += 1
        out = torch.cat(outputs) if outputs else x.new_zeros(whole.shape)
        return (out if bias is None else out + bias.view(-1, *[1] * (x.ndim - 2))), None

    def _measure(self, job: Job, weight: Tensor, w_max: Tensor, mapping: str) -> Tensor:
        spec, x = job.spec, job.x
        columns = (-1, *[1] * (x.ndim - 2))
        alpha, gain = spec.input_range, (w_max * spec.input_range).view(columns)
        exact = job.convolve(x, weight)
        converted = reference.dac(x, spec)
        within = x.clamp(-alpha if spec.dac_signed else 0.0, alpha) if spec.dac_levels else x
        programmed = job.w * w_max.view(-1, *[1] * (x.ndim - 1))
        error = torch.zeros_like(exact)
        for stage, part in {
            "dac_clipping": job.convolve(within - x, weight) if spec.dac_levels else None,
            "dac_rounding": job.convolve(alpha * converted - within, weight) if spec.dac_levels else None,
            "weight": None if self.layer.programs_exactly else job.convolve(alpha * converted, programmed - weight),
        }.items():
            if part is not None:
                self._add(stage, part.square())
                error += part
        variance, rest = self._tiles(job, converted, gain)
        self._add("total", variance + (error + rest).square())
        self._add("signal", exact.square())
        self.outputs += exact.numel()
        self.inputs += x.numel()
        self.inputs_clipped += int((within != x).sum())
        for repeat in range(self.repeats):
            stream = (self.number << 40) + (self.calls << 24) + (self.inputs % 2**16 << 8) + repeat
            drawn = spec, job.geometry, self.seed, stream, mapping
            noisy, _ = convolve(choose(x, self.layer.backend), x, job.w, *drawn, gain.flatten(), None, False)
            self._add("measured", (noisy - exact).square() / self.repeats)
        return exact

    def _tiles(self, job: Job, converted: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return variance and mean of G·Σ_t (n_t + c_t + r_t) at each output."""
        spec = job.spec
        gain2 = gain.square()
        variance, clip_mean, round_mean, clip_own, round_own = (converted.new_zeros(job.shape) for _ in range(5))
        for number, tile in enumerate(job.tiles):
            part = job.inputs(converted, tile)
            s = job.convolve(part, tile.of(job.w))
            norm2 = job.squared_lengths(part, tile)
            noise = {
                "noise_read": s.new_zeros(()) if norm2 is None else spec.noise_read**2 * norm2,
                "noise_output": s.new_tensor(spec.noise_output**2),
                "noise_multiplicative": spec.noise_multiplicative**2 * s.square(),
            }
            for stage, added in noise.items():
                self._add(stage, (gain2 * added).expand_as(s))
            total = noise["noise_read"] + noise["noise_output"] + noise["noise_multiplicative"]
            scale = spec.full_scale(number)
            variance = variance + gain2 * total
            self.conversions += s.numel()
            if scale is None:
                continue
            found = adc_moments(s, total, scale, spec.adc_levels)
            clip, rounding = found.clip_mean, found.round_mean
            variance = variance + gain2 * (
                found.clip_square + found.round_square - (clip + rounding).square() + 2 * found.with_noise
            )
            clip_mean += gain * clip
            round_mean += gain * rounding
            clip_own += gain2 * (found.clip_square - clip.square())
            round_own += gain2 * (found.round_square - rounding.square())
            self.conversions_clipped += float(found.clipped.sum(dtype=torch.float64))
        self._add("adc_clipping", clip_own + clip_mean.square())
        self._add("adc_rounding", round_own + round_mean.square())
        return variance, clip_mean + round_mean

    def _add(self, stage: str, squares: Tensor) -> None:
        self.squares[stage] += float(squares.sum(dtype=torch.float64))
