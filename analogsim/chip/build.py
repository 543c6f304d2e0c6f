"""One layer's cells on one chip at one time: what the crossbars really multiply by."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from ..errors import ProgrammingError
from ..kernels.weights import along_tiles
from ..profile import HardwareProfile
from ..profile.kinds import CELL_MODELS
from ..seeds import Key, derive
from . import cells, faults
from .cell_models import Draws
from .gated import Gated
from .kept import Kept
from .laws import evaluate
from .layout import Layout
from .programming import written
from .wires import read_through


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
    gated : Gated or None
        What is read instead of `weight` where rows are gated.
    powers : tuple of Tensor (N, K, …)
        What the inputs' squares and cubes are multiplied by, of cells that are not linear.
    slice_number : int
        Which slice of the weights it holds, the lowest being 0.
    columns : tuple of Plane
        Where columns have integrators that take no more than `limit`: each of an output's columns, with the sign that
        its current is added up with.
    limit : float or None
        The largest current of each column, normalised units.
    """

    coefficient: float
    weight: Tensor
    variance: Tensor | None = None
    gated: Gated | None = None
    powers: tuple[Tensor, ...] = ()
    slice_number: int = 0
    columns: tuple["Plane", ...] = ()
    limit: float | None = None

    @property
    def is_product(self) -> bool:
        """True where its sums are the product of inputs and `weight`."""
        return self.gated is None and not self.powers and self.limit is None

    def view(self, shape: tuple[int, ...]) -> "Plane":
        """Return the same cells as a matrix or kernel of another shape."""
        variance = None if self.variance is None else self.variance.view(shape)
        powers = tuple(power.view(shape) for power in self.powers)
        columns = tuple(column.view(shape) for column in self.columns)
        return replace(self, weight=self.weight.view(shape), variance=variance, powers=powers, columns=columns)

    def part(self, outputs: slice | Tensor) -> "Plane":
        """Return the rows of some outputs, by a slice or their numbers."""
        variance = None if self.variance is None else self.variance[outputs].contiguous()
        return replace(
            self,
            weight=self.weight[outputs].contiguous(),
            variance=variance,
            gated=None if self.gated is None else self.gated.part(outputs),
            powers=tuple(power[outputs].contiguous() for power in self.powers),
            columns=tuple(column.part(outputs) for column in self.columns),
        )

    def times(self, unit: float, coefficient: float) -> "Plane":
        """Return the same with currents in other units, and the coefficient that its sums are added up with."""
        variance = None if self.variance is None else self.variance * unit**2
        gated = None if self.gated is None else self.gated.times(unit)
        powers = tuple(power * unit for power in self.powers)
        columns = tuple(column.times(unit, column.coefficient) for column in self.columns)
        limit = None if self.limit is None else self.limit * unit
        return Plane(coefficient, self.weight * unit, variance, gated, powers, self.slice_number, columns, limit)


@dataclass(frozen=True, slots=True)
class Chip:
    """A layer's cells.

    Attributes
    ----------
    planes : list of Plane
    gain : float or Tensor (N,)
        Digital factor that compensates the drift, one for all outputs or one for each.
    seed : int
        What the layer's ADCs are drawn from.
    kept : Kept
        The ADCs that were drawn already.
    first : int
        Which output of the layer is the first of these.
    """

    planes: list[Plane]
    gain: float | Tensor = 1.0
    seed: int = 0
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)
    first: int = 0

    @property
    def weight(self) -> Tensor:
        """ŵ as the cells have it, without read noise (N, K, …)."""
        first, *others = self.planes
        start = first.weight if first.coefficient == 1 else first.coefficient * first.weight
        return sum((plane.coefficient * plane.weight for plane in others), start)

    @property
    def powers(self) -> list[Tensor]:
        """What squares and cubes of inputs are multiplied by, as `weight`; none of linear cells."""
        each = [[plane.coefficient * power for power in plane.powers] for plane in self.planes]
        return [reduce(torch.add, of_all) for of_all in zip(*each, strict=True)]

    def part(self, outputs: slice) -> "Chip":
        """Return the cells of some outputs, whose ADCs are others."""
        seed = derive(self.seed, Key.PART, outputs.start) if outputs.start else self.seed
        gain = self.gain[outputs] if isinstance(self.gain, Tensor) else self.gain
        planes, first = [plane.part(outputs) for plane in self.planes], self.first + (outputs.start or 0)
        return Chip(planes, gain, seed, self.kept.part(outputs), first)


