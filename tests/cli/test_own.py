"""Anyone's network in the shell: --model, --weights and --data in place of a run."""

import json
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import analogsim as an
from tests.support.shell import call, done

CODE = '''
"""A network of tokens, its data, a step and a metric."""

import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(11, width), nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, tokens, mask=None):
        return {"logits": self.head(torch.relu(self.body(self.embedding(tokens))))}


def made():
    torch.manual_seed(0)
    return Tagger().eval()


network = made()


def batches(count, seed):
    tokens = torch.randint(0, 11, (count, 4, 7), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return [{"tokens": one, "mask": one > 0, "labels": made()(one)["logits"].argmax(-1)} for one in tokens]


def loader():
    return {"test": batches(6, 0), "train": batches(3, 1)}


def only():
    yield from batches(6, 0)


class Item:
    def __init__(self, batch):
        self.tokens, self.labels = batch["tokens"], batch["labels"]


items = [Item(batch) for batch in batches(6, 0)]


def step(model, item):
    return model(item.tokens)["logits"].flatten(0, 1), item.labels.flatten()


def wrong(output, target):
    return (output.argmax(-1) != target).float().flatten()


wrong.higher_is_better = False


def shuffled():
    from torch.utils.data import DataLoader

    samples = [dict(zip(batch, parts)) for batch in batches(9, 2) for parts in zip(*batch.values())]
    return {"test": DataLoader(samples, 4, shuffle=True), "train": DataLoader(samples, 4, shuffle=True)}


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = made()

    def forward(self, tokens, mask=None):
        return self.module(tokens)


def broken():
    raise ValueError("no such disk")


number = 3
'''
NET = ["--model", "own_tagger:Tagger"]
DATA = ["--data", "own_tagger:loader", "--metric", "token_accuracy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with the user's module and the weights in three forms."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_tagger.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    own = __import__("own_tagger")
    state = own.made().state_dict()
    torch.save(state, folder / "plain.pt")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / "nested.pt"
    )
    save_file(state, folder / "net.safetensors")
    analog = an.convert(own.made(), an.HardwareProfile.load("pcm"))
    an.calibrate(analog, own.loader()["train"], progress=False)
    an.program(analog, 3)
    an.save(analog, folder / "chip.safetensors")
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["own_tagger"]


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_evaluate_is_the_verb(folder):
    own = sys.modules["own_tagger"]
    options = ["--profile", "pcm", "--chips", 2, "--age", "0", "--age", "1d", "--seed", 4]
    result = done("evaluate", *NET, "--weights", "plain.pt", *DATA, *options)
    data = own.loader()
    wanted = an.evaluate(
        own.made(),
        data["test"],
        metric="token_accuracy",
        profile=an.HardwareProfile.load("pcm"),
        chips=2,
        ages=["0", "1d"],
        calibration=data["train"],
        seed=4,
    )
    frame = pd.read_csv("runs/own_tagger-Tagger/evaluation-pcm-0s-1d-token_accuracy.csv")
    assert frame.value.tolist() == pytest.approx([value for row in wanted.values for value in row])
    assert "1 d" in result.output
    assert (folder / "runs/own_tagger-Tagger/evaluation-pcm-0s-1d-token_accuracy.png").stat().st_size > 5000
    assert "test data" not in result.stderr


def test_measured_outputs_are_the_verbs_and_have_a_file_of_their_own(folder):
    own = sys.modules["own_tagger"]
    plain = folder / "runs/own_tagger-Tagger/evaluation-pcm-1d-token_accuracy.csv"
    options = ["--profile", "pcm", "--chips", 2, "--age", "1d", "--seed", 4]
    done("evaluate", *NET, "--weights", "plain.pt", *DATA, *options)
    before = plain.read_bytes()
    done("evaluate", *NET, "--weights", "plain.pt", *DATA, *options, "--calibrate-outputs")
    data = own.loader()
    wanted = an.evaluate(
        own.made(),
        data["test"],
        metric="token_accuracy",
        profile=an.HardwareProfile.load("pcm"),
        chips=2,
        ages=["1d"],
        calibration=data["train"],
        outputs=data["train"],
        seed=4,
    )
    frame = pd.read_csv(plain.with_name("evaluation-pcm-1d-calibrated-outputs-token_accuracy.csv"))
    assert frame.value.tolist() == pytest.approx([value for row in wanted.values for value in row])
    assert plain.read_bytes() == before


NORMED = """
import torch
from torch import nn


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def loader():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    return {"test": [(x[:200], x[:200, :3].argmax(1))], "train": [(x[200:], x[200:, :3].argmax(1))]}
"""


