"""Finished jobs in one file: the same numbers to the bit, damage that is said, and one whole form after any kill."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analogsim.errors import StudyError
from analogsim.robustness.curve import RobustnessCurve
from analogsim.storage.kept import sealed_text
from analogsim.study import load_results, packing, run_study, summarise
from analogsim.study.folder import RESULT, SWEEP, JobFolder
from analogsim.study.job import announce, record_failure
from analogsim.study.packing import pack_study
from analogsim.study.records import packed_lines
from analogsim.study.results import write_results, write_summary
from analogsim.study.store import Store
from tests.study.test_study import call, fabricated, write_result

LEVELS = {"float": [0.9, 1.1], "false": [0.2, 0.19], "true": [3.9, 4.1]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study in folders; tests change copies of it."""
    return fabricated(tmp_path_factory.mktemp("whole") / "out", LEVELS)


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole.root, tmp_path / "out")
    return Store(tmp_path / "out")


@pytest.fixture
def packed(store):
    pack_study(store.root)
    return Store(store.root)


def jobs_of(store):
    return [entry.job for entry in store.plan()]


def values(store):
    """All that is read of a study, exactly."""
    store = Store(store.root)
    found = {}
    for job in jobs_of(store):
        curve = store.curve(job)
        numbers = (curve.sigmas.tobytes(), curve.accuracies.tobytes(), curve.noise_free, curve.fit, curve.about)
        found[job] = (store.state(job), store.result(job).model_dump(), *map(repr, numbers))
    return found


def diverge(store, job, history=()):
    """Make a finished job one whose training diverged, with its last good checkpoint."""
    made = store.study().expand()[1][job]
    files = store.files(job)
    files.sweep.unlink()
    files.checkpoint.write_bytes(b"the last good epoch")
    write_result(files.path, made, status="diverged", message="loss is nan", history=list(history))


def test_packing_changes_no_number(whole, store):
    tables = [read(whole.root) for read in (load_results, summarise)]
    done = pack_study(store.root)
    assert (done.jobs, done.added, done.left) == (6, 6, ())
    assert not (store.root / "jobs").exists()
    assert values(store) == values(whole)
    for read, table in zip((load_results, summarise), tables):
        pd.testing.assert_frame_equal(read(store.root), table, check_exact=True)
    for write in (write_results, write_summary):
        write(Store(whole.root))
        write(Store(store.root))
    for name in ("results.csv", "summary.csv"):
        assert (store.root / name).read_bytes() == (whole.root / name).read_bytes()


def test_a_line_is_a_job_in_the_order_of_the_plan_and_sealed(packed):
    lines = (packed.root / "jobs.jsonl").read_text().splitlines()
    assert [json.loads(line)["job"] for line in lines] == jobs_of(packed)
    for line in lines:
        said = json.loads(line)
        del said["crc32"]
        assert sealed_text(said, None) == line + "\n"


def test_a_comparison_by_words_shows_the_number_that_changed(whole, packed, tmp_path):
    job = jobs_of(whole)[2]
    other = shutil.copytree(whole.root, tmp_path / "other")
    values = json.loads((other / "jobs" / job / SWEEP).read_text())
    del values["crc32"]
    values["noise_free"] = 0.8125
    (other / "jobs" / job / SWEEP).write_text(sealed_text(values))
    pack_study(other)
    files = [packed.root / "jobs.jsonl", other / "jobs.jsonl"]
    shown = subprocess.run(
        ["git", "diff", "--no-index", "--no-color", "--word-diff=porcelain", *files], capture_output=True, text=True
    ).stdout
    changed = [line[1:] for line in shown.splitlines()[4:] if line[:1] in "+-"]
    assert [word for word in changed if "crc" not in word and len(word) != len('"00000000",')] == ["0.8,", "0.8125,"]


