"""The program as a user runs it: commands, files, messages, exit codes; a training that is interrupted and goes on."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import typer
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from analogsim.cli import app
from analogsim.cli.values import sigma_grid
from analogsim.kernels import triton_installed
from analogsim.profile import HardwareProfile, presets
from analogsim.robustness.curve import RobustnessCurve
from tests.support.shell import ROOT, call, done, start

LENET = "models.lenet:LeNet5"
FAST = ["--threads", "1", "--device", "cpu"]
TINY = ["--epochs", "3", "--lr", "0.003", "--batch-size", "32", *FAST]
FEW = ["--sigmas", "0.03,0.3,1,3,30", "--repeats", "2", *FAST]


def refused(*args, code=1):
    """Return what the program says on standard error when it refuses: one line, no traceback."""
    result = call(*args)
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained network, made once; tests leave the network alone."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    done("train", LENET, "digits", *TINY, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def swept(run):
    done("sweep", run, *FEW)
    return run / "sweep.json"


# Help, versions, starting

COMMANDS = [
    [],
    ["info"],
    ["profile"],
    ["profile", "list"],
    ["profile", "show"],
    ["profile", "validate"],
    ["profile", "schema"],
    ["profile", "new"],
    ["profile", "import"],
    ["profile", "compare"],
    ["train"],
    ["sweep"],
    ["plot"],
    ["budget"],
    ["cost"],
    ["search"],
    ["evaluate"],
    ["sensitivity"],
    ["hardware-sweep"],
    ["bench"],
    ["study"],
    ["study", "run"],
    ["study", "status"],
    ["study", "list"],
    ["study", "report"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command):
    text = done(*command, "--help").output
    assert "Usage: analogsim" in text
    assert any(word in text for word in ("Example", "Start with"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_narrow_help_has_every_word(command):
    """Letter for letter what each option and each command is said to do, however the lines are broken."""
    text = done(*command, "--help", columns=40).output
    assert "…" not in text + done(*command, "--help", columns=80).output
    assert "[/" not in text
    assert all(len(line) <= 40 for line in text.splitlines() if "table|" not in line)  # values have no place to break
    whole, node = "".join(text.split()), typer.main.get_command(app)
    for name in command:
        node = node.commands[name]
    for option in node.params:
        assert all(name in whole for name in option.opts if option.param_type_name == "option")
        assert "".join((option.help or "").split()) in whole
    for name, own in getattr(node, "commands", {}).items():
        assert name + re.sub(r"\[/?(bold)?\]", "", "".join(own.help.split())) in whole


def test_info_shows_paths_whole():
    said = "".join(done("info", columns=50).output.split())
    kept = json.loads(done("info", "--format", "json").output)["machine_code"]
    assert (kept["folder"] or "compiledanew") in said


@pytest.mark.parametrize("command", ["train", "sweep", "budget", "cost", "search"])
def test_help_states_the_exit_codes(command):
    text = " ".join(done(command, "--help").output.split())
    assert "3 the training diverged or collapsed" in text
    assert "130 interrupted" in text


def test_version_and_usage():
    assert done("--version").output.startswith("analogsim 0.")
    assert call("no-such-command").exit_code == 2
    assert call("train", LENET).exit_code == 2
    assert call("train", LENET, "digits", "--epochs", 0).exit_code == 2


def test_the_command_line_starts_without_heavy_libraries():
    heavy = ["matplotlib", "pandas", "numba", "brevitas", "scipy.optimize", "sklearn", "torchvision"]
    code = f"import sys, analogsim.cli; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_a_reader_that_goes_away_is_no_traceback():
    process = start("profile", "schema")
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait() != 0
    assert stderr == ""


def test_completion_is_offered(monkeypatch):
    # Without it Typer looks for a shell among the parent processes, of which a CI machine may have none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    text = done("--show-completion", "bash").output
    assert "_ANALOGSIM_COMPLETE" in text


def test_info():
    facts = json.loads(done("info", "--format", "json").stdout)
    assert facts["versions"]["torch"] == torch.__version__
    assert {"analogsim", "python", "numba", "brevitas", "numpy", "scipy"} < set(facts["versions"])
    assert facts["backends"]["reference"] is None
    assert facts["auto"]["float64 on the CPU"] == "reference"
    assert facts["auto"]["float32 on CUDA"] == ("triton" if triton_installed() else "reference")
    assert (facts["backends"]["triton"] is None) == (triton_installed() and torch.cuda.is_available())
    assert facts["machine"]["torch_threads"] == torch.get_num_threads()
    table = done("info").stdout
    assert facts["auto"]["float32 on the CPU"] in table
    assert torch.__version__ in table


# Profiles


def test_profile_list_and_show():
    listed = done("profile", "list").stdout
    assert all(name in listed for name in presets())
    assert listed.count("(") == listed.count(")"), "a description is cut in the middle of a sentence"
    shown = json.loads(done("profile", "show", "8bit", "--format", "json").stdout)
    assert HardwareProfile(**shown) == HardwareProfile.load("8bit")


def test_profile_show_can_be_loaded_again(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(done("profile", "show", "noisy").stdout, encoding="utf-8")
    assert HardwareProfile.load(file) == HardwareProfile.load("noisy")


def test_profile_validate_names_the_field(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("dac: {bits: 0}\n")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "dac.bits" in refused("profile", "validate", bad)
    assert "binary.yaml" in refused("profile", "validate", binary)
    assert "no profile 'none'" in refused("profile", "show", "none")
    both = call("profile", "validate", "8bit", bad)
    assert both.exit_code == 1
    assert "8bit: valid" in both.stdout
    assert done("profile", "validate", "8bit", "ideal").stdout.count("valid") == 2


def test_profile_validate_draws_what_it_read(tmp_path):
    picture = tmp_path / "out" / "chip.svg"
    assert "hermes: valid" in done("profile", "validate", "hermes", "--plot", picture).stdout
    drawn = picture.read_text()
    assert "<svg" in drawn
    bad = tmp_path / "bad.yaml"
    bad.write_text("programming: {sigma: {file: none.csv}}\n")
    assert "none.csv: not a readable text file" in refused("profile", "validate", bad, "--plot", tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()
    assert call("profile", "validate", "8bit", "ideal", "--plot", picture).exit_code == 2
    assert call("profile", "validate", "8bit", "--plot", tmp_path / "chip.txt").exit_code == 2
    assert picture.read_text() == drawn


def test_profile_schema_has_units():
    schema = json.loads(done("profile", "schema").stdout)
    assert "normalised units" in schema["$defs"]["Noise"]["properties"]["output"]["description"]


# Training


def test_train_writes_a_run(run):
    assert {path.name for path in run.iterdir()} >= {
        "model.safetensors",
        "run.json",
        "history.jsonl",
        "history.csv",
        "checkpoint.pt",
    }
    about = json.loads((run / "run.json").read_text())
    assert about["args"] == {"classes": 10, "channels": 1}
    assert about["spec"]["epochs"] == 3
    assert about["test_accuracy"] > 0.8
    assert len((run / "history.csv").read_text().splitlines()) == 4
    assert not list(run.glob("*.part"))


def test_clipped_weights_are_the_training_s_and_the_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--train-subset", "64", "--test-subset", "100", *FAST]
    call("train", LENET, "digits", *small, "--clip-weights", "1")
    folder = tmp_path / "runs" / "lenet5-digits-clip1-seed0"
    assert json.loads((folder / "run.json").read_text())["spec"]["clip_weights"] == 1.0
    for name, weight in load_file(folder / "model.safetensors").items():
        if weight.ndim > 1:  # a normal third of them lies beyond one deviation
            assert float((weight.abs() == weight.abs().max()).float().mean()) > 0.1, name
    assert call("train", LENET, "digits", *small, "--clip-weights", "0").exit_code == 2


def test_a_finished_run_is_not_trained_again(run):
    before = (run / "model.safetensors").read_bytes()
    result = done("train", LENET, "digits", *TINY, "--out", run)
    assert "trained already" in result.stderr
    assert json.loads((run / "run.json").read_text())["test_accuracy"] == pytest.approx(
        float(result.stdout.split()[2]), abs=1e-4
    )
    assert (run / "model.safetensors").read_bytes() == before


def test_another_training_is_not_mixed_in(run, tmp_path):
    said = refused("train", LENET, "digits", *TINY, "--sigma", "0.5", "--out", run)
    assert "sigma was 0.0, now it is 0.5" in said
    assert "--fresh" in said
    assert "args was" in refused("train", LENET, "digits", *TINY, "--arg", "pool=average", "--out", run)


def test_fresh_starts_anew(tmp_path):
    small = ["--epochs", "1", "--train-subset", "64", "--test-subset", "100", *FAST, "--out", tmp_path]
    call("train", LENET, "digits", *small)
    result = call("train", LENET, "digits", *small, "--seed", "1", "--fresh")
    assert "trained already" not in result.stderr
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["spec"]["seed"], about["train_subset"], about["test_subset"]) == (1, 64, 100)


def test_two_trainings_keep_out_of_each_other_s_way(run):
    before = (run / "run.json").read_bytes()
    with FileLock(run / "lock"):
        said = refused("train", LENET, "digits", *TINY, "--fresh", "--out", run)
    assert "another training is at work there" in said
    assert (run / "run.json").read_bytes() == before
    assert (run / "model.safetensors").exists()
    done("train", LENET, "digits", *TINY, "--out", run)


def test_arguments_reach_the_constructor(tmp_path, monkeypatch):
    module = tmp_path / "mynet.py"
    module.write_text(
        "from torch import nn\n"
        "def make(width, act='relu'):\n"
        "    assert act == 'tanh' and width == 20\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, width), nn.Tanh(), nn.Linear(width, 10))\n"
    )
    command = ["train", "mynet:make", "digits", "--arg", "width=20", "--arg", "act=tanh", "--epochs", "2", *FAST]
    process = subprocess.run(
        [sys.executable, "-m", "analogsim", *command, "--out", "mine"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    weights = load_file(tmp_path / "mine" / "model.safetensors")
    assert weights["1.weight"].shape == (20, 1024)
    # A function named by a file is called only where the user names it too.
    monkeypatch.syspath_prepend(tmp_path)
    assert "--model mynet:make" in refused("sweep", tmp_path / "mine", *FEW)
    done("sweep", tmp_path / "mine", *FEW, "--model", "mynet:make")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["models.lenet", "digits"], ["module:name"]),
        (["nowhere.net:Net", "digits"], ["no module 'nowhere'"]),
        (["models.nothing:Net", "digits"], ["no module 'models.nothing'"]),
        (["models/lenet.py:LeNet5", "digits"], ["module:name", "models.lenet:LeNet5"]),
        (["lenet.py:LeNet5", "digits"], ["module:name", "models.lenet:LeNet5"]),
        (["models.lenet:LeNet6", "digits"], ["LeNet6", "LeNet5"]),
        ([LENET, "digits", "--arg", "depth=3"], ["depth", "classes"]),
        (["models.lenet:OrderedDict", "digits"], ["was not called"]),
        ([LENET, "mnist"], ["no data set 'mnist'", "digits"]),
        ([LENET, "npz:missing.npz"], ["no such file"]),
        ([LENET, "digits", "--lr", "-1"], ["lr", "greater than 0"]),
        ([LENET, "digits", "--device", "abacus"], ["abacus", "--device cpu"]),
        ([LENET, "digits", "--arg", "channels=3"], ["cannot take them"]),
        ([LENET, "digits", "--arg", "classes=12"], ["(batch, classes)", "--arg"]),
    ],
)
def test_train_refuses(args, words, tmp_path):
    said = refused("train", *args, "--out", tmp_path / "run")
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_whatever_a_network_s_own_code_does_is_said_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    (tmp_path / "fussy.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(1, 10)\n"
        "    def forward(self, x): assert x.ndim == 2, 'rows only'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = refused("train", "leaves:Net", "digits", "--out", tmp_path / "run")
    assert "importing leaves fails: SystemExit" in said
    said = refused("train", "fussy:Net", "digits", "--out", tmp_path / "run")
    assert "cannot take them: AssertionError: rows only" in said


def test_arguments_that_are_no_pairs_are_wrong_usage(tmp_path):
    assert call("train", LENET, "digits", "--arg", "pool", "--out", tmp_path).exit_code == 2


def test_debug_shows_the_traceback():
    process = start("--debug", "profile", "show", "none")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in stderr
    assert "ProfileError" in stderr


def test_divergence_and_collapse_have_their_exit_code(tmp_path):
    small = ["--epochs", "1", "--train-subset", "200", *FAST]
    said = refused("train", LENET, "digits", *small, "--lr", "1e30", "--out", tmp_path / "a", code=3)
    assert "lower the learning rate" in said
    collapsed = call("train", LENET, "digits", *small, "--lr", "1e-9", "--out", tmp_path / "b")
    assert collapsed.exit_code == 3
    assert "collapsed" in collapsed.stderr
    assert call("train", LENET, "digits", *small, "--lr", "1e-9", "--out", tmp_path / "b").exit_code == 3
    early = ["--epochs", "9", "--stop-on-collapse", "2", "--train-subset", "200", "--lr", "1e-9", *FAST]
    assert call("train", LENET, "digits", *early, "--out", tmp_path / "c").exit_code == 3
    assert len((tmp_path / "c" / "history.jsonl").read_text().splitlines()) == 2


def test_corrupt_and_foreign_files_are_refused(run, tmp_path):
    for name, content in {"checkpoint.pt": b"rubbish", "run.json": b"{}", "model.safetensors": b"rubbish"}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_bytes((run / "run.json").read_bytes())
        (folder / name).write_bytes(content)
        said = refused("train", LENET, "digits", *TINY, "--out", folder)
        assert name in said


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_result(tmp_path):
    command = ["train", LENET, "digits", "--epochs", "8", "--sigma", "0.5", "--batch-size", "32", *FAST]
    process = start(*command, "--out", tmp_path / "broken")
    history = tmp_path / "broken" / "history.jsonl"
    deadline = time.monotonic() + 120
    while not history.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    first = [json.loads(line)["seconds"] for line in history.read_text().splitlines()]
    assert 1 <= len(first) < 8

    done(*command, "--out", tmp_path / "broken")
    done(*command, "--out", tmp_path / "whole")
    entries = [
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("broken", "whole")
    ]
    assert [entry["seconds"] for entry in entries[0][: len(first)]] == first
    for entry in entries[0] + entries[1]:
        del entry["seconds"]
    assert entries[0] == entries[1]
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


# Sweeping


def is_picture(path):
    with Image.open(path) as image:
        image.load()
        assert image.size[0] > 500
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_sweep_writes_curve_table_and_picture(run, swept):
    curve = RobustnessCurve.load(swept)
    accuracy = json.loads((run / "run.json").read_text())["test_accuracy"]
    assert curve.noise_free == pytest.approx(accuracy, abs=1e-9)
    assert curve.accuracies.shape == (5, 2)
    assert 0.03 < curve.midpoint < 30
    rows = (run / "sweep.csv").read_text().splitlines()
    assert rows[0] == "sigma,repeat,accuracy"
    assert len(rows) == 11
    is_picture(run / "sweep.png")


def test_sweep_prints_the_result_and_repeats_by_seed(run, swept, tmp_path):
    same = done("sweep", run / "model.safetensors", *FEW, "--out", tmp_path / "same.json")
    for word in ("peak", "noise-free", "µ", "95 % interval", "flags", "plain"):
        assert word in same.stdout
    curve = RobustnessCurve.load(swept)
    assert f"{curve.peak:.3f}" in same.stdout
    assert (RobustnessCurve.load(tmp_path / "same.json").accuracies == curve.accuracies).all()
    done("sweep", run, *FEW, "--seed", "1", "--out", tmp_path / "other.json")
    assert (RobustnessCurve.load(tmp_path / "other.json").accuracies != curve.accuracies).any()


def test_sweep_on_hardware(run, tmp_path):
    options = ["--test-subset", "200", "--calibration", "200", "--sigmas", "logspace(-2,2,5)", "--repeats", "1", *FAST]
    done("sweep", run, "--profile", "8bit", *options)
    curve = RobustnessCurve.load(run / "sweep-8bit-noise.output.json")
    assert curve.quantity == "noise.output"
    assert curve.samples == 200
    # 8-bit converters with calibrated ranges cost at most a point: 2 of 200 images.
    done("sweep", run, *options, "--out", tmp_path / "digital.json")
    assert abs(curve.noise_free - RobustnessCurve.load(tmp_path / "digital.json").noise_free) <= 0.01
    assert curve.mean[0] > 0.5 > curve.mean[-1]
    is_picture(run / "sweep-8bit-noise.output.png")
    done("sweep", run, "--profile", "8bit", "--quantity", "activations", "--percentile", "99.9", *options)
    assert RobustnessCurve.load(run / "sweep-8bit-percentile99.9.json").quantity == "activations"


def test_a_curve_s_file_says_how_it_was_measured(run, swept, tmp_path):
    options = ["--test-subset", "50", "--calibration", "100", "--sigmas", "0.1,1", "--repeats", "1", *FAST]
    done("sweep", run, "--profile", "pcm", "--age", "60", "--seed", "3", *options, "--out", tmp_path / "pcm.json")
    digital, chip = (RobustnessCurve.load(path).about for path in (swept, tmp_path / "pcm.json"))
    assert (digital["network"], digital["seed"], digital["batch_norm"]) == ("models.lenet:LeNet5", 0, "as trained")
    assert "profile" not in digital
    assert HardwareProfile(**chip["profile"]) == HardwareProfile.load("pcm")
    assert (chip["age"], chip["calibration"], chip["ranges"], chip["seed"]) == (60, 100, "maximum", 3)
    checksum = f"{zlib.crc32((run / 'model.safetensors').read_bytes()):08x}"
    assert chip["weights_crc32"] == digital["weights_crc32"] == checksum
    assert (chip["data"], digital["device"]) == ("digits, 1433 + 50 images", "cpu")
    assert digital["versions"]["torch"] == importlib.metadata.version("torch")


def test_sweep_on_an_aged_chip(run, tmp_path):
    options = ["--test-subset", "200", "--calibration", "200", "--sigmas", "0.01,100", "--repeats", "1", *FAST]
    options += ["--metric", "perplexity"]  # of the same accuracy two chips may be by chance
    curves = []
    for name, age in (("fresh", "0"), ("again", "0"), ("aged", "1e9")):
        done("sweep", run, "--profile", "pcm", "--age", age, *options, "--out", tmp_path / f"{name}.json")
        curves.append(RobustnessCurve.load(tmp_path / f"{name}.json").noise_free)
    assert 1 < curves[0] == curves[1] < 4
    assert curves[2] != curves[0]


def test_sweep_refuses(run, tmp_path):
    assert "no such file" in refused("sweep", tmp_path / "nothing.safetensors")
    assert "no such file" in refused("sweep", tmp_path)
    pickle = tmp_path / "pickle.safetensors"
    torch.save({"a": torch.ones(1)}, pickle)
    assert "damaged" in refused("sweep", pickle)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    assert "does not say which network" in refused("sweep", foreign)
    assert "no profile '9bit'" in refused("sweep", run, "--profile", "9bit")
    assert "do not fit VGG11" in refused("sweep", run, "--model", "models.vgg:VGG11")
    for wrong in (["--sigmas", "1;2"], ["--quantity", "noise.output"], ["--out", tmp_path / "a.txt"], ["--repeats", 0]):
        assert call("sweep", run, *wrong).exit_code == 2


def test_a_file_cannot_have_functions_called(run, tmp_path):
    about = json.loads((run / "run.json").read_text()) | {"model": "os:system", "args": {"command": "touch called"}}
    del about["crc32"]
    evil = tmp_path / "evil.safetensors"
    save_file({"a": torch.ones(1)}, evil, metadata={"analogsim": json.dumps(about)})
    assert "was not called" in refused("sweep", evil)
    assert not Path("called").exists()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("logspace(-2,2,17)", np.logspace(-2, 2, 17)),
        ("linspace(0.1, 1, 10)", np.linspace(0.1, 1, 10)),
        ("geomspace(0.01,100,5)", np.geomspace(0.01, 100, 5)),
        ("0.1,0.3, 1e1", [0.1, 0.3, 10]),
    ],
)
def test_sigma_grid(text, values):
    assert sigma_grid(text) == pytest.approx(np.array(values))


@pytest.mark.parametrize(
    "text", ["", "nan", "-1,2", "logspace(1,2)", "logspace(0,400,3)", "range(3)", "linspace(1,2,0)"]
)
def test_impossible_sigma_grids(text, run):
    result = call("sweep", run, "--sigmas", text)
    assert result.exit_code == 2
    assert "logspace(-2,2,17)" in " ".join(result.output.split())


# Plotting


def test_plot_one_picture_and_one_table(swept, tmp_path):
    curve = RobustnessCurve.load(swept)
    weak = tmp_path / "weak"
    weak.mkdir()
    shifted = RobustnessCurve(curve.sigmas / 4, curve.accuracies, curve.noise_free, curve.chance, samples=curve.samples)
    shifted.save(weak / "sweep.json")
    result = done("plot", swept.parent, weak, "--baseline", swept, "--out", tmp_path / "new" / "two.png")
    is_picture(tmp_path / "new" / "two.png")
    rows = {line.split()[0]: line for line in result.stdout.splitlines()[2:]}
    assert set(rows) == {"plain", "weak"}
    assert "brittle" in rows["weak"]
    assert "brittle" not in rows["plain"]


def test_plot_formats_and_labels(swept, tmp_path):
    text = done("plot", swept, swept, "--label", "first", "--label", "second", "--out", tmp_path / "a.svg").stdout
    assert "first" in text
    assert "second" in text
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    done("plot", swept, "--out", tmp_path / "a.pdf", "--title", "Title")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.glob("*.part"))
    assert call("plot", swept, "--out", tmp_path / "a.bmp").exit_code == 2
    assert call("plot", swept, "--label", "a", "--label", "b").exit_code == 2


def test_plot_refuses(swept, tmp_path):
    foreign = tmp_path / "foreign.json"
    foreign.write_text("{}")
    assert "no robustness curve" in refused("plot", foreign)
    assert "holds no sweep.json" in refused("plot", tmp_path)
    assert "no such file" in refused("plot", tmp_path / "nothing.json")
    curve = RobustnessCurve.load(swept)
    other = RobustnessCurve(curve.sigmas, curve.accuracies, curve.noise_free, curve.chance, "weights")
    other.save(tmp_path / "weight.json")
    assert "no axis in common" in refused("plot", swept, tmp_path / "weight.json", "--out", tmp_path / "a.png")


def test_a_curve_without_a_fit_is_shown_as_such(swept, tmp_path):
    done("sweep", swept.parent, "--sigmas", "0.1,1", "--repeats", "1", *FAST, "--out", tmp_path / "two.json")
    assert "no fit" in done("plot", tmp_path / "two.json", "--out", tmp_path / "drawn.png").stdout
    assert "no fit" in done("plot", tmp_path / "two.json", swept, "--baseline", swept).stdout


def test_output_is_the_same_wherever_it_goes(swept):
    # Piped, a table is neither cut nor coloured.
    out = subprocess.run(
        [sys.executable, "-m", "analogsim", "plot", str(swept)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "COLUMNS"},
    )
    assert "…" not in out.stdout
    assert "\x1b" not in out.stdout
