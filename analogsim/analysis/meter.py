"""A backend that computes exactly and, beside it, what every stage of the layer's hardware adds at its output."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..chip import Chip, DeviceKernel
from ..chip.adc import Converters
from ..chip.build import Plane
from ..chip.dac_steps import steps
from ..chip.planes import of_images
from ..kernels import Clips, ConvGeometry, MatmulSpec, Read, choose, reference
from ..kernels.conv_job import Job
from ..kernels.tiles import Tile, cut
from ..nn.matrix import ProgrammedMatrix
from ..nn.observing import RowsAsImages
from ..profile import Range
from ..seeds import Key, Stream, derive
from .adc_moments import adc_moments, beyond, sampled_moments

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


class Meter(RowsAsImages):
    """A backend that is exact, weights included, and keeps sums of squares.

    With e_clip = clip(x) - x and e_round = α·x̂ - clip(x) of the DAC, W the digital and Ŵ = ŵ·w_max the programmed
    weights, and G = α·w_max, the error at the output is

        y - y_exact = e_clip·Wᵀ + e_round·Wᵀ + α·x̂·(Ŵ - W)ᵀ + G·Σ_p Σ_j c_p d_j Σ_t (n_t + c_t + r_t),

    n_t the noise of one conversion, c_t and r_t what a tile's ADC clips and then makes of the rest; p are the planes of
    weights and j the steps of inputs that are converted by themselves (`DeviceKernel`). The first three are computed as
    they are; the moments of the last three follow from the noise's variance (`adc_moments.adc_moments`: nothing is
    drawn), or, for an ADC that is no ideal quantizer and noise that is not white and Gaussian, from 16 samples of each
    conversion's noise (`adc_moments.sampled_moments`).

    Attributes
    ----------
    squares : dict of float
        Σ over outputs of the expected square of each of `STAGES`, of their sum ("total"), of the noisy layer's error as
        simulated ("measured", the mean of `repeats`), and of the exact product ("signal"); squared activation units.
    outputs : int
    """

    wants_the_chip = True

    def __init__(self, layer: Any, number: int, repeats: int, seed: int) -> None:
        self.layer, self.number, self.repeats, self.seed = layer, number, repeats, seed
        self.weight: Tensor | None = None
        self.chip: Chip | None = None
        self.scaled: Tensor | None = None
        self.offset: Tensor | None = None
        self.squares: dict[str, float] = {key: 0.0 for key in (*STAGES, "total", "measured", "signal")}
        self.outputs = 0
        self.inputs, self.inputs_clipped = 0, 0
        self.conversions, self.conversions_clipped = 0, 0.0

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Take note of the digital matrix, and of the cells that it is on."""
        self.weight, self.chip, self.scaled = matrix.weight.detach(), matrix.chip, matrix.scaled
        self.offset = matrix.offset

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the layer's own scalars."""
        return layer.spec(x)

    def convolve(self, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> tuple[Tensor, Clips | None]:
        """Convolve with the digital weights, and add up what the hardware would add; w is ŵ, `scale` (N,) its w_max."""
        assert self.weight is not None  # `written` comes first
        assert read.scale is not None
        tiles, weight = cut(w, read.spec), self.weight.reshape(w.shape)
        if self.chip is not None:
            self.chip = replace(self.chip, planes=[plane.view(w.shape) for plane in self.chip.planes])
        read.spec.check_tiles(len(tiles))
        outputs = []
        whole = Job(self, x, tiles, w, geometry, read)
        images = max(1, _PART // max(1, math.prod(whole.shape[1:])))
        for part in x.split(images):
            job = replace(whole, x=part.contiguous())
            outputs.append(self._measure(job, weight, read.scale))
        out = torch.cat(outputs) if outputs else x.new_zeros(whole.shape)
        return (out if read.bias is None else out + read.bias.view(-1, *[1] * (x.ndim - 2))), None

    def _measure(self, job: Job, weight: Tensor, w_max: Tensor) -> Tensor:
        spec, x = job.spec, job.x
        columns = (-1, *[1] * (x.ndim - 2))
        alpha, gain = spec.input_range, (w_max * spec.input_range).view(columns)
        exact = job.convolve(x, weight)
        converted = reference.dac(x, spec)
        applied = converted
        if self.layer.profile.dac.inl is not None:
            parts = steps(converted, spec, self.layer.profile.dac)
            applied = sum((c * step for c, step in parts), torch.zeros_like(converted))
        within = x.clamp(*spec.dac_limits) if spec.dac_levels else x
        assert self.scaled is not None  # as the digital weights
        programmed = self.scaled.reshape(weight.shape)
        error = torch.zeros_like(exact)
        for stage, part in {
            "dac_clipping": job.convolve(within - x, weight) if spec.dac_levels else None,
            "dac_rounding": job.convolve(alpha * applied - within, weight) if spec.dac_levels else None,
            "weight": self._programming(job, converted, applied, weight, programmed, gain),
        }.items():
            if part is not None:
                self._add(stage, part.square())
                error += part
        moments = self._conversions(job, converted, gain)
        self._add("total", moments.variance + (error + moments.mean).square())
        self._add("signal", exact.square())
        self.outputs += exact.numel()
        self.inputs += x.numel()
        self.inputs_clipped += int((within != x).sum())
        kernel, chip = choose(x, self.layer.backend), self.chip
        if chip is not None and DeviceKernel.needed(chip, self.layer.profile):
            kernel = DeviceKernel(kernel, chip, self.layer.profile)
        for repeat in range(self.repeats):
            key = derive(self.seed, Key.BUDGET_READ, self.number, self.inputs, repeat)
            read = Read(spec, key, Stream.READ, scale=gain.flatten(), bias=self.offset, tile_gains=job.read.tile_gains)
            noisy, _ = kernel.convolve(x, job.w, job.geometry, read)
            self._add("measured", (noisy - exact).square() / self.repeats)
        return exact

    def _programming(
        self, job: Job, converted: Tensor, applied: Tensor, weight: Tensor, programmed: Tensor, gain: Tensor
    ) -> Tensor | None:
        """Return what is added by the weights' being others, or by cells' not multiplying at all.

        converted, applied: the inputs as codes, and what the DACs make of them.
        """
        alpha, planes = job.spec.input_range, [] if self.chip is None else self.chip.planes
        if self.layer.programs_exactly:
            return None
        if all(plane.is_product for plane in planes):
            return self._corrected(job.convolve(alpha * applied, programmed - weight))
        out, gains = -job.convolve(alpha * applied, weight), job.read.tile_gains
        kernel = choose(job.x, self.layer.backend)
        for plane in planes:
            for c, step in steps(converted, job.spec, self.layer.profile.dac):
                for number, tile in enumerate(job.tiles):
                    own = gain if gains is None else gain * gains[number].view_as(gain)
                    out += own * (plane.coefficient * c) * of_images(plane, kernel, job, job.inputs(step, tile), tile)
        return self._corrected(out)

    def _corrected(self, out: Tensor) -> Tensor:
        """Add the offsets that outputs are corrected by."""
        return out if self.offset is None else out + self.offset.view(-1, *[1] * (out.ndim - 2))

    def _conversions(self, job: Job, converted: Tensor, gain: Tensor) -> "_Sums":
        """Return the moments of G·Σ c_p d_j (n_t + c_t + r_t) at each output, over planes, steps and tiles."""
        profile, chip = self.layer.profile, self.chip
        planes, kernel = [Plane(1.0, job.w)] if chip is None else chip.planes, choose(converted, self.layer.backend)
        ideal = profile.noise.is_plain and profile.adc.is_plain
        adcs = None if ideal else Converters(profile.adc, profile.noise, 0 if chip is None else chip.seed)
        adcs = adcs if adcs is None or chip is None else replace(adcs, first=chip.first)
        key = derive(self.seed, Key.BUDGET_SAMPLE, self.number, self.inputs)
        generator = torch.Generator(converted.device).manual_seed(key)
        sums = _Sums(*(converted.new_zeros(job.shape) for _ in range(5)))
        inputs = steps(converted, job.spec, profile.dac)
        for line, plane in enumerate(planes):
            own_adcs = None if adcs is None else replace(adcs, line=line)
            for of_step, (weight, step) in enumerate(inputs):
                part = replace(job, read=replace(job.read, spec=job.spec.of_slice(plane.slice_number, of_step)))
                own, before = gain * (plane.coefficient * weight), sums.copy()
                for number, tile in enumerate(job.tiles):
                    gains = job.read.tile_gains
                    scale = own if gains is None else own * gains[number].view_as(gain)
                    self._convert(sums, part, job.inputs(step, tile), plane, tile, number, scale, own_adcs, generator)
                if own_adcs is not None and profile.adc.sum_bits is not None:
                    exact = job.convolve(step, plane.weight)
                    if not plane.is_product:
                        parts = ((job.inputs(step, tile), tile) for tile in job.tiles)
                        exact = sum((of_images(plane, kernel, job, *one) for one in parts), torch.zeros_like(exact))
                    self._saturate(sums, before, exact, own, own_adcs.register(part.spec.full_scale(0)))
        self._add("adc_clipping", sums.clip_own + sums.clip_mean.square())
        self._add("adc_rounding", sums.round_own + sums.round_mean.square())
        return sums

    def _convert(
        self,
        sums: "_Sums",
        job: Job,
        part: Tensor,
        plane: Plane,
        tile: Tile,
        number: int,
        gain: Tensor,
        adcs: Converters | None,
        generator: torch.Generator,
    ) -> None:
        """Add one conversion of each output; `gain` is what its result is multiplied by."""
        spec, gain2, noise = job.spec, gain.square(), self.layer.profile.noise
        s = of_images(plane, choose(part, self.layer.backend), job, part, tile)
        norm2 = job.squared_lengths(part, tile)
        nothing = torch.zeros_like(s)
        read = nothing if norm2 is None else spec.noise_read**2 * norm2
        if plane.variance is not None:
            read = read + job.convolve(part.square(), tile.of(plane.variance).contiguous())
        variances = {
            "noise_read": read,
            "noise_output": nothing + spec.noise_output**2 + noise.wander**2,
            "noise_multiplicative": spec.noise_multiplicative**2 * s.square() if spec.noise_multiplicative else nothing,
        }
        for stage, added in variances.items():
            self._add(stage, (gain2 * added).expand_as(s))
        total = sum(variances.values(), nothing)
        scale = spec.full_scale(number)
        sums.variance += gain2 * total
        self.conversions += s.numel()
        if adcs is not None:
            white = (total - noise.wander**2).clamp(min=0).expand_as(s)
            found = sampled_moments(s, white, adcs, scale, number, generator)
        elif scale is None or isinstance(scale, Range):  # the latter have converters
            return
        else:
            found = adc_moments(s, total, scale, spec.adc_levels)
        clip, rounding = found.clip_mean, found.round_mean
        sums.variance += gain2 * (
            found.clip_square + found.round_square - (clip + rounding).square() + 2 * found.with_others
        )
        sums.clip_mean += gain * clip
        sums.round_mean += gain * rounding
        sums.clip_own += gain2 * (found.clip_square - clip.square())
        sums.round_own += gain2 * (found.round_square - rounding.square())
        self.conversions_clipped += float(found.clipped.sum(dtype=torch.float64))

    def _saturate(
        self, sums: "_Sums", before: "_Sums", exact: Tensor, gain: Tensor, limits: tuple[float, float]
    ) -> None:
        """Add what the register of a layer's conversions cuts off, as clipping: of a sum that is taken as normal."""
        unit = gain.where(gain != 0, 1.0)
        total = exact + (sums.mean - before.mean) / unit
        variance = (sums.variance - before.variance).clamp(min=0) / unit.square()
        mean, square, full = beyond(total, variance, limits)
        own = gain.square() * (square - mean.square())
        sums.variance += own - 2 * gain.square() * variance * full  # Stein's lemma, as for an ADC
        sums.clip_mean += gain * mean
        sums.clip_own += own

    def _add(self, stage: str, squares: Tensor) -> None:
        self.squares[stage] += float(squares.sum(dtype=torch.float64))


@dataclass(slots=True)
class _Sums:
    """Of all conversions behind each output, squared activation units but for the means."""

    variance: Tensor
    clip_mean: Tensor
    round_mean: Tensor
    clip_own: Tensor
    round_own: Tensor

    @property
    def mean(self) -> Tensor:
        return self.clip_mean + self.round_mean

    def copy(self) -> "_Sums":
        return _Sums(*(getattr(self, field.name).clone() for field in fields(self)))
