"""What a profile says of its cells and converters, drawn: laws and tables, drift, transfer curves."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import style
from ..ages import text
from ..chip import drift
from ..chip.adc import Converters
from ..chip.dac_steps import bent
from ..chip.laws import evaluate
from ..profile import HardwareProfile, Law, SignedLaw, Table
from ..terminal.text import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panel = Callable[[Axes, HardwareProfile], None]

AGES = 0.0, 86400.0  # at which read noise is drawn, seconds
YEAR = 365.25 * 86400.0
ADCS = 4  # of those that differ, how many are drawn
CURVES = 8  # of those that were measured, at most


def draw_device(profile: HardwareProfile, figure: "Figure", columns: int = 3) -> None:
    """Draw what a profile's cells and converters do, a panel each, as the simulation computes it.

    σ and mean of the programming error, the exponents of drift, conductances against time, and read noise, against the
    conductance (in µS where `cells.g_max` is known, with the points of tables as dots); currents of cells against the
    voltage, and what integrators take of a column's; the codes of one chip's ADCs against the sum, how far from its
    ideal place each code begins, and the DACs' errors. What is ideal has no panel.

    Parameters
    ----------
    profile : HardwareProfile
    figure : matplotlib Figure
        An empty one, whose size is set.
    columns : int
        Panels beside each other.
    """
    drawn = panels(profile)
    figure.suptitle(label(profile.name), fontsize="large")
    if not drawn:
        figure.set_size_inches(4, 1.5)
        figure.text(0.5, 0.4, "cells and converters are ideal", ha="center")
        return
    wide = min(columns, len(drawn))
    rows = -(-len(drawn) // wide)
    figure.set_size_inches(3.7 * wide, 3.1 * rows + 0.3)
    for number, panel in enumerate(drawn, 1):
        panel(style.axes(figure.add_subplot(rows, wide, number)), profile)


def panels(profile: HardwareProfile) -> "list[Panel]":
    """Return those who draw what a profile has."""
    laws, found = profile.cells.model == "standard", []
    if laws and (profile.programming.sigma != 0 or profile.programming.mean != 0):
        found.append(_programming)
    if laws and profile.drift.is_on:
        measured = profile.drift.moments or profile.drift.table
        found += [_exponents, _drift] if measured is None else [_drift if profile.drift.moments is None else _moments]
    if laws and profile.cells_are_noisy:
        found.append(_read_noise)
    if profile.iv.any:
        found.append(_current)
    if profile.tile.current_limit is not None:
        found.append(_integrator)
    if profile.adc.bits is not None:
        found.append(_transfer)
    if profile.adc.bits is not None and _lateness(profile)[1].abs().max() > 1e-9:
        found.append(_nonlinearity)
    if profile.dac.inl is not None:
        found.append(_dac)
    return found


def _conductances(profile: HardwareProfile) -> Tensor:
    return torch.linspace(profile.cells.g_min, 1, 401, dtype=torch.float64)


def _unit(profile: HardwareProfile) -> tuple[float, str]:
    """Return what a fraction of g_max is multiplied with, and the unit."""
    g_max = profile.cells.g_max
    return (1.0, "fraction of g_max") if g_max is None else (g_max, "µS")


def _law(ax: "Axes", profile: HardwareProfile, law: Law | SignedLaw, unit: float, name: str, number: int) -> None:
    """Draw one law, and the points of a table."""
    g, scale, look = _conductances(profile), _unit(profile)[0], style.look(number)
    _line(ax, number, g * scale, evaluate(law, g, signed=name.startswith("mean")) * unit, label=name)
    if isinstance(law, Table):
        ax.plot([x * scale for x in law.g], [y * unit for y in law.value], look.marker, color=look.color, markersize=4)


def _line(ax: "Axes", number: int, x: Any, y: Any, **more: Any) -> None:
    """Draw a calculated line: dashed, and without markers, which are what was measured."""
    look = style.look(number)
    ax.plot(x, y, **{"color": look.color, "linestyle": look.style, "linewidth": 1.4, **more})


def _staircase(ax: "Axes", number: int, x: Any, y: Any, several: bool) -> None:
    """Draw the line of one ADC: solid, for dashes would hide its steps; of several each marked in a few places."""
    look = style.look(number)
    marker = look.marker if several else ""
    every = 0.05 + 0.02 * number, 0.24  # of the axes' diagonal: no two ADCs' at one place
    ax.plot(x, y, color=look.color, marker=marker, markevery=every, linewidth=1, markersize=4)


def _against_conductance(ax: "Axes", profile: HardwareProfile, title: str, y: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(f"conductance g ({_unit(profile)[1]})")
    ax.set_ylabel(y)


def _programming(ax: "Axes", profile: HardwareProfile) -> None:
    scale, unit = _unit(profile)
    for number, (law, name) in enumerate(((profile.programming.sigma, "σ"), (profile.programming.mean, "mean"))):
        if law != 0:
            _law(ax, profile, law, scale, name, number)
    _against_conductance(ax, profile, "programming error", f"error of a cell ({unit})")
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    _key(ax)


def _exponents(ax: "Axes", profile: HardwareProfile) -> None:
    g, scale = _conductances(profile), _unit(profile)[0]
    mean, spread = evaluate(profile.drift.nu, g), evaluate(profile.drift.nu_sigma, g)
    ax.fill_between(g * scale, mean - spread, mean + spread, color=style.COLORS[0], alpha=style.BAND, linewidth=0)
    _law(ax, profile, profile.drift.nu, 1.0, "ν", 0)
    _against_conductance(ax, profile, "drift exponent (± σ)", "drift exponent ν (no unit)")


def _drift(ax: "Axes", profile: HardwareProfile) -> None:
    """Draw some conductances from the first read on, without programming errors, for a year or as long as measured."""
    own, (scale, unit) = profile.drift, _unit(profile)
    table = own.table
    first = own.t0 if table is None else max(own.t0, table.seconds[0])
    last = max(own.t0 + YEAR if table is None else table.seconds[-1], 1.01 * first)
    times = torch.logspace(math.log10(first), math.log10(last), 200, dtype=torch.float64)
    starts = torch.linspace(profile.cells.g_min, 1, 5, dtype=torch.float64)
    if table is not None:
        starts = starts.new_tensor(table.g0)
    for number, g in enumerate(starts):
        if table is None:
            mean, spread = evaluate(own.nu, g), evaluate(own.nu_sigma, g)
            low, middle, high = (g * (times / own.t0) ** -(mean + s * spread) for s in (1, 0, -1))
            _band(ax, number, times, low * scale, high * scale)
            _line(ax, number, times, middle * scale)
        else:
            now = [float(drift.measured(g, table, float(t))) * scale for t in times.clamp(first, last)]
            _line(ax, number, times, now)
    for number, row in enumerate(() if table is None else table.g):
        look = style.look(number)
        ax.plot(table.seconds if table else (), [g * scale for g in row], look.marker, color=look.color, markersize=4)
    ax.set_xscale("log")
    ax.set_title("drift" + ("" if table is not None else " (± σ)"))
    ax.set_xlabel("time since programming t (s)")
    ax.set_ylabel(f"conductance g ({unit})")


def _moments(ax: "Axes", profile: HardwareProfile) -> None:
    """Draw mean and spread of some targets, programming errors included, from a tenth of the first age to the last."""
    ages, (scale, unit) = profile.drift.moments.seconds if profile.drift.moments else (1.0,), _unit(profile)
    times = torch.logspace(math.log10(ages[0] / 10), math.log10(ages[-1]), 200, dtype=torch.float64)
    targets = torch.linspace(profile.cells.g_min, 1, 5, dtype=torch.float64)
    found = [drift.statistics(targets, profile, float(t)) for t in times.clamp(max=ages[-1])]
    middle = targets + torch.stack([moved for moved, _ in found])
    first = evaluate(profile.programming.sigma, targets)
    spread = (torch.stack([more for _, more in found]).square() + first.square()).sqrt()
    for number, (mean, sigma) in enumerate(zip(middle.T * scale, spread.T * scale)):
        _band(ax, number, times, mean - sigma, mean + sigma)
        _line(ax, number, times, mean)
    ax.set_xscale("log")
    ax.set_title("drift (± σ)")
    ax.set_xlabel("age t (s)")
    ax.set_ylabel(f"conductance g ({unit})")


def _band(ax: "Axes", number: int, x: Any, low: Any, high: Any) -> None:
    ax.fill_between(x, low, high, color=style.look(number).color, alpha=style.BAND, linewidth=0)


def _key(ax: "Axes") -> None:
    """Name the lines beneath the axes, where the legend covers none of them."""
    if ax.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.26), "borderaxespad": 0.0}
        ax.legend(**place, ncols=3, fontsize="small", frameon=False, handlelength=2.6, columnspacing=1.0)


def _read_noise(ax: "Axes", profile: HardwareProfile) -> None:
    g, (scale, unit) = _conductances(profile), _unit(profile)
    if profile.flicker.amplitude != 0:
        for number, age in enumerate(AGES):
            sigma = drift.flicker_sigma(g, g, profile.flicker, profile.drift.t0 + age)
            _line(ax, number, g * scale, sigma * scale, label=f"1/f, {text(age) if age else 'first read'}")
    if profile.cells.read_noise != 0:
        _law(ax, profile, profile.cells.read_noise, scale, "white", len(AGES))
    _against_conductance(ax, profile, "read noise of a cell", f"read noise σ ({unit})")
    ax.set_ylim(bottom=0)
    _key(ax)


def _current(ax: "Axes", profile: HardwareProfile) -> None:
    """Draw some cells' currents against the voltage, and what they would be if they were linear."""
    scale, unit = _unit(profile)
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for number, g in enumerate(_conductances(profile)[100::100]):
        second, third = evaluate(profile.iv.second, g), evaluate(profile.iv.third, g)
        _line(ax, number, x, (g * x + second * x**2 + third * x**3) * scale)
        ax.plot(x, g * x * scale, "-", color="0.5", linewidth=0.7, zorder=1)
    ax.set_title("current of a cell (grey: linear)")
    ax.set_xlabel("voltage (fraction of the largest V)")
    ax.set_ylabel(f"current I/V ({unit})")


