"""A matched curve: every point is a network of its own, trained under the σ at which it is evaluated."""

from collections.abc import Mapping

import numpy as np

from ..errors import FitError
from .curve import RobustnessCurve

NEAR = 1e-6
"""Relative difference of two noise levels that count as the same."""


def matched_curve(curves: Mapping[float, RobustnessCurve]) -> RobustnessCurve:
    """Return the curve of networks that are each evaluated at the σ under which they were trained.

    Parameters
    ----------
    curves : mapping
        σ of training, in the units of the sweep → curve of the network that was trained under it, with this σ on its
        grid. All are of the same quantity, metric and chance, and have the same trainings and repeats (R columns). The
        key 0 is a network that was trained without noise.

    Returns
    -------
    RobustnessCurve
        Its `sigmas` (S,) are the positive keys, ascending, and its `values` (S, R) at σ are those of curves[σ] at σ.
        `noise_free` is that of the network trained without noise; where there is none, of the one trained under the
        lowest σ.

    Raises
    ------
    FitError
        There is no positive σ; a curve has not its own σ on its grid; or the curves differ.

    Examples
    --------
    >>> at_1 = RobustnessCurve(np.array([1.0, 2.0]), np.array([[0.8], [0.5]]), noise_free=0.8, chance=0.1)
    >>> at_2 = RobustnessCurve(np.array([1.0, 2.0]), np.array([[0.7], [0.6]]), noise_free=0.7, chance=0.1)
    >>> matched_curve({1.0: at_1, 2.0: at_2}).values.tolist()
    [[0.8], [0.6]]
    """
    known = {float(sigma): curve for sigma, curve in sorted(curves.items())}
    sigmas = [sigma for sigma in known if sigma > 0]
    if not sigmas or min(known) < 0 or not np.isfinite(list(known)).all():
        raise FitError(f"curves: finite σ of training, at least one above 0, are needed, got {list(known)}")
    lowest = known[min(known)]
    first, rows = known[sigmas[0]], []
    for sigma, curve in known.items():
        _refuse_another(sigma, curve, first)
        if sigma:
            rows.append(curve.values[_row(sigma, curve)])
    samples = [curve.samples for curve in known.values()]
    about = {
        key: value
        for key, value in first.about.items()
        if all(curve.about.get(key) == value for curve in known.values())
    }
    return RobustnessCurve(
        np.array(sigmas),
        np.stack(rows),
        lowest.noise_free,
        first.chance,
        first.quantity,
        None if None in samples else min(one for one in samples if one is not None),
        first.trainings,
        about | {"trained": "at the σ of each point"},
        first.metric,
    )


def _row(sigma: float, curve: RobustnessCurve) -> int:
    near = np.flatnonzero(np.isclose(curve.sigmas, sigma, rtol=NEAR, atol=0))
    if not len(near):
        raise FitError(f"curves[{sigma:g}]: not evaluated at its own σ; its grid is {curve.sigmas.tolist()}")
    return int(near[0])


def _refuse_another(sigma: float, curve: RobustnessCurve, first: RobustnessCurve) -> None:
    """Refuse a curve whose columns are not those of the first, or of something else."""
    of = [(one.quantity, one.metric.name, one.chance, one.trainings.tolist()) for one in (first, curve)]
    if of[0] != of[1]:
        a, b = (f"{q!r}, {metric}, chance {chance}, trainings {columns}" for q, metric, chance, columns in of)
        raise FitError(
            f"curves[{sigma:g}]: quantity, metric, chance and columns must be those of the others ({a}), got {b}"
        )
