"""Studies as a user runs them: killed and resumed, with jobs that fail, locked, tabulated, reported."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analogsim.errors import BackendError, StudyError
from analogsim.machine import provenance
from analogsim.robustness.curve import RobustnessCurve
from analogsim.storage.kept import sealed_text
from analogsim.study import estimate as estimates
from analogsim.study import load_results, load_study, run_study, summarise
from analogsim.study.folder import ERROR, RESULT, RUNNING, SWEEP
from analogsim.study.grid import Study
from analogsim.study.job import Task, now, record_failure, run_job
from analogsim.study.records import Result
from analogsim.study.results import load_variants
from analogsim.study.run import time_left
from analogsim.study.store import Store
from tests.support import shell
from tests.support.browser import CHROMIUM
from tests.support.shell import ROOT

TINY = {
    "name": "Tiny",
    "data": "digits",
    "train_subset": 256,
    "test_subset": 120,
    "models": {"LeNet-5": "models.lenet:LeNet5"},
    "methods": [{"name": "float"}],
    "train": {"epochs": 2, "batch_size": 32, "lr": 2e-3},
    "sweep": {"sigmas": "0.03,0.3,1,3,30", "repeats": 2},
}


def study(**changes):
    return Study(**(TINY | changes))


def written(folder, **changes):
    """A study as a file."""
    path = Path(folder) / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False), encoding="utf-8")
    return path


def call(*args):
    return shell.call("study", *args)


def wait_until(happened, process=None, seconds=300):
    until = time.monotonic() + seconds
    while not happened():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()}")
        if time.monotonic() > until:
            pytest.fail("waited in vain")
        time.sleep(0.01)


def alive(pid):
    try:
        # A zombie is no process that works.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def without_times(folder):
    return load_results(folder).drop(columns="seconds")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study with a quantized, a noisy and a failing method, run once; tests change nothing in it."""
    folder = tmp_path_factory.mktemp("study")
    methods = [
        {"name": "float", "claim": "the <baseline>"},
        {"name": "constant", "qat": {"bits": 8}, "grid": {"qat.s": [0.02, 0.5]}, "claim": "µ grows with s"},
        {"name": "noisy", "train": {"sigma": 0.3}},
        {"name": "impossible", "grid": {"args.pool": ["median"]}},
    ]
    file = written(folder, methods=methods, seeds=2)
    result = call("run", file, "--out", folder / "out", "--workers", 2, "--device", "cpu")
    return file, folder / "out", result


