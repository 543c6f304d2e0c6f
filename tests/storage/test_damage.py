"""Damage: whatever happens to a file that is kept, a line says it and names the file, and no other number appears."""

import json
import os
import re

import numpy as np
import pytest
import torch

from analogsim import HardwareProfile
from analogsim.analysis.journal import Journal, Tried, read_journal
from analogsim.errors import AnalogSimError, CheckpointError, SearchError, StudyError
from analogsim.robustness.curve import RobustnessCurve
from analogsim.storage.kept import read_lines, sealed_text
from analogsim.study import load_results, load_study, records, summarise
from analogsim.study.job import record_failure
from analogsim.study.records import GroupJobs, Owner
from analogsim.training.checkpoint import load_checkpoint, load_model, save_checkpoint
from analogsim.training.data import load_data
from analogsim.training.run_file import Run
from analogsim.training.train import TrainSpec, train
from models.lenet import LeNet5
from tests.study.test_study import fabricated, written
from tests.support import shell

DESTROYS = re.compile(r"\b(delete|remove|overwrite)\b|--fresh")
FOREIGN = [b"", b"{}", b'{"a": 1}', b"[]", b"null", b'"x"', b"NaN", b"1e9", b"\xff\xfe\x00", b"[" * 20_000, b"\0" * 50]
WRONG = (None, "x", -1, 1e9, float("nan"), [], {}, True, [[["deep"]]], {"a": 1})


def cuts(whole, count=12):
    return [whole[: len(whole) * part // count] for part in range(count)]


def changed(whole, count=60, seed=0):
    """Copies with one byte changed, at places spread over the whole file and so in each of its parts."""
    rng = np.random.default_rng(seed)
    places = np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int))
    return [whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :] for at in places]