def test_statistics_anew_are_the_verbs_and_have_a_file_of_their_own(folder):
    (folder / "own_normed.py").write_text(NORMED)
    done(
        *("evaluate", "--model", "own_normed:made", "--data", "own_normed:loader"),
        *("--profile", "pcm", "--chips", 2, "--age", "1y", "--batch-norm"),
    )
    own = sys.modules["own_normed"]
    data = own.loader()
    settings = {"profile": an.HardwareProfile.load("pcm"), "chips": 2, "ages": ["1y"], "calibration": data["train"]}
    wanted = an.evaluate(own.made(), data["test"], batch_norm=data["train"], **settings)
    frame = pd.read_csv(folder / "runs/own_normed-made/evaluation-pcm-1y-batch-norm.csv")
    assert frame.value.tolist() == pytest.approx([value for row in wanted.values for value in row])
    assert wanted.values != an.evaluate(own.made(), data["test"], **settings).values


def test_statistics_anew_need_batch_normalisation(folder):
    result = call("evaluate", *NET, "--weights", "plain.pt", *DATA, "--profile", "pcm", "--batch-norm")
    assert result.exit_code == 1
    assert "no batch normalisation" in result.stderr


def test_weights_of_every_form_are_the_same(folder):
    found = set()
    for weights in ("plain.pt", "nested.pt", "net.safetensors"):
        done("evaluate", *NET, "--weights", weights, *DATA, "--profile", "8bit", "--out", "one.csv", "--force")
        found.add((folder / "one.csv").read_text())
    assert len(found) == 1
    done("evaluate", "--model", "own_tagger:network", *DATA, "--profile", "8bit", "--out", "one.csv", "--force")
    assert (folder / "one.csv").read_text() in found


def test_the_weights_of_a_network_within_another_are_its_own(folder):
    own = sys.modules["own_tagger"]
    state = own.Wrapper().state_dict()
    compiled = {f"_orig_mod.{key}": value for key, value in state.items()}
    for name, saved in (
        ("inner.pt", state),
        ("compiled.pt", compiled),
        ("parallel.pt", {f"module.{k}": v for k, v in state.items()}),
    ):
        torch.save(saved, folder / name)
        options = [
            "--weights",
            name,
            "--data",
            "own_tagger:loader",
            "--metric",
            "token_accuracy",
            "--out",
            "one.csv",
            "--force",
        ]
        assert "1.000" in done("evaluate", "--model", "own_tagger:Wrapper", *options).output


def test_a_loader_that_shuffles_gives_the_same_in_every_run(folder):
    found = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        options = [
            "--profile",
            "pcm",
            "--calibration",
            8,
            "--test-subset",
            12,
            "--chips",
            2,
            "--out",
            "one.csv",
            "--force",
        ]
        data = ["--data", "own_tagger:shuffled", "--metric", "perplexity"]
        done("evaluate", "--model", "own_tagger:Tagger", *data, *options)
        found.add((folder / "one.csv").read_text())
    assert len(found) == 1


def test_a_saved_chip_is_measured_on_its_own_hardware(folder):
    own = sys.modules["own_tagger"]
    result = done("evaluate", *NET, "--weights", "chip.safetensors", *DATA, "--age", "1d", "--seed", 1)
    chip = an.load(folder / "chip.safetensors", own.Tagger())
    wanted = an.evaluate(chip, own.loader()["test"], metric="token_accuracy", ages="1d", seed=1)
    assert f"{wanted.mean[0]:.3f}" in result.output
    assert pd.read_csv("runs/own_tagger-Tagger/evaluation-1d-token_accuracy.csv").value.tolist() == pytest.approx(
        wanted.values[0]
    )


def test_a_sweep_of_a_saved_chip_is_of_this_chip(folder):
    own = sys.modules["own_tagger"]
    grid = ["--sigmas", "0.03,0.1,0.3,1", "--repeats", 2, "--threads", 1, "--device", "cpu", "--out", "chip.json"]
    done("sweep", *NET, "--weights", "chip.safetensors", *DATA, *grid)
    chip = an.load(folder / "chip.safetensors", own.Tagger())
    sigmas, test = [0.03, 0.1, 0.3, 1], own.loader()["test"]
    wanted = an.noise_sweep(chip, test, sigmas, 2, quantity="noise.output", metric="token_accuracy", progress=False)
    assert an.RobustnessCurve.load(folder / "chip.json").values.tolist() == wanted.values.tolist()
    an.program(chip, 0)
    other = an.noise_sweep(chip, test, sigmas, 2, quantity="noise.output", metric="token_accuracy", progress=False)
    assert other.values.tolist() != wanted.values.tolist()


