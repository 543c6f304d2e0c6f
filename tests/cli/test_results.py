"""What all commands share: forms of the result, files that are not written over, how much is said."""

import csv
import io
import json

import pandas as pd
import pytest
import typer

import analogsim as an
from analogsim.cli import app
from analogsim.cli.output import file_name
from analogsim.robustness.curve import RobustnessCurve
from tests.support.shell import call, done

TINY = ["--epochs", "2", "--lr", "0.003", "--batch-size", "32", "--threads", "1", "--device", "cpu"]
FAST = ["--threads", 1, "--test-subset", 60]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    done("train", "models.lenet:LeNet5", "digits", *TINY, "--out", folder)
    return folder


def commands(run, tmp_path):
    """Every command that prints a result, with what makes it quick."""
    sweep = tmp_path / "curve.json"
    return {
        "sweep": ["sweep", run, "--sigmas", "0.1,1,2,4", "--repeats", 1, *FAST, "--out", sweep],
        "plot": ["plot", sweep],
        "evaluate": ["evaluate", run, "--profile", "pcm", "--chips", 2, *FAST, "--out", tmp_path / "evaluation"],
        "compare": ["compare", run, "--profile", "8bit", "--profile", "pcm", *FAST, "--out", tmp_path / "comparison"],
        "budget": ["budget", run, "--profile", "8bit", "--images", 20, "--out", tmp_path / "budget"],
        "cost": ["cost", run, "--profile", "hermes", "--out", tmp_path / "cost"],
        "summary": ["summary", run, "--profile", "pcm", "--out", tmp_path / "summary"],
        "sensitivity": ["sensitivity", run, "--profile", "8bit", "--chips", 1, *FAST, "--out", tmp_path / "layers"],
        "hardware-sweep": ["hardware-sweep", run, "--vary", "adc.bits=3,8", *FAST, "--out", tmp_path / "bits"],
    }


def test_every_result_comes_in_every_form_and_fits_narrow_screens(run, tmp_path):
    for name, command in commands(run, tmp_path).items():
        records = json.loads(done(*command, "--format", "json").stdout)
        assert records, name
        rows = list(csv.DictReader(io.StringIO(done(*command, "--format", "csv").stdout)))
        assert [list(row) for row in rows] == [list(record) for record in records], name
        assert set(done(*command, "--format", "markdown").stdout.splitlines()[1]) == set("|-: "), name
        assert done(*command, "--format", "latex").stdout.startswith(r"\begin{tabular}"), name
        for width in (80, 40):
            lines = done(*command, columns=width).stdout.splitlines()
            assert max(map(len, lines)) <= width, (name, width)
    wrong = call("cost", run, "--profile", "8bit", "--format", "xml")
    assert wrong.exit_code == 2
    assert "markdown" in wrong.output


def test_results_are_files_that_python_reads(run, tmp_path):
    every = commands(run, tmp_path)
    kinds = {
        "evaluate": ("evaluation", an.Evaluation),
        "compare": ("comparison", an.Comparison),
        "budget": ("budget", an.NoiseBudget),
        "cost": ("cost", an.NetworkCost),
        "summary": ("summary", an.Summary),
    }
    for name, (stem, kind) in kinds.items():
        said = done(*every[name]).stderr
        found = kind.load(tmp_path / f"{stem}.json")
        for suffix in (".json", ".csv", ".png"):
            assert f"{stem}{suffix}" in said
            assert (tmp_path / f"{stem}{suffix}").stat().st_size
        assert list(pd.read_csv(tmp_path / f"{stem}.csv")) == list(found.to_frame())
        modes = {(tmp_path / f"{stem}{suffix}").stat().st_mode for suffix in (".json", ".csv", ".png")}
        assert len(modes) == 1, "one may be read by whom the others may"


