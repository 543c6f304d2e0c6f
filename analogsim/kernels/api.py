"""The public functions: what is asked for is checked here, and handed to a backend."""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import NonFiniteError, ProfileError, ShapeError
from ..profile import Range
from ..seeds import checked
from .backend import HALF, Backend, BackendName
from .clips import Clips
from .dispatch import choose
from .memory import described, refuse_bodiless
from .spec import BySlice, MatmulSpec, Read
from .tiles import ConvGeometry


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
    backend: BackendName | Backend = "auto",
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
    backend : {"auto", "reference", "numba", "triton"} or Backend

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
    ProfileError
        The spec's ADCs have a range [low, high], which only layers convert with.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> spec = an.MatmulSpec(rows=256, dac_bits=8, adc_bits=8, adc_full_scale=200.0)
    >>> y, clips = an.tiled_matmul(torch.ones(2, 512), torch.full((3, 512), 0.5), spec)
    >>> y.shape, y[0, 0]  # two tiles' sums of 128, each rounded to a multiple of 200/127
    (torch.Size([2, 3]), tensor(255.1181))
    """
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ShapeError(f"x (M, K) and w (N, K) needed, got {tuple(x.shape)} and {tuple(w.shape)}")
    kernel = choose(x, backend)
    _same_kind(x, w, kernel, scale, bias)
    _refuse_ranges(spec)
    return kernel.matmul(x, w, Read(spec, checked(seed), checked(stream, what="stream"), scale, bias, record_clips))


def tiled_conv(
    x: Tensor,
    w: Tensor,
    spec: MatmulSpec,
    geometry: ConvGeometry,
    seed: int = 0,
    stream: int = 0,
    *,
    mapping: Literal["channel", "im2col"] | None = None,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    record_clips: bool = False,
    backend: BackendName | Backend = "auto",
) -> tuple[Tensor, Clips | None]:
    """Convolve on simulated crossbars; the same meaning as `tiled_matmul` on the unfolded input.

    Parameters
    ----------
    x : Tensor (B, C, *spatial)
        Inputs in activation units; 1 to 3 spatial dimensions.
    w : Tensor (N, C / groups, *kernel)
        Programmed weights, normalised units.
    mapping : {"channel", "im2col"}, optional
        How rows are cut into tiles: whole input channels, so that each tile is a convolution; or anywhere. Without it,
        as the spec says.
    scale, bias : Tensor (N,), optional

    Returns
    -------
    out : Tensor (B, N, *output spatial)
    clips : Clips or None

    Other parameters, and what is raised, are those of `tiled_matmul`.
    """
    spatial = x.ndim - 2
    if not 1 <= spatial <= 3 or w.ndim != x.ndim or x.shape[1] != w.shape[1] * geometry.groups:
        raise ShapeError(
            f"x (B, C, *spatial) and w (N, C/groups, *kernel) needed, got {tuple(x.shape)} and {tuple(w.shape)} "
            f"with groups={geometry.groups}"
        )
    kernel = choose(x, backend)
    _same_kind(x, w, kernel, scale, bias)
    _refuse_ranges(spec)
    spec = spec if mapping is None else replace(spec, mapping=mapping)
    read = Read(spec, checked(seed), checked(stream, what="stream"), scale, bias, record_clips)
    if x.dtype not in HALF:
        return kernel.convolve(x, w, geometry, read)
    # cuDNN would round a tile's sums to half precision. TF32 holds half precision's operands, and sums in float32.
    gain, offset = (v if v is None else v.float() for v in (scale, bias))
    read = replace(read, spec=replace(spec, precision="tf32"), scale=gain, bias=offset)
    out, clips = kernel.convolve(x.float(), w.float(), geometry, read)
    return out.to(x.dtype), clips


def add_noise(
    x: Tensor,
    sigma: Tensor | float,
    multiplicative: Tensor | float = 0.0,
    seed: int = 0,
    stream: int = 0,
    *,
    backend: BackendName | Backend = "auto",
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
    backend : {"auto", "reference", "numba", "triton"} or Backend

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


def _refuse_ranges(spec: MatmulSpec) -> None:
    if any(isinstance(scale, Range) for scale in spec.full_scales):
        raise ProfileError("adc.full_scale: ADCs with a range [low, high] are of layers; give a number here")
    if isinstance(spec.adc_full_scale, BySlice):
        raise ProfileError("adc.full_scale: slices and steps are of layers; give a number here, or one for each tile")


def _same_kind(x: Tensor, w: Tensor, kernel: Backend, scale: Tensor | None, bias: Tensor | None) -> None:
    refuse_bodiless(w, scale, bias)
    if x.dtype != w.dtype or x.device != w.device or x.dtype not in kernel.dtypes:
        raise ShapeError(
            "x and w must be float32 or float64 (bfloat16 and float16 only by the triton backend), of one dtype on one "
            f"device; got {x.dtype} on {x.device} and {w.dtype} on {w.device}"
        )
    kinds = (x.dtype, torch.float32) if x.dtype in HALF else (x.dtype,)
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and (value.shape != (len(w),) or value.dtype not in kinds or value.device != x.device):
            raise ShapeError(
                f"{name}: {len(w)} numbers of {' or '.join(map(str, kinds))} on {x.device} needed, one an output; got "
                f"{described(value)}"
            )
