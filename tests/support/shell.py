"""The program as a user runs it: in this process, or in one of its own."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from analogsim.cli import app

ROOT = Path(__file__).parents[2]


def call(*args, columns=160):
    """Run the program in this process, on a terminal of so many columns."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(arg) for arg in args], prog_name="analogsim")


def done(*args, columns=160):
    result = call(*args, columns=columns)
    assert result.exit_code == 0, result.output
    return result


def start(*args, **options):
    """Start the program in a process of its own."""
    command = [sys.executable, "-m", "analogsim", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
