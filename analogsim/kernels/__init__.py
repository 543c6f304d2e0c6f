"""The tiled matrix product on simulated crossbars: validation, and choice of backend.

============  =========================================================================
backend       what it is
============  =========================================================================
`reference`   plain torch, any device, float32 and float64: the statement of the meaning
`numba`       CPU, float32: a BLAS call per tile and one fused pass over each partial sum
`triton`      CUDA, float32, bfloat16, float16: one kernel for the whole product (docs/gpu.md)
============  =========================================================================
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module, util
from types import ModuleType
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import BackendError, NonFiniteError, ShapeError
from ..seeds import checked
from . import fork as fork  # what is to be done when the process forks must be known from the start
from .clips import Clips
from .memory import described, refuse_bodiless
from .philox import refuse_recording
from .precision import Precision
from .spec import MatmulSpec, Read

__all__ = [
    "Backend",
    "Clips",
    "ConvGeometry",
    "MatmulSpec",
    "Precision",
    "Read",
    "add_noise",
    "choose",
    "resolve",
    "tiled_conv",
    "tiled_matmul",
    "uncompiled",
]

Backend = Literal["auto", "reference", "numba", "triton"]
MODULES = {"reference": ".backends.reference", "numba": ".backends.numba.matmul", "triton": ".backends.triton.matmul"}
HALF = (torch.bfloat16, torch.float16)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """How a convolution (1 to 3 spatial dimensions) walks over its input, as in torch.nn.functional.conv2d."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


def tiled_matmul(
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    seed: int = 0,
    stream: int = 0,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    record_clips: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Clips | None]:
    """Multiply on simulated crossbars: Σ_t ADC(DAC(x)_t ŵ_tᵀ + noise), then digitally ·scale + bias.

    The meaning is `reference.tiled_matmul` (design 3.1-3.6); every backend computes it with the same random numbers.

    Parameters
    ----------
    x : Tensor (M, K)
        Inputs in activation units: float32; float64 (reference only); bfloat16 or float16 (triton only: products and
        sums are float32, the result is rounded to x's dtype).
    w : Tensor (N, K)
        Programmed weights in normalised units, of x's dtype and device.
    spec : MatmulSpec
    seed, stream : int
        64 bits each: the key of the random numbers, and who draws (one per call; below 2^56, for what is above belongs
        to the layers, `analogsim.seeds`).
    scale, bias : Tensor (N,), optional
        Digital gain of each column (usually α·w_max) and offset, activation units; of x's dtype (or float32 where that
        is half precision) and device.
    record_clips : bool
        Also return where each tile's ADC clipped (None where the ADC does not clip).
    backend : {"auto", "reference", "numba", "triton"}

    Returns
    -------
    out : Tensor (M, N)
    clips : Clips or None

    Raises
    ------
    ShapeError
        Shapes or dtypes do not fit together.
    BackendError
        The backend asked for cannot run on these tensors, or their numbers are not in memory of their own
        (`memory.refuse_bodiless`).
    SeedError
        The seed or the stream is no whole number in [0, 2^64).
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ShapeError(f"x (M, K) and w (N, K) needed, got {tuple(x.shape)} and {tuple(w.shape)}")
    kernel = choose(x, backend)
    _same_kind(x, w, kernel, scale, bias)
    return kernel.matmul(x, w, Read(spec, checked(seed), checked(stream, what="stream"), scale, bias, record_clips))


def tiled_conv(
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    seed: int = 0,
    stream: int = 0,
    *,
    mapping: Literal["channel", "im2col"] = "channel",
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    record_clips: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Clips | None]:
    """Convolve on simulated crossbars; the same meaning as `tiled_matmul` on the unfolded input.

    Parameters
    ----------
    x : Tensor (B, C, *spatial)
        Inputs in activation units; 1 to 3 spatial dimensions.
    w : Tensor (N, C / groups, *kernel)
        Programmed weights, normalised units.
    mapping : {"channel", "im2col"}
        How rows are cut into tiles: whole input channels, so that each tile is a convolution; or anywhere.
    scale, bias : Tensor (N,), optional

    Returns
    -------
    out : Tensor (B, N, *output spatial)
    clips : Clips or None

    Other parameters, and what is raised, are those of `tiled_matmul`.
    """
    from .conv import convolve

    spatial = x.ndim - 2
    if not 1 <= spatial <= 3 or w.ndim != x.ndim or x.shape[1] != w.shape[1] * geometry.groups:
        raise ShapeError(
            f"x (B, C, *spatial) and w (N, C/groups, *kernel) needed, got {tuple(x.shape)} and {tuple(w.shape)} "
            f"with groups={geometry.groups}"
        )
    kernel = choose(x, backend)
    _same_kind(x, w, kernel, scale, bias)
    read = Read(spec, checked(seed), checked(stream, what="stream"), scale, bias, record_clips)
    if x.dtype not in HALF:
        return convolve(kernel, x, w, geometry, mapping, read)
    # cuDNN would round a tile's sums to half precision. TF32 holds half precision's operands, and sums in float32.
    gain, offset = (v if v is None else v.float() for v in (scale, bias))
    read = replace(read, spec=replace(spec, precision="tf32"), scale=gain, bias=offset)
    out, clips = convolve(kernel, x.float(), w.float(), geometry, mapping, read)
    return out.to(x.dtype), clips


def add_noise(
    x: Tensor,
    sigma: Tensor | float,
    multiplicative: Tensor | float = 0.0,
    seed: int = 0,
    stream: int = 0,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Return x·(1 + σ_m·n₁) + σ·n₂ with fresh standard normals, in one pass.

    Parameters
    ----------
    x : Tensor
        Floating point; any shape, units and strides; the noise follows the flat index of the contiguous layout.
    sigma, multiplicative : float or Tensor
        Standard deviations, in units of x and relative; a tensor has one value, or one per sample: shape
        (len(x), 1, …, 1) or (len(x),).
    seed, stream : int
    backend : {"auto", "reference", "numba", "triton"}

    Raises
    ------
    ShapeError
        x is not floating point, or a tensor of σ has another shape.
    NonFiniteError
        A σ is negative, NaN or infinite.
    BackendError
        As `tiled_matmul`.
    SeedError
        The seed or the stream is no whole number in [0, 2^64).
    """
    if not x.is_floating_point():
        raise ShapeError(f"noise: a floating-point tensor is needed, got {x.dtype}")
    kernel = choose(x, backend)
    levels = _level("sigma", sigma, x), _level("multiplicative", multiplicative, x)
    return kernel.noisy(x, *levels, checked(seed), checked(stream, what="stream"))