def test_every_command_takes_it(folder):
    plain = [*NET, "--weights", "plain.pt"]
    grid = ["--sigmas", "0.3,1,3,30", "--repeats", 2]
    result = done("sweep", *plain, *DATA, *grid, "--threads", 1, "--device", "cpu")
    assert (
        "token_accuracy"
        in json.loads((folder / "runs/own_tagger-Tagger/sweep-token_accuracy.json").read_text())["metric"]["name"]
    )
    assert "µ" in result.output
    done("budget", *plain, "--data", "own_tagger:loader", "--profile", "8bit")
    assert "body" in done("cost", *plain, "--data", "own_tagger:loader", "--profile", "8bit").output
    result = done("sensitivity", *plain, *DATA, "--profile", "pcm", "--chips", 1)
    assert "head" in result.output
    result = done("hardware-sweep", *plain, *DATA, "--vary", "adc.bits=3,8")
    assert "token accuracy" in result.output
    pytest.importorskip("optuna")
    result = done("search", *plain, *DATA, "--space", "adc.bits=3,8", "--trials", 2)
    assert "token accuracy" in result.output


def test_steps_and_metrics_of_one_s_own(folder):
    options = ["--profile", "8bit", "--out", "one.csv", "--force"]
    done("evaluate", *NET, "--weights", "plain.pt", "--data", "own_tagger:only", "--metric", "token_accuracy", *options)
    right = pd.read_csv("one.csv").value[0]
    result = done(
        *("evaluate", *NET, "--weights", "plain.pt", "--data", "own_tagger:items", "--step", "own_tagger:step"),
        *("--metric", "own_tagger:wrong", *options),
    )
    assert pd.read_csv("one.csv").value[0] == pytest.approx(1 - right)
    assert "the test data stand in for training data" in result.stderr
    assert "wrong" in result.output


def test_a_part_of_the_data_is_measured(folder):
    result = done("evaluate", *NET, "--weights", "plain.pt", *DATA, "--test-subset", 5, "--out", "one.csv", "--force")
    assert "8 samples" in result.output, "two whole batches of four"


def test_a_network_without_weights_is_said_to_have_none(folder):
    assert (
        "no --weights: Tagger is measured as own_tagger:made gives it"
        in done("evaluate", "--model", "own_tagger:made", *DATA, "--out", "one.csv", "--force").stderr
    )


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        ([], "name a RUN of `analogsim train`, or your own network and its data", 2),
        (NET, "name a RUN", 2),
        ([*NET, "--data", "own_tagger:none"], "data 'own_tagger:none': own_tagger has no 'none'", 1),
        ([*NET, "--data", "own_tagger:number"], "int is nothing that batches come from", 1),
        ([*NET, "--data", "own_tagger:broken"], "ValueError: no such disk", 1),
        ([*NET, "--data", "os:listdir"], "standard library", 1),
        ([*NET, *DATA[:2], "--metric", "acuracy"], "did you mean 'accuracy'", 1),
        ([*NET, *DATA[:2], "--step", "own_tagger:number"], "step 'own_tagger:number': it is int, a function", 1),
        ([*NET, *DATA, "--weights", "none.pt"], "none.pt: no such file", 1),
        ([*NET, *DATA, "--weights", "own_tagger.py"], "no state_dict that is safe to read", 1),
        ([*NET, *DATA, "--weights", "plain.pt", "--arg", "width=8"], "do not fit Tagger", 1),
        (["--model", "own_tagger:number", *DATA], "it is int, no network", 1),
        (["--model", "own_tagger:network", *DATA, "--arg", "width=8"], "a network already, and takes no --arg", 1),
        (["nowhere", "--weights", "plain.pt"], "a run has its own", 2),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(folder, options, message, code):
    result = call("evaluate", *options)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_no_code_in_weights_is_run(folder, capfd):
    torch.save({"net": Evil()}, folder / "evil.pt")
    result = call("evaluate", *NET, *DATA, "--weights", "evil.pt")
    assert result.exit_code == 1
    assert "no state_dict that is safe to read" in result.stderr
    assert "executed" not in result.output + capfd.readouterr().out
    torch.save(nn.Linear(2, 2), folder / "whole.pt")
    assert "save model.state_dict()" in call("evaluate", *NET, *DATA, "--weights", "whole.pt").stderr