# Running


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_table_of_an_unbroken_one(tmp_path):
    file = written(
        tmp_path,
        methods=[{"name": "noisy", "train": {"sigma": 0.3}}],
        seeds=4,
        train={"epochs": 10, "batch_size": 16, "lr": 2e-3},
    )
    options = ["--workers", 2, "--device", "cpu"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    def midway():
        finished = list(broken.glob(f"jobs/*/{RESULT}"))
        # One that has most of its epochs before it, so that it is still at them when the kill comes.
        histories = (path for path in broken.glob("jobs/*/history.jsonl") if not (path.parent / RESULT).exists())
        return finished and any(1 <= path.read_text().count("\n") <= 4 for path in histories)

    process = shell.start("study", "run", file, "--out", broken, *options)
    wait_until(midway, process)
    workers = [json.loads(path.read_text())["process"] for path in broken.glob(f"jobs/*/{RUNNING}")]
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(alive, workers)), seconds=20)

    kept = {path: path.read_bytes() for path in broken.glob(f"jobs/*/{RESULT}")}
    half = {
        path.parent: (path.parent / "history.jsonl").read_text().splitlines()
        for path in broken.glob("jobs/*/checkpoint.pt")
        if not (path.parent / RESULT).exists()
    }
    assert 1 <= len(kept) < 4
    assert "interrupted" in call("status", broken).output

    for folder in (broken, whole):
        assert call("run", file, "--out", folder, *options).exit_code == 0
    assert {path: path.read_bytes() for path in kept} == kept
    for folder, lines in half.items():
        # Its epochs' seconds were measured, and would be others had they been trained again.
        history = json.loads((folder / RESULT).read_text())["history"]
        assert history[: len(lines)] == [json.loads(line) for line in lines]
        assert len(history) == 10
    pd.testing.assert_frame_equal(without_times(broken), without_times(whole))
    assert (broken / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()
    assert not list(broken.rglob("*.part"))
    first, _ = Store(broken).runs()
    assert first.command == f"analogsim study run {file} --out {broken} --workers 2 --device cpu"


def test_ctrl_c_ends_everything_and_says_how_to_go_on(tmp_path):
    file = written(tmp_path, train={"epochs": 500}, seeds=2)
    out = tmp_path / "out"
    options = ["--workers", 2, "--device", "cpu"]
    process = shell.start("study", "run", file, "--out", out, *options, start_new_session=True)
    wait_until(lambda: list(out.glob("jobs/*/checkpoint.pt")), process)
    workers = [json.loads(path.read_text())["process"] for path in out.glob(f"jobs/*/{RUNNING}")]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert workers
    assert not any(map(alive, workers))
    assert (out / "results.csv").exists()
    assert not Store(out).busy()


def test_a_failing_job_is_recorded_and_stops_no_other(ran):
    file, out, result = ran
    assert result.exit_code == 1
    frame = load_results(out)
    assert dict(frame["status"].value_counts())["failed"] == 2
    assert (frame["status"] != "failed").sum() == 2 * 4
    (failed, *_) = frame[frame["status"] == "failed"]["job"]
    error = json.loads((out / "jobs" / failed / ERROR).read_text())
    assert "must be 'max' or 'average' (got 'median')" in error["message"]
    assert "Traceback" in error["traceback"]
    status = " ".join(call("status", out).output.split())
    assert "2 failed" in status
    assert "(got 'median')" in status


def test_progress_tells_jobs_and_the_time_to_go(ran):
    _, _, result = ran
    lines = re.findall(r"\((\d+) jobs done, (\d) running, (\d+) left, (.*)\)\n", result.stderr)
    counts = [int(done) for done, *_ in lines]
    assert len(counts) == counts[-1] == 10
    assert counts == sorted(counts)  # jobs that end at once are counted together
    assert all(int(done) + int(running) + int(left) == 10 for done, running, left, _ in lines)
    assert lines[-1][3] == "2 failed, no epoch to go"
    assert any(re.search(r"about \d+:\d\d:\d\d to go", rest) for *_, rest in lines[:-1])


@pytest.mark.parametrize(
    ("trained", "left", "seconds", "words"),
    [(10, 30, 1200, "1:00:00 to go"), (0, 30, 5, "not known yet"), (40, 0, 9, "no epoch"), (-3, 7, 9, "not known yet")],
)
def test_the_time_to_go_is_that_of_the_epochs_so_far(trained, left, seconds, words):
    assert words in time_left(trained, left, seconds)


def test_only_what_failed_is_run_again_and_only_if_asked(ran, tmp_path):
    file, original, _ = ran
    out = shutil.copytree(original, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/*.json")}

    assert call("run", file, "--out", out, "--device", "cpu").exit_code == 1
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert call("run", file, "--out", out, "--device", "cpu", "--workers", 2, "--retry-failed").exit_code == 1
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert changed == {ERROR, "job.json"}


@pytest.mark.parametrize(
    ("message", "kept"), [("ShapeError: CheckpointNet on digits", True), ("CheckpointError: x", False)]
)
def test_only_a_bad_checkpoint_is_forgotten_with_a_failure(tmp_path, message, kept):
    store = Store(tmp_path)
    store.folder("job").mkdir(parents=True)
    (store.folder("job") / "checkpoint.pt").touch()
    record_failure(store.folder("job"), message)
    store.forget_failure("job")
    assert (store.folder("job") / "checkpoint.pt").exists() == kept
    assert store.state("job") == "waiting"


@pytest.mark.slow
def test_a_study_can_grow(ran, tmp_path):
    _, original, _ = ran
    out = shutil.copytree(original, tmp_path / "out")
    before = {path.name for path in (out / "jobs").iterdir()}
    grown = study(methods=[{"name": "float"}, {"name": "less noisy", "train": {"sigma": 0.1}}], seeds=2)
    counts = run_study(grown, out, workers=2, device="cpu", progress=False)
    assert counts.total() == 4
    assert len({path.name for path in (out / "jobs").iterdir()} - before) == 2
    assert set(load_results(out)["method"]) == {"float", "less noisy"}
    with pytest.raises(StudyError, match="holds the study 'Tiny', this is 'Other'; use another --out"):
        run_study(study(name="Other"), out)


NETWORKS = """
import os, pathlib, signal
from models.lenet import LeNet5

class DiesAlways(LeNet5):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)

class DiesOnce(LeNet5):
    def __init__(self):
        super().__init__(channels=1)
        if not pathlib.Path("died").exists():
            pathlib.Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_its_job_tried_once_more(tmp_path, monkeypatch):
    (tmp_path / "dying_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    models = {"always": "dying_networks:DiesAlways", "once": "dying_networks:DiesOnce", "never": "models.lenet:LeNet5"}
    counts = run_study(study(models=models), tmp_path / "out", workers=2, device="cpu", progress=False)
    assert counts["failed"] == 1
    assert counts.total() == 3
    frame = load_results(tmp_path / "out").set_index("model")
    assert frame["status"]["always"] == "failed"
    message = Store(tmp_path / "out").error(frame["job"]["always"])
    assert "the worker process died (signal SIGKILL), 2 times" in message
    np.testing.assert_array_equal(frame["peak"]["once"], frame["peak"]["never"])


@pytest.mark.slow
def test_a_script_needs_no_guard_against_its_own_workers(tmp_path):
    written(tmp_path, train={"epochs": 1}, train_subset=32)
    (tmp_path / "script.py").write_text(
        "from analogsim.study import load_study, run_study\n"
        "print('once')\n"
        "print(dict(run_study(load_study('study.yaml'), 'out', workers=1, device='cpu')))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert "failed" not in process.stdout
    assert process.stdout.count("once") == 1
    assert "Traceback" not in process.stderr


def test_a_divergence_is_a_result(tmp_path):
    methods = [{"name": "float", "train": {"lr": 1e30}}]
    counts = run_study(study(methods=methods), tmp_path, workers=2, device="cpu", progress=False)
    assert counts == {"diverged": 1}
    (row,) = load_results(tmp_path).to_dict("records")
    assert row["status"] == "diverged"
    assert np.isnan(row["midpoint"])
    assert summarise(tmp_path)["flags"].tolist() == ["1 diverged"]


def test_two_runs_keep_out_of_each_other_s_way(ran):
    file, out, _ = ran
    with Store(out).held("analogsim study run other.yaml"):
        result = call("run", file, "--out", out)
        assert result.exit_code == 1
        words = " ".join(result.stderr.split())
        assert f"process {os.getpid()} on " in words
        assert "analogsim study run other.yaml" in words
        assert "is at work since" in " ".join(call("status", out).output.split())
        assert json.loads(call("status", out, "--format", "json").stdout)["at_work"] is True
    assert "no run is at work" in call("status", out).output


def test_a_report_leaves_the_tables_to_a_run_that_is_at_work(ran, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(ran[1], out)
    (out / "results.csv").unlink()
    with Store(out).held("analogsim study run"):
        assert call("report", out).exit_code == 0
    assert (out / "report.html").exists()
    assert not (out / "results.csv").exists()
    assert call("report", out).exit_code == 0
    assert (out / "results.csv").exists()


def test_a_dry_run_does_nothing(tmp_path):
    file = written(tmp_path, seeds=3)
    result = call("run", file, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "3 jobs (3 waiting), 6 epochs in all" in " ".join(result.stderr.split())
    assert "float" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_an_estimate_is_of_every_epoch_and_evaluation_and_measures_a_kind_once(tmp_path, monkeypatch):
    kinds = []

    def measured(job, device):
        kinds.append((job.qat and job.qat.act_bits, job.train.sigma))
        return 100.0, 0.5  # seconds of an epoch, and of the evaluation of an image

    methods = [
        {"name": "float"},
        {"name": "noisy", "grid": {"train.sigma": [0.3, 1.0]}},
        {"name": "quantized", "qat": {"bits": 8}, "grid": {"qat.s": [0.1, 0.2]}},
    ]
    jobs = study(methods=methods, seeds=2, sweep={"sigmas": "0,0.3,1,3", "repeats": 2}).expand()[1]
    monkeypatch.setattr(estimates, "_measured", measured)
    found = estimates.estimate(jobs)
    assert kinds == [(None, 0.0), (None, 0.3), (8, 0.0)]
    # Two epochs; without noise, and twice at each of three σ; 120 images.
    assert found == dict.fromkeys(jobs, 2 * 100.0 + 7 * 120 * 0.5)


def test_an_estimate_measures_and_writes_nothing(tmp_path):
    file = written(tmp_path, methods=[{"name": "float"}, {"name": "matched", "train": {"sigma": "matched"}}])
    result = call("run", file, "--out", tmp_path / "out", "--estimate", "--device", "cpu")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert said.count("measuring models.lenet:LeNet5") == 2
    assert "6 jobs (6 waiting), 12 epochs in all; nothing was done" in said
    hours, left = re.findall(r"each job by itself: (\S+) hours of jobs, of which (\S+) are not done", said)[0]
    assert 0 < float(left) == float(hours) < 1  # however few they are, they are no 0.0
    assert "matched, σ=0.03" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_a_directory_whose_lock_cannot_be_opened_is_busy_where_an_owner_is_named(tmp_path):
    (tmp_path / "lock").mkdir()  # refuses to be opened, as a file of somebody else's does
    assert not Store(tmp_path).busy()
    (tmp_path / "lock.json").write_text("{}")
    assert Store(tmp_path).busy()


def test_no_study_no_status(tmp_path):
    (tmp_path / "file").write_text("")
    for command in ("status", "list", "report"):
        assert "holds no" in " ".join(call(command, tmp_path / "file").stderr.split())
        result = call(command, tmp_path)
        assert result.exit_code == 1
        assert "error:" in result.stderr


def test_ray_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"Ray is not installed; pip install 'analogsim\[ray\]'"):
        run_study(study(), tmp_path, engine="ray", progress=False)
    with pytest.raises(StudyError, match="choose local or ray"):
        run_study(study(), tmp_path, engine="abacus")


# Tables


def test_results_are_a_frame_and_a_csv(ran):
    _, out, _ = ran
    frame = load_results(out)
    assert list(frame.groupby("method", sort=False).size().items()) == [
        ("float", 2),
        ("constant", 4),
        ("noisy", 2),
        ("impossible", 2),
    ]
    assert frame["s"].dropna().tolist() == [0.02, 0.02, 0.5, 0.5]
    assert (frame[frame["method"] == "noisy"]["sigma"] == 0.3).all()
    assert frame["job"].is_unique
    written = pd.read_csv(out / "results.csv")
    assert written["peak"].to_numpy() == pytest.approx(frame["peak"].to_numpy(), rel=1e-5, nan_ok=True)
    assert written["job"].tolist() == frame["job"].tolist()
    listed = call("list", out).output
    assert all(job in listed for job in frame["job"])


def test_a_job_s_sweep_is_what_a_sweep_of_its_network_gives(ran):
    _, out, _ = ran
    from analogsim.robustness.sweep import noise_sweep
    from analogsim.study.job import job_network
    from analogsim.training.data import load_data
    from analogsim.training.train import train

    study = Store(out).study()
    entries, jobs = study.expand()
    job = jobs[next(entry.job for entry in entries if entry.method == "noisy")]
    data = load_data("digits").subset(256, 120)
    network = train(job_network(job, data), data, job.train, progress=False).model
    curve = noise_sweep(
        network, list(data.test_batches()), [0.03, 0.3, 1, 3, 30], 2, chance=data.chance, progress=False
    )
    np.testing.assert_array_equal(RobustnessCurve.load(out / "jobs" / job.id / SWEEP).accuracies, curve.accuracies)


def test_a_study_estimates_statistics_where_a_network_has_batch_normalisation(tmp_path, monkeypatch):
    from analogsim.robustness.sweep import noise_sweep
    from analogsim.study.job import job_network
    from analogsim.training.data import load_data
    from analogsim.training.train import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "norm_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, norm=True):\n"
        "        norm = [nn.BatchNorm2d(4)] * norm\n"
        "        super().__init__(nn.Conv2d(1, 4, 5, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))\n"
    )
    models = {name: {"path": "norm_net:Net", "args": {"norm": name == "with"}} for name in ("with", "without")}
    methods = [{"name": "noisy", "train": {"sigma": 3}}]
    made = study(models=models, methods=methods, sweep={"sigmas": "0.03,0.3,3,30", "repeats": 1, "batch_norm": 100})
    entries, jobs = made.expand()
    data = load_data("digits").subset(256, 120)
    for entry in entries:
        job = jobs[entry.job]
        run_job(job, tmp_path / entry.job)
        curve = RobustnessCurve.load(tmp_path / entry.job / SWEEP)
        network = train(job_network(job, data), data, job.train, progress=False).model
        given = {"chance": data.chance, "progress": False}
        kept = noise_sweep(network, list(data.test_batches()), [0.03, 0.3, 3, 30], 1, **given)
        if entry.model == "with":
            assert curve.about["batch_norm"] == "estimated at every σ"
            assert curve.noise_free != kept.noise_free
            sample = data.train_sample(100)
            kept = noise_sweep(network, list(data.test_batches()), [0.03, 0.3, 3, 30], 1, batch_norm=sample, **given)
        assert kept.about == curve.about
        np.testing.assert_array_equal(curve.accuracies, kept.accuracies)


def write_result(home, job, **changes):
    """Write what a job of one epoch leaves."""
    epoch = {"epoch": 1, "loss": 1.0, "train_accuracy": 0.7, "test_accuracy": 0.8, "lr": 1e-3, "sigma": 0.0}
    about = {"job": job.identity, "data": "none", "fingerprint": "0" * 8, "status": "finished", "message": ""}
    about |= {"history": [epoch | {"seconds": 1.0}], "seconds": {"training": 1.0, "all": 2.0}, "started": now()}
    about |= {"finished": now(), **provenance("cpu"), **changes}
    (home / RESULT).write_text(sealed_text(Result(**about)))


def fabricated(folder, levels):
    """A finished study whose jobs have curves of known µ: method → one µ a seed."""
    methods = [{"name": name, "train": {"sigma": number}} for number, name in enumerate(levels)]
    sweep = {"sigmas": "geomspace(0.01, 100, 17)", "repeats": 3}
    made = study(methods=methods, seeds=len(next(iter(levels.values()))), baseline=next(iter(levels)), sweep=sweep)
    entries, jobs = made.expand()
    store = Store(folder)
    store.root.mkdir(exist_ok=True)
    store.begin(made, entries)
    grid = made.sweep.grid
    rng = np.random.default_rng(0)
    for entry in entries:
        mu = levels[entry.method][entry.seed]
        means = 0.1 + 0.7 / (1 + (grid[:, None] / mu) ** 3)
        curve = RobustnessCurve(grid, rng.binomial(10_000, means.repeat(3, 1)) / 10_000, 0.8, 0.1, samples=10_000)
        home = store.folder(entry.job)
        home.mkdir(parents=True)
        curve.save(home / SWEEP)
        write_result(home, jobs[entry.job])
    return store


def test_a_summary_pools_seeds_and_judges_against_the_baseline(tmp_path):
    levels = {"float": [0.9, 1.0, 1.1], "false": [0.2, 0.21, 0.19], "true": [3.9, 4.0, 4.1]}
    store = fabricated(tmp_path, levels)
    frame = summarise(store.root).set_index("method")
    assert frame["trainings"].tolist() == [3, 3, 3]
    for name, mus in levels.items():
        assert frame["midpoint"][name] == pytest.approx(np.mean(mus), rel=0.02)
        # The spread of trainings, which repeats of one training do not show.
        assert frame["ci_low"][name] < min(mus) * 1.02
        assert frame["ci_high"][name] > max(mus) * 0.98
    assert frame["flags"].tolist() == ["", "brittle", ""]
    one = load_results(store.root)
    assert (one["ci_high"] - one["ci_low"] < 0.1 * one["midpoint"]).all()


def test_fits_of_pooled_curves_are_made_once_and_never_stale(tmp_path, monkeypatch):
    from analogsim.robustness import curve as curve_module
    from analogsim.study.results import write_summary

    store = fabricated(tmp_path / "out", {"float": [0.9, 1.0, 1.1], "false": [0.2, 0.21, 0.19], "lost": [0.001] * 3})
    write_summary(store)
    first = summarise(store.root)
    assert len(Store(store.root).fits) == 3
    with monkeypatch.context() as patched:
        patched.setattr(curve_module, "fit_midpoint", lambda *_, **__: pytest.fail("a fit was made again"))
        pd.testing.assert_frame_equal(summarise(store.root), first)
        write_summary(Store(store.root))
    (store.root / "fits.json").write_text("{half")
    pd.testing.assert_frame_equal(summarise(store.root), first)
    path = next(store.folder(entry.job) for entry in store.plan() if entry.method == "false") / SWEEP
    curve = RobustnessCurve.load(path)
    RobustnessCurve(curve.sigmas, curve.accuracies[::-1], 0.8, 0.1, samples=10_000).save(path)
    second = summarise(store.root).set_index("method")
    assert second["midpoint"]["false"] != first.set_index("method")["midpoint"]["false"]
    assert second["midpoint"]["float"] == first.set_index("method")["midpoint"]["float"]


def test_the_fit_of_one_training_is_that_of_its_curve(tmp_path, monkeypatch):
    from analogsim.robustness import curve as curve_module

    store = fabricated(tmp_path / "out", {"float": [1.0], "false": [0.2]})
    monkeypatch.setattr(curve_module, "fit_midpoint", lambda *_, **__: pytest.fail("a fit was made again"))
    frame = summarise(store.root).set_index("method")
    assert frame["flags"].tolist() == ["", "brittle"]
    assert frame["midpoint"].tolist() == load_results(store.root)["midpoint"].tolist()


def test_a_damaged_result_is_named(tmp_path):
    store = fabricated(tmp_path, {"float": [1.0]})
    (path,) = tmp_path.glob(f"jobs/*/{RESULT}")
    # The job stays what it is, whatever parses there: no job is done again, or never, for a damaged file.
    for text in ("{half", "{}", '{"a": 1}', "[]"):
        path.write_text(text)
        with pytest.raises(StudyError, match=re.escape(str(path)) + ": damaged"):
            store.state(path.parent.name)
    with pytest.raises(StudyError, match=re.escape(str(path)) + ": damaged"):
        load_results(store.root)


# The report


@pytest.fixture(scope="module")
def page(ran):
    _, out, _ = ran
    result = call("report", out)
    assert result.exit_code == 0, result.output
    return out / "report.html"


def test_a_report_is_one_page_that_needs_nothing_else(page):
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    text = page.read_text(encoding="utf-8")
    Reader().feed(text)
    assert not [attrs for tag, attrs in found if tag in ("script", "img", "iframe") and attrs.get("src")]
    assert "link" not in {tag for tag, _ in found}
    names = {attrs.get("id") for _, attrs in found}
    assert {"results", "filter", "curves-0", "tradeoff", "learn-0"} <= names
    boxes = [attrs["value"] for _, attrs in found if attrs.get("type") == "checkbox"]
    assert boxes == ["LeNet-5", "float", "constant", "noisy", "impossible"]
    for words in (
        "the &lt;baseline&gt;",
        "µ grows with s",
        "2 failed",
        "got &#39;median&#39;",
        "engine local",
        "torch",
    ):
        assert words in text
    assert "the <baseline>" not in text


def test_figures_are_files_too(page):
    from PIL import Image

    folder = page.parent / "figures"
    for name in ("curves-lenet-5", "learning-lenet-5", "tradeoff"):
        assert "<svg" in (folder / f"{name}.svg").read_text()
        with Image.open(folder / f"{name}.png") as picture:
            assert len(set(picture.convert("RGB").resize((100, 60)).get_flattened_data())) > 10
    svg = (folder / "curves-lenet-5.svg").read_text()
    assert svg.count("µ") or "LeNet-5" in svg


HOSTILE = [
    "LeNet 5",
    "LeNet-5",
    "α",
    "β",
    "LeNet-5-2",
    "x" * 300,
    "x" * 301,
    "$\\frac$",
    "../../up",
    "a\nb\x1b[31m",
    "CON",
    "",
]
HOSTILE += ["<b>&amp;", "_hidden", "a/b", "100 % {x}", "💥 تجربة", ".", "-", "NUL"]


def test_names_never_share_a_file_and_are_drawn_whatever_they_hold(tmp_path):
    from analogsim.study.figures import FORMATS, LONGEST, file_names, write_figures

    names = file_names(HOSTILE)
    assert list(names) == HOSTILE
    assert len(set(names.values())) == len(HOSTILE)
    for name in names.values():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
        assert len(name) < LONGEST + 5
    store = fabricated(tmp_path / "out", {"$\\frac": [1.0], "y" * 300: [2.0]})
    variants = load_variants(store)
    drawn = ["_LeNet $\\frac$\n\x1b[31m", "x" * 300, "💥 تجربة"]
    each = [replace(v, cell=v.cell.model_copy(update={"model": name})) for name in drawn for v in variants]
    files = write_figures(each, tmp_path / "figures")
    assert len(set(files)) == len(files) == len(FORMATS) * (2 * len(drawn) + 1)
    assert set(files) == set((tmp_path / "figures").iterdir())


DRIVER = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const seen = {};
  const drawn = (id) => document.querySelectorAll(`#${id} .scatterlayer .trace`).length;
  seen.drawn = ["curves-0", "tradeoff", "learn-0"].map(drawn);
  // A mouse over the first curve's measured point that is farthest from all others: of two that coincide, one is shown.
  const plot = document.getElementById("curves-0");
  const layer = plot.querySelector(".nsewdrag"), dots = [...plot.querySelectorAll(".scatterlayer .trace .points path")];
  const [x, y] = ["x", "y"].map((side) => (dot) => dot.getBoundingClientRect()[side]);
  const between = (one, other) => Math.hypot(x(one) - x(other), y(one) - y(other));
  const away = (dot) => Math.min(...dots.filter((one) => one !== dot).map((one) => between(one, dot)));
  const first = [...dots[0].closest(".trace").querySelectorAll(".points path")];
  const alone = first.reduce((one, other) => (away(other) > away(one) ? other : one));
  seen.away = away(alone);
  alone.scrollIntoView();
  const at = alone.getBoundingClientRect();
  const event = { clientX: at.x + at.width / 2, clientY: at.y + at.height / 2, bubbles: true, view: window };
  layer.dispatchEvent(new MouseEvent("mouseover", event));
  layer.dispatchEvent(new MouseEvent("mousemove", event));
  setTimeout(() => {
    seen.hover = plot.querySelector(".hoverlayer").textContent;
    const rows = () => [...document.querySelectorAll("#results tbody tr")].filter((row) => row.offsetParent).length;
    seen.rows = [rows()];
    for (const box of ["noisy", "LeNet-5"]) {
      document.querySelector(`#filter input[value="${box}"]`).click();
      seen.rows.push(rows());
      seen.drawn.push(drawn("learn-0"));
    }
    document.body.innerHTML = `<pre id="seen">${JSON.stringify(seen)}</pre>`;
  }, 1000);
}, 1000));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_shows_hovers_and_filters_it_without_a_network(page, tmp_path):
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000", "--window-size=1200,900"]
    out = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", driven.as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', out, re.S)[1])
    curves, tradeoff, learning, without_noisy, without_network = seen["drawn"]
    assert curves >= 4 + 2 * 3
    assert tradeoff >= 2
    assert learning == 4
    assert without_noisy == 3
    assert without_network == 0
    assert seen["rows"] == [5, 4, 0]
    assert seen["away"] > 3, "no point of the first curve stands alone"
    curve = next(v.curve for v in load_variants(Store(page.parent)) if v.cell.method == "float")
    assert curve is not None
    points = [f"σ = {sigma:#.3g}: {mean:.3f}" for sigma, mean in zip(curve.sigmas, curve.mean)]
    assert re.findall(r"σ = [\d.]+: [\d.]+", seen["hover"])[0] in points, seen["hover"]
    assert "float" in seen["hover"]


