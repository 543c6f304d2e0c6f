"""Files that are written whole or not at all, what JSON cannot hold, and YAML as people write it."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from .errors import DataError


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a name beside the file's to write to; it takes the file's place when the block ends without an error.

    So there is the old file or the new one, whenever the process dies.
    """
    aside = path.with_name(path.name + ".part")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Make the folder of a file that the block writes.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write finite values as JSON; never leaves half a file."""
    with replaced(path) as aside:
        aside.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become the strings that float() reads, in tuples too."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_yaml(text: str) -> Any:
    """Read YAML in which 1e-3 is a number (PyYAML takes it for text), and a key that comes twice is an error.

    Raises
    ------
    yaml.YAMLError
        It is no such YAML.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
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
