"""Verdicts: what a study's file claims of its methods, held against what was measured.

A claim is free text. Of these forms, in any case of letters, a verdict is given:

==================================================  ====================================================================
the most robust method                              its highest µ is above that of every other method
below (above) the baseline                          every µ of its variants is below (above) the baseline's
µ grows (falls) with s, σ or bits                   µ rises (falls) from each value to the next, and the ends are apart
… while peak accuracy falls (grows)                 it does, from each value to the next, too
adds nothing on top of METHOD                       its µ is below that of METHOD's variant with the same σ
==================================================  ====================================================================

Two µ differ where their 95 % intervals do not overlap. Where one that a verdict needs does not, or has no interval,
there is no decision.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..robustness.midpoint import MidpointFit, three_digits
from .variants import Variant

Word = Literal["holds", "does not hold", "not decided", "not judged"]


@dataclass(frozen=True)
class Verdict:
    """What came of a claim.

    Attributes
    ----------
    claim : str
    word : str
        "holds", "does not hold"; "not decided" where intervals overlap or a µ is missing; "not judged" where the claim
        has no form that is known.
    why : str
        What was measured.
    """

    claim: str
    word: Word
    why: str


def verdict(own: Sequence[Variant], all_: Sequence[Variant], baseline: str | None) -> Verdict | None:
    """Return the verdict on what is claimed of a method on a network; None where nothing is.

    Parameters
    ----------
    own : sequence of Variant
        The method's, on this network.
    all_ : sequence of Variant
        Those of all methods on this network.
    baseline : str or None
        Name of the method that is the floating-point baseline.
    """
    claim = own[0].claim if own else ""
    if not claim:
        return None
    if missing := [one.name for one in own if one.midpoint is None]:
        return Verdict(claim, "not decided", f"no µ: {', '.join(missing)}")
    text, method = claim.lower().replace("μ", "µ"), own[0].cell.method  # two letters that look the same
    reference = [one for one in all_ if one.cell.method == baseline]
    others = [one for one in all_ if one.cell.method != method and one.midpoint]
    if "most robust" in text and others:
        word, why = _above(_best(own), _best(others))
    elif (side := re.search(r"\b(below|above) the (?:[\w-]+ )?baseline", text)) and reference and method != baseline:
        word, why = _beside(own, reference[0], side[1])
    elif trend := re.search(r"µ (grows|falls) with (s|σ|bits)\b(?:.*peak(?: accuracy)? (grows|falls))?", text):
        word, why = _trend(own, *trend.groups())
    elif (on := re.search(r"adds nothing (?:on top of|to) (.+)", text)) and (base := _like(own, all_, on[1])):
        word, why = _above(own[0], base)
        word = {"holds": "does not hold", "does not hold": "holds"}.get(word, word)
    else:
        return Verdict(claim, "not judged", "")
    return Verdict(claim, word, why)  # pyright: ignore[reportArgumentType]


def _fit(variant: Variant) -> MidpointFit:
    fit = variant.midpoint
    assert fit is not None
    return fit


def _best(variants: Sequence[Variant]) -> Variant:
    return max(variants, key=lambda one: _fit(one).midpoint)


def _order(one: MidpointFit, other: MidpointFit) -> int:
    """Return +1 where the first µ is above the other, -1 where it is below, 0 where their intervals do not say."""
    if any(math.isnan(end) for end in (*one.ci, *other.ci)):
        return 0
    return (one.ci[0] > other.ci[1]) - (one.ci[1] < other.ci[0])


def _above(one: Variant, other: Variant) -> tuple[str, str]:
    word = {1: "holds", 0: "not decided", -1: "does not hold"}[_order(_fit(one), _fit(other))]
    return word, f"{one.name}: {_fit(one)}; {other.name}: {_fit(other)}"


def _beside(own: Sequence[Variant], base: Variant, side: str) -> tuple[str, str]:
    if base.midpoint is None:
        return "not decided", f"no µ: {base.name}"
    want = 1 if side == "above" else -1
    orders = [want * _order(_fit(one), _fit(base)) for one in own]
    word = "does not hold" if min(orders) < 0 else "holds" if min(orders) > 0 else "not decided"
    return word, "; ".join(f"{one.name}: {_fit(one)}" for one in (*own, base))


def _trend(own: Sequence[Variant], way: str, field: str, peaks: str | None) -> tuple[str, str]:
    attribute = {"σ": "sigma"}.get(field, field)
    found = [(getattr(one.cell, attribute), _fit(one)) for one in own if getattr(one.cell, attribute) is not None]
    found.sort(key=lambda pair: pair[0])
    values, fits = [value for value, _ in found], [fit for _, fit in found]
    if len(set(values)) < 2 or len(set(values)) < len(values):
        return "not decided", f"{len(set(values))} values of {field} in {len(own)} variants"
    why = f"{field} = {', '.join(f'{value:g}' for value in values)}: "
    why += f"µ {' → '.join(three_digits(fit.midpoint) for fit in fits)}"
    want = 1 if way == "grows" else -1
    steps = [want * _order(after, before) for before, after in pairwise(fits)]
    word = "does not hold" if min(steps) < 0 else "holds" if min(steps) > 0 else "not decided"
    if word == "not decided" and want * _order(fits[-1], fits[0]) > 0 and _rises([want * f.midpoint for f in fits]):
        word = "holds"  # neighbours may overlap where µ rises from each to the next, and the ends are apart
    if peaks:
        why += f", peak {' → '.join(f'{fit.peak:.3f}' for fit in fits)}"
        if not _rises([fit.peak if peaks == "grows" else -fit.peak for fit in fits]):
            word = "does not hold"
    return word, why


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in pairwise(values))


def _like(own: Sequence[Variant], all_: Sequence[Variant], method: str) -> Variant | None:
    """Return the variant of the named method that was trained with the same σ; None where there is not just one."""
    found = [one for one in all_ if one.cell.method.lower() == method.strip(" .")]
    found = [one for one in found if one.midpoint and one.cell.sigma == own[0].cell.sigma]
    return found[0] if len(found) == 1 and len(own) == 1 else None
