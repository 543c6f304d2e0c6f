"""Processes forked after threads have computed: none of those threads is there, and none is waited for."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, os, sys, warnings
import torch
from torch.utils.data import DataLoader
import analogsim as an

warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
torch.set_num_threads(2)
hardware = an.HardwareProfile(dac={"bits": 8, "input_range": 4.0}, adc={"bits": 8, "full_scale": 8.0})
layer = an.AnalogLinear(128, 256, profile=hardware).eval().requires_grad_(False)
x = torch.randn(512, 128, generator=torch.Generator().manual_seed(0))

def answer(_=None):
    return float(layer(x).double().sum())

def torchs():
    return float((x @ x.T).exp().mean())

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return answer()

def forked(what, child):
    print(what, flush=True)
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0, what
    else:
        try:
            child()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)

def alone():
    assert torch.get_num_threads() == 1
    torchs(), answer()

def given_back():
    torch.set_num_threads(2)
    try:
        answer()
    except an.AnalogSimError as error:
        assert "forked" in str(error) and "\\n" not in str(error)
    else:
        raise AssertionError("not refused")

torchs()
forked("torch alone had threads", alone)
want = answer()
forked("a team ran", lambda: abs(answer() - want) < 1e-3 or 1 / 0)
forked("threads given back", given_back)
print("pool", flush=True)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all(abs(value - want) < 1e-3 for value in pool.map(answer, range(3)))
print("DataLoader", flush=True)
loader = DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
assert all(abs(value - want) < 1e-3 for value in loader)
assert torch.get_num_threads() == 2 and answer() == want
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.slow
def test_a_forked_process_computes_on_one_thread():
    """By os.fork, in a pool and in a DataLoader; one that hangs is killed after two minutes, and the test fails."""
    own = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=own, timeout=120, check=False, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
