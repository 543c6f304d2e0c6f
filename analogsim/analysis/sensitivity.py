"""Which layers suffer most from the hardware: each alone on it, and all but each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from .. import style
from ..ages import seconds
from ..batches import Batches, Step
from ..convert import convert
from ..errors import AnalogSimError
from ..nn import AnalogLayer, analog_layers, called_layers, set_seed
from ..nn.reach import warn_of_layers, watched
from ..profile import HardwareProfile
from ..program import at_time, program
from ..ranges.calibrate import Method, calibrate
from ..result import Result
from ..robustness.measure import Measure
from ..robustness.measure_file import KeptMeasure
from ..robustness.metric import Metric
from ..seeds import Key, checked, derive
from ..tables import Column, Table
from ..terminal.progress import bar
from ..terminal.text import label
from ..value import whole
from .reference import reference, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIGITAL = HardwareProfile(name="digital")


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer on hardware costs the network.

    Attributes
    ----------
    name : str
    weights : int
        Numbers in its matrices.
    alone : tuple of float
        The measure on each chip, this layer alone on hardware.
    others : tuple of float
        The measure on each chip, all layers on hardware but this one.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> x = torch.randn(64, 8)
    >>> found = an.sensitivity(net, an.HardwareProfile.load("pcm"), (x, net(x).argmax(1)), chips=2)
    >>> {layer.name: (layer.weights, len(layer.alone)) for layer in sorted(found.layers, key=lambda layer: layer.name)}
    {'0': (128, 2), '2': (64, 2)}
    """

    name: str
    weights: int
    alone: tuple[float, ...]
    others: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity(Result):
    """A network's layers, the one that it pays most to keep digital first.

    Attributes
    ----------
    layers : tuple of LayerSensitivity
        Best mean of `others` first, then worst mean of `alone`.
    digital : float
        The measure of the digital network.
    whole : tuple of float
        The measure on each chip, every layer on hardware.
    profile : str
        Name of the hardware.
    metric : Measure

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> x = torch.randn(64, 8)
    >>> found = an.sensitivity(net, an.HardwareProfile.load("pcm"), (x, net(x).argmax(1)), chips=2)
    >>> best = found.layers[0]  # the one to keep digital first
    >>> sum(best.others) >= sum(found.layers[1].others)
    True
    """

    kind: ClassVar[str] = "sensitivity"

    layers: tuple[LayerSensitivity, ...]
    digital: float
    whole: tuple[float, ...]
    profile: str
    metric: KeptMeasure

    def table(self) -> Table:
        """Return one row a layer: weights, share of all weights, the measure with the layer alone on hardware, with all
        but it, standard deviations over chips, and what is lost by the layer alone and gained by keeping it digital, in
        the measure's unit.
        """
        show, unit = self.metric.text, self.metric.unit
        columns = (
            Column("layer", number=False),
            Column("weights", show=",", screen=False),
            Column("share", show=".3f"),
            Column("alone", unit, show),
            Column("alone_std", unit, show, screen=False),
            Column("others", unit, show),
            Column("others_std", unit, show, screen=False),
            Column("lost_alone", unit, show),
            Column("gained_digital", unit, show),
        )
        every, on = sum(layer.weights for layer in self.layers), float(np.mean(self.whole))
        rows = []
        for layer in self.layers:
            alone, others = float(np.mean(layer.alone)), float(np.mean(layer.others))
            lost, gained = self.metric.loss(self.digital, alone), self.metric.loss(others, on)
            of_all = layer.weights, layer.weights / max(every, 1)
            rows.append((layer.name, *of_all, alone, spread(layer.alone), others, spread(layer.others), lost, gained))
        on_all = f"all on {self.profile} {show(on)} (mean of {len(self.whole)} chips)"
        return Table(columns, tuple(rows), f"{self.metric.title}; digital {show(self.digital)}; {on_all}")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw each layer alone, and all but each, with the digital network and the whole one on hardware as lines.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (8, 1.4 + 0.28 * len(self.layers)))
        frame = self.to_frame()[::-1]
        places = np.arange(len(frame))
        own: dict[str, Any] = {"linestyle": "", "markersize": 5, "capsize": 2}
        for number, (what, shift, text) in enumerate(
            (("alone", 0.14, "alone on hardware"), ("others", -0.14, "alone digital"))
        ):
            look, spread = style.look(number), list(frame[f"{what}_std"])
            ax.errorbar(
                list(frame[what]),
                places + shift,
                xerr=spread,
                marker=look.marker,
                color=look.color,
                label=f"{text} (± σ of chips)" if len(self.whole) > 1 else text,
                **own,
            )
        ax.axvline(self.digital, color=style.GREY, linewidth=1, label="digital network")
        ax.axvline(float(np.mean(self.whole)), color="black", linestyle=":", linewidth=1.5, label="all on hardware")
        ax.set_yticks(places, [label(name) for name in frame["layer"]])
        ax.set_ylim(-0.6, len(frame) - 0.4)
        ax.set_xlabel(f"{self.metric.title}, on {label(self.profile)}")
        # Two rows: beside long names of layers four columns would reach beyond the figure.
        ax.legend(fontsize="small", frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return ax


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    profile: HardwareProfile,
    data: Batches,
    *,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    step: Step | None = None,
    calibration: Batches | None = None,
    method: Method = "maximum",
    chips: int = 3,
    age: float | str = 0,
    seed: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """Measure a network with each of its layers alone on hardware, and with all but each.

    The network is copied, converted and calibrated once; a chip of a layer is the same one whichever others are on
    hardware beside it, so that differences are the layers'.

    Parameters
    ----------
    model : nn.Module
        Digital, or analog (then its digital twin is taken). Noise that was injected is left out.
    profile : HardwareProfile
    data : batches, or Dataset
        What the measure is taken on, as of `noise_sweep`.
    metric : str, Measure, Metric or callable
        As of `noise_sweep`.
    step : callable, optional
        As of `noise_sweep`.
    calibration : batches, optional
        What ranges are taken from, as of `calibrate`; default: `data`.
    method : str
        Of `calibrate`.
    chips : int
        How many, where the profile has anything that differs between chips, or noise.
    age : float or str
        Of the chips: seconds, or "1d", "1y" and the like.
    seed : int
        Of chips and noise; in [0, 2^64).
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    Sensitivity

    Raises
    ------
    ConversionError
        There is nothing to convert.
    AnalogSimError
        Fewer than one chip, or as `calibrate` and `noise_sweep`.

    Warns
    -----
    UnreachedWarning
        Layers are never called on this data, or as `convert`.

    Notes
    -----
    Cost: 1 + chips·(2·layers + 1) passes over the data.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> x = torch.randn(64, 8)
    >>> found = an.sensitivity(net, an.HardwareProfile.load("pcm"), (x, net(x).argmax(1)), chips=2)
    >>> sorted(layer.name for layer in found.layers), len(found.whole)
    (['0', '2'], 2)
    """
    chips, seed = whole(chips, "chips", AnalogSimError), checked(seed)
    if chips < 1:
        raise AnalogSimError(f"chips: at least 1 is needed, got {chips}")
    time, digital = seconds(age), reference(model, data, metric, step)
    analog = convert(digital.network, profile)
    calibrate(
        analog,
        digital.batches if calibration is None else calibration,
        method,
        step=step,
        progress=False,
        together=False,
    )
    units = _units(analog)
    several, modules = chips if profile.is_random else 1, called_layers(analog)
    every = [layer for layers in units.values() for layer in layers]
    wholes: list[float] = []
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in units}
    with bar(progress) as shown:
        task = shown.add_task("Layers on hardware", total=several * (2 * len(units) + 1))

        def value(on: list[AnalogLayer], chip: int) -> float:
            for layer in every:
                layer.profile = _DIGITAL
            for layer in on:
                layer.profile = profile
            set_seed(analog, derive(seed, Key.SENSITIVITY, chip, 1))
            shown.advance(task)
            return digital.value_of(analog)

        for chip in range(several):
            program(analog, derive(seed, Key.SENSITIVITY, chip, 0))
            at_time(analog, time)
            with watched(modules) as called:
                wholes.append(value(every, chip))
            if not chip:
                warn_of_layers("sensitivity", modules, called, "what they cost on hardware cannot be seen")
            for name, own in units.items():
                alone, others = found[name]
                alone.append(value(own, chip))
                others.append(value([layer for layer in every if layer not in own], chip))
    # One warning for all of them: (1 + 2·layers, chips).
    rows = [wholes, *(row for both in found.values() for row in both)]
    wholes, *pairs = digital.settled("sensitivity", rows).tolist()
    layers = [
        LayerSensitivity(
            name,
            sum(p.numel() for p in modules[name].parameters() if p.ndim > 1),
            tuple(alone),
            tuple(others),
        )
        for name, alone, others in zip(found, pairs[::2], pairs[1::2])
    ]
    sign = digital.measure.sign
    layers.sort(key=lambda layer: (-sign * float(np.mean(layer.others)), sign * float(np.mean(layer.alone))))
    return Sensitivity(tuple(layers), digital.value, tuple(wholes), profile.name, digital.measure.as_known)


def _units(model: nn.Module) -> dict[str, list[AnalogLayer]]:
    """Return the crossbars of each layer that a network calls: of a module of several matrices all of them."""
    found: dict[str, list[AnalogLayer]] = {}
    taken: set[int] = set()
    for name, module in called_layers(model).items():
        own = [layer for _, layer in analog_layers(module) if id(layer) not in taken]
        taken.update(map(id, own))
        if own:
            found[name] = own
    return found
