"""Which float32 arithmetic a GPU's matrix units use, here and in torch's own libraries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

Precision = Literal["ieee", "tf32", "tf32x3"]
"""ieee: float32 throughout. tf32: of operands the first 11 significant bits, float32 sums. tf32x3: three such products,
nearly float32's accuracy (torch's own libraries have no such mode and use ieee)."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


@contextmanager
def float32_precision(device: torch.device, precision: Precision) -> Iterator[None]:
    """Have cuBLAS and cuDNN compute so within the block, whatever torch is set to; nothing changes on other devices."""
    if device.type != "cuda":
        yield
        return
    fast = precision == "tf32"
    convolution: Any = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(convolution, "fp32_precision"):  # torch 2.9
        settings, name, value = (torch.backends.cuda.matmul, convolution), "fp32_precision", "tf32" if fast else "ieee"
    else:
        settings, name, value = (torch.backends.cuda.matmul, torch.backends.cudnn), "allow_tf32", fast
    before = [getattr(setting, name) for setting in settings]
    for setting in settings:
        setattr(setting, name, value)
    try:
        yield
    finally:
        for setting, old in zip(settings, before):
            setattr(setting, name, old)
