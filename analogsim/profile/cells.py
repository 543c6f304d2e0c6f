"""The parts of a profile that describe cells, their programming, ageing and faults; all off by default.

A conductance is a fraction of the largest one, g_max: 1 is g_max.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ..value import NonNegative, Positive, Value
from .kinds import CELL_MODELS
from .laws import DriftTable, Law, Moments, SignedLaw
from .measured import CONDUCTANCE, RATIO, SECONDS, SPREAD, Column, Columns

Probability = Annotated[float, Field(ge=0, le=1)]
G = Column("g", CONDUCTANCE, "g")  # of the cells that were measured
G0 = Column("g0", CONDUCTANCE, "g0")


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
    g_max: Positive | None = None
    """Largest conductance, µS. Changes nothing but how data in units are read. null: unknown."""
    read_noise: Annotated[Law, Columns(G, Column("read_noise", SPREAD))] = 0.0
    """Standard deviation of a cell's noise at every read, drawn anew on every cell, fraction of g_max: a constant, or a
    law of the conductance that the cell then has. It adds to that of `flicker`, which grows with time."""
    devices: Annotated[int, Field(ge=1, le=16)] = 1
    """Devices that make a cell, side by side: each is programmed to the cell's target, with errors, drift, noise and
    faults of its own, and the cell's conductance is their mean (g_max: that of all together)."""
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


class Verify(Value):
    """Write-verify: a cell is read after it is written, and written again until it is near its target.

    Cells begin where `sigma` and `mean` of programming put them. While a verifying read is more than `tolerance` away
    from the target, and there are pulses left, another pulse moves the cell by `step` of what the read misses, with an
    error of its own.
    """

    tolerance: Positive
    """Largest distance of a verifying read from the target at which a cell is left as it is, fraction of g_max."""
    pulses: Annotated[int, Field(ge=1, le=100)] = 10
    """Pulses that a cell gets at most, the first one included; it then stays where it is."""
    step: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the distance by which a pulse is meant to move a cell: 1 aims at the target."""
    sigma: Law | None = None
    """Standard deviation of a further pulse's error, fraction of g_max: a constant, or a law of the target conductance
    (a table: inline). null: that of the first pulse, `programming.sigma`."""
    read: NonNegative = 0.0
    """Standard deviation of a verifying read, fraction of g_max."""


class Programming(Value):
    """The error with which a cell reaches its target, drawn once when the chip is programmed."""

    sigma: Annotated[Law, Columns(G, Column("sigma", SPREAD))] = 0.0
    """Standard deviation, fraction of g_max: a constant, or a law of the target conductance. Conductances below 0
    become 0. A table's column is `sigma`."""
    mean: Annotated[SignedLaw, Columns(G, Column("mean", SPREAD))] = 0.0
    """Mean of the error, fraction of g_max, of either sign: a constant, a polynomial or a table of the target
    conductance. Cells end at target + mean + N(0, sigma²)."""
    verify: Verify | None = None
    """How cells are read and written again until they are near their targets. null: one pulse."""

    @property
    def draws(self) -> bool:
        """True where cells end beside their targets by chance."""
        return self.sigma != 0 or self.verify is not None

    @model_validator(mode="after")
    def _something_to_verify(self) -> Self:
        if self.verify is not None and self.sigma == 0 and self.mean == 0:
            raise ValueError("verify: the first pulse leaves every cell at its target; give it a sigma or a mean")
        return self


class Drift(Value):
    """Structural relaxation: g(t) = g(t0)·(t/t0)^(-ν), with an exponent ν of its own for each cell."""

    t0: Positive = 20.0
    """Seconds between programming and the first read, at which a cell has the conductance it was programmed to;
    at_time(model, seconds) is t = t0 + seconds."""
    nu: Annotated[Law, Columns(G, Column("nu", RATIO))] = 0.0
    """Mean of ν, no unit: a constant, or a law of the target conductance."""
    nu_sigma: Annotated[Law, Columns(G, Column("nu_sigma", RATIO))] = 0.0
    """Standard deviation of ν between cells, no unit, likewise; ν is |N(nu, nu_sigma²)|."""
    table: Annotated[DriftTable | None, Columns(G0, Column("t", SECONDS, "seconds"), Column("g", CONDUCTANCE, "g"))] = (
        None
    )
    """Measured conductances g(g0, t), instead of the power law; t is counted from programming, and g0 what the cell was
    programmed to."""
    moments: Moments | None = None
    """Mean and standard deviation between cells that were measured at some ages, instead of the power law."""
    compensation: Literal["none", "global", "output"] = "none"
    """global: each layer's outputs are multiplied, digitally, by Σ|W(t0)| / Σ|W(t)|. output: each output by that of
    its own weights."""

    @model_validator(mode="after")
    def _one_way_to_drift(self) -> Self:
        if self.moments is not None and ((self.nu, self.nu_sigma) != (0, 0) or self.table is not None):
            raise ValueError("nu, nu_sigma and table are other ways to drift: leave them out beside moments")
        if self.table is None:
            return self
        if (self.nu, self.nu_sigma) != (0, 0):
            raise ValueError("nu and nu_sigma are of the power law: leave them out beside a table")
        first, last = self.table.seconds[0], self.table.seconds[-1]
        if self.table.outside == "error" and not first <= self.t0 <= last:
            raise ValueError(
                f"the first read, t0 = {self.t0:g} s, is outside the table's {first:g} to {last:g} s: set t0, or "
                "`outside: hold`"
            )
        return self

    @property
    def is_on(self) -> bool:
        """True where conductances change with time."""
        return (self.nu, self.nu_sigma, self.table, self.moments) != (0, 0, None, None)


class Flicker(Value):
    """1/f read noise, which grows with time: σ(t) = g(t)·q(g)·√ln((t + t_read)/(2 t_read)), anew on every cell at every
    read or once for all reads of an age; q(g) = min(amplitude·g^(-exponent), maximum), g being what the cell was
    programmed to.
    """

    amplitude: Annotated[Law, Columns(G, Column("amplitude", RATIO))] = 0.0
    """q of a cell at g_max, fraction of the conductance; or a law of q at every conductance, which has no exponent."""
    exponent: NonNegative = 0.0
    """How q grows towards small conductances, no unit; 0 beside a law, which says so itself."""
    maximum: Positive = 1.0
    """Largest q, fraction of the conductance."""
    read_time: Positive = 250e-9
    """t_read, seconds a read takes."""
    frozen: bool = False
    """false: every read draws anew, as if reads were far apart. true: a chip of one age has one draw, the same in all
    its reads, as if they were so near each other that slow noise does not change; another age has another."""

    @model_validator(mode="after")
    def _one_law_of_the_conductance(self) -> Self:
        if self.exponent and not isinstance(self.amplitude, float):
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
