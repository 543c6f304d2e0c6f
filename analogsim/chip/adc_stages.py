"""Pipeline and cyclic ADCs: stages that decide a bit and a half each, and double what is left."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..profile import ADC
from ..profile.kinds import ADC_KINDS
from .adc_kinds import ADCKind, Draw, symmetric

Array = np.ndarray


class Pipeline(ADCKind):
    """A stage of its own for each bit but the last, which is one comparator.

    With Vx = v + 1/2 (of an unsigned ADC v + 1/2 - Vref) at the first stage and Vref = 2^(bits-1) LSB, stage n compares
    Vx with ±Vref/4, each comparator with an offset of its own, and adds to the code 2^(bits-1-n) if it is above both,
    half of that if it is between them, and nothing if it is below. What is left goes on, amplified by two capacitors:

        Vx ← ((1 + γ)·Vx + d·γ·Vref)/(1 + 1/(G·β)),    γ = C₂/C₁,    β = C₁/(C₁ + C₂)

    where d = -1, 0 or 1 is how much was decided, subtracted, and G the amplifier's gain. The last comparator adds 1
    above 0. What lies between the thresholds of one stage is decided again by the next, so that offsets of comparators
    below Vref/4 do no harm; errors of the factor two do, and codes may then be left out or come in another order.

    References
    ----------
    M. Spear et al., *The impact of analog-to-digital converter architecture and variability on analog neural
    network accuracy*, IEEE JXCDC 2023.
    """

    name = "pipeline"

    def parts(self, bits: int) -> tuple[int, int]:
        """Return how many stages and how many comparators an ADC has."""
        return bits - 1, 2 * bits - 1

    def transfer(self, adc: ADC, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return where each ADC's code changes, and to which; places that an ADC does not need come after the last."""
        bits = adc.bits or 1
        stages, comparators = self.parts(bits)
        drawn = draw(2 * stages + comparators).double().cpu().numpy()
        reference = 2.0 ** (bits - 1)
        found = []
        for of_adc in drawn:
            first, second = (1 + adc.capacitor_mismatch * of_adc[: 2 * stages]).reshape(2, stages)
            offsets = adc.comparator_offset * reference * of_adc[2 * stages :]
            found.append(self._traced(adc, bits, first, second, offsets))
        width = max(2**bits, 2 ** math.ceil(math.log2(max(len(values) for _, values in found))))
        thresholds, outputs = np.full((len(found), width - 1), 4 * reference), np.zeros((len(found), width))
        for row, (edges, values) in enumerate(found):
            thresholds[row, : len(edges)] = edges
            outputs[row] = values[-1]
            outputs[row, : len(values)] = values
        kind = {"dtype": codes.dtype, "device": codes.device}
        return torch.tensor(thresholds, **kind), symmetric(adc, codes[0] + torch.tensor(outputs, **kind))

    def _traced(self, adc: ADC, bits: int, first: Array, second: Array, offsets: Array) -> tuple[Array, Array]:
        """Return where one ADC's code changes, in LSB, and its codes u between these places."""
        reference = 2.0 ** (bits - 1)
        start = 0.5 if adc.signed else 0.5 - reference
        gain = math.inf if adc.gain_db is None else 10 ** (adc.gain_db / 20)
        # Of each piece: its ends (one end more than pieces), Vx = slope·v + shift, and the code so far.
        ends = np.array([-reference, reference]) - start
        slope, shift, code = np.ones(1), np.full(1, start), np.zeros(1)
        for n in range(bits):
            last, stage = n == bits - 1, min(n, len(first) - 1)
            at = offsets[min(2 * n, len(offsets) - 3) if not last else len(offsets) - 1 :]
            over, under = (at[0], at[0]) if last else (reference / 4 + at[0], at[1] - reference / 4)
            ends, parent = _cut(ends, slope, shift, (over, under))
            slope, shift, code = slope[parent], shift[parent], code[parent]
            voltage = slope * (ends[1:] + ends[:-1]) / 2 + shift
            above, below = voltage > over, voltage < under
            if last:
                code = code + above
                break
            code = code + 2.0 ** (bits - 1 - n) * above + 2.0 ** (bits - 2 - n) * (~above & ~below)
            ratio = second[stage] / first[stage]
            factor = 1 + (1 + ratio) / gain  # 1 + 1/(G·β)
            slope = slope * (1 + ratio) / factor
            shift = (shift * (1 + ratio) + (below * 1.0 - above) * reference * ratio) / factor
        changes = np.flatnonzero(np.diff(code))
        return ends[1:-1][changes], code[np.append(changes, len(code) - 1)]


class Cyclic(Pipeline):
    """One stage, and one pair of comparators, for all bits but the last; otherwise a pipeline."""

    name = "cyclic"

    def parts(self, bits: int) -> tuple[int, int]:
        """Return how many stages and how many comparators an ADC has."""
        return 1, 3


def _cut(ends: Array, slope: Array, shift: Array, at: Sequence[float]) -> tuple[Array, Array]:
    """Cut pieces where slope·v + shift has one of some values; return all ends, and which piece each is a part of."""
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.concatenate([(value - shift) / slope for value in at])
    inside = (points > np.tile(ends[:-1], len(at))) & (points < np.tile(ends[1:], len(at)))
    cut = np.unique(np.concatenate([ends, points[inside]]))
    return cut, np.searchsorted(ends, (cut[1:] + cut[:-1]) / 2, side="right") - 1


for kind in (Pipeline(), Cyclic()):
    ADC_KINDS.add(kind)
