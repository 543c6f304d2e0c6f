"""One layer's cells on one chip at one time: what the crossbars really multiply by."""

from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from ..device_profile import Wires
from ..profile import HardwareProfile
from . import cells, drift, faults
from .draw import derive
from .layout import Layout
from .programming import program
from .wires import attenuation


@dataclass(frozen=True, slots=True)
class Plane:
    """A matrix whose sums are converted by themselves; the layer's is Σ coefficient · weight.

    Attributes
    ----------
    coefficient : float
    weight : Tensor (N, K, …)
        Normalised units.
    variance : Tensor (N, K, …) or None
        Of each weight's noise at every read, normalised units squared, where it depends on the cell.
    """

    coefficient: float
    weight: Tensor
    variance: Tensor | None = None

    def view(self, shape: tuple[int, ...]) -> "Plane":
        """Return the same cells as a matrix or kernel of another shape."""
        variance = None if self.variance is None else self.variance.view(shape)
        return replace(self, weight=self.weight.view(shape), variance=variance)

    def part(self, outputs: slice) -> "Plane":
        """Return the rows of some outputs."""
        variance = None if self.variance is None else self.variance[outputs]
        return replace(self, weight=self.weight[outputs], variance=variance)


@dataclass(frozen=True, slots=True)
class Chip:
    """A layer's cells.

    Attributes
    ----------
    planes : list of Plane
    gain : float
        Digital factor that compensates the drift.
    seed : int
        What the layer's ADCs are drawn from.
    """

    planes: list[Plane]
    gain: float = 1.0
    seed: int = 0

    @property
    def weight(self) -> Tensor:
        """ŵ as the cells have it, without read noise (N, K, …)."""
        first, *others = self.planes
        start = first.weight if first.coefficient == 1 else first.coefficient * first.weight
        return sum((plane.coefficient * plane.weight for plane in others), start)

    def part(self, outputs: slice) -> "Chip":
        """Return the cells of some outputs, whose ADCs are others."""
        seed = derive(self.seed, outputs.start) if outputs.start else self.seed
        return Chip([plane.part(outputs) for plane in self.planes], self.gain, seed)


@torch.no_grad()
def build(w: Tensor, profile: HardwareProfile, layout: Layout, seed: int = 0, seconds: float = 0.0) -> Chip:
    """Program a matrix onto cells, and let them age.

    Parameters
    ----------
    w : Tensor (N, K, …)
        ŵ in normalised units, with `weight.bits` applied.
    seed : int
        All that is drawn is a pure function of it.
    seconds : float
        Since the first read, which is `drift.t0` after programming.
    """
    matrix = w.flatten(1)
    planes = _planes(matrix, profile, layout, seed, seconds)
    gain = 1.0
    if profile.drift.compensation == "global" and seconds > 0:
        fresh, aged = (Chip(p).weight.abs().sum() for p in (_planes(matrix, profile, layout, seed, 0.0), planes))
        gain = float(fresh / aged) if aged > 0 else 1.0
    return Chip([plane.view(w.shape) for plane in planes], gain, seed)


def _planes(w: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float) -> list[Plane]:
    own, planes = profile.cells, []
    arrays = count()
    span = 1 - own.g_min

    def held(target: Tensor, layout: Layout = layout) -> tuple[Tensor, Tensor | None]:
        return _age(target, profile, layout, seed, seconds, next(arrays))

    for part in cells.slices(w, profile):
        first, *second = cells.targets(part.digits, own)
        if own.mapping == "signed":
            g, noise = held(first)
            planes.append(Plane(part.coefficient, cells.signs(part.digits) * g, noise))
        elif own.mapping == "offset":
            wide = layout.with_reference()
            g, noise = held(cells.with_references(first, layout, own), wide)
            ends = torch.tensor(wide.ends(), device=g.device)
            weights = torch.ones(len(g), dtype=torch.bool, device=g.device).index_fill(0, ends, False)
            block = layout.block_of(g.device)
            difference = 2 * (g[weights] - g[ends][block]) / span
            both = None if noise is None else 4 * (noise[weights] + noise[ends][block]) / span**2
            planes.append(Plane(part.coefficient, difference, both))
        else:
            (plus, noise), (minus, other) = held(first), held(second[0])
            noise, other = (None if v is None else v / span**2 for v in (noise, other))
            if own.subtraction == "digital":
                planes.append(Plane(part.coefficient, plus / span, noise))
                planes.append(Plane(-part.coefficient, minus / span, other))
            else:
                both = None if noise is None or other is None else noise + other
                planes.append(Plane(part.coefficient, (plus - minus) / span, both))
    return planes


def _age(
    target: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float, array: int
) -> tuple[Tensor, Tensor | None]:
    """Return what conductances became, as their columns' currents show them, and the variance of their read noise."""
    own = profile.cells
    written = program(target, profile.programming, seed, array, negative=own.mapping == "signed")
    g = drift.relax(written, target, profile.drift, seconds, seed, array)
    # What is stuck was never programmed, and stays.
    g = faults.stick(g, profile.faults, own.g_min, seed, array)
    factor = faults.connected(g, profile.faults, layout, seed, array)
    if profile.wires != Wires():
        alive = g if factor is None else g * factor
        drop = attenuation(alive.abs(), profile.wires, layout)
        factor = drop if factor is None else factor * drop
    noise = None
    if profile.flicker.amplitude:
        noise = drift.flicker_sigma(g, written, profile.flicker, profile.drift.t0 + seconds).square()
        noise = noise if factor is None else noise * factor**2
    return g if factor is None else g * factor, noise
