"""Products on simulated crossbars: `tiled_matmul`, `tiled_conv`, `add_noise`, and the backends that compute them.

============  =========================================================================
backend       what it is
============  =========================================================================
`reference`   plain torch, any device, float32 and float64: the statement of the meaning
`numba`       CPU, float32: a BLAS call per tile and one fused pass over each partial sum
`triton`      CUDA, float32, bfloat16, float16: one kernel for the whole product (docs/gpu.md)
============  =========================================================================

A reader begins with `reference.py` (what is computed), then `backend.py` (who may compute it).
"""

from . import fork as fork  # what is to be done when the process forks must be known from the start
from .api import add_noise, tiled_conv, tiled_matmul
from .backend import Backend, BackendName
from .backends.triton.installed import interpreting, triton_installed
from .clips import Clips
from .dispatch import BACKENDS, choose, resolve, uncompiled
from .precision import Precision
from .recurrence import Cell, Recurrence
from .spec import BySlice, MatmulSpec, Read
from .tiles import ConvGeometry

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendName",
    "BySlice",
    "Cell",
    "Clips",
    "ConvGeometry",
    "MatmulSpec",
    "Precision",
    "Read",
    "Recurrence",
    "add_noise",
    "choose",
    "interpreting",
    "resolve",
    "tiled_conv",
    "tiled_matmul",
    "triton_installed",
    "uncompiled",
]
