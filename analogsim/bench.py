"""Measuring: candidates interleaved in one process, as ratios to a baseline; and the kernels' own cases.

On a shared machine only ratios mean anything: every round times each candidate once, so that what slows the machine
down slows all of them, and a ratio is the median over the rounds of (candidate / baseline within that round).
"""

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from .errors import DataError
from .kernels import MatmulSpec, Precision, tiled_matmul
from .machine import installed, processor, revision, usable_cores
from .nn import AnalogLinear
from .profile import HardwareProfile
from .storage.files import replaced, writable
from .value import Value, explain

SHAPES = {
    (256, 1024, 1024, 256): 1.35,
    (8192, 576, 64, 256): 1.35,
    (512, 4608, 512, 512): 1.25,
    (32768, 75, 6, 256): 1.35,
}
"""M, K, N and tile rows of the kernels' cases, and the largest ratio of the kernel to torch.matmul wanted on each."""
LAYER_GOAL = 1.05
"""The same for a layer without converters and noise, to the digital layer."""


class Spread(Value):
    """Median and quartiles."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, values: list[float]) -> Self:
        """Summarise measurements."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median=median, low=low, high=high)


class Result(Value):
    """One candidate's measurements."""

    name: str
    first: float
    """The first call's measurement, compilation included; not among the others."""
    value: Spread
    """In the case's unit."""
    ratio: Spread | None = None
    """To the baseline within each round; null where there is no baseline."""
    goal: float | None = None
    """Largest ratio wanted (without a baseline: the largest value)."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else (self.ratio or self.value).median <= self.goal


class Case(Value):
    """Candidates measured together."""

    name: str
    shape: dict[str, int]
    threads: int
    unit: Literal["s", "MiB"] = "s"
    warmup: int
    repeats: int
    baseline: str | None
    results: tuple[Result, ...]

    def result(self, name: str) -> Result:
        """Return one candidate's result."""
        return next(result for result in self.results if result.name == name)


