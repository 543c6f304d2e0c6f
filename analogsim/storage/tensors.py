"""safetensors files: tensors by name and text beside them, in which nothing is executed, with a checksum of all."""

import json
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .kept import checksum


def unpacked(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    from safetensors.torch import load

    tensors = load(data)
    # A header of JSON follows its length; the reader of the tensors has found it sound.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, header.get("__metadata__", {})


def tensors_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 of weights, their names and metadata, as hexadecimal digits."""
    shapes = {name: [str(value.dtype), *value.shape] for name, value in tensors.items()}
    crc = int(checksum({"metadata": metadata, "tensors": shapes}), 16)
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
