"""The Triton kernels on a GPU, as ratios to torch in the same precision, beside the floor that counting gives."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import cycle
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from analogsim import MatmulSpec, NoiseSpec, convert, inject_noise, tiled_matmul
from analogsim.bench import Case, compare, full_spec, naive, named
from analogsim.kernels import Clips, Read, add_noise, choose, triton_installed
from analogsim.kernels.precision import Precision, float32_precision
from analogsim.nn import analog_layers
from analogsim.restore import restored
from analogsim.terminal.progress import track
from models.resnet import ResNet18

from .common import Out, Quick, finish, hardware, keep
from .layers import RESNET18, layer
from .layers import name as layer_name
from .peers import lightning

SHAPES = [(4096, 4096, 4096, 256), (4096, 4096, 4096, 512), (4096, 1024, 1024, 256), (4096, 1024, 1024, 512)]
"""M, K, N, tile rows."""
GOAL = 2.0
"""Largest ratio to one torch.matmul wanted at tile 512."""
PEER = 3.0
"""How many times as long aihwkit-lightning's layer should take."""
STEP_GOAL = 1.5
BATCH = 512
INPUTS = 4
"""Sets of operands that take turns, so that no run finds its own in the second-level cache."""

ARITHMETICS = ("ieee", "tf32", "tf32x3", "bfloat16", "float16")
"""What the operands are and how they are multiplied; the first three are float32."""


def on_gpu(call: Callable[[], Any]) -> float:
    """Return how long the GPU takes for a call, seconds, between two events around five of them."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(5):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1000 / 5


@dataclass(frozen=True)
class Bench:
    """On what is measured, and how; the tests put in the CPU and Triton's interpreter."""

    rounds: int = 21
    device: str = "cuda"
    measure: Callable[[Callable[[], Any]], float] = on_gpu

    def compare(self, calls: dict[str, Callable[[], Any]], baseline: str, **more: Any) -> Case:
        """Measure candidates in turn."""
        return compare(calls, baseline, self.rounds, warmup=2, measure=self.measure, **more)


def dtype(arithmetic: str) -> torch.dtype:
    """Return the operands' type."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(arithmetic, torch.float32)


def precision(arithmetic: str) -> Precision:
    """Return how float32 is multiplied."""
    return "tf32" if arithmetic == "tf32" else "tf32x3" if arithmetic == "tf32x3" else "ieee"


def torchs(arithmetic: str, device: str) -> AbstractContextManager[None]:
    """Have torch compute in that arithmetic, within a block."""
    return float32_precision(torch.device(device), precision(arithmetic))


def operands(m: int, k: int, n: int, bench: Bench, arithmetic: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what hands out inputs and weights, a set after the other."""
    generator = torch.Generator().manual_seed(0)
    kind = {"device": bench.device, "dtype": dtype(arithmetic)}
    sets = [
        (torch.randn(m, k, generator=generator).to(**kind), (torch.rand(n, k, generator=generator) * 2 - 1).to(**kind))
        for _ in range(INPUTS)
    ]
    return cycle(sets).__next__


def product_case(shape: tuple[int, int, int, int], arithmetic: str, bench: Bench) -> Case:
    """Measure the tiled product, without and with clip bits, against one torch.matmul."""
    m, k, n, rows = shape
    take, device = operands(m, k, n, bench, arithmetic), full_spec(rows, k, precision(arithmetic))

    def plain() -> Tensor:
        x, w = take()
        with torchs(arithmetic, bench.device):
            return torch.matmul(x, w.T)

    def loop() -> Tensor:
        with torchs(arithmetic, bench.device):
            return naive(*take(), device)

    calls: dict[str, Callable[[], Any]] = {
        "torch.matmul": plain,
        "analogsim": lambda: tiled_matmul(*take(), device, 1, 2, backend="triton"),
        "with clip bits": lambda: tiled_matmul(*take(), device, 1, 2, record_clips=True, backend="triton"),
        "naive torch loop": loop,
    }
    if dtype(arithmetic) == torch.float32:
        calls |= lightning_calls(k, n, rows, take, arithmetic, bench)
    goals = {"analogsim": GOAL, "with clip bits": GOAL} if rows == 512 else {}
    with torch.no_grad():
        return bench.compare(calls, "torch.matmul", goals=goals, **product(shape, arithmetic))


