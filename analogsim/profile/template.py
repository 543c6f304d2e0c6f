"""A profile as a text to edit: every field with what it means, by its own docstring; defaults are commented out."""

import inspect
import math
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import ProfileError
from .hardware import HardwareProfile, text_of

SCHEMA_FILE = "profile.schema.json"
_WIDTH = 110
_ABOUT = re.compile(r"\s*#(?![a-z_0-9]+:)")  # a comment, but no field that is commented out
_HEAD = f"""\
# yaml-language-server: $schema=./{SCHEMA_FILE}
# Analog hardware, for analogsim. A field that begins with # is at its default: take the # away to change it.
# What the parts mean, with formulas: docs/devices.md. Editors complete from what `analogsim profile schema --out
# {SCHEMA_FILE}` writes beside this file; `analogsim profile validate` checks it.
"""


def template(source: str | os.PathLike[str] | None = None, folder: str | os.PathLike[str] = ".") -> str:
    r"""Return a profile as commented YAML with every section and field, to be edited.

    Parameters
    ----------
    source : str or path, optional
        A preset's name or a file: its values stand in the text, with the comments that it gives them. Without one, all
        is at its default.
    folder : str or path
        Where the text will be: measured data stay in their files if they are found from there.

    Raises
    ------
    ProfileError
        `source` is none.

    Examples
    --------
    >>> print("\n".join(template("8bit").splitlines()[13:16]))
    # How a weight matrix is cut into crossbars.
    tile:
      # Inputs (word lines) of one crossbar; each tile has its own ADC conversion. null: one tile holds every row.
    """
    if source is None:
        return _text(HardwareProfile(), {})
    profile = HardwareProfile.load(source)
    text = _text(profile, _written(text_of(source)))
    try:
        same = HardwareProfile.loads(text, folder) == profile
    except ProfileError:
        same = False
    return text if same else _text(profile, {})  # what anchors and merged keys wrote cannot be cut out


def _text(profile: HardwareProfile, written: dict[str, list[str]]) -> str:
    parts = [_HEAD]
    for name, field in HardwareProfile.model_fields.items():
        value = getattr(profile, name)
        if not isinstance(value, BaseModel):
            lines = _field(name, field, value, name in profile.model_fields_set, written.get(name))
        else:
            # Without a section all is off; with an empty one fields are at their own defaults.
            given = name in profile.model_fields_set
            live = (value.model_fields_set or set(type(value).model_fields)) if given else set()
            about = inspect.cleandoc(type(value).__doc__ or "").split("\n\n")[0]
            lines = _with(_wrapped(about), written.get(name, [f"{name}:"]))
            for own, inner in type(value).model_fields.items():
                shown = getattr(value if own in live else type(value).model_construct(), own)
                text = _field(own, inner, shown, own in live, written.get(f"{name}.{own}"))
                lines += [f"  {line}" for line in text]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _field(name: str, field: FieldInfo, value: Any, live: bool, written: list[str] | None) -> list[str]:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    # A list of one is written on one line, whatever is in it.
    text = yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    own = [f"{'' if live else '#'}{name}: {text.strip()[1:-1]}"]
    return _with(_wrapped(field.description or ""), written if live and written else own)


def _with(about: list[str], lines: list[str]) -> list[str]:
    return [*about, *(line for line in lines if line not in about)]


def _wrapped(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), _WIDTH, break_on_hyphens=False)]


def _written(text: str) -> dict[str, list[str]]:
    """Return the lines of each field of a file, with their comments: of a section its first, "name: # comment"."""
    root, lines = yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines()
    found: dict[str, list[str]] = {}
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return found
    for name, key, value, start, stop in _blocks(root, lines, len(lines)):
        if not isinstance(value, yaml.MappingNode):
            found[name] = lines[start:stop]
            continue
        end = value.end_mark if value.flow_style else key.end_mark
        comment = re.match(r"[\s:]*(#.*)", lines[end.line][end.column :])
        found[name] = [*lines[start : key.start_mark.line], f"{name}: {comment[1]}" if comment else f"{name}:"]
        for own, _, _, first, last in () if value.flow_style else _blocks(value, lines, stop):
            found[f"{name}.{own}"] = textwrap.dedent("\n".join(lines[first:last])).splitlines()
    return found


def _blocks(node: yaml.MappingNode, lines: list[str], end: int) -> Iterator[tuple[str, yaml.Node, yaml.Node, int, int]]:
    """Yield a block mapping's keys, their nodes, and their first line, comments right above included, and last."""
    for key, value in reversed(node.value):
        start = key.start_mark.line
        while start and _ABOUT.match(lines[start - 1]):
            start -= 1
        while end > start and lines[end - 1].lstrip()[:1] in ("", "#"):
            end -= 1
        yield str(key.value), key, value, start, end
        end = start
