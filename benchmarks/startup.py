"""How long it takes to import analogsim, to compile its kernels, and to load them compiled."""

import os
import subprocess
import sys
import tempfile

import typer

from analogsim.bench import Case, compare

from .common import Out, Quick, finish

IMPORT = "import time, torch; t = time.perf_counter(); from analogsim import *; print(time.perf_counter() - t)"
LAYERS = (
    "import time, torch, analogsim as an; layers = [an.AnalogLinear(64, 32), an.AnalogConv2d(3, 8, 3)];"
    "hardware = an.HardwareProfile(dac={'bits': 8, 'input_range': 3.0}, adc={'bits': 8, 'full_scale': 9.0}, "
    "noise={'output': 0.1});"
    "[setattr(layer, 'profile', hardware) for layer in layers]; t = time.perf_counter();"
)
LINEAR = LAYERS + "layers[0](torch.randn(64, 64)).sum().backward(); print(time.perf_counter() - t)"
FIRST_CALL = LAYERS + (
    "layers[0](torch.randn(64, 64)).sum().backward(); layers[1](torch.randn(2, 3, 16, 16)).sum().backward();"
    "print(time.perf_counter() - t)"
)


def seconds(code: str, cache: str | None = None) -> float:
    """Run code that prints seconds, in a fresh process, with Numba's cache in a folder.

    Python keeps its bytecode, as it does unless it is told otherwise: to compile source takes longer than to import it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {} if cache is None else {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def empty_cache(code: str) -> float:
    """Measure the first calls with nothing compiled."""
    with tempfile.TemporaryDirectory() as cache:
        return seconds(code, cache)


def case(name: str, call, rounds: int, goal: float) -> Case:
    """Measure one of them."""
    return compare({name: call}, None, rounds, name=name, warmup=0, goals={name: goal}, measure=lambda run: run())


def main(quick: Quick = False, out: Out = None) -> None:
    """Measure the import above torch's (goal: 0.3 s), first calls (6, 15 s) and later ones (1 s)."""
    with tempfile.TemporaryDirectory() as cache:
        cases = [
            case("import analogsim, torch being imported", lambda: seconds(IMPORT), 1 if quick else 7, 0.3),
            case("first linear layer, compiling", lambda: empty_cache(LINEAR), 1 if quick else 3, 6.0),
            case(
                "first linear layer and convolution, compiling",
                lambda: empty_cache(FIRST_CALL),
                1 if quick else 3,
                15.0,
            ),
        ]
        seconds(FIRST_CALL, cache)
        loading = "first calls of a later process"
        cases.append(case(loading, lambda: seconds(FIRST_CALL, cache), 1 if quick else 7, 1.0))
    finish("Starting", cases, out)


if __name__ == "__main__":
    typer.run(main)
