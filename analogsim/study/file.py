"""A study's YAML file."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import StudyError
from .grid import Study


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (PyYAML takes it for text), and a key that comes twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (where, _) in zip(keys, node.value):
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} comes twice", problem_mark=where.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"),
    list("-+0123456789."),
)


def load_study(path: str | os.PathLike[str], **changes: Any) -> Study:
    """Read a study file.

    Parameters
    ----------
    path : path
    **changes
        Top-level fields that replace the file's, such as data="digits".

    Raises
    ------
    StudyError
        It cannot be read, is no YAML mapping, or has an impossible value; the message names the field's path.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: no valid YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise StudyError(f"{path}: a study is a mapping with name, data, models and methods; see docs/studies.md")
    try:
        return Study(**(values | changes))
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def study_text(study: Study) -> str:
    """Return a study as the text of a YAML file: what was set, in its order."""
    values = study.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
