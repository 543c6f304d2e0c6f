"""Constant full-scale ranges from data: one pass over calibration batches."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .errors import CalibrationError, ConversionError
from .nn import analog_layers
from .nn.observer import Observer

Batch = Tensor | PackedSequence | tuple[Tensor, ...] | list[Tensor]


def calibrate(
    model: nn.Module,
    batches: Iterable[Batch] | Tensor | PackedSequence,
    method: Literal["maximum", "percentile"] = "maximum",
    *,
    percentile: float = 99.9,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Set every analog layer's `input_range` and `adc_full_scale` from data.

    The network runs without converters and noise; each layer's inputs and partial sums are observed. The ranges are set
    to their largest magnitude, or to a percentile of the magnitudes (of a uniform sample of 2^16 a batch).

    Parameters
    ----------
    model : nn.Module
        A converted network.
    batches : iterable of Tensor or (Tensor, …), or Tensor
        Network inputs (packed sequences too); of a tuple (inputs, labels) the first is taken.
    method : {"maximum", "percentile"}
    percentile : float
        In (0, 100]; magnitudes above it will clip.
    seed : int
        Of the sampling for percentiles.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    dict
        Layer name → {"input_range": activation units, "adc_full_scale": normalised units}.

    Raises
    ------
    CalibrationError
        No batch was given, a value is not finite, or a layer was never reached or saw only zeros.
    ConversionError
        The model has no analog layer.
    """
    if method not in ("maximum", "percentile") or not 0 < percentile <= 100:
        raise CalibrationError(
            f"method is 'maximum' or 'percentile' with 0 < percentile <= 100 (got {method!r}, {percentile!r})"
        )
    layers = list(analog_layers(model))
    if not layers:
        raise ConversionError(f"{type(model).__name__}: no layer is analog; convert(model, profile) first")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for number, (_, layer) in enumerate(layers):
            layer._observer = Observer(seed + number, layer.profile.dac.signed)
        _run(model, batches, progress)
        observed = {name: _ranges(name, layer._observer, method, percentile) for name, layer in layers}
    finally:
        for module, training in modes.items():
            module.training = training
        for _, layer in layers:
            layer._observer = None
    report = {}
    for name, layer in layers:
        top_input, top_sum = observed[name]
        rule = layer.profile.dac.input_range
        alpha = rule if isinstance(rule, float) else top_input
        layer.input_range.fill_(top_input)
        layer.adc_full_scale.fill_(top_sum / alpha)
        report[name] = {"input_range": top_input, "adc_full_scale": top_sum / alpha}
    return report


@torch.no_grad()
def _run(model: nn.Module, batches: Iterable[Batch] | Tensor | PackedSequence, progress: bool) -> None:
    from .progress import track

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    for batch in track([batches] if isinstance(batches, Tensor | PackedSequence) else batches, "Calibrating", progress):
        # A PackedSequence is a tuple too, but one input.
        inputs = batch[0] if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence) else batch
        if not isinstance(inputs, Tensor | PackedSequence):
            raise CalibrationError(
                f"batches: batch {count} is neither a tensor nor a tuple that starts with one (got "
                f"{type(batch).__name__})"
            )
        model(inputs.to(device))  # type: ignore[arg-type]
        count += 1
    if not count:
        raise CalibrationError("batches: empty; give at least one batch of network inputs")


def _ranges(name: str, observer: Observer | None, method: str, percentile: float) -> tuple[float, float]:
    assert observer is not None  # noqa: S101 - set above
    ranges = []
    for what, sample in (("inputs", observer.inputs), ("partial sums", observer.sums)):
        if not sample.values:
            raise CalibrationError(f"{name}: the network never used this layer on the calibration batches")
        top = sample.maximum if method == "maximum" else sample.percentile(percentile)
        if not math.isfinite(sample.maximum):
            raise CalibrationError(f"{name}: its {what} are not finite; check the batches and the weights")
        if top == 0:
            raise CalibrationError(
                f"{name}: its {what} are all zero (at this percentile); give other batches or a higher percentile, or "
                "weights if this layer's are all zero"
            )
        ranges.append(top)
    return ranges[0], ranges[1]
