"""Cost against size: the kernel's time over two decades of M, K, N and of the number of tiles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from analogsim import style
from analogsim.bench import Case, compare, threads
from analogsim.kernels import MatmulSpec, tiled_matmul
from analogsim.terminal.progress import track

from .common import IMAGES, Out, Quick, finish

SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
M, K, N, ROWS = 1024, 1024, 1024, 256
TILES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TILE_K = 4096


def shapes() -> Iterator[tuple[str, int, tuple[int, int, int, int]]]:
    """Yield (what varies, its value, (M, K, N, rows))."""
    for size in SIZES:
        yield "M", size, (size, K, N, ROWS)
        yield "K", size, (M, size, N, ROWS)
        yield "N", size, (M, K, size, ROWS)
    for tiles in TILES:
        yield "tiles", tiles, (256, TILE_K, 256, TILE_K // tiles)


def case(what: str, value: int, shape: tuple[int, int, int, int], quick: bool) -> Case:
    """Measure the kernel, and the product alone."""
    m, k, n, rows = shape
    x, w = torch.randn(m, k), torch.rand(n, k) * 2 - 1
    spec = MatmulSpec(rows, 3.0, 8, True, 20.0, 8, 0.1)
    calls = {"torch.matmul": lambda: x @ w.T, "analogsim": lambda: tiled_matmul(x, w, spec)}
    facts = {what: value, "rows": rows}
    with threads(1), torch.no_grad():
        return compare(calls, "torch.matmul", 1 if quick else 7, name=f"{what} = {value}", shape=facts)


def slope(values: list[float], times: list[float]) -> float:
    """Return the exponent of a power law, fitted over the upper decade, where constant costs no longer matter."""
    x, y = np.log(values), np.log(times)
    upper = x >= x[-1] - np.log(10)
    return float(np.polyfit(x[upper], y[upper], 1)[0])


def draw(cases: list[Case], path: Path) -> tuple[str, ...]:
    """Draw time against size; return a line on each quantity's exponent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style.picture(path, (8, 5)) as figure:
        return drawn(cases, style.axes(figure.subplots()))


def drawn(cases: list[Case], axes: Any) -> tuple[str, ...]:
    """Draw the times into axes; return as `draw`."""
    lines = []
    for number, what in enumerate(("M", "K", "N", "tiles")):
        look = style.look(number)
        own = [case for case in cases if what in case.shape]
        sizes = [float(case.shape[what]) for case in own]
        ours = [case.result("analogsim").value.median for case in own]
        product = [case.result("torch.matmul").value.median for case in own]
        if what == "tiles":  # the product does not grow with them: what they cost beyond it does
            beyond = [max(a - b, 1e-9) for a, b in zip(ours, product)]
            text = f"(time − product) ∝ {what}^{slope(sizes, beyond):.2f}"
            lines.append(text)
        else:
            text = f"time ∝ {what}^{slope(sizes, ours):.2f}"
            lines.append(f"{text} (the product alone: {slope(sizes, product):.2f})")
        axes.loglog(sizes, ours, **look.line, label=text)
        axes.loglog(sizes, product, f"{look.marker}:", color=look.color, linewidth=1, markersize=3, markerfacecolor="w")
    axes.loglog([], [], ":", color=style.GREY, label="torch.matmul alone (small, in the same colour)")
    axes.set_xlabel("M, K, N, or number of tiles (count)")
    axes.set_ylabel("time on one thread (s)")
    style.above(axes, 2)
    return tuple(lines)


def main(
    quick: Quick = False,
    out: Out = None,
    picture: Annotated[Path, typer.Option(help="Picture to write.")] = IMAGES / "scaling.png",
) -> None:
    """Measure time against M, K, N (else 1024; tiles of 256 rows) and tiles (256 × 4096 → 256): linear in each."""
    jobs = [job for job in shapes() if not quick or job[1] <= 256]
    cases = [case(*job, quick) for job in track(jobs, "Sizes")]
    finish("Scaling", cases, out, draw(cases, picture))


if __name__ == "__main__":
    typer.run(main)
