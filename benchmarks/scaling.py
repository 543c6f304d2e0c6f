"""Cost against size: the kernel's time over two decades of M, K, N and of the number of tiles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure

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
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lines = []
    for what, color in zip(("M", "K", "N", "tiles"), ("#0072b2", "#d55e00", "#009e73", "#cc79a7")):
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
        axes.loglog(sizes, ours, "o-", color=color, label=text)
        axes.loglog(sizes, product, ":", color=color, linewidth=1)
    axes.loglog([], [], ":", color="0.4", label="torch.matmul alone")
    axes.set_xlabel("M, K, N, or number of tiles")
    axes.set_ylabel("seconds, one thread")
    axes.grid(True, color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
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
