"""Matched curves in studies: one training for each σ at which the curve is evaluated."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from analogsim.errors import StudyError
from analogsim.robustness.curve import RobustnessCurve
from analogsim.study import load_map, load_results, load_study, pack_study, run_study, summarise, write_report
from analogsim.study import run as runs
from analogsim.study.folder import ERROR, RESULT
from analogsim.study.grid import Study
from analogsim.study.job import record_failure, run_job
from analogsim.study.store import Store
from analogsim.study.variants import load_variants
from tests.support import shell

SIGMAS = [0.03, 0.1, 0.3, 1.0, 10.0]
TINY = {
    "name": "Matched",
    "data": "digits",
    "train_subset": 128,
    "test_subset": 60,
    "models": {"LeNet-5": "models.lenet:LeNet5"},
    "train": {"epochs": 1, "batch_size": 32, "lr": 2e-3},
    "sweep": {"sigmas": SIGMAS, "repeats": 2},
}
NOISY = {"name": "matched", "train": {"sigma": "matched"}, "claim": "best"}
METHODS = [
    {"name": "float"},
    NOISY,
    {"name": "fixed", "grid": {"train.sigma": [0.1, 0.5]}},
    {"name": "both", "train": {"sigma": "matched"}, "matched": "0.1, 0.3", "qat": {"s": 0.5}},
]


def study(**changes):
    return Study(**(TINY | changes))


def cells(**changes):
    return study(**({"methods": [NOISY]} | changes)).expand()[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run once; tests that change something copy it."""
    out = tmp_path_factory.mktemp("matched") / "out"
    run_study(study(methods=METHODS, seeds=2), out, device="cpu", workers=1, group=1, progress=False)
    return out


@pytest.fixture
def copy(ran, tmp_path):
    return shutil.copytree(ran, tmp_path / "copy")


# What it expands to


def test_there_is_a_training_for_each_sigma_of_the_sweep():
    entries, jobs = study(methods=[NOISY], seeds=[4, 2]).expand()
    # First the ends and the middle, so that what is done of a curve at work shows all of it.
    order = [0.03, 10.0, 0.3, 0.1, 1.0]
    assert [(cell.seed, cell.sigma) for cell in entries] == [(seed, sigma) for seed in (4, 2) for sigma in order]
    assert [jobs[cell.job].train.sigma for cell in entries] == order * 2
    assert all(cell.matched and cell.variant == "" and jobs[cell.job].sweep.grid.tolist() == SIGMAS for cell in entries)
    assert len(jobs) == study(methods=[NOISY], seeds=2).trainings == 10
    assert cells()[2].title == "LeNet-5, matched, σ=0.3, seed 0"


@pytest.mark.parametrize(
    ("sweep", "matched", "found"),
    [
        (SIGMAS, "0.1, 1", [0.1, 1.0]),
        (SIGMAS, [10, 0], [0.0, 10.0]),
        ("logspace(-2, 2, 17)", "logspace(-1, 1, 5)", [0.1, 10**-0.5, 1.0, 10**0.5, 10.0]),
        ("logspace(-2, 2, 17)", "0.316, 3.16", [10**-0.5, 10**0.5]),
    ],
)
def test_some_sigmas_of_the_sweep_are_enough(sweep, matched, found):
    entries = cells(methods=[NOISY | {"matched": matched}], sweep={"sigmas": sweep})
    assert sorted(cell.sigma for cell in entries) == pytest.approx(found)
    grid = Study(**(TINY | {"methods": [NOISY], "sweep": {"sigmas": sweep}})).sweep.grid
    # To the bit those of the sweep: else the network would not be evaluated at its own.
    assert {cell.sigma for cell in entries} <= {0.0, *grid.tolist()}


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"epochs": 1, "sigma": "matched"}, "methods": [{"name": "one"}]},
        {
            "models": {"a": {"path": "models.lenet:LeNet5", "train": {"sigma": "matched"}}},
            "methods": [{"name": "one"}],
        },
        {"methods": [{"name": "one", "grid": {"train.sigma": ["matched"]}}]},
    ],
    ids=["study", "network", "grid"],
)
def test_it_may_be_said_wherever_a_sigma_may(change):
    entries = cells(**change)
    assert sorted(cell.sigma for cell in entries) == SIGMAS
    assert Study(**(TINY | change)).trainings == len(SIGMAS)


