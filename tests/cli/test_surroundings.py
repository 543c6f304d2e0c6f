"""The program wherever it is started: streams that are closed, full or of another encoding, signals at every stage,
text that is none. It ends with an exit code and at most one line, and never with a traceback.
"""

import codecs
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from random import Random

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from analogsim.cli import app
from analogsim.cli.base import LARGEST, Command
from analogsim.cli.streams import SIGNS
from analogsim.robustness.curve import RobustnessCurve
from analogsim.terminal.progress import Terminal
from analogsim.terminal.text import is_text, label, printable, text
from tests.support.shell import ROOT, call, done

# The package without its __init__, which takes seconds to import torch.
LIGHT = """
import os, sys, types
sys.modules["analogsim"] = package = types.ModuleType("analogsim")
package.__path__ = ["analogsim"]
package = types.ModuleType("analogsim.cli")
package.__path__ = ["analogsim/cli"]
sys.modules["analogsim.cli"] = package
from analogsim.cli.streams import ReaderGone, safe
"""
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "C": {"LC_ALL": "C", **PLAIN},
    "POSIX": {"LC_ALL": "POSIX", **PLAIN},
}
slow = partial(pytest.param, marks=pytest.mark.slow)
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def child(code, **options):
    """Run code beside `streams` in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-c", LIGHT + code], cwd=ROOT, check=False, timeout=60, **options)


def program(*args, shell="", **env):
    """Run the program in a process of its own; `shell` is what a shell does with its streams."""
    words = " ".join(map(repr, [sys.executable, "-m", "analogsim", *map(str, args)]))
    command = ["bash", "-c", f"{words} {shell}"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, check=False, timeout=300, text=True
    )


# Streams


@pytest.mark.parametrize("locale", LOCALES)
def test_every_sign_is_shown_somehow_in_every_encoding(locale):
    code = f"""
text = {ascii("".join(SIGNS) + "é漢😀")} + chr(0xdcff) + chr(0xd800)
with safe():
    print(text)
    print(text, file=sys.stderr)
"""
    result = child(code, env=os.environ | LOCALES[locale])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == result.stderr.strip()
    encoding = LOCALES[locale].get("PYTHONIOENCODING", "ascii")
    shown = result.stdout.decode(encoding)
    assert r"\xff\ud800" in shown
    assert ("σ" if encoding == "utf-8" else "sigma") in shown
    assert "?" not in shown.replace("?", "", 1)  # at most that of the sign that stands for what is none


def test_a_fallback_is_of_ascii():
    for sign, other in SIGNS.items():
        assert not sign.isascii()
        assert other.isascii()
    assert codecs.lookup("ascii")


@pytest.mark.parametrize("target", ["full", "closed"])
def test_output_that_goes_nowhere_is_an_error_that_says_so(target):
    code = """
try:
    with safe():
        print("result")
        sys.stdout.flush()
except OSError as error:
    os.write(2, f"{error.filename}: {error.strerror}".encode())
"""
    if target == "full":
        with open("/dev/full", "w") as full:
            result = child(code, stdout=full)
        assert result.stderr == b"standard output: No space left on device"
    else:
        result = child(code, stdout=None, preexec_fn=lambda: os.close(1))
        assert result.stderr == b"standard output: Bad file descriptor"


@pytest.mark.parametrize("target", ["full", "closed"])
def test_what_is_said_to_nobody_ends_nothing(target):
    code = """
with safe():
    for _ in range(1000):
        print("a word" * 100, file=sys.stderr)
    print("done")
"""
    if target == "full":
        with open("/dev/full", "w") as full:
            result = child(code, stderr=full)
    else:
        result = child(code, stderr=None, preexec_fn=lambda: os.close(2))
    assert (result.returncode, result.stdout) == (0, b"done\n")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    code = f"""
with safe():
    file = open({str(tmp_path / "result")!r}, "w")
    os.write(1, b"what a library prints")
    assert file.fileno() > 2
