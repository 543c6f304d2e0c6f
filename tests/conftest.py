"""Settings of the whole suite."""

import functools
import os
import signal
import sys
import warnings

# Threads that wait for each other sleep instead of spinning. Several test processes, and those that they start, share
# the cores: spinning, a study of 14 s took 160 s. OpenMP asks once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Each of the processes that tests start would compile all of the package's source anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import hypothesis
import pytest
import torch

# Deterministic: the same examples in every run, so that a statistical test's stated false-alarm rate is paid once.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same random state, and leave the number of threads as it was."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _unwritten_memory_is_no_number():
    """Fill what the package asks torch for without saying what is in it: NaN, or the largest integer.

    (NumPy's `empty` stands in machine code only, which `test_corners.py` runs as Python for the same purpose.)
    """

    def filled(make):
        @functools.wraps(make)
        def made(*given, **more):
            tensor = make(*given, **more)
            if sys._getframe(1).f_globals.get("__name__", "").startswith("analogsim"):
                unwritten(tensor)
            return tensor

        return made

    with pytest.MonkeyPatch.context() as patch:
        for where, name in UNWRITTEN:
            patch.setattr(where, name, filled(getattr(where, name)))
        yield


UNWRITTEN = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty")]


def unwritten(tensor):
    """Fill a tensor with what no test takes for a number that was computed."""
    kind = tensor.dtype
    if kind.is_floating_point or kind.is_complex:
        return tensor.fill_(torch.nan)
    return tensor.fill_(True if kind == torch.bool else torch.iinfo(kind).max)


def pytest_configure(config):
    torch.set_num_threads(1)  # the tensors are tiny, and pytest-xdist shares the machine
    os.environ.setdefault("MPLBACKEND", "Agg")
    # A shell's background jobs ignore it, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings("error")