# Ray


def ray_test(function):
    missing = importlib.util.find_spec("ray") is None
    function = pytest.mark.skipif(missing, reason="Ray is not installed: pip install 'analogsim[ray]'")(function)
    # Warnings are Ray's own.
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(function))


@pytest.fixture
def cluster():
    """A Ray cluster without a node: every test adds its own."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def ray_tasks(store, made):
    _, jobs = made.expand()
    return [Task(job, store.folder(name), str(ROOT), "cpu", 1) for name, job in jobs.items()]


def running(store):
    return [path.parent for path in store.root.glob(f"jobs/*/{RUNNING}")]


@ray_test
def test_a_ray_cluster_survives_the_death_of_a_node(tmp_path, monkeypatch, cluster):
    import ray

    from analogsim.study.engine_ray import run_ray

    monkeypatch.chdir(ROOT)
    made = study(train={"epochs": 8, "batch_size": 16, "lr": 2e-3}, seeds=4)
    store = Store(tmp_path / "out")
    cluster.add_node(num_cpus=1, include_dashboard=False)
    victim = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    ended, lost, history = [], None, []
    for task in run_ray(ray_tasks(store, made), cpus=1):
        begun = [folder for folder in running(store) if (folder / "checkpoint.pt").exists()]
        if lost is None and len(begun) == 2:
            owners = {json.loads((folder / RUNNING).read_text())["process"]: folder for folder in begun}
            cluster.remove_node(victim, allow_graceful=False)
            wait_until(lambda pids=tuple(owners): not all(map(alive, pids)), seconds=20)
            (lost,) = (folder for pid, folder in owners.items() if not alive(pid))
            history = [json.loads(line) for line in (lost / "history.jsonl").read_text().splitlines()]
        ended += [task] if task else []
    assert len(ended) == len({task.job.id for task in ended}) == 4
    assert all((task.folder / RESULT).exists() for task in ended), [store.error(task.job.id) for task in ended]
    # Another node went on with what the dead one had done: the seconds that its epochs took were not measured again.
    assert lost is not None
    assert history
    assert json.loads((lost / RESULT).read_text())["history"][: len(history)] == history
    run_study(made, store.root, workers=2, device="cpu", progress=False)
    run_study(made, tmp_path / "whole", workers=2, device="cpu", progress=False)
    frames = [without_times(folder) for folder in (store.root, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*frames, rtol=1e-6)


@ray_test
def test_ray_jobs_share_a_gpu_by_fractions(tmp_path, monkeypatch, cluster):
    from analogsim.study.engine_ray import run_ray

    monkeypatch.chdir(ROOT)
    # A GPU of which only Ray knows: it counts shares, and the jobs compute on the CPU.
    cluster.add_node(num_cpus=4, num_gpus=1, include_dashboard=False)
    store = Store(tmp_path / "out")
    made = study(train={"epochs": 8, "batch_size": 16, "lr": 2e-3}, seeds=4)
    with pytest.raises(BackendError, match=r"a job needs 1 CPU and 2 GPU, no node has that \(4 CPU, 1 GPU\)"):
        next(run_ray(ray_tasks(store, made), address=cluster.address, gpus=2))
    tasks, seen, ended = ray_tasks(store, made), [], 0
    for task in run_ray(tasks, address=cluster.address, cpus=0.1, gpus=0.5):
        seen.append(len(running(store)))
        ended += task is not None
    assert ended == 4
    assert all((task.folder / RESULT).exists() for task in tasks)
    assert max(seen) == 2


@ray_test
@pytest.mark.parametrize("kind", ["closed", "silent", "no port", "garbage"])
def test_an_address_without_a_cluster_is_one_line_in_time(tmp_path, monkeypatch, kind):
    from analogsim.study import engine_ray

    monkeypatch.setattr(engine_ray, "PATIENCE", 15.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = {"closed": "127.0.0.1:1", "silent": f"127.0.0.1:{port}", "no port": "127.0.0.1:99999"}
        started = time.monotonic()
        with pytest.raises(BackendError, match="no cluster at") as caught:
            run_study(study(), tmp_path, engine="ray", address=address.get(kind, "no:such:address"), progress=False)
    assert "\n" not in str(caught.value)
    # In the seven minutes that Ray itself would take there is room for a slow machine.
    assert time.monotonic() - started < 90


# The documentation

PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(analogsim study run benchmarks/\S+) --data cifar10\b", PAGE, re.M)


def test_the_page_s_example_is_a_study(tmp_path):
    example, method, matched, hardware = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    made = Study(**(yaml.safe_load(example) | {"data": "digits", "train": {"epochs": 20, "lr": 2e-3}}))
    assert len(made.expand()[1]) == 3 * 4
    (tmp_path / "study.yaml").write_text(example + "\n")
    assert (
        load_study(tmp_path / "study.yaml").expand()[1].keys()
        == made.model_copy(update={"train": {"epochs": 20, "lr": 2e-3, "batch_size": 32}}).expand()[1].keys()
    )
    (job,) = study(methods=yaml.safe_load(method), **yaml.safe_load(hardware)).expand()[1].values()
    assert job.hardware.vary == {"adc.bits": [4, 6, 8], "age": [0, "1d", "1y"]}
    assert job.qat.layer("classifier.relu3", "classifier").act_bits == 8
    assert job.qat.layer("features.conv1").weight_bits == 8
    assert job.qat.layer("features.relu1").act_bits == 4
    entries, _ = study(methods=yaml.safe_load(matched), sweep={}).expand()
    counts = Counter(one.method for one in entries if one.matched and one.seed == entries[0].seed)
    assert sorted(counts.values()) == [5, 17]


def test_the_onboarding_s_experiments_are_three_commands():
    assert [Path(command.split()[-1]).stem for command in COMMANDS] == ["baseline", "scaling", "noisy"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_onboarding_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = command.split()[-1]
    whole = call("run", file, "--data", "digits", "--dry-run", "--out", tmp_path)
    assert whole.exit_code == 0, whole.output
    # Its jobs smaller, and in this process; in every other respect as they stand.
    smaller = {"seeds": 1, "train_subset": 64, "test_subset": 60, "train": {"epochs": 1}}
    made = load_study(file, data="digits", sweep={"sigmas": "0.03,0.3,3,30", "repeats": 1}, **smaller)
    _, jobs = made.expand()
    assert len(jobs) == {"baseline": 1, "scaling": 6, "noisy": 4}[Path(file).stem]
    for name, job in jobs.items():
        run_job(job, tmp_path / name, "cpu")
        assert json.loads((tmp_path / name / RESULT).read_text())["status"] in ("finished", "collapsed")


def test_a_study_file_read_from_python(tmp_path):
    assert load_study(written(tmp_path)) == study()
