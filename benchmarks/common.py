"""What the benchmark scripts share: where results go, and the hardware that they simulate."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from analogsim import HardwareProfile
from analogsim.ages import seconds
from analogsim.bench import Case, Report, machine
from analogsim.cli.bench import table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed"
IMAGES = ROOT / "docs" / "images"

Quick = Annotated[bool, typer.Option("--quick", help="Few rounds: to see that it works, not to believe.")]
Threads = Annotated[list[int], typer.Option("--threads", help="Number of threads; repeatable.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="JSON to write.")]


def hardware(rows: int) -> HardwareProfile:
    """Return hardware with everything on: 8-bit converters of constant range, and noise at every tile's output."""
    return HardwareProfile(
        name="bench",
        tile={"rows": rows},
        dac={"bits": 8, "input_range": 3.0},
        noise={"output": 0.1},
        adc={"bits": 8, "full_scale": 20.0},
    )


def ages_of(profile: HardwareProfile, ages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ages at which a profile's chips differ, as far as it was measured; where none do, the first alone."""
    if not profile.drift.is_on and profile.flicker.amplitude == 0:
        return ages[:1]
    moments = profile.drift.moments
    return tuple(age for age in ages if moments is None or seconds(age) <= moments.seconds[-1])


def finish(title: str, cases: list[Case], out: Path | None, notes: tuple[str, ...] = ()) -> None:
    """Print a report, and write it where asked."""
    report = keep(title, cases, out, notes)
    console = Console()
    console.print(table(report))
    for note in notes:
        console.print(note)
    if out is not None:
        console.print(f"written: {out}")


def keep(title: str, cases: list[Case], out: Path | None, notes: tuple[str, ...] = ()) -> Report:
    """Write what there is so far, where asked: a benchmark that is stopped has measured this much."""
    report = Report(title=title, machine=machine(), cases=tuple(cases), notes=notes)
    if out is not None:
        report.save(out)
    return report