def test_packing_again_adds_what_has_finished_since(whole, tmp_path):
    first = shutil.copytree(whole.root, tmp_path / "out")
    jobs = jobs_of(whole)
    for job in jobs[::2]:
        shutil.move(first / "jobs" / job, tmp_path / job)
    assert pack_study(first).added == 3
    for job in jobs[::2]:
        (first / "jobs").mkdir(exist_ok=True)
        shutil.move(tmp_path / job, first / "jobs" / job)
    assert pack_study(first).added == 3
    once = shutil.copytree(whole.root, tmp_path / "once")
    pack_study(once)
    assert (first / "jobs.jsonl").read_bytes() == (once / "jobs.jsonl").read_bytes()
    assert pack_study(once).added == 0


def test_jobs_of_an_earlier_plan_stay_in_the_file(packed):
    smaller = packed.study().model_copy(update={"seeds": 1})
    entries, _ = smaller.expand()
    packed.begin(smaller, entries)
    before = set(packed.packed)
    assert pack_study(packed.root).jobs == 6
    again = Store(packed.root)
    assert set(again.packed) == before
    assert list(again.packed)[:3] == [entry.job for entry in entries]


# What stays


def test_what_a_line_does_not_say_is_left_and_named(store):
    first, second, *_ = jobs_of(store)
    diverge(store, first)
    study, jobs = store.study(), store.study().expand()[1]
    assert study.name
    announce(jobs[second], store.folder(second), "cpu")
    said = {
        store.files(first).checkpoint: b"the last good epoch",
        store.files(second).log: b"a warning\n",
        store.folder(second) / "notes.txt": b"mine",
        store.files(second).grouped: b"{half",
    }
    for path, text in said.items():
        path.write_bytes(text)
    store.files(second).history.write_text(json.dumps(store.result(second).history[0]) + "\n")
    (store.folder(second) / "link").symlink_to(store.root / "plan.json")
    result = call("pack", store.root)
    assert result.exit_code == 0, result.output
    words = result.stderr.replace("\n", "")
    for path, text in said.items():
        assert path.read_bytes() == text
        assert str(path) in words
    assert {path.name for path in store.folder(second).iterdir()} == {"log.txt", "notes.txt", "grouped.json", "link"}
    assert {path.name for path in store.folder(first).iterdir()} == {"checkpoint.pt"}
    again = Store(store.root)
    assert [again.state(job) for job in (first, second)] == ["diverged", "finished"]
    assert again.curve(first) is None


def test_what_is_not_finished_stays_a_folder(store):
    failed, begun, *others = jobs_of(store)
    jobs = store.study().expand()[1]
    for job in (failed, begun):
        store.files(job).result.unlink()
        announce(jobs[job], store.folder(job), "cpu")
    record_failure(store.folder(failed), "why")
    before = {path: path.read_bytes() for job in (failed, begun) for path in store.folder(job).glob("*.json")}
    assert pack_study(store.root).jobs == len(others)
    after = {path: path.read_bytes() for job in (failed, begun) for path in store.folder(job).glob("*.json")}
    assert after == {path: text for path, text in before.items() if path.name != "running.json"}
    assert [Store(store.root).state(job) for job in (failed, begun)] == ["failed", "interrupted"]


def test_a_study_without_a_finished_job_gets_no_file(store):
    for job in jobs_of(store):
        store.files(job).result.unlink()
    result = call("pack", store.root)
    assert result.exit_code == 0
    assert "no job has finished" in result.stderr
    assert not (store.root / "jobs.jsonl").exists()


# Reading


def test_a_run_after_packing_trains_nothing(packed, monkeypatch):
    from analogsim.study import engine_local

    monkeypatch.setattr(engine_local, "_Worker", lambda: pytest.fail("a worker was started"))
    before = (packed.root / "jobs.jsonl").read_bytes()
    for group in (1, 8):
        counts = run_study(packed.study(), packed.root, workers=1, device="cpu", progress=False, group=group)
        assert counts == {"finished": 6}
    assert (packed.root / "jobs.jsonl").read_bytes() == before
    assert not (packed.root / "jobs").exists()


