"""Training: what it does to a network, under which noise, when it gives up, and that a kill changes nothing."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analogsim import HardwareProfile, NoiseSpec, calibrate, convert, inject_noise, learn_ranges, noise_sites, set_seed
from analogsim.errors import CheckpointError, ConversionError, DivergenceError, ProfileError
from analogsim.training.augment import Augmentation
from analogsim.training.checkpoint import load_checkpoint, load_model, read_about, save_checkpoint, save_model
from analogsim.training.data import load_data
from analogsim.training.epoch import EpochOrder
from analogsim.training.history import has_ended, is_guessing
from analogsim.training.noise import TrainingNoise
from analogsim.training.train import RANGES_FASTER, TrainSpec, VarianceAware, accuracy, train
from models.lenet import LeNet5
from tests.support.small import network
from tests.training.test_epoch import blank

ROOT = Path(__file__).parents[2]
RECIPES = {
    "digits": TrainSpec(epochs=20, batch_size=32, lr=2e-3),
    "digits, noisy": TrainSpec(epochs=40, batch_size=32, lr=2e-3, sigma=1.0, ramp_epochs=20),
}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.subset(160, 60)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    # NaN stands for what ranges do not depend on (`calibrated_for`).
    return a.keys() == b.keys() and all(torch.equal(a[key].nan_to_num(-9.0), b[key].nan_to_num(-9.0)) for key in a)


def fit(model, data, out=None, resume=True, **settings):
    return train(model, data, TrainSpec(**settings), out=out, progress=False, resume=resume)


class TestSpec:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"epochs": 0}, r"epochs: .*greater than or equal to 1 \(got 0\)"),
            ({"lr": float("nan")}, "lr: .*finite"),
            ({"lr": 0}, "lr: .*greater than 0"),
            ({"sigma": -1}, "sigma: .*greater than or equal to 0"),
            ({"sigmas": 1}, "sigmas: unknown key"),
            ({"augment": {"crop": -1}}, "augment.crop: "),
            ({"layers": {"input": -1}}, "layers.input: "),
            ({"stop_on_collapse": 0}, "stop_on_collapse: "),
            (
                {"epochs": 5, "ramp_epochs": 6, "sigma": 1},
                "ramp_epochs: 6, so the noise is never at its full value in 5",
            ),
            ({"variance": {"mean": 1, "spread": 1}}, "variance: varies σ .* must be positive"),
            ({"sigma": 1, "variance": {"mean": 1, "spread": 1}, "target": "weights"}, 'variance.per: must be "batch"'),
        ],
    )
    def test_impossible_values_are_refused(self, values, message):
        with pytest.raises(ProfileError, match=f"TrainSpec: .*{message}"):
            TrainSpec(**values)

    def test_is_a_value(self):
        spec = TrainSpec(sigma=1, layers={"input": 0, 3: 0.5}, variance=VarianceAware(mean=0.3, spread=0.5))
        assert TrainSpec(**json.loads(spec.model_dump_json())) == spec.varied()
        assert spec.varied(lr=0.1).lr == 0.1
        with pytest.raises(ProfileError):
            spec.varied(lr=-1)

    def test_incremental_noise_is_linspace_then_constant(self):
        spec = TrainSpec(epochs=20, sigma=1, ramp_epochs=10)
        assert [spec.ramp(epoch) for epoch in range(20)] == pytest.approx([*np.linspace(0, 1, 10), *[1] * 10])
        assert [TrainSpec(epochs=3, ramp_epochs=1).ramp(epoch) for epoch in range(3)] == [0, 1, 1]
        assert TrainSpec().ramp(0) == 1


class TestTraining:
    def test_learns_digits(self, digits):
        torch.manual_seed(0)
        result = fit(LeNet5(channels=1), digits, epochs=8, batch_size=32, lr=2e-3)
        assert result.accuracy > 0.95
        assert result.accuracy == accuracy(result.model, digits)
        assert result.status == "finished"

    @pytest.mark.slow
    @pytest.mark.parametrize("name", list(RECIPES))
    def test_recipes_reach_what_they_promise(self, digits, name):
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            spec = RECIPES[name].varied(seed=seed)
            found.append(train(LeNet5(channels=1), digits, spec, progress=False).accuracy)
        # Under noise ten seeds gave 0.970 (the first) to 0.992.
        assert np.mean(found) > 0.97
        assert min(found) > 0.96

    def test_history_says_how_it_went(self, few):
        result = fit(network(), few, epochs=5, lr=0.01, sigma=0.4, ramp_epochs=3)
        frame = result.to_frame()
        columns = ["epoch", "loss", "train_accuracy", "test_accuracy", "lr", "sigma", "seconds"]
        assert list(frame.columns) == columns
        assert frame.epoch.tolist() == [1, 2, 3, 4, 5]
        assert frame.sigma.tolist() == pytest.approx([0, 0.2, 0.4, 0.4, 0.4])
        optimiser = torch.optim.Adam(network().parameters(), lr=0.01)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5)
        for rate in frame.lr:
            assert rate == pytest.approx(cosine.get_last_lr()[0])
            optimiser.step()
            cosine.step()

    def test_is_decided_by_seed_and_initial_weights(self, few):
        runs = [
            weights(fit(network(init), few, epochs=2, seed=seed, sigma=0.1).model)
            for init, seed in ((0, 0), (0, 0), (0, 1), (1, 0))
        ]
        assert [same(runs[0], run) for run in runs] == [True, True, False, False]

    def test_leaves_torchs_random_state(self, few):
        model, state = network(), torch.get_rng_state()
        fit(model, few, epochs=1, sigma=0.5)
        assert torch.equal(torch.get_rng_state(), state)

    def test_augmentation_of_the_spec_overrides_that_of_the_data(self, few):
        how = few.augmentation
        runs = [weights(fit(network(), few, epochs=1, augment=a).model) for a in (None, how, Augmentation(crop=0))]
        assert same(runs[0], runs[1])
        assert not same(runs[0], runs[2])

    def test_every_image_is_seen_once_an_epoch(self, few):
        seen = []
        model = network()
        model.register_forward_pre_hook(lambda m, args: seen.append(args[0]) if m.training else None)
        fit(model, few, epochs=1, batch_size=50, augment=Augmentation(crop=0, flip=False))
        assert [len(x) for x in seen] == [50, 50, 50, 10]
        seen, all_of_them = torch.cat(seen), few.normalise(few.train_x)
        assert not torch.equal(seen, all_of_them)
        assert torch.equal(*(x.flatten(1).sum(1).sort().values for x in (seen, all_of_them)))


class TestNoise:
    def test_is_there_while_training_and_gone_afterwards(self, few):
        model, levels = network(), []
        model[6].register_forward_hook(
            lambda m, *_: levels.append((m.training, m.noise_site.sigma, m.noise_site.eval)) and None
        )
        fit(model, few, epochs=1, sigma=0.3, layers={"6": 0.7})
        assert levels == [(True, 0.7, False)] * 2 + [(False, 0.7, False)]
        assert not noise_sites(model)
        with pytest.raises(DivergenceError):
            fit(model, few, epochs=1, sigma=1e38)
        assert not noise_sites(model)

    @pytest.mark.parametrize(
        "settings", [{"sigma": 0.5}, {"multiplicative": 0.5}, {"sigma": 0.1, "target": "weights"}, {"layers": {0: 0.5}}]
    )
    def test_every_kind_changes_the_result(self, few, settings):
        quiet, noisy = (weights(fit(network(), few, epochs=1, **kinds).model) for kinds in ({}, settings))
        assert not same(quiet, noisy)

    def test_a_networks_own_noise_stays(self, few):
        model = inject_noise(network(), NoiseSpec(sigma=0.5))
        trained = weights(fit(model, few, epochs=1).model)
        assert {site.sigma for site in noise_sites(model).values()} == {0.5}
        assert not same(trained, weights(fit(network(), few, epochs=1).model))
        with pytest.raises(ConversionError, match="has noise on its activations already: remove_noise"):
            fit(model, few, epochs=1, sigma=0.1)
        fit(model, few, epochs=1, sigma=0.1, target="weights")
        assert {site.sigma for site in noise_sites(model).values()} == {0.5}

    def test_variance_aware_noise_is_drawn_around_its_target(self):
        # σ·m + s·|z|: mean 0.15 + 0.4·√(2/π), std 0.4·√(1 - 2/π). n = 40,000 images; α = 1e-3 each (|t| < 3.3):
        # would show a mean off by 0.004. The mutant without |·| must be rejected.
        n, data = 40_000, blank(40_000)
        spec = TrainSpec(epochs=10, sigma=0.5, layers={"input": 0, "6": 1}, variance={"mean": 0.3, "spread": 0.4})
        model, draws = network(), []
        with TrainingNoise(model, spec) as noise:
            sites = noise_sites(model)
            noise.begin(5, EpochOrder.draw(spec, 5, data).z)
            for start in range(0, n, 400):
                noise.draw(start, start + 400)
                draws.append(sites["0"].sigma)
                assert torch.allclose(sites["6"].sigma - draws[-1], torch.tensor(0.15))
                assert sites["input"].sigma == 0
        x = torch.cat(draws).double()
        assert x.shape == (n,)
        assert x.min() >= 0.15

        def accepted(x):
            std = 0.4 * (1 - 2 / np.pi) ** 0.5
            mean_ok = abs(x.mean() - 0.15 - 0.4 * (2 / np.pi) ** 0.5) < 3.3 * std / len(x) ** 0.5
            # Kurtosis of |z|: 3.87, so the variance has relative standard error √(2.87/n).
            return bool(mean_ok and abs(x.var() / std**2 - 1) < 3.3 * (2.87 / len(x)) ** 0.5)

        assert accepted(x)
        assert not accepted(0.15 + 0.4 * torch.randn(n, generator=torch.Generator().manual_seed(0)).double())

    def test_one_sigma_a_batch_and_ramped(self):
        variance = {"mean": 0.5, "spread": 1, "per": "batch"}
        spec = TrainSpec(epochs=10, sigma=1, ramp_epochs=3, batch_size=8, variance=variance)
        z, model = EpochOrder.draw(spec, 0, blank(20)).z, network()
        levels = {}
        with TrainingNoise(model, spec) as noise:
            for epoch in (0, 1, 2, 9):
                noise.begin(epoch, z)
                for start in (0, 8, 16):
                    noise.draw(start, min(start + 8, 20))
                    levels[epoch, start] = noise_sites(model)["0"].sigma
        assert all(isinstance(level, float) for level in levels.values())
        for (epoch, start), level in levels.items():
            assert level == pytest.approx({0: 0, 1: 0.5, 2: 1, 9: 1}[epoch] * (0.5 + z[start].item()))


class TestLearnedRanges:
    @staticmethod
    def one_step(model, data, range_lr=None):
        """Return how far one step moves each parameter."""
        before = weights(model)
        spec = TrainSpec(epochs=1, batch_size=len(data.train_y), lr=1e-3, weight_decay=0.1)
        train(model, data, spec, progress=False, range_lr=range_lr)
        return {key: float((value - before[key]).abs().max()) for key, value in weights(model).items()}

    def test_have_a_rate_of_their_own(self, few):
        # Adam's first step is its rate, whatever the gradient.
        for given, rate in ((None, RANGES_FASTER * 1e-3), (0.5, 0.5)):
            steps = self.one_step(learning(), few, given)
            assert [steps["6.weight"], steps["0.input_range"]] == pytest.approx([1e-3, rate], rel=1e-3)

    def test_do_not_decay(self, few):
        # The last layer is silent, so that no range has a gradient: whatever moves one is its decay.
        digital = network()
        digital[6] = nn.Linear(100, 10, bias=False)
        model = convert(digital, HardwareProfile.load("8bit"))
        calibrate(model, few.normalise(few.train_x))
        nn.init.zeros_(model[6].weight)
        learn_ranges(model)
        steps = self.one_step(model, few)
        assert steps["0.input_range"] == steps["6.input_range"] == 0
        assert steps["0.weight"] > 0

    def test_without_any_a_rate_is_refused(self, few):
        with pytest.raises(ConversionError, match=r"range_lr: .*learn_ranges\(model\) first"):
            train(analog(), few, TrainSpec(epochs=1), progress=False, range_lr=0.1)

    def test_another_rate_is_another_training(self, few, tmp_path):
        train(learning(), few, TrainSpec(epochs=1), out=tmp_path, progress=False)
        with pytest.raises(CheckpointError, match="range_lr was 0.03, now it is 0.5"):
            train(learning(), few, TrainSpec(epochs=1), out=tmp_path, progress=False, range_lr=0.5)

    def test_that_fall_to_zero_are_a_divergence(self, few):
        # Steps of 1e5 in either direction: after two of them some range has been below zero.
        with pytest.raises(DivergenceError, match="input range of 0, which is learned, is -.*now 100000"):
            train(learning(), few, TrainSpec(epochs=3), progress=False, range_lr=1e5)


class TestGivingUp:
    def test_divergence_keeps_the_last_good_checkpoint(self, few, tmp_path):
        # No noise in the first epoch, overflow in the second.
        settings = {"epochs": 3, "ramp_epochs": 2, "sigma": 3e38}
        for _ in range(2):
            with pytest.raises(DivergenceError, match="in epoch 2: .*lower the learning rate .*ramp_epochs"):
                fit(network(), few, tmp_path, **settings)
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1]
        content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
        assert content["epoch"] == 1
        assert all(value.isfinite().all() for value in content["model"].values())

    def test_weights_that_overflow_are_a_divergence(self, few):
        with pytest.raises(DivergenceError, match="no longer finite"):
            fit(network(), few, epochs=1, lr=1e37)

    def test_collapse_is_seen_and_stopped_when_asked(self, few, tmp_path):
        # No image says anything of its class: nothing can be learned.
        blank = few.__class__(**(vars(few) | {"train_x": few.train_x * 0, "test_x": few.test_x * 0}))
        result = fit(network(), blank, epochs=4)
        assert (result.status, len(result.history)) == ("collapsed", 4)
        for _ in range(2):
            result = fit(network(), blank, tmp_path, epochs=9, stop_on_collapse=3)
            assert (result.status, len(result.history)) == ("collapsed", 3)

    def test_learning_is_no_collapse(self, few):
        result = fit(network(), few, epochs=6, lr=0.01, batch_size=16, stop_on_collapse=3)
        assert (result.status, len(result.history)) == ("finished", 6)

    def test_what_is_learned_in_training_is_no_collapse(self, few):
        # As with batch normalisation under noise, whose statistics are wrong without it.
        spec = TrainSpec(epochs=9, stop_on_collapse=2)
        learned, lost = ({"train_accuracy": accuracy, "test_accuracy": 0.1} for accuracy in (0.5, 0.1))
        assert not has_ended(spec, [lost, learned], few)
        assert not has_ended(spec, [learned, lost], few)
        assert has_ended(spec, [learned, lost, lost], few)

    def test_guessing_is_told_from_learning(self, digits):
        # 364 test images, 37 in the largest class: by chance 0.102, the limit 0.165. Exact binomial: a guesser is
        # above it with α = 1.1e-4; a network of true accuracy 0.25 below it with β = 9e-5.
        from scipy.stats import binom

        n = len(digits.test_y)
        limit = max(k for k in range(n) if is_guessing(k / n, digits.test_y))
        assert 1e-5 < binom.sf(limit, n, digits.chance) < 2e-4
        assert binom.cdf(limit, n, 0.25) < 2e-4


def quantized():
    from analogsim.qat import QATSpec, prepare_qat

    return prepare_qat(network(), QATSpec(scaling="dynamic", collect_steps=7))


def analog():
    model = convert(network(), HardwareProfile.load("noisy"))
    calibrate(model, [torch.randn(32, 1, 32, 32, generator=torch.Generator().manual_seed(0))])
    set_seed(model, 5)
    return model


def learning():
    model = analog()
    learn_ranges(model)
    return model


def own_noise():
    return inject_noise(network(), NoiseSpec(sigma=0.2, seed=3))


class TestResume:
    SETTINGS = {"epochs": 4, "batch_size": 32, "seed": 3}

    @pytest.mark.parametrize("make", [network, quantized, analog, learning, own_noise])
    @pytest.mark.parametrize("broken_at", [0, 9])
    def test_continues_bit_for_bit(self, few, tmp_path, make, broken_at):
        # 5 steps an epoch: broken in the first epoch, and in the second.
        noise = {"sigma": 0.2, "variance": {"mean": 0.3, "spread": 0.5}} if make in (network, quantized) else {}
        whole = fit(make(), few, **self.SETTINGS, **noise)
        model, calls = make(), iter(range(100))

        def interrupt(module, _):
            if module.training and next(calls) == broken_at:
                raise KeyboardInterrupt

        model.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(model, few, tmp_path, **self.SETTINGS, **noise)
        assert (tmp_path / "checkpoint.pt").exists() == (broken_at == 9)
        resumed = fit(make(), few, tmp_path, **self.SETTINGS, **noise)
        assert same(weights(resumed.model), weights(whole.model))
        times = [entry.pop("seconds") for entry in whole.history + resumed.history]
        assert all(time > 0 for time in times)
        assert resumed.history == whole.history

    def test_finished_training_is_not_repeated(self, few, tmp_path):
        first = fit(network(), few, tmp_path, **self.SETTINGS)
        again = fit(network(1), few, tmp_path, **self.SETTINGS)
        assert same(weights(first.model), weights(again.model))
        assert again.history == first.history
        anew = fit(network(1), few, tmp_path, resume=False, **self.SETTINGS)
        assert not same(weights(first.model), weights(anew.model))

    def test_killed_at_any_moment_it_ends_in_the_same_weights(self, few, tmp_path):
        # 30 steps: SIGKILL in a step drawn at random, then in the middle of writing a checkpoint, then in another
        # step; then it runs to its end.
        rng = np.random.default_rng(0)
        kills = [f"step {rng.integers(6, 12)}", "write 2", f"step {rng.integers(1, 9)}", "never"]
        code = """if True:
            import json, os, signal, sys, torch
            from analogsim.training.checkpoint import save_model
            from analogsim.training.data import load_data
            from analogsim.training.train import TrainSpec, train
            from tests.support.small import network

            torch.set_num_threads(1)
            kind, _, number = sys.argv[2].partition(" ")
            counts = {"step": 0, "write": 0}

            def tick(what):
                counts[what] += 1
                if kind == what and counts[what] == int(number):
                    os.kill(os.getpid(), signal.SIGKILL)

            def save(content, path, save=torch.save):
                save(content, path)
                if kind == "write" and counts["write"] + 1 == int(number):
                    os.truncate(path, os.path.getsize(path) // 2)
                tick("write")

            torch.save = save
            model = network()
            model.register_forward_pre_hook(lambda module, args: tick("step") if module.training else None)
            train(model, load_data("digits").subset(160, 60), TrainSpec(**json.loads(sys.argv[3])), out=sys.argv[1])
            """
        for kill in kills:
            command = [sys.executable, "-c", code, str(tmp_path), kill, json.dumps(KILLED)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True)
            expected = 0 if kill == "never" else -signal.SIGKILL
            assert done.returncode == expected, done.stderr.decode()
        resumed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
        whole = fit(network(), few, **KILLED)
        assert same(resumed["model"], weights(whole.model))
        assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "history.jsonl"]
        assert len((tmp_path / "history.jsonl").read_text().splitlines()) == KILLED["epochs"]


KILLED = {"epochs": 6, "batch_size": 32, "sigma": 0.2, "variance": {"mean": 0.3, "spread": 0.5}}


class TestCheckpoint:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": 0.5}, "spec.lr was 0.001, now it is 0.5"),
            ({"augment": Augmentation(crop=1)}, "spec.augment was None, now it is 'absent'; spec.augment.crop was"),
            ({"data": 150}, "data.label was 'digits, 160 \\+ 60 images', now it is 'digits, 150 \\+ 60 images'"),
            ({"pool": nn.AvgPool2d(2)}, r"model.3 was 'MaxPool2d\(.*', now it is 'AvgPool2d"),
            ({"noise": 0.5}, "model.input.noise on activations was 'absent'"),
        ],
    )
    def test_of_another_training_is_refused(self, digits, few, tmp_path, change, message):
        fit(network(), few, tmp_path, epochs=1)
        model, settings = network(), {"epochs": 1, **change}
        data = digits.subset(settings.pop("data", 160), 60)
        model[3] = settings.pop("pool", model[3])
        if sigma := settings.pop("noise", None):
            inject_noise(model, NoiseSpec(sigma=sigma), inplace=True)
        with pytest.raises(CheckpointError, match=f"checkpoint of another training: {message}.*another directory"):
            fit(model, data, tmp_path, **settings)

    @pytest.mark.parametrize("damage", ["truncated", "text", "empty", "flipped", "code", "foreign", "folder"])
    def test_damaged_or_foreign_file_is_refused(self, tmp_path, damage):
        path = tmp_path / "checkpoint.pt"
        save_checkpoint(path, {"a": 1}, {"x": torch.arange(1000.0)})
        assert torch.equal(load_checkpoint(path, {"a": 1})["x"], torch.arange(1000.0))
        whole = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "text":
            path.write_text("no archive")
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "flipped":
            # One bit of the tensor: everything can be read, and is wrong.
            place = whole.index(np.arange(500.0, 510.0, dtype=np.float32).tobytes())
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        elif damage == "code":
            torch.save({"format": Bomb(tmp_path / "exploded")}, path)
        elif damage == "foreign":
            torch.save({"epoch": 3}, path)
        else:
            path.unlink()
            path.mkdir()
        said = "checkpoint.pt: cannot be read" if damage == "folder" else "move it away to train .*checkpoint.pt"
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(path, {"a": 1})
        assert not (tmp_path / "exploded").exists()

    def test_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "checkpoint.pt"
        save_checkpoint(path, {}, {"x": 1})
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            save_checkpoint(path, {}, {"x": lambda: 1})
        assert load_checkpoint(path, {})["x"] == 1
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_checkpoint(tmp_path / "file" / "checkpoint.pt", {}, {})


class Bomb:
    """Its unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


class TestModelFile:
    @pytest.mark.parametrize("make", [network, Tied, quantized])
    def test_round_trip(self, few, tmp_path, make):
        path, model = tmp_path / "model.safetensors", make()
        if make is quantized:
            fit(model, few, epochs=1)
        about = {"model": "models.lenet:LeNet5", "args": {"channels": 1}, "spec": TrainSpec().model_dump(mode="json")}
        save_model(model, path, about)
        other = make()
        for parameter in other.parameters():
            nn.init.constant_(parameter, 0.5)
        assert read_about(path) == about == load_model(other, path)
        assert same(weights(model), weights(other))
        assert os.listdir(tmp_path) == ["model.safetensors"]

    def test_what_does_not_fit_is_said(self, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "model.safetensors"
        with pytest.raises(CheckpointError, match="model.safetensors: no such file"):
            read_about(path)
        path.write_bytes(b"x" * 100)
        with pytest.raises(CheckpointError, match="model.safetensors: damaged"):
            load_model(network(), path)
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match="does not say which network it holds"):
            load_model(network(), path)
        save_model(network(), path, {})
        with pytest.raises(CheckpointError, match="its weights do not fit LeNet5"):
            load_model(LeNet5(), path)
