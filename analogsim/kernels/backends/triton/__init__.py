"""The `triton` backend: CUDA devices (docs/gpu.md). Triton is imported when it is first asked to compute."""

from typing import Any

import torch
from torch import Tensor

from ...backend import HALF, Backend
from ...clips import Clips
from ...conv_job import Job
from ...spec import MatmulSpec, Read
from .installed import interpreting, triton_installed


class Triton(Backend):
    """Triton's kernels; half precision, too."""

    name = "triton"
    dtypes = (torch.float32, *HALF)

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """Name what is missing, or another device or dtype."""
        if not triton_installed():
            return "Triton is not installed (it comes with torch for CUDA)"
        if device != "cuda" and not (device == "cpu" and interpreting()):
            return (
                f"it computes on CUDA devices, not on {device}; use 'auto' (TRITON_INTERPRET=1, set before Python "
                "starts, runs it on the CPU in Triton's interpreter: to test it, very slowly)"
            )
        if dtype not in self.dtypes:
            return f"it computes float32, bfloat16 and float16, not {dtype}; use 'reference'"
        return None

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Multiply in one kernel."""
        if read.tile_gains is not None:
            return super().matmul(x, w, read)
        from .matmul import matmul

        return matmul(x, w, read)

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs in one kernel."""
        from .matmul import dac

        return dac(x, spec)

    def accumulate(self, *args: Any, **options: Any) -> int:
        """Add noise, convert and add up in one kernel; waits for the GPU to count where `bits` are given."""
        from .matmul import accumulate

        return accumulate(*args, **options)

    def noisy(self, x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
        """Add noise in one kernel, computed in float32."""
        from .matmul import noisy

        return noisy(x, sigma, multiplicative, seed, stream)

    def matmul_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, spec: MatmulSpec, clips: Clips | None, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Apply masks of clips as the gradient is loaded: a tile's masked gradient is not written anywhere."""
        from .matmul import matmul_backward

        return matmul_backward(grad, x, w, spec, clips, needs)

    def run(self, job: Job, out: Tensor, bits: Tensor | None) -> list[int] | None:
        """Convolve by cuDNN, a tile at a time; clips stay on the device, uncounted."""
        if job.read.tile_gains is not None:
            return super().run(job, out, bits)
        from .conv import run

        return run(job, out, bits)