"""
    result = child(code, stdout=None, preexec_fn=lambda: (os.close(0), os.close(1)))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "result").read_text() == ""


def test_a_pipe_that_somebody_made_non_blocking_gets_everything():
    code = "with safe(): print('x' * 1_000_000)"
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = subprocess.Popen([sys.executable, "-c", LIGHT + code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    time.sleep(0.3)  # until it is full; whether it ever was decides nothing
    with open(read, "rb") as pipe:
        assert len(pipe.read()) == 1_000_001
    assert process.communicate()[1] == b""
    assert process.returncode == 0


def test_a_reader_that_is_gone_is_neither_error_nor_word():
    code = """
try:
    with safe():
        print("x")
        sys.stdout.flush()
except ReaderGone:
    sys.exit(141)
"""
    read, write = os.pipe()
    os.close(read)
    result = child(code, stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("args", "shell", "env", "code", "said"),
    [
        (["sweep", "--help"], "", LOCALES["C"], 0, ""),
        (["profile", "schema"], ">/dev/full", {}, 1, "error: standard output: No space left on device\n"),
        slow(["profile", "list"], ">&-", {}, 1, "error: standard output: Bad file descriptor\n"),
        slow(["profile", "show", "nosuch"], ">&- 2>&-", {}, 1, ""),
        slow(["profile", "validate", "8bit"], "| true; exit ${PIPESTATUS[0]}", {}, 141, ""),
    ],
    ids=["C", "full", "closed", "both closed", "gone"],
)
def test_the_program_with_such_streams(args, shell, env, code, said):
    result = program(*args, shell=shell, **env)
    assert (result.returncode, result.stderr) == (code, said)


# Signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_program_is_imported(number):
    command = [sys.executable, "-X", "importtime", "-m", "analogsim", "info"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),  # under nohup SIGHUP is ignored, rightly
    )
    for line in process.stderr:
        if "analogsim.terminal.stop" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    out, errors = process.communicate(timeout=120)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert len(said) == 1, said
    assert process.returncode == 128 + number
    assert out == ""


@pytest.mark.parametrize("number", [slow(number) for number in SIGNALS])
def test_a_signal_while_a_network_is_trained(number, tmp_path):
    args = ["train", "models.lenet:LeNet5", "digits", "--train-subset", 64, "--test-subset", 64, "--threads", 1]
    command = [sys.executable, "-m", "analogsim", *map(str, args), "--epochs", "100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    history = tmp_path / "run" / "history.jsonl"
    while not history.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    (line,) = errors.splitlines()
    assert line.endswith(f"the same command goes on from there ({tmp_path / 'run'})")
    assert ("interrupted" if number == signal.SIGINT else number.name) in line
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json",
        "lock",
        "history.jsonl",
        "checkpoint.pt",
    }


STOPS = """
import signal, time
from analogsim.terminal.stop import Stopped, raised
"""


def test_a_stop_is_not_lost_in_what_a_library_makes_of_it():
    code = (
        STOPS
        + """
with raised() as stops:
    try:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("a library's") from error
    except ImportError:
        pass
assert stops.received.code == 143 and str(stops.received) == "ended by SIGTERM"
class Owner:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
with raised():
    Owner()
"""
    )
    result = child(code)
    assert (result.returncode, result.stderr) == (143, b"ended by SIGTERM\n")


def test_who_asks_twice_is_not_kept_waiting():
    code = (
        STOPS
        + """
with raised():
    try:
        signal.raise_signal(signal.SIGINT)
    except Stopped:
        signal.raise_signal(signal.SIGINT)
"""
    )
    result = child(code)
    assert (result.returncode, result.stderr) == (130, b"interrupted\n")


def test_what_nohup_has_ignored_stays_ignored_and_handlers_are_given_back():
    code = (
        STOPS
        + """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
with raised() as stops:
    signal.raise_signal(signal.SIGHUP)
assert stops.received is None
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
"""
    )
    result = child(code)
    assert (result.returncode, result.stderr) == (0, b"")


def test_importing_the_library_changes_no_signal():
    code = """
