"""The noise budget: what every stage of the hardware adds at each layer's output, and where that is on the σ axis."""

import math
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import style
from ..batches import Batch, Step, called, device_of, logits_of, moved, run
from ..convert import to_digital
from ..errors import CalibrationError, ProfileError
from ..nn import analog_layers, set_seed
from ..nn.copies import copied
from ..nn.management import Management
from ..nn.observing import observed
from ..noise import NoiseSpec, all_sites, injected, remove_noise, set_noise
from ..result import Result
from ..seeds import Key, checked, derive
from ..tables import Column, Table
from ..terminal.text import label
from ..value import whole
from .meter import STAGES, Meter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A stage without a colour would be missing in pictures. Neighbours differ in lightness, and in their hatching.
_BLUE, _RED, _GREEN, _PINK, _SKY, _ORANGE, _BLACK = style.COLORS
_COLORS = (_BLUE, _ORANGE, _GREEN, style.YELLOW, _PINK, _BLACK, _RED, _SKY)
FILLS = dict(zip(STAGES, zip(_COLORS, style.HATCHES, strict=True), strict=True))


@dataclass(frozen=True)
class LayerBudget:
    """One layer's errors: mean squares over batch and outputs, in squared activation units of its output.

    Attributes
    ----------
    name : str
    stages : dict of float
        Mean square of each stage's own error; the keys are `STAGES`.
    covariance : float
        What the stages have in common, so that stages and covariance add up to `total`: noise that an ADC clips or
        rounds away again, two clippings of the same peak. Often small, and often negative.
    total : float
        Mean square of the whole error, predicted.
    measured : float
        The same by simulation, noisy minus exact output on the same inputs; NaN without repeats.
    signal : float
        Mean square of the exact product, before the bias.
    input_clipped, adc_clipped : float
        Fractions of the inputs, and of the conversions (under noise), that clip.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0}, noise={"output": 0.1})
    >>> layer = an.noise_budget(an.AnalogLinear(64, 8, profile=profile), torch.ones(100, 64)).layers[0]
    >>> f"{layer.stages['noise_output']:.3f} of {layer.total:.3f}, simulated {layer.measured:.2f}"
    '0.010 of 0.010, simulated 0.01'
    """

    name: str
    stages: dict[str, float]
    covariance: float
    total: float
    measured: float
    signal: float
    input_clipped: float
    adc_clipped: float

    @property
    def equivalent_sigma(self) -> float:
        """Root of `total`: σ of additive noise on this layer's output with that mean square, activation units."""
        return math.sqrt(max(0.0, self.total))

    @property
    def snr(self) -> float:
        """Signal to error, 10·log10(signal / total), dB; infinite without errors."""
        if self.total <= 0:
            return math.inf
        return 10 * math.log10(self.signal / self.total) if self.signal > 0 else -math.inf


