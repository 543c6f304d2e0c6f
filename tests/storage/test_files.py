"""Files that are written whole or not at all."""

import math
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from analogsim.errors import DataError
from analogsim.storage.files import plain, replaced, writable, write_json
from tests.support.shell import ROOT


def broken_off(path, error):
    with replaced(path) as aside:
        aside.write_text("half of the n")
        raise error


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            broken_off(path, error)
        assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with replaced(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replaced(path) as first, replaced(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["first"]

    def write(number):
        for _ in range(50):
            with replaced(path) as aside:
                aside.write_text(str(number) * 1000)
            assert len(set(path.read_text())) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys, time, types
from pathlib import Path
# The package without its __init__, which takes seconds to import torch.
sys.modules["analogsim"] = package = types.ModuleType("analogsim")
package.__path__ = ["analogsim"]
from analogsim.storage.files import replaced
with replaced(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    (aside.parent / ".tmp1").write_text("what a writer itself puts aside")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_next_write_removes_what_a_killed_one_left_but_not_what_is_being_written(tmp_path):
    def writer(name):
        command = [sys.executable, "-c", WRITER, tmp_path / name]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout.readline() == "writing\n"
        return process

    killed, alive = writer("a"), writer("b")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with replaced(tmp_path / "c") as aside:
        aside.write_text("whole")
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left[1:] == ["c"]
    assert sorted(file.name for file in (tmp_path / left[0]).iterdir()) == [".tmp1", "b"]
    alive.send_signal(signal.SIGINT)  # ends by an exception, which cleans up
    alive.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    for process in (killed, alive):
        process.stdout.close()


def test_no_link_that_lies_there_already_is_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "received"
    folder.mkdir()
    for name in ("file", "file.part", ".file.part", ".analogsim-.part", ".analogsim-0.part"):
        (folder / name).symlink_to(victim)
    with replaced(folder / "file") as aside:
        assert not aside.parent.is_symlink()
        aside.write_text("new")
    assert victim.read_text() == "precious"
    assert not (folder / "file").is_symlink()
    assert (folder / "file").read_text() == "new"


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("x" * 255)
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said(tmp_path):
    with writable(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").write_text("")
    with pytest.raises(DataError, match=r"c: cannot be written: Not a directory|c: cannot be written: File exists"):
        with writable(tmp_path / "a" / "b" / "c"):
            pass


def test_json_holds_what_is_not_finite_as_text(tmp_path):
    assert plain((1.0, math.nan, (-math.inf,))) == [1.0, "nan", ["-inf"]]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": math.nan})
    assert not list(tmp_path.iterdir())
