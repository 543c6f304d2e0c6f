"""The house: imports point one way, importing starts nothing heavy, and every module says what it is."""

import ast
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "analogsim"
# A lower number never imports a higher one (design section 2).
FLOORS = {
    "errors": 0,
    "restore": 0,
    "terminal": 0,
    "quantities": 1,
    "moved": 0,
    "meant": 0,
    "register": 7,
    "ages": 1,
    "sigmas": 1,
    "tables": 1,
    "machine": 1,
    "ranks": 1,
    "value": 1,
    "seeds": 2,
    "storage": 2,
    "style": 3,
    "batches": 3,
    "result": 3,
    "profile": 3,
    "kernels": 4,
    "chip": 5,
    "nn": 6,
    "noise": 7,
    "program": 7,
    "bench": 7,
    "convert": 8,
    "qat": 8,
    "ranges": 8,
    "batch_norm": 9,
    "saving": 9,
    "summary": 9,
    "robustness": 10,
    "analysis": 11,
    "training": 11,
    "study": 12,
    "cli": 13,
    "__main__": 14,
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


def imported(path, tree=None):
    """Names under analogsim that a file imports, at whatever depth of the code."""
    package = ("analogsim", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree or ast.parse(path.read_text())):
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


def test_no_files_import_each_other_in_a_loop():
    """At whatever depth of the code, but for types alone."""
    names = {path: ".".join(("analogsim", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in modules()}
    known = {name.removesuffix(".__init__"): path for path, name in names.items()}
    below = {}
    for path in modules():
        tree = ast.parse(path.read_text())
        typed = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        for node in typed:
            node.body = [ast.Pass()]
        found = set()
        for name in imported(path, tree):
            found |= {known[part] for part in (name, name.rpartition(".")[0]) if part in known}
            if name in known:  # a module itself, and not a name of its folder's
                found.discard(known.get(name.rpartition(".")[0]))
        below[path] = found - {path}
    done, doing = set(), []

    def walk(path):
        assert path not in doing, " imports ".join(str(p.relative_to(PACKAGE)) for p in [*doing, path])
        if path not in done:
            doing.append(path)
            for other in below[path]:
                walk(other)
            doing.pop()
            done.add(path)

    for path in modules():
        if path != PACKAGE / "__init__.py":  # the face asks for what is behind it when it is asked
            below[path].discard(PACKAGE / "__init__.py")
            walk(path)


def test_every_part_has_its_floor():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert parts <= set(FLOORS), f"give {parts - set(FLOORS)} a floor"


def test_importing_starts_nothing_heavy():
    code = f"""if True:
        import sys
        import analogsim
        assert "torch" not in sys.modules
        import torch
        before = set(sys.modules)
        from analogsim import *
        print([name for name in {HEAVY} if name in sys.modules.keys() - before])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def alone(code):
    """Run code in a fresh process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
    return done.stdout


def test_profiles_and_what_is_said_of_commands_need_no_torch():
    for arguments in (["profile", "show", "sram"], ["--help"], ["sweep", "--help"]):
        out = alone(f"""if True:
            import sys
            from analogsim.cli import app
            try:
                app({arguments})
            except SystemExit as end:
                assert not end.code
            assert not {{"torch", "numpy"}} & set(sys.modules)""")
        assert out


def test_the_face_says_the_same_to_people_to_editors_and_to_python():
    import analogsim

    block, *_ = (node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == analogsim._MODULE_OF
    assert sorted(shown) == sorted(analogsim.__all__)
    assert set(analogsim.__all__) <= set(dir(analogsim))


MODULES_OF_THESE_NAMES = [
    "analogsim.convert",
    "analogsim.program",
    "analogsim.calibrate",
    "analogsim.cost",
    "analogsim.register",
]


@pytest.mark.parametrize(
    "first", ["names", *(pytest.param(one, marks=pytest.mark.slow) for one in ("names backwards", "modules", "star"))]
)
def test_public_names_are_never_their_modules(first):
    """In whatever order names and modules are first asked for; a module that is imported is set on its package."""
    modules = "; ".join(f"import {name}" for name in MODULES_OF_THESE_NAMES)
    start = {"names": "", "names backwards": "names.reverse()", "modules": modules, "star": "from analogsim import *"}
    alone(f"""if True:
        import importlib, pickle, sys, types
        import analogsim
        names = list(analogsim.__all__)
        {start[first]}
        for turn in range(2):
            for name in names:
                found = getattr(analogsim, name)
                assert not isinstance(found, types.ModuleType), name
                assert found is getattr(importlib.import_module("analogsim." + analogsim._MODULE_OF[name]), name)
                if callable(found):
                    assert pickle.loads(pickle.dumps(found)) is found, name
            {modules}
            from analogsim import calibrate, convert, cost, program, register
            assert all(isinstance(one, types.FunctionType) for one in (calibrate, convert, cost, program, register))
        assert isinstance(sys.modules["analogsim.convert"], types.ModuleType)
        assert {{"nn", "errors", "noise"}} <= set(dir(analogsim))""")


def test_modules_are_attributes_of_the_package():
    assert "0.0" in alone("import analogsim; print(analogsim.profile.Noise().output, analogsim.storage.files.__name__)")


def test_brevitas_is_imported_in_one_file():
    users = [path.name for path in modules() if any(name.startswith("brevitas") for name in imported(path))]
    assert users == ["brevitas_parts.py"]


def test_addresses_are_taken_in_one_file_and_memory_is_asked_for_where_tests_fill_it():
    def users(pattern):
        return {str(path.relative_to(PACKAGE)) for path in modules() if re.search(pattern, path.read_text())}

    assert users(r"data_ptr|__array_interface__|\.ctypes\.data") == {
        "kernels/memory.py",
        "kernels/backends/numba/jit.py",
    }
    assert users(r"np\.empty|numpy\.empty") == {"kernels/backends/numba/jit.py"}  # machine code, see test_corners.py


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
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CITATION.cff",
        "LICENSE",
        ".github",
        ".gitignore",
        ".pre-commit-config.yaml",
    }
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} == wanted


def test_the_citation_is_of_this_version():
    import yaml

    import analogsim

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == analogsim.__version__
    assert cited["license"] == "Apache-2.0"


def test_threads_that_first_use_names_at_once_all_get_them():
    program = (
        "import analogsim, random, sys, threading\n"
        "sys.setswitchinterval(1e-5)\n"
        "gate, failed = threading.Barrier(12), []\n"
        "def use(number):\n"
        "    names = list(analogsim.__all__)\n"
        "    random.Random(number).shuffle(names)\n"
        "    gate.wait()\n"
        "    try:\n"
        "        [getattr(analogsim, name) for name in names]\n"
        "    except BaseException as error:\n"
        "        failed.append(repr(error))\n"
        "threads = [threading.Thread(target=use, args=(number,)) for number in range(12)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "assert not failed, failed\n"
        "assert not hasattr(analogsim, 'a.b')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "before", ["midpoint", "budget", "device", "device.cells", "study.train", "kernels.cpu", "study.sigmas"]
)
def test_modules_are_found_by_the_names_they_had(before):
    import analogsim
    from analogsim.moved import MOVED

    sys.modules.pop(f"analogsim.{before}", None)
    if (parent := before.rpartition(".")[0]) in MOVED:  # which warns for itself, if nobody has asked for it yet
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module(f"analogsim.{parent}")
    with pytest.warns(DeprecationWarning, match=f"analogsim.{MOVED[before]} now"):
        found = importlib.import_module(f"analogsim.{before}")
    assert found is importlib.import_module(f"analogsim.{MOVED[before]}")
    assert found.__name__ == found.__spec__.name == f"analogsim.{MOVED[before]}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analogsim.nothing


# The modules of versions 0.1 and (the last line) 0.2, but for those that are where they were.
BEFORE = """
budget calibrate copies cost crossing curve device device.cells device.chip device.converters device.draw device.drift
device.faults device.layout device.programming device.read device.signal_noise device.wires device_profile files
interval journal kept kernels.compiled kernels.conv kernels.conv_backward kernels.conv_cpu kernels.conv_gpu
kernels.conv_tiles kernels.cpu kernels.gpu kernels.gpu_jit kernels.jit kernels.openmp kernels.plain law learned
midpoint nn.conversion nn.histogram nn.meter nn.observer plain_yaml progress qat.mended reach search stop
study.augment study.checkpoint study.data study.group study.history study.network study.order study.pack
study.pack_noise study.readers study.schedule study.spec study.train text cli.hardware cli.network
cli.run_file study.sigmas
"""


def test_what_moved_is_where_it_is_said_to_be():
    from analogsim.moved import MOVED

    assert set(MOVED) == set(BEFORE.split())

    known = {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") for path in modules()}
    assert set(MOVED.values()) <= known
    assert not set(MOVED) & known