def test_a_training_that_several_curves_have_in_common_is_one_job():
    entries, jobs = study(methods=[{"name": "noisy", "grid": {"train.sigma": ["matched", 0.3, 0.5]}}]).expand()
    assert len(entries) == 7
    assert len(jobs) == 6
    assert [(cell.variant, cell.matched) for cell in entries[-2:]] == [("σ=0.3", False), ("σ=0.5", False)]


def test_without_matched_no_job_has_another_name():
    plain = study(methods=[{"name": "noisy", "train": {"sigma": 0.3}}]).expand()[1]
    assert set(plain) < {cell.job for cell in cells()}


def test_a_method_has_its_own_arguments_and_sweep():
    methods = [NOISY | {"args": {"pool": "average"}, "sweep": {"sigmas": "0.1, 1", "repeats": 7}}, {"name": "float"}]
    entries, jobs = study(methods=methods).expand()
    assert [cell.sigma for cell in entries] == [0.1, 1.0, 0.0]
    assert [(jobs[c.job].args, jobs[c.job].sweep.repeats) for c in entries[1:]] == [({"pool": "average"}, 7), ({}, 2)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"matched": "0.2"}, "method 'matched': matched: 0.2 is no σ of the sweep"),
        ({"matched": "some"}, "methods.0.matched: 'some': give noise levels"),
        ({"matched": "0.1", "train": {}}, "methods.0.matched: no σ of training is matched"),
        ({"train": {"sigma": "matched", "target": "weights"}}, "trained under noise on weights, but sweep.quantity is"),
        ({"train": {"sigma": "matchd"}}, "methods.0.train.sigma: "),
        ({"sweep": {"repeats": 0}}, "method 'matched': sweep: repeats: "),
        ({"grid": {f"args.{a}": [*range(300)] for a in "ab"}}, "450,000 trainings, more than the 100,000"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change, words):
    with pytest.raises(StudyError) as error:
        study(methods=[NOISY | change]).expand()
    assert words in str(error.value)


# What comes out


def test_the_curve_is_each_network_s_own_point(ran):
    store = Store(ran)
    (found,) = (variant for variant in load_variants(store) if variant.name == "matched")
    assert found.curve.sigmas.tolist() == SIGMAS
    assert (found.trainings, found.of, found.flags) == (2, 2, found.curve.flags)
    for seed in range(2):
        columns = found.curve.values[:, found.curve.trainings == seed]
        for row, sigma in enumerate(SIGMAS):
            (cell,) = (c for c in store.plan() if (c.method, c.seed, c.sigma) == ("matched", seed, sigma))
            own = RobustnessCurve.load(ran / "jobs" / cell.job / "sweep.json")
            assert own.about["seed"] == seed
            assert columns[row].tolist() == own.values[own.sigmas.tolist().index(sigma)].tolist()


def test_tables_have_it_as_any_curve_and_the_map(ran):
    summary, results, everywhere = summarise(ran), load_results(ran), load_map(ran)
    assert summary["curve"].tolist() == ["swept", "matched", "swept", "swept", "matched"]
    row = summary[summary["method"] == "matched"].iloc[0]
    assert (row["trainings"], row["of"], row["claim"]) == (2, 2, "best")
    assert np.isnan(row["sigma"])
    # A row a training, each with its own σ; the map has all σ of evaluation, and none.
    own = results[results["method"] == "matched"]
    assert own["sigma"].tolist() == SIGMAS * 2
    table = everywhere[everywhere["method"] == "matched"].pivot_table("accuracy", "trained", "sigma")
    assert table.index.tolist() == SIGMAS
    assert table.columns.tolist() == [0.0, *SIGMAS]
    assert max(np.diag(table.to_numpy()[:, 1:])) == pytest.approx(row["peak"])
    assert set(everywhere["method"]) == {"matched", "both"}
    kept = pd.read_csv(ran / "map.csv", dtype={"variant": str}).fillna({"variant": ""})
    assert np.allclose(kept["accuracy"], everywhere["accuracy"], rtol=1e-5)
    assert kept["job"].tolist() == everywhere["job"].tolist()


