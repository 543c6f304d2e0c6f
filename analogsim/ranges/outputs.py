"""Gain and offset of each output, measured on a chip as it is now, and applied digitally."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Batches, Step, run
from ..chip import DeviceKernel
from ..errors import CalibrationError, ProgrammingError, warn
from ..kernels import Clips, ConvGeometry, MatmulSpec, Read, choose
from ..kernels.conv_job import Job
from ..nn import AnalogLayer, analog_layers
from ..nn.correction import Correction
from ..nn.management import Management
from ..nn.matrix import ProgrammedMatrix
from ..nn.observing import RowsAsImages, observed
from ..noise import without_noise
from ..ranks import gathered, heard
from ..seeds import Key, Stream, checked, derive, of_rank


@torch.inference_mode(False)  # what is measured must outlive it
def calibrate_outputs(
    model: nn.Module,
    batches: Batches,
    *,
    step: Step | None = None,
    seed: int = 0,
    progress: bool = True,
    together: bool = True,
) -> dict[str, dict[str, float]]:
    r"""Measure a gain a and an offset b for each output of every analog layer, on the chip that it is on, as it is now.

    The network runs once, digitally. With its inputs each layer is also read on its chip, at the chip's age and with
    its noise, and the two products, y of the chip and d of the digital layer, are compared, bias apart: a and b of an
    output minimise

        Σ (a·y + b - d)²,   a = cov(y, d)/var(y),   b = mean(d) - a·mean(y),

    over all samples and positions. From then on the layer gives a·y + b in evaluation. Where an output does not change
    on these batches, a is 1. What errors of an output have in common (drift, gains and offsets of ADCs) is taken out;
    of noise, a takes as much as leaves the smallest squared error.

    Parameters
    ----------
    model : nn.Module
        Converted, with its ranges, and programmed where chips differ; changed in place. What was measured before is
        replaced.
    batches : batches, or Dataset
        As of `calibrate`.
    step : callable, optional
        As of `calibrate`.
    seed : int
        Of the reads' noise, in [0, 2^64).
    progress : bool
        Show a progress bar where standard error is a terminal.
    together : bool
        Of processes of torch.distributed, each with batches of its own: all call this, and all get what follows from
        the batches of all. False: this process by itself, as where rank 0 alone calls it.

    Returns
    -------
    dict
        Layer name → {"before", "after"}: root mean square of the error of its products, relative to that of the digital
        ones.

    Raises
    ------
    ConversionError
        The model has no analog layer.
    ProgrammingError
        A layer must be programmed first, or the seed is none.
    CalibrationError
        A range was never set, a product is not finite, or processes of torch.distributed have other chips, or another
        of them failed.

    Warns
    -----
    AnalogSimWarning
        Layers are not called on these batches; they have no correction then.

    Notes
    -----
    A correction belongs to one chip and its hardware, as a real one does. It is in the layer's `state_dict`, beside the
    chip. When the chip ages it stays, as it is: measure again, if the age of the measurement shall be another.
    `program` and `convert` take it away, for the chip is another then. On a chip or a profile that came about otherwise
    the layer raises `CalibrationError`; only the noise of reads may change. Weights that change keep it. In training
    mode layers draw chips anew, and ignore it.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Sequential(torch.nn.Linear(64, 8)), torch.randn(200, 64)
    >>> analog = an.convert(net, an.HardwareProfile.load("pcm").varied(drift={"compensation": "none"})).eval()
    >>> _, seed = an.calibrate(analog, x, progress=False), an.program(analog, seed=1)
    >>> an.at_time(analog, 86_400)
    >>> found = an.calibrate_outputs(analog, x, progress=False)["0"]
    >>> found["after"] < found["before"] / 2
    True
    """
    seed = of_rank(checked(seed, ProgrammingError))
    layers = [layer for _, layer in analog_layers(model)]
    before = [layer.correction for layer in layers]
    for layer in layers:
        layer.correction = None
    try:
        numbers = iter(range(len(layers)))
        made = observed(model, lambda layer: _Comparison(layer, next(numbers), seed))
        with heard(together), without_noise(model), made as seen:
            run(model, batches, progress, "Calibrating outputs", step)
        _pool([one for _, _, one in seen], together)
        found = [(name, layer, one.correction(name), one.errors()) for name, layer, one in seen if one.number]
    except BaseException:
        for layer, correction in zip(layers, before, strict=True):
            layer.correction = correction
        raise
    for _, layer, correction, _ in found:
        layer.correction = correction
    idle = [name or "the layer" for name, _, one in seen if not one.number]
    if idle:
        warn(f"calibrate_outputs: the batches never reach {', '.join(idle)}; their outputs are not corrected")
    return {name: errors for name, _, _, errors in found}


def _pool(seen: list["_Comparison"], together: bool) -> None:
    """Give every process of torch.distributed the sums of all, in the order of their ranks."""
    ranks = gathered([(one.chip, one.sums, one.counts, one.number) for one in seen], together)
    if any([chip for chip, *_ in other] != [chip for chip, *_ in ranks[0]] for other in ranks):
        raise CalibrationError(
            "the processes of torch.distributed have other chips, or other ages, layers or hardware: program(model, "
            "seed) and at_time alike in all of them, for outputs are measured on one"
        )
    for one, each in zip(seen, zip(*ranks, strict=True), strict=True):
        reached = [part for part in each if part[3]]
        if reached:
            one.sums = torch.stack([sums for _, sums, _, _ in reached]).sum(0)
            one.counts = torch.stack([counts for _, _, counts, _ in reached]).sum(0)
            one.number = sum(number for *_, number in reached)


class _Comparison(RowsAsImages):
    """A backend that computes digitally, reads the chip beside it, and keeps sums over each output."""

    wants_the_chip = True

    def __init__(self, layer: AnalogLayer, place: int, seed: int) -> None:
        if Management.of(layer.profile) is not None:
            raise CalibrationError(
                f"{layer._where()}: outputs are measured with inputs as they are; dac.input_range 'vector', "
                "adc.bound_management and dac.rounding other than 'nearest' are not known to calibrate_outputs"
            )
        self.layer, self.place, self.seed = layer, place, seed
        self.calls = self.number = self.start = self.following = 0
        self.matrix: ProgrammedMatrix | None = None
        self.sums = torch.zeros(0)
        self.counts = torch.zeros(0)

    @property
    def chip(self) -> tuple[Any, ...]:
        """Which chip is measured, of which hardware."""
        layer = self.layer
        return (layer.chip_seed if layer.profile.is_drawn else None), layer.chip_seconds, layer.profile.checksum

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Take note of the matrix, or of the outputs of a group of it, that are read next."""
        n = len(matrix.programmed)
        if not len(self.counts):
            self.sums, self.counts = (torch.zeros(*size, n, dtype=torch.float64) for size in ((5,), ()))
        # A layer of groups writes the whole matrix, and then each group's outputs in their order.
        whole = n == len(self.counts)
        self.start = 0 if whole else self.following
        self.following = 0 if whole else (self.start + n) % len(self.counts)
        self.matrix = matrix

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the layer's own scalars."""
        return layer.spec(x)

    def convolve(self, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> tuple[Tensor, Clips | None]:
        """Convolve with the digital weights; add up what the chip makes of the same inputs."""
        matrix = self.matrix
        assert matrix is not None  # `written` comes first
        assert read.scale is not None
        x = x.contiguous()
        exact = Job(self, x, [], w, geometry, read).convolve(x, matrix.weight.detach().reshape(w.shape))
        kernel: Any = choose(x, self.layer.backend)
        if matrix.chip is not None and DeviceKernel.needed(matrix.chip, self.layer.profile):
            planes = [plane.view(w.shape) for plane in matrix.chip.planes]
            kernel = DeviceKernel(kernel, replace(matrix.chip, planes=planes), self.layer.profile)
        key = derive(self.seed, Key.OUTPUTS, self.place, self.calls)
        gain = read.scale * read.spec.input_range
        own = Read(read.spec, key, Stream.READ, scale=gain, tile_gains=read.tile_gains)
        y = kernel.convolve(x, w, geometry, own)[0].movedim(1, 0).flatten(1).double().cpu()
        d = exact.movedim(1, 0).flatten(1).double().cpu()
        outputs = slice(self.start, self.start + len(y))
        self.sums[:, outputs] += torch.stack([v.sum(1) for v in (y, d, y * y, y * d, d * d)])
        self.counts[outputs] += y.shape[1]
        self.calls, self.number = self.calls + 1, self.number + y.shape[1]
        bias = 0 if read.bias is None else read.bias.view(-1, *[1] * (x.ndim - 2))
        return exact + bias, None

    def correction(self, name: str) -> Correction:
        """Return the fit."""
        if not self.sums.isfinite().all():
            raise CalibrationError(f"{name or 'the layer'}: its products are not finite; check the batches and ranges")
        layer, (gain, offset) = self.layer, self._fit()
        chip = layer.chip_seed if layer.profile.is_drawn else None
        return Correction(gain.float(), offset.float(), chip, layer.profile.checksum, float(layer.chip_seconds or 0.0))

    def _fit(self) -> tuple[Tensor, Tensor]:
        count = self.counts.clamp(min=1)
        y, d, yy, yd, _ = self.sums / count
        spread = yy - y * y
        # What rounding alone makes of a constant is no spread.
        gain = torch.where(spread > 1e-9 * yy, (yd - y * d) / torch.where(spread > 0, spread, 1.0), 1.0)
        return gain, d - gain * y

    def errors(self) -> dict[str, float]:
        """Return the errors before and after."""
        (y, d, yy, yd, dd), (a, b), count = self.sums, self._fit(), self.counts
        before = float((yy - 2 * yd + dd).sum())
        after = float((a * a * yy + count * b * b + dd + 2 * a * b * y - 2 * a * yd - 2 * b * d).sum())
        signal = float(dd.sum())
        return {
            key: math.sqrt(max(value, 0.0) / signal) if signal else 0.0
            for key, value in (("before", before), ("after", after))
        }