def test_nothing_is_written_over_what_was_asked_otherwise(run):
    ask = ["evaluate", run, "--profile", "pcm", *FAST]
    done(*ask)
    first = (run / "evaluation-pcm.json").read_bytes()
    done(*ask)
    assert (run / "evaluation-pcm.json").read_bytes() == first, "the same question has the same answer"
    for more, name in (
        (["--age", "1d"], "evaluation-pcm-1d"),
        (["--ranges", "mse"], "evaluation-pcm-mse"),
        (["--profile", "8bit"], "evaluation-8bit"),
    ):
        assert f"{name}.json" in done(*ask, *more).stderr
    refused = call(*ask, "--chips", 2)
    assert refused.exit_code == 1
    said = " ".join(refused.stderr.split())
    assert "holds what was measured with chips its default (now 2)" in said
    assert "--force" in said
    assert (run / "evaluation-pcm.json").read_bytes() == first
    done(*ask, "--chips", 2, "--force")
    assert len(an.Evaluation.load(run / "evaluation-pcm.json").values[0]) == 2
    other = call("budget", run, "--profile", "pcm", "--images", 20, "--out", run / "run.json")
    assert other.exit_code == 1
    assert json.loads((run / "run.json").read_text())["model"] == "models.lenet:LeNet5"


def test_nothing_is_written_over_another_run_s_result_or_another_command_s(run, tmp_path):
    """A file that is named says neither by its place nor by its name whose it is."""
    named, other = tmp_path / "found.json", tmp_path / "other"
    done("train", "models.lenet:LeNet5", "digits", *TINY, "--out", other)
    ask = "--profile", "8bit", "--out", named
    done("evaluate", run, *ask, *FAST)
    before = named.read_bytes()
    done("evaluate", run, *ask, *FAST)
    for command, what in (
        (["evaluate", other, *ask, *FAST], f"run {run} (now {other})"),
        (["evaluate", run, *ask, *FAST, "--chips", 2], "chips its default (now 2)"),
        (["summary", run, *ask], "command evaluate (now summary)"),
    ):
        refused = call(*command)
        assert refused.exit_code == 1
        assert what in " ".join(refused.stderr.split())
        assert named.read_bytes() == before
    table = tmp_path / "measured.csv"
    table.write_text("somebody's own\n")
    refused = call("cost", run, "--profile", "8bit", "--out", table)
    assert refused.exit_code == 1
    assert "of no result" in refused.stderr
    assert table.read_text() == "somebody's own\n"
    done("cost", run, "--profile", "8bit", "--out", table, "--force")
    assert "tiles" in table.read_text()
    moved = run.rename(tmp_path / "moved")
    try:
        done("evaluate", moved, "--profile", "8bit", *FAST)
        moved = moved.rename(tmp_path / "again")
        done("evaluate", moved, "--profile", "8bit", *FAST)
    finally:
        moved.rename(run)


def test_no_file_that_is_there_is_written_over(run, tmp_path):
    curve = tmp_path / "curve.json"
    done("sweep", run, "--sigmas", "0.1,1,4", "--repeats", 1, *FAST, "--out", curve)
    (tmp_path / "chip.json").write_text(json.dumps({"core": {"rows_max": 256}}))
    for name, command in {
        "curves.png": ["plot", curve, "--out"],
        "curves.csv": ["plot", curve, "--table"],
        "device.png": ["profile", "validate", "8bit", "--plot"],
        "schema.json": ["profile", "schema", "--out"],
        "chip.yaml": ["profile", "import", tmp_path / "chip.json", "--out"],
        "kernels.json": ["bench", "--quick", "--threads", 1, "--out"],
    }.items():
        (tmp_path / name).write_text("somebody's own")
        refused = call(*command, tmp_path / name)
        assert refused.exit_code == 1, name
        option = "--plot" if "--plot" in command else "--out"
        said = f"{name}: is there already; give another {option}, or --force"
        assert said in " ".join(refused.stderr.split())
        assert (tmp_path / name).read_text() == "somebody's own"
        if name != "kernels.json":  # which takes long
            done(*command, tmp_path / name, "--force")
            assert (tmp_path / name).read_bytes() != b"somebody's own"


