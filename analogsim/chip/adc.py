"""The ADCs of a layer on one chip: their errors, and their kinds' tables."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ProfileError, ShapeError
from ..kernels import Backend, MatmulSpec, Read, reference
from ..kernels.backends.reference import Reference
from ..kernels.conversion import Conversion
from ..profile import ADC, Noise, Range
from ..profile.kinds import ADC_KINDS
from ..seeds import Key, Stream, derive
from . import adc_stages  # noqa: F401  # its kinds are known by being imported
from .distributions import shaped
from .draw import normals
from .kept import Kept
from .read_noise import normals_of, uniform, wandering


@dataclass(frozen=True, slots=True)
class Converters(Backend):
    """ADCs of a layer on one chip, one for each tile t and column c; a backend for inputs that are converted already.

    A sum s becomes Q(s·(1 + gain_tc) + offset_tc·full_scale), Q being the quantizer of the ADC's kind.

    Attributes
    ----------
    adc : ADC
    noise : Noise
        For its distribution and its slow offset.
    chip : int
        Seed of what is drawn for the chip.
    line : int
        Which of the bit lines of an output (slices, and halves of pairs) they convert: each has ADCs of its own.
    input_step : int
        In which step of inputs, where full scales differ between steps; the ADCs are the same ones.
    base : Backend
        Who draws the noise and converts.
    kept : Kept
        ADCs that were drawn already, of the same chip.
    first : int
        Which output of the layer they begin with.
    """

    adc: ADC
    noise: Noise
    chip: int
    base: Backend = Reference()
    line: int = 0
    input_step: int = 0
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)
    first: int = 0

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Pass inputs on."""
        return x

    def shake(self, partial: Tensor, norm2: Tensor, read: Read, tile: int, offset: int) -> Tensor:
        """Add a read's noise to partial sums (M, N, …): `reference.adc`'s variance, with the profile's distribution."""
        if not read.spec.noisy:
            return partial
        n = shaped(normals_of(self.base, partial, read, tile, offset), self.noise.distribution)
        return partial + reference.noise_variance(partial, norm2, read.spec).sqrt() * n.to(partial.dtype)

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
        """Add one tile's converted sums to `out`."""
        noise, slow = self.noise, None
        if noise.wander:
            slow = wandering(self.base, partial, read, tile, noise.wander_length, noise.wander)
        adcs = self.conversion(read.spec.full_scale(tile), tile, partial)
        where = tile, offset, bits, first
        if self.adc.rounding == "stochastic":
            noisy = self._noisy(partial, norm2, read, tile, offset, slow)
            dither = uniform(self.base, partial, read, Stream.ADC_ROUNDING, tile, offset) - 0.5
            found = reference.convert(noisy, *adcs.arguments, dither.to(noisy.dtype))
            return reference.add(out, *found, tile, bits, first)
        count = self.base.convert_noisy(out, partial, norm2, read, adcs, noise.distribution, slow, *where)
        if count is not None:
            return count
        noisy = self._noisy(partial, norm2, read, tile, offset, slow)
        return self.base.convert(out, noisy.contiguous(), *adcs.arguments, tile, bits, first)

    def _noisy(
        self, partial: Tensor, norm2: Tensor | None, read: Read, tile: int, offset: int, slow: Tensor | None
    ) -> Tensor:
        """Return partial sums with all of their noise."""
        if read.spec.noisy and self.noise.distribution == "gaussian":
            open_ended = replace(read, spec=replace(read.spec, adc_bits=None, adc_full_scale=None))
            noisy = torch.empty_like(partial)
            self.base.accumulate(noisy, partial, norm2, open_ended, tile, offset, first=True)
        else:
            noisy = self.shake(partial, partial.new_zeros(()) if norm2 is None else norm2, read, tile, offset)
        return noisy if slow is None else noisy + slow

    def conversion(self, full_scale: float | Range | None, tile: int, like: Tensor) -> Conversion:
        """Return one tile's ADCs, for sums like these (M, N, …); drawn when they are first asked for."""
        if not self.keeps:
            return self._conversion(full_scale, tile, like)
        key = full_scale, *self.key(like)
        return self.kept.get((self.line, self.input_step, tile), key, lambda: self._conversion(full_scale, tile, like))

    @property
    def keeps(self) -> bool:
        """Whether the ADCs follow from `key`: a kind that holds anything may change, so that it is asked every time."""
        return not vars(ADC_KINDS[self.adc.kind])

    def key(self, like: Tensor) -> tuple[Any, ...]:
        """Return all that ADCs follow from, beside full scale, line and tile, for sums like these (M, N, …)."""
        return self.chip, self.first, self.adc, ADC_KINDS[self.adc.kind], like.shape[1], like.dtype, like.device

    def _conversion(self, full_scale: float | Range | None, tile: int, like: Tensor) -> Conversion:
        gains, offsets = self.errors(full_scale, tile, like)
        differs = bool(self.adc.gain_error or self.adc.offset_error)
        if full_scale is None:
            return Conversion((-math.inf, math.inf), 0.0, gains, offsets, None, differs)
        step = self.step(full_scale) if self.adc.levels else 0.0
        table = self.transfer(full_scale, tile, like) if self.searches else None
        return Conversion(self.limits(full_scale), step, gains, offsets, table, differs)

    def converted(
        self, partial: Tensor, full_scale: float | Range | None, tile: int, dither: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convert noisy sums (M, N, …); return values in normalised units, and where they were out of range."""
        return reference.convert(partial, *self.conversion(full_scale, tile, partial).arguments, dither)

    def errors(self, full_scale: float | Range | None, tile: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 + gain_tc, and offset_tc·full_scale in normalised units, of one tile's ADCs (N,)."""
        gains, offsets = like.new_ones(like.shape[1]), like.new_zeros(like.shape[1])
        if self.adc.gain_error:
            gains = gains + self.adc.gain_error * normals(like, self._seed, Stream.ADC_GAIN, tile, gains.shape)
        if self.adc.offset_error and full_scale is not None:
            drawn = normals(like, self._seed, Stream.ADC_OFFSET, tile, offsets.shape)
            size = full_scale.size if isinstance(full_scale, Range) else full_scale
            offsets = self.adc.offset_error * size * drawn
        return gains, offsets

    @property
    def _seed(self) -> int:
        return derive(self.chip, Key.LINE, self.line) if self.line else self.chip

    @property
    def searches(self) -> bool:
        """True where codes begin at thresholds of a table, and not half way between evenly spaced levels."""
        return self.adc.kind != "ideal" or self.adc.rounding == "down"

    def step(self, full_scale: float | Range) -> float:
        """Return what two neighbouring levels of ADCs with bits differ by, normalised units."""
        return (
            full_scale.codes(self.adc.bits or 1)[2] if isinstance(full_scale, Range) else full_scale / self.adc.levels
        )

    def limits(self, full_scale: float | Range) -> tuple[float, float]:
        """Return the least and the largest sum that is not clipped, normalised units."""
        if isinstance(full_scale, Range):
            return full_scale.aligned(self.adc.bits)
        if self.adc.rounding != "down":
            return -full_scale if self.adc.signed else 0.0, full_scale
        step = full_scale / self.adc.levels
        return -(self.adc.levels + 1) * step if self.adc.signed else 0.0, full_scale + step

    def register(self, full_scale: float | Range | None) -> tuple[float, float]:
        """Return the least and the largest sum over tiles that `sum_bits` hold, normalised units."""
        assert self.adc.sum_bits is not None
        assert full_scale is not None  # the profile says so
        step, most = self.step(full_scale), 2 ** (self.adc.sum_bits - 1)
        return -most * step, (most - 1) * step

    def transfer(self, full_scale: float | Range, tile: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the ADCs of one tile (one, or one for each of like's columns) make of a sum, normalised units.

        Returns
        -------
        thresholds : Tensor (ADCs or 1, 2^n - 1)
            Where codes 1, 2, … begin, n being `bits` or, of an ADC whose codes begin more than once, more.
        outputs : Tensor (ADCs or 1, 2^n)
            What codes 0, 1, … mean.
        """
        bits, step = self.adc.bits or 1, self.step(full_scale)
        codes = torch.arange(2**bits, device=like.device) - (2 ** (bits - 1) if self.adc.signed else 0)

        def draw(count: int, *, shared: bool = False) -> Tensor:
            # What all share is of the whole tile, whichever line of an output converts.
            seed, adcs = (self.chip, 1) if shared else (self._seed, like.shape[1])
            if self.adc.has_errors:
                return normals(like, seed, Stream.CAPACITORS, tile, (adcs, count))
            if name not in ADC_KINDS.names:
                raise ProfileError(f"adc.kind {name!r}: it draws, so its class must say `draws = True`")
            return like.new_zeros(adcs, count)  # mismatch is 0, and what is drawn is multiplied with it

        name = self.adc.kind
        adc = self.adc
        if adc.transfer is not None:
            adc = adc.model_copy(update={"transfer": adc.transfer.dealt_from(self.first)})
        tables = ADC_KINDS[name].transfer(adc, codes.to(like.dtype), draw)
        # Machine code reads them by their addresses.
        most = max(len(codes), tables[1].shape[-1] if tables[1].ndim else 0)
        most = most if most.bit_count() == 1 else len(codes)
        for table, width in zip(tables, (most - 1, most), strict=True):
            if table.shape not in ((1, width), (like.shape[1], width)):
                wanted = f"({like.shape[1]}, {width}) or (1, {width})"
                raise ShapeError(f"adc.kind {name!r}: a table of shape {wanted} is needed, got {tuple(table.shape)}")
        adcs = max(map(len, tables))
        thresholds, outputs = (table.to(like.dtype).expand(adcs, -1) * step for table in tables)
        return thresholds, outputs
