"""Files of a training: its state after an epoch, and the trained network. Written aside and renamed; no code in them.

========  ================================================================================================
state     `torch.save` (a zip archive), read with weights_only=True and its checksums compared
network   safetensors, whose metadata say what the network is
========  ================================================================================================
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..files import replaced

FORMAT = "analogsim-training-2"
KEY = "analogsim"  # of a network's metadata


def save_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a training's state; a kill at any moment leaves the old file or the new one.

    Parameters
    ----------
    path : Path
    identity : mapping
        Plain values, nested or not, that say which training this is; a resume must have the same ones.
    state : mapping
        Tensors and plain values.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    content = {"format": FORMAT, "identity": json.dumps(identity), "state": dict(state)}
    write_aside(path, lambda aside: torch.save(content, aside))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a training's state, tensors on the CPU.

    Raises
    ------
    CheckpointError
        The file is corrupt, not a training's checkpoint, or that of another training; the message names what differs.
    """
    remedy = f"delete it to train from the start: {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compare them.
            damaged = archive.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"corrupt or foreign checkpoint ({first_line(error)}); {remedy}") from None
    if damaged:
        raise CheckpointError(f"corrupt checkpoint (wrong checksum of {damaged}); {remedy}")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"not a training's checkpoint of this version; {remedy}")
    before, now = flat(json.loads(content["identity"])), flat(json.loads(json.dumps(identity)))
    if other := differences(before, now, "absent"):
        raise CheckpointError(f"checkpoint of another training: {other}; use another directory, or {remedy}")
    return content["state"]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], absent: Any) -> str:
    """Say in what two trainings differ, of more than three settings the first: "lr was 0.1, now it is 0.5"."""
    found = [
        f"{key} was {before.get(key, absent)!r}, now it is {now.get(key, absent)!r}"
        for key in {**before, **now}
        if before.get(key, absent) != now.get(key, absent)
    ]
    return "; ".join(found[:3]) + (f" (and {len(found) - 3} more)" if len(found) > 3 else "")


def save_model(model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write a network's weights (safetensors; tied ones once), and what the network is.

    Parameters
    ----------
    model : nn.Module
    path : Path
    about : mapping
        Plain values for `read_about`: import path, constructor's arguments, data, training, …

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    from safetensors.torch import save_model

    write_aside(path, lambda aside: save_model(model, str(aside), metadata={KEY: json.dumps(about)}))


def read_about(path: Path) -> dict[str, Any]:
    """Read what a network is, without its weights.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or not by `save_model`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file ({first_line(error)}); train again") from None
    try:
        about = json.loads(text or "")
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: does not say which network it holds; it was not written by analogsim")
    return about


def load_model(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load weights into a network, and return what `save_model` was told about it.

    Raises
    ------
    CheckpointError
        As `read_about`, or the weights do not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    about = read_about(path)
    try:
        load_model(model, str(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: its weights do not fit {type(model).__name__}: {error}") from None
    return about


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file aside, then rename it; `durable` as in `write_aside`.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    write_aside(path, lambda aside: aside.write_text(text, "utf-8", "backslashreplace"), durable)


def write_aside(path: Path, write: Callable[[Path], Any], durable: bool = True) -> None:
    """Let a file be written aside, then rename it: there is the old one or the new one, whenever the process dies.

    `durable`: even if the power fails.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as aside:
            write(aside)
            if durable:
                with aside.open("rb") as file:
                    # On the disk before it has its name, so that a power failure leaves no empty file.
                    os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {first_line(error)}") from error


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    return dict(_leaves(value, name))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def first_line(error: Exception, most: int = 120) -> str:
    """Return the first line of what an error says, or the error's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
