"""What is kept as JSON and read back: with a checksum of what was written, and as what it can be."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import AnalogSimError
from ..value import Value, explain, short
from .files import content

CHECKSUM = "crc32"


class Record(Value):
    """What one kind of file holds; a subclass says it field by field, as tightly as it can be said."""

    remedy: ClassVar[str] = "put a good copy in its place, or move it away"
    """What to do about a damaged one."""


R = TypeVar("R", bound=Record)


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON's values with the checksum of what they say.

    Examples
    --------
    >>> sealed({"a": 1})
    {'crc32': '561bacaf', 'a': 1}
    """
    plain = json.loads(json.dumps(values))  # what a reader will find: keys are text, tuples lists
    return {CHECKSUM: checksum(plain), **plain}


def checksum(values: Mapping[str, Any]) -> str:
    """Return the CRC-32 of JSON's values, as hexadecimal digits; order and white space do not count."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def sealed_text(values: Mapping[str, Any] | BaseModel, indent: int | None = 1) -> str:
    """Return the text of a JSON file: what was set of a model, or plain values, with their checksum."""
    if isinstance(values, BaseModel):
        values = values.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return json.dumps(sealed(values), indent=indent, allow_nan=False) + "\n"


def read_kept(path: Path, kind: type[R], error: type[AnalogSimError]) -> R | None:
    """Read a JSON file as what it should be; None where there is no such file.

    A file without a checksum, from before there was one, is read by what it says alone.

    Raises
    ------
    AnalogSimError
        Of the class given: the file cannot be read, is damaged, or is something else.
    """
    try:
        return kind.model_validate(opened(content(path)))
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    except ValueError as problem:
        raise error(f"{path}: damaged ({why(problem)}); {kind.remedy}") from None


def read_lines(path: Path, kind: type[R]) -> Iterable[R]:
    """Yield what the lines of a file say; half a line, which a kill may leave, and a damaged one are left out."""
    try:
        lines = content(path).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield kind.model_validate(opened(line))
        except ValueError:
            continue


def opened(text: bytes | str, checked: bool = False) -> dict[str, Any]:
    """Return what JSON text says, without its checksum, which is compared; `checked`: it must have one.

    Raises
    ------
    ValueError
        It is no JSON object, is nested too deeply, or is not what was written.
    """
    try:
        values = json.loads(text, parse_constant=_no_number)
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        known = values.pop(CHECKSUM, None)
        now = checksum(values)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if known is None and checked:
        raise ValueError("it has no checksum")
    if known not in (None, now):
        raise ValueError(f"its checksum is {now}, not {short(known)} as when it was written")
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def why(problem: ValueError) -> str:
    """Say in a line what is wrong with text or values."""
    return explain(problem) if isinstance(problem, ValidationError) else " ".join(str(problem).split())[:200]
