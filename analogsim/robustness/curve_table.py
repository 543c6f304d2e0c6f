"""Robustness curves as a table, wherever one is shown: peak, noise-free value, µ with its interval, flags."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..tables import Column, Table
from .midpoint import crossing_text, midpoint_texts

if TYPE_CHECKING:
    from .curve import RobustnessCurve


def _midpoint(row: dict[str, Any]) -> str:
    return "-" if row["flags"] == "no fit" else midpoint_texts(row["midpoint"], row["ci_low"], row["ci_high"])[0]


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["flags"] == "no fit" else midpoint_texts(row["midpoint"], row["ci_low"], row["ci_high"])[1]


def _value(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


FITTED = (
    Column("peak", show=_value),
    Column("noise_free", show=_value, title="noise-free"),
    Column("midpoint", title="µ", row=_midpoint),
    Column("ci_low", screen=False),
    Column("ci_high", screen=False),
    Column("interval", title="95 % interval", row=_interval, file=False),
    Column("crossing", title="half height", show=crossing_text),
    Column("slope", screen=False),
    Column("r2", screen=False),
    Column("flags", show=lambda flags: flags or "-", number=False, style=lambda flags: "yellow" if flags else "dim"),
)
"""The columns of what was fitted; µ and its interval are rounded to what they say."""


def fitted_cells(curve: "RobustnessCurve") -> tuple[Any, ...]:
    """Return the values of `FITTED` for a curve."""
    fit = curve.fitted
    if fit is None:
        return curve.peak, curve.noise_free, *([math.nan] * 2), *([math.nan] * 5), "no fit"
    low, high = fit.ci
    rest = fit.midpoint, low, high, None, fit.crossing, fit.slope, fit.r2, ", ".join(fit.flags)
    return curve.peak, curve.noise_free, *rest


def curves_table(curves: Mapping[str, "RobustnessCurve"]) -> Table:
    """Return a row a curve, under the names that they are given."""
    columns = (Column("network", number=False), *FITTED)
    return Table(columns, tuple((name, *fitted_cells(curve)) for name, curve in curves.items()))