def lightning_calls(
    k: int, n: int, rows: int, take: Callable[[], tuple[Tensor, Tensor]], arithmetic: str, bench: Bench
) -> dict[str, Callable[[], Any]]:
    """Return forwards of aihwkit-lightning's layer, by torch and by its Triton kernel, where it is installed."""
    try:
        module: Any = lightning(k, n, rows)
    except ImportError:
        return {}
    module = module.to(bench.device)
    kernel = import_module("aihwkit_lightning.nn.modules.linear").TRITON_AVAIL

    def run(triton: str) -> Callable[[], Any]:
        def forward() -> Tensor:
            os.environ["AIHWKIT_USE_TRITON"] = triton  # read at every forward; empty is no
            with torchs(arithmetic, bench.device):
                return module(take()[0])

        return forward

    calls = {"aihwkit-lightning": run("")} | ({"aihwkit-lightning, Triton": run("1")} if kernel else {})
    for name in list(calls):
        try:
            calls[name]()
        except Exception as error:  # another's code, on a GPU, torch or Triton that it may not know
            print(f"{name}: not measured, for it does not run here: {error}")
            del calls[name]
    return calls


def backward_case(shape: tuple[int, int, int, int], arithmetic: str, bench: Bench) -> Case:
    """Measure both gradients with every tile's clip masks against the two products of a digital layer."""
    m, k, n, rows = shape
    take, device = operands(m, k, n, bench, arithmetic), full_spec(rows, k, precision(arithmetic))
    x, w = take()
    _, clips = tiled_matmul(x, w, device, 1, 2, record_clips=True, backend="triton")
    kernel: Any = choose(x, "triton")
    g = torch.randn(m, n, device=bench.device)

    def plain() -> None:
        x, w = take()
        with torchs(arithmetic, bench.device):
            torch.mm(g, w)
            torch.mm(g.T, x)

    def by_tile() -> None:
        x, w = take()
        with torchs(arithmetic, bench.device):
            tile_by_tile(g, x, w, device, clips)

    calls: dict[str, Callable[[], Any]] = {
        "two torch.mm": plain,
        "analogsim": lambda: kernel.matmul_backward(g, *take(), device, clips, (True, True)),
        "masked copies and torch.mm": by_tile,
    }
    with torch.no_grad():
        return bench.compare(calls, "two torch.mm", **product(shape, arithmetic, "gradients, "))


def tile_by_tile(g: Tensor, x: Tensor, w: Tensor, device: MatmulSpec, clips: Clips | None) -> None:
    """Multiply a masked copy of the gradient for each tile, as backends without a backward of their own do."""
    assert clips is not None
    for tile, (start, stop) in enumerate(device.tiles(x.shape[1])):
        masked = g.masked_fill(clips.mask(tile), 0)
        torch.mm(masked, w[:, start:stop])
        torch.mm(masked.T, x[:, start:stop])


def convolution_case(shape: tuple[int, ...], rows: int, arithmetic: str, backward: bool, bench: Bench) -> Case:
    """Measure AnalogConv2d against nn.Conv2d."""
    digital = layer(*shape[:4]).to(bench.device)
    analog = in_arithmetic(convert(digital, hardware(rows)), arithmetic)
    size = BATCH if bench.device == "cuda" else 2
    take = cycle([torch.randn(size, shape[0], shape[4], shape[4], device=bench.device) for _ in range(INPUTS)]).__next__

    def run(module: torch.nn.Module) -> Callable[[], Any]:
        def forward() -> None:
            with torchs(arithmetic, bench.device), torch.set_grad_enabled(backward):
                out = module(take().requires_grad_(backward))
                if backward:
                    out.backward(torch.ones_like(out))

        return forward

    named_so = f"{layer_name(shape, rows)}, {arithmetic}{', with gradients' if backward else ''}"
    known = dict(zip(("channels", "outputs", "kernel", "stride", "size"), shape)) | {"rows": rows, "batch": size}
    return bench.compare(
        {"nn.Conv2d": run(digital), "AnalogConv2d": run(analog)}, "nn.Conv2d", name=named_so, shape=known
    )


