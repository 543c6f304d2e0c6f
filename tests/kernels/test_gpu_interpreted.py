"""Without a GPU: the Triton kernels run in Triton's interpreter, and are compiled for an H100 (sm_90)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analogsim.errors import BackendError, ShapeError
from analogsim.kernels import MatmulSpec, interpreting, resolve, tiled_matmul, triton_installed
from benchmarks import gpu as gpu_bench

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(not triton_installed(), reason="Triton is not installed (it comes with CUDA's torch)")


@needs_triton
def test_the_gpu_tests_pass_in_the_interpreter():
    # A process of its own: the interpreter replaces Triton's decorators as they are imported.
    files = "tests/kernels/test_gpu.py", "tests/kernels/test_sanitizer.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 65


@needs_triton
@pytest.mark.slow
def test_the_corner_sizes_pass_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "-m",
        "not slow",
        "tests/kernels/test_corners.py",
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 100


FLAGS = {"CONVERT": True, "NOISY": True, "READ": False, "RELATIVE": False, "CLIP": True, "ROUND": True}
ENDS = {"SCALE": True, "BIAS": True, "RECORD": True}
PRODUCT = FLAGS | ENDS | {"PANELS": True, "EVEN": True, "WIDEN": False, "BM": 64, "BN": 128, "BK": 32, "GROUP": 8}
SUMS = {key: value for key, value in (FLAGS | ENDS).items() if key != "CONVERT"}
BACKWARD = {"CONVERT": True, "PRECISION": "tf32", "BM": 64, "BN": 32, "BK": 128}
SINGLE = dict.fromkeys(("M", "N", "K", "width", "tiles", "x_stride", "w_stride"), 1)
POINTERS = {"x", "w", "out", "partial", "squares", "adc", "scale", "bias", "g", "sigmas", "relatives"}
NUMBERS = {"gain", "low", "high", "unit", "step", "sigma", "read", "relative", "multiplicative"}
ONES = ("tile", "channels", "count", "lead")  # Triton makes constants of sizes that are 1
# Kernel, dtype, constants, and the most bytes of registers that may spill (Triton 3.6 and 3.9; none within the loops).
BUILDS = {
    "matmul, tf32": ("matmul_kernel", "fp32", PRODUCT | {"PRECISION": "tf32"}, 320),
    "matmul, ieee": ("matmul_kernel", "fp32", PRODUCT | {"PRECISION": "ieee"}, 1024),
    "matmul, bf16": ("matmul_kernel", "bf16", PRODUCT | {"PRECISION": "tf32", "BK": 64}, 320),
    "matmul, ragged": (
        "matmul_kernel",
        "fp32",
        PRODUCT | {"PRECISION": "tf32x3", "PANELS": False, "EVEN": False, "READ": True, "BN": 32},
        512,
    ),
    "matmul, one of all": (
        "matmul_kernel",
        "fp32",
        PRODUCT | {"PRECISION": "tf32", "PANELS": False, "EVEN": False, "BN": 16, "BK": 16} | SINGLE,
        0,
    ),
    "grad_x": ("grad_x_kernel", "fp32", BACKWARD, 0),
    "grad_w": ("grad_w_kernel", "fp32", BACKWARD | {"BM": 32, "BN": 64}, 0),
    "accumulate": ("accumulate_kernel", "fp32", SUMS | {"FIRST": False, "PANELS": 32}, 0),
    "noise": (
        "noise_kernel",
        "bf16",
        {"ADDITIVE": True, "MULTIPLIED": True, "SIGMAS": True, "RELATIVES": False, "MANY": False, "PANELS": 32},
        0,
    ),
    "accumulate, one image": (
        "accumulate_kernel",
        "fp32",
        SUMS | {"FIRST": True, "PANELS": 32, "READ": True, "RELATIVE": True} | dict.fromkeys(ONES, 1),
        0,
    ),
    "noise, one element": (
        "noise_kernel",
        "fp32",
        dict.fromkeys(("ADDITIVE", "MULTIPLIED", "SIGMAS", "RELATIVES", "MANY"), True)
        | {"PANELS": 32, "count": 1, "per_sample": 1},
        0,
    ),
    "dac": ("dac_kernel", "fp32", {"ROUND": True, "BLOCK": 4096}, 0),
}


def compiled(name, dtype, constants, arch=90):
    """Compile a kernel for sm_90, which needs no GPU, with pointers and sizes that are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget

    from analogsim.kernels.backends.triton import jit as gpu_jit

    kernel = getattr(gpu_jit, name)
    signature, aligned = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        kinds = {"bits": "*u8"}
        kinds |= dict.fromkeys(POINTERS, f"*{dtype}") | dict.fromkeys(NUMBERS, "fp32")
        kinds |= dict.fromkeys(("adc", "squares", "sigmas", "relatives"), "*fp32")
        signature[argument] = kinds.get(argument, "i32")
        if signature[argument].startswith("*") or argument in ("M", "N", "K", "width", "x_stride", "w_stride", "count"):
            aligned[position,] = [["tt.divisibility", 16]]
    constexprs = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def spilled(ptx, folder):
    """Return the bytes that ptxas says are spilled."""
    from triton.backends.nvidia.compiler import get_ptxas

    (folder / "kernel.ptx").write_text(ptx)
    command = [get_ptxas(90).path, "-v", "-arch=sm_90a", str(folder / "kernel.ptx"), "-o", str(folder / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.findall(r"(\d+) bytes spill stores", done.stdout + done.stderr)[-1])


@needs_triton
@pytest.mark.skipif(interpreting(), reason="Triton's interpreter has replaced its compiler")
@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_the_kernels_compile_for_an_h100_without_surprises(build, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    name, dtype, constants, most = BUILDS[build]
    ptx = compiled(name, dtype, constants).asm["ptx"]
    assert not re.search(r"\.f64\b", ptx), "double precision"
    # Divisions of the program's first element only, never of each element.
    assert len(re.findall(r"(div|rem)\.[su]64", ptx)) <= 2
    if name == "matmul_kernel" and constants["PRECISION"] == "tf32":
        assert "wgmma.mma_async" in ptx
    if constants.get("PANELS") is True:
        # 8 Philox blocks a thread, 20 products each: nothing is computed twice.
        assert len(re.findall(r"mul\.hi\.u32", ptx)) <= 8 * 20
    assert spilled(ptx, tmp_path) <= most


@needs_triton
@pytest.mark.skipif(interpreting(), reason="Triton's interpreter has replaced its compiler")
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 89, 120])
@pytest.mark.parametrize("build", ["matmul, tf32", "matmul, bf16", "grad_w", "accumulate", "noise"])
def test_the_kernels_compile_for_other_gpus(arch, build, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    name, dtype, constants, _ = BUILDS[build]
    found = compiled(name, dtype, constants, arch)
    assert found.metadata.shared <= 99 * 1024  # what a program may have on the smallest of them
    assert "mma.sync" in found.asm["ptx"] or build in ("accumulate", "noise")


def issued(cubin, folder):
    """Return how many instructions the loop over tiles has, without that over K, and how many that has.

    From the disassembly: the two backward branches around the matrix instructions.
    """
    disassembler = triton_folder() / "backends" / "nvidia" / "bin" / "nvdisasm"
    (folder / "kernel.cubin").write_bytes(cubin)
    text = subprocess.run(
        [disassembler, "-c", folder / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    count, labels, loops, products = 0, {}, [], []
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif code := re.search(r"/\*[0-9a-f]{4,5}\*/\s+(.*?);", line):
            count += 1
            if "HGMMA" in code[1]:
                products.append(count)
            elif (to := re.search(r"BRA .*\((\.L_x_\d+)\)", code[1])) and to[1] in labels:
                loops.append((labels[to[1]], count))
    around = sorted(stop - start for start, stop in loops if start < products[0] and products[-1] <= stop)
    assert len(around) == 2
    return around[1] - around[0], around[0]


def triton_folder():
    import triton

    return Path(triton.__file__).parent


# What docs/gpu.md counts, with some room: instructions of a warp a tile, and a step along K.
INSTRUCTIONS = {
    "bf16": ("matmul, bf16", {"RECORD": False}, 2200, 90),
    "bf16, clip bits": ("matmul, bf16", {}, 2500, 90),
    "tf32": ("matmul, tf32", {"RECORD": False}, 2200, 90),
    "tf32, clip bits": ("matmul, tf32", {}, 2500, 90),
    "bf16, DAC": ("matmul, bf16", {"RECORD": False, "CONVERT": True}, 2200, 350),
}


@needs_triton
@pytest.mark.skipif(interpreting(), reason="Triton's interpreter has replaced its compiler")
@pytest.mark.slow
@pytest.mark.parametrize("case", INSTRUCTIONS)
def test_how_many_instructions_a_tile_takes(case, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    build, changed, tile, step = INSTRUCTIONS[case]
    name, dtype, constants, _ = BUILDS[build]
    found = issued(compiled(name, dtype, constants | {"CONVERT": False} | changed).asm["cubin"], tmp_path)
    print(case, found)
    assert found[0] <= tile
    assert found[1] <= step


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_refuses_without_a_gpu(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs a CUDA GPU" in done.stdout
    assert not out.exists()


def test_the_floor_is_counted_by_hand():
    work = gpu_bench.Work.of((4, 10, 6, 4), 4, record=True)
    assert work.flops == 2 * 4 * 10 * 6
    assert work.moved == 4 * (4 * 10 + 6 * 10 + 4 * 6) + 4 * 6
    assert work.normals == 3 * 4 * 6
    ceilings = gpu_bench.Ceilings({"ieee": 480.0}, 100.0, 36.0)
    assert ceilings.floor(work, "ieee") == (1.0, 5.2, 2.0)


def test_it_is_refused_where_it_cannot_run():
    x = torch.zeros(2, 3)
    assert resolve("cuda", torch.float32) == ("triton" if triton_installed() else "reference")
    assert resolve("cuda", torch.float64) == "reference"
    if not interpreting():
        with pytest.raises(BackendError, match="CUDA" if triton_installed() else "not installed"):
            tiled_matmul(x, x, MatmulSpec(), backend="triton")
        with pytest.raises(ShapeError, match="bfloat16"):
            tiled_matmul(x.bfloat16(), x.bfloat16(), MatmulSpec())
