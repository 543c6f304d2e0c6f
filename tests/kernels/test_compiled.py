"""Machine code that cannot be kept, or was damaged where it is: compiled anew, said once, never an error."""

import ctypes
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings

import pytest

from analogsim import AnalogSimWarning
from analogsim.kernels.backends.numba import compiled

SOURCE = """
from numba import carray, int64
import numpy as np
from analogsim.kernels.backends.numba.compiled import compiled

@compiled
def one(arguments):
    a = carray(arguments, (2,), np.int64)
    a[1] = 3 * a[0] + 1

@compiled
def two(arguments):
    a = carray(arguments, (2,), np.int64)
    a[1] = 5 * a[0]
"""


def answer(kernel, value=14):
    block = (ctypes.c_int64 * 2)(value, 0)
    kernel.ctypes(ctypes.addressof(block))
    return block[1]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "package" / "kernels_here.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    yield path
    sys.modules.pop(path.stem, None)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does: Numba finds a function's globals by its module's name
    spec.loader.exec_module(module)
    module.one.ready()
    return module


def kept(source, name):
    return sorted((source.parent / "__pycache__").glob(f"*.{name}-*.nb?"))


@pytest.fixture
def _nothing_said():
    before = list(compiled._said)
    compiled._said.clear()
    yield
    compiled._said[:] = before


