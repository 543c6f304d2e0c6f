"""`analogsim profile`: hardware profiles, shipped and from files."""

import json
import sys
from typing import Annotated

import typer
import yaml
from rich.table import Table

from ..errors import ProfileError
from ..profile import HardwareProfile, presets
from .base import EXIT_CODES, USER_ERROR, Program, fail, out, plain

app = Program(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List, show and check hardware profiles (YAML or JSON).",
    epilog="[bold]Example:[/] analogsim profile show 8bit > mine.yaml; edit it; analogsim profile validate mine.yaml",
)


@app.command("list", epilog="[bold]Example:[/] analogsim profile list")
def list_() -> None:
    """Name the shipped profiles, with a line on each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold")
    table.add_column("description")
    for name in presets():
        table.add_row(name, plain(HardwareProfile.load(name).description.split(". ")[0].rstrip(".") + "."))
    out().print(table)


@app.command(epilog="[bold]Examples:[/] analogsim profile show 8bit · analogsim profile show mine.yaml --json")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A shipped profile's name, or a YAML or JSON file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print a profile whole: every field, also those left at their default."""
    values = HardwareProfile.load(name).model_dump()
    # An encoding without all of its signs gets YAML's escapes, so that what is printed is this profile everywhere.
    signs = sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(values, indent=2) if as_json else yaml.safe_dump(values, sort_keys=False, allow_unicode=signs)
    typer.echo(text.rstrip())


@app.command(epilog=f"[bold]Example:[/] analogsim profile validate profiles/*.yaml\n\n{EXIT_CODES}")
def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML or JSON files (or names of shipped profiles).")
    ],
) -> None:
    """Check profiles; for a bad one say which field is wrong. Exit code 1 if any is."""
    bad = 0
    for name in files:
        try:
            profile = HardwareProfile.load(name)
        except ProfileError as error:
            bad += 1
            fail(error)
        else:
            out().print(f"{plain(name)}: [green]valid[/] (profile {plain(repr(profile.name))})")
    if bad:
        raise typer.Exit(USER_ERROR)


@app.command(epilog="[bold]Example:[/] analogsim profile schema > profile.schema.json (editors complete from it)")
def schema() -> None:
    """Print the JSON schema of a profile: every field with its unit, range and default."""
    typer.echo(json.dumps(HardwareProfile.model_json_schema(), indent=2))
