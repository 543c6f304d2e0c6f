"""A method's variant on one network, over all its seeds: what tables, figures and the report are made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import FitError
from ..robustness.curve import RobustnessCurve
from ..robustness.matched import matched_curve
from ..robustness.midpoint import MidpointFit
from ..training.history import Epoch
from .grid import Entry
from .store import DONE, Store

ENDED = (*DONE, "failed")


@dataclass(frozen=True, eq=False)
class Variant:
    """One method's variant on one network, over all its seeds that are finished.

    Attributes
    ----------
    cell : Entry
        The first; of a matched curve that of its first σ.
    trainings, of : int
        With how many seeds the curve is there, of how many.
    curve : RobustnessCurve or None
        Those seeds' in one, judged against the baseline; None where there is none. A matched curve (`cell.matched`) has
        the σ that all of these seeds have.
    histories : dict
        (Seed, σ of training) → one entry an epoch.
    states : tuple of str
        Of every training, finished or not.
    claim : str
    hardware : dict
        Combination of the fields that are varied, as text → accuracies of all seeds and chips on it.
    swept : dict
        Of a matched curve: σ of training → its networks' own curve over all σ, all seeds that are finished in one.
    points : int
        Of a matched curve: of how many σ it is to be, without that of the training without noise.
    """

    cell: Entry
    trainings: int
    of: int
    curve: RobustnessCurve | None
    histories: dict[tuple[int, float], list[Epoch]]
    states: tuple[str, ...]
    claim: str
    hardware: dict[str, list[float]] = field(default_factory=dict)
    swept: dict[float, RobustnessCurve] = field(default_factory=dict)
    points: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Method and variant, which look the same on every network."""
        return self.cell.method, self.cell.variant

    @property
    def midpoint(self) -> MidpointFit | None:
        """The fit, where its µ is a number that can be drawn, else None."""
        fit = self.curve.fitted if self.curve else None
        return fit if fit and 0 < fit.midpoint < math.inf else None

    @property
    def name(self) -> str:
        """The method's name, and what tells this variant from the others."""
        return ", ".join(filter(None, (self.cell.method, self.cell.variant)))

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of µ, how many trainings ended without a curve, and how much of a matched curve there is."""
        lost = [f"{self.states.count(kind)} {kind}" for kind in ("diverged", "failed") if kind in self.states]
        return (*(fit_of(self.curve)[1] if self.curve else ()), *lost, *self.missing)

    @property
    def missing(self) -> tuple[str, ...]:
        """Of how many of its σ a matched curve is, where some are missing; else nothing."""
        there = len(self.curve.sigmas) if self.curve is not None else self.points
        return (f"{there} of {self.points} σ",) * (self.cell.matched and there < self.points)


def fit_of(curve: RobustnessCurve) -> tuple[MidpointFit | None, tuple[str, ...]]:
    """Return a curve's fit, where it has one, and its flags."""
    fit = curve.fitted
    return fit, ("no_fit",) if fit is None else fit.flags


def load_variants(store: Store) -> list[Variant]:
    """Return every variant of a study's methods on every network, in the order of the file.

    Raises
    ------
    StudyError
        The directory holds no study, or a damaged file.
    """
    study = store.study()
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in store.plan():
        groups.setdefault((entry.model, entry.method, entry.variant), []).append(entry)
    variants, judges = [], {}
    for (model, method, _), cells in groups.items():
        found = [(cell, store.result(cell.job)) for cell in cells]
        ended = [(cell, result) for cell, result in found if result]
        curves = _by_seed(store, cells)
        curve = _pooled(store, curves) if curves else None
        if method == study.reference and curve is not None:
            judges[model] = curve
        hardware: dict[str, list[float]] = {}
        for cell, point in ((cell, point) for cell, result in ended for point in result.hardware or ()):
            label = ", ".join(f"{name} {value}" for name, value in point.values.items())
            label = f"trained at {cell.sigma:.3g}: {label}" if cell.matched else label
            hardware.setdefault(label, []).extend(point.found)
        variants.append(
            Variant(
                cells[0],
                trainings=len(curves),
                of=len({cell.seed for cell in cells}),
                curve=curve,
                histories={(cell.seed, cell.sigma): result.history for cell, result in ended},
                states=tuple(store.state(cell.job) for cell in cells),
                claim=study.method(method).claim_on(model),
                hardware=hardware,
                swept=_swept(store, cells),
                points=len({cell.sigma for cell in cells if cell.sigma > 0}),
            )
        )
    return [_judged(variant, judges.get(variant.cell.model), study.reference) for variant in variants]


def _by_seed(store: Store, cells: Sequence[Entry]) -> list[RobustnessCurve]:
    """Return the curves of a variant's seeds.

    A seed has a matched curve when all its trainings have ended. Where none is as far, the one that has most of them
    stands for the others, so that something is to be seen.
    """
    if not cells[0].matched:
        return [curve for cell in cells if (curve := store.curve(cell.job))]
    seeds: dict[int, dict[float, RobustnessCurve]] = {}
    whole = set()
    for seed in dict.fromkeys(cell.seed for cell in cells):
        own = [cell for cell in cells if cell.seed == seed]
        seeds[seed] = {cell.sigma: curve for cell in own if (curve := store.curve(cell.job))}
        if all(store.state(cell.job) in ENDED for cell in own):
            whole.add(seed)
    shown = [known for seed, known in seeds.items() if seed in whole] or [max(seeds.values(), key=len)]
    common = set.intersection(*(set(known) for known in shown))
    if not any(sigma > 0 for sigma in common):
        return []
    return [matched_curve({sigma: known[sigma] for sigma in common}) for known in shown]


def _swept(store: Store, cells: Sequence[Entry]) -> dict[float, RobustnessCurve]:
    """Return the curves of a matched variant's networks over all σ, by the σ of training."""
    curves: dict[float, list[RobustnessCurve]] = {}
    for cell in cells:
        if cell.matched and (curve := store.curve(cell.job)):
            curves.setdefault(cell.sigma, []).append(curve)
    return {sigma: RobustnessCurve.pool(own) for sigma, own in sorted(curves.items())}


def kept_fits(variants: Sequence[Variant]) -> Mapping[str, MidpointFit]:
    """Return the fits of curves that are no single job's, by the curve's digest, as they are without a baseline."""
    fits = {}
    for variant in variants:
        curve = variant.curve
        if curve is not None and (variant.trainings > 1 or variant.cell.matched) and curve.fitted is not None:
            fits[curve.digest] = replace(curve.fit, flags=tuple(flag for flag in curve.flags if flag != "brittle"))
    return fits


def _pooled(store: Store, curves: list[RobustnessCurve]) -> RobustnessCurve:
    curve = RobustnessCurve.pool(curves)
    kept = None if "fit" in curve.__dict__ else store.fits.get(curve.digest)
    return curve.fitted_as(kept) if kept else curve


def _judged(variant: Variant, judge: RobustnessCurve | None, reference: str | None) -> Variant:
    if variant.curve is None or judge is None or variant.cell.method == reference:
        return variant
    try:
        curve = variant.curve.against(judge)
    except FitError:
        return variant
    return replace(variant, curve=curve)
