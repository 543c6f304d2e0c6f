"""`analogsim profile`: hardware profiles, shipped and from files."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from .. import style
from ..errors import ProfileError
from ..profile import HardwareProfile, presets
from ..profile.compare import compare as side_by_side
from ..profile.hardware import text_of
from ..profile.peers import aihwkit, crosssim
from ..profile.template import SCHEMA_FILE, template
from ..storage.files import replaced, writable
from ..tables import Column, Table
from ..terminal.text import printable
from .base import EXIT_CODES, USER_ERROR, Program, Subgroup, fail, note, out, plain, present, say
from .curves import check_picture
from .output import FormOption, Overwrite, check_free

Named = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A shipped profile's name, or a YAML or JSON file.")]

app = Program(
    cls=Subgroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List, show, write, compare and check hardware profiles (YAML or JSON).",
    epilog="[bold]Example:[/] analogsim profile new mine.yaml --from pcm; edit it; analogsim profile show mine.yaml",
)


@app.command("list", epilog="[bold]Example:[/] analogsim profile list")
def list_(form: FormOption = "table") -> None:
    """Name the shipped profiles, with a line on each."""
    rows = []
    for name in presets():
        # Up to the first colon, title or end of a sentence, which "M. Le Gallo" has none of.
        text = HardwareProfile.load(name).description
        first = re.split(r':\s|, "|(?<=[a-z0-9)%])\. (?=[A-Z0-9(])', text)[0].rstrip(".")
        if first.count("(") > first.count(")"):
            first = first[: first.rindex(" (")]
        rows.append((name, first + "."))
    present(Table((Column("name", number=False), Column("description", number=False, wrap=True)), tuple(rows)), form)


@app.command(epilog="[bold]Examples:[/] analogsim profile show pcm · analogsim profile show mine.yaml --full")
def show(
    name: Named,
    full: Annotated[bool, typer.Option("--full", help="Every field, also those at their default.")] = False,
    form: Annotated[Literal["yaml", "json"], typer.Option("--format", help="json: every field.")] = "yaml",
) -> None:
    """Print a profile as it is written, with the comments that say where its numbers come from."""
    profile = HardwareProfile.load(name)
    if form == "json":
        typer.echo(json.dumps(profile.model_dump(), indent=2))
        return
    text = None if full else _written(name)
    # An encoding without all of its signs gets YAML's escapes, so that what is printed is this profile everywhere.
    signs = sys.stdout.encoding.lower().startswith("utf")
    values = profile.model_dump()
    typer.echo(text or yaml.safe_dump(values, sort_keys=False, allow_unicode=signs).rstrip())


def _written(name: str) -> str | None:
    """Return a profile's own text, if whoever prints it prints that profile."""
    text = text_of(name).rstrip()
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return None
    return text if printable(text) == text else None


@app.command(epilog="[bold]Examples:[/] analogsim profile new mine.yaml · analogsim profile new mine.yaml --from pcm")
def new(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to write it; without one it is printed.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME|FILE", help="Start from this profile. Default: every field at its default."
        ),
    ] = None,
) -> None:
    """Write a commented profile to be edited: every field with its meaning and unit, defaults commented out."""
    text = template(source, "." if file is None else file.parent)
    if file is None:
        typer.echo(text.rstrip())
        return
    if file.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"{file}: the name must end in .yaml", param_hint="FILE")
    if file.exists():
        raise typer.BadParameter(f"{file}: is there already; choose another name", param_hint="FILE")
    _write(file, text)
    beside = file.with_name(SCHEMA_FILE)
    if not beside.exists():
        note(f"for editors that complete and check: analogsim profile schema --out {plain(beside)}")


