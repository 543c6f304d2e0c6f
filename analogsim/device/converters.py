"""DACs that apply their bits in steps, and ADCs that are no ideal quantizers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BackendError
from ..kernels import MatmulSpec, philox
from ..profile import ADC, Noise
from .draw import ADC_GAIN, ADC_OFFSET, CAPACITORS, WANDER, derive, normals


def steps(x: Tensor, spec: MatmulSpec, bits: int) -> list[tuple[float, Tensor]]:
    """Cut converted inputs into slices of bits, the lowest first.

    With L the DAC's levels and C = |x̂|·L, step j applies c_j = (C >> bits·j) mod 2^bits, and

        x̂ = Σ_j [2^(bits·j)·(2^bits - 1)/L] · sign(x̂)·c_j/(2^bits - 1)

    Parameters
    ----------
    x : Tensor
        x̂, converted: multiples of 1/L in [-1, 1].

    Returns
    -------
    list of (coefficient, Tensor)
        Inputs of each step, in [-1, 1].
    """
    levels, base = spec.dac_levels, 2**bits
    codes, sign = (x.abs() * levels).round().to(torch.int32), x.sign()
    count = -(-levels.bit_length() // bits)
    return [(base**j * (base - 1) / levels, sign * (codes >> bits * j & base - 1) / (base - 1)) for j in range(count)]


@dataclass(frozen=True, slots=True)
class Converters:
    """A layer's ADCs on one chip, one for each tile t and column c.

    A sum s becomes Q(s·(1 + gain_tc) + offset_tc·full_scale), Q being the quantizer of the ADC's kind.

    Attributes
    ----------
    adc : ADC
    noise : Noise
        For its distribution and its slow offset.
    chip : int
        Seed of what is drawn for the chip.
    """

    adc: ADC
    noise: Noise
    chip: int

    def noisy(
        self, partial: Tensor, norm2: Tensor, spec: MatmulSpec, seed: int, stream: int, tile: int, offset: int
    ) -> Tensor:
        """Add a read's noise to partial sums (M, N, …): `reference.adc`'s variance, with the profile's distribution."""
        if spec.noisy:
            variance = spec.noise_output**2 + spec.noise_read**2 * norm2 + spec.noise_multiplicative**2 * partial**2
            n = philox.normals(tuple(partial.shape), seed, stream, tile, offset=offset, device=partial.device)
            partial = partial + variance.sqrt() * shaped(n, self.noise.distribution).to(partial.dtype)
        if self.noise.wander:
            partial = partial + self.noise.wander * wander(partial, self.noise.wander_length, seed, stream, tile)
        return partial

    def convert(self, partial: Tensor, full_scale: float | None, tile: int) -> tuple[Tensor, Tensor]:
        """Convert noisy sums (M, N, …); return values in normalised units, and where they were out of range."""
        column = (1, -1, *[1] * (partial.ndim - 2))
        n = partial.shape[1]
        if self.adc.gain_error:
            drawn = normals(partial, self.chip, ADC_GAIN, tile, (n,))
            partial = partial * (1 + self.adc.gain_error * drawn).view(column)
        if full_scale is None:
            return partial, torch.zeros_like(partial, dtype=torch.bool)
        if self.adc.offset_error:
            drawn = normals(partial, self.chip, ADC_OFFSET, tile, (n,))
            partial = partial + (self.adc.offset_error * full_scale * drawn).view(column)
        low = -full_scale if self.adc.signed else 0.0
        clipped = (partial > full_scale) | (partial < low)
        partial = partial.clamp(low, full_scale)
        if self.adc.bits is None:
            return partial, clipped
        levels = 2 ** (self.adc.bits - self.adc.signed) - 1
        step = full_scale / levels
        if self.adc.kind == "ideal":
            return (partial / step).round() * step, clipped
        lowest = -levels if self.adc.signed else 0
        codes = self._search(partial / step - lowest, tile)
        return (codes.clamp(max=levels - lowest) + lowest) * step, clipped

    def _search(self, x: Tensor, tile: int) -> Tensor:
        """Return codes 0, 1, … of values x (M, N, …) in LSB, by the thresholds of a capacitive DAC."""
        bits = self.adc.bits or 1
        if self.adc.kind == "ramp":
            # The counter stops where the ramp first passes the input.
            levels = self.thresholds(1, tile, x)[0].cummax(0).values
            return torch.searchsorted(levels, x.contiguous(), right=True).to(x.dtype)
        levels = self.thresholds(x.shape[1], tile, x)
        column = torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2))
        code = torch.zeros_like(x, dtype=torch.int64)
        for bit in reversed(range(bits)):
            trial = code + 2**bit
            code = torch.where(x >= levels[column, trial - 1], trial, code)
        return code.to(x.dtype)

    def thresholds(self, count: int, tile: int, like: Tensor) -> Tensor:
        """Return the inputs at which codes 1 … 2^bits - 1 begin, LSB above the lowest level: (count, 2^bits - 1).

        A capacitive DAC of capacitors C_b = 2^b·(1 + mismatch·N(0, 1)/√(2^b)) and a terminating unit gives code u the
        voltage 2^bits·Σ_b u_b C_b / Σ C; code u begins half an LSB below.
        """
        bits = self.adc.bits or 1
        weights = 2.0 ** torch.arange(bits + 1, device=like.device, dtype=like.dtype)
        weights[bits] = 1.0
        drawn = normals(like, self.chip, CAPACITORS, tile, (count, bits + 1))
        capacitors = weights + self.adc.capacitor_mismatch * weights.sqrt() * drawn
        u = torch.arange(1, 2**bits, device=like.device)
        used = (u[:, None] >> torch.arange(bits, device=like.device) & 1).to(like.dtype)
        voltage = 2**bits * capacitors[:, :bits] @ used.T / capacitors.sum(1, keepdim=True)
        if self.adc.inl:
            middle = (2**bits - 1) / 2 if not self.adc.signed else 2 ** (bits - 1) - 1
            voltage = voltage + self.adc.inl * (1 - ((u.to(like.dtype) - middle) / middle) ** 2)
        return voltage - 0.5


