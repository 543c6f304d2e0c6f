"""Integrators at the ends of columns that take no more than a current (`tile.current_limit`)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..kernels import Backend, MatmulSpec, Read
from ..seeds import Key, derive
from ..value import LARGEST_SCALE
from .build import Plane
from .distributions import shaped
from .planes import cut_off
from .read_noise import normals_of


@dataclass(slots=True)
class Integrators(Backend):
    """The integrators of one plane's columns, before its ADCs: a backend that also counts as clipped what they cut off.

    Attributes
    ----------
    plane : Plane
        With a limit.
    base : Backend
        Who converts.
    draws : Backend
        Who draws.
    seed, stream : int
        Of the read.
    distribution : str
        Of the noise.
    """

    plane: Plane
    base: Backend
    draws: Backend
    seed: int
    stream: int
    distribution: str
    _cut: Tensor | None = field(default=None, repr=False)

    @property
    def noisy(self) -> bool:
        """True where cells have noise, which columns then carry."""
        return any(column.variance is not None for column in self.plane.columns)

    def sums(self, tile: int, current: Callable[[Plane], Tensor], variance: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a tile's sums (M, N, …): columns' currents with the noise of their cells, cut off and added up.

        Parameters
        ----------
        current : callable
            Gives a column's current (M, N, …).
        variance : callable
            Gives Σ x̂²v, of the variances v of its cells.
        """
        columns = []
        for number, column in enumerate(self.plane.columns):
            found = current(column)
            if column.variance is not None:
                read = Read(MatmulSpec(), derive(self.seed, Key.COLUMN, number), self.stream)
                n = shaped(normals_of(self.draws, found, read, tile), self.distribution)
                found = found + variance(column.variance).sqrt() * n.to(found.dtype)
            columns.append(found)
        out, self._cut = cut_off(self.plane, columns)
        return out

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Pass inputs on, which are converted already."""
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
        """Convert the sums that `sums` last returned."""
        count = self.base.accumulate(out, partial, norm2, read, tile, offset, bits, first)
        if bits is None or self._cut is None:
            return count
        fresh = self._cut & (bits >> tile % 8 & 1 == 0)
        bits |= fresh.to(bits.dtype) << tile % 8
        return count + int(fresh.sum())


def recorded(read: Read) -> Read:
    """Return a read that takes note of what is clipped although its ADCs clip nothing: they are given a range without
    an end.
    """
    if not read.record_clips or read.spec.adc_full_scale is not None:
        return read
    return replace(read, spec=replace(read.spec, adc_full_scale=LARGEST_SCALE))
