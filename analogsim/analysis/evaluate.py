"""How good a network is on this hardware, now and in a month, on ten chips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import style
from ..ages import seconds, text
from ..batch_norm import batch_norms, estimate_batch_norm
from ..batches import Batches, Step, device_of
from ..convert import converted
from ..errors import ConversionError, ProgrammingError
from ..nn import analog_layers, called_layers
from ..nn.copies import copied
from ..nn.reach import warn_of_layers, watched
from ..noise import all_sites
from ..profile import HardwareProfile
from ..ranges.calibrate import Method, calibrate
from ..ranges.outputs import calibrate_outputs
from ..result import Result
from ..robustness.measure import Measure
from ..robustness.measure_file import KeptMeasure
from ..robustness.metric import Metric
from ..robustness.sweep import reseed
from ..seeds import Key, checked, derive
from ..tables import Column, Table
from ..terminal.progress import bar
from ..terminal.text import label
from ..value import whole
from .reference import Reference, reference, spread

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.progress import Progress


@dataclass(frozen=True)
class Evaluation(Result):
    """What a network is worth on several chips, at several ages.

    Attributes
    ----------
    ages : tuple of float
        Seconds since the chips' first reads.
    values : tuple of tuple of float
        The measure on each chip, for each age.
    digital : float
        The measure of the digital network.
    chance : float or None
        What guessing gives on this data; None where it is not known.
    samples : int
        Behind each value.
    profile : str
        Name of the hardware, or "no hardware".
    metric : Measure

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
    >>> data = x, net(x).argmax(1)
    >>> found = an.evaluate(net, data, profile=an.HardwareProfile.load("pcm"), chips=3, ages=["0", "1d"])
    >>> found.digital, len(found.mean), found.ages
    (1.0, 2, (0.0, 86400.0))
    """

    kind: ClassVar[str] = "evaluation"

    ages: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    digital: float
    chance: float | None
    samples: int
    profile: str
    metric: KeptMeasure

    @property
    def mean(self) -> tuple[float, ...]:
        """Over chips, for each age."""
        return tuple(float(np.mean(row)) for row in self.values)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation over chips, for each age; NaN of one chip."""
        return tuple(spread(row) for row in self.values)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row for each age and chip: age_s, chip, value."""
        import pandas as pd

        rows = [
            {"age_s": age, "chip": chip, "value": value}
            for age, row in zip(self.ages, self.values)
            for chip, value in enumerate(row)
        ]
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return one row an age: mean and standard deviation over chips, the worst chip, and what is lost to digital by
        the mean, in the measure's unit.
        """
        show, worst = self.metric.text, min if self.metric.higher_is_better else max
        columns = (
            Column("age", "s", text, "age", number=False),
            Column(self.metric.name, self.metric.unit, show),
            *(Column(name, self.metric.unit, show) for name in ("std", "worst", "lost")),
            Column("chips"),
        )
        rows = (
            (age, mean, std, worst(row), self.metric.loss(self.digital, mean), len(row))
            for age, mean, std, row in zip(self.ages, self.mean, self.std, self.values)
        )
        caption = f"digital network: {show(self.digital)}; {self.profile}; {self.samples} samples"
        return Table(columns, tuple(rows), caption)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw every chip and the mean against age, and the digital network as a line.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (6, 4))
        places, chips = range(len(self.ages)), len(self.values[0])
        for chip in zip(*self.values) if chips > 1 else ():
            ax.plot(places, chip, ".", color=style.look(0).color, markersize=7, alpha=0.5, markeredgewidth=0)
        name = f"mean and σ of {chips} chips; dots: each" if chips > 1 else label(self.profile)
        style.series(ax, style.look(0), places, self.mean, self.std, label=name)
        ax.axhline(self.digital, color=style.GREY, linewidth=1, label="digital network")
        ax.set_xticks(places, [text(age) for age in self.ages])
        ax.set_xlabel("age of the chip t")
        ax.set_ylabel(self.metric.title)
        if self.metric.logarithmic:
            ax.set_yscale("log")
        style.above(ax, 2)
        return ax


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Batches,
    *,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    profile: HardwareProfile | None = None,
    chips: int = 1,
    ages: float | str | Sequence[float | str] | None = None,
    calibration: Batches | None = None,
    method: Method = "maximum",
    outputs: Batches | None = None,
    batch_norm: Batches | None = None,
    step: Step | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure how good a network is on hardware: on several chips, and as they age.

    A copy is measured, in evaluation mode, with whatever noise was injected into it; on a `profile` the digital network
    is, from which that noise is removed.

    Parameters
    ----------
    model : nn.Module
        Digital; or converted: without `profile` it is measured on the hardware and with the ranges that it has, and if
        it was programmed and `chips` is 1, on its own chip.
    data : batches, or Dataset
        What the measure is taken on, as of `noise_sweep`.
    metric : str, Measure, Metric or callable
        As of `noise_sweep`.
    profile : HardwareProfile, optional
        The hardware that the digital network is put on, with ranges that are calibrated anew.
    chips : int
        How many, where chips differ or there is noise.
    ages : float or str, or a sequence of them, optional
        Of the chips: seconds, or "1d", "1y" and the like. Default: 0, but of its own chip the age that this has
        (of layers that differ the result names the oldest's).
    calibration : batches, optional
        What the ranges for `profile` are taken from, as of `calibrate`; default: `data`.
    method : str
        Of `calibrate`.
    outputs : batches, optional
        Gain and offset of each output are measured on these, by `calibrate_outputs`, on every chip at every age.
    batch_norm : batches, optional
        The statistics of batch normalisation are estimated anew on these, by `estimate_batch_norm`, on every chip at
        every age; with `outputs`, after these are measured.
    step : callable, optional
        As of `noise_sweep`.
    seed : int
        Of chips and noise; in [0, 2^64). The same chips as of `hardware_sweep`.
    device : torch.device or str, optional
        Where to compute; default: where the model is.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    Evaluation

    Raises
    ------
    ConversionError
        Several chips or ages, or outputs, are asked for, but nothing is on hardware; or the statistics of batch
        normalisation, but there is none.
    ProgrammingError
        Fewer than one chip, or no age.
    AnalogSimError
        As `convert`, `calibrate` and `noise_sweep`.

    Warns
    -----
    UnreachedWarning
        Matrices stay digital, or layers are never called on this data.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> data = torch.randn(64, 8), torch.randint(4, (64,))
    >>> found = an.evaluate(net, data, profile=an.HardwareProfile.load("pcm"), chips=3, ages=["0", "1d"], seed=1)
    >>> len(found.values), len(found.values[0])
    (2, 3)
    """
    chips, times, seed = asked(chips, ages, seed)
    digital = reference(model, data, metric, step, device)
    own = profile is None
    if own:
        network = copied(model).to(device_of(digital.network))
    else:
        network = on_hardware(digital, profile, calibration, method, "evaluate")
    network.eval()
    layers = [layer for _, layer in analog_layers(network)]
    if not layers and (chips > 1 or times != (0,) or outputs is not None):
        raise ConversionError(f"{type(model).__name__}: no layer is analog; chips, ages and outputs need a profile=")
    programmed = own and chips == 1 and bool(layers) and all(layer.chip_seconds is not None for layer in layers)
    set_to: tuple[float | None, ...] = times
    if programmed and ages is None:  # layers may have been aged one by one
        times, set_to = (max(float(layer.chip_seconds or 0) for layer in layers),), (None,)
    prepare = None
    if outputs is not None or batch_norm is not None:
        buffers = [buffer for norm in batch_norms(network) for buffer in norm.buffers(recurse=False)]
        before = [(buffer, buffer.clone()) for buffer in buffers]
        prepare = partial(_adapt, before=before, outputs=outputs, batch_norm=batch_norm, step=step)
    with bar(progress) as shown:
        return over_chips(digital, network, chips, times, seed, "evaluate", shown, set_to, programmed, prepare)


def asked(
    chips: int, ages: float | str | Sequence[float | str] | None, seed: int
) -> tuple[int, tuple[float, ...], int]:
    """Return chips, ages (s) and seed as they are used.

    Raises
    ------
    ProgrammingError
        Fewer than one chip, no age, or an impossible seed.
    """
    chips, seed = whole(chips, "chips", ProgrammingError), checked(seed, ProgrammingError)
    given: Any = (0,) if ages is None else (ages,) if isinstance(ages, str | Real) else ages
    times = tuple(seconds(age) for age in given)
    if chips < 1 or not times:
        raise ProgrammingError(f"chips and ages: one of each at least is needed (got {chips} and {times})")
    return chips, times, seed


def on_hardware(
    digital: Reference, profile: HardwareProfile, calibration: Batches | None, method: Method, verb: str
) -> nn.Module:
    """Return a digital network converted, in evaluation, its ranges calibrated on these batches or the test data."""
    network = converted(digital.network, profile, verb=verb)
    found = digital.batches if calibration is None else calibration
    calibrate(network, found, method, step=digital.step, progress=False, together=False)
    return network.eval()


def over_chips(
    digital: Reference,
    network: nn.Module,
    chips: int,
    times: tuple[float, ...],
    seed: int,
    verb: str,
    shown: "Progress",
    set_to: Sequence[float | None] | None = None,
    own_chip: bool = False,
    prepare: Callable[[nn.Module, int], object] | None = None,
) -> Evaluation:
    """Measure a network on chips at their ages, those of `Reference.on_chips`; one where nothing of it is random."""
    layers, modules = [layer for _, layer in analog_layers(network)], called_layers(network)
    random = any(layer.profile.is_random for layer in layers) or any(site.eval for site in all_sites(network))
    several = chips if random else 1
    task = shown.add_task("Evaluating", total=several * len(times))
    with watched(modules) as called:
        rows = digital.on_chips(network, several, set_to or times, seed, lambda: shown.advance(task), own_chip, prepare)
    warn_of_layers(verb, modules, called, "no hardware disturbs them")
    values = tuple(map(tuple, digital.settled(verb, rows).tolist()))
    name = next((layer.profile.name for layer in layers), "no hardware")
    measure = digital.measure.as_known
    return Evaluation(times, values, digital.value, digital.guess, digital.samples, name, measure)


def _adapt(
    network: nn.Module,
    seed: int,
    *,
    before: Sequence[tuple[Tensor, Tensor]],
    outputs: Batches | None,
    batch_norm: Batches | None,
    step: Step | None,
) -> None:
    """Measure, on a chip as it is now, what its digital parts can correct; `before`: statistics, and their values."""
    for buffer, value in before:  # outputs are measured beside the digital network, not with another chip's statistics
        buffer.copy_(value)
    if outputs is not None:
        calibrate_outputs(network, outputs, step=step, seed=seed, progress=False, together=False)
    if batch_norm is not None:
        reseed(network, derive(seed, Key.SWEEP_STATISTICS, 0))  # other noise than that of the measurement
        estimate_batch_norm(network, batch_norm, step=step, progress=False, together=False)