def step_case(stem: Any, arithmetic: str, bench: Bench) -> Case:
    """Measure training steps of ResNet-18: with injected noise, and converted."""
    size = BATCH if bench.device == "cuda" else 2
    x, y = torch.randn(size, 3, 32, 32, device=bench.device), torch.randint(10, (size,), device=bench.device)
    plain = ResNet18(stem=stem).to(bench.device)

    def step(model: torch.nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torchs(arithmetic, bench.device):
                model.zero_grad()
                F.cross_entropy(model(x), y).backward()

        return run

    calls = {
        "plain": step(plain),
        "inject_noise": step(inject_noise(plain, NoiseSpec(sigma=0.1))),
        "converted": step(in_arithmetic(convert(plain, hardware(256)), arithmetic)),
    }
    goals = {"inject_noise": STEP_GOAL, "converted": STEP_GOAL}
    title = f"step of ResNet-18, {stem} stem, batch {size}, {arithmetic}"
    return bench.compare(calls, "plain", name=title, shape={"batch": size}, goals=goals)


def in_arithmetic(model: torch.nn.Module, arithmetic: str) -> torch.nn.Module:
    """Have analog layers multiply float32 so."""
    for _, one in analog_layers(model):
        one.precision = precision(arithmetic)
    return model


def tuning_case(shape: tuple[int, int, int, int], arithmetic: str, bench: Bench) -> Case:
    """Measure block shapes, warps and stages of the product's kernel against those it has."""
    from analogsim.kernels.backends.triton import matmul as gpu

    m, k, n, rows = shape
    take, device = operands(m, k, n, bench, arithmetic), full_spec(rows, k, precision(arithmetic))
    sizes = [(64, 128, 4), (128, 128, 8), (64, 256, 8), (128, 256, 8), (64, 64, 4), (128, 64, 4)]
    tried = {gpu.Blocks()} | {gpu.Blocks(a, b, d, warps, s) for a, b, warps in sizes for d in (32, 64) for s in (3, 4)}
    calls: dict[str, Callable[[], Any]] = {"as it is": lambda: gpu.matmul(*take(), Read(device, 1, 2))}
    for cut in sorted(tried, key=str):
        call = lambda cut=cut: gpu.matmul(*take(), Read(device, 1, 2), cut)  # noqa: E731
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a GPU's shared memory or registers do not suffice: said, left out
            print(f"{cut}: {str(error).splitlines()[0]}")
            continue
        calls[str(cut)] = call
    return bench.compare(calls, "as it is", **product(shape, arithmetic, "blocks, "))


def chunk_case(shape: tuple[int, ...], arithmetic: str, bench: Bench) -> Case:
    """Measure how many partial sums a convolution takes at a time."""
    from analogsim.kernels.backends.triton import matmul as gpu

    analog = in_arithmetic(convert(layer(*shape[:4]).to(bench.device), hardware(256)), arithmetic)
    size = BATCH if bench.device == "cuda" else 2
    x = torch.randn(size, shape[0], shape[4], shape[4], device=bench.device)

    def run(chunk: int) -> Callable[[], Any]:
        def forward() -> None:
            with restored([gpu], "CHUNK"):
                gpu.CHUNK = chunk
                analog(x)

        return forward

    calls = {"as it is": run(gpu.CHUNK)} | {f"chunks of 2^{n}": run(2**n) for n in range(20, 27)}
    with torch.no_grad():
        return bench.compare(calls, "as it is", name=f"{layer_name(shape, 256)}, {arithmetic}", shape={"batch": size})


@dataclass(frozen=True)
class Work:
    """What a tiled product must do at the least: operations of the matrix unit, bytes of device memory, normals."""

    flops: int
    moved: int
    normals: int

    @classmethod
    def of(cls, shape: tuple[int, int, int, int], itemsize: int, record: bool = False) -> "Work":
        """Count: 2·M·N·K; each operand read once and the result written once, and clip bits; one normal a tile."""
        m, k, n, rows = shape
        tiles = -(-k // rows)
        bits = -(-tiles // 8) * m * n if record else 0
        return cls(2 * m * n * k, itemsize * (m * k + n * k + m * n) + bits, tiles * m * n)


@dataclass(frozen=True)
class Ceilings:
    """What this GPU does at most, as measured here: matrix operations, bytes and normals, each a second."""

    flops: dict[str, float]
    moved: float
    normals: float

    @classmethod
    def measured(cls, bench: Bench) -> "Ceilings":
        """Measure: a product of 8192³ in each arithmetic, a copy that moves 1 GiB, noise on 2^28 bfloat16 numbers."""
        flops, size = {}, 8192 if bench.device == "cuda" else 64
        for arithmetic in ARITHMETICS:
            a, b = (torch.randn(size, size, device=bench.device, dtype=dtype(arithmetic)) for _ in range(2))
            with torchs(arithmetic, bench.device):
                flops[arithmetic] = 2 * size**3 / least(lambda a=a, b=b: torch.matmul(a, b), bench)
        x = torch.randn(size**2 * 4, device=bench.device, dtype=torch.bfloat16)
        copy = least(lambda: x.clone(), bench)
        noise = least(lambda: add_noise(x, 0.1, 0.1, backend="triton"), bench)
        return cls(flops, 2 * x.numel() * x.element_size() / copy, 2 * x.numel() / noise)

    def floor(self, work: Work, arithmetic: str) -> tuple[float, float, float]:
        """Return the seconds that each kind of work takes alone; the largest is the floor."""
        return work.flops / self.flops[arithmetic], work.moved / self.moved, work.normals / self.normals


def least(call: Callable[[], Any], bench: Bench) -> float:
    """Return the shortest of several measurements, after a first call."""
    call()
    return min(bench.measure(call) for _ in range(bench.rounds))


def floors(cases: list[tuple[tuple[int, int, int, int], str, Case]], bench: Bench) -> list[str]:
    """Say, for each product, what its parts would take alone and what it took."""
    ceilings = Ceilings.measured(bench)
    rates = ", ".join(f"{name} {rate / 1e12:.0f}" for name, rate in ceilings.flops.items())
    notes = [
        "aihwkit-lightning's Triton kernel multiplies in TF32 whatever is asked for.",
        f"Ceilings measured: TFLOP/s {rates}; {ceilings.moved / 1e12:.2f} TB/s; at least "
        f"{ceilings.normals / 1e9:.0f} G normals/s (fused noise on bfloat16, which moves 2 bytes a normal besides).",
    ]
    for shape, arithmetic, case in cases:
        parts = ceilings.floor(Work.of(shape, dtype(arithmetic).itemsize), arithmetic)
        took = case.result("analogsim").value.median
        matrix, moved, normals = (f"{1e3 * part:.3f}" for part in parts)
        notes.append(
            f"{case.name}: matrix {matrix} ms, bytes {moved} ms, normals {normals} ms; took {1e3 * took:.3f} ms = "
            f"{took / max(parts):.2f} times the largest, {took / sum(parts):.2f} times their sum."
        )
        for peer in (result for result in case.results if result.name.startswith("aihwkit-lightning")):
            ratio = peer.value.median / took
            notes.append(f"{case.name}: {peer.name} takes {ratio:.2f} times as long as analogsim (goal: {PEER:g}).")
    return notes


def main(
    quick: Quick = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Only try blocks for products, chunks for convolutions.")
    ] = False,
    out: Out = None,
) -> None:
    """Measure the Triton kernels: products (goal at tile 512: 2), gradients, convolutions, steps (goal: 1.5)."""
    if not (torch.cuda.is_available() and triton_installed()):
        print("This benchmark needs a CUDA GPU that torch sees, and Triton; its interpreter on a CPU will not do.")
        raise typer.Exit(1)
    bench = Bench(rounds=3) if quick else Bench()
    if tune:
        jobs = [(shape, kind) for shape in SHAPES[:: 3 if quick else 1] for kind in ("tf32", "bfloat16", "ieee")]
        cases = [tuning_case(*job, bench) for job in track(jobs[: 1 if quick else None], "Blocks")]
        cases += [chunk_case(shape, "tf32", bench) for shape in track(RESNET18[:: 3 if quick else 1], "Chunks")]
        finish("Blocks", cases, out)
        return
    pairs = [(shape, kind) for kind in ARITHMETICS for shape in SHAPES][: 2 if quick else None]
    products = [(shape, kind, product_case(shape, kind, bench)) for shape, kind in track(pairs, "Products")]
    cases = [case for _, _, case in products]
    keep("GPU", cases, out)
    gradients = [(shape, kind) for kind in ("ieee", "tf32") for shape in SHAPES][: 1 if quick else None]
    cases += [backward_case(*job, bench) for job in track(gradients, "Gradients")]
    jobs = [(shape, 256, "tf32", backward) for shape in RESNET18 for backward in (False, True)][: 2 if quick else None]
    cases += [convolution_case(*job, bench) for job in track(jobs, "Convolutions")]
    keep("GPU", cases, out)
    slow = replace(bench, rounds=max(3, bench.rounds // 3))
    steps = [("7x7", "tf32"), ("3x3", "tf32"), ("7x7", "ieee")][: 1 if quick else None]
    cases += [step_case(*job, slow) for job in track(steps, "Training steps")]
    finish("GPU", cases, out, tuple(floors(products, bench)))


def product(shape: tuple[int, int, int, int], arithmetic: str, what: str = "") -> dict[str, Any]:
    """Return name and shape of a product's case."""
    known = named(shape)
    return known | {"name": f"{what}{known['name']}, {arithmetic}"}


if __name__ == "__main__":
    typer.run(main)