@dataclass(frozen=True)
class NoiseBudget(Result):
    """The errors of a network's layers, each on its exact inputs; a table where it is printed.

    Attributes
    ----------
    layers : tuple of LayerBudget
    equivalent_sigma : float
        Where this hardware stands on the paper's σ axis: the σ of `inject_noise` (N(0, σ²) at every one of the paper's
        sites of the digital network) whose mean square error at the network's output is the hardware's, on this batch.
        0 without errors; NaN where the output is no tensor and has no logits, or no σ does it.
    output_error : float
        Mean square error of the network's output on the hardware.
    profile : str
        Name of the hardware.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0}, noise={"output": 0.1})
    >>> budget = an.noise_budget(an.AnalogLinear(64, 8, profile=profile), torch.ones(100, 64))
    >>> round(budget.layers[0].equivalent_sigma, 6)  # σ_out, times α and w_max
    0.1
    """

    kind: ClassVar[str] = "noise budget"

    layers: tuple[LayerBudget, ...]
    equivalent_sigma: float
    output_error: float
    profile: str

    def table(self) -> Table:
        """Return one row a layer: σ of each stage's error and of all, predicted and simulated, in activation units; the
        signal-to-error ratio; and the shares that clip. Files have the mean squares, too.
        """
        found = {stage for stage in STAGES if any(layer.stages[stage] for layer in self.layers)}
        sigmas = [Column(stage, show=".2g", title=_short(stage), screen=stage in found) for stage in STAGES]
        squares = [Column(f"{stage}_square", show=".3g", screen=False) for stage in STAGES]
        columns = (
            Column("layer", number=False),
            *sigmas,
            Column("equivalent_sigma", show=".2g", title="σ"),
            Column("measured_sigma", show=".2g", title="simulated"),
            Column("snr", "dB", ".1f", "SNR (dB)"),
            Column("input_clipped", show=".4f", title="DAC clips"),
            Column("adc_clipped", show=".4f", title="ADC clips"),
            *squares,
            *(Column(name, screen=False) for name in ("covariance", "total", "measured", "signal")),
        )
        rows = []
        for one in self.layers:
            clipped, parts = (one.input_clipped, one.adc_clipped), [one.stages[stage] for stage in STAGES]
            whole = one.equivalent_sigma, _root(one.measured), one.snr, *clipped
            rest = *parts, one.covariance, one.total, one.measured, one.signal
            rows.append((one.name, *map(_root, parts), *whole, *rest))
        caption = f"equivalent σ of the network: {self.equivalent_sigma:.3g}; σ in activation units; {self.profile}"
        return Table(columns, tuple(rows), caption)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw a bar a layer, as high as its error is against its signal (mean squares), of what each stage adds to it.

        Above it stand σ in activation units and the signal-to-error ratio. Where the stages have something in common
        (`LayerBudget.covariance`) their shares are of the whole error.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (3.2 + 1.1 * len(self.layers), 4.6))
        ax.grid(False, axis="x")
        places, bottoms = range(len(self.layers)), [0.0] * len(self.layers)
        for stage, (color, hatch) in FILLS.items():
            heights = [_percent(layer, stage) for layer in self.layers]
            if any(heights):
                fill = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
                ax.bar(places, heights, bottom=bottoms, label=stage.replace("_", " "), width=0.7, **fill)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights)]
        for place, layer, height in zip(places, self.layers, bottoms):
            text = f"σ {layer.equivalent_sigma:.3g}\n{layer.snr:.0f} dB"
            ax.annotate(text, (place, height), (0, 3), textcoords="offset points", ha="center", fontsize="small")
        ax.set_xticks(places, [label(layer.name) for layer in self.layers], rotation=30, ha="right")
        ax.set_ylabel("error against signal, mean squares (%)")
        ax.set_ylim(0, 1.18 * max(bottoms) or 1.0)
        style.beside(ax)
        return ax


def _percent(layer: LayerBudget, stage: str) -> float:
    """Return a stage's part of a layer's error in percent of the layer's signal."""
    whole = sum(layer.stages.values())
    return 100 * layer.stages[stage] / whole * layer.total / layer.signal if whole > 0 and layer.signal > 0 else 0.0


def _root(square: float) -> float:
    return math.sqrt(square) if not square < 0 else 0.0


def _short(stage: str) -> str:
    return stage.replace("noise_", "").replace("_", " ")


