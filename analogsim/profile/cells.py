"""The parts of a profile that describe cells, their programming, ageing and faults, and the wires; all off by default.

A conductance is a fraction of the largest one, g_max: 1 is g_max.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ..value import NonNegative, Positive, Value
from .kinds import CELL_MODELS

Probability = Annotated[float, Field(ge=0, le=1)]


class Cells(Value):
    """How conductances hold a weight ŵ in [-1, 1] (docs/devices.md, Cells)."""

    mapping: Literal["signed", "differential", "offset"] = "signed"
    """signed: one abstract cell that may be negative. differential: ŵ = G⁺ - G⁻, one of which is at g_min.
    offset: one cell at (1 + ŵ)/2 of its range, and in each array a reference column at half range, subtracted; with
    `bits`, cells of the digits of ŵ + 1, and reference columns of the digits of 1."""
    subtraction: Literal["analog", "digital"] = "analog"
    """Of a differential pair: analog: the currents, before one ADC conversion; digital: two conversions."""
    g_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smallest conductance, fraction of g_max (the inverse on/off ratio); not of signed cells."""
    bits: Annotated[int, Field(ge=1, le=15)] | None = None
    """Bits a cell holds, so that it has 2^bits levels: the weight.bits - 1 magnitude bits (of an offset mapping the
    weight.bits bits of the weight with its offset) are cut into slices of this many, each in cells of its own and
    converted by itself, which are shifted and added digitally. null: one cell holds them all."""

    model: Annotated[str, AfterValidator(CELL_MODELS.check), WithJsonSchema(CELL_MODELS.schema)] = "standard"
    """How a cell is programmed, ages and is read: standard: by the laws of `programming`, `drift` and `flicker`; or by
    a model that a program registers (docs/extending.md), which may use those fields or not."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if self.subtraction == "digital" and self.mapping != "differential":
            raise ValueError(f"subtraction 'digital' is a differential pair's; mapping is {self.mapping!r}")
        if self.g_min and self.mapping == "signed":
            raise ValueError("a signed cell has no g_min: choose a differential or offset mapping")
        return self


class Saturating(Value):
    """A standard deviation that grows with the conductance and saturates: amplitude·(1 - exp(-g/scale))."""

    amplitude: NonNegative
    """Value at large conductance, fraction of g_max."""
    scale: Positive
    """Conductance at which it is 1 - 1/e of that, fraction of g_max."""


class Programming(Value):
    """The error with which a cell reaches its target, drawn once when the chip is programmed."""

    sigma: NonNegative | Annotated[tuple[float, ...], Field(min_length=1, max_length=8)] | Saturating = 0.0
    """Standard deviation, fraction of g_max: a constant; or coefficients c₀, c₁, … of a polynomial in the target g:
    σ(g) = max(Σ c_i g^i, 0); or a saturating law. Conductances below 0 become 0."""

    @property
    def draws(self) -> bool:
        """True where cells end beside their targets."""
        return self.sigma != 0


class LogLaw(Value):
    """A quantity that depends on the conductance as constant + slope·ln(g), between two limits; no unit."""

    constant: float
    """Value at g = g_max."""
    slope: float = 0.0
    """Change per e-fold of conductance."""
    low: NonNegative = 0.0
    """Smallest value."""
    high: NonNegative = 1.0
    """Largest value."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high (got {self.low} and {self.high})")
        return self


class Branches(Value):
    """A quantity that depends on the conductance by one law below a limit and by another from there on; no unit."""

    below: LogLaw
    """Law of conductances below `limit`."""
    limit: Annotated[float, Field(gt=0, le=1)]
    """Conductance at which the laws take turns, fraction of g_max."""
    above: Annotated[tuple[float, ...], Field(min_length=1, max_length=8)]
    """From there on: coefficients c₀, c₁, … of a polynomial in the conductance, max(Σ c_i g^i, 0)."""


class Drift(Value):
    """Structural relaxation: g(t) = g(t0)·(t/t0)^(-ν), with an exponent ν of its own for each cell."""

    t0: Positive = 20.0
    """Seconds between programming and the first read, at which a cell has the conductance it was programmed to;
    at_time(model, seconds) is t = t0 + seconds."""
    nu: NonNegative | LogLaw | Branches = 0.0
    """Mean of ν, no unit: a constant, or a law of the target conductance."""
    nu_sigma: NonNegative | LogLaw | Branches = 0.0
    """Standard deviation of ν between cells, no unit; ν is |N(nu, nu_sigma²)|."""
    compensation: Literal["none", "global"] = "none"
    """global: each layer's outputs are multiplied, digitally, by Σ|W(t0)| / Σ|W(t)|."""


class Flicker(Value):
    """1/f read noise, which grows with time: σ(t) = g(t)·q(g)·√ln((t + t_read)/(2 t_read)), anew on every cell at every
    read; q(g) = min(amplitude·g^(-exponent), maximum), g being what the cell was programmed to.
    """

    amplitude: NonNegative | LogLaw | Branches = 0.0
    """q of a cell at g_max, fraction of the conductance; or a law of q at every conductance, which has no exponent."""
    exponent: NonNegative = 0.0
    """How q grows towards small conductances, no unit; 0 beside a law, which says so itself."""
    maximum: Positive = 1.0
    """Largest q, fraction of the conductance."""
    read_time: Positive = 250e-9
    """t_read, seconds a read takes."""

    @model_validator(mode="after")
    def _one_law_of_the_conductance(self) -> Self:
        if self.exponent and isinstance(self.amplitude, LogLaw | Branches):
            raise ValueError(
                "exponent is of a constant amplitude: a law says by itself how q depends on the conductance"
            )
        return self


class Faults(Value):
    """Cells and lines that do not work, drawn once when the chip is programmed; probabilities."""

    stuck_off: Probability = 0.0
    """Of a cell that stays at g_min."""
    stuck_on: Probability = 0.0
    """Of a cell that stays at g_max."""
    dead_rows: Probability = 0.0
    """Of an array's input line that drives no cell."""
    dead_columns: Probability = 0.0
    """Of an array's output line that carries no current."""

    @model_validator(mode="after")
    def _stuck_in_one_state(self) -> Self:
        if self.stuck_off + self.stuck_on > 1:
            raise ValueError(f"stuck_off + stuck_on must not exceed 1 (got {self.stuck_off} + {self.stuck_on})")
        return self


class Wires(Value):
    """Wire resistance (IR drop), to first order."""

    row: NonNegative = 0.0
    """Resistance of a row's segment between two cells, times g_max (no unit). The driver is beside column 0."""
    column: NonNegative = 0.0
    """Resistance of a column's segment between two cells, times g_max (no unit). The ADC is after the last row."""