@pytest.mark.usefixtures("_nothing_said")
def test_damaged_files_are_written_anew(source):
    """Cut or changed anywhere: the right code runs, nothing is said, and the next process finds it on disk."""
    assert answer(load(source).one) == 43
    (path,) = kept(source, "one")
    whole = path.read_bytes()
    damages = [b"", whole[:1], whole[: len(whole) // 2], whole[:-1], b"not a pickle", b"\x80\x05N.", b"\n" + whole]
    for place in [*range(0, len(whole), len(whole) // 20), 64, 65, 66]:
        damages.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    for damage in damages:
        path.write_bytes(damage)
        assert answer(load(source).one) == 43
        again = load(source).one
        assert again.cache_hits == 1
        assert answer(again) == 43
    assert kept(source, "one") == [path]


def test_no_byte_of_what_is_kept_can_change_unseen(source):
    """Whichever it is, of the code, of the source that it is of, or of the checksum: nothing is taken."""
    kernel = load(source).one
    (path,) = kept(source, "one")
    file, key = kernel._cache._cache_file, kernel._cache._index_key(kernel._sig, kernel._library.codegen)
    whole = path.read_bytes()
    gc.collect()  # what Numba still holds of the compilation would stand in for what was read
    assert file.load(key) is not None
    for place in [*range(200), *range(200, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            assert file.load(key) is None
        except ValueError:
            assert place == 64  # the end of the first line


def test_code_of_another_source_or_processor_is_not_taken(source):
    kernel = load(source).one
    (path,) = kept(source, "one")
    file = kernel._cache._cache_file
    signature, processor, code = kernel._cache._index_key(kernel._sig, kernel._library.codegen)
    other = (signature, ("another", *processor[1:]), code)
    assert file.load(other) is None
    file.save(other, "of another processor")
    assert len(kept(source, "one")) == 2
    assert path in kept(source, "one")
    assert file.load((signature, processor, ("another", code[1]))) is None
    assert load(source).one.cache_hits == 1
    # Longer by a line, because Python itself tells sources of one second apart by their length alone.
    source.write_text(SOURCE.replace("+ 1", "+ 2") + "\n")
    assert answer(load(source).one) == 44


def test_code_is_not_taken_after_a_change_of_the_machine_code_beside_it(source):
    """Its helpers may stand there."""
    beside = source.with_name("jit_helpers.py")
    for text, hits in (("one = 1", 0), ("one = 1", 1), ("one = 12", 0), ("one = 12", 1)):
        if not hits:
            beside.write_text(text)
        assert load(source).one.cache_hits == hits


def elsewhere(source, tmp_path, *, full=False, **environment):
    """Run the kernels in a process of its own; return its answers and warnings."""
    program = (
        "import resource, sys, ctypes, importlib.util\n"
        "import analogsim.kernels.backends.numba.compiled as c\n"
        + ("resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n" if full else "")
        + "sys.path.insert(0, sys.argv[1])\n"
        "import kernels_here as k\n"
        "k.one.ready(), k.two.ready()\n"
        "def answer(kernel):\n"
        "    block = (ctypes.c_int64 * 2)(14, 0)\n"
        "    kernel.ctypes(ctypes.addressof(block))\n"
        "    return block[1]\n"
        "print(answer(k.one), answer(k.two), k.one.cache_hits, *c.place(k.one.__wrapped__), sep='|')\n"
    )
    own = {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    own = {key: value for key, value in (os.environ | own | environment).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", program, str(source.parent)], capture_output=True, text=True, env=own, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|"), done.stderr


def unwritable(source, tmp_path):
    """Stand in the way of every folder: also root cannot make one where a file is."""
    for name in ("no-home", "no-cache"):
        (tmp_path / name).write_text("")
    shutil.rmtree(source.parent / "__pycache__", ignore_errors=True)
    (source.parent / "__pycache__").write_text("")
    home = str(tmp_path / "no-home")
    return {"HOME": home, "XDG_CACHE_HOME": home, "NUMBA_CACHE_DIR": str(tmp_path / "no-cache")}


def test_no_folder_can_be_written(source, tmp_path):
    found, said = elsewhere(source, tmp_path, **unwritable(source, tmp_path))
    assert found[:4] == ["43", "70", "0", "None"]
    assert said.count("AnalogSimWarning") == 1
    (line,) = (line for line in said.splitlines() if "machine code" in line)
    assert "machine code cannot be kept (no cache folder can be written)" in line
    assert "NUMBA_CACHE_DIR" in line


@pytest.mark.slow
def test_a_full_disk(source, tmp_path):
    found, said = elsewhere(source, tmp_path, full=True)
    assert found[:4] == ["43", "70", "0", "None"]
    assert said.count("AnalogSimWarning") == 1
    assert "too large" in found[4]


@pytest.mark.slow
def test_a_read_only_package_has_its_code_in_the_users_cache(source, tmp_path):
    (source.parent / "__pycache__").write_text("")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "user"), "NUMBA_CACHE_DIR": None}
    for hits in ("0", "1"):
        found, said = elsewhere(source, tmp_path, **cache)
        assert found[:3] == ["43", "70", hits]
        assert found[3].startswith(str(tmp_path / "user"))
        assert said == ""


@pytest.mark.usefixtures("_nothing_said")
def test_a_folder_that_vanishes(source):
    kernel = load(source).one
    folder = source.parent / "__pycache__"
    cache = compiled._Cache(kernel.__wrapped__)
    shutil.rmtree(folder)
    folder.write_text("")
    kernel._cache = cache
    with pytest.warns(AnalogSimWarning, match="machine code cannot be kept.*NUMBA_CACHE_DIR"):
        kernel.compile()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel.compile()  # said once
    assert answer(kernel) == 43


@pytest.mark.slow
def test_the_kernels_themselves_without_any_folder(tmp_path):
    """The library copied to where no folder can be written."""
    import analogsim

    package = tmp_path / "there" / "analogsim"
    shutil.copytree(os.path.dirname(analogsim.__file__), package, ignore=shutil.ignore_patterns("__pycache__"))
    numba = package / "kernels" / "backends" / "numba"
    own = os.environ | unwritable(numba / "x", tmp_path) | {"PYTHONPATH": str(package.parent)}
    program = (
        "import torch, analogsim as an\n"
        "l = an.AnalogLinear(4, 3, profile=an.HardwareProfile(dac={'bits': 8, 'input_range': 4.0}))\n"
        "print(an.__file__, l(torch.randn(5, 4)).isfinite().all().item())\n"
    )
    command = [sys.executable, "-c", program]
    own["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, env=own, check=False, cwd=tmp_path)
    assert done.stdout.split() == [str(package / "__init__.py"), "True"], done.stderr
    assert done.stderr.count("AnalogSimWarning") == 1
    done = subprocess.run(
        [sys.executable, "-m", "analogsim", "info"], capture_output=True, text=True, env=own, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "compiled anew in each process: no cache folder can be written" in " ".join(done.stdout.split())
    assert "NUMBA_CACHE_DIR" in done.stdout
