"""The rows of docs/published.md that train: each command on a small stand-in of its data, killed, and gone on with."""

import json
import math

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

import analogsim as an
from analogsim.nn import AnalogLayer
from analogsim.training import train as train_module
from analogsim.training.data import load_data
from analogsim.training.spec import TrainSpec
from benchmarks.published import device_aware, kept, over_time, recovery, recovery_tables
from benchmarks.published.resnet14 import ResNet14, settings

SPEC = TrainSpec(epochs=2, lr=1e-3, batch_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained network, assumed ranges, and noise for images."""
    place = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    net = ResNet14()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:  # with large weights to clip, at some 7 of their deviations
                weight.copy_(torch.randn_like(weight) ** 3 * weight.std() / 4)
    save_file(net.state_dict(), place / "resnet14-cifar10.safetensors")
    rows = {"layers": settings(None, "sonos")}
    (place / "resnet14-cifar10-hardware.json").write_text(json.dumps({"sonos": rows, "rram-milo": rows}))
    draw = np.random.default_rng(0)
    sizes = {"cifar10.npz": (40, 30), "cifar10-lossless-subset.npz": (16, 20)}
    for name, counts in sizes.items():
        arrays = {}
        for part, count in zip(("train", "test"), counts):
            arrays[f"{part}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
            arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 10
        np.savez(place / name, **arrays, class_names=np.array([str(n) for n in range(10)]))
    return place


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "RESULTS", tmp_path)
    monkeypatch.setattr(recovery_tables, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def data(folder):
    return recovery.training_data(folder, 32, 10)


def test_chips_of_a_training_are_none_of_those_that_it_is_measured_on(folder, data, tmp_path, monkeypatch):
    in_training: set[int] = set()
    draw = AnalogLayer._training_chip
    monkeypatch.setattr(AnalogLayer, "_training_chip", lambda layer: in_training.add(seed := draw(layer)) or seed)
    net = recovery.trained("sonos", folder, data, SPEC, tmp_path)
    assert len(in_training) == 2 * 2 * 16  # epochs, steps, layers: a new chip at every call
    chips, evaluated = set(), AnalogLayer._wanted_chip

    def noted(layer):
        found = evaluated(layer)
        chips.add(found[1])
        return found

    monkeypatch.setattr(AnalogLayer, "_wanted_chip", noted)
    recovery.measured(net, "sonos", folder, recovery.shown(folder, "lossless"), 3)
    assert len(chips - {0}) == 3 * 16  # 0 is the chip without variation, on which ranges are calibrated
    tests = {layer.chip_seed for _, layer in an.analog_layers(recovery.start("sonos", folder))}
    assert not chips & (in_training | tests)


def test_a_training_that_was_killed_goes_on_to_the_same_numbers(folder, data, tmp_path, monkeypatch):
    whole = recovery.trained("noise", folder, data, SPEC, tmp_path / "whole").state_dict()
    write = train_module.save_checkpoint

    def killed(*given):
        write(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        recovery.trained("noise", folder, data, SPEC, tmp_path / "killed")
    monkeypatch.setattr(train_module, "save_checkpoint", write)
    again = recovery.trained("noise", folder, data, SPEC, tmp_path / "killed").state_dict()
    assert [name for name, value in whole.items() if not torch.equal(value, again[name])] == []
    before = recovery.network(folder).state_dict()
    assert not torch.equal(whole["conv1.weight"], before["conv1.weight"])


def test_the_noise_of_joshi_is_3_8_percent_of_the_largest_weight_and_weights_are_clipped(folder, data, tmp_path):
    layer = an.convert(torch.nn.Linear(200, 200, bias=False), recovery.JOSHI).train()
    with torch.no_grad():
        error = (layer(torch.eye(200)).T - layer.weight) / layer.weight.abs().max()
    # 40,000 normal numbers: four standard errors of their deviation, and of their mean.
    assert float(error.std()) == pytest.approx(0.038, rel=4 / math.sqrt(2 * 40_000))
    assert abs(float(error.mean())) < 4 * 0.038 / 200
    net = recovery.trained("noise", folder, data, SPEC, tmp_path)
    for name, weight in net.named_parameters():
        if weight.ndim > 1:
            # The largest lie at 2.5 deviations as these were before that step, which were somewhat larger.
            w = weight.detach()
            assert 2.4 < float(w.abs().max() / w.std(correction=0)) < 3.2, name


@pytest.mark.slow  # every part calibrates the whole network
def test_recovery_measures_every_case_once_and_fills_its_table(folder, results, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "PRESETS", ())
    monkeypatch.setattr(recovery, "METHOD", "maximum")
    given = {"folder": folder, "chips": 2, "epochs": 1, "count": 16, "tests": 10, "out": tmp_path}
    recovery.recovery(**given, only=["published", "noise"])
    parts = json.loads((results / "recovery.json").read_text())["parts"]
    assert set(parts) == {
        f"{name}, {hardware}, {kind}"
        for name in ("published", "noise")
        for hardware in ("sonos", "rram-milo")
        for kind in ("lossless", "jpeg")
    }
    assert all(len(part["accuracy"]) == 2 for part in parts.values())
    assert {part["samples"] for name, part in parts.items() if name.endswith("jpeg")} == {10}
    monkeypatch.setattr(recovery, "measured", lambda *_: pytest.fail("measured again"))
    recovery.recovery(**given, only=["published", "noise"])
    assert "| SONOS | 1,017 lossless | " in recovery_tables.recovered()
    with pytest.raises(typer.BadParameter, match="other settings"):
        recovery.recovery(**given | {"epochs": 2})


@pytest.mark.slow  # as above
def test_over_time_measures_every_way_at_every_age(folder, results, tmp_path, monkeypatch):
    monkeypatch.setattr(over_time, "FIGURE", tmp_path / "over-time.png")
    monkeypatch.setattr(over_time, "NETWORKS", ("published",))
    for module in (over_time, recovery_tables):
        monkeypatch.setattr(module, "PRESETS", ("pcm",))
        monkeypatch.setattr(module, "AGES", ("0", "1d"))
        monkeypatch.setattr(module, "LABELS", ("first read", "1 day"))
    monkeypatch.setattr(over_time, "METHOD", "maximum")
    over_time.over_time(folder=folder, chips=2, epochs=1, count=16, out=tmp_path)
    parts = json.loads((results / "over-time.json").read_text())["parts"]
    assert set(parts) == {f"pcm, published, {way}" for way in over_time.WAYS}
    assert all(np.shape(part["accuracy"]) == (2, 2) for part in parts.values())
    assert parts["pcm, published, none"]["accuracy"][0] == parts["pcm, published, global"]["accuracy"][0]
    assert (tmp_path / "over-time.png").stat().st_size > 5000
    assert "| `pcm` | as published | nothing | " in recovery_tables.aged()


def test_device_aware_has_the_tutorials_network_and_laws(results, tmp_path):
    data = load_data("digits").subset(128, 60)
    net = device_aware.network(data, 0)
    assert [tuple(p.shape) for p in net.parameters() if p.ndim > 1] == [(8, 1, 3, 3), (16, 8, 3, 3), (10, 784)]
    for law, g, wanted in (("proportional", 0.5, 0.15), ("proportional", 1.0, 0.3)):
        profile = device_aware.hardware(law)
        targets = torch.full((40_000,), g)
        found = an.chip.written(targets, profile.programming)[0]
        assert float((found - g).std()) == pytest.approx(wanted, rel=0.02)
    layer = an.convert(torch.nn.Linear(100, 100, bias=False), device_aware.hardware("independent")).train()
    with torch.no_grad():
        error = (layer(torch.eye(100)).T - layer.weight) / layer.weight.abs().max()
    assert float(error.std()) == pytest.approx(0.3 * 2**0.5 / 0.9, rel=0.03)
    draw = np.random.default_rng(0)
    arrays = {f"{part}_images": draw.integers(0, 256, (40, 28, 28, 1), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "mnist.npz", **arrays, **{f"{part}_labels": np.arange(40) % 10 for part in ("train", "test")})
    device_aware.device_aware(data=f"npz:{tmp_path / 'mnist.npz'}", epochs=1, seeds=1, chips=2, out=tmp_path)
    file = json.loads((results / "device-aware.json").read_text())
    assert file["images"] == 32  # 80 %
    assert set(file["parts"]) == {"proportional, seed 0", "independent, seed 0"}
    assert "| trained plainly, on chips | 93.74 ± 1.15 | " in recovery_tables.device_aware()
    mnist = device_aware.network(load_data(f"npz:{tmp_path / 'mnist.npz'}"), 0)
    assert sum(p.numel() for p in mnist.parameters()) == 7018
    found = device_aware.rows(data, TrainSpec(epochs=1, batch_size=64), "proportional", 2, tmp_path)
    assert len(found["plain"]) == len(found["trained"]) == 2
    again = device_aware.rows(data, TrainSpec(epochs=1, batch_size=64), "proportional", 2, tmp_path)
    assert again == found