import signal
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
sys.argv = ["analogsim-of-mine.py"]
import analogsim.terminal.stop
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
"""
    assert child(code).returncode == 0


TASKS = """
import sys, time
from pathlib import Path
from random import Random
from analogsim.study.engine_local import _Worker
print("imported", flush=True)
workers = [_Worker() for _ in range(2)]
print(*(worker.process.pid for worker in workers), flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    for worker in workers:
        worker.end()
    sys.exit(130)
"""


def test_ctrl_c_while_workers_start_is_the_parents_alone():
    process = subprocess.Popen(
        [sys.executable, "-c", TASKS],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == "imported\n"
    for number in process.stdout.readline().split():
        while "torch" not in Path(f"/proc/{number}/maps").read_text():  # being imported, which takes longer
            time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")


# Neighbours

FLEETING = """
import os, torch
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = torch.nn.Linear(1024, classes)
    def forward(self, x):
        if "GONE" in os.environ and os.path.exists(os.environ["GONE"]):
            os.unlink(os.environ["GONE"])
        return self.layer(x.flatten(1))
"""


def test_a_curve_is_of_the_weights_that_were_loaded_whatever_becomes_of_their_file(tmp_path, monkeypatch):
    (tmp_path / "fleeting.py").write_text(FLEETING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done("train", "fleeting:Net", "digits", "--epochs", 1, "--train-subset", 64, "--out", "run")
    weights = tmp_path / "run" / "model.safetensors"
    assert weights.stat().st_mode & 0o777 == (tmp_path / "run" / "run.json").stat().st_mode & 0o777
    known = f"{zlib.crc32(weights.read_bytes()):08x}"
    monkeypatch.setenv("GONE", str(weights))  # as `train --fresh` removes it
    done("sweep", "run", "--sigmas", "0.1,1,10", "--repeats", 1, "--test-subset", 64)
    assert not weights.exists()
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())["about"]["weights_crc32"] == known


# Arguments


def commands(command=None, path=()):
    """Yield every command of the program with its words."""
    command = command or typer.main.get_command(app)
    if subcommands := getattr(command, "commands", None):
        for name, inner in subcommands.items():
            yield from commands(inner, (*path, name))
    else:
        yield path, command


def test_every_command_checks_its_values():
    found = list(commands())
    assert len(found) > 12
    assert all(isinstance(command, Command) for _, command in found)


@pytest.mark.parametrize(
    "args",
    [
        ["train", "a:b", "digits", "--seed", LARGEST + 1],
        ["train", "a:b", "digits", "--lr", "nan"],
        ["train", "a:b", "digits", "--sigma", "inf"],
        ["train", "a:b", "npz:caf\udce9.npz"],
        ["train", "a:b", "digits", "--arg", "name=\udcff"],
        ["train", "a:b", "digits", "--threads", 2**31],
        ["sweep", "x", "--age", "nan"],
        ["sweep", "x", "--repeats", 10**400],
        ["bench", "--threads", f"1,{2**31}"],
        ["bench", "--threads", "1" * 5000],
        ["study", "run", "x", "--group", "9" * 5000],
        ["plot", "x", "--title", "\udcff"],
    ],
)
def test_values_that_no_machine_has_are_wrong_usage(args):
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert "Usage" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["sweep", "\udcff"],
        ["sweep", "x" * 5000],
        ["plot", "/proc/1/cwd/x/" + "y" * 300],
        ["study", "status", "x" * 300],
        ["profile", "show", "x" * 300],
        ["profile", "validate", "/dev/null/x"],
        ["train", "models.lenet:LeNet5", "npz:" + "x" * 300],
        ["train", "models.lenet:LeNet5", "npz:~nobody-of-that-name/x"],
    ],
)
def test_names_that_no_file_has_are_an_error_in_a_line(args):
    result = call(*args)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "not foreseen" not in line


# Text

anything = st.text(st.characters(), max_size=30) | st.text("\x1b[]()$_\\^:{}31m\n\r\x9b\udcff\ud800", max_size=30)


@given(anything)
def test_text_neither_moves_a_cursor_nor_breaks_a_file(value):
    shown = printable(value)
    assert not set(shown) & set(map(chr, (*range(9), *range(11, 32), 127, *range(128, 160))))
    shown.encode()
    text(value).encode()
    assert is_text(text(value))
    assert text(value) == value or not is_text(value)


@given(anything)
def test_a_console_shows_what_it_is_given(value):
    console = Terminal(width=1000, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(value, markup=False, end="")
    shown = capture.get()
    assert "\x1b" not in shown
    assert shown.split() == printable(value).split() or "\t" in value


def test_a_console_knows_no_names_of_emoji():
    console = Terminal(width=100)
    with console.capture() as capture:
        console.print("a:x:b :warning:")
    assert capture.get() == "a:x:b :warning:\n"


@given(anything)
def test_a_label_is_no_mathematics(value):
    from matplotlib.cbook import is_math_text

    assert not is_math_text(label(value))
    assert not label(value).startswith("_")


# Random command lines


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Names of files and folders, of which few are what a command wants."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "garbage.json").write_bytes(bytes(range(256)))
    (folder / "empty.yaml").write_text("")
    (folder / "list.yaml").write_text("[1, 2, {a: b}]")
    (folder / "study.yaml").write_text("name: x\ndata: digits\nmodels: {a: b}\nmethods: []\n")
    (folder / "model.safetensors").write_text("{}")
    (folder / "loop").symlink_to("loop")
    (folder / "images.npz").write_bytes(b"PK\x03\x04")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.png")
    curve = RobustnessCurve([0.1, 1.0, 10.0], [[0.9], [0.5], [0.1]], 0.9, 0.1)
    curve.save(folder / "$\\frac$_\x1b[31m.json")
    curve.save(folder / "sweep.json")
    names = [str(path) for path in folder.iterdir()]
    return [
        *names,
        str(folder),
        f"{folder}/no/such",
        "x" * 300,
        "",
        "/dev/null",
        "/proc/self/mem",
        "\udcff",
        "-",
        "~nobody/x",
    ]


NUMBERS = "0 1 -1 0.5 1e400 nan inf -inf 9223372036854775808 2147483648 1_000 ٣ 0x10 1e-400 True".split() + ["9" * 5000]
WORDS = [
    "",
    " ",
    "auto",
    "cpu",
    "cuda:99",
    "meta",
    "µσ漢",
    "\x1b[31m",
    "[bold]",
    "$\\frac$",
    ":",
    "a:b",
    "a=b",
    "=",
    "adc.bits=4-",
    "logspace(-2,2,0)",
    "linspace(1,2)",
    "0.1,,x",
    "npz:",
    "npz:~nobody/x",
    "folder:/proc",
    "cifar10:",
    "8bit",
    "..",
    "\udcff",
]


def some_command_line(random, places):
    """Return random words that are nearly a command; no training among them, which would take its time."""
    words, command = random.choice(
        [found for found in commands() if found[0] not in (("info",), ("profile", "schema"))]
    )
    line = ["--debug"] * (random.random() < 0.02) + list(words)

    def value(param):
        kind = random.random()
        if kind < 0.4:
            return random.choice(NUMBERS)
        if kind < 0.7:
            return random.choice(WORDS)
        return random.choice(["npz:", "", "", ""]) + random.choice(places)

    for param in command.params:
        if param.param_type_name == "argument":
            line += [value(param) for _ in range(random.choice([0, 1, 1, 1, 1, 2]))]
        elif random.random() < 0.25:
            option = random.choice(param.opts)
            if option in ("--help", "-h", "--ranges") or words == ("bench",):
                continue
            line += [option] if getattr(param, "is_flag", False) else [option, value(param)]
    if words == ("bench",):
        line += ["--threads", random.choice(["0", "x", "", "99999", "1,x"])]
    if random.random() < 0.05:
        line.append(random.choice(WORDS))
    return line


@pytest.mark.parametrize("seed", [slow(seed) for seed in range(8)])
def test_no_command_line_gives_a_traceback(seed, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random, wrong = Random(seed), []
    for _ in range(100):
        line = [word for word in some_command_line(random, places) if "\0" not in word]
        result = call(*line)
        said = result.stderr.splitlines()
        fine = {0: True, 1: {word[:7] for word in said} == {"error: "}, 2: "Traceback" not in result.stderr}
        if "--debug" not in line and (not fine.get(result.exit_code) or "not foreseen" in result.stderr):
            wrong.append((line, result.exit_code, said[-3:], result.exception))
    assert not wrong, "\n".join(map(str, wrong))