def test_a_sweep_may_name_the_noise_free_evaluation_too(tmp_path):
    one = study(methods=[NOISY], sweep={"sigmas": "0, 0.1, 1", "repeats": 1})
    run_study(one, tmp_path / "out", device="cpu", workers=1, group=1, progress=False)
    store = Store(tmp_path / "out")
    (variant,) = load_variants(store)
    assert variant.curve.sigmas.tolist() == [0.1, 1.0]
    (plain,) = (cell for cell in store.plan() if cell.sigma == 0)
    assert variant.curve.noise_free == store.curve(plain.job).noise_free
    assert not [flag for flag in variant.flags if "σ" in flag], "all of its points are there"


def test_a_sigma_that_failed_leaves_the_others(copy):
    store = Store(copy)
    cell = next(c for c in store.plan() if c.method == "matched" and c.sigma == 0.3 and c.seed == 1)
    shutil.rmtree(copy / "jobs" / cell.job)
    (copy / "jobs" / cell.job).mkdir()
    record_failure(copy / "jobs" / cell.job, "no luck")
    assert (copy / "jobs" / cell.job / ERROR).exists()
    (found,) = (variant for variant in load_variants(Store(copy)) if variant.name == "matched")
    assert found.curve.sigmas.tolist() == [0.03, 0.1, 1.0, 10.0]
    assert {"1 failed", "4 of 5 σ"} <= set(found.flags)
    assert found.trainings == 2
    # Tried again it is the only one that is trained, and all points are there.
    before = {path: path.read_bytes() for path in copy.glob(f"jobs/*/{RESULT}")}
    run_study(
        study(methods=METHODS, seeds=2), copy, device="cpu", workers=1, group=1, retry_failed=True, progress=False
    )
    after = {path: path.read_bytes() for path in copy.glob(f"jobs/*/{RESULT}")}
    assert {path.parent.name for path in after.keys() - before.keys()} == {cell.job}
    assert before.items() <= after.items()
    assert len(load_variants(Store(copy))[1].curve.sigmas) == 5


def test_of_seeds_that_are_not_done_the_finished_ones_count(copy):
    store = Store(copy)
    (cell,) = (c for c in store.plan() if (c.method, c.sigma, c.seed) == ("matched", 0.3, 1))
    shutil.rmtree(copy / "jobs" / cell.job)
    found = load_variants(Store(copy))[1]
    assert (found.trainings, found.of, found.curve.sigmas.tolist()) == (1, 2, SIGMAS)
    # Where no seed is done, the one that is farthest shows what there is.
    for seed, sigmas in ((0, [0.03, 0.1, 1.0]), (1, [0.1])):
        for other in store.plan():
            if (other.method, other.seed) == ("matched", seed) and other.sigma in sigmas:
                shutil.rmtree(copy / "jobs" / other.job, ignore_errors=True)
    found = load_variants(Store(copy))[1]
    assert found.curve.sigmas.tolist() == [0.03, 1.0, 10.0]
    assert "3 of 5 σ" in found.flags
    assert summarise(copy)["trainings"].tolist()[1] == 1


def test_packing_changes_no_number(ran, copy):
    before = summarise(ran), load_map(ran), load_results(ran)
    pack_study(copy)
    assert not list(copy.glob(f"jobs/*/{RESULT}"))
    # In the order of the plan, also the training that a matched curve and a swept one have in common.
    lines = (copy / "jobs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["job"] for line in lines] == list(dict.fromkeys(cell.job for cell in Store(copy).plan()))
    for old, new in zip(before, (summarise(copy), load_map(copy), load_results(copy))):
        pd.testing.assert_frame_equal(old, new)


@pytest.mark.slow
def test_fits_of_matched_curves_are_kept_also_of_one_seed(tmp_path, monkeypatch):
    one = study(methods=[NOISY], train={"epochs": 3, "batch_size": 32, "lr": 2e-3})
    run_study(one, tmp_path / "out", device="cpu", workers=1, group=1, progress=False)
    first = summarise(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "fits.json").read_text())["fits"]
    (variant,) = load_variants(Store(tmp_path / "out"))
    assert list(kept) == [variant.curve.digest]

    def again(*args, **kwargs):
        raise AssertionError("fitted anew")

    monkeypatch.setattr("analogsim.robustness.curve.fit_midpoint", again)
    pd.testing.assert_frame_equal(summarise(tmp_path / "out"), first)