class Report(Value):
    """What one benchmark found, and on what machine."""

    format: Literal["analogsim-bench-1"] = "analogsim-bench-1"
    title: str
    machine: dict[str, Any]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write JSON; never leaves half a file."""
        with writable(path), replaced(path) as aside:
            aside.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read what `save` wrote."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise DataError(f"{path}: no benchmark report: {explain(error)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None


def timed(call: Callable[[], Any]) -> float:
    """Return how long a call takes, seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(
    candidates: Mapping[str, Callable[[], Any]],
    baseline: str | None,
    rounds: int,
    *,
    name: str = "",
    shape: Mapping[str, int] | None = None,
    warmup: int = 1,
    goals: Mapping[str, float] | None = None,
    unit: Literal["s", "MiB"] = "s",
    measure: Callable[[Callable[[], Any]], float] = timed,
) -> Case:
    """Measure candidates in turn, `rounds` times; each round begins with another one.

    Parameters
    ----------
    candidates : mapping
        What to call, by name.
    baseline : str or None
        The candidate that ratios are to.
    rounds, warmup : int
        Measured rounds; further calls of each candidate after its first, before them.
    goals : mapping, optional
        Largest ratio wanted, by candidate.
    measure : callable
        Returns a call's cost, in `unit`; the time it takes, unless given.

    Raises
    ------
    DataError
        There is no such baseline, or nothing to measure.
    """
    if not candidates or rounds < 1 or (baseline is not None and baseline not in candidates):
        raise DataError(f"compare: at least one round and candidate, with the baseline {baseline!r} among them, needed")
    names = list(candidates)
    first = {key: measure(call) for key, call in candidates.items()}
    for call in list(candidates.values()) * warmup:
        call()
    values: dict[str, list[float]] = {key: [] for key in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for key in names[turn:] + names[:turn]:
                values[key].append(measure(candidates[key]))
    finally:
        if collecting:
            gc.enable()
    results = []
    for key in names:
        ratio = None if baseline is None else Spread.of([a / b for a, b in zip(values[key], values[baseline])])
        goal = (goals or {}).get(key)
        results.append(Result(name=key, first=first[key], value=Spread.of(values[key]), ratio=ratio, goal=goal))
    return Case(
        name=name,
        shape=dict(shape or {}),
        threads=torch.get_num_threads(),
        unit=unit,
        warmup=warmup,
        repeats=rounds,
        baseline=baseline,
        results=tuple(results),
    )


def machine() -> dict[str, Any]:
    """Describe processor, cores, versions, and the commit of a git checkout ("-dirty": it was changed)."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: installed(name) for name in ("analogsim", "numba", "numpy", "triton")}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    here = {"processor": processor(), "cores": usable_cores(), "gpu": gpu}
    known = revision()
    return here | {"versions": versions, "commit": known and known[0] + "-dirty" * known[1]}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and the kernels use this many threads, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kernel_jobs(counts: list[int], quick: bool = False) -> list[Callable[[], Case]]:
    """Return the kernels' cases, to be run one by one: each shape on each number of threads."""
    jobs = (fast_case, slow_case, layer_case)
    return [partial(job, shape, count, quick) for count in counts for shape in SHAPES for job in jobs]


def fast_case(shape: tuple[int, int, int, int], count: int, quick: bool) -> Case:
    """Measure the kernel against torch.matmul."""
    x, w, spec = _operands(*shape)
    calls = {
        "torch.matmul": lambda: torch.matmul(x, w.T),
        "analogsim (numba)": lambda: tiled_matmul(x, w, spec, 1, 2, backend="numba"),
    }
    with threads(count), torch.no_grad():
        goals = {"analogsim (numba)": SHAPES[shape]}
        return compare(calls, "torch.matmul", 3 if quick else 40, warmup=3, goals=goals, **named(shape))


def slow_case(shape: tuple[int, int, int, int], count: int, quick: bool) -> Case:
    """Measure what is slow (and would evict the caches of what is fast) against torch.matmul, in fewer rounds."""
    x, w, spec = _operands(*shape)
    calls = {
        "torch.matmul": lambda: torch.matmul(x, w.T),
        "naive torch loop": lambda: naive(x, w, spec),
        "analogsim (reference)": lambda: tiled_matmul(x, w, spec, backend="reference"),
    }
    with threads(count), torch.no_grad():
        return compare(calls, "torch.matmul", 1 if quick else 7, warmup=0 if quick else 1, **named(shape))


def layer_case(shape: tuple[int, int, int, int], count: int, quick: bool) -> Case:
    """Measure whole layers: without converters and noise, and with them, against nn.Linear."""
    x, w, spec = _operands(*shape)
    digital = nn.Linear(shape[1], shape[2])
    off = AnalogLinear(shape[1], shape[2])
    full = AnalogLinear(shape[1], shape[2], profile=profile(spec))
    calls = {
        "nn.Linear": lambda: digital(x),
        "AnalogLinear, all off": lambda: off(x),
        "AnalogLinear": lambda: full(x),
    }
    with threads(count), torch.no_grad():
        goals = {"AnalogLinear, all off": LAYER_GOAL}
        return compare(calls, "nn.Linear", 3 if quick else 40, warmup=3, goals=goals, **named(shape))


def profile(spec: MatmulSpec) -> HardwareProfile:
    """Return hardware with the scalars of a benchmark's spec."""
    return HardwareProfile(
        name="bench",
        tile={"rows": spec.rows},
        dac={"bits": spec.dac_bits, "input_range": spec.input_range},
        noise={"output": spec.noise_output},
        adc={"bits": spec.adc_bits, "full_scale": spec.adc_full_scale},
    )


def naive(x: Tensor, w: Tensor, spec: MatmulSpec) -> Tensor:
    """Compute the same as a user would write it in torch (its noise from torch.randn_like)."""
    dac, adc, scale = spec.dac_levels, spec.adc_levels, spec.even_scale(0) or 1.0
    codes = torch.round(torch.clamp(x / spec.input_range, -1, 1) * dac) / dac
    total = x.new_zeros(len(x), len(w))
    for start, stop in spec.tiles(x.shape[1]):
        partial_sum = codes[:, start:stop] @ w[:, start:stop].T
        partial_sum = partial_sum + spec.noise_output * torch.randn_like(partial_sum)
        total = total + torch.round(torch.clamp(partial_sum / scale, -1, 1) * adc) / adc * scale
    return total


def _operands(m: int, k: int, n: int, rows: int) -> tuple[Tensor, Tensor, MatmulSpec]:
    """Return inputs, weights and the device."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(m, k, generator=generator), torch.rand(n, k, generator=generator) * 2 - 1
    return x, w, full_spec(rows, k)


def full_spec(rows: int, k: int, precision: Precision = "ieee") -> MatmulSpec:
    """Return a device with everything on: 8-bit converters, σ = 0.1, its ADC at four standard deviations of a sum."""
    deviation = (min(rows, k) / 3) ** 0.5 / 3
    return MatmulSpec(rows, 3.0, 8, True, 4 * deviation, 8, 0.1, precision=precision)


def named(shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return name and shape of a product's case: M, K, N and tile rows."""
    m, k, n, rows = shape
    return {"name": f"{m} × {k} → {n}, tile {rows}", "shape": {"M": m, "K": k, "N": n, "rows": rows}}
