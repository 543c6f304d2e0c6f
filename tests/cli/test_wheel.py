"""The package as it is installed: the wheel alone, in an empty folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from analogsim.robustness.curve import RobustnessCurve
from tests.support.shell import ROOT, done


@pytest.mark.slow
def test_the_demo_ends_with_both_curves(tmp_path):
    said = done("demo", "--epochs", 2, "--out", tmp_path / "a demo")
    assert said.stderr.count("$ analogsim") == 5
    assert {"plain", "noisy"} <= {line.split()[0] for line in said.stdout.splitlines() if line.strip()}
    for name in ("plain", "noisy"):
        assert len(RobustnessCurve.load(tmp_path / "a demo" / name / "sweep.json").sigmas) == 17
    assert (tmp_path / "a demo" / "robustness.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_wheel_alone_trains_a_network_of_its_own(tmp_path):
    pytest.importorskip("hatchling")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in ("analogsim/py.typed", "analogsim/presets/pcm.yaml", "analogsim/study/report.html"):
        assert wanted in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"analogsim"}
    (tmp_path / "away").mkdir()
    # -S: the checkout is not on the path, as it is where the package is installed in place.
    path = os.pathsep.join([str(tmp_path / "site"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    few = ["--epochs", "1", "--train-subset", "64", "--test-subset", "40", "--threads", "1", "--out", "run"]
    train = [sys.executable, "-S", "-m", "analogsim", "train", "models.lenet:LeNet5", "digits", *few]
    result = subprocess.run(
        train, cwd=tmp_path / "away", env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode in (0, 3), result.stderr
    assert "test accuracy" in result.stdout
    assert (tmp_path / "away" / "run" / "model.safetensors").exists()
