"""Numbers, names and devices as a shell gives them."""

import json
import re
from typing import TYPE_CHECKING, Any

import typer

from ..errors import BackendError

if TYPE_CHECKING:
    import numpy as np


def sigma_grid(text: str) -> "np.ndarray":
    """Read a noise grid: "logspace(-2,2,17)", "geomspace(0.01,100,17)", "linspace(0.1,1,10)" or "0.1,0.3,1".

    Raises
    ------
    typer.BadParameter
        It is none of these, or makes no positive finite number.
    """
    import numpy as np

    called = re.fullmatch(r"\s*(logspace|geomspace|linspace)\s*\((.*)\)\s*", text)
    try:
        values = [float(part) for part in (called[2] if called else text).split(",")]
        if called:
            start, stop, count = values
            if count != int(count) or not 1 <= count <= 10_000:
                raise ValueError
            with np.errstate(all="ignore"):
                values = getattr(np, called[1])(start, stop, int(count)).tolist()
        grid = np.array(values)
        if not np.isfinite(grid).all() or (grid < 0).any() or not (grid > 0).any():
            raise ValueError
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r}: give noise levels such as 'logspace(-2,2,17)', 'linspace(0.1,1,10)' or '0.1,0.3,1', "
            "finite and not negative",
            param_hint="--sigmas",
        ) from None
    return grid


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


def use_threads(threads: int | None) -> None:
    """Set how many threads torch and the kernels use; None leaves their default."""
    if threads:
        import torch

        torch.set_num_threads(threads)
