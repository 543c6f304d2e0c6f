"""Which name was meant: the one that is spelt most like what was written, or that the field calls so."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

Synonyms = Mapping[str, tuple[str, ...]]


def meant(word: str, known: Iterable[str], synonyms: Synonyms | None = None) -> list[str]:
    """Return the names that a word may have stood for, most likely first; none where nothing is like it.

    A dotted name may be meant by its last part, and a dotted word is first looked for in its own section.

    Parameters
    ----------
    word : str
        What was written, such as "adc.bit".
    known : iterable of str
        The names that there are, such as "adc.bits".
    synonyms : mapping, optional
        Other words, in small letters and with underscores, for names or last parts of them.

    Examples
    --------
    >>> meant("columns", ["tile.rows", "tile.cols"], {"columns": ("tile.cols",)})
    ['tile.cols']
    >>> meant("adc.bit", ["dac.bits", "adc.bits"])
    ['adc.bits']
    """
    known = list(dict.fromkeys(known))
    word = word.strip().lower().replace("-", "_").replace(" ", "_")
    section, _, own = word.rpartition(".")
    last: dict[str, list[str]] = {}
    for name in known:
        last.setdefault(name.rpartition(".")[2].lower(), []).append(name)
    beside = {found.rpartition(".")[2]: found for found in known if section and found.rpartition(".")[0] == section}
    if own not in last and (said := [name for name in (synonyms or {}).get(own, ()) if name in known]):
        return said
    tops = {name.lower(): name for name in known if "." not in name}
    if not section and (near := get_close_matches(own, tops, 1, 0.8)):
        return [tops[near[0]]]
    if own in last:
        return last[own] if beside else get_close_matches(word, last[own], 1, 0.8) or last[own]
    # Within a section names are few and short. Elsewhere "adc_bits" is meant to be adc.bits.
    whole = {} if beside else {name.lower().replace("_", "."): name for name in known}
    ends = {name: found for name, (found, *_) in last.items()}
    for spelt, names in ((own, beside), (word.replace("_", "."), whole), (own, ends)):
        if near := get_close_matches(spelt, names, 1):
            return [names[near[0]]]
    return []


def did_you_mean(word: str, known: Iterable[str], synonyms: Synonyms | None = None) -> str:
    """Return "; did you mean 'x'?" for the end of a message, or nothing where nothing is like the word."""
    *more, last = [repr(name) for name in meant(word, known, synonyms)] or [""]
    return f"; did you mean {', '.join(more)}{' or ' * bool(more)}{last}?" if last else ""
