"""What this machine is: processor, cores, memory, what is installed (and of which commit), the device to compute on."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import BackendError

LIBRARIES = ("analogsim", "torch", "brevitas", "numpy", "numba", "scipy")


def processor() -> str:
    """Return the processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Return how much memory this machine has, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63


def installed(name: str) -> str | None:
    """Return a package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def revision() -> tuple[str, bool] | None:
    """Return the commit of the library's checkout, and whether library or networks differ from it; None without one."""
    here = Path(__file__)

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *args], cwd=here.parent, capture_output=True, text=True, check=False)

    try:
        if git("ls-files", "--error-unmatch", here.name).returncode:
            return None  # installed, perhaps within somebody else's checkout
        changed = git("diff", "--quiet", "HEAD", "--", ".", "../models").returncode != 0
        return git("rev-parse", "HEAD").stdout.strip(), changed
    except OSError:
        return None


def provenance(device: str) -> dict[str, Any]:
    """Return what a result was computed with: versions, commit, processor, device and threads."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "versions": versions(),
        "commit": commit(),
        "processor": processor(),
        "device": gpu or device,
        "threads": torch.get_num_threads(),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    return found | {name: known for name in LIBRARIES if (known := installed(name))}


@cache
def commit() -> str | None:
    """Return the commit of analogsim's repository, "+changes" where files differ from it; None outside one."""
    known = revision()
    return known and known[0][:12] + "+changes" * known[1]


def choose_device(name: str) -> str:
    """Return the device to compute on; `auto` is the GPU where torch sees one.

    Raises
    ------
    BackendError
        torch knows no such device, or cannot use it here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BackendError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from None
    return name
