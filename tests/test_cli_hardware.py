"""`analogsim budget`, `cost`, `search` and the calibration of `sweep`, as a user runs them: on a network on digits."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from analogsim import HardwareProfile
from analogsim.cli import app

TINY = ["--epochs", "2", "--lr", "0.003", "--batch-size", "32", "--threads", "1", "--device", "cpu"]


def call(*args):
    # A table's width follows the terminal; wide enough for every column.
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(arg) for arg in args], prog_name="analogsim")


def done(*args):
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def width(path):
    with Image.open(path) as picture:
        return picture.size[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    done("train", "models.lenet:LeNet5", "digits", *TINY, "--out", folder)
    return folder


@pytest.mark.parametrize("command", ["budget", "cost", "search"])
def test_help_teaches(command):
    text = " ".join(done(command, "--help").output.split())
    assert "Usage: analogsim" in text
    assert "Examples:" in text
    assert "Exit codes" in text


def test_budget(run):
    result = done("budget", run, "--profile", "8bit", "--images", 100, "--threads", 1)
    stored = json.loads((run / "budget-8bit.json").read_text())
    frame = pd.read_csv(run / "budget-8bit.csv")
    assert [layer["layer"] for layer in stored["layers"]] == list(frame["layer"])
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
        errors[ranges] = json.loads(target.read_text())["output_error"]
    assert errors["noise-aware"] < errors["maximum"]


def test_cost(run, tmp_path):
    result = done("cost", run, "--profile", "8bit", "--out", tmp_path / "cost.csv")
    assert "416,520" in result.output
    assert "energy" not in result.output
    assert pd.read_csv(tmp_path / "cost.csv")["macs"].iloc[-1] == 416_520
    file = tmp_path / "priced.yaml"
    prices = {"dac_energy": 0.1, "adc_fom": 10.0, "mac_energy": 1.0}
    HardwareProfile.load("8bit").varied(cost=prices).save(file)
    # 35,204 input and 6,638 output conversions and 416,520 MACs: 3,520.4 + 6,638·2.56 + 416.52 pJ.
    assert "20.93" in done("cost", run, "--profile", file).output


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


def test_training_on_hardware_with_learned_ranges(run, tmp_path):
    """Ranges that are learned end elsewhere than calibrated ones; commands then use the run's own hardware."""
    profile = tmp_path / "3bit.yaml"
    profile.write_text("name: 3bit\ndac: {bits: 3}\nadc: {bits: 4}\n")
    common = ["train", "models.lenet:LeNet5", "digits", *TINY, "--from", run, "--profile", profile, "--ranges", "mse"]
    for folder, extra in ((tmp_path / "fixed", []), (tmp_path / "learned", ["--learn-ranges"])):
        assert "on 3bit, one chip" in done(*common, *extra, "--out", folder).output
    fixed, learned = (load_file(tmp_path / name / "model.safetensors") for name in ("fixed", "learned"))
    ranges = [key for key in fixed if key.endswith("input_range")]
    assert len(ranges) == 5
    assert all(not torch.equal(fixed[key], learned[key]) for key in ranges)
    assert all(0.2 < float(learned[key] / fixed[key]) < 5 for key in ranges)
    about = json.loads((tmp_path / "learned" / "run.json").read_text())
    assert about["hardware"]["learn_ranges"]
    assert about["start"].startswith(str(run))
    assert "trained already" in done(*common, "--learn-ranges", "--out", tmp_path / "learned").output
    refused = call(*common, "--out", tmp_path / "learned")
    assert "hardware was" in refused.output
    done("sweep", tmp_path / "learned", "--sigmas", "0.01,1,100", "--repeats", 1, "--threads", 1)
    curve = json.loads((tmp_path / "learned" / "sweep-noise.output.json").read_text())
    assert curve["quantity"] == "noise.output"
    done("budget", tmp_path / "learned", "--images", 50, "--threads", 1)
    assert json.loads((tmp_path / "learned" / "budget.json").read_text())["profile"] == "3bit"
    assert "trained without hardware" in call("budget", run).output
    assert "give --profile too" in call("train", "models.lenet:LeNet5", "digits", "--learn-ranges").output