def test_every_command_reads_what_is_packed(whole, store, tmp_path):
    whole = Store(shutil.copytree(whole.root, tmp_path / "whole"))

    def said(root, *verb):
        result = call(*verb, root)
        assert result.exit_code == 0, result.output
        return result.stdout.replace(str(root), "")

    job = jobs_of(whole)[0]
    for one in (whole, store):  # a training that diverged in its second epoch
        history = one.result(job).history[:1]
        diverge(one, job, history)
        one.files(job).checkpoint.unlink()
        one.files(job).history.write_text(json.dumps(history[0]) + "\n")
    verbs = [("status",), ("status", "--format", "json"), ("list",), ("report",)]
    before = [said(whole.root, *verb) for verb in verbs]
    result = call("pack", store.root)
    assert "6 jobs, 6 of them new" in " ".join(result.stderr.split())
    assert [said(store.root, *verb) for verb in verbs] == before
    assert "6 jobs (5 finished" in " ".join(
        call("run", store.root / "study.yaml", "--dry-run", "--out", store.root).stderr.split()
    )


def test_a_job_in_both_forms_must_say_the_same(whole, packed):
    job = jobs_of(packed)[0]
    shutil.copytree(whole.folder(job), packed.root / "jobs" / job)
    assert values(packed) == values(whole)
    curve = RobustnessCurve.load(packed.files(job).sweep)
    RobustnessCurve(curve.sigmas, curve.accuracies[::-1], 0.8, 0.1, samples=10_000).save(packed.files(job).sweep)
    for read in (load_results, pack_study):
        with pytest.raises(StudyError, match=r"sweep.json: says something else than the line"):
            read(packed.root)
    write_result(packed.folder(job), packed.study().expand()[1][job], data="other")
    with pytest.raises(StudyError, match=r"result.json: says something else .* move one of the two away"):
        Store(packed.root).state(job)
    shutil.move(packed.root / "jobs.jsonl", packed.root / "away.jsonl")
    assert Store(packed.root).result(job).data == "other"


# Damage


def refused(store, text):
    """What is said of a damaged file by everything that reads it; None where it is read as it was."""
    path = store.root / "jobs.jsonl"
    path.write_bytes(text)
    messages = set()
    for read in (lambda: Store(store.root).state(jobs_of(store)[0]), lambda: load_results(store.root)):
        try:
            read()
            messages.add(None)
        except StudyError as error:
            messages.add(str(error))
    (message,) = messages
    return message


def test_damage_in_any_byte_of_any_line_is_said(whole, tmp_path):
    small = shutil.copytree(whole.root, tmp_path / "small")
    for job in jobs_of(whole)[2:]:
        shutil.rmtree(small / "jobs" / job)
    pack_study(small)
    text = (small / "jobs.jsonl").read_bytes()
    before = values_of(packed_lines(small / "jobs.jsonl", text))
    rng = np.random.default_rng(0)
    first = text.index(b"\n")
    unnoticed = 0
    for at in range(0, len(text), 3):
        bad = text[:at] + bytes([text[at] ^ int(rng.integers(1, 256))]) + text[at + 1 :]
        found = message = None
        try:
            found = packed_lines(small / "jobs.jsonl", bad)
        except StudyError as error:
            message = str(error)
        if message is not None:
            # A line that lost its end is one with the next.
            assert f"jobs.jsonl, line {1 if at <= first else 2}: damaged (" in message
            continue
        unnoticed += 1
        assert values_of(found) == before
    # White space into other white space, and a last digit of more than a float has.
    assert unnoticed < 0.01 * len(text)


def values_of(found):
    return {job: (one.result.model_dump(), one.curve.model_dump()) for job, one in found.items()}


