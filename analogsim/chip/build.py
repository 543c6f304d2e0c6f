"""One layer's cells on one chip at one time: what the crossbars really multiply by."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import ProgrammingError
from ..profile import HardwareProfile
from ..profile.cells import Wires
from ..profile.kinds import CELL_MODELS
from ..seeds import Key, derive
from . import cells, faults
from .cell_models import Draws
from .kept import Kept
from .layout import Layout
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
    kept : Kept
        The ADCs that were drawn already.
    """

    planes: list[Plane]
    gain: float = 1.0
    seed: int = 0
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)

    @property
    def weight(self) -> Tensor:
        """ŵ as the cells have it, without read noise (N, K, …)."""
        first, *others = self.planes
        start = first.weight if first.coefficient == 1 else first.coefficient * first.weight
        return sum((plane.coefficient * plane.weight for plane in others), start)

    def part(self, outputs: slice) -> "Chip":
        """Return the cells of some outputs, whose ADCs are others."""
        seed = derive(self.seed, Key.PART, outputs.start) if outputs.start else self.seed
        return Chip([plane.part(outputs) for plane in self.planes], self.gain, seed, self.kept.part(outputs))


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
        held = matrix.any(1)  # an empty column is not read, and tells nothing of the drift
        fresh, aged = (Chip(p).weight[held].abs().sum() for p in (_planes(matrix, profile, layout, seed, 0.0), planes))
        gain = float(fresh / aged) if aged > 0 else 1.0
    return Chip([plane.view(w.shape) for plane in planes], gain, seed)


def _planes(w: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float) -> list[Plane]:
    own, parts = profile.cells, cells.slices(w, profile)
    span = 1 - own.g_min  # of signed cells, which have no g_min, 1
    targets = [cells.targets(part.digits, own) for part in parts]
    if own.mapping == "differential" and own.subtraction == "analog":
        # The two of a pair are arrays of their own, subtracted before the ADC.
        plus, minus = (
            _held(side, [], profile, layout, seed, seconds, array) for array, side in enumerate(zip(*targets))
        )
        lines = [(g - h, None if v is None or u is None else v + u) for (g, v), (h, u) in zip(plus, minus, strict=True)]
    else:
        references = [own.g_min + span * part.reference for part in parts] if own.mapping == "offset" else []
        lines = _held([g for of_slice in targets for g in of_slice], references, profile, layout, seed, seconds, 0)
    if own.mapping == "signed":
        lines = [(cells.signs(part.digits) * g, v) for part, (g, v) in zip(parts, lines, strict=True)]
    halves = (1, -1) if own.subtraction == "digital" else (1,)
    scales = [(sign * part.coefficient, part.unit / span) for part in parts for sign in halves]
    return [
        Plane(c, g * unit, None if v is None else v * unit**2) for (c, unit), (g, v) in zip(scales, lines, strict=True)
    ]


def _held(
    targets: Sequence[Tensor],
    references: Sequence[float],
    profile: HardwareProfile,
    layout: Layout,
    seed: int,
    seconds: float,
    array: int,
) -> list[tuple[Tensor, Tensor | None]]:
    """Return what targets (N, K), an output's side by side in one array, became: conductances, less those of the
    array's reference columns (one for each target) where there are any, and the variance of their read noise.
    """
    count = len(targets)
    layout, g = layout.of_lines(count), torch.stack(list(targets), 1).flatten(0, 1)
    if not references:
        g, noise = _age(g, profile, layout, seed, seconds, array)
    else:
        wide = layout.with_references(count)
        g, noise = _age(cells.with_references(g, layout, references), profile, wide, seed, seconds, array)
        ends = torch.tensor(wide.ends(), device=g.device)
        last = (ends[:, None] - torch.arange(count - 1, -1, -1, device=g.device)).flatten()  # blocks' references
        others = torch.ones(len(g), dtype=torch.bool, device=g.device).index_fill(0, last, False)
        block = layout.block_of(g.device)
        own = last[block * count + torch.arange(len(block), device=g.device) % count]
        g, noise = g[others] - g[own], None if noise is None else noise[others] + noise[own]

    def apart(v: Tensor) -> list[Tensor]:
        return [line.contiguous() for line in v.unflatten(0, (-1, count)).unbind(1)]

    return list(zip(apart(g), [None] * count if noise is None else apart(noise), strict=True))


def _age(
    target: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float, array: int
) -> tuple[Tensor, Tensor | None]:
    """Return what conductances became, as their columns' currents show them, and the variance of their read noise."""
    own = profile.cells
    model, draws = CELL_MODELS[own.model], Draws(seed, array)
    written = model.program(target, profile, draws)
    g = model.age(written, target, profile, seconds, draws)
    if own.model not in CELL_MODELS.names:
        _check(own.model, target, own.mapping != "signed", program=written, age=g)
    # What is stuck was never programmed, and stays.
    g, written = (faults.stick(v, profile.faults, own.g_min, seed, array) for v in (g, written))
    factor = faults.connected(g, profile.faults, layout, seed, array)
    if profile.wires != Wires():
        alive = g if factor is None else g * factor
        drop = attenuation(alive.abs(), profile.wires, layout)
        factor = drop if factor is None else factor * drop
    noise = model.read_noise(g, written, profile, seconds)
    if noise is not None:
        if own.model not in CELL_MODELS.names:
            _check(own.model, target, True, read_noise=noise)
        noise = noise.square() if factor is None else noise.square() * factor**2
    return g if factor is None else g * factor, noise


def _check(model: str, target: Tensor, magnitudes: bool, **returned: object) -> None:
    """Refuse what somebody's cell model returned, if it is none of these cells' conductances or σ."""
    for method, found in returned.items():
        kind = (target.shape, target.dtype, target.device)
        if not isinstance(found, Tensor) or (found.shape, found.dtype, found.device) != kind:
            raise ProgrammingError(
                f"cells.model {model!r}: {method} must return a tensor {tuple(target.shape)} of {target.dtype} on "
                f"{target.device}, one number a cell"
            )
        if not found.isfinite().all() or (magnitudes and bool((found < 0).any())):
            raise ProgrammingError(f"cells.model {model!r}: {method} must return finite numbers, not negative ones")
