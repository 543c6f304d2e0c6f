"""Noise grids, arguments and threads as a shell gives them."""

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import numpy as np

MOST_THREADS = 1024  # the system gives out no endless number, and what it refuses ends the process


def sigma_grid(text: str) -> "np.ndarray":
    """Read a noise grid: "logspace(-2,2,17)", "geomspace(0.01,100,17)", "linspace(0.1,1,10)" or "0.1,0.3,1".

    Raises
    ------
    typer.BadParameter
        It is none of these, or makes no positive finite number.
    """
    from ..sigmas import read_sigmas

    try:
        return read_sigmas(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--sigmas") from None


def key_values(items: list[str]) -> dict[str, Any]:
    """Read "key=value" arguments; a value is JSON where it can be (16, 0.5, true, [1,2]), else text.

    Raises
    ------
    typer.BadParameter
        An item is not key=value.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not (equals and key.isidentifier()):
            raise typer.BadParameter(f"{item!r}: key=value is needed, such as pool=average", param_hint="--arg")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = {"True": True, "False": False, "None": None}.get(text, text)
    return values


def use_threads(threads: int | None) -> None:
    """Set how many threads torch and the kernels use; None leaves their default."""
    if threads:
        import torch

        torch.set_num_threads(threads)