def test_all_sigmas_of_a_seed_train_as_one_group(tmp_path):
    out = tmp_path / "out"
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | {"methods": [NOISY]}), encoding="utf-8")
    result = shell.call("study", "run", file, "--out", out, "--device", "cpu", "--group", 8)
    assert result.exit_code == 0, result.output
    groups = {json.loads(path.read_text())["group"] for path in out.glob("jobs/*/grouped.json")}
    assert len(groups) == 1
    assert len(list(out.glob("jobs/*/grouped.json"))) == len(SIGMAS)
    assert load_variants(Store(out))[0].curve.sigmas.tolist() == SIGMAS
    assert load_study(out / "study.yaml").methods[0].train == {"sigma": "matched"}


def test_the_report_draws_both_kinds_and_the_map(copy):
    files = {path.name for path in write_report(copy)}
    assert {"map-lenet-5-matched.png", "map-lenet-5-both.svg", "curves-lenet-5.png"} <= files
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "Trained under one σ, evaluated at another" in page
    assert page.count('data-name="curve">matched</td>') == 2
    assert page.count('data-name="curve">swept</td>') == 3
    assert "Thick lines: matched curves" in page
    assert '"width":3' in page


# One training, several sweeps


@pytest.mark.slow
def test_jobs_that_differ_in_their_sweep_alone_train_once(tmp_path):
    methods = [
        {"name": "one", "train": {"sigma": 0.3}},
        {"name": "other", "train": {"sigma": 0.3}, "sweep": {"repeats": 1, "sigmas": [0.5]}},
    ]
    out = tmp_path / "out"
    both = study(methods=methods)
    jobs = list(both.expand()[1].values())
    assert jobs[0].training == jobs[1].training
    assert jobs[0].id != jobs[1].id
    run_study(both, out, device="cpu", workers=1, group=1, progress=False)
    store = Store(out)
    first, second = (store.result(job.id) for job in jobs)
    assert second.history == first.history  # to the seconds: it is the same training
    assert (first.seconds.training > 0, second.seconds.training) == (True, 0)
    assert not (out / "trained").exists()
    # What it gives is what a study of its own gives.
    alone = tmp_path / "alone"
    run_study(study(methods=methods[1:]), alone, device="cpu", workers=1, group=1, progress=False)
    assert Store(alone).curve(jobs[1].id).digest == store.curve(jobs[1].id).digest


@pytest.mark.slow
def test_a_training_is_kept_until_all_of_its_jobs_are_finished(tmp_path):
    methods = [{"name": "one"}, {"name": "other", "sweep": {"repeats": 1}}]
    both, out = study(methods=methods), tmp_path / "out"
    first, second = both.expand()[1].values()
    place = out / "trained" / f"{first.training}.pt"
    # As a run is that was killed after its first job.
    run_job(first, out / "jobs" / first.id, "cpu", trained=place)
    assert place.exists()
    store = Store(out)
    runs._drop_trained(store, runs._shared(store, {job.id: job for job in (first, second)}))
    assert place.exists()
    # One that is of no use fails its job, which is then trained anew.
    good = place.read_bytes()
    place.write_bytes(good[:-100])
    assert run_study(both, out, device="cpu", workers=1, group=1, progress=False)["failed"] == 1
    assert "CheckpointError" in store.error(second.id)
    again = {"device": "cpu", "workers": 1, "group": 1, "retry_failed": True, "progress": False}
    assert run_study(both, out, **again)["failed"] == 0
    assert Store(out).result(second.id).seconds.training > 0
    # A sound one is taken.
    shutil.rmtree(out / "jobs" / second.id)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(good)
    run_study(both, out, **again)
    assert not place.parent.exists()
    assert Store(out).result(second.id).seconds.training == 0
