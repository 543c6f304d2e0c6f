"""YAML as people write it, within limits: what a stranger's file asks for is refused, not computed."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

LARGEST = 400_000  # characters
MOST = 100_000  # values, those that aliases repeat counted each time
DEEPEST = 40  # lists and mappings in each other
LONGEST = 400  # characters of a number


def read_yaml(text: str) -> Any:
    """Read YAML in which 1e-3 is a number (PyYAML takes it for text), and a key that comes twice is an error.

    Raises
    ------
    yaml.YAMLError
        It is no such YAML, or is beyond the limits of this module.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"{len(text):,} characters, more than {LARGEST:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST:
            raise yaml.YAMLError(f"more than {MOST:,} values, aliases resolved")
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML's own, such as of an escaped character that there is none of
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for when its aliases are resolved."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # in itself it would be without an end
        parts = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.deep = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.deep += 1
        if self.deep > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.deep -= 1

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        tag = node.tag.rpartition(":")[2]
        try:
            if tag in ("int", "float") and len(str(node.value)) > LONGEST:
                raise ValueError
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # half a character could be written nowhere
            return value
        except yaml.YAMLError:
            raise
        except Exception:  # of a scalar that only looks like a number or a date, or is only called one
            text = str(node.value)
            problem = f"{text[:60]!r} is no {tag}; quote it, if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # said by PyYAML
            if key in seen:
                mark = key_node.start_mark
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} comes twice", problem_mark=mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
