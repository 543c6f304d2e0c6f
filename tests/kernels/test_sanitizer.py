"""The interpreter's sanitizer finds what it is for; run by `test_gpu_interpreted.py`, like the kernels' tests."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_gpu_interpreted.py, in Triton's interpreter", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterError

from analogsim.kernels import MatmulSpec, tiled_matmul
from analogsim.kernels.backends.triton import matmul as gpu
from tests.support.sanitizer import sanitized


@triton.jit
def copy_kernel(
    x, out, count, SHIFT: tl.constexpr, STEP: tl.constexpr, TWICE: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    """Copy, each program a block: as it should be for SHIFT 0 and STEP BLOCK."""
    i = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    mask = i < count
    v = tl.load(x + i + SHIFT, mask=mask, other=0.0)
    if ADD:
        tl.atomic_add(out + i, v, mask=mask)
    else:
        tl.store(out + i, v, mask=mask)
    if TWICE:
        tl.store(out + i, tl.load(out + i, mask=mask, other=0.0), mask=mask)


RIGHT = {"SHIFT": 0, "STEP": 8, "TWICE": False, "ADD": False}


def run(x, out, **changed):
    with sanitized() as found:
        gpu.launch(copy_kernel, (3,), x, out, 20, **(RIGHT | changed), BLOCK=8)
    return found.accesses


def test_what_is_right_passes_and_is_looked_at():
    x, out = torch.arange(20.0), torch.zeros(20)
    assert run(x, out) == 40
    assert out.equal(x)


def test_strided_and_sliced_tensors_end_where_they_end():
    whole = torch.zeros(64)
    run(whole[:20], torch.zeros(20))
    with pytest.raises(InterpreterError, match="1 of 4 addresses lie outside"):
        run(whole[:19], torch.zeros(20))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"SHIFT": 1}, "outside its arguments"),
        ({"SHIFT": -1}, "outside its arguments"),
        ({"STEP": 7}, "two programs meet"),
        ({"TWICE": True}, "reads what the same launch writes"),
        ({"ADD": True}, "an atomic operation"),
    ],
)
def test_it_finds(changed, message):
    with pytest.raises(InterpreterError, match=message):
        run(torch.arange(20.0), torch.zeros(20), **changed)


def test_it_finds_a_launch_that_overwrites_what_others_read():
    x = torch.arange(21.0)
    with pytest.raises(InterpreterError, match="two programs meet|same launch writes"):
        run(x, x[1:])


def test_it_finds_uninitialised_memory():
    with sanitized():
        empty, out = torch.zeros(3).new_empty(20), torch.zeros(20)
        with pytest.raises(InterpreterError, match="nobody has written"):
            gpu.launch(copy_kernel, (3,), empty, out, 20, **RIGHT, BLOCK=8)
        gpu.launch(copy_kernel, (3,), out, empty, 20, **RIGHT, BLOCK=8)
        gpu.launch(copy_kernel, (3,), empty, out, 20, **RIGHT, BLOCK=8)  # now there is something in it
        with pytest.raises(InterpreterError, match="nobody has written"):
            gpu.launch(copy_kernel, (3,), torch.empty_like(out), out, 20, **RIGHT, BLOCK=8)


def test_the_kernels_are_looked_at():
    with sanitized() as found:
        tiled_matmul(torch.ones(3, 5), torch.ones(2, 5), MatmulSpec(), backend="triton")
    assert found.accesses >= 3 * 5 + 2 * 5 + 3 * 2
