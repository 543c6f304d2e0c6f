"""Every public name says what it takes, gives and raises, with an example that runs."""

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

import analogsim

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^(\w+(?: \w+)?)\n-{3,}$", re.MULTILINE)


def sections(text):
    """Return what stands under each heading of a docstring."""
    found = SECTION.split(text)
    return dict(zip(found[1::2], found[2::2], strict=True))


def said_of(name):
    """Return a name's docstring: of a value, the string below it."""
    found = getattr(analogsim, name)
    if isinstance(found, type) or callable(found):
        return inspect.getdoc(found) or ""
    body = ast.parse(inspect.getsource(import_module(f"analogsim.{analogsim._MODULE_OF[name]}"))).body
    places = [i for i, node in enumerate(body) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(body[places[0] + 1].value)


def named(section):
    """Return the names that a section describes: one at the start of a line, or several with commas between."""
    heads = re.findall(r"^(\S[^:\n]*?)(?: : .*)?$", section, re.MULTILINE)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def wanted(found):
    """Return what a docstring has to say by name, under which heading, and which headings it needs besides."""
    if inspect.isfunction(found):
        own = inspect.signature(found)
        tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
        raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))
        gives = own.return_annotation not in (None, inspect.Signature.empty)
        return ("Parameters",), set(own.parameters), ["Raises"] * raises, [{"Returns", "Yields"}] * gives
    if dataclasses.is_dataclass(found):
        return ("Parameters", "Attributes"), {field.name for field in dataclasses.fields(found)}, [], []
    return (), set(), [], []


@pytest.mark.parametrize("name", analogsim.__all__)
def test_it_has_an_example_and_says_what_it_takes_and_gives(name):
    found, text = getattr(analogsim, name), said_of(name)
    parts = sections(text)
    assert ">>> " in parts.get("Examples", ""), f"{name}: no example"
    headings, names, needed, either = wanted(found)
    missing = names.difference(*(named(parts.get(heading, "")) for heading in headings))
    assert not missing, f"{name}: not under {' or '.join(headings)}: {missing}"
    assert set(needed) <= set(parts), f"{name}: {needed} missing"
    assert all(choice & set(parts) for choice in either), f"{name}: one of {either} missing"


def test_every_field_of_a_model_says_what_it_means():
    models = [BaseModel]
    for model in models:
        models += model.__subclasses__()
    own = [model for model in models if model.__module__.startswith("analogsim.profile")]
    assert len(own) > 20
    for model in [*own, analogsim.NoiseSpec, analogsim.QATSpec]:
        for name, field in model.model_fields.items():
            section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            assert field.description or section, f"{model.__name__}.{name} has no string below it"


WITH_EXAMPLES = [
    path
    for path in sorted((ROOT / "analogsim").rglob("*.py"))
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    homes = {name: f"analogsim.{home}" for name, home in analogsim._MODULE_OF.items()}
    values = [name for name, home in homes.items() if home == module.__name__ and not callable(getattr(module, name))]
    tests += [doctest.DocTestParser().get_doctest(said_of(name), {}, name, None, None) for name in values]
    assert tests
    for test in tests:
        torch.manual_seed(0)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