def every_command(command=None, path=()):
    command = command or typer.main.get_command(app)
    for name, one in getattr(command, "commands", {}).items():
        yield from every_command(one, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


def test_help_says_the_default_of_every_option():
    found = dict(every_command())
    assert ("study", "run") in found
    for path, command in found.items():
        for option in command.params:
            if option.param_type_name == "option" and not option.required and option.default in (None, [], ()):
                assert "efault" in option.help or "without one" in option.help, (path, option.opts)


def test_files_are_named_by_what_was_asked():
    assert file_name("sweep") == "sweep"
    assert file_name("sweep", "chips/mine.yaml", [3600.0], "noise.output", None) == "sweep-mine-1h-noise.output"


def test_a_sweep_without_noise_is_the_noise_free_evaluation(run, tmp_path):
    printed = done("sweep", run, "--sigmas", 0, "--repeats", 1, *FAST, "--out", tmp_path / "free.json").stdout
    curve = RobustnessCurve.load(tmp_path / "free.json")
    assert curve.values.tolist() == [[curve.noise_free]]
    assert "no fit" in printed
    assert call("sweep", run, "--sigmas", "0,-1", *FAST).exit_code == 2


def test_costs_of_several_profiles_stand_side_by_side(run):
    records = json.loads(done("cost", run, "--profile", "8bit", "--profile", "hermes", "--format", "json").stdout)
    assert [record["profile"] for record in records] == ["8bit", "hermes"]
    alone = json.loads(done("cost", run, "--profile", "hermes", "--format", "json").stdout)[-1]
    assert records[1] == {"profile": "hermes"} | {key: value for key, value in alone.items() if key != "layer"}
    assert records[0]["energy_pJ"] is None
    text = " ".join(done("cost", run, "--profile", "8bit", "--profile", "hermes").stdout.split())
    assert "8bit: latency unknown, the profile has no cost.dac_latency" in text


def test_how_much_is_said(run, tmp_path):
    ask = ["evaluate", run, "--profile", "8bit", *FAST, "--out", tmp_path / "one.json"]
    quiet = done(*ask, "-q")
    assert quiet.stderr == ""
    assert "accuracy" in quiet.stdout
    for command in (["-v", *ask], [*ask, "--verbose"]):
        told = done(*command).stderr
        assert [word for word in ("loading", "measuring", "written") if word in told] == [
            "loading",
            "measuring",
            "written",
        ]
    assert "loading" not in done(*ask).stderr
    assert done("-V").stdout == done("--version").stdout == f"analogsim {an.__version__}\n"
    bad = call("evaluate", run, "--profile", "nothing", "-q")
    assert "error" in bad.stderr


def test_a_search_that_failed_does_not_block_the_next(run, tmp_path):
    pytest.importorskip("optuna")
    ask = ["search", run, "--trials", 2, "--space", "adc.bits=3,8", "--threads", 1, "--out", tmp_path / "search"]
    failed = call(*ask, "--objective", "energy")
    assert failed.exit_code == 1
    assert "unknown: the profile has no cost.dac_energy" in failed.stderr
    done(*ask)
    assert call(*ask, "--drop", 0.3).exit_code == 1
    assert len(json.loads(done(*ask, "--drop", 0.3, "--force", "--format", "json").stdout)) >= 1
    assert an.DesignSearch.load(tmp_path / "search" / "designs.json").max_drop == 0.3


def test_old_chips_have_larger_budgets_and_designs(run, tmp_path):
    ask = ["budget", run, "--profile", "pcm", "--images", 20, "--repeats", 1, "--threads", 1]
    done(*ask, "--out", tmp_path / "new.json")
    done(*ask, "--age", "1y", "--out", tmp_path / "old.json")
    new, old = (an.NoiseBudget.load(tmp_path / f"{name}.json") for name in ("new", "old"))
    assert all(b.total > a.total for a, b in zip(new.layers, old.layers))
