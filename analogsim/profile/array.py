"""The parts of a profile that describe crossbars: their size, how weights are put on them, and the noise of a read.

Every analog quantity is in *normalised units*: an input of 1 is the DAC's full scale, a weight of 1 the whole range of
conductance, g_max - g_min, so a partial sum of 1 is one full-scale input through one full-scale weight.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from ..value import FullScale, NonNegative, Positive, Value
from .converters import SignedBits, levels
from .kinds import DISTRIBUTIONS


class Tile(Value):
    """How a weight matrix is cut into crossbars."""

    rows: Annotated[int, Field(ge=1)] | None = 256
    """Inputs (word lines) of one crossbar; each tile has its own ADC conversion. null: one tile holds every row."""
    cols: Annotated[int, Field(ge=1)] | None = 256
    """Bit lines of one crossbar: one an output, or the neighbouring ones of its slices and of a pair that is subtracted
    digitally. Decides how many tiles there are; the result only with wires, dead rows or reference columns.
    null: unlimited."""
    mapping: Literal["channel", "im2col"] = "channel"
    """Convolutions only. channel: a tile holds floor(rows / kernel size) whole input channels (at least one).
    im2col: a tile holds `rows` consecutive rows of the unfolded weight, wherever a channel ends."""
    current_limit: Positive | None = None
    """Largest current, of either sign, that the integrator at the end of a column takes, in units of the current of one
    cell at g_max with a full-scale input: I_max/(g_max·V). What is beyond is cut off, of each column by itself (the two
    of a pair, a reference column), before currents are subtracted and converted. null: it takes any."""


Share = Literal["column", "tensor", "tile", "tile-column"]


class Percentile(Value):
    """A full scale of weights that a few of the largest exceed, and are clipped to."""

    percentile: Annotated[float, Field(gt=0, le=100)]
    """Percentile of the weights' magnitudes, linear between neighbours; where it is 0, the largest is taken."""
    per: Share = "tensor"
    """Whose magnitudes: those of all weights that share one full scale."""


class Weight(Value):
    """How weights become conductances."""

    bits: SignedBits | None = None
    """Conductance levels: weights are rounded to multiples of 1/(2^(b-1)-1) of full scale. null: continuous."""
    w_max: FullScale | Share | Percentile = "column"
    """Weight full scale in weight units: the absolute maximum per output `column`, per `tensor`, per `tile` (one for
    each crossbar: a tile's rows and a block of columns) or per `tile-column` (one for each column of each crossbar);
    a percentile of the magnitudes; or a constant. Weights larger than a percentile or a constant clip."""

    @property
    def share(self) -> Share | None:
        """Which weights have one full scale; None where it is a constant."""
        rule = self.w_max
        return rule.per if isinstance(rule, Percentile) else rule if isinstance(rule, str) else None

    @property
    def by_tile(self) -> bool:
        """True where the crossbars of a matrix have full scales of their own."""
        return self.share in ("tile", "tile-column")

    @property
    def clips(self) -> bool:
        """True where a weight may be larger than its full scale."""
        return isinstance(self.w_max, float | Percentile)

    @property
    def levels(self) -> int:
        """Steps from 0 to the weight's full scale, on each side; 0 where `bits` is null."""
        return levels(self.bits, signed=True)


class Noise(Value):
    """Noise drawn anew at every read; all are standard deviations."""

    output: NonNegative = 0.0
    """σ_out, normalised units at the ADC's input: added to every tile's partial sum."""
    read: NonNegative = 0.0
    """σ_r, fraction of the full-scale weight: independent on every weight (of a slice: on each), hence σ_r·‖x̂‖ on a
    tile's partial sum. It is that of a weight, not of a cell: with σ_g on each cell, fraction of g_max, a weight that a
    differential pair holds has σ_r = √2·σ_g/(1 - g_min), and one that an offset cell holds whole has twice as much."""
    multiplicative: NonNegative = 0.0
    """σ_m, fraction (no unit): a partial sum s becomes s·(1 + N(0, σ_m²))."""
    distribution: Annotated[str, AfterValidator(DISTRIBUTIONS.check), WithJsonSchema(DISTRIBUTIONS.schema)] = "gaussian"
    """Shape of a partial sum's total noise; its variance is that of the contributions, whatever the shape.
    gaussian, uniform, laplace, or one that a program registers (docs/extending.md)."""
    wander: NonNegative = 0.0
    """Standard deviation, normalised units, of an offset at each ADC that changes slowly from one conversion to the
    next: Gaussian, with correlation exp(-n/wander_length) between conversions n apart."""
    wander_length: Positive = 100.0
    """Conversions after which the slow offset's correlation has fallen to 1/e."""

    @property
    def is_plain(self) -> bool:
        """True for white Gaussian noise."""
        return self.distribution == "gaussian" and not self.wander