def shaped(normal: Tensor, distribution: str) -> Tensor:
    """Turn standard normals into numbers of another distribution with mean 0 and variance 1, by their quantiles."""
    if distribution == "gaussian":
        return normal
    u = torch.special.ndtr(normal.double())
    if distribution == "uniform":
        return math.sqrt(12) * (u - 0.5)
    # 1 - |2u - 1| = 2·Φ(-|n|), without cancellation.
    return -normal.sign() * torch.log(2 * torch.special.ndtr(-normal.double().abs())) / math.sqrt(2)


def wander(like: Tensor, length: float, seed: int, stream: int, tile: int) -> Tensor:
    """Draw each column's slow offset over a call's conversions, variance 1: the stationary Gauss-Markov process.

        o_0 = n_0,   o_i = ρ·o_(i-1) + √(1 - ρ²)·n_i,   ρ = exp(-1/length)

    A column's conversions follow one another along the batch, and of an image along its positions. (Calls are
    independent: between them there is time.)

    Raises
    ------
    BackendError
        The tensor is not on the CPU: the recursion is SciPy's filter.
    """
    if like.device.type != "cpu":
        raise BackendError("noise.wander is computed on the CPU only; move the model there, or set it to 0")
    from scipy.signal import lfilter

    moved = like.movedim(1, -1)  # (M, …, N): time first
    n = philox.normals((moved[..., 0].numel(), like.shape[1]), derive(seed, WANDER), stream, tile).numpy()
    rho = math.exp(-1 / length)
    n[1:] *= math.sqrt(1 - rho**2)
    slow = torch.from_numpy(lfilter([1.0], [1.0, -rho], n, axis=0)) if len(n) else torch.from_numpy(n)
    return slow.view(moved.shape).movedim(-1, 1).to(like.dtype)
