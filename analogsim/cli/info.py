"""`analogsim info`: what is installed, what the machine is, and which kernel would compute."""

import json
import os
import platform
from typing import Any

import typer
from rich.table import Table

from .. import __version__
from ..machine import installed, processor, usable_cores
from .base import out, plain
from .output import JsonOption

LIBRARIES = ("torch", "numba", "triton", "brevitas", "numpy", "scipy")


def info(
    form: JsonOption = "table",
) -> None:
    """Show versions, processor, threads, GPU, and the kernel that [bold]auto[/] picks."""
    facts = gather()
    if form == "json":
        typer.echo(json.dumps(facts, indent=2))
        return

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # a path, and what is to be typed, are whole
    for name, value in facts["versions"].items():
        table.add_row(name, value or "[red]not installed[/]")
    table.add_row()
    machine = facts["machine"]
    table.add_row("processor", plain(machine["processor"]))
    table.add_row("cores", f"{machine['cores']} usable of {machine['cores_of_machine']}")
    table.add_row("torch threads", str(machine["torch_threads"]))
    table.add_row("GPU", plain(", ".join(machine["gpus"])) or "none")
    table.add_row()
    for name, reason in facts["backends"].items():
        table.add_row(f"backend {name}", "[green]available[/]" if reason is None else f"[yellow]{plain(reason)}[/]")
    for case, name in facts["auto"].items():
        table.add_row(f"auto, {case}", name)
    table.add_row()
    kept = facts["machine_code"]
    place = f"[yellow]compiled anew in each process: {plain(str(kept['reason']))}[/]"
    table.add_row("machine code", place if kept["folder"] is None else plain(f"kept in {kept['folder']}"))
    out().print(table)


def gather() -> dict[str, Any]:
    """Return versions, machine, backends (name → why it is not available, or None), `auto`'s choices, and where machine
    code is kept (or why not).
    """
    import torch

    from ..kernels import BACKENDS, resolve
    from ..kernels.backends.numba.compiled import ADVICE, place

    folder, reason = place()
    versions: dict[str, str | None] = {"analogsim": __version__, "python": platform.python_version()}
    versions |= {name: installed(name) for name in LIBRARIES}
    versions["torch"] = torch.__version__
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ("cpu", "cuda") if cuda else ("cpu",)
    backends: dict[str, str | None] = {}
    for backend in BACKENDS:
        reasons = [backend.why_not(device, torch.float32) for device in here]
        backends[backend.name] = None if None in reasons else reasons[-1]
    cases = {
        "float32 on the CPU": ("cpu", torch.float32),
        "float64 on the CPU": ("cpu", torch.float64),
        "float32 on CUDA": ("cuda", torch.float32),
        "bfloat16 on CUDA": ("cuda", torch.bfloat16),
        "float64 on CUDA": ("cuda", torch.float64),
    }
    return {
        "versions": versions,
        "machine": {
            "processor": processor(),
            "cores": usable_cores(),
            "cores_of_machine": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(number) for number in range(cuda)],
        },
        "backends": backends,
        "auto": {case: resolve(device, dtype) for case, (device, dtype) in cases.items()},
        "machine_code": {
            "folder": None if folder is None else str(folder),
            "reason": None if reason is None else f"{reason}; {ADVICE}",
        },
    }
