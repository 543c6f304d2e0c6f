"""A study's YAML file."""

import os
from pathlib import Path
from typing import Any

import yaml

from ..errors import StudyError
from ..storage.files import content
from ..storage.plain_yaml import LARGEST, read_yaml
from .grid import Study


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
        values = read_yaml(content(Path(path), 4 * LARGEST).decode("utf-8"))
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