@app.command(
    epilog="[bold]Examples:[/] analogsim profile compare pcm hermes · analogsim profile compare 8bit mine.yaml"
)
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME|FILE...", help="Two or more profiles.")],
    everything: Annotated[bool, typer.Option("--all", help="Also fields in which they agree.")] = False,
    form: FormOption = "table",
) -> None:
    """Show profiles side by side: the fields in which they differ, each with its unit."""
    if len(names) < 2:
        raise typer.BadParameter("at least two profiles are compared", param_hint="NAME|FILE")
    rows = [row for row in side_by_side([HardwareProfile.load(name) for name in names]) if everything or row.differs]
    if form == "json":
        found = [{"field": row.field, "unit": row.unit, "values": dict(zip(names, row.values))} for row in rows]
        typer.echo(json.dumps(found, indent=2))
        return
    columns = [Column(name, number=False) for name in ("field", "unit")]
    columns += [Column(name, number=False, title=name, wrap=True) for name in names]
    present(Table(tuple(columns), tuple((row.field, row.unit, *map(_shown, row.values)) for row in rows)), form)


def _shown(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]


@app.command(
    "import",
    epilog="[bold]Examples:[/] analogsim profile import ISAAC.json --out isaac.yaml (CrossSim) · "
    "analogsim profile import my_config:rpu_config --out mine.yaml (aihwkit)",
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|MODULE:NAME",
            help="CrossSim's parameters, as the JSON file that it writes; or an RPUConfig of aihwkit in a Python "
            "module, or a function that returns one.",
        ),
    ],
    target: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it; without one it is printed.")
    ] = None,
    force: Overwrite = False,
) -> None:
    """Translate another simulator's configuration into a profile, and say what a profile does not have of it."""
    if target is not None and target.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"{target}: the name must end in .yaml", param_hint="--out")
    check_free(target, force)
    if Path(source).suffix == ".json" or ":" not in source:
        found, name = crosssim.read(source), Path(source).stem
    else:
        from ..training.network import imported

        config = imported(source, "rpu_config")
        found, name = aihwkit.read(config() if callable(config) else config), source.rpartition(":")[2]
    HardwareProfile(**found.values)
    text = found.text(name)
    if target is None:
        typer.echo(text.rstrip())
    else:
        _write(target, text)
    for line in found.lost:
        say(f"[yellow]not carried over:[/] {plain(line)}")


@app.command(
    epilog="[bold]Examples:[/]\n\nanalogsim profile validate profiles/*.yaml\n\n"
    f"analogsim profile validate chip.yaml --plot chip.png\n\n{EXIT_CODES}"
)
def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML or JSON files (or names of shipped profiles).")
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="PICTURE",
            callback=check_picture,
            help="Draw what was read of one profile: cells' errors, drift and noise, columns, and converters' codes. "
            "Default: no picture.",
        ),
    ] = None,
    force: Overwrite = False,
) -> None:
    """Check profiles; for a bad one say which field is wrong. Exit code 1 if any is."""
    if picture is not None and len(files) > 1:
        raise typer.BadParameter(f"draws one profile, not {len(files)}", param_hint="--plot")
    check_free(picture, force, "--plot")
    bad = 0
    for name in files:
        try:
            profile = HardwareProfile.load(name)
        except ProfileError as error:
            bad += 1
            fail(error)
        else:
            out().print(f"{plain(name)}: [green]valid[/] (profile {plain(repr(profile.name))})")
            if picture is not None:
                draw(profile, picture)
                note(f"written: {plain(picture)}")
    if bad:
        raise typer.Exit(USER_ERROR)


def draw(profile: HardwareProfile, path: Path) -> None:
    """Write the picture of a profile's cells and converters.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    from ..analysis.device_picture import draw_device

    with style.picture(path, dpi=120) as figure:
        draw_device(profile, figure)


@app.command(epilog=f"[bold]Example:[/] analogsim profile schema --out {SCHEMA_FILE} (editors complete from it)")
def schema(
    target: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it; without one it is printed.")
    ] = None,
    force: Overwrite = False,
) -> None:
    """Print the JSON schema of a profile: every field with its unit, range and default."""
    check_free(target, force)
    text = json.dumps(HardwareProfile.model_json_schema(), indent=2)
    if target is None:
        typer.echo(text)
    else:
        _write(target, text + "\n")


def _write(path: Path, text: str) -> None:
    with writable(path), replaced(path) as aside:
        aside.write_text(text, encoding="utf-8")
