"""The program where it is not at home: another user without a HOME, a small disk, narrow terminals without colour."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.shell import ROOT, call, done, start

pytestmark = pytest.mark.slow  # most of these are processes that import torch

ROOTED = os.name == "posix" and os.geteuid() == 0
TRAIN = ("train", "models.lenet:LeNet5", "digits", "--batch-size", "32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that is trained and swept."""
    folder = tmp_path_factory.mktemp("machines") / "run"
    done(*TRAIN, "--epochs", "1", "--out", folder)
    done("sweep", folder, "--sigmas", "0.1,1", "--repeats", "2")
    return folder


def one_line(text):
    """Whether a text is a single error, and no traceback."""
    return text.startswith("error: ") and text.count("\n") == 1


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, setpriv"
)
def test_another_user_without_a_home_computes_the_same(run):
    """Nobody, whose HOME is not there, in folders that are not theirs: the same to the digit."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    env = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | {"HOME": "/nonexistent"}
    readable = subprocess.run([*nobody, sys.executable, "-c", "import torch"], cwd=ROOT, env=env, capture_output=True)
    if readable.returncode:
        pytest.skip("this installation is not readable for others")
    with tempfile.TemporaryDirectory() as theirs, tempfile.TemporaryDirectory() as ours:
        # Not in pytest's own folders, which it closes to others whenever it is started.
        Path(ours).chmod(0o755)
        copied = shutil.copytree(run, Path(ours) / "run")
        os.chown(theirs, 65534, 65534)
        command = [sys.executable, "-m", "analogsim", "sweep", str(copied), "--sigmas", "0.1,1", "--repeats", "2"]
        result = subprocess.run(
            [*nobody, *command, "--out", f"{theirs}/curve.json"], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        assert (Path(theirs) / "curve.json").stat().st_uid == 65534
    assert (
        call("sweep", run, "--sigmas", "0.1,1", "--repeats", "2", "--out", run / "again.json").stdout == result.stdout
    )


@pytest.mark.skipif(not ROOTED, reason="needs root, to mount a small disk")
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_half_written(run, tmp_path):
    """The weights, 180 kB, do not fit on 100 kB; what is there of the folder can still be read, or is not there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        process = start(*TRAIN, "--epochs", "1", "--out", disk / "run")
        _, error = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "cannot be written" in error
        assert one_line("error: " + error.rpartition("error: ")[2])
        assert "Traceback" not in error
        # Nothing that looks whole: the same command on a larger disk trains from the start.
        assert not (disk / "run" / "model.safetensors").exists()
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("columns", [40, 80])
def test_tables_stay_within_a_narrow_terminal(run, columns):
    """On a terminal of its own; no colour where NO_COLOR asks for none, in which case nothing but text is written."""
    for command in (["plot", run], ["cost", run, "--profile", "8bit"], ["profile", "list"]):
        text = on_a_terminal([*map(str, command)], columns, NO_COLOR="1")
        assert "Traceback" not in text
        assert not re.search("\x1b\\[[34][0-9]", text), "a colour"
        assert max(map(len, re.sub("\x1b\\[[0-9;]*m", "", text).splitlines())) <= columns, text


def on_a_terminal(args, columns, **env):
    """Return what the program writes on a terminal of so many columns."""
    import fcntl
    import struct
    import termios

    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "analogsim", *args],
        cwd=ROOT,
        env=kept | {"TERM": "xterm-256color"} | env,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    parts = []
    while True:
        try:
            part = os.read(outer, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(outer)
    assert process.wait(60) == 0, b"".join(parts)
    return b"".join(parts).decode()


@pytest.mark.parametrize("backend", ["nosuch", "TkAgg", "module://nosuch"])
def test_pictures_are_drawn_whatever_backend_is_asked_for(run, tmp_path, backend):
    process = start("plot", run, "--out", tmp_path / "a.png", env=os.environ | {"MPLBACKEND": backend})
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["sweep", "budget"])
def test_signals_end_long_work_with_a_word_and_leave_no_file(run, tmp_path, command, number):
    out = tmp_path / "result.json"
    more = {"sweep": ["--repeats", "2000"], "budget": ["--profile", "noisy", "--repeats", "5000"]}[command]
    process = start(command, run, *more, "--out", out)
    time.sleep(12)  # it is at work by then, or still importing: either way it ends so
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in error
    assert {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}[number] in error
    assert not list(tmp_path.iterdir())
