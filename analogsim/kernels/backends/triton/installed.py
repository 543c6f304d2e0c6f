"""What can be known of Triton without importing it."""

import os
from functools import cache
from importlib import util


@cache
def triton_installed() -> bool:
    """Return whether Triton can be imported."""
    return util.find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton is told to run kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
