"""Data, training, checkpoints and studies.

A study file becomes a directory of results by `run_study(load_study(FILE), DIR)`; `load_results(DIR)` and
`summarise(DIR)` are its tables.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .file import load_study
    from .packing import pack_study
    from .report import write_report
    from .results import load_hardware, load_map, load_network, load_results, summarise
    from .run import run_study

__all__ = [
    "load_study",
    "run_study",
    "load_results",
    "load_hardware",
    "load_map",
    "load_network",
    "summarise",
    "write_report",
    "pack_study",
]

_HOMES = {
    "load_study": "file",
    "run_study": "run",
    "load_results": "results",
    "load_hardware": "results",
    "load_map": "results",
    "load_network": "results",
    "summarise": "results",
    "write_report": "report",
    "pack_study": "packing",
}


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: whoever wants a data set only need not wait for all of this.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
