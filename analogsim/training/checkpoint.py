"""Files of a training: its state after an epoch, and the trained network. Written aside and renamed; no code in them.

========  ================================================================================================
state     `torch.save` (a zip archive), read with weights_only=True and its checksums compared
network   safetensors, whose metadata say what the network is, with a checksum of all
========  ================================================================================================
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..storage.files import content, first_line, write_aside
from ..storage.kept import CHECKSUM, opened, why
from ..storage.tensors import tensors_checksum, unpacked
from ..value import Value

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
    values = {"format": FORMAT, "identity": json.dumps(identity), "state": dict(state)}
    write_aside(path, lambda aside: torch.save(values, aside))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a training's state, tensors on the CPU.

    Raises
    ------
    CheckpointError
        The file is corrupt, not a training's checkpoint, or that of another training; the message names what differs.
    """
    remedy = f"move it away to train from the start, or put a good copy in its place: {path}"
    try:
        found = torch.load(_sound(content(path, None)), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # what bytes that are no checkpoint make its readers raise
        raise CheckpointError(f"corrupt or foreign checkpoint ({first_line(error)}); {remedy}") from None
    try:
        kept = _Checkpoint.model_validate(found)
        before = flat(json.loads(kept.identity))
    except ValueError:
        raise CheckpointError(f"not a training's checkpoint of this version; {remedy}") from None
    now = flat(json.loads(json.dumps(identity)))
    if other := differences(before, now, "absent"):
        raise CheckpointError(f"checkpoint of another training: {other}; use another directory, or {remedy}")
    return kept.state


def _sound(archive: bytes) -> io.BytesIO:
    """Return an archive of the same records, each of which has the checksum that it was written with.

    torch does not compare checksums, and believes all that the archive says of a record: of one that is said to be
    a folder it reads nothing, and hands out whatever was in memory. So it gets an archive that says only the names.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as kept, zipfile.ZipFile(clean, "w") as sound:
        for name in kept.namelist():
            sound.writestr(zipfile.ZipInfo(name), kept.read(name))
    clean.seek(0)
    return clean


class _Checkpoint(Value):
    format: Literal["analogsim-training-2"]
    identity: str
    state: dict[str, Any]


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
    from safetensors.torch import save, save_model

    def write(aside: Path) -> None:
        save_model(model, str(aside), metadata={KEY: json.dumps(about)})
        tensors, metadata = unpacked(aside.read_bytes())
        aside.unlink()  # safetensors makes files that nobody else may read
        aside.write_bytes(save(tensors, metadata | {CHECKSUM: tensors_checksum(tensors, metadata)}))

    write_aside(path, write)


def read_about(path: Path) -> dict[str, Any]:
    """Read what a network is, and compare the checksum of its weights; raises what `Weights.read` does."""
    return Weights.read(path).about


def load_model(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load weights into a network, and return what `save_model` was told about it.

    Raises
    ------
    CheckpointError
        As `Weights.read`, or the weights do not fit the network.
    """
    weights = Weights.read(path)
    weights.load(model)
    return weights.about


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's file, read once: whatever becomes of the file then, all of this is of what was read.

    Attributes
    ----------
    path : Path
    tensors : dict
        By name; tied ones by each of theirs.
    about : dict
        What `save_model` was told.
    crc32 : str
        Of the file's bytes, as hexadecimal digits.
    """

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    crc32: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `save_model` wrote.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or not by `save_model`.
        """
        remedy = "put a good copy in its place, or train again with another --out"
        try:
            data = content(path, None)
            tensors, metadata = unpacked(data)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; `analogsim train` writes one") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        except Exception as error:  # what bytes that are no such file make its readers raise
            raise CheckpointError(f"{path}: damaged ({first_line(error)}); {remedy}") from None
        if KEY not in metadata:
            raise CheckpointError(f"{path}: does not say which network it holds; it was not written by analogsim")
        known = metadata.pop(CHECKSUM, None)
        # Tied weights are there once: their other names stand for them.
        others = {name: stands_for for name, stands_for in metadata.items() if name != KEY}
        unknown = [name for name, stands_for in others.items() if stands_for not in tensors]
        if unknown or known not in (None, tensors_checksum(tensors, metadata)):
            what = f"unknown entry {unknown[0]!r}" if unknown else "its checksum is not that of when it was written"
            raise CheckpointError(f"{path}: damaged ({what}); {remedy}")
        tensors |= {name: tensors[stands_for] for name, stands_for in others.items()}
        try:
            return cls(path, tensors, opened(metadata[KEY]), f"{zlib.crc32(data):08x}")
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({why(error)}); {remedy}") from None

    def load(self, model: nn.Module) -> None:
        """Load the weights into a network.

        Raises
        ------
        CheckpointError
            They do not fit it.
        """
        try:
            model.load_state_dict(self.tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: its weights do not fit {type(model).__name__}: {error}") from None


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    return dict(_leaves(value, name))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
