"""A kernel that computes exactly and takes notes: the magnitudes of inputs and of partial sums, for calibration."""

import math

import torch
from torch import Tensor

from ..kernels import Clips, MatmulSpec

SAMPLE = 2**16  # magnitudes kept of one batch and layer


class Sample:
    """Magnitudes of a stream of tensors: their maximum, and a uniform sample of each for percentiles."""

    def __init__(self, generator: torch.Generator) -> None:
        self.maximum = 0.0
        self.values: list[Tensor] = []
        self.generator = generator

    def add(self, values: Tensor, keep: int = SAMPLE) -> None:
        """Take note of |values|; at most `keep` of them are remembered."""
        values = values.detach().flatten()
        if not len(values):
            return
        low, high = torch.aminmax(values)
        top = float(torch.maximum(high, -low))
        if top > self.maximum or math.isnan(top):  # once NaN, it stays NaN
            self.maximum = top
        if len(values) > keep:
            values = values[torch.randint(len(values), (keep,), generator=self.generator).to(values.device)]
        self.values.append(values.abs().cpu())

    def percentile(self, percent: float) -> float:
        """Return the magnitude below which `percent` % of the sample lies."""
        values = torch.cat(self.values)
        return float(values.kthvalue(max(1, round(percent / 100 * len(values)))).values)


class Observer:
    """A backend (the functions `matmul`, `dac`, `accumulate`) without converters and noise that records as it computes.

    Partial sums are recorded for α = 1: in normalised units they are these divided by α.
    """

    def __init__(self, seed: int = 0, signed: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.signed = signed
        self.inputs, self.sums = Sample(generator), Sample(generator)

    def matmul(
        self,
        x: Tensor,
        w: Tensor,
        spec: MatmulSpec,
        seed: int,
        stream: int,
        scale: Tensor | None,
        bias: Tensor | None,
        record_clips: bool,
    ) -> tuple[Tensor, Clips | None]:
        """Multiply tile by tile, exactly."""
        x = self.dac(x, spec)
        out = x.new_zeros(len(x), len(w))
        tiles = spec.tiles(x.shape[1])
        for start, stop in tiles:
            partial = x[:, start:stop] @ w[:, start:stop].T
            self.sums.add(partial, SAMPLE // len(tiles))
            out += partial
        if scale is not None:
            out = out * scale
        return out if bias is None else out + bias, None

    def dac(self, x: Tensor, spec: MatmulSpec, *_: object) -> Tensor:
        """Record inputs (of an unsigned DAC only what it can convert) and pass them on."""
        self.inputs.add(x if self.signed else x.clamp(min=0))
        return x

    def accumulate(self, out: Tensor, partial: Tensor, *rest: object) -> int:
        """Record partial sums and add them; the last argument says whether they are the first."""
        self.sums.add(partial)
        out.copy_(partial) if rest[-1] else out.add_(partial)
        return 0
