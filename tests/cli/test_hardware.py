"""`analogsim budget`, `cost`, `search` and the calibration of `sweep`, as a user runs them: on a network on digits."""

import json
import signal
import time

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from analogsim import HardwareProfile
from analogsim.robustness.curve import RobustnessCurve
from analogsim.training.data import load_data
from analogsim.training.run_file import Run
from analogsim.training.train import accuracy
from tests.support.shell import call, done, start

TINY = ["--epochs", "2", "--lr", "0.003", "--batch-size", "32", "--threads", "1", "--device", "cpu"]


def width(path):
    with Image.open(path) as picture:
        return picture.size[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    done("train", "models.lenet:LeNet5", "digits", *TINY, "--out", folder)
    return folder


def test_budget(run):
    result = done("budget", run, "--profile", "8bit", "--images", 100, "--threads", 1)
    stored = json.loads((run / "budget-8bit.json").read_text())
    frame = pd.read_csv(run / "budget-8bit.csv")
    stored = stored["result"]
    assert [layer["name"] for layer in stored["layers"]] == list(frame["layer"])
    assert 0.001 < stored["equivalent_sigma"] < 1
    for layer in stored["layers"]:
        assert layer["total"] == pytest.approx(layer["measured"], rel=0.05)
    assert f"equivalent σ of the network: {stored['equivalent_sigma']:.3g}" in result.output
    assert "simulated" in result.output
    assert width(run / "budget-8bit.png") > 600


def test_budget_of_a_noisy_profile_by_noise_aware_ranges(run, tmp_path):
    file = tmp_path / "noisy.yaml"
    HardwareProfile.load("8bit").varied(noise={"output": 0.3}, adc={"bits": 5}).save(file)
    errors = {}
    for ranges in ("maximum", "noise-aware"):
        target = tmp_path / f"{ranges}.json"
        done("budget", run, "--profile", file, "--ranges", ranges, "--out", target, "--images", 100, "--threads", 1)
        errors[ranges] = json.loads(target.read_text())["result"]["output_error"]
    assert errors["noise-aware"] < errors["maximum"]


def test_sensitivity(run):
    result = done("sensitivity", run, "--profile", "pcm", "--chips", 2, "--age", "1d", "--test-subset", 60)
    frame = pd.read_csv(run / "sensitivity-pcm-1d.csv")
    assert list(frame["layer"]) == sorted(frame["layer"], key=lambda name: -frame.set_index("layer")["others"][name])
    assert frame["share"].sum() == pytest.approx(1, abs=1e-4)
    for text in ("alone", "others", "all on pcm", *frame["layer"]):
        assert text in result.output
    assert width(run / "sensitivity-pcm-1d.png") > 600
    for command in ("sensitivity", "sweep"):
        assert "such as 1d" in call(command, run, "--profile", "pcm", "--age", "soon").stderr


def test_hardware_sweep(run):
    vary = "--vary", "adc.bits=3,8", "--vary", "age=0,1y"
    done("hardware-sweep", run, "--profile", "pcm", *vary, "--chips", 2, "--test-subset", 60)
    frame = pd.read_csv(run / "pcm-adc.bits-age.csv")
    assert len(frame) == 2 * 2 * 2
    means = frame.groupby(["adc.bits", "age"])["value"].mean()
    assert means[8, "0"] > means[3, "0"]
    assert width(run / "pcm-adc.bits-age.png") > 600
    assert not list(run.glob("*.journal"))
    assert "did you mean 'tile.rows'" in call("hardware-sweep", run, "--vary", "rows=4").stderr
    assert "FIELD=VALUES" in call("hardware-sweep", run, "--vary", "adc.bits").stderr


def test_cost(run, tmp_path):
    result = done("cost", run, "--profile", "8bit", "--out", tmp_path / "cost.csv")
    assert "416,520" in result.output
    assert "energy (pJ)" not in result.output
    assert "energy unknown: the profile has no cost.dac_energy (or cost.dac_fom)" in " ".join(result.output.split())
    assert pd.read_csv(tmp_path / "cost.csv")["macs"].iloc[-1] == 416_520
    file = tmp_path / "priced.yaml"
    prices = {"dac_energy": 0.1, "adc_fom": 10.0, "mac_energy": 1.0}
    HardwareProfile.load("8bit").varied(cost=prices).save(file)
    # 35,204 input and 6,638 output conversions and 416,520 MACs: 3,520.4 + 6,638·2.56 + 416.52 pJ.
    assert "20,930" in done("cost", run, "--profile", file).output


def test_search_and_go_on(run, tmp_path):
    space = ["--space", "adc.bits=3,8", "--space", "tile.rows=64,256", "--drop", 0.05, "--threads", 1]
    folder = tmp_path / "search"
    result = done("search", run, *space, "--trials", 3, "--out", folder)
    assert "✓" in result.output
    best = HardwareProfile.load(folder / "best.yaml")
    designs = pd.read_csv(folder / "designs.csv")
    chosen = designs[designs["best"]].iloc[0]
    assert (best.adc.bits, best.tile.rows) == (chosen["adc.bits"], chosen["tile.rows"])
    assert chosen["cost"] == designs[designs["allowed"]]["cost"].min()
    assert width(folder / "pareto.png") > 600
    done("search", run, *space, "--trials", 6, "--out", folder)
    assert len(pd.read_csv(folder / "designs.csv")) >= len(designs)
    refused = call("search", run, "--trials", 6, "--out", folder)
    assert refused.exit_code == 1
    assert "holds a search of another" in refused.stderr


def test_sweep_takes_a_calibration_method(run, tmp_path):
    few = ["--sigmas", "0.1,1", "--repeats", 1, "--threads", 1, "--device", "cpu", "--test-subset", 60]
    done("sweep", run, "--profile", "8bit", "--ranges", "mse", *few, "--out", tmp_path / "mse.json")
    assert (tmp_path / "mse.json").exists()
    both = call("sweep", run, "--profile", "8bit", "--ranges", "mse", "--percentile", 99, *few)
    assert both.exit_code == 2


LENET = "models.lenet:LeNet5"
SMALL = ["--train-subset", 320, "--test-subset", 100, "--batch-size", 32, "--threads", 1, "--device", "cpu"]


def refused(*args, code=1):
    result = call(*args)
    assert result.exit_code == code, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """Two kinds of hardware: coarse converters, and cells that differ from chip to chip."""
    folder = tmp_path_factory.mktemp("profiles")
    (folder / "coarse.yaml").write_text("name: coarse\ndac: {bits: 2}\nadc: {bits: 4}\n")
    (folder / "cells.yaml").write_text("name: cells\ndac: {bits: 5}\nadc: {bits: 6}\nprogramming: {sigma: 0.05}\n")
    return folder


@pytest.fixture(scope="module")
def aware(run, profiles, tmp_path_factory):
    """Trained on cells that are drawn, with learned ranges."""
    folder = tmp_path_factory.mktemp("runs") / "aware"
    hardware = ["--from", run, "--profile", profiles / "cells.yaml", "--learn-ranges"]
    done("train", LENET, "digits", *SMALL, "--epochs", 1, "--seed", 3, *hardware, "--out", folder)
    return folder


def test_training_on_hardware_with_learned_ranges(run, profiles, tmp_path):
    """Ranges that are learned end elsewhere than calibrated ones, and fit the training images better."""
    common = ["train", LENET, "digits", *TINY, "--from", run, "--profile", profiles / "coarse.yaml"]
    for folder, extra in ((tmp_path / "fixed", []), (tmp_path / "learned", ["--learn-ranges"])):
        assert "on coarse, one chip" in done(*common, *extra, "--out", folder).output
    fixed, learned = (load_file(tmp_path / name / "model.safetensors") for name in ("fixed", "learned"))
    ranges = [key for key in fixed if key.endswith("input_range")]
    assert len(ranges) == 5
    assert all(not torch.equal(fixed[key], learned[key]) for key in ranges)
    assert all(0.2 < float(learned[key] / fixed[key]) < 5 for key in ranges)
    losses = [pd.read_csv(tmp_path / name / "history.csv")["loss"].iloc[-1] for name in ("fixed", "learned")]
    # With six seeds: 0.50 to 0.69.
    assert losses[1] < 0.9 * losses[0]
    about = json.loads((tmp_path / "learned" / "run.json").read_text())
    assert about["hardware"]["learn_ranges"]
    assert about["hardware"]["profile"]["dac"]["bits"] == 2
    assert about["start"].startswith(str(run))
    assert "trained already" in done(*common, "--learn-ranges", "--out", tmp_path / "learned").output
    said = refused(*common, "--out", tmp_path / "learned")
    assert "hardware.learn_ranges was True, now it is False" in said
    done("sweep", tmp_path / "learned", "--sigmas", "0.01,1,100", "--repeats", 1, "--threads", 1)
    curve = json.loads((tmp_path / "learned" / "sweep-noise.output.json").read_text())
    assert curve["quantity"] == "noise.output"
    done("budget", tmp_path / "learned", "--images", 50, "--threads", 1)
    assert json.loads((tmp_path / "learned" / "budget.json").read_text())["result"]["profile"] == "coarse"


def test_a_run_on_hardware_is_built_again_as_it_was(run, aware, tmp_path):
    """Its network is on the chip of the training's seed, with the learned ranges; sweeps are on that of their own."""
    about = Run.load(aware / "model.safetensors")
    network = about.network(aware / "model.safetensors")
    images = load_data("digits").subset(test=100)
    assert accuracy(network, images) == about.test_accuracy
    options = ["--sigmas", "0.01,100", "--repeats", 1, "--threads", 1, "--device", "cpu"]
    found = []
    for seed in (3, 4):
        done("sweep", aware, *options, "--seed", seed, "--out", tmp_path / f"{seed}.json")
        found.append(RobustnessCurve.load(tmp_path / f"{seed}.json"))
    assert found[0].noise_free == about.test_accuracy
    assert (found[0].accuracies != found[1].accuracies).any()
    # On other hardware it is calibrated anew, as a digital run is.
    done("sweep", aware, "--profile", "8bit", *options, "--out", tmp_path / "8bit.json")
    assert RobustnessCurve.load(tmp_path / "8bit.json").noise_free > 0.8


def test_other_commands_take_a_runs_own_hardware(run, aware, profiles, tmp_path):
    own = done("budget", aware, "--images", 20, "--repeats", 1, "--threads", 1, "--out", tmp_path / "own.json")
    assert "activation units; cells" in own.output
    drawn = ["budget", run, "--profile", profiles / "cells.yaml", "--images", 20, "--repeats", 1, "--threads", 1]
    errors = []
    for seed in (0, 0, 1):
        done(*drawn, "--seed", seed, "--out", tmp_path / "chip.json", "--force")
        errors.append(json.loads((tmp_path / "chip.json").read_text())["result"]["output_error"])
    assert errors[0] == errors[1] != errors[2]
    assert "416,520" in done("cost", aware).output
    few = ["--space", "adc.bits=4,6", "--trials", 2, "--threads", 1, "--drop", 0.9]
    prices = {"noise": {"output": 0.01}}
    file = tmp_path / "noisy.yaml"
    HardwareProfile.load("8bit").varied(dac={"bits": 5}, **prices).save(file)
    done("train", LENET, "digits", *SMALL, "--epochs", 1, "--from", run, "--profile", file, "--out", tmp_path / "n")
    done("search", tmp_path / "n", *few)
    best = HardwareProfile.load(tmp_path / "n" / "search" / "best.yaml")
    assert (best.dac.bits, best.noise.output) == (5, 0.01)


def test_a_start_may_move_and_keeps_its_arguments(run, tmp_path):
    """What a run is started from is known by its content; the constructor's arguments come along."""
    average = tmp_path / "average"
    done("train", LENET, "digits", *SMALL, "--epochs", 1, "--arg", "pool=average", "--out", average)
    command = ["train", LENET, "digits", *SMALL, "--epochs", 1, "--out", tmp_path / "next"]
    done(*command, "--from", average)
    assert json.loads((tmp_path / "next" / "run.json").read_text())["args"]["pool"] == "average"
    moved = average.rename(tmp_path / "moved")
    assert "trained already" in done(*command, "--from", moved / "model.safetensors").output
    said = refused(*command, "--from", run)
    assert "start_crc32 was" in said
    again = ["train", LENET, "digits", *SMALL, "--epochs", 1, "--fresh", "--from", moved]
    assert "is the run to start from" in refused(*again, "--out", moved, code=2)
    assert (moved / "model.safetensors").exists()
    assert "no such file" in refused(*again, "--from", tmp_path, "--out", tmp_path / "other")
    vgg = ["train", "models.vgg:VGG11", "digits", *SMALL, "--from", moved, "--out", tmp_path / "vgg"]
    assert "VGG11" in refused(*vgg)
    assert not (tmp_path / "vgg").exists()


def test_a_start_may_be_built_by_a_function(tmp_path, monkeypatch):
    """The command names the function, so that it may be called."""
    (tmp_path / "builder.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["train", "builder:make", "digits", *SMALL, "--lr", 0.01, "--epochs", 1]
    done(*command, "--out", tmp_path / "a")
    done(*command, "--from", tmp_path / "a", "--out", tmp_path / "b")
    first, second = (pd.read_csv(tmp_path / name / "history.csv")["loss"].iloc[0] for name in "ab")
    assert second < 0.7 * first


@pytest.mark.slow
def test_an_interrupted_training_on_hardware_goes_on_to_the_same_result(run, profiles, tmp_path):
    """Killed in any epoch: the same weights, ranges, chip and history, with injected noise on top."""
    command = ["train", LENET, "digits", *SMALL, "--epochs", 10, "--sigma", 0.2, "--from", run]
    command += ["--profile", profiles / "cells.yaml", "--ranges", "mse", "--learn-ranges", "--range-lr", 0.02]
    broken = tmp_path / "broken"
    process = start(*command, "--out", broken)
    deadline = time.monotonic() + 120
    while not (broken / "history.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len((broken / "history.jsonl").read_text().splitlines()) < 10
    for name in ("broken", "whole"):
        done(*command, "--out", tmp_path / name)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert {"features.conv1.input_range", "features.conv1.chip_seed"} < set(a)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    histories = [pd.read_csv(tmp_path / name / "history.csv").drop(columns="seconds") for name in ("broken", "whole")]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--ranges", "mse"], "give one too"),
        (["--percentile", 0], "give one too"),
        (["--learn-ranges"], "give --profile too"),
        (["--profile", "8bit", "--range-lr", 0.1], "give --learn-ranges too"),
        (["--profile", "8bit", "--ranges", "mse", "--percentile", 99], "takes no percentile"),
    ],
)
def test_options_without_what_they_are_of_are_wrong_usage(tmp_path, option, message):
    assert message in refused("train", LENET, "digits", *option, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


def test_what_a_digital_run_has_not_is_wrong_usage(run, aware):
    for command in ("budget", "cost"):
        assert "is on no hardware" in refused(command, run, code=2)
    for command in ("budget", "sweep"):
        assert "give one too" in refused(command, aware, "--ranges", "mse", code=2)