@torch.no_grad()
def build(
    w: Tensor,
    profile: HardwareProfile,
    layout: Layout,
    seed: int = 0,
    seconds: float = 0.0,
    tile_gains: Tensor | None = None,
) -> Chip:
    """Program a matrix onto cells, and let them age.

    Parameters
    ----------
    w : Tensor (N, K, …)
        ŵ in normalised units, with `weight.bits` applied.
    seed : int
        All that is drawn is a pure function of it.
    seconds : float
        Since the first read, which is `drift.t0` after programming.
    tile_gains : Tensor (T, N), optional
        Full scales of an output's tiles, as fractions of its largest: the compensation of drift counts weights in units
        that an output's tiles have in common.
    """
    matrix = w.flatten(1)
    planes = _planes(matrix, profile, layout, seed, seconds)
    gain: float | Tensor = 1.0
    if profile.drift.compensation != "none" and seconds > 0:
        both = [Chip(p).weight.abs() for p in (_planes(matrix, profile, layout, seed, 0.0), planes)]
        if tile_gains is not None:
            both = [held * along_tiles(tile_gains, layout.tiles, held) for held in both]
        if profile.drift.compensation == "global":
            held = matrix.any(1)  # an empty column is not read, and tells nothing of the drift
            fresh, aged = (w[held].sum() for w in both)
            gain = float(fresh / aged) if aged > 0 else 1.0
        else:
            fresh, aged = (w.sum(1) for w in both)
            gain = torch.where(aged > 0, fresh / aged, 1.0)
    return Chip([plane.view(w.shape) for plane in planes], gain, seed)


@torch.no_grad()
def write_pulses(w: Tensor, profile: HardwareProfile, layout: Layout, seed: int = 0) -> int:
    """Return how many pulses write all devices of a matrix ŵ (N, K, …), reference columns' too, on one chip.

    That is one for each device, and more with `programming.verify`; of somebody's own `cells.model` it is not known
    how it writes, and one is counted.
    """
    _, stacks = _stacks(*_sides(cells.slices(w.flatten(1), profile), profile), layout)
    if profile.programming.verify is None or profile.cells.model != "standard":
        return sum(g.numel() for g in stacks) * profile.cells.devices
    return sum(
        int(written(g, profile.programming, own, array, profile.cells.mapping == "signed")[1].sum())
        for array, g in enumerate(stacks)
        for own in _of_devices(seed, profile)
    )


def _sides(parts: Sequence[cells.Slice], profile: HardwareProfile) -> tuple[list[list[Tensor]], list[float]]:
    """Return the targets (N, K) of each array's bit lines of an output, and of its reference columns."""
    own = profile.cells
    targets = [cells.targets(part.digits, own) for part in parts]
    if own.mapping == "differential" and own.subtraction == "analog":
        # The two of a pair are arrays of their own, subtracted before the ADC.
        return [list(side) for side in zip(*targets)], []
    sides = [[g for of_slice in targets for g in of_slice]]
    references = [own.g_min + (1 - own.g_min) * part.reference for part in parts] if own.mapping == "offset" else []
    return sides, references


def _stacks(
    sides: Sequence[Sequence[Tensor]], references: Sequence[float], layout: Layout
) -> tuple[Layout, list[Tensor]]:
    """Return the arrays' targets (bit lines, K), an output's side by side, and where they lie."""
    count = len(sides[0])
    layout = layout.of_lines(count)
    stacks = [torch.stack(list(side), 1).flatten(0, 1) for side in sides]
    if not references:
        return layout, stacks
    return layout.with_references(count), [cells.with_references(g, layout, references) for g in stacks]


def _of_devices(seed: int, profile: HardwareProfile) -> list[int]:
    """Return whose random numbers each of the devices of a cell has."""
    return [derive(seed, Key.DEVICE, device) if device else seed for device in range(profile.cells.devices)]


def _planes(w: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float) -> list[Plane]:
    own, parts = profile.cells, cells.slices(w, profile)
    span = 1 - own.g_min  # of signed cells, which have no g_min, 1
    lines = _held(*_sides(parts, profile), profile, layout, seed, seconds)
    if own.mapping == "signed":
        signed = (cells.signs(part.digits) * line.weight for part, line in zip(parts, lines, strict=True))
        lines = [replace(line, weight=w) for line, w in zip(lines, signed, strict=True)]
    halves = (1, -1) if own.subtraction == "digital" else (1,)
    scales = [(i, part.unit / span, sign * part.coefficient) for i, part in enumerate(parts) for sign in halves]
    return [replace(line.times(*scale), slice_number=i) for line, (i, *scale) in zip(lines, scales, strict=True)]


