"""The house: imports point one way, importing starts nothing heavy, and every module says what it is."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "analogsim"
# A lower number never imports a higher one (design section 2).
FLOORS = {
    "errors": 0,
    "files": 0,
    "kept": 1,
    "journal": 2,
    "plain_yaml": 0,
    "progress": 0,
    "machine": 0,
    "restore": 0,
    "copies": 0,
    "seeds": 0,
    "stop": 0,
    "text": 0,
    "reach": 1,
    "value": 0,
    "device_profile": 1,
    "profile": 1,
    "kernels": 2,
    "device": 3,
    "nn": 4,
    "noise": 4,
    "qat": 4,
    "law": 3,
    "crossing": 4,
    "interval": 4,
    "midpoint": 4,
    "ranges": 5,
    "budget": 5,
    "cost": 5,
    "learned": 5,
    "curve": 4,
    "convert": 5,
    "calibrate": 5,
    "batch_norm": 5,
    "program": 5,
    "robustness": 5,
    "search": 6,
    "study": 6,
    "bench": 6,
    "cli": 7,
    "__main__": 8,
}
HEAVY = [
    "numba",
    "brevitas",
    "triton",
    "pandas",
    "matplotlib",
    "scipy.optimize",
    "scipy.signal",
    "sklearn",
    "torchvision",
    "ray",
    "optuna",
    "typer",
]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Names under analogsim that a file imports, at whatever depth of the code."""
    package = ("analogsim", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            full = ".".join(filter(None, (base, node.module)))
            yield from (f"{full}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        top, *rest = name.split(".")
        assert top not in {"models", "benchmarks", "tests"}, f"the library imports {name}"
        if top == "analogsim" and own != "__init__" and rest and rest[0] in FLOORS:
            assert FLOORS[rest[0]] <= FLOORS[own], f"{own} imports {name}, which stands above it"


def test_every_part_has_its_floor():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert parts <= set(FLOORS), f"give {parts - set(FLOORS)} a floor"


def test_importing_starts_nothing_heavy():
    code = f"""if True:
        import sys, torch
        before = set(sys.modules)
        import analogsim
        print([name for name in {HEAVY} if name in sys.modules.keys() - before])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_brevitas_is_imported_in_one_file():
    users = [path.name for path in modules() if any(name.startswith("brevitas") for name in imported(path))]
    assert users == ["mended.py"]


def test_addresses_are_taken_in_one_file_and_memory_is_asked_for_where_tests_fill_it():
    def users(pattern):
        return {str(path.relative_to(PACKAGE)) for path in modules() if re.search(pattern, path.read_text())}

    assert users(r"data_ptr|__array_interface__|\.ctypes\.data") == {"kernels/memory.py", "kernels/jit.py"}
    assert users(r"np\.empty|numpy\.empty") == {"kernels/jit.py"}  # machine code, see test_corners.py


def test_every_error_and_warning_is_caught_by_its_one_base():
    from analogsim import errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type) and v.__module__ == errors.__name__]
    bases = errors.AnalogSimError, errors.AnalogSimWarning
    assert len(kinds) > 10
    assert all(issubclass(kind, bases) for kind in kinds)


def test_all_is_importable_and_documented():
    import analogsim

    for name in analogsim.__all__:
        assert getattr(getattr(analogsim, name), "__doc__", None), f"{name} has no docstring"


def test_the_top_level_holds_what_the_layout_names():
    wanted = {"analogsim", "models", "benchmarks", "tests", "docs", ".ci", "pyproject.toml", "constraints.txt"}
    wanted |= {
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE",
        ".gitignore",
        ".pre-commit-config.yaml",
    }
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} == wanted
