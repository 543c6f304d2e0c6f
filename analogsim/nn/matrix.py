"""A weight matrix on crossbars: its scale, its weights in normalised units, and where its cells lie."""

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..chip import Chip, Layout, build
from ..kernels import MatmulSpec
from ..kernels.tiles import cut
from ..kernels.weights import along_outputs, along_tiles
from ..profile import HardwareProfile


@dataclass(frozen=True, eq=False)
class ProgrammedMatrix:
    """A weight matrix as it is on a layer's crossbars.

    Attributes
    ----------
    weight : Tensor (N, K, …)
        The digital matrix or kernel W, weight units.
    programmed : Tensor (N, K, …)
        ŵ, normalised units: rounded to the levels of `weight.bits`; with a chip, what its cells have become.
    w_max : Tensor (N,)
        Scale of each output, weight units, with a chip's compensation of drift and an output's correction in it; 0 for
        an output whose weights are all 0.
    exact : bool
        Whether ŵ·w_max is W.
    chip : Chip or None
        The cells, where the profile needs a chip.
    tile_gains : Tensor (T, N) or None
        Where crossbars have full scales of their own, each as a fraction of w_max, which is an output's largest.
    tiles : tuple of (int, int)
        First and last row, exclusive, of these tiles.
    offset : Tensor (N,) or None
        Added to the outputs digitally, activation units.
    gains : dict
        What `gain` last returned, and for which range.
    """

    weight: Tensor
    programmed: Tensor
    w_max: Tensor
    exact: bool = False
    chip: Chip | None = None
    tile_gains: Tensor | None = None
    tiles: tuple[tuple[int, int], ...] = ()
    offset: Tensor | None = None
    gains: dict[float, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def effective(self) -> Tensor:
        """ŵ·w_max (N, K, …), weight units, which gradients are computed with; the same for all reads of a matrix."""
        return self.weight if self.exact else self.scaled

    @property
    def scaled(self) -> Tensor:
        """ŵ·w_max (N, K, …), weight units, whatever it is used for; computed anew."""
        return self.in_weight_units(self.programmed)

    def in_weight_units(self, programmed: Tensor) -> Tensor:
        """Return a matrix (N, K, …) in normalised units in those of weights."""
        out = scaled(programmed, self.w_max)
        return out if self.tile_gains is None else out * along_tiles(self.tile_gains, self.tiles, out)

    def of(self, weight: Tensor) -> "ProgrammedMatrix":
        """Return the same crossbars as those of an equal digital matrix."""
        # Field by field: `replace` takes several times as long, and this is at every call.
        return ProgrammedMatrix(
            weight,
            self.programmed,
            self.w_max,
            self.exact,
            self.chip,
            self.tile_gains,
            self.tiles,
            self.offset,
            self.gains,
        )

    def gain(self, input_range: float) -> Tensor:
        """Return α·w_max (N,), activation units, which sums are multiplied by; made once for reads of one range α."""
        found = self.gains.get(input_range)
        if found is None:
            found = self.w_max * input_range
            self.gains.clear()
            self.gains[input_range] = found
        return found

    def shifted(self, bias: Tensor | None) -> Tensor | None:
        """Return a bias with the outputs' offset (N,), activation units; None for neither."""
        return bias if self.offset is None else self.offset if bias is None else bias + self.offset

    def part(self, outputs: slice) -> "ProgrammedMatrix":
        """Return some of the outputs, as a matrix of their own."""
        return ProgrammedMatrix(
            self.weight[outputs],
            self.programmed[outputs],
            self.w_max[outputs],
            self.exact,
            None if self.chip is None else self.chip.part(outputs),
            None if self.tile_gains is None else self.tile_gains[:, outputs],
            self.tiles,
            None if self.offset is None else self.offset[outputs],
        )


def scaled(programmed: Tensor, w_max: Tensor) -> Tensor:
    """Return ŵ·w_max (N, K, …), weight units."""
    return programmed * along_outputs(w_max, programmed)


def layout(programmed: Tensor, profile: HardwareProfile, groups: int = 1) -> Layout:
    """Return where the cells of ŵ (N, K, …) lie: in which array, row and column.

    Parameters
    ----------
    programmed : Tensor (N, K, …)
    profile : HardwareProfile
    groups : int
        Of a convolution's outputs; two groups share no array.
    """
    tile = profile.tile
    spec = MatmulSpec(rows=tile.rows, mapping=tile.mapping)
    if programmed.ndim == 2:
        tiles = spec.tiles(programmed.shape[1])
    else:
        tiles = [(part.start, part.stop) for part in cut(programmed, spec)]
    return Layout.of(tiles, len(programmed), groups, tile.cols, profile.lines)


def cells_of(
    programmed: Tensor,
    profile: HardwareProfile,
    groups: int,
    seed: int,
    seconds: float,
    tile_gains: Tensor | None = None,
) -> Chip:
    """Program ŵ (N, K, …) onto the cells of a chip, and let them age; see `chip.build`."""
    return build(programmed, profile, layout(programmed, profile, groups), seed, seconds, tile_gains)
