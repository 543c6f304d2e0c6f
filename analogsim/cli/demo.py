"""`analogsim demo`: the shortest way from nothing to µ: two trainings, their sweeps, one picture."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .base import EXIT_CODES, note, plain

EPILOG = (
    "[bold]What it does:[/] it runs five commands, each of which it shows: LeNet-5 is trained on digits (of "
    "scikit-learn) plainly and under noise, the noise is swept over both, and both curves are drawn. It takes two "
    "minutes or so on two cores; started again, it goes on.\n\n"
    "[bold]Example:[/] analogsim demo --out runs/demo\n\n"
    f"{EXIT_CODES}"
)
NETWORK = "train models.lenet:LeNet5 digits --epochs {epochs} --lr 2e-3 --batch-size 32"
COMMANDS = (
    f"{NETWORK} --out {{out}}/plain",
    f"{NETWORK} --sigma 1 --out {{out}}/noisy",
    "sweep {out}/plain",
    "sweep {out}/noisy",
    "plot {out}/plain {out}/noisy --baseline {out}/plain --force --out {out}/robustness.png "
    "--table {out}/robustness.csv",
)


def demo(
    context: typer.Context,
    target: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets the networks, their curves and the picture.")
    ] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Of each training.")] = 20,
) -> None:
    """Train a small network plainly and under noise, sweep the noise over both, and compare."""
    program = context.find_root()
    for command in COMMANDS:
        line = command.format(out=shlex.quote(str(target)), epochs=epochs)
        note(f"[bold]$ analogsim {plain(line)}[/]")
        name, *args = shlex.split(line)
        chosen = program.command.get_command(program, name)  # type: ignore[attr-defined]
        with chosen.make_context(name, args, parent=program) as own:
            chosen.invoke(own)
