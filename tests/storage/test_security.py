"""What SECURITY.md promises of files that a stranger sent."""

import io
import json
import os
import re
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analogsim.errors import AnalogSimError, DataError, StudyError
from analogsim.study import run_study
from analogsim.study.grid import Study
from analogsim.study.job import Task, attempt, run_job
from analogsim.study.results import write_results, write_summary
from analogsim.study.store import Store
from analogsim.training.checkpoint import save_checkpoint
from analogsim.training.data import load_data
from analogsim.training.network import find, find_class
from tests.study.test_study import TINY, fabricated
from tests.support import shell
from tests.support.shell import ROOT

HOSTILE = """
import pathlib
from torch import nn
pathlib.Path("imported").touch()

def make(**args):
    pathlib.Path("called").touch()
    return nn.Flatten()

class NoNetwork:
    def __init__(self, **args):
        pathlib.Path("called").touch()
"""
STANDARD = ["os:system", "posix:system", "subprocess:run", "shutil:rmtree", "runpy:run_path", "antigravity:x", "this:s"]
CALLABLES = [
    "torch:load",
    "torch.hub:load",
    "models.lenet:nn.init.zeros_",
    "numpy:fromfile",
    "analogsim.study:run_study",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with Python files that leave a trace when they are imported or called; it is the current one."""
    (tmp_path / "hostile_script.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    yield tmp_path
    sys.modules.pop("hostile_script", None)


def untouched(folder):
    return not (folder / "called").exists() and not (folder / "imported").exists()


def test_the_page_s_tests_are_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"(\w+/test_\w+\.py)::(\w+)", text)
    assert len(named) >= 14
    for file, name in named:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)


# Running code


@pytest.mark.parametrize("path", [*STANDARD, *CALLABLES, "hostile_script:make", "hostile_script:absent"])
def test_a_study_s_file_has_nothing_called_but_networks(here, path):
    args = {"command": "touch called", "args": "touch called", "path": "hostile_script.py"}
    made = Study(**TINY | {"models": {"L": {"path": path, "args": args}}})
    _, jobs = made.expand()
    for name, job in jobs.items():
        with pytest.raises(AnalogSimError, match="so it was not called"):
            run_job(job, here / name)
    assert untouched(here)


def test_a_class_that_is_no_network_is_not_called(here):
    made = Study(**TINY | {"models": {"L": "hostile_script:NoNetwork"}})
    _, jobs = made.expand()
    for name, job in jobs.items():
        with pytest.raises(AnalogSimError, match=r"no nn.Module class .* --trust hostile_script:NoNetwork"):
            run_job(job, here / name)
    assert not (here / "called").exists()


def test_what_the_user_trusts_is_called_and_has_the_same_identity(here):
    made = Study(**TINY | {"models": {"L": "hostile_script:make"}})
    _, jobs = made.expand(["hostile_script:make"])
    assert jobs.keys() == made.expand()[1].keys()
    for name, job in jobs.items():
        with pytest.raises(AnalogSimError, match="its output must be"):
            run_job(job, here / name)
    assert (here / "called").exists()


@pytest.mark.parametrize("path", STANDARD)
def test_the_standard_library_has_no_networks(here, path):
    for trusted in (False, True):
        with pytest.raises(AnalogSimError, match="standard library has no networks"):
            find_class(path, trusted, "--trust")
    with pytest.raises(AnalogSimError, match="standard library has no networks"):
        find(path)
    with pytest.raises(AnalogSimError, match="standard library has no networks"):
        find("models.lenet:nn.functional.math.sqrt")  # by way of another module


@pytest.mark.parametrize("path", [*STANDARD, *CALLABLES, "hostile_script:make", "hostile_script:absent"])
def test_a_weights_file_has_nothing_imported_or_called_but_networks(here, path):
    about = {"format": "analogsim-run-1", "model": path, "args": {"command": "touch called"}, "data": "digits"}
    about |= {"spec": {}, "version": "1", "label": "digits"}
    save_file({"a": torch.ones(1)}, here / "evil.safetensors", metadata={"analogsim": json.dumps(about)})
    for command in ("sweep", "cost", "budget", "search"):
        result = shell.call(command, here / "evil.safetensors", *["--profile", "8bit"] * (command != "sweep"))
        assert result.exit_code == 1, result.output
        assert "so it was not called" in result.output
    assert untouched(here)


def test_networks_are_found_wherever_they_are_defined(here):
    (here / "package").mkdir()
    (here / "package" / "__init__.py").touch()
    (here / "package" / "inner.py").write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    for path in ("models.lenet:LeNet5", "package.inner:Net", "torch.nn:Flatten"):
        assert find_class(path, False, "--trust") is find(path)
    with pytest.raises(AnalogSimError, match="no module 'nothing_there'"):
        find_class("nothing_there:Net", False, "--trust")


def test_looking_at_a_study_imports_no_network(here):
    store = fabricated(here / "study", {"float": [1.0]})
    path = store.root / "study.yaml"
    text = path.read_text().replace("models.lenet:LeNet5", "hostile_script:make")
    path.write_text(text)
    values = json.loads((store.root / "plan.json").read_text())
    (store.root / "plan.json").write_text(json.dumps({"cells": values["cells"]}))
    for verb in ("status", "list"):
        assert shell.call("study", verb, store.root).exit_code == 0
    write_results(store)
    write_summary(store)
    assert shell.call("study", "run", path, "--dry-run", "--out", store.root).exit_code == 0
    assert untouched(here)


# Writing


def test_no_link_of_a_received_study_is_written_through(tmp_path):
    store = fabricated(tmp_path / "study", {"float": [1.0]})
    victim = tmp_path / "victim"
    study, entries = store.study(), store.plan()
    for name in ("results.csv", "summary.csv", "study.yaml", "plan.json"):
        for link in (name, f"{name}.part", f".{name}.part"):
            victim.write_text("precious")
            (store.root / link).unlink(missing_ok=True)
            (store.root / link).symlink_to(victim)
            if name in ("results.csv", "summary.csv"):
                write_results(store)
                write_summary(store)
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Store, "study", lambda self: study)
                    store.begin(study, entries)
            assert victim.read_text() == "precious", link


@pytest.mark.parametrize("name", ["runs.jsonl", "lock", "log.txt"])
def test_what_is_appended_to_is_no_link(tmp_path, name):
    store = fabricated(tmp_path / "study", {"float": [1.0]})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (job,) = {cell.job for cell in store.plan()}
    folder = store.folder(job)
    place = folder if name == "log.txt" else store.root
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(victim)
    (folder / "result.json").unlink()
    made = store.study()
    if name == "log.txt":
        attempt(Task(made.expand()[1][job], folder.absolute(), str(ROOT)))
        assert store.state(job) == "failed"
    else:
        with pytest.raises(StudyError, match="cannot be written"):
            run_study(made, store.root, workers=1, device="cpu", progress=False)
        assert shell.call("study", "status", store.root).exit_code == 0
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["jobs", "groups", "figures", "networks", "trained"])
def test_folders_of_a_study_are_no_links(tmp_path, name):
    store = fabricated(tmp_path / "study", {"float": [1.0]})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if name == "jobs":
        elsewhere.rmdir()
        (store.root / name).rename(elsewhere)
    (store.root / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    words = f"{name}: is a link"
    if name in ("groups", "networks", "trained"):
        next(store.root.glob("jobs/*/result.json")).unlink()
        with pytest.raises(StudyError, match=words):
            run_study(store.study(), store.root, workers=1, device="cpu", keep_networks=True, progress=False)
    else:
        assert words in shell.call("study", "report", store.root).output
    assert sorted(elsewhere.rglob("*")) == before


# Data


def archive(path, name, header, body=b""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
    return f"npz:{path}"


def test_images_and_arrays_that_are_traps_are_refused(tmp_path, monkeypatch):
    # 20 GB by its header.
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20000000000,), }".ljust(117) + b"\n"
    with pytest.raises(DataError, match="says that it has 20,000,000,000 bytes, and has not"):
        load_data(archive(tmp_path / "a.npz", "train_images.npy", header))
    # 20 MB that are there, on a machine of 10.
    body = np.zeros(20_000_000, np.uint8)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20000000,), }".ljust(117) + b"\n"
    monkeypatch.setattr("analogsim.training.readers.memory", lambda: 10_000_000)
    with pytest.raises(DataError, match=r"GB of data, more than the .* of this machine"):
        load_data(archive(tmp_path / "b.npz", "train_images.npy", header, body.tobytes()))
    monkeypatch.undo()

    def folder(trap):
        root = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
        for part in ("train", "test"):
            for name in ("a", "b"):
                (root / part / name).mkdir(parents=True)
                Image.new("L", (8, 8)).save(root / part / name / "0.png")
        trap(root / "train" / "a" / "1.png")
        with pytest.raises(DataError, match=r"1.png is no readable image"):
            load_data(f"folder:{root}")

    def postscript(path):
        out = io.BytesIO()
        Image.new("L", (8, 8)).save(out, "EPS")  # Pillow starts Ghostscript to read it
        path.write_bytes(out.getvalue())

    folder(os.mkfifo)
    folder(os.mkdir)
    folder(postscript)
    folder(lambda path: Image.new("1", (10_000, 10_000)).save(path))
    folder(lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40))


def test_a_network_s_checkpoint_runs_nothing(tmp_path):
    from analogsim.training.checkpoint import load_checkpoint

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {}, {"bomb": Bomb()})
    with pytest.raises(AnalogSimError, match=r"checkpoint.pt"):
        load_checkpoint(path, {})
    assert not (tmp_path / "exploded").exists()
