"""What a kernel needs to know of the hardware, and of one read: plain scalars, checked once, above the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from ..errors import ProfileError
from ..profile import HardwareProfile, Range
from ..value import LARGEST_SCALE, LEAST_SCALE
from .precision import PRECISIONS, Precision


@dataclass(frozen=True, slots=True)
class BySlice:
    """Full scales of ADCs that convert each slice of weights, in each step of inputs, by themselves.

    Attributes
    ----------
    each : tuple of tuple of (float or Range)
        Of each slice those of each step, normalised units; the lowest slice, and of it the lowest step, first.
    """

    each: "tuple[tuple[float | Range, ...], ...]"

    @classmethod
    def cut(cls, scales: "Sequence[float | Range]", steps: int) -> "BySlice":
        """Take them slice by slice, of each so many steps."""
        return cls(tuple(tuple(scales[start : start + steps]) for start in range(0, len(scales), steps)))

    @property
    def shape(self) -> tuple[int, int]:
        """How many slices and steps they are of."""
        return len(self.each), len(self.each[0])

    @property
    def all(self) -> "tuple[float | Range, ...]":
        """All of them, slice by slice."""
        return tuple(scale for steps in self.each for scale in steps)


@dataclass(frozen=True, slots=True)
class MatmulSpec:
    """One crossbar layer's device model (design sections 3.1-3.5) as scalars.

    Attributes
    ----------
    rows : int or None
        Inputs a tile holds; None: one tile holds all.
    input_range : float
        α, activation units: the input that drives the DAC to full scale.
    dac_bits : int or None
        None neither rounds nor clips.
    dac_signed : bool
        Inputs in [-1, 1] or [0, 1].
    dac_lowest : int or None
        Lowest code of an asymmetric DAC, whose 2^bits codes follow from it on; None: as `dac_signed` says.
    adc_full_scale : float, Range, tuple of them, BySlice, or None
        Partial sums clip to ±this or to the range, normalised units; a tuple holds one for each tile, and `BySlice` one
        for each slice of weights and step of inputs, of which `of_slice` takes one. None does not clip. (What has a
        range is converted by ADCs of its own, `Conversion`, and not by a backend's `accumulate`.)
    adc_bits : int or None
        None does not round.
    noise_output, noise_read, noise_multiplicative : float
        σ_out (normalised units at the ADC), σ_r (of the largest weight), σ_m (relative).
    precision : {"ieee", "tf32", "tf32x3"}
        How a GPU multiplies float32 (see `precision.py`); nothing to do with the hardware that is simulated.
    mapping : {"channel", "im2col"}
        How a convolution's rows are cut into tiles (`tiles.cut`): whole channels, or anywhere.

    Examples
    --------
    >>> import analogsim as an
    >>> spec = an.MatmulSpec(rows=256, dac_bits=8, adc_bits=6, adc_full_scale=4.0)
    >>> spec.count_tiles(600), spec.dac_levels, spec.adc_levels
    (3, 127, 31)
    """

    rows: int | None = None
    input_range: float = 1.0
    dac_bits: int | None = None
    dac_signed: bool = True
    adc_full_scale: "float | Range | tuple[float | Range, ...] | BySlice | None" = None
    adc_bits: int | None = None
    noise_output: float = 0.0
    noise_read: float = 0.0
    noise_multiplicative: float = 0.0
    precision: Precision = "ieee"
    mapping: Literal["channel", "im2col"] = "channel"
    dac_lowest: int | None = None

    def __post_init__(self) -> None:
        _check_scale("input_range", self.input_range)
        if self.precision not in PRECISIONS:
            raise ProfileError(f"precision: must be one of {', '.join(PRECISIONS)} (got {self.precision!r})")
        for scale in self.full_scales:
            _check_scale("adc.full_scale", scale.size if isinstance(scale, Range) else scale)
        if self.adc_bits is not None and not self.full_scales:
            raise ProfileError("adc.full_scale: an ADC with bits needs one (got None)")

    @classmethod
    def of(
        cls,
        profile: HardwareProfile,
        input_range: float | Range = 1.0,
        adc_full_scale: "float | Range | tuple[float | Range, ...] | BySlice | None" = None,
        precision: Precision = "ieee",
    ) -> "MatmulSpec":
        """Take the scalars of a profile, with the two ranges that a layer may hold itself, and its precision."""
        lowest = None
        if isinstance(input_range, Range):
            lowest, highest, step = input_range.codes(profile.dac.bits or 1)
            input_range = max(-lowest, highest) * step
        return cls(
            profile.tile.rows,
            input_range,
            profile.dac.bits,
            profile.dac.signed,
            adc_full_scale,
            profile.adc.bits,
            profile.noise.output,
            profile.noise.read,
            profile.noise.multiplicative,
            precision,
            profile.tile.mapping,
            lowest,
        )

    @property
    def dac_codes(self) -> tuple[int, int]:
        """Lowest and highest DAC code: ±(2^(b-1)-1) signed, 0 and 2^b-1 unsigned; 0 and 0 for an ideal DAC."""
        if self.dac_bits is None:
            return 0, 0
        if self.dac_lowest is not None:
            return self.dac_lowest, self.dac_lowest + 2**self.dac_bits - 1
        highest = 2 ** (self.dac_bits - self.dac_signed) - 1
        return -highest * self.dac_signed, highest

    @property
    def dac_levels(self) -> int:
        """The DAC code farthest from 0, which stands for α; 0 for an ideal DAC."""
        lowest, highest = self.dac_codes
        return max(-lowest, highest)

    @property
    def dac_limits(self) -> tuple[float, float]:
        """Least and largest input that a DAC with bits does not clip, activation units."""
        lowest, highest = self.dac_codes
        return self.input_range * (lowest / self.dac_levels), self.input_range * (highest / self.dac_levels)

    @property
    def adc_levels(self) -> int:
        """Largest ADC code, 2^(b-1)-1; 0 for an ADC that does not round."""
        return 0 if self.adc_bits is None else 2 ** (self.adc_bits - 1) - 1

    @property
    def full_scales(self) -> "tuple[float | Range, ...]":
        """The ADCs' full scales: one for all tiles, or one for each (or each slice); none where they do not clip."""
        scale = self.adc_full_scale
        if isinstance(scale, BySlice):
            return scale.all
        return () if scale is None else (scale,) if isinstance(scale, float | int | Range) else scale

    def full_scale(self, tile: int) -> "float | Range | None":
        """Return the full scale of one tile's ADCs."""
        scale = self.adc_full_scale
        assert not isinstance(scale, BySlice)  # `of_slice` comes first
        return scale if scale is None or isinstance(scale, float | int | Range) else scale[tile]

    def of_slice(self, number: int, step: int) -> "MatmulSpec":
        """Return the spec of one slice's ADCs in one step of inputs."""
        scales = self.adc_full_scale
        return replace(self, adc_full_scale=scales.each[number][step]) if isinstance(scales, BySlice) else self

    def even_scale(self, tile: int) -> float | None:
        """Return the same of ADCs that reach as far below 0 as above, which are all that a backend itself converts."""
        scale = self.full_scale(tile)
        assert not isinstance(scale, Range)  # it has a `Conversion` of its own
        return scale

    def check_tiles(self, count: int) -> None:
        """Refuse full scales of another number of tiles."""
        scales = self.adc_full_scale
        if isinstance(scales, tuple) and not isinstance(scales, Range) and len(scales) != count:
            raise ProfileError(
                f"adc.full_scale: {len(scales)} values for {count} tiles; calibrate anew for these tiles"
            )

    @property
    def noisy(self) -> bool:
        """True where a read draws random numbers."""
        return bool(self.noise_output or self.noise_read or self.noise_multiplicative)

    @property
    def exact(self) -> bool:
        """True where the tiled sum is the plain matrix product."""
        return not (self.noisy or self.dac_levels or self.adc_full_scale)

    def count_tiles(self, k: int) -> int:
        """Return how many tiles k rows are cut into."""
        return -(-k // (min(self.rows or k, k) or 1))

    def tiles(self, k: int) -> list[tuple[int, int]]:
        """Cut k rows into tiles: the (start, stop) of each, the last one as short as need be."""
        rows = min(self.rows or k, k) or 1
        return [(start, min(start + rows, k)) for start in range(0, k, rows)]


def _check_scale(name: str, value: float) -> None:
    if not LEAST_SCALE <= value <= LARGEST_SCALE:
        raise ProfileError(
            f"{name}: must be positive, finite and within {LEAST_SCALE:.1e} … {LARGEST_SCALE:.1e}, where float32 can "
            f"convert (got {value!r})"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One read of a layer's crossbars: of what hardware, with whose random numbers, and what follows digitally.

    Attributes
    ----------
    spec : MatmulSpec
    seed, stream : int
        64 bits each: the key of the random numbers, and who draws (one per layer and call).
    scale, bias : Tensor (N,) or None
        Digital gain of each output (usually α·w_max) and offset, activation units.
    record_clips : bool
        Take note of where each tile's ADC clipped.
    w_max : Tensor (N,) or None
        Where given, what is read is the digital matrix W in weight units, and a backend with `programs` computes what
        ŵ gives as it reads: it writes each output's largest magnitude here, and its scale is α·w_max.
    tile_gains : Tensor (T, N) or None
        What each tile's converted sums are multiplied by before tiles are added up; no unit. None: 1.
    """

    spec: MatmulSpec
    seed: int = 0
    stream: int = 0
    scale: Tensor | None = None
    bias: Tensor | None = None
    record_clips: bool = False
    w_max: Tensor | None = None
    tile_gains: Tensor | None = None

    @property
    def records(self) -> bool:
        """True where clips are to be noted, and there can be any."""
        return self.record_clips and self.spec.adc_full_scale is not None
