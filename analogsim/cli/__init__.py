"""The command line: `analogsim COMMAND --help` says the rest. Thin: parse, call the library, print."""

from typing import Annotated

import typer

from .. import __version__
from ..terminal.progress import QUIET
from . import (
    bench,
    budget,
    compare,
    cost,
    demo,
    evaluate,
    hardware_sweep,
    info,
    plot,
    profile,
    search,
    sensitivity,
    study,
    summary,
    sweep,
    train,
)
from .base import EXIT_CODES, VERBOSE, Group, Program

app = Program(
    name="analogsim",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Simulate an analog accelerator: how much noise does a network survive, and how is it trained to survive "
    "more?",
    epilog="[bold]Start with:[/] analogsim train models.lenet:LeNet5 digits --out runs/plain, then "
    f"analogsim sweep runs/plain\n\n{EXIT_CODES}",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"analogsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes: results, warnings and errors.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done, with times.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    QUIET.set(quiet)
    VERBOSE.set(verbose)


app.add_typer(profile.app, name="profile")
app.command(epilog="[bold]Example:[/] analogsim info --format json | jq .auto")(info.info)
app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=sweep.EPILOG)(sweep.sweep)
app.command(epilog=plot.EPILOG)(plot.plot)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=budget.EPILOG)(budget.budget)
app.command(epilog=sensitivity.EPILOG)(sensitivity.sensitivity)
app.command("hardware-sweep", epilog=hardware_sweep.EPILOG)(hardware_sweep.hardware_sweep)
app.command(epilog=cost.EPILOG)(cost.cost)
app.command(epilog=summary.EPILOG)(summary.summary)
app.command(epilog=search.EPILOG)(search.search)
app.add_typer(study.app, name="study")
app.command(epilog=bench.EPILOG)(bench.bench)