def _integrator(ax: "Axes", profile: HardwareProfile) -> None:
    """Draw what the integrator at the end of a column takes of its current, beside all of it."""
    limit, (scale, unit) = profile.tile.current_limit or 0.0, _unit(profile)
    currents = torch.linspace(-2 * limit, 2 * limit, 401, dtype=torch.float64)
    _line(ax, 0, currents * scale, currents.clamp(-limit, limit) * scale)
    ax.plot(currents * scale, currents * scale, "-", color="0.5", linewidth=0.7, zorder=1)
    ax.set_title("current of a column (grey: all of it)")
    ax.set_xlabel(f"current of the cells I/V ({unit})")
    ax.set_ylabel(f"current taken I/V ({unit})")


def _converters(profile: HardwareProfile) -> tuple[Converters, Tensor]:
    """Return the ADCs of a tile of chip 0, for a full scale of 1, and an empty tensor of as many columns."""
    table = profile.adc.transfer
    count = ADCS if profile.adc.has_errors else 1
    if table is not None and profile.adc.bits is not None:
        count = max(count, min(len(table.edges(profile.adc.bits, profile.adc.signed)), CURVES))
    return Converters(profile.adc, profile.noise, 0), torch.empty(0, count, dtype=torch.float64)


def _transfer(ax: "Axes", profile: HardwareProfile) -> None:
    adcs, like = _converters(profile)
    low, high = adcs.limits(1.0)
    sums = torch.linspace(low - 0.15, high + 0.15, 3001, dtype=torch.float64)
    out, _ = adcs.converted(sums[:, None].expand(-1, like.shape[1]).contiguous(), 1.0, 0)
    for number, column in enumerate(out.T * profile.adc.levels):
        _staircase(ax, number, sums, column, like.shape[1] > 1)
    ax.set_title(f"ADC: {label(profile.adc.kind)}, {profile.adc.bits} bits")
    ax.set_xlabel("sum (full scales)")
    ax.set_ylabel("code (LSB)")


