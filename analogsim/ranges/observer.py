"""A kernel that computes exactly and takes notes: the magnitudes of inputs and of partial sums, for calibration."""

import math
from typing import Any

from torch import Tensor

from ..kernels import Clips, MatmulSpec, Read
from ..nn.matrix import ProgrammedMatrix
from ..profile import HardwareProfile
from .histogram import Histogram


class Observer:
    """A backend (the functions `matmul`, `dac`, `accumulate`) without converters and noise that records as it computes.

    Partial sums are recorded for α = 1: in normalised units they are these divided by α. Those of steps of inputs
    (`dac.step_bits`) are recorded in normalised units.

    Attributes
    ----------
    inputs : Histogram
        Activation units.
    sums : list of Histogram
        Of each tile, of every slice and step; in activation units times normalised weights, or normalised units. Of
        outputs whose weights are not all 0: the others' are not used.
    norms : list of [float, int]
        Of each tile: Σ ‖x_t‖² (where the profile has read noise) and of how many.
    rows : float
        Of a tile; 0 before a matrix was programmed.
    row_power, gain_power : float
        Means over outputs of ‖W_j‖² and of w_max², weight units.
    plane_power : float
        Σ c² of the coefficients that slices (and halves of pairs) are added up with; 1 where there are none.
    """

    reads_chips = True  # every plane of cells and step of inputs by itself
    wants_the_chip = False  # as programmed, not as it was wanted

    def __init__(self, profile: HardwareProfile, binned: bool = True) -> None:
        self.profile, self.binned = profile, binned
        self.inputs = Histogram(binned, profile.dac.signed or profile.dac.bits is None)
        self.sums: list[Histogram] = []
        self.norms: list[list[float]] = []
        self.row_power = self.gain_power = self.plane_power = 1.0
        self.rows = 0.0
        self._live: Tensor | None = None  # outputs (N,), bool, whose columns hold anything, where not all do

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Take note of a matrix."""
        programmed, w_max, chip = matrix.programmed, matrix.w_max, matrix.chip
        self.rows = min(self.profile.tile.rows or math.inf, programmed[0].numel()) if len(programmed) else 0
        self.row_power = float(matrix.weight.detach().flatten(1).double().square().sum(1).mean())
        self.gain_power = float(w_max.double().square().mean())
        self._live = None if bool(w_max.all()) else w_max != 0
        self.plane_power = 1.0 if chip is None else sum(plane.coefficient**2 for plane in chip.planes)

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the scalars to compute with: exact; read noise only asks for ‖x_t‖²."""
        return MatmulSpec(rows=self.profile.tile.rows, noise_read=self.profile.noise.read)

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Multiply tile by tile, exactly."""
        x = self.dac(x, read.spec)
        out = x.new_zeros(len(x), len(w))
        for tile, (start, stop) in enumerate(read.spec.tiles(x.shape[1])):
            part = x[:, start:stop]
            partial = part @ w[:, start:stop].T
            self._record(partial, part.square().sum(1) if read.spec.noise_read else None, tile)
            out += partial
        if read.scale is not None:
            out = out * read.scale
        return out if read.bias is None else out + read.bias, None

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Record inputs and pass them on."""
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
        """Record a tile's partial sums and add them to `out`; `first` overwrites it."""
        self._record(partial, norm2, tile)
        out.copy_(partial) if first else out.add_(partial)
        return 0

    def _record(self, partial: Tensor, norm2: Tensor | None, tile: int) -> None:
        while len(self.sums) <= tile:
            self.sums.append(Histogram(self.binned, self.profile.adc.signed))
            self.norms.append([0.0, 0])
        self.sums[tile].add(partial if self._live is None else partial[:, self._live])
        if norm2 is not None:
            self.norms[tile][0] += float(norm2.double().sum())
            self.norms[tile][1] += norm2.numel()
