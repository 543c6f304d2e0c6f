"""docs/your_chip.md: whoever follows it has a chip, and the layer on it is what the three files say."""

import csv
import io
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.nn import AnalogLinear
from analogsim.seeds import Stream
from tests.support.chips import drawn

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_chip.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:`(\w+\.(?:csv|yaml))`(?:(?!```).)*?)?```(\w+)\n(.+?)```", PAGE, re.DOTALL)
FILES = {name: text for name, kind, text in BLOCKS if kind in ("csv", "yaml")}
SHELL = [line for _, kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
(PYTHON,) = [text for _, kind, text in BLOCKS if kind == "python"]


@pytest.fixture
def chip(tmp_path, monkeypatch):
    """The folder of whoever followed the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_three_files_a_profile_a_command_and_a_program():
    assert list(FILES) == ["programming.csv", "drift.csv", "adc.csv", "chip.yaml"]
    assert SHELL == ["analogsim profile validate chip.yaml --plot chip.png"]


def test_what_the_page_says_works_by_itself(chip):
    """In processes of their own, in a folder that has nothing else."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(chip), "PATH": "/usr/bin:/bin"}
    for line in SHELL:
        command = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(command, env=environment, cwd=chip, capture_output=True, text=True, timeout=300)
        assert not done.returncode, done.stderr
        assert "valid" in done.stdout
    assert (chip / "chip.png").read_bytes().startswith(b"\x89PNG")
    program = [sys.executable, "-c", PYTHON]
    done = subprocess.run(program, env=environment, cwd=chip, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    errors = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(errors) == 3
    assert 0 < errors[0] < errors[2] < 1


# --- the oracle: reads the files by itself, and knows nothing of analogsim but the normals that were drawn -----------


def read(name):
    lines = [line for line in FILES[name].splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def line(x, points, values):
    """Straight lines between points, the end's value beyond an end."""
    if x <= points[0]:
        return values[0]
    for a, b, u, v in zip(points, points[1:], values, values[1:]):
        if x <= b:
            return u + (v - u) * (x - a) / (b - a)
    return values[-1]


def cell(target, normal, hours):
    """The conductance of a cell in µS, so many hours after it was programmed to a target in µS."""
    table, drift = read("programming.csv"), read("drift.csv")
    mean, sigma = (line(target, table["g_uS"], table[name]) for name in ("mean_uS", "sigma_uS"))
    g = max(target + mean + sigma * normal, 0.0)
    starts, times = sorted(set(drift["g0_uS"])), sorted(set(drift["t_h"]))
    at = {(a, t): g for a, t, g in zip(drift["g0_uS"], drift["t_h"], drift["g_uS"])}
    logs = [math.log(t) for t in times]
    changes = [line(math.log(hours), logs, [at[a, t] for t in times]) - a for a in starts]
    return max(g + line(g, starts, changes), 0.0)


def converted(total, full_scale, output):
    """What the ADC of an output makes of a sum."""
    table, step = read("adc.csv"), full_scale / 7
    total = min(max(total, -full_scale), full_scale)
    edges = [code - 0.5 + inl for code, inl in zip(table["code"], table[f"inl_{output % 2 + 1}_LSB"])]
    code = max([-8, *(code for code, edge in zip(table["code"], edges) if total >= edge * step)])
    return max(code, -7) * step


@pytest.mark.parametrize("hours", [1.0, 5.0, 24.0, 720.0])
def test_the_layer_is_what_the_files_say(chip, hours):
    profile = an.HardwareProfile.load("chip.yaml").varied(dac={"bits": None}, tile={"rows": 8})
    layer = AnalogLinear(19, 5, bias=False, profile=profile, dtype=torch.float64).eval()
    torch.nn.init.uniform_(layer.weight, -1, 1, generator=torch.Generator().manual_seed(3))
    x = torch.rand(12, 19, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2 - 1
    an.calibrate(layer, x, progress=False)
    an.program(layer, 7)
    an.at_time(layer, 3600 * (hours - 1))
    got = layer(x).detach().numpy()

    w, seed = layer.weight.detach().numpy(), int(layer.chip_seed)
    w_max = np.abs(w).max(1, keepdims=True)
    held = np.zeros_like(w)
    for array, sign in enumerate((1, -1)):
        normals = drawn(w.shape, seed, Stream.PROGRAMMING, array)
        targets = 1 + 39 * np.maximum(sign * w / w_max, 0)  # µS
        for index in np.ndindex(w.shape):
            held[index] += sign * cell(targets[index], normals[index], hours) / 39
    alpha, full_scale = float(layer.input_range), float(layer.adc_full_scale)
    want = np.zeros((12, 5))
    for i, j in np.ndindex(12, 5):
        for tile in (slice(0, 8), slice(8, 16), slice(16, 19)):
            total = float(x[i, tile].numpy() / alpha @ held[j, tile])
            want[i, j] += alpha * w_max[j, 0] * converted(total, full_scale, j)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
