"""What calibration sees of a layer: histograms of its inputs and its partial sums, which an exact backend records."""

import copy
import math
from typing import Any, Self

from torch import Tensor

from ..kernels import MatmulSpec, Read
from ..nn.matrix import ProgrammedMatrix
from ..nn.observing import Observing
from ..profile import HardwareProfile
from .kinds import of_adc, of_dac


class Observer(Observing):
    """A backend that computes a layer exactly, with neither converters nor noise, and records what passes through it.

    While it observes, no input range is known yet. So inputs are recorded as they are, and partial sums as products of
    these inputs with normalised weights; divided by an input range α they are in normalised units. Where inputs are
    applied some bits at a time (`dac.step_bits`), what is applied in a step is in normalised units already, and so are
    its sums.

    Parameters
    ----------
    profile : HardwareProfile
    binned : bool
        False keeps only numbers, maxima and sums of squares.
    by_slice : bool
        Record the sums of each slice of weights and step of inputs by themselves instead of each tile's.

    Attributes
    ----------
    inputs : Histogram or TwoSided
        The layer's inputs, activation units.
    sums : list of Histogram or TwoSided
        For each tile, the partial sums that an ADC would convert, of all slices of the weights and steps of the inputs;
        or for each slice and of it each step (`by_slice`), the lowest first, those of all tiles. They are in normalised
        units where inputs are applied in steps, else in activation units. Sums of outputs whose weights are all 0 are
        left out, since their ADCs convert nothing that is used.
    norms : list of [float, int]
        Likewise, the sum of ‖x_t‖² over rows of inputs, and the number of rows. Filled in where the profile has read
        noise, whose variance is proportional to ‖x_t‖².
    tiles : set of int
        Which ones were read.
    rows : float
        The number of inputs that a tile holds; 0 before a matrix was programmed.
    row_power, gain_power : float
        The means over outputs of ‖W_j‖² and of w_max² (over tiles, too, that have full scales of their own), weight
        units squared.
    slice_power : list of float
        For each slice, the sum of the squares of the coefficients with which it, and halves of pairs that are
        subtracted digitally, are added up. It is [1] where each weight is converted as a whole.
    """

    wants_sums = True
    reads_chips = True

    def __init__(self, profile: HardwareProfile, binned: bool = True, by_slice: bool = False) -> None:
        self.profile, self.binned, self.by_slice = profile, binned, by_slice
        self.inputs: Any = of_dac(profile.dac).histogram(binned)
        self.sums: list[Any] = []
        self.norms: list[list[float]] = []
        self.tiles: set[int] = set()
        self.row_power = self.gain_power = 1.0
        self.slice_power = [1.0]
        self.rows = 0.0
        self._place: int | None = None  # in `sums`, of the slice and the step that are read
        self._live: Tensor | None = None  # bool (N,) or (T, N): whose weights are not all 0; None where all are such

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Record the sizes of a matrix that was programmed, and which of its outputs have any weights."""
        programmed, w_max, chip = matrix.programmed, matrix.w_max, matrix.chip
        self.rows = min(self.profile.tile.rows or math.inf, programmed[0].numel()) if len(programmed) else 0
        self.row_power = float(matrix.weight.detach().flatten(1).double().square().sum(1).mean())
        scales = w_max if matrix.tile_gains is None else w_max * matrix.tile_gains
        self.gain_power = float(scales.double().square().mean())
        self._live = None if bool(scales.all()) else scales != 0
        self.slice_power = [1.0] if chip is None else [0.0] * self.profile.slices
        for plane in [] if chip is None else chip.planes:
            self.slice_power[plane.slice_number] += plane.coefficient**2

    def sent(self) -> Self:
        """Return what another process needs: not which outputs have weights, which may be on a device."""
        own = copy.copy(self)
        own._live = None
        return own

    def pool(self, observers: "list[Observer]") -> None:
        """Record what several observers of one layer recorded, this one among them."""
        self.inputs = of_dac(self.profile.dac).pooled([one.inputs for one in observers])
        kind = of_adc(self.profile.adc)
        number = max(len(one.sums) for one in observers)
        self.sums = [kind.pooled([one.sums[i] for one in observers if i < len(one.sums)]) for i in range(number)]
        norms = [[one.norms[i] for one in observers if i < len(one.norms)] for i in range(number)]
        self.norms = [[sum(total for total, _ in each), sum(rows for _, rows in each)] for each in norms]
        self.tiles = set().union(*(one.tiles for one in observers))
        written = next((one for one in observers if one.rows), self)  # weights are the same for all
        self.rows, self.row_power, self.gain_power = written.rows, written.row_power, written.gain_power
        self.slice_power = written.slice_power

    def of_slice(self, number: int, step: int) -> Self:
        """Return who records, in the same histograms, the sums of one slice in one step of inputs."""
        if not self.by_slice:
            return self
        own = copy.copy(self)
        own._place = number * self.profile.dac.steps + step
        return own

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the scalars to compute with, which are those of exact hardware.

        Read noise is among them because a kernel that knows of it computes ‖x_t‖²; nothing is drawn.
        """
        tile, noise = self.profile.tile, self.profile.noise
        return MatmulSpec(rows=tile.rows, noise_read=noise.read, mapping=tile.mapping)

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Record inputs, and return them as they are."""
        self.inputs.add(x)
        return x

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
        """Record a tile's partial sums and add them to `out`, or write them there where the tile is the `first`."""
        self._record(partial, norm2, tile)
        out.copy_(partial) if first else out.add_(partial)
        return 0

    def _record(self, partial: Tensor, norm2: Tensor | None, tile: int) -> None:
        self.tiles.add(tile)
        place = self._place or 0 if self.by_slice else tile
        while len(self.sums) <= place:
            self.sums.append(of_adc(self.profile.adc).histogram(self.binned))
            self.norms.append([0.0, 0])
        live = self._live if self._live is None or self._live.ndim == 1 else self._live[tile]
        self.sums[place].add(partial if live is None else partial[:, live])
        if norm2 is not None:
            self.norms[place][0] += float(norm2.double().sum())
            self.norms[place][1] += norm2.numel()