def noise_budget(
    model: nn.Module,
    batch: Batch,
    *,
    repeats: int = 4,
    step: Step | None = None,
    seed: int = 0,
    progress: bool = True,
) -> NoiseBudget:
    r"""Say which stage of the hardware adds how much error to every layer's output, and what it amounts to.

    The network runs with exact layers; each layer's hardware is judged on the inputs that it then gets, so that a layer
    is not blamed for the errors of those before it; noise that was injected is left out.
    `analogsim.analysis.meter.Meter`
    states how the error is taken apart.

    Parameters
    ----------
    model : nn.Module
        Converted, and calibrated where its profile asks for it.
    batch : Tensor, PackedSequence, (inputs, labels) or mapping
        One batch of network inputs, as for `calibrate`.
    repeats : int
        Simulated reads behind `measured` and behind the network's own figure; 0 leaves both NaN.
    step : callable, optional
        How the network is called on a batch of any other kind; as for `calibrate`.
    seed : int
        Of the simulated noise, in [0, 2^64).
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    NoiseBudget

    Raises
    ------
    ConversionError
        The model has no analog layer.
    CalibrationError
        A range that shall be calibrated was not, a layer was never reached, or the seed is impossible.
    ProgrammingError
        Chips of this hardware differ, and the model was not programmed.
    ProfileError
        Vectors are managed by themselves (`dac.input_range: vector`, `adc.bound_management`), DACs round otherwise
        than to the nearest level, or integrators limit (`tile.current_limit`) what noisy cells carry.

    Notes
    -----
    The prediction knows all of a profile, and takes an ADC's rounding error for what it is at each partial sum. The
    tests hold it to simulation within 3 % for plain hardware and 4 % for chips; with few repeats `measured` scatters by
    itself, most of all where ADCs wander: of 300 rows with an offset that wanders as slowly, and ADCs that round down,
    40 budgets of 4 repeats were between 0.64 and 1.41 of the prediction, and 0.998 ± 0.025 in the mean. A layer that is
    called several times (a shared one, a recurrent one) is judged over all calls; a transposed convolution on its
    products, before they overlap.

    Memory: tensors of 2^19 outputs at a time. Time: ten or so exact passes, one a slice and step, `repeats` noisy ones.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> analog, x = an.convert(torch.nn.Linear(64, 8), an.HardwareProfile.load("8bit")), torch.randn(100, 64)
    >>> _ = an.calibrate(analog, x)
    >>> budget = an.noise_budget(analog, x)
    >>> [stage for stage, square in budget.layers[0].stages.items() if square]
    ['dac_rounding', 'adc_clipping', 'adc_rounding']
    """
    repeats, seed = whole(repeats, "repeats", CalibrationError), checked(seed, CalibrationError)
    if repeats < 0:
        raise CalibrationError(f"repeats: 0 or more is needed (got {repeats})")
    for name, layer in analog_layers(model):
        if Management.of(layer.profile) is not None:
            raise ProfileError(
                f"{name or 'the layer'}: a budget takes every vector alike, and DACs that round to the nearest level; "
                "set dac.input_range 'vector' to 'calibrated', adc.bound_management to 0 and dac.rounding to 'nearest'"
            )
        if layer.profile.tile.current_limit is not None and layer.profile.cells_are_noisy:
            raise ProfileError(
                f"{name or 'the layer'}: a budget does not know what integrators leave of the noise of cells; set "
                "tile.current_limit to null, or cells.read_noise and flicker.amplitude to 0"
            )
    model = copied(model).eval()
    remove_noise(model)
    numbers = count()
    with observed(model, lambda layer: Meter(layer, next(numbers), repeats, seed)) as seen:
        run(model, [batch], progress, "Measuring", step)
    layers = tuple(_layer(name, meter) for name, _, meter in seen)
    sigma, error = _network(model, batch, step, repeats, seed) if repeats else (math.nan, math.nan)
    return NoiseBudget(layers, sigma, error, seen[0][1].profile.name)


def _layer(name: str, meter: Meter) -> LayerBudget:
    if not meter.outputs:
        raise CalibrationError(
            f"{name}: the network never called this layer on this batch; leave it digital (convert's keep_digital)"
        )
    means = {key: value / meter.outputs for key, value in meter.squares.items()}
    stages = {stage: means[stage] for stage in STAGES}
    return LayerBudget(
        name or "the layer",
        stages,
        means["total"] - sum(stages.values()),
        means["total"],
        means["measured"] if meter.repeats else math.nan,
        means["signal"],
        meter.inputs_clipped / max(1, meter.inputs),
        meter.conversions_clipped / max(1, meter.conversions),
    )


@torch.no_grad()
def _network(model: nn.Module, batch: Batch, step: Step | None, repeats: int, seed: int) -> tuple[float, float]:
    """Return the network's equivalent σ, and the mean square error of its output on the hardware."""
    batch, digital = moved(batch, device_of(model)), to_digital(model)

    def output(network: nn.Module) -> Any:
        return logits_of(called(network, batch, step, "batch"))

    exact = output(digital)
    if not isinstance(exact, Tensor):
        return math.nan, math.nan
    set_seed(model, derive(seed, Key.BUDGET_HARDWARE))
    error = _mean_square([output(model) - exact for _ in range(repeats)])
    if not 0 < error < math.inf:
        return (0.0 if error == 0 else math.nan), error
    noisy = injected(digital, NoiseSpec(sigma=1.0, seed=derive(seed, Key.BUDGET_SITES)), True, "noise_budget")
    sigma = 0.01
    for _ in range(40):
        set_noise(noisy, sigma)
        for site in all_sites(noisy):
            site.calls = 0  # the same numbers for every σ
        found = _mean_square([output(noisy) - exact for _ in range(repeats)])
        ratio = math.sqrt(error / found) if found > 0 else 2.0
        if abs(ratio - 1) < 0.005:
            return sigma, error
        # The error grows with σ² while the network is nearly linear, and with less or more beyond.
        sigma *= min(max(ratio, 0.1), 10.0)
    return math.nan, error


def _mean_square(errors: list[Tensor]) -> float:
    return float(torch.stack([error.double().square().mean() for error in errors]).mean())
