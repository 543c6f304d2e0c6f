"""Text from outside (names, arguments, messages of others) as text: nothing in it moves a cursor, or is mathematics."""

import re

# Control characters but tab and newline, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONE = re.compile("[\ud800-\udfff]")  # surrogates; Python has those of U+DC80 to U+DCFF for bytes that are no text


def is_text(value: str) -> bool:
    """Return whether all of it can be written as UTF-8: an argument's bytes may be no text."""
    return _LONE.search(value) is None


def text(value: object) -> str:
    r"""Return what can be written as UTF-8: a byte that is no text becomes its escape.

    Examples
    --------
    >>> text("caf\udce9")
    'caf\\xe9'
    """
    return _LONE.sub(_escape, str(value))


def printable(value: object) -> str:
    r"""Return text that a terminal shows and does not obey.

    Examples
    --------
    >>> printable("\x1b[31mred")
    '�[31mred'
    """
    return _CONTROL.sub("�", text(value))


def label(value: object) -> str:
    r"""Return text that matplotlib draws as it is: no `$` is mathematics, and a legend shows also what begins with _.

    Examples
    --------
    >>> label(r"$\frac$")
    '\\$\\frac\\$'
    """
    shown = printable(value).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
