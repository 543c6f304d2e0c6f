"""The command line: `analogsim COMMAND --help` says the rest. Thin: parse, call the library, print."""

from typing import Annotated

import typer

from .base import EXIT_CODES, Group
from .bench import EPILOG as BENCH_EPILOG
from .bench import bench
from .budget import EPILOG as BUDGET_EPILOG
from .budget import budget
from .cost import EPILOG as COST_EPILOG
from .cost import cost
from .info import info
from .plot import EPILOG as PLOT_EPILOG
from .plot import plot
from .profile import app as profile_app
from .search import EPILOG as SEARCH_EPILOG
from .search import search
from .study import app as study_app
from .sweep import EPILOG as SWEEP_EPILOG
from .sweep import sweep
from .train import EPILOG as TRAIN_EPILOG
from .train import train

app = typer.Typer(
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
        from importlib.metadata import version

        typer.echo(f"analogsim {version('analogsim')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error of input.")] = False,
) -> None:
    pass


app.add_typer(profile_app, name="profile")
app.command(epilog="[bold]Example:[/] analogsim info --json | jq .auto")(info)
app.command(epilog=TRAIN_EPILOG)(train)
app.command(epilog=SWEEP_EPILOG)(sweep)
app.command(epilog=PLOT_EPILOG)(plot)
app.command(epilog=BUDGET_EPILOG)(budget)
app.command(epilog=COST_EPILOG)(cost)
app.command(epilog=SEARCH_EPILOG)(search)
app.add_typer(study_app, name="study")
app.command(epilog=BENCH_EPILOG)(bench)
