"""The `numba` backend: float32 on the CPU. What it computes with is imported, and compiled, when it is first asked."""

from typing import Any

import torch
from torch import Tensor

from ....profile import Weight
from ...backend import Backend
from ...circuit import Circuit
from ...clips import Clips
from ...conv_job import Job
from ...conversion import Lines
from ...overlap import Overlap
from ...recurrence import Recurrence
from ...spec import MatmulSpec, Read


class Numba(Backend):
    """Machine code of Numba's, on torch's own team of threads."""

    name = "numba"
    dtypes = (torch.float32,)
    recurs = True

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """Name another device or dtype."""
        fits = device == "cpu" and dtype == torch.float32
        return None if fits else f"it computes float32 on the CPU, not {dtype} on {device}; use 'reference'"

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Multiply a block of rows at a time."""
        if read.tile_gains is not None:
            return super().matmul(x, w, read)
        from .matmul import matmul

        return matmul(x, w, read)

    def program(self, weight: Tensor, part: Weight) -> tuple[Tensor, Tensor]:
        """Find scales and divide in one pass."""
        from .matmul import program

        return program(weight, part)

    def fingerprint(self, weight: Tensor) -> object:
        """Hash."""
        from .matmul import fingerprint

        return fingerprint(weight)

    def programs(self, rows: int, outputs: int) -> bool:
        """Take W where memory is all that counts."""
        from .matmul import few_rows

        return few_rows(rows, outputs)

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs in one pass."""
        from .matmul import dac

        return dac(x, spec)

    def accumulate(self, *args: Any, **options: Any) -> int:
        """Add noise, convert and add up in one pass."""
        from .matmul import accumulate

        return accumulate(*args, **options)

    def convert(self, *args: Any) -> int:
        """Convert and add up in one pass."""
        from .device import convert

        return convert(*args)

    def convert_noisy(self, *args: Any, **options: Any) -> int | None:
        """Add noise, convert and add up in one pass, but for distributions of others."""
        from .device import convert_noisy

        return convert_noisy(*args, **options)

    def smooth(self, white: Tensor, rho: float, amplitude: float) -> Tensor:
        """Filter in place, each thread some columns."""
        from .device import smooth

        return smooth(white, rho, amplitude)

    def read_lines(self, x: Tensor, lines: Lines, read: Read) -> tuple[Tensor, Clips | None] | None:
        """Multiply a block of rows at a time by all lines, in all steps."""
        if read.tile_gains is not None:
            return None
        from .device import read_lines

        return read_lines(x, lines, read)

    def recur(self, w: Tensor, read: Read, what: Recurrence) -> tuple[Tensor, list[Tensor]]:
        """Give each thread sequences of its own."""
        from .recurrent import recur

        return recur(w, read, what)

    def settle(self, circuit: Circuit, x: Tensor) -> Tensor:
        """Give each thread inputs of its own, and leave out rows that are disconnected."""
        from .gated import settle

        return settle(circuit, x)

    def noisy(self, x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
        """Add noise in one pass."""
        from .matmul import noisy

        return noisy(x, sigma, multiplicative, seed, stream)

    def add_patches(self, products: Tensor, bias: Tensor | None, where: Overlap) -> Tensor:
        """Add up an image's channel at a time."""
        from .overlap import add_patches

        return add_patches(products, bias, where)

    def convolve_transposed(
        self, x: Tensor, w: Tensor, bias: Tensor | None, where: Overlap, read: Read
    ) -> Tensor | None:
        """Multiply, convert and add up some rows of an image at a time."""
        if read.tile_gains is not None:
            return None
        from .overlap import convolve_transposed

        return convolve_transposed(x, w, bias, where, read)

    def run(self, job: Job, out: Tensor, bits: Tensor | None) -> list[int] | None:
        """Give each thread its output positions."""
        if job.read.tile_gains is not None:
            return super().run(job, out, bits)
        from . import conv

        return conv.run(job, out, bits)