def test_damage_is_said_by_file_and_line(packed):
    path = packed.root / "jobs.jsonl"
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    swapped = json.loads(lines[1])
    del swapped["crc32"]
    other = json.loads(lines[0])
    resealed = lambda **changes: sealed_text(swapped | changes, None).encode()  # noqa: E731
    wrong = {
        b"": "line 1",
        text[:-1]: "line 6: damaged .its end is missing",
        text[:-200]: "line 6: damaged",
        b"".join([*lines[:2], lines[0], *lines[2:]]): "line 3: damaged .job .* has a line above it already",
        b"".join([lines[0], resealed(job=other["job"]), *lines[2:]]): "line 2: damaged .*its result is of job",
        b"".join([lines[0], resealed(curve=None), *lines[2:]]): "line 2: damaged .*without a curve",
        b"".join([lines[0], resealed(job="../../etc"), *lines[2:]]): "line 2: damaged .*job",
        b"".join([lines[0], json.dumps(swapped).encode() + b"\n", *lines[2:]]): "line 2: damaged .*no checksum",
        b"".join([lines[0], b"\n", *lines[1:]]): "line 2: damaged",
        b"".join([*lines[:3], b"[" * 20_000 + b"\n"]): "line 4: damaged .*nested too deeply",
    }
    for bad, words in wrong.items():
        message = refused(packed, bad)
        assert message
        assert re.search(words, message), message
        assert str(path) in message
        assert not re.search(r"\b(delete|remove|overwrite)\b", message)
    other_noise = dict(swapped["curve"], sigmas=[sigma * 2 for sigma in swapped["curve"]["sigmas"]])
    message = refused(packed, b"".join([lines[0], resealed(curve=other_noise), *lines[2:]]))
    assert "line 2: damaged" in message
    assert "not over the noise of this job" in message
    assert refused(packed, text) is None
    # Damage is one line on the terminal, too, and keeps a run from training what may be there.
    path.write_bytes(text[:-200])
    for command in (("status", packed.root), ("pack", packed.root), ("report", packed.root)):
        result = call(*command)
        assert result.exit_code == 1
        assert "line 6: damaged" in " ".join(result.output.split())
        assert "Traceback" not in result.output
    with pytest.raises(StudyError, match="line 6"):
        run_study(packed.study(), packed.root, workers=1, device="cpu", progress=False)


def test_a_damaged_folder_is_not_packed(store):
    before = values(store)
    path = store.files(jobs_of(store)[3]).sweep
    text = path.read_bytes()
    path.write_bytes(text[:-50])
    with pytest.raises(StudyError, match=r"sweep.json: damaged"):
        pack_study(store.root)
    assert not (store.root / "jobs.jsonl").exists()
    path.write_bytes(text)
    assert values(store) == before


# Kills


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 9, 11])
def test_a_kill_while_folders_are_removed_leaves_one_whole_form(whole, store, monkeypatch, number):
    count = 0
    unlink = Path.unlink

    def dies(self, *args, **kwargs):
        nonlocal count
        if self.name in (RESULT, SWEEP):
            if count == number:
                raise Killed
            count += 1
        unlink(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        with pytest.raises(Killed):
            pack_study(store.root)
    assert values(store) == values(whole)
    assert pack_study(store.root).added == 0
    assert not (store.root / "jobs").exists()
    assert values(store) == values(whole)


@pytest.mark.parametrize("failure", [Killed, OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_folders(whole, store, monkeypatch, failure):
    def fails(self, *args):
        (self.parent / "half").touch()
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fails)
        with pytest.raises((Killed, StudyError)):
            pack_study(store.root)
    assert not (store.root / "jobs.jsonl").exists()
    assert values(store) == values(whole)
    assert pack_study(store.root).added == 6


def test_what_reads_back_as_something_else_is_not_kept(whole, store, monkeypatch):
    write = Path.write_bytes
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda self, text: write(self, text[:-7] + b"0" + text[-6:]))
        with pytest.raises(StudyError, match="what was read back is not what was written"):
            pack_study(store.root)
    assert not (store.root / "jobs.jsonl").exists()
    assert values(store) == values(whole)


def test_a_file_that_cannot_be_removed_is_said_and_packing_goes_on_later(store, monkeypatch):
    def fails(self, *args, **kwargs):
        if self.name == SWEEP:
            raise PermissionError(13, "Permission denied", str(self))

    unlink = Path.unlink
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda self, **kw: fails(self) or unlink(self, **kw))
        with pytest.raises(StudyError, match=r"sweep.json: cannot be removed: .*the same command goes on"):
            pack_study(store.root)
    assert pack_study(store.root).added == 0
    assert not (store.root / "jobs").exists()


