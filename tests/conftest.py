"""Settings of the whole suite."""

import os
import signal
import warnings

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


def pytest_configure(config):
    torch.set_num_threads(1)  # the tensors are tiny, and pytest-xdist shares the machine
    os.environ.setdefault("MPLBACKEND", "Agg")
    # A shell's background jobs ignore it, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings("error")
