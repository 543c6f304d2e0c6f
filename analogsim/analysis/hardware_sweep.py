"""A network over any fields of the hardware: all combinations of their values, on several chips."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import torch
from torch import nn

from .. import style
from ..ages import seconds
from ..batches import Batches, Step, listed, samples_in
from ..convert import convert
from ..errors import AnalogSimError, ProfileError, SearchError
from ..nn import called_layers
from ..nn.reach import warn_of_layers, watched
from ..profile import HardwareProfile
from ..profile.compare import titled
from ..ranges.calibrate import Method, calibrate
from ..result import Result
from ..robustness.measure import Measure
from ..robustness.measure_file import KeptMeasure
from ..robustness.metric import Metric
from ..seeds import checked
from ..storage.files import plain
from ..storage.kept import read_kept
from ..tables import Column, Table
from ..terminal.progress import bar
from ..terminal.text import label
from ..value import whole
from .fields import AGE, METHOD, varied
from .journal import Measured, written
from .reference import reference, spread

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class HardwareSweep(Result):
    """What a network is worth on each of the hardwares that were tried.

    Attributes
    ----------
    axes : dict
        The fields that were varied, and their values.
    points : tuple of (dict, tuple of float)
        One for each combination: its values, and the measure on each chip.
    digital : float
        The measure of the digital network.
    profile : str
        Name of the hardware that was varied.
    metric : Measure

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
    >>> data = x, net(x).argmax(1)
    >>> found = an.hardware_sweep(net, data, {"adc.bits": [2, 8]}, profile=an.HardwareProfile.load("8bit"))
    >>> coarse, fine = (sum(chips) / len(chips) for values, chips in found.points)
    >>> coarse < fine
    True
    """

    kind: ClassVar[str] = "hardware sweep"

    axes: dict[str, tuple[Any, ...]]
    points: tuple[tuple[dict[str, Any], tuple[float, ...]], ...]
    digital: float
    profile: str
    metric: KeptMeasure

    def to_frame(self) -> "pd.DataFrame":
        """Return one row for each combination and chip: a column for each axis, chip, value."""
        import pandas as pd

        rows = [
            {**values, "chip": chip, "value": value}
            for values, found in self.points
            for chip, value in enumerate(found)
        ]
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return one row for each combination: a column for each axis, mean, standard deviation and number of chips."""
        show, unit = self.metric.text, self.metric.unit
        columns = (
            *(Column(name, title=name, row=partial(_as_written, name)) for name in self.axes),
            Column(self.metric.name, unit, show),
            Column("std", unit, show),
            Column("chips"),
        )
        rows = (
            (*(values[name] for name in self.axes), float(np.mean(found)), spread(found), len(found))
            for values, found in self.points
        )
        return Table(columns, tuple(rows), f"digital network: {show(self.digital)}; {self.profile}")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the mean over chips, and its standard deviation, against the first axis: a line for each combination of
        the others.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        from matplotlib.ticker import MaxNLocator

        ax = style.axes(ax, (7, 4.2))
        first, *others = self.axes
        values = self.axes[first]
        numeric = first != AGE and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for point, found in self.points:
            name = ", ".join(f"{name} {point[name]}" for name in others)
            place = float(point[first]) if numeric else values.index(point[first])
            lines.setdefault(name, []).append((place, float(np.mean(found)), spread(found)))
        for number, (name, line) in enumerate(lines.items()):
            places, means, spreads = zip(*line)
            style.series(ax, style.look(number), places, means, spreads, label=label(name) if name else None)
        ax.axhline(self.digital, color=style.GREY, linewidth=1, label="digital network")
        if not numeric:
            ax.set_xticks(range(len(values)), [str(value) for value in values])
        elif all(isinstance(value, int) for value in values):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # there are no 4.5 bits
        ax.set_xlabel("age of the chip t" if first == AGE else titled(first))
        ax.set_ylabel(self.metric.title)
        style.above(ax, 3) if len(lines) == 1 else style.beside(ax)
        return ax


def _as_written(name: str, row: Mapping[str, Any]) -> str:
    """Return a field's value as profiles have it."""
    return "null" if row[name] is None else str(row[name])


