"""Checkpoints of a training: written aside and renamed, loaded without executing code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

FORMAT = "analogsim-training-1"


def save_checkpoint(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a training's state; a kill at any moment leaves the old file or the new one.

    Parameters
    ----------
    identity : dict
        Plain values that say which training this is; a resume must have the same ones.
    state : dict
        Tensors and plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        torch.save({"format": FORMAT, "identity": identity, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a training's state (torch.load with weights_only=True).

    Raises
    ------
    CheckpointError
        The file is corrupt, not a training's checkpoint, or that of another training.
    """
    remedy = f"delete it to train from the start: {path}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"corrupt checkpoint ({type(error).__name__}); {remedy}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"not a training's checkpoint; {remedy}")
    for key, value in identity.items():
        if content["identity"].get(key) != value:
            raise CheckpointError(
                f"checkpoint of another training: {key} was {content['identity'].get(key)!r}, now it is {value!r}; "
                f"use another directory, or {remedy}"
            )
    return content["state"]