def test_a_study_at_work_is_not_packed(store):
    with store.held("analogsim study run x.yaml"):
        result = call("pack", store.root)
    assert result.exit_code == 1
    assert "analogsim study run x.yaml" in " ".join(result.stderr.split())
    assert not (store.root / "jobs.jsonl").exists()


# What a stranger sent


def test_a_packed_file_is_no_link_and_has_a_limit(packed, tmp_path, monkeypatch):
    path = packed.root / "jobs.jsonl"
    victim = tmp_path / "victim"
    path.rename(victim)
    before = victim.read_bytes()
    path.symlink_to(victim)
    for read in (load_results, pack_study):
        with pytest.raises(StudyError, match=r"jobs.jsonl: is a link"):
            read(packed.root)
    assert victim.read_bytes() == before
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StudyError, match=r"jobs.jsonl: cannot be read: No regular file"):
        load_results(packed.root)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(256 * 1024**2 + 1)
    with pytest.raises(StudyError, match=r"jobs.jsonl: cannot be read: 268,435,457 bytes, more than"):
        load_results(packed.root)


def test_a_folder_that_is_a_link_is_not_packed(store, tmp_path):
    folder = store.folder(jobs_of(store)[0])
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "running.json").write_text("{}")  # such as a run that was killed leaves
    before = sorted((tmp_path / "elsewhere").iterdir())
    with pytest.raises(StudyError, match="is a link"):
        pack_study(store.root)
    assert sorted((tmp_path / "elsewhere").iterdir()) == before
    assert not (store.root / "jobs.jsonl").exists()


def test_nothing_is_removed_through_a_link_to_all_jobs(store, tmp_path):
    (store.root / "jobs").rename(tmp_path / "elsewhere")
    (store.root / "jobs").symlink_to(tmp_path / "elsewhere")
    left = tmp_path / "elsewhere" / jobs_of(store)[0] / "running.json"
    left.write_text("{}")
    with pytest.raises(StudyError, match="is a link"):
        pack_study(store.root)
    assert left.exists()


def test_a_link_in_a_folder_stays(store, tmp_path):
    files = store.files(jobs_of(store)[0])
    files.sweep.rename(tmp_path / "sweep.json")
    files.sweep.symlink_to(tmp_path / "sweep.json")
    done = pack_study(store.root)
    assert done.left == (files.sweep,)
    assert (tmp_path / "sweep.json").exists()


def test_what_a_stranger_s_history_may_hold_is_left_and_named(store):
    files = store.files(jobs_of(store)[0])
    files.history.write_text("[" * 20_000)
    assert pack_study(store.root).left == (files.history,)


def test_lines_end_where_they_were_checked_to_end(packed):
    """White space of JSON may be a carriage return, which ends no line here."""
    path = packed.root / "jobs.jsonl"
    path.write_bytes(path.read_bytes().replace(b'": ', b'":\r', 3))
    assert pack_study(packed.root).jobs == 6


def test_what_would_be_too_large_to_read_is_not_written(whole, store, monkeypatch):
    monkeypatch.setattr(packing, "MOST", 1000)
    with pytest.raises(StudyError, match=r"jobs.jsonl: would have .* bytes, more than the 1,000"):
        pack_study(store.root)
    assert not (store.root / "jobs.jsonl").exists()
    assert values(store) == values(whole)


def test_a_job_s_folder_names_its_files(tmp_path):
    files = JobFolder(tmp_path)
    assert not files.finished
    assert not files.ended
    assert files.epochs() == 0
    files.history.write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    assert files.epochs() == 2
    files.error.touch()
    assert files.ended
    files.result.touch()
    assert files.finished
    places = [value for name in vars(JobFolder) if isinstance(value := getattr(files, name, None), type(tmp_path))]
    assert len(set(places)) == len(places) == 11
    assert {place.parent for place in places} == {tmp_path}
