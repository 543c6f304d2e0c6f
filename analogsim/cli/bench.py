"""`analogsim bench`: how much the kernels cost over the plain matrix product, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..terminal.progress import track
from .base import EXIT_CODES, note, numbers, out, plain
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
    target: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="JSON to write.")] = None,
) -> None:
    """Measure the kernels against torch.matmul, as ratios interleaved in one process."""
    from ..bench import Report, kernel_jobs, machine

    jobs = kernel_jobs(thread_counts(threads), quick)
    cases = tuple(job() for job in track(jobs, "Measuring"))
    report = Report(title="Kernels", machine=machine(), cases=cases)
    if target is not None:
        report.save(target)
    out().print(table(report))
    if target is not None:
        note(f"written: {plain(target)}")


def table(report: "Report") -> Table:
    """Return every result with its ratio, and the goal beside it."""
    columns = "case", "candidate", *numbers("threads", "median", "ratio", "quartiles", "goal")
    result = Table(*columns, title=plain(f"{report.title} · {report.machine['processor']}"))
    for case in report.cases:
        for entry in case.results:
            ratio = entry.ratio
            goal = "" if entry.goal is None else f"[{'green' if entry.met else 'red'}]≤ {entry.goal:g}[/]"
            median = (
                f"{entry.value.median * 1e3:.3g} ms" if case.unit == "s" else f"{entry.value.median:.3g} {case.unit}"
            )
            ratios = ("", "") if ratio is None else (f"{ratio.median:.2f}", f"{ratio.low:.2f} - {ratio.high:.2f}")
            result.add_row(plain(case.name), plain(entry.name), str(case.threads), median, *ratios, goal)
        result.add_section()
    return result
