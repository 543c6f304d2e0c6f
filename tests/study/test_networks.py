"""Trained networks that a study keeps: what was measured is measured again of what was kept."""

import json
import shutil

import pytest

from analogsim import freeze_quantization, noise_sweep
from analogsim.errors import AnalogSimError, AnalogSimWarning, CheckpointError, StudyError
from analogsim.qat.layers import is_quantized
from analogsim.study import load_network, load_results, pack_study, run_study
from analogsim.study.grid import Network, Study
from analogsim.study.store import Store
from analogsim.training.data import load_data
from analogsim.training.run_file import Run
from models.lenet import LeNet5
from tests.support import shell

STUDY = Study(
    name="Kept",
    data="digits",
    train_subset=128,
    test_subset=60,
    models={"LeNet-5": {"path": "models.lenet:LeNet5", "args": {"pool": "average"}}},
    train={"epochs": 1, "batch_size": 32, "lr": 2e-3},
    sweep={"sigmas": [0.1, 1.0], "repeats": 2},
    methods=[
        {"name": "float"},
        {"name": "noisy", "train": {"sigma": 0.3}},
        {"name": "constant", "qat": {"s": 0.5}},
        {"name": "dynamic", "qat": {}},
        {"name": "other sweep", "train": {"sigma": 0.3}, "sweep": {"repeats": 1}},
        # Its first step makes the loss infinite.
        {"name": "diverges", "train": {"lr": 1e30}},
    ],
)
JOBS = STUDY.expand()[1]
LEARNED = [name for name, job in JOBS.items() if job.train.lr < 1]


def made(classes, channels):
    """A function, which is no class of nn.Module."""
    return LeNet5(classes, channels)