def garbled(whole, seed=1):
    rng = np.random.default_rng(seed)
    places = [len(whole) * part // 5 for part in range(5)]
    return [whole[:at] + rng.bytes(40) + whole[at + 40 :] for at in places]


def damages(whole):
    return [bad for bad in cuts(whole) + changed(whole) + garbled(whole) + FOREIGN if bad != whole]


def wrong_types(value):
    """Copies of JSON's values with each part, however deep, replaced by what it is not, left out, or added to."""
    yield from (wrong for wrong in WRONG if wrong != value)
    if isinstance(value, dict):
        yield value | {"unknown": 1}
        for key, inner in value.items():
            yield {name: part for name, part in value.items() if name != key}
            yield from (value | {key: wrong} for wrong in wrong_types(inner))
    elif isinstance(value, list) and value:
        yield from ([wrong, *value[1:]] for wrong in wrong_types(value[0]))


def outcome(reader, path):
    """What a reader returns; or None, where it says in a line what is wrong with which file."""
    try:
        return reader(path)
    except AnalogSimError as error:
        text = str(error)
        assert str(path) in text or path.name in text
        assert not DESTROYS.search(text), f"advice that may destroy what is good: {text}"
        assert len(text) < 2000
        return None


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One file of every kind that is kept, and what reads it: kind → (path, reader)."""
    root = tmp_path_factory.mktemp("kept")
    store = fabricated(root / "study", {"float": [1.0], "noisy": [2.0]})
    with store.held("a command"):
        owner = (store.root / "lock.json").read_text()
    job = store.plan()[0].job
    folder = store.folder(job)
    (store.root / "lock.json").write_text(owner)
    group = root / "group.json"
    group.write_text(sealed_text({"jobs": [job]}))
    spec = TrainSpec(epochs=1, batch_size=64)
    data = load_data("digits").subset(64, 60)
    network = LeNet5(classes=10, channels=1)
    train(network, data, spec, out=root, progress=False)
    about = Run(
        model="models.lenet:LeNet5", args={"classes": 10, "channels": 1}, data="digits", spec=spec.model_dump(),
        version="1", label="digits", test_accuracy=0.5, status="finished",
    )  # fmt: skip
    about.save(root)
    about.save_weights(network, root)
    save_checkpoint(root / "small.pt", {"a": 1}, {"x": torch.arange(20.0)})
    search = Journal(about="a search", tried=(Tried(places={"adc.bits": 1}, cost=2.5, accuracy=0.5),) * 3)
    search.save(root / "search.journal")

    def weights(path):
        empty = LeNet5(classes=10, channels=1)
        said = load_model(empty, path)
        return said, Run.load(path).model_dump(), [value.sum().item() for value in empty.state_dict().values()]

    def curve(path):
        found = RobustnessCurve.load(path)
        return found.accuracies.tolist(), found.sigmas.tolist(), found.noise_free, str(found.fit), found.about

    tables = lambda path: (load_results(store.root).to_csv(), store.state(job))  # noqa: E731
    return {
        "result": (folder / "result.json", tables),
        "sweep in a study": (folder / "sweep.json", tables),
        "curve": (folder / "sweep.json", curve),
        "plan": (store.root / "plan.json", lambda path: store.plan()),
        "study in its folder": (store.root / "study.yaml", lambda path: (store.study(), store.plan())),
        "owner": (store.root / "lock.json", lambda path: records.read(path, Owner)),
        "group": (group, lambda path: records.read(path, GroupJobs)),
        "run": (root / "run.json", lambda path: Run.load_about(path.parent)),
        "weights": (root / "model.safetensors", weights),
        "checkpoint": (root / "small.pt", lambda path: load_checkpoint(path, {"a": 1})["x"].tolist()),
        "journal": (root / "search.journal", read_journal),
    }


KINDS = (
    "result", "sweep in a study", "curve", "plan", "study in its folder", "owner", "group", "run", "weights",
    "checkpoint", "journal",
)  # fmt: skip


def refused_or_the_same(path, reader, bad):
    """Assert that each damage is refused, or is none: what is read is what was written."""
    whole, right = path.read_bytes(), reader(path)
    try:
        for content in bad:
            path.write_bytes(content)
            found = outcome(reader, path)
            assert found is None or found == right, f"{content[:200]!r} was believed"
    finally:
        path.write_bytes(whole)
    assert reader(path) == right


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_is_believed(kept, kind):
    path, reader = kept[kind]
    refused_or_the_same(path, reader, damages(path.read_bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "weights"])
def test_no_change_of_a_byte_is_believed(kept, kind):
    path, reader = kept[kind]
    whole = path.read_bytes()
    refused_or_the_same(path, reader, [*changed(whole, 1500, seed=2), *cuts(whole, 200)])


def test_a_record_that_is_said_to_be_a_folder_is_read_all_the_same(kept):
    """torch reads nothing of it and hands out what was in memory: no checksum is wrong then."""
    path, reader = kept["checkpoint"]
    whole, at, bad = path.read_bytes(), 0, []
    while (at := whole.find(b"PK\x01\x02", at)) >= 0:  # an entry of the archive's directory; byte 38: attributes
        bad.append(whole[: at + 38] + b"\xff" + whole[at + 39 :])
        at += 4
    assert len(bad) > 3
    refused_or_the_same(path, reader, bad)


@pytest.mark.parametrize("kind", ["result", "curve", "plan", "owner", "group", "run", "journal"])
def test_json_that_is_not_what_it_should_be(kept, kind):
    """Without a checksum, as files are from before there was one: no traceback, whatever parses."""
    path, reader = kept[kind]
    whole = path.read_bytes()
    values = {key: value for key, value in json.loads(whole).items() if key != "crc32"}
    right = reader(path)
    try:
        path.write_text(json.dumps(values))
        assert reader(path) == right, "a file without a checksum is read"
        for bad in wrong_types(values):
            path.write_text(json.dumps(bad))
            outcome(reader, path)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("curve", {"accuracies": [[1e9] * 3] * 17}, "accuracies"),
        ("curve", {"noise_free": 17.5}, "noise_free"),
        ("curve", {"schema": 2}, "schema 2, this version reads 1"),
        ("run", {"test_accuracy": 17.5}, "test_accuracy"),
        ("run", {"format": "analogsim-run-9"}, "format"),
        ("result", {"threads": 0}, "threads"),
        ("result", {"status": "splendid"}, "status"),
        ("result", {"job": {"model": "another"}}, "not of its folder's"),
        ("plan", {"cells": [{"job": "../../elsewhere"}]}, "cells"),
        ("journal", {"tried": [{"places": {}, "cost": 1, "accuracy": None}]}, "accuracy"),
    ],
)
def test_what_cannot_be_is_refused_without_a_checksum_too(kept, kind, change, words):
    path, reader = kept[kind]
    whole = path.read_bytes()
    values = {key: value for key, value in (json.loads(whole) | change).items() if key != "crc32"}
    try:
        path.write_text(json.dumps(values))
        with pytest.raises(AnalogSimError, match=words):
            reader(path)
    finally:
        path.write_bytes(whole)


def test_another_checkpoint_s_state_is_no_training(tmp_path):
    """A sound archive of this training's identity, but of no state that it can have."""
    data, spec = load_data("digits").subset(64, 60), TrainSpec(epochs=2, batch_size=64)
    train(LeNet5(classes=10, channels=1), data, spec.varied(epochs=2), out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    state = content["state"]
    for change in (
        {"epoch": 9},
        {"epoch": "x"},
        {"history": []},
        {"model": {}},
        {"optimiser": {"a": 1}},
        {"calls": [1]},
    ):
        torch.save(content | {"state": state | change}, path)
        with pytest.raises(CheckpointError, match=r"no state of this training.*checkpoint.pt"):
            train(LeNet5(classes=10, channels=1), data, spec, out=tmp_path, progress=False)
    for other in ({}, {"format": content["format"]}, content | {"identity": "no JSON"}, content | {"state": None}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match=r"not a training's checkpoint.*checkpoint.pt"):
            train(LeNet5(classes=10, channels=1), data, spec, out=tmp_path, progress=False)


def test_half_a_line_of_the_runs_is_left_out_and_loses_no_other(tmp_path):
    store = fabricated(tmp_path, {"float": [1.0]})
    path, whole = store.root / "runs.jsonl", (store.root / "runs.jsonl").read_bytes()
    study, entries = store.study(), store.plan()
    for cut in range(0, len(whole) - 1, 7):
        path.write_bytes(whole + whole[:cut])
        store.begin(study, entries, command="again")
        found = store.runs()
        assert [run.command for run in found] in ([None, "again"], [None, None, "again"])
    for bad in damages(whole):
        path.write_bytes(whole + bad + b"\n" + whole)
        assert all(run == store.runs()[0] for run in store.runs())
    assert list(read_lines(tmp_path / "nothing", records.Run)) == []


def test_a_damaged_reason_of_a_failure_keeps_nobody_from_trying_again(tmp_path):
    store = fabricated(tmp_path, {"float": [1.0]})
    (job,) = {cell.job for cell in store.plan()}
    os.unlink(store.folder(job) / "result.json")
    path = store.folder(job) / "error.json"
    record_failure(store.folder(job), "its reason")
    assert store.error(job) == "its reason"
    for bad in damages(path.read_bytes()):
        path.write_bytes(bad)
        assert store.state(job) == "failed"
        assert store.error(job) == "its reason" or f"{path}: damaged" in store.error(job)
    store.forget_failure(job)
    assert not path.exists()


def test_a_study_s_owner_is_named_or_not_but_never_wrong(tmp_path):
    store = fabricated(tmp_path, {"float": [1.0]})
    with store.held("a command"):
        right, path = store.owner(), store.root / "lock.json"
        assert "(a command)" in right
        for bad in damages(path.read_bytes()):
            path.write_bytes(bad)
            assert store.owner() in (right, "a run is at work")


def test_a_checkpoint_that_could_not_be_written_is_kept(tmp_path):
    store = fabricated(tmp_path, {"float": [1.0]})
    (job,) = {cell.job for cell in store.plan()}
    path = store.folder(job) / "checkpoint.pt"
    for message, there in [("cannot be written: No space left", True), ("corrupt checkpoint", False)]:
        path.write_text("much work")
        record_failure(store.folder(job), f"CheckpointError: {path}: {message}")
        store.forget_failure(job)
        assert path.exists() == there
    assert path.with_name("checkpoint.pt.damaged").read_text() == "much work", "put away, not destroyed"


def test_what_cannot_be_read_is_not_called_damaged(tmp_path):
    path = tmp_path / "result.json"
    path.mkdir()
    with pytest.raises(StudyError, match=r"result.json: cannot be read: Is a directory$"):
        records.read(path, records.Result)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(StudyError, match=r"result.json: cannot be read: No regular file$"):
        records.read(path, records.Result)
    with pytest.raises(SearchError, match="cannot be read: No regular file"):
        read_journal(path)


def test_profiles_and_studies_that_are_damaged_are_refused_in_a_line(tmp_path):
    """They are written by hand, and have no checksum: what is read is another value or an error, never a traceback."""
    HardwareProfile(dac={"bits": 8}).save(tmp_path / "a.yaml")
    HardwareProfile(dac={"bits": 8}).save(tmp_path / "a.json")
    for path, reader in [
        (tmp_path / "a.yaml", HardwareProfile.load),
        (tmp_path / "a.json", HardwareProfile.load),
        (written(tmp_path), load_study),
    ]:
        for bad in damages(path.read_bytes()):
            path.write_bytes(bad)
            outcome(reader, path)


@pytest.mark.parametrize("name", ["result.json", "sweep.json", "plan.json", "study.yaml"])
def test_commands_say_a_damage_in_one_line(tmp_path, name):
    store = fabricated(tmp_path, {"float": [1.0]})
    (path,) = [*store.root.glob(name), *store.root.glob(f"jobs/*/{name}")]
    path.write_text("{half")
    commands = [("study", verb, store.root) for verb in ("status", "list", "report")]
    if name == "sweep.json":
        commands = [("study", "report", store.root), ("plot", path)]
    if name == "study.yaml":
        commands = [("study", "status", store.root), ("study", "run", path), ("study", "list", store.root)]
    for command in commands:
        result = shell.call(*command)
        assert result.exit_code == 1
        assert name in result.output
        assert "Traceback" not in result.output
        assert result.output.count("error:") == 1
    with pytest.raises(StudyError, match=name):
        summarise(store.root)


def test_weights_that_changed_since_they_were_swept_are_no_run(kept):
    """Sixty bytes, wherever they are: each is noticed (of 5da9c90, none was)."""
    path, reader = kept["weights"]
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    try:
        for at in rng.integers(start, len(whole), 60):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(CheckpointError, match=r"model.safetensors: damaged \(its checksum"):
                Run.load(path)
    finally:
        path.write_bytes(whole)
