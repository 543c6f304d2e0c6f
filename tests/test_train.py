"""Data and training: real digits, and a run that is killed again and again."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from analogsim.errors import CheckpointError, DataError, DivergenceError, ProfileError
from analogsim.noise import noise_sites
from analogsim.study.augment import augment
from analogsim.study.data import load_data
from analogsim.study.train import TrainSpec, train
from models.lenet import LeNet5

SCRIPT = """
import sys, torch
from analogsim.study.data import load_data
from analogsim.study.train import TrainSpec, train
from models.lenet import LeNet5
torch.set_num_threads(1)
torch.manual_seed(0)
data = load_data("digits").subset(300, 100)
result = train(LeNet5(channels=1), data, TrainSpec(epochs=12, sigma=0.5, spread=0.5), out=sys.argv[1])
torch.save(result.model.state_dict(), sys.argv[1] + "/final.pt")
"""


def test_lenet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in LeNet5().parameters()) == 62_006


def test_digits_are_split_once_and_for_all():
    data = load_data("digits")
    assert (len(data.train_y), len(data.test_y), data.train_x.shape[1:]) == (1433, 364, (1, 32, 32))
    assert data.test_y.bincount().min() >= 35
    x = data.normalise(data.train_x)
    assert abs(x.mean()) < 1e-5
    assert x.std().item() == pytest.approx(1, abs=1e-4)


def test_arrays_and_their_faults(tmp_path):
    path = tmp_path / "set.npz"
    arrays = {
        "train_images": np.zeros((4, 8, 8, 3), np.uint8),
        "train_labels": np.array([0, 1, 0, 1]),
        "test_images": np.zeros((2, 8, 8, 3), np.uint8),
        "test_labels": np.array([0, 1]),
    }
    np.savez(path, **arrays)
    assert load_data(f"npz:{path}").train_x.shape == (4, 3, 8, 8)
    for change, message in (
        ({"test_images": np.zeros((2, 8, 8, 3))}, "uint8"),
        ({"test_labels": np.array([0])}, "as many of both"),
        ({"test_images": None}, "'test_images' is missing"),
    ):
        np.savez(path, **{k: v for k, v in {**arrays, **change}.items() if v is not None})
        with pytest.raises(DataError, match=message):
            load_data(f"npz:{path}")
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="npz"):
        load_data(f"npz:{path}")
    for name, message in (
        ("npz:/no/such", "no such file"),
        ("mnist", "choose digits"),
        ("folder:/no", "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(name)


def test_augmentation_shifts_and_mirrors_every_image_by_itself():
    images = torch.zeros(500, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 3] = 255
    out = augment(images, torch.Generator().manual_seed(0), padding=2)
    where = (out == 255).nonzero()
    assert len(where) == 500
    assert set(where[:, 2].tolist()) == {2, 3, 4, 5, 6}
    assert set(where[:, 3].tolist()) == {1, 2, 3, 4, 5, 6, 7}
    same = augment(images, torch.Generator(), padding=0, flip=False)
    assert torch.equal(same, images)


def test_a_training_killed_again_and_again_ends_like_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, str(whole)], check=True, timeout=200)
    for epochs in (2, 5):
        process = subprocess.Popen([*command, str(broken)])
        history = broken / "history.jsonl"
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            if history.exists() and len(history.read_text().splitlines()) >= epochs:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    subprocess.run([*command, str(broken)], check=True, timeout=200)
    a, b = (torch.load(folder / "final.pt", weights_only=True) for folder in (whole, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(broken.glob("*.part"))


def test_a_wrong_checkpoint_is_refused(tmp_path):
    data = load_data("digits").subset(64, 32)
    spec = TrainSpec(epochs=1)
    train(LeNet5(channels=1), data, spec, out=tmp_path)
    with pytest.raises(CheckpointError, match="another training: spec was"):
        train(LeNet5(channels=1), data, TrainSpec(epochs=2), out=tmp_path)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="not a training's checkpoint"):
        train(LeNet5(channels=1), data, spec, out=tmp_path)
    for content in (b"", b"garbage"):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="corrupt checkpoint"):
            train(LeNet5(channels=1), data, spec, out=tmp_path)
    train(LeNet5(channels=1), data, spec, out=tmp_path, resume=False)


def test_a_diverging_training_says_so_and_settings_are_checked():
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        train(LeNet5(channels=1), load_data("digits").subset(256, 32), TrainSpec(epochs=3, lr=1e30))
    with pytest.raises(ProfileError, match="epochs"):
        TrainSpec(epochs=0)


def test_training_under_noise_leaves_no_noise_and_no_random_state_behind():
    data = load_data("digits").subset(200, 100)
    model = LeNet5(channels=1)
    before = torch.get_rng_state()
    result = train(model, data, TrainSpec(epochs=2, sigma=0.5, ramp_epochs=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not noise_sites(model)
    assert [entry["sigma"] for entry in result.history] == [0.25, 0.5]
    assert list(result.to_frame().columns[:2]) == ["epoch", "loss"]


def test_lenet_learns_the_digits():
    torch.manual_seed(0)
    result = train(LeNet5(channels=1), load_data("digits"), TrainSpec(epochs=8, batch_size=32, lr=2e-3))
    assert result.accuracy > 0.95
    assert result.status == "finished"