def _level(name: str, value: Tensor | float, x: Tensor) -> Tensor | float:
    """Return a checked σ: a number, or a tensor that broadcasts over x."""
    if not isinstance(value, Tensor):
        if not (math.isfinite(value) and value >= 0):
            raise NonFiniteError(f"{name}: must be finite and not negative (got {value!r})")
        return value
    refuse_bodiless(value)
    samples = len(x) if x.ndim else 1
    if value.numel() != 1 and (value.numel() != samples or len(value) != samples):
        raise ShapeError(f"{name}: one value, or one for each of {samples} samples, needed; got {described(value)}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return value.detach().to(x.device, wide).reshape((-1, *[1] * (x.ndim - 1)) if x.ndim else ())


def choose(x: Tensor, backend: Backend = "auto") -> ModuleType:
    """Return the kernel module that will compute on tensors like x.

    Raises
    ------
    BackendError
        The backend asked for by name cannot run on this device, dtype or installation; the call is being recorded; or
        x's numbers are not in memory of its own.
    """
    name = resolve(x.device.type, x.dtype, backend)
    refuse_bodiless(x)
    return import_module(MODULES[name], __name__)


def resolve(device: str, dtype: torch.dtype, backend: Backend = "auto") -> str:
    """Return the name of the backend that will compute on tensors of this kind, without loading it.

    `auto` takes numba for float32 on the CPU, triton (where it is installed) for float32 and half precision on CUDA
    devices, and the reference for everything else.

    Parameters
    ----------
    device : str
        Its type: "cpu", "cuda", …
    dtype : torch.dtype
    backend : {"auto", "reference", "numba", "triton"}

    Raises
    ------
    BackendError
        The backend asked for by name cannot run on this device, dtype or installation; or the call is being recorded.
    """
    refuse_recording()
    if backend != "auto" and backend not in MODULES:
        raise BackendError(f"no backend {backend!r}: choose auto, {', '.join(MODULES)}")
    fits_numba = device == "cpu" and dtype == torch.float32
    fits_triton = device == "cuda" and dtype in (torch.float32, *HALF)
    if backend == "auto":
        if fits_triton and triton_installed():
            return "triton"
        return "numba" if fits_numba else "reference"
    if backend == "triton":
        return _triton(device, dtype)
    if backend == "numba" and not fits_numba:
        raise BackendError(f"backend 'numba' computes float32 on the CPU, not {dtype} on {device}; use 'reference'")
    return backend


def _triton(device: str, dtype: torch.dtype) -> str:
    if not triton_installed():
        raise BackendError("backend 'triton': Triton is not installed (it comes with torch for CUDA)")
    if device != "cuda" and not (device == "cpu" and interpreting()):
        raise BackendError(
            f"backend 'triton' computes on CUDA devices, not on {device}; use 'auto' (TRITON_INTERPRET=1, set before "
            "Python starts, runs it on the CPU in Triton's interpreter: to test it, very slowly)"
        )
    if dtype not in (torch.float32, *HALF):
        raise BackendError(f"backend 'triton' computes float32, bfloat16 and float16, not {dtype}; use 'reference'")
    return "triton"


@cache
def triton_installed() -> bool:
    """Return whether Triton can be imported (without importing it)."""
    return util.find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton is told to run kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that torch.compile shall call and not trace: its graph breaks here.

    As `torch.compiler.disable`, which however imports the compiler (a second) wherever it decorates.
    """

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return torch.compiler.disable(function)(*args, **kwargs)  # type: ignore[call-arg]
        return function(*args, **kwargs)

    return inner


def _same_kind(x: Tensor, w: Tensor, kernel: ModuleType, scale: Tensor | None, bias: Tensor | None) -> None:
    refuse_bodiless(w, scale, bias)
    half = HALF if kernel.__name__.endswith(MODULES["triton"]) else ()
    if x.dtype != w.dtype or x.device != w.device or x.dtype not in (torch.float32, torch.float64, *half):
        raise ShapeError(
            "x and w must be float32 or float64 (bfloat16 and float16 only by the triton backend), of one dtype on one "
            f"device; got {x.dtype} on {x.device} and {w.dtype} on {w.device}"
        )
    kinds = (x.dtype, torch.float32) if x.dtype in half else (x.dtype,)
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and (value.shape != (len(w),) or value.dtype not in kinds or value.device != x.device):
            raise ShapeError(
                f"{name}: {len(w)} numbers of {' or '.join(map(str, kinds))} on {x.device} needed, one an output; got "
                f"{described(value)}"
            )
