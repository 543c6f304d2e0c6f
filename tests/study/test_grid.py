"""A study file: what it expands to, the identities of its jobs, and how it is refused."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analogsim.errors import DataError, StudyError
from analogsim.study.file import load_study, study_text
from analogsim.study.grid import Study
from analogsim.training.data import identify

ROOT = Path(__file__).parents[2]
SMALL = {
    "name": "Small",
    "data": "digits",
    "models": {"LeNet-5": "models.lenet:LeNet5"},
    "methods": [
        {"name": "float"},
        {"name": "constant", "qat": {"bits": 8}, "grid": {"qat.s": [0.5, 2]}},
        {"name": "noisy", "train": {"sigma": 1.0}, "claim": "more robust"},
    ],
    "seeds": 2,
    "train": {"epochs": 2},
    "sweep": {"sigmas": "0.1,1,10,100"},
}


def study(**changes):
    return Study(**(SMALL | changes))


def ids(**changes):
    return list(study(**changes).expand()[1])


def only(**changes):
    """The one job of a study of one method."""
    (job,) = study(**({"methods": [{"name": "one"}], "seeds": 1} | changes)).expand()[1].values()
    return job


# Expansion


def test_the_grid_is_every_method_on_every_network_with_every_seed():
    models = {"max": "models.lenet:LeNet5", "average": {"path": "models.lenet:LeNet5", "args": {"pool": "average"}}}
    entries, jobs = study(models=models, seeds=[7, 3]).expand()
    assert len(entries) == len(jobs) == 2 * 4 * 2
    assert [entry.seed for entry in entries] == [7] * 8 + [3] * 8  # one seed of everything first
    assert [(entry.method, entry.variant) for entry in entries[:4]] == [
        ("float", ""),
        ("constant", "s=0.5"),
        ("constant", "s=2"),
        ("noisy", ""),
    ]
    assert {job.args.get("pool") for job in jobs.values()} == {None, "average"}
    assert all(jobs[entry.job].train.seed == entry.seed for entry in entries)


def test_later_places_override_earlier_ones():
    network = {"path": "models.lenet:LeNet5", "train": {"lr": 2e-3, "batch_size": 32}}
    method = {"name": "one", "train": {"batch_size": 64}, "grid": {"train.sigma": [0.25]}}
    job = only(models={"LeNet-5": network}, train={"epochs": 3, "lr": 1e-3, "sigma": 9}, methods=[method])
    assert (job.train.epochs, job.train.lr, job.train.batch_size, job.train.sigma) == (3, 2e-3, 64, 0.25)


def test_bits_and_s_are_short_forms():
    job = only(methods=[{"name": "one", "qat": {"bits": 4, "s": 0.5}}])
    assert (job.qat.weight_bits, job.qat.act_bits, job.qat.scaling, job.qat.s) == (4, 4, "constant", 0.5)
    assert only(methods=[{"name": "one", "qat": {}}]).qat.scaling == "dynamic"
    assert only().qat is None


def test_a_method_can_be_for_some_networks_only():
    models = dict.fromkeys(("a", "b"), "models.lenet:LeNet5")
    methods = [{"name": "float"}, {"name": "noisy", "train": {"sigma": 1}, "models": ["b"]}]
    cells = [(entry.model, entry.method) for entry in study(models=models, methods=methods, seeds=1).expand()[0]]
    assert cells == [("a", "float"), ("b", "float"), ("b", "noisy")]


def test_equal_settings_share_a_job_and_equal_variants_count_once():
    methods = [
        {"name": "float"},
        {"name": "σ = 0", "train": {"sigma": 0}},
        {"name": "g", "grid": {"train.lr": [1, 1.0]}},
    ]
    entries, jobs = study(methods=methods, seeds=1).expand()
    assert [entry.method for entry in entries] == ["float", "σ = 0", "g"]
    assert entries[0].job == entries[1].job
    assert len(jobs) == 2


def test_a_claim_is_of_all_networks_or_of_each():
    assert study().method("noisy").claim_on("LeNet-5") == "more robust"
    assert study().method("float").claim_on("LeNet-5") == ""
    models = dict.fromkeys(("a", "b"), "models.lenet:LeNet5")
    own = study(models=models, methods=[{"name": "float", "claim": {"b": "best"}}]).method("float")
    assert (own.claim_on("a"), own.claim_on("b")) == ("", "best")


def test_the_baseline_is_the_first_plain_method():
    assert study().reference == "float"
    assert study(baseline="noisy").reference == "noisy"
    assert study(methods=[{"name": "noisy", "train": {"sigma": 1}}]).reference is None


# Identities


@given(st.permutations(list(SMALL)), st.permutations(["epochs", "lr", "batch_size"]))
def test_the_order_of_keys_decides_nothing(top, inner):
    train = {"epochs": 2, "lr": 0.5, "batch_size": 7}
    values = SMALL | {"train": train}
    shuffled = {key: values[key] for key in top} | {"train": {key: train[key] for key in inner}}
    assert list(Study(**shuffled).expand()[1]) == ids(train=train)


@pytest.mark.parametrize(
    "change",
    [
        {"models": {"LeNet-5": "models.lenet:Other"}},
        {"models": {"LeNet-5": {"path": "models.lenet:LeNet5", "args": {"pool": "max"}}}},
        {"train": {"epochs": 3}},
        {"train": {"epochs": 2, "lr": 0.0011}},
        {"train": {"epochs": 2, "sigma": 1e-9}},
        {"train": {"epochs": 2, "layers": {"input": 0.1}}},
        {"train": {"epochs": 2, "augment": {"crop": 1}}},
        {"train": {"epochs": 2, "sigma": 1, "variance": {"mean": 0.5, "spread": 0.5}}},
        {"seeds": [1]},
        {"train_subset": 100},
        {"test_subset": 100},
        {"data": "cifar10"},
        {"sweep": {"sigmas": "0.1,1,10,101"}},
        {"sweep": {"sigmas": "0.1,1,10,100", "repeats": 6}},
        {"sweep": {"sigmas": "0.1,1,10,100", "quantity": "weight"}},
        {"sweep": {"sigmas": "0.1,1,10,100", "batch_norm": 1}},
        {"methods": [{"name": "one", "qat": {}}]},
        {"methods": [{"name": "one", "qat": {"s": 1}}]},
        {"methods": [{"name": "one", "qat": {"s": 1, "bits": 4}}]},
        {"methods": [{"name": "one", "qat": {"overrides": {"fc": {"act_bits": 4}}}}]},
    ],
    ids=str,
)
def test_whatever_decides_the_result_decides_the_identity(change):
    assert only(**change).id != only().id


def test_the_version_of_results_decides_the_identity(monkeypatch):
    before = only().id
    monkeypatch.setattr("analogsim.study.grid.RESULTS", 999)
    assert only().id != before


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Other", "about": "text"},
        {"methods": [{"name": "renamed", "claim": "text"}]},
        {"sweep": {"sigmas": [100, 10, 1, 0.1]}},
        {"train": {"epochs": 2.0, "sigma": 0}},
        {"train": {"epochs": 2, "lr": "1e-3"}},
        {"models": {"other name": "models.lenet:LeNet5"}},
    ],
    ids=str,
)
def test_names_and_spellings_do_not_decide_the_identity(change):
    assert only(**change).id == only().id


def test_a_sweep_that_keeps_statistics_has_the_identity_from_before_it_could_do_otherwise():
    assert only().identity["sweep"]["quantity"] == "activation", "the word that names of jobs are made of"
    assert only().identity["sweep"].keys() == {"sigmas", "repeats", "quantity"}


def test_a_range_of_2_to_the_bits_has_the_identity_from_before_there_were_others():
    quantized = [{"name": "one", "qat": {"bits": 4, "s": 1.0}}]
    assert "span" not in only(methods=quantized).identity["qat"]
    other = only(methods=[{"name": "one", "qat": {"bits": 4, "s": 1.0, "span": 15}}])
    assert other.identity["qat"]["span"] == 15
    assert other.id != only(methods=quantized).id


def test_an_identity_is_plain_and_its_short_form_hexadecimal():
    job = only(train={"epochs": 2}, sweep={"sigmas": "0.1,1,10,100", "repeats": 2})
    assert json.loads(json.dumps(job.identity)) == job.identity
    assert len(job.id) == 16
    assert int(job.id, 16) >= 0


def test_files_are_known_by_what_is_in_them(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"images")
    (tmp_path / "b.npz").write_bytes(b"images")
    (tmp_path / "c.npz").write_bytes(b"others")
    a, b, c = (identify(f"npz:{tmp_path / name}.npz") for name in "abc")
    assert a == b != c
    for folder, name in (("x", "1.png"), ("y", "1.png"), ("z", "2.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"image")
    x, y, z = (identify(f"folder:{tmp_path / name}") for name in "xyz")
    assert x == y != z
    assert identify("cifar10:somewhere") == identify("cifar10")


# Refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nonsense": 1}, "nonsense: unknown key"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"methods": []}, "methods"),
        ({"models": {}}, "models"),
        ({"models": {"a": {"path": "x:y", "arg": {}}}}, "models.a.arg: unknown key"),
        ({"methods": [{"name": "a"}, {"name": "a"}]}, "'a' comes twice"),
        ({"methods": [{"name": "a", "models": ["b"]}]}, "methods.0.models: no network 'b'"),
        ({"methods": [{"name": "a", "claim": {"b": "c"}}]}, "methods.0.claim: no network 'b'"),
        ({"methods": [{"name": "a", "grid": {"sigma": [1]}}]}, "methods.0.grid: 'sigma': a key is train.FIELD"),
        ({"methods": [{"name": "a", "grid": {"train.sigma": []}}]}, "methods.0.grid.train.sigma"),
        ({"methods": [{"name": "a", "grid": {"train.sigma": [-1]}}]}, "methods.0.grid.train.sigma: Input should be"),
        ({"methods": [{"name": "a", "train": {"sigmaa": 1}}]}, "methods.0.train.sigmaa: unknown key"),
        ({"methods": [{"name": "a", "train": {"seed": 1}}]}, "methods.0.train.seed: leave it out"),
        ({"methods": [{"name": "a", "qat": {"bits": 1}}]}, "methods.0.qat.bits: "),
        ({"methods": [{"name": "a", "qat": {"s": 1, "scaling": "dynamic"}}]}, "methods.0.qat: s belongs to constant"),
        ({"train": {"epochs": 2, "lr": -1}}, "train.lr: Input should be greater than 0 (got -1)"),
        ({"train": {"epochs": 2, "ramp_epochs": 5}}, "train: ramp_epochs: 5, so the noise is never at its full"),
        ({"sweep": {"sigmas": "many"}}, "sweep.sigmas: 'many': give noise levels"),
        ({"sweep": {"sigmas": [0.1, -1]}}, "sweep.sigmas"),
        (
            {"methods": [{"name": "a", "sweep": {"quantity": "weights"}}]},
            "method 'a': sweep.quantity: weights, where the study's is activations",
        ),
        ({"baseline": "none"}, "baseline: no method 'none'; there are float, constant, noisy"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_its_path(change, words):
    with pytest.raises(StudyError) as error:
        study(**change).expand()
    assert words in str(error.value)


def test_a_complaint_does_not_repeat_the_whole_file():
    with pytest.raises(StudyError) as error:
        Study(name="a study", data="digits", models={"a": "x:y"}, method=[])
    assert str(error.value) == "methods: Field required; method: unknown key; did you mean 'methods'?"


def test_arguments_must_be_plain():
    with pytest.raises(StudyError, match=r"models\.a\.args"):
        study(models={"a": {"path": "x:y", "args": {"width": float("nan")}}}).expand()


def test_missing_data_is_said_before_anything_is_run():
    with pytest.raises(DataError, match="npz:none: no such file"):
        study(data="npz:none").expand()


# Files


def test_a_file_survives_a_round_trip(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    first = load_study(path)
    path.write_text(study_text(first), encoding="utf-8")
    assert load_study(path) == first
    assert list(first.expand()[1]) == ids()
    assert load_study(path, data="cifar10").data == "cifar10"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "a study is a mapping"),
        ("a: [", "no valid YAML"),
        ("name: a\nname: b", "the key 'name' comes twice"),
        ("name: a\ndata: digits", "models: Field required"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as error:
        load_study(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_1e_3_is_a_number(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"models": None}).replace("null", "{a: {path: 'x:y', args: {w: 1e-3}}}"))
    assert load_study(path).models["a"].args == {"w": 0.001}


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/paper/**/*.yaml")), ids=lambda path: path.stem)
def test_the_paper_s_studies_expand(path):
    entries, jobs = load_study(path, data="digits").expand()
    assert len(entries) >= len(jobs) > 0