@torch.no_grad()
def hardware_sweep(
    model: nn.Module,
    data: Batches,
    axes: Mapping[str, Sequence[Any]],
    *,
    profile: HardwareProfile,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    step: Step | None = None,
    calibration: Batches | None = None,
    method: Method = "maximum",
    chips: int = 1,
    seed: int = 0,
    storage: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> HardwareSweep:
    """Measure a network on every combination of some fields' values.

    For each combination the network is converted and calibrated anew. A chip's random numbers are the same in all of
    them, so that differences are the hardware's.

    Parameters
    ----------
    model : nn.Module
        Digital, or analog (then its digital twin is taken). Noise that was injected is left out.
    data : batches, or Dataset
        What the measure is taken on, as of `noise_sweep`.
    axes : mapping of str to sequence
        Dotted fields of the profile, as "adc.bits", to values; "age": of the chip, seconds or "1d", "1y" and the like;
        "calibration": methods of `calibrate`.
    profile : HardwareProfile
        What the axes do not name.
    metric : str, Measure, Metric or callable
        As of `noise_sweep`.
    step : callable, optional
        As of `noise_sweep`.
    calibration : batches, optional
        What ranges are taken from, as of `calibrate`; default: `data`.
    method : str
        Of `calibrate`, where it is no axis.
    chips : int
        How many, where chips differ or there is noise.
    seed : int
        Of chips and noise; in [0, 2^64).
    storage : path, optional
        Journal file; a sweep that was interrupted goes on with it.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    HardwareSweep

    Raises
    ------
    ProfileError
        A field does not exist, or a value makes no profile; found before anything is computed.
    SearchError
        The storage is of another sweep, damaged, or cannot be written.
    AnalogSimError
        No axis or no value, fewer than one chip, or as `calibrate` and `noise_sweep`.

    Warns
    -----
    UnreachedWarning
        Layers are never called on this data, or as `convert`.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> data = torch.randn(64, 8), torch.randint(4, (64,))
    >>> found = an.hardware_sweep(net, data, {"adc.bits": [4, 8]}, profile=an.HardwareProfile.load("8bit"))
    >>> list(found.to_frame().columns)
    ['adc.bits', 'chip', 'value']
    """
    chips, seed = whole(chips, "chips", AnalogSimError), checked(seed)
    choices = {key: tuple(values) for key, values in axes.items()}
    if chips < 1 or not choices or not all(choices.values()):
        raise AnalogSimError("axes and chips: at least one field with at least one value, and one chip, are needed")
    hardware = [key for key in choices if key != AGE]  # a chip is programmed once for all ages
    ages = [(age, seconds(age)) for age in choices.get(AGE, (0,))]
    combinations = [dict(zip(hardware, values)) for values in itertools.product(*(choices[key] for key in hardware))]
    profiles = [varied(profile, values) for values in combinations]
    for one in choices.get(METHOD, (method,)):
        if one not in get_args(Method):
            raise ProfileError(f"calibration: {one!r} is no method; choose {', '.join(get_args(Method))}")
    digital = reference(model, data, metric, step)
    inputs = digital.batches if calibration is None else listed(calibration)
    points = [values | ({AGE: age} if AGE in choices else {}) for values in combinations for age, _ in ages]
    rows: list[list[float]] = []
    about = [profile.model_dump(mode="json"), choices, method, chips, seed, digital.measure.name]
    about += [digital.value, digital.samples, sum(map(samples_in, inputs))]
    about += [] if storage is None else [digital.checksum]
    journal, said = _journal(storage, json.dumps(about, default=str)), False
    with bar(progress) as shown:
        task = shown.add_task("Hardware", total=len(combinations) * len(ages) * chips)
        for number, (values, one) in enumerate(zip(combinations, profiles)):
            if (kept := journal.found.get(str(number))) is not None:
                rows += [[float(value) for value in row] for row in kept]
                shown.advance(task, chips * len(ages))
                continue
            analog = convert(digital.network, one)
            calibrate(analog, inputs, values.get(METHOD, method), step=step, progress=False, together=False)
            several, layers = chips if one.is_random else 1, called_layers(analog)
            with watched(layers) as called:
                found = digital.on_chips(
                    analog, several, [time for _, time in ages], seed, lambda n=several: shown.advance(task, chips / n)
                )
            rows += found
            if not said:
                warn_of_layers("hardware_sweep", layers, called, "no hardware disturbs them")
                said = True
            if storage is not None:
                now = {str(number): tuple(tuple(map(plain, row)) for row in found)}
                journal = journal.model_copy(update={"found": journal.found | now})
                written(journal, Path(storage))
    settled = iter(digital.settled("hardware_sweep", [value for row in rows for value in row]).tolist())
    measured = tuple((point, tuple(itertools.islice(settled, len(row)))) for point, row in zip(points, rows))
    return HardwareSweep(choices, measured, digital.value, profile.name, digital.measure.as_known)


def _journal(storage: str | os.PathLike[str] | None, about: str) -> Measured:
    """Return what was measured before; nothing where there is no file."""
    new = Measured(about=about)
    if storage is None:
        return new
    before = read_kept(Path(storage), Measured, SearchError) or new
    if before.about != about:
        raise SearchError(
            f"{storage}: holds an interrupted sweep of another network, other data or other hardware; use another "
            "file, or remove this one"
        )
    return before
