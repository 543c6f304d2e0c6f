"""What machine code needs to know of one tile's ADCs (`jit.convert`), made once of what they are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conversion import Conversion
from ...memory import address, contiguous
from .matmul import floats, repeats


@dataclass(frozen=True, slots=True, eq=False)
class ADCs:
    """One tile's ADCs, of N columns.

    Attributes
    ----------
    gains, offsets, table, values, starts : Tensor or None
        As `jit.convert` takes them.
    levels : Tensor (8,)
    depth, stride, comparisons : int
        Of `jit.convert`'s sizes.
    """

    gains: Tensor | None
    offsets: Tensor | None
    table: Tensor | None
    values: Tensor | None
    starts: Tensor | None
    levels: Tensor
    depth: int = 0
    stride: int = 0
    comparisons: int = 0

    @property
    def addresses(self) -> list[int]:
        """Where its arrays are, and how many numbers each has."""
        found = []
        for array in (self.gains, self.offsets, self.table, self.values, self.starts):
            count = 0 if array is None else array.numel()
            found += [address(array, count, torch.float32 if array is not self.starts else torch.int32), count]
        return found


def adcs(conversion: Conversion, columns: int, in_rows: bool) -> ADCs:
    """Return one tile's ADCs; `in_rows`: for outputs (M, N), where columns follow one another."""
    name = f"numba {in_rows}"
    found = conversion.prepared.get(name)
    if found is None:
        found = conversion.prepared[name] = _adcs(conversion, columns, in_rows)
    return found


def _adcs(conversion: Conversion, columns: int, in_rows: bool) -> ADCs:
    times = repeats(columns) if in_rows else 1
    low, high = conversion.limits
    step = conversion.step
    gains = offsets = None
    if conversion.differs:
        gains, offsets = (contiguous(part).repeat(times) for part in (conversion.gains, conversion.offsets))
    quantizer = [low, high, 1 / step if step else 0.0, step]
    if conversion.table is None:
        return ADCs(gains, offsets, None, None, None, floats([*quantizer, 0, 0, 0, 0]))
    thresholds, outputs = conversion.table
    depth = outputs.shape[1].bit_length() - 1
    shift, comparisons = first_guess(thresholds, step) if step else (0.0, 0)
    comparisons = comparisons if comparisons < depth else 0
    stride = outputs.shape[1] + comparisons
    # What is compared with beyond the last threshold is never reached.
    table = thresholds.new_full((len(thresholds), stride), math.nan)
    table[:, 1 : outputs.shape[1]] = thresholds
    codes = outputs[0, :2].div(step).round().tolist() if step else [0.0, 1.0]
    zero, least = 1 - codes[1], codes[0]
    even = (torch.arange(outputs.shape[1], dtype=outputs.dtype, device="cpu") - zero).clamp(min=least) * step
    values = None
    if not torch.equal(even.expand_as(outputs), outputs):
        values = outputs.new_zeros(len(outputs), stride)
        values[:, : outputs.shape[1]] = outputs
    starts = None
    if len(thresholds) > 1:
        starts = (torch.arange(columns, dtype=torch.int32, device="cpu") * stride).repeat(times)
    levels = floats([*quantizer, 1 / step if step else 0.0, shift, zero, least])
    return ADCs(gains, offsets, table, values, starts, levels, depth, stride, comparisons)


def first_guess(thresholds: Tensor, step: float) -> tuple[float, int]:
    """Return by what sums in steps are shifted for a first guess of their code, and how many codes may follow it.

    The guess u = floor(v/step + shift) grows with v, so that it need only be right where codes change: just below a
    threshold no more than the code there, which sets the shift; and at it so little less that as many comparisons lead
    on to the code.

    Parameters
    ----------
    thresholds : Tensor (ADCs, 2^b - 1), float32
        Where codes 1, 2, … begin.

    Returns
    -------
    shift : float
    comparisons : int
        0: the thresholds are in no order, or not finite.
    """
    if not thresholds.isfinite().all() or bool((thresholds.diff(dim=1) < 0).any()):
        return 0.0, 0
    scaled = thresholds.double() * float(floats(1 / step))
    below, within = (torch.searchsorted(thresholds, thresholds, right=right) for right in (False, True))
    # Float32 rounds a product, a sum, and what they are made of.
    rounding = 2.0**-21 * (float(scaled.abs().amax()) + thresholds.shape[1] + 1)
    shift = float((below + 1 - scaled).amin()) - 2 * rounding
    guesses = (scaled + shift - rounding).floor().clamp(0, thresholds.shape[1])
    return shift, int((within - guesses).amax())
