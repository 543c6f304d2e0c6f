"""Verdicts: what a study's file claims of its methods, held against what was measured.

A claim is free text. Where the whole of it has one of these forms, in any case of letters, a verdict is given:

==================================================  ====================================================================
the most robust method                              its highest µ is above that of every other method
below (above) the baseline                          every µ of its variants is below (above) the baseline's
µ grows (falls) with s, σ or bits                   µ rises (falls) from each value to the next, and the ends are apart
… while peak accuracy falls (grows)                 it does, from each value to the next, too
adds nothing on top of METHOD                       its µ is below METHOD's of the same σ, or of a matched curve as well
==================================================  ====================================================================

Two µ differ where their 95 % intervals do not overlap. Where one that a verdict needs does not, or has no interval,
there is no decision. Another method's µ beyond an end of the grid counts as such; what collapsed withstands nothing.
The interval of a method with one training says nothing of another seed: with the verdict it is said that there is one,
and of a matched curve how many of its σ there are, where some are missing.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..robustness.midpoint import MidpointFit, three_digits
from .variants import Variant

# A whole claim each: a claim that only has these words in it may say their opposite, or speak of something else.
_MOST = re.compile(r"(?:is )?(?:the )?most robust(?: method)?")
_BESIDE = re.compile(r"(?:(?:is|lies|µ|µ is) )?(below|above) the (?:[\w-]+ )?baseline")
_TREND = re.compile(r"(?:its )?µ (grows|falls) with (s|σ|bits)(?: while (?:its )?peak(?: accuracy)? (grows|falls))?")
_NOTHING = re.compile(r"(?:[\w-]+ )?adds nothing (?:on top of|to) (.+)")

Word = Literal["holds", "does not hold", "not decided", "not judged"]
_WORDS: dict[int, Word] = {1: "holds", 0: "not decided", -1: "does not hold"}


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
    # Two letters look the same.
    text, method = " ".join(claim.lower().replace("μ", "µ").split()).strip(" ."), own[0].cell.method
    reference = [one for one in all_ if one.cell.method == baseline]
    others = [one for one in all_ if one.cell.method != method]
    beside: Sequence[Variant] = ()
    if _MOST.fullmatch(text) and others:
        word, why = _most(_best(own), others)
        beside = others
    elif (side := _BESIDE.fullmatch(text)) and reference and method != baseline:
        word, why = _beside(own, reference[0], side[1])
        beside = reference[:1]
    elif trend := _TREND.fullmatch(text):
        word, why = _trend(own, *trend.groups())
    elif (on := _NOTHING.fullmatch(text)) and (base := _like(own, all_, on[1])):
        word, why = _above(own[0], base)
        word = {"holds": "does not hold", "does not hold": "holds"}.get(word, word)
        beside = [base]
    else:
        return Verdict(claim, "not judged", "")
    if word != "not decided":
        used = (*own, *beside)
        why += "".join(f"; {one.name} has {flag}" for one in used for flag in one.missing)
        if any(one.trainings == 1 for one in used):
            why += "; of one training, whose interval is of its repeats alone"
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


def _most(best: Variant, others: Sequence[Variant]) -> tuple[Word, str]:
    """Hold a variant against all of other methods; the one that it is least surely above is named."""
    known = [(one, fit) for one in others if (fit := one.curve.fitted if one.curve else None)]
    if missing := [one.name for one in others if all(one is not other for other, _ in known)]:
        return "not decided", f"no µ: {', '.join(missing)}"
    known = [(one, fit) for one, fit in known if "collapsed" not in fit.flags]
    if not known:
        return "not decided", f"no µ: {', '.join(one.name for one in others)}"
    order, _, rival, name = min((_order(_fit(best), fit), -fit.midpoint, str(fit), one.name) for one, fit in known)
    return _WORDS[order], f"{best.name}: {_fit(best)}; {name}: {rival}"


def _above(one: Variant, other: Variant) -> tuple[str, str]:
    return _WORDS[_order(_fit(one), _fit(other))], f"{one.name}: {_fit(one)}; {other.name}: {_fit(other)}"


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
    """Return the variant of the named method that was trained with the same σ, or, of a matched curve, the matched one;
    None where there is not just one.
    """
    found = [one for one in all_ if one.cell.method.lower() == method.strip(" .") and one.midpoint]
    found = [one for one in found if _at(one) == _at(own[0])]
    return found[0] if len(found) == 1 and len(own) == 1 else None


def _at(variant: Variant) -> float | None:
    """Return a variant's σ of training; None for that of a matched curve, which is each."""
    return None if variant.cell.matched else variant.cell.sigma
