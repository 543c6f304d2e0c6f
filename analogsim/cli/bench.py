"""`analogsim bench`: how much the kernels cost over the plain matrix product, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tables import Column, Table
from ..terminal.progress import track
from .base import EXIT_CODES, note, plain, present
from .output import FormOption, Overwrite, check_free
from .values import MOST_THREADS

if TYPE_CHECKING:
    from ..bench import Report

EPILOG = f"[bold]Example:[/] analogsim bench --threads 1,2 --out kernels.json\n\n{EXIT_CODES}"


def thread_counts(text: str | None) -> list[int]:
    """Read "1,2"; by default one thread, and all that torch uses."""
    import torch

    if text is None:
        return sorted({1, torch.get_num_threads()})
    try:
        counts = [int(part) for part in text.replace(",", " ").split()]
        if not counts or min(counts) < 1 or max(counts) > MOST_THREADS:
            raise ValueError
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: numbers of threads such as 1,2 are needed, up to {MOST_THREADS}", param_hint="--threads"
        ) from None
    return counts


def bench(
    threads: Annotated[
        str | None, typer.Option(metavar="N,N", help="Numbers of threads, such as 1,2. Default: 1 and all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: to see that it works, not to believe.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="JSON to write. Default: none.")
    ] = None,
    form: FormOption = "table",
    force: Overwrite = False,
) -> None:
    """Measure the kernels against torch.matmul, as ratios interleaved in one process."""
    from ..bench import Report, kernel_jobs, machine

    check_free(target, force)
    jobs = kernel_jobs(thread_counts(threads), quick)
    cases = tuple(job() for job in track(jobs, "Measuring"))
    report = Report(title="Kernels", machine=machine(), cases=cases)
    if target is not None:
        report.save(target)
    present(table(report), form)
    if target is not None:
        note(f"written: {plain(target)}")


def table(report: "Report") -> Table:
    """Return every result with its ratio, and the goal beside it."""
    columns = (
        Column("case", number=False),
        Column("candidate", number=False),
        Column("threads"),
        Column("median", row=_median),
        Column("unit", screen=False),
        Column("ratio", show=".2f"),
        Column("low", screen=False),
        Column("high", screen=False),
        Column("quartiles", row=_quartiles, file=False),
        Column("goal", row=lambda row: "" if row["goal"] is None else f"≤ {row['goal']:g}"),
        Column("met", show=lambda met: "yes" if met else "no", number=False, style=_colour),
    )
    rows = []
    for case in report.cases:
        for entry in case.results:
            ratio = entry.ratio
            ratios = (None, None, None) if ratio is None else (ratio.median, ratio.low, ratio.high)
            met = None if entry.goal is None else entry.met
            known = case.name, entry.name, case.threads, entry.value.median, case.unit
            rows.append((*known, *ratios, None, entry.goal, met))
    return Table(columns, tuple(rows), f"{report.title} · {report.machine['processor']}")


def _colour(met: bool | None) -> str:
    return "green" if met else "red"


def _median(row: dict[str, Any]) -> str:
    return f"{row['median'] * 1e3:.3g} ms" if row["unit"] == "s" else f"{row['median']:.3g} {row['unit']}"


def _quartiles(row: dict[str, Any]) -> str:
    return "" if row["ratio"] is None else f"{row['low']:.2f} - {row['high']:.2f}"