@pytest.fixture(scope="module", params=[1, 2], ids=["singly", "in groups"])
def ran(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("kept") / "out"
    run_study(STUDY, out, device="cpu", workers=1, group=request.param, keep_networks=True, progress=False)
    return out


def test_what_was_kept_has_the_curve_of_the_job(ran):
    data = load_data("digits").subset(128, 60)
    assert len(LEARNED) == 5
    for name in LEARNED:
        job, network = JOBS[name], load_network(ran, name)
        assert not network.training
        again = noise_sweep(
            network,
            list(data.test_batches()),
            job.sweep.grid,
            job.sweep.repeats,
            chance=data.chance,
            seed=job.train.seed,
            progress=False,
        )
        assert again.digest == Store(ran).curve(name).digest, job
        about, result = Run.load(Store(ran).network(name)), Store(ran).result(name)
        assert (about.test_accuracy, about.status) == (result.history[-1]["test_accuracy"], result.status)
        assert about.args == {"pool": "average", "classes": 10, "channels": 1}


def test_the_shell_takes_a_network_s_folder_for_a_run(ran, tmp_path):
    for name in LEARNED[:4]:
        out = tmp_path / f"{name}.json"
        shell.done("sweep", ran / "networks" / name, "--sigmas", "0.1,1", "--repeats", 2, "--out", out)
        found, want = json.loads(out.read_text()), Store(ran).curve(name)
        assert found["noise_free"] == want.noise_free
        assert len(found["sigmas"]) == 2
    # Noise on weights comes before they are quantized, so a quantized network is swept as it was trained.
    out, name = tmp_path / "weights.json", LEARNED[2]
    shell.done(
        "sweep", ran / "networks" / name, "--quantity", "weights", "--sigmas", "0.1", "--repeats", 3, "--out", out
    )
    data, how = load_data("digits").subset(128, 60), {"quantity": "weights", "progress": False}
    network = load_network(ran, name)
    want, frozen = (
        noise_sweep(one, list(data.test_batches()), [0.1], 3, chance=data.chance, **how)
        for one in (network, freeze_quantization(network))
    )
    assert json.loads(out.read_text())["accuracies"] == want.accuracies.tolist() != frozen.accuracies.tolist()
    for name in (LEARNED[0], LEARNED[2]):  # plain and quantized
        shell.done("evaluate", ran / "networks" / name, "--profile", "8bit", "--out", tmp_path / f"{name}-chips.json")


def test_a_quantized_network_is_trained_on_with_its_quantizers(ran, tmp_path):
    asked = "--from", ran / "networks" / LEARNED[2], "--epochs", 1, "--train-subset", 64, "--test-subset", 60
    train = "train", "models.lenet:LeNet5", "digits", *asked
    # It may well learn nothing in two steps, which ends the program with a code of its own.
    said = shell.call(*train, "--out", tmp_path / "on")
    path = tmp_path / "on" / "model.safetensors"
    assert path.exists(), said.output
    shell.done("sweep", tmp_path / "on", "--sigmas", "0.1", "--repeats", 1)
    run = Run.load(path)
    assert run.qat == Run.load(Store(ran).network(LEARNED[2])).qat
    assert any(map(is_quantized, run.network(path).modules()))
    said = shell.call(*train, "--profile", "8bit", "--out", tmp_path / "hardware")
    assert "has quantizers, which are trained digitally" in " ".join(said.output.replace("│", " ").split())
    assert not (tmp_path / "hardware").exists()


def test_a_network_that_never_learned_is_not_kept_and_is_said_to_be_missing(ran):
    (name,) = JOBS.keys() - set(LEARNED)
    assert Store(ran).state(name) == "diverged"
    with pytest.raises(StudyError, match=r"no such file; networks are kept by `analogsim study run --keep-networks`"):
        load_network(ran, name)


def test_a_packed_study_still_has_its_networks(ran, tmp_path):
    copy = shutil.copytree(ran, tmp_path / "copy")
    pack_study(copy)
    assert not (copy / "jobs" / LEARNED[0]).exists()
    for name, before in zip(LEARNED, [load_network(ran, name).state_dict() for name in LEARNED]):
        after = load_network(copy, name).state_dict()
        assert all((before[key] == after[key]).all() for key in before)


def test_a_function_that_makes_the_network_is_called_for_who_trusts_it(tmp_path):
    path = "tests.study.test_networks:made"
    one = STUDY.model_copy(update={"models": {"made": Network(path=path)}, "methods": STUDY.methods[:1]})
    run_study(one, tmp_path, device="cpu", workers=1, keep_networks=True, trust=[path], progress=False)
    (name,) = one.expand([path])[1]
    with pytest.raises(AnalogSimError, match="no nn.Module class"):
        load_network(tmp_path, name)
    network = load_network(tmp_path, name, trust=[path])
    assert isinstance(network, LeNet5)


def test_a_network_of_another_class_is_refused(ran, tmp_path):
    copy = shutil.copytree(ran, tmp_path / "copy")
    place = Store(copy).network(LEARNED[0])
    Run.load(place).model_copy(update={"args": {"pool": "average", "classes": 7}}).save_weights(
        load_network(ran, LEARNED[0]), place.parent
    )
    with pytest.raises(CheckpointError, match="do not fit"):
        load_network(copy, LEARNED[0])


def test_whether_they_are_kept_decides_no_job_and_those_that_were_not_are_said(ran, tmp_path):
    out, few = tmp_path / "out", STUDY.model_copy(update={"methods": STUDY.methods[:2]})
    run_study(few, out, device="cpu", workers=1, group=1, progress=False)
    assert not list(out.rglob("model.safetensors"))
    names = list(load_results(out)["job"])
    assert set(names) == set(few.expand()[1]) == set(LEARNED[:2])
    with pytest.raises(StudyError, match="no such file"):
        load_network(out, names[0])
    with pytest.warns(AnalogSimWarning, match=rf"2 finished jobs have no network.*\({names[0]}, {names[1]}\)"):
        run_study(few, out, device="cpu", workers=1, group=1, keep_networks=True, progress=False)
    assert not list(out.rglob("model.safetensors"))  # and are not trained again