def _held(
    sides: Sequence[Sequence[Tensor]],
    references: Sequence[float],
    profile: HardwareProfile,
    layout: Layout,
    seed: int,
    seconds: float,
) -> list[Plane]:
    """Return what targets (N, K), an output's side by side in one array, became: conductances, less those of pairs'
    second sides and of the array's reference columns (one for each target) where there are any.
    """
    count = len(sides[0])
    wide, stacks = _stacks(sides, references, layout)
    layout = layout.of_lines(count)
    aged = [_age(g, profile, wide, seed, seconds, array) for array, g in enumerate(stacks)]
    held = [g for g, _ in aged]
    seen = read_through(held, [noise for _, noise in aged], profile.wires, wide)
    curves = (profile.iv.second, profile.iv.third) if profile.iv.any else ()
    powers = [tuple(torch.where(g > 0, evaluate(curve, g), 0) for curve in curves) for g in held]
    columns = [Plane(1.0, g, noise, powers=own) for g, noise, own in zip(*seen, powers, strict=True)]
    if profile.wires.interleaved:
        columns = [_together(columns)]
    if references:
        ends = torch.tensor(wide.ends(), device=held[0].device)
        last = (ends[:, None] - torch.arange(count - 1, -1, -1, device=ends.device)).flatten()  # blocks' references
        others = torch.ones(len(held[0]), dtype=torch.bool, device=ends.device).index_fill(0, last, False)
        block = layout.block_of(ends.device)
        lines = [others.nonzero().flatten(), last[block * count + torch.arange(len(block), device=ends.device) % count]]
        columns = [columns[0].part(own) for own in lines]
    else:
        first = torch.arange(len(held[0]), device=held[0].device)
        lines = [first + len(first) * number for number in range(len(columns))]
    columns = [replace(column, coefficient=-1.0 if number else 1.0) for number, column in enumerate(columns)]
    if profile.wires.gated:
        circuits = Gated.of(held, profile.wires, wide, lines)
        columns = [
            replace(column, gated=replace(circuits, own=(own,))) for column, own in zip(columns, lines, strict=True)
        ]
    whole = _together(columns, profile.tile.current_limit)
    if profile.wires.gated:
        whole = replace(whole, gated=circuits)
    return [whole.part(slice(number, None, count)) for number in range(count)]


def _together(columns: Sequence[Plane], limit: float | None = None) -> Plane:
    """Return what an output's columns, the first less the others, give together."""
    variances = [column.variance for column in columns if column.variance is not None]
    return Plane(
        1.0,
        _subtracted([column.weight for column in columns]),
        reduce(torch.add, variances) if len(variances) == len(columns) and limit is None else None,
        powers=tuple(_subtracted(both) for both in zip(*(column.powers for column in columns), strict=True)),
        columns=() if limit is None else tuple(columns),
        limit=limit,
    )


def _subtracted(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] - parts[1] if len(parts) > 1 else parts[0]


def _age(
    target: Tensor, profile: HardwareProfile, layout: Layout, seed: int, seconds: float, array: int
) -> tuple[Tensor, Tensor | None]:
    """Return what conductances became, 0 where they are not connected, and the variance of their read noise."""
    count = profile.cells.devices
    (g, noise), *others = (_device(target, profile, one, seconds, array) for one in _of_devices(seed, profile))
    for other, own in others:
        g = g + other
        noise = None if noise is None or own is None else noise + own
    if count > 1:
        g, noise = g / count, None if noise is None else noise / count**2
    connected = faults.connected(g, profile.faults, layout, seed, array)
    if connected is None:
        return g, noise
    return g * connected, None if noise is None else noise * connected


def _device(
    target: Tensor, profile: HardwareProfile, seed: int, seconds: float, array: int
) -> tuple[Tensor, Tensor | None]:
    """Return what one device of each cell became, and the variance of its read noise."""
    own = profile.cells
    model, draws = CELL_MODELS[own.model], Draws(seed, array)
    written = model.program(target, profile, draws)
    g = model.age(written, target, profile, seconds, draws)
    if own.model not in CELL_MODELS.names:
        _check(own.model, target, own.mapping != "signed", program=written, age=g)
    # What is stuck was never programmed, and stays.
    g, written = (faults.stick(v, profile.faults, own.g_min, seed, array) for v in (g, written))
    noise = model.read_noise(g, written, profile, seconds)
    if noise is not None:
        if own.model not in CELL_MODELS.names:
            _check(own.model, target, True, read_noise=noise)
        noise = noise.square()
    return g, noise


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
