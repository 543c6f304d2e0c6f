"""Constant full-scale ranges from data: one pass over calibration batches, streaming statistics."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from ..batches import Batches, Step, run
from ..chip.dac_steps import step_coefficients
from ..errors import CalibrationError, warn
from ..nn import AnalogLayer
from ..nn.basis import basis
from ..nn.observing import observed
from ..noise import without_noise
from ..profile import Range
from ..ranks import gathered, heard
from ..value import LARGEST_SCALE, LEAST_SCALE
from .kinds import hull, of_adc, of_dac, scaled, size
from .observer import Observer

Method = Literal["maximum", "percentile", "mse", "noise-aware"]
Per = Literal["network", "layer", "tile", "slice"]


@torch.inference_mode(False)  # the ranges must outlive it
def calibrate(
    model: nn.Module,
    batches: Batches,
    method: Method = "maximum",
    *,
    per: Per | None = None,
    percentile: float = 99.9,
    step: Step | None = None,
    progress: bool = True,
    together: bool = True,
) -> dict[str, dict[str, Any]]:
    r"""Set every analog layer's `input_range` α and `adc_full_scale` F from data.

    The network runs once without converters and noise, injected noise included; of each layer's inputs x and partial
    sums u_t = x_t ŵ_tᵀ (in normalised units u_t/α) histograms are kept, whose size does not depend on the amount of
    data. Then

    * `maximum`: the largest magnitudes; nothing of this data clips, but what is below 0 where a converter has no sign.
    * `percentile`: percentiles of the magnitudes; of an asymmetric converter, half of what it leaves out at either
      end.
    * `mse`: α and F that each minimise the mean square error of their own converter, E[(Q(v) − v)²] with Q clipping to
      the range and rounding to the profile's bits, on noise-free data.
    * `noise-aware`: α and F that together minimise the layer's output error under the profile's noise,

          J(α, F) = ‖W‖²·E[(DAC_α(x) − x)²] + w²·Σ_t { V_t(α) + E[(ADC_{αF}(u_t + n) − (u_t + n))²] },  n ~ N(0, V_t),
          V_t(α) = α²·(σ_out² + σ_wander²) + σ_r²·E‖x_t‖² + σ_m²·E[u_t²],

      in squared activation units, with ‖W‖² and w² the means over outputs of ‖W_j‖² and w_max². A larger α clips fewer
      inputs, but rounds them more coarsely and makes σ_out larger in activation units. Errors of different inputs and
      tiles count as uncorrelated, and noise of any distribution as normal. An ideal DAC sets no limit to the signal;
      its α is then the largest input.

    A converter with `symmetric: false` gets a range [low, high] in the place of ±α or ±F: the least and the largest
    value and 0, percentiles, or both ends of least error; then moved by at most half a step, so that 0 is a level. α is
    the magnitude of the end that is farther from 0.

    Slices of weights and steps of inputs are converted by themselves, and so are their sums counted; in J each
    conversion has the square of the coefficient that it is added up with. With `per` "slice" each slice in each step
    has an F of its own, from its own sums in all tiles. Steps are those of the DAC's range where it
    is given, else of each batch's largest input; so are the squares and cubes of inputs that cells which are not linear
    (`iv`) answer to.

    Parameters
    ----------
    model : nn.Module
        A converted network.
    batches : iterable of batches, Dataset, or a batch
        Network inputs: tensors (packed sequences too), tuples (inputs, labels), of which the first is taken, or
        mappings, as `model(**batch)` takes them. A tuple of two tensors is one batch where the second is labels: as
        many, of another shape or type.
    method : {"maximum", "percentile", "mse", "noise-aware"}
    per : {"network", "layer", "tile", "slice"}, optional
        What shares one F; default: each layer's profile's `adc.per`. A pair's halves that are subtracted digitally
        share their slice's. α is always a layer's own: it scales digitally.
        With "network", maximum and percentile take the largest of the layers' F, the others the F of least sum of the
        layers' ADC errors, each relative to the power of its partial sums.
    percentile : float
        In (0, 100]; magnitudes above it will clip.
    step : callable, optional
        (model, batch) → (output, target): how the network is called on batches of any other kind.
    progress : bool
        Show a progress bar where standard error is a terminal.
    together : bool
        Of processes of torch.distributed, each with batches of its own: all call this, and all get what follows from
        the batches of all. False: this process by itself, as where rank 0 alone calls it.

    Returns
    -------
    dict
        Layer name → {"input_range": activation units, "adc_full_scale": normalised units (a list for tiles, for
        slices a list of each one's list of steps, the lowest first; of `symmetric: false` `Range`s, low and high, in
        the place of numbers),
        "input_clipped", "adc_clipped": fractions of these batches' inputs and noise-free partial sums beyond them}, and
        "assumed" → why, where these batches do not tell a range.

    Raises
    ------
    CalibrationError
        There is no such method, granularity or percentile; a layer has neither slices nor steps to have F each; no
        batch was given, a value is not finite, or no layer saw
        anything but zeros; or processes of torch.distributed have other layers or hardware, or another of
        them failed.
    ConversionError
        The model has no analog layer.

    Notes
    -----
    A layer that was never called, or whose inputs or partial sums are all zero (an idle expert, a head or LoRA's B that
    begins at 0), gets ranges that it can work with, and an `AnalogSimWarning` names it: without inputs the largest α
    and F of the others; without sums the F that weights drawn from [-1, 1] would need for these inputs, four standard
    deviations. Where a percentile is 0, the maximum is taken.

    An `AnalogSimWarning` also names layers of whose inputs or partial sums more than a tenth is below 0 and their
    converter has no sign, or is beyond a range that the profile gives.

    Where the profile gives a range as a number, that number is used; what is found for the other is best beside it.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> analog = an.convert(torch.nn.Sequential(torch.nn.Linear(64, 8)), an.HardwareProfile.load("8bit"))
    >>> report = an.calibrate(analog, torch.linspace(-2, 2, 640).view(10, 64))
    >>> report["0"]["input_range"], analog[0].input_range
    (2.0, tensor(2.))
    """
    if method not in get_args(Method) or not 0 < percentile <= 100:
        known = ", ".join(get_args(Method))
        raise CalibrationError(f"method is one of {known}, 0 < percentile <= 100 (got {method!r}, {percentile!r})")
    if per not in (None, *get_args(Per)):
        raise CalibrationError(f"per: 'network', 'layer', 'tile' or 'slice' is needed (got {per!r})")
    binned = method != "maximum"

    def observer(layer: AnalogLayer) -> Observer:
        return Observer(layer.profile, binned or _has_constants(layer), _rule(layer, per) == "slice")

    with heard(together), without_noise(model), observed(model, observer) as seen:
        run(model, batches, progress, "Calibrating", step)
    _pool(seen, together)
    layers = [_Layer(name, layer, one, method, percentile) for name, layer, one in seen]
    found = [one for one in layers if not one.idle]
    if not found:
        raise CalibrationError(
            f"batches: the inputs of all layers ({', '.join(one.name or 'the layer' for one in layers)}) are all zero, "
            "or they were never called; give other batches"
        )
    most = hull([one.top for one in found]), hull([one.full_scale() for one in found])
    for one in layers:
        if one.idle:
            one.top, one.guess = one.dac.of(most[0]), one.adc.of(most[1])
            one.set_alpha()
    shared = [one for one in found if _rule(one.layer, per) == "network"]
    common = _common(shared) if shared else most[1]
    report = {}
    for one in layers:
        rule = _rule(one.layer, per)
        scales = common if rule == "network" else one.full_scale() if rule == "layer" else one.full_scales()
        report[one.name] = one.store(scales)
    _say_assumed(layers)
    _say_cut(layers, report)
    return report


def _pool(seen: list[tuple[str, AnalogLayer, Observer]], together: bool) -> None:
    """Give every process of torch.distributed what all of them saw."""
    ranks = gathered([(name, layer.profile.checksum, one.sent()) for name, layer, one in seen], together)
    if any([own[:2] for own in other] != [own[:2] for own in ranks[0]] for other in ranks):
        raise CalibrationError(
            "the processes of torch.distributed have other layers or hardware: convert the same network alike in all"
        )
    if len(ranks) > 1:
        for (_, _, one), each in zip(seen, zip(*ranks, strict=True), strict=True):
            one.pool([other for _, _, other in each])


def _say_assumed(layers: list["_Layer"]) -> None:
    """Warn of layers whose ranges these batches do not tell."""
    assumed = [f"{one.name or 'the layer'} ({one.assumed})" for one in layers if one.assumed]
    if assumed:
        warn(
            f"calibrate: the batches do not tell all ranges of {len(assumed)} of {len(layers)} layers, which are "
            f"assumed: {', '.join(assumed)}; give batches (or weights) that do, or name in convert's keep_digital what "
            "is for training alone or has its weight read by other code"
        )


CUT = 0.1
"""Share of a layer's inputs, or of its partial sums, which a converter may cut off without a warning."""


def _say_cut(layers: list["_Layer"], report: dict[str, dict[str, Any]]) -> None:
    """Warn of layers much of whose inputs or sums converters cut off, though nobody chose it to be so.

    That is what is below 0, of a converter without a sign, and what is beyond a range that the profile gives. (What a
    method leaves out of a range is its choice.)
    """
    said = []
    for one in (one for one in layers if not one.assumed):
        dac, adc = one.layer.profile.dac, one.layer.profile.adc
        cuts = (
            ("inputs", one.seen.inputs, dac.bits is not None and one.given is not None, "input_clipped"),
            ("partial sums", one.sums, adc.is_given and not adc.bound_management, "adc_clipped"),
        )
        for what, histogram, given, clipped in cuts:
            below = histogram.below / max(1, histogram.number)
            share = report[one.name][clipped] if given else below
            if share > CUT:
                why = (
                    "below 0, and their converter has no sign" if below > share / 2 else "beyond a range that is given"
                )
                said.append(f"{one.name or 'the layer'} ({share:.0%} of its {what} are {why})")
    if said:
        warn(
            f"calibrate: converters cut off much of what these layers get: {', '.join(said)}; give these a profile of "
            "their own (a sign, another range), or name them in convert's keep_digital"
        )


def _rule(layer: AnalogLayer, per: Per | None) -> Per:
    """Return what shares one full scale in a layer: of constants for each slice, a slice."""
    profile = layer.profile
    rule = "slice" if profile.adc.slice_scales else per or profile.adc.per
    if rule == "slice" and not profile.is_sliced:
        raise CalibrationError(
            f"per 'slice': {layer._where()} has neither weights in slices (cells.bits) nor inputs in steps "
            "(dac.step_bits); choose 'layer'"
        )
    return rule


def _has_constants(layer: AnalogLayer) -> bool:
    """Return whether a range is given, so that data may clip whatever the method."""
    return isinstance(layer.profile.dac.input_range, float | Range) or layer.profile.adc.is_given


@dataclass
class _Layer:
    """One layer, what was seen of it, and the input range that follows from it."""

    name: str
    layer: AnalogLayer
    seen: Observer
    method: Method
    percentile: float

    def __post_init__(self) -> None:
        profile = self.layer.profile
        dac = profile.dac
        self.dac, self.adc = of_dac(dac), of_adc(profile.adc)
        self.sums = self.adc.pooled(self.seen.sums or [self.adc.histogram(True)])
        self.assumed: str = ""
        self.guess: Any = None
        for what, histogram in (("inputs", self.seen.inputs), ("partial sums", self.sums)):
            if not math.isfinite(histogram.maximum):
                raise CalibrationError(f"{self.name}: its {what} are not finite; check the batches and the weights")
            if self.assumed:
                continue
            if not histogram.maximum:
                zero = "all 0 or below, and their converter has no sign" if histogram.below else "all zero"
                self.assumed = f"its {what} are {zero}" if self.seen.inputs.number else "the network never called it"
            elif not size(self._percentile(histogram)):
                self.assumed = f"its {what} are all zero at this percentile: their maximum"
        if self.method == "noise-aware" and not math.isfinite(sum(norm for norm, _ in self.seen.norms)):
            raise CalibrationError(f"{self.name}: its inputs are too large for read noise; their squares overflow")
        self.given = dac.input_range if isinstance(dac.input_range, float | Range) else None
        if dac.input_range == "vector":  # inputs were seen as they are converted, each vector by its own largest
            self.given = 1.0
        if self.idle:
            return
        self.top = self._usable("inputs", self.dac.aligned(self._input_range()))
        self.set_alpha()
        if not self.sums.maximum:  # what weights drawn from [-1, 1] would make of these inputs, four deviations
            square = min(1.0, self.seen.inputs.mean_square / self.alpha**2)
            square = square if dac.step_bits is None else max(square, 0.4)  # low digits are as good as uniform
            self.guess = self.adc.of(4 * math.sqrt(max(1.0, self.seen.rows) * square / 3))

    def set_alpha(self) -> None:
        """Take the range that inputs are converted with: the profile's, or what was found."""
        self.range = self.top if self.given is None else self.dac.aligned(self.given)
        self.alpha = size(self.range)

    @property
    def idle(self) -> bool:
        """True where nothing but zeros was seen of the inputs, so that other layers' ranges must do."""
        return not self.seen.inputs.maximum

    def _percentile(self, histogram: Any) -> Any:
        return histogram.percentile(self.percentile) if self.method == "percentile" else self._all(histogram)

    def _all(self, histogram: Any) -> Any:
        return (self.dac if histogram is self.seen.inputs else self.adc).all(histogram)

    def _own(self, histogram: Any) -> Any:
        found = self._percentile(histogram)
        return found if size(found) else self._all(histogram)

    def _input_range(self) -> Any:
        inputs, noise = self.seen.inputs, self.layer.profile.noise
        if self.method in ("maximum", "percentile") or self.layer.profile.dac.bits is None:
            return self._own(inputs)
        of_alpha = noise.output or noise.wander or self.layer.profile.adc.is_given
        if self.method == "mse" or not of_alpha or not self.sums.maximum:
            return self.dac.best(inputs)
        clips, parts, tiles = self.layer.profile.adc.full_scale is not None, self._parts(), len(self.seen.tiles)

        def error(alphas: np.ndarray) -> np.ndarray:
            ranges = [self.dac.of_size(inputs, float(alpha)) for alpha in alphas]
            total = self.seen.row_power * self.dac.errors(inputs, ranges)
            for index, alpha in enumerate(alphas):
                unit = self.unit(float(alpha))
                for power, part, given in parts:
                    sums, sigma = self._sums(part), math.sqrt(self.variance(unit, part))
                    if given is not None:
                        adc = float(self.adc.errors(sums, [scaled(given, unit)], sigma)[0])
                    else:
                        adc = self.adc.least_error(sums, sigma) if clips else 0.0
                    total[index] += (alpha / unit) ** 2 * power * tiles * (sigma**2 + adc)
            return total

        # Coarse first: every candidate needs the best full scale beside it.
        grid = inputs.maximum * np.geomspace(2.0**-8, 1, 25)
        near = int(np.argmin(error(grid)))
        grid = np.geomspace(grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)], 13)
        return self.dac.of_size(inputs, float(grid[int(np.argmin(error(grid)))]))

    def _parts(self) -> list[tuple[float, int | None, Any]]:
        """Return what is converted in its own way: the power that it is added up with, which sums it is, and its
        constant full scale; of all slices and steps as one, no number.
        """
        adc, steps = self.layer.profile.adc, [one**2 for one in step_coefficients(self.layer.profile.dac)]
        constant = adc.full_scale if adc.is_given else None
        if not self.seen.by_slice:
            return [(self.seen.gain_power * sum(self.seen.slice_power) * sum(steps), None, constant)]
        powers = [self.seen.gain_power * one * step for one in self.seen.slice_power for step in steps]
        constants = adc.slice_scales or [constant] * len(powers)
        return [(power, i, own) for i, (power, own) in enumerate(zip(powers, constants, strict=True))]

    def _sums(self, part: int | None) -> Any:
        """Return the sums of one tile or slice, or of the layer."""
        return self.sums if part is None else self.seen.sums[part]

    def _usable(self, what: str, scale: Any) -> Any:
        """Return a full scale that float32 can convert with: what is smaller than the least counts as zero."""
        if not size(scale) <= LARGEST_SCALE:  # NaN, too, where the squares that read noise needs overflow
            raise CalibrationError(
                f"{self.name}: its {what} reach {size(scale):.3g}, and a full scale at most {LARGEST_SCALE:.2g}; check "
                "the batches and the weights"
            )
        if isinstance(scale, Range):
            return scale if scale.size >= LEAST_SCALE else Range(0.0, LEAST_SCALE)
        return max(scale, LEAST_SCALE)

    def unit(self, alpha: float) -> float:
        """Return what a normalised unit is in the sums that were seen."""
        return alpha if self.layer.profile.dac.step_bits is None else 1.0

    def variance(self, unit: float, part: int | None = None) -> float:
        """V: variance of the noise on a partial sum of a tile or a slice, units of u²; without one, the mean of all."""
        noise, sums = self.layer.profile.noise, self._sums(part)
        norms = np.array(self.seen.norms if part is None else [self.seen.norms[part]], float).sum(0)
        length2 = norms[0] / norms[1] if norms[1] else 0.0
        white = unit**2 * (noise.output**2 + noise.wander**2)
        return white + noise.read**2 * length2 + noise.multiplicative**2 * sums.mean_square

    def full_scale(self, part: int | None = None) -> Any:
        """F of the layer, or of one tile or slice, normalised units."""
        if self.guess is not None:
            return self.guess
        sums = self._sums(part)
        if self.method in ("maximum", "percentile"):
            # A tile that saw only zeros converts only zeros: any full scale does.
            found = self._own(sums)
        else:
            sigma = math.sqrt(self.variance(self.unit(self.alpha), part)) if self.method == "noise-aware" else 0.0
            found = self.adc.best(sums, sigma)
        if not size(found):
            found = self._own(self.sums)
        unit = self.unit(self.alpha)
        return Range(found.low / unit, found.high / unit) if isinstance(found, Range) else found / unit

    def full_scales(self) -> Any:
        """F of every tile or slice; of a layer that was never called, how many are not known, of all."""
        if not self.seen.sums:
            return self.guess
        return [self.full_scale(part) for part in range(len(self.seen.sums))]

    def relative_error(self, scales: np.ndarray) -> np.ndarray:
        """Error of the ADC at full scales F (S,), relative to the power of the partial sums."""
        unit = self.unit(self.alpha)
        sigma = math.sqrt(self.variance(unit)) if self.method == "noise-aware" else 0.0
        return self.adc.errors(self.sums, scales * unit, sigma) / self.sums.mean_square

    def store(self, full_scale: Any) -> dict[str, Any]:
        """Write the ranges into the layer; return its line of the report."""
        many = isinstance(full_scale, list)
        wanted = [self.adc.aligned(scale) for scale in (full_scale if many else [full_scale])]
        usable = [self._usable("partial sums", scale) for scale in wanted]
        by_slice, steps = many and self.seen.by_slice, self.layer.profile.dac.steps
        full_scale = usable if many else usable[0]
        device = self.layer.adc_full_scale.device
        held = torch.tensor(self.top, dtype=torch.float32, device=device)
        with torch.no_grad():
            if held.shape == self.layer.input_range.shape:  # in place, for it may be a parameter
                self.layer.input_range.copy_(held)
            else:
                self.layer.input_range = held
        scales = usable if many or isinstance(full_scale, Range) else full_scale
        scales = torch.tensor(scales, dtype=torch.float32, device=device)
        self.layer.adc_full_scale = scales.view(-1, steps, scales[0].numel()) if by_slice else scales
        self.layer.calibrated_for = basis(self.layer.profile, least_error=self.method in ("mse", "noise-aware"))
        if by_slice:
            full_scale = [usable[start : start + steps] for start in range(0, len(usable), steps)]
        result: dict[str, Any] = {"input_range": self.top, "adc_full_scale": full_scale}
        if self.assumed:
            result["assumed"] = self.assumed
        if not self.seen.sums:
            return result | {"input_clipped": 0.0, "adc_clipped": 0.0}
        adc = self.layer.profile.adc
        constants = adc.slice_scales or [self.adc.of(math.inf) if adc.full_scale is None else adc.full_scale]
        limits = usable if adc.full_scale == "calibrated" else [self.adc.aligned(one) for one in constants]
        limits = limits if len(limits) > 1 else limits * len(self.seen.sums)
        unit = self.unit(self.alpha)
        clipped = [one.outside(scaled(top, unit)) * one.number for one, top in zip(self.seen.sums, limits)]
        return result | {
            "input_clipped": self.seen.inputs.outside(self.range) if self.layer.profile.dac.bits else 0.0,
            "adc_clipped": sum(clipped) / max(1, self.sums.number),
        }


def _common(layers: list[_Layer]) -> Any:
    """Return the one full scale of several layers."""
    if len({layer.layer.profile.adc.symmetric for layer in layers}) > 1:
        raise CalibrationError("per 'network': symmetric and asymmetric ADCs share no range; calibrate each layer's")
    layers = [layer for layer in layers if layer.guess is None] or layers
    own = [layer.full_scale() for layer in layers]
    if layers[0].guess is not None or layers[0].method in ("maximum", "percentile"):
        return hull(own)
    return layers[0].adc.least(
        lambda scales: np.sum([layer.relative_error(scales) for layer in layers], axis=0), hull(own)
    )