def _lateness(profile: HardwareProfile) -> tuple[Tensor, Tensor]:
    """Return codes, and how far from its ideal place each begins (ADCs, codes), gains and offsets included."""
    adcs, like = _converters(profile)
    bits, levels = profile.adc.bits or 1, profile.adc.levels
    codes = torch.arange(1, 2**bits, dtype=torch.float64) - (2 ** (bits - 1) if profile.adc.signed else 0)
    places = adcs.transfer(1.0, 0, like)[0] * levels if adcs.searches else (codes - 0.5)[None]
    gains, offsets = adcs.errors(1.0, 0, like)
    begins = (places - offsets[:, None] * levels) / gains[:, None]
    ideal = codes - (0.5 if profile.adc.rounding == "nearest" else 0.0)
    return codes, begins - ideal


def _nonlinearity(ax: "Axes", profile: HardwareProfile) -> None:
    """Draw how far from its ideal place each code begins."""
    codes, late = _lateness(profile)
    for number, own in enumerate(late):
        _staircase(ax, number, codes, own, len(late) > 1)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_title("ADC: where codes begin")
    ax.set_xlabel("code (LSB)")
    ax.set_ylabel("beyond the ideal place (LSB)")
    _half_a_step_at_least(ax)


def _dac(ax: "Axes", profile: HardwareProfile) -> None:
    from matplotlib.ticker import MaxNLocator

    most = profile.dac.step_levels
    codes = torch.arange(-most if profile.dac.signed else 0, most + 1, dtype=torch.float64)
    count = 1 if profile.dac.inl is None else min(len(profile.dac.inl.inl), CURVES)
    found = bent((codes / most)[:, None].expand(-1, count), profile.dac) * most - codes[:, None]
    for number, curve in enumerate(found.T):
        name = f"row {number}" if count > 1 else None
        _line(ax, number, codes, curve, marker=style.look(number).marker, markersize=4, label=name)
    _key(ax)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title("DAC" if profile.dac.step_bits is None else "DAC, of a step")
    ax.set_xlabel("code (LSB)")
    ax.set_ylabel("integral non-linearity (LSB)")
    _half_a_step_at_least(ax)


def _half_a_step_at_least(ax: "Axes") -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -0.5), max(high, 0.5))
