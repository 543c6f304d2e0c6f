"""`matched_sweep`: a network for each σ, trained and measured as by hand, continued, and what it warns of."""

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.errors import AnalogSimWarning, CheckpointError, DivergenceError, FitError
from analogsim.seeds import seed_generators
from analogsim.training import matched
from analogsim.training.data import load_data
from analogsim.training.spec import TrainSpec
from analogsim.training.train import train
from models.lenet import LeNet5

SPEC = TrainSpec(epochs=2, batch_size=32, lr=2e-3, seed=3)
SIGMAS = [0.1, 1.0]


def make():
    return LeNet5(channels=1)


@pytest.fixture(scope="module")
def data():
    return load_data("digits").subset(128, 60)


def by_hand(data, sigma, spec=SPEC):
    """The same training and evaluation, of one σ."""
    seed_generators(spec.seed, torch.device("cpu"))
    model = train(make(), data, spec.varied(sigma=sigma), progress=False).model
    grid = [sigma or 0.1]
    return an.noise_sweep(
        model, list(data.test_batches()), grid, 2, quantity=spec.target, chance=data.chance, seed=3, progress=False
    )


@pytest.mark.parametrize("target", ["activations", "weights"])
def test_each_point_is_a_training_and_its_own_sweep(data, target):
    spec = SPEC.varied(target=target)
    curve = an.matched_sweep(make, data, [1.0, 0.1], spec, 2, progress=False)
    own = [by_hand(data, sigma, spec) for sigma in SIGMAS]
    assert curve.sigmas.tolist() == SIGMAS
    assert curve.values.tolist() == [one.values[0].tolist() for one in own]
    assert curve.noise_free == own[0].noise_free
    assert (curve.quantity, curve.samples, curve.chance) == (target, 60, data.chance)
    assert curve.about["trained"] == "at the σ of each point"


def test_at_0_a_network_is_trained_for_the_noise_free_accuracy(data):
    curve = an.matched_sweep(make, data, [0.0, 1.0], SPEC, 2, progress=False)
    assert curve.sigmas.tolist() == [1.0]
    assert curve.noise_free == by_hand(data, 0.0).noise_free != by_hand(data, 1.0).noise_free


def test_the_defaults_are_the_paper_s_grid(data, monkeypatch):
    seen = []

    def untrained(model, data, spec, **options):
        seen.append((spec.sigma, spec.epochs))
        return type("Result", (), {"model": model})

    monkeypatch.setattr(matched, "train", untrained)
    curve = an.matched_sweep(make, data, repeats=1, progress=False)
    assert np.allclose(curve.sigmas, an.SIGMAS)
    assert seen == [(sigma, 20) for sigma in an.SIGMAS.tolist()]


def test_torch_s_generators_are_as_they_were(data):
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    an.matched_sweep(make, data, [1.0], SPEC.varied(epochs=1), 1, progress=False)
    assert torch.equal(torch.randn(3), wanted)


def test_what_is_done_is_not_trained_again(data, tmp_path, monkeypatch):
    whole = an.matched_sweep(make, data, SIGMAS, SPEC, 2, progress=False)
    calls = []

    def killed(*args, **options):
        calls.append(args[2].sigma)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(matched, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        an.matched_sweep(make, data, SIGMAS, SPEC, 2, out=tmp_path, progress=False)
    monkeypatch.undo()
    first = (tmp_path / "sigma-0.1" / "history.jsonl").read_bytes()
    again = an.matched_sweep(make, data, SIGMAS, SPEC, 2, out=tmp_path, progress=False)
    assert again.values.tolist() == whole.values.tolist()
    # With the seconds that the first attempt took.
    assert (tmp_path / "sigma-0.1" / "history.jsonl").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"sigma-0.1", "sigma-1.0"}
    other = SPEC.varied(lr=1e-3)
    with pytest.raises(CheckpointError, match="another training"):
        an.matched_sweep(make, data, SIGMAS, other, 2, out=tmp_path, progress=False)
    an.matched_sweep(make, data, SIGMAS, other, 2, out=tmp_path, resume=False, progress=False)
    assert (tmp_path / "sigma-0.1" / "history.jsonl").read_bytes() != first


def test_a_divergence_leaves_the_others(data, monkeypatch):
    def diverging(model, data, spec, **options):
        if spec.sigma in lost:
            raise DivergenceError("the training diverged in epoch 1")
        return train(model, data, spec, **options)

    monkeypatch.setattr(matched, "train", diverging)
    lost = [1.0]
    with pytest.warns(AnalogSimWarning, match=r"1 of 2 trainings diverged \(σ = 1\)") as warned:
        curve = an.matched_sweep(make, data, SIGMAS, SPEC, 1, progress=False)
    assert curve.sigmas.tolist() == [0.1]
    assert warned[0].filename == __file__
    lost = SIGMAS
    with pytest.raises(DivergenceError):
        an.matched_sweep(make, data, SIGMAS, SPEC, 1, progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigmas": []}, "at least one above 0"),
        ({"sigmas": [0.0]}, "at least one above 0"),
        ({"sigmas": [-1.0, 1.0]}, "finite and not negative"),
        ({"sigmas": [np.nan, 1.0]}, "finite and not negative"),
        ({"repeats": 0}, "repeats: at least 1"),
        ({"repeats": 1.5}, "repeats"),
    ],
    ids=str,
)
def test_what_cannot_be(data, change, words):
    with pytest.raises(FitError, match=words):
        an.matched_sweep(make, data, **({"sigmas": SIGMAS, "spec": SPEC} | change))
