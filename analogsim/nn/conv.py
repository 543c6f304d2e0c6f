"""AnalogConv1d, AnalogConv2d, AnalogConv3d: torch's convolutions on crossbars."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..kernels import ConvGeometry, uncompiled
from ..kernels.conv_job import patches
from ..kernels.memory import refuse_symbols
from ..profile import HardwareProfile
from .function import convolved, exact_dtype
from .layer import AnalogLayer
from .management import Management, multiplied, rounded


class AnalogSpatial(AnalogLayer):
    """What convolutions and transposed ones share; one of them adds its forward, and a concrete one its twin."""

    def __init__(self, *args: Any, profile: HardwareProfile | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._init_analog(profile)

    def _has_batch(self, x: Tensor) -> bool:
        """Check that x is (B, C, *spatial) or the same without B; return whether it has a batch."""
        conv: Any = self
        spatial = len(conv.kernel_size)
        refuse_symbols(x)
        if x.ndim not in (spatial + 1, spatial + 2):
            raise ShapeError(
                f"{type(self).__name__}: (B, C, *{spatial} spatial) or the same without B needed, got {tuple(x.shape)}"
            )
        self._check_features(x, -spatial - 1, conv.in_channels)
        return x.ndim == spatial + 2


class _AnalogConv(AnalogSpatial):
    """What the three convolutions share; a concrete one adds its digital twin."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; see the class."""
        conv: Any = self
        if self.transparent:
            self._has_batch(x)
            return conv._conv_forward(x, conv.weight, conv.bias)
        return self.convolve(x, conv.weight, conv.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve on this layer's crossbars, with its stride, padding, dilation and groups.

        Parameters
        ----------
        x : Tensor (B, C, *spatial) or (C, *spatial)
        weight : Tensor (N, C / groups, *kernel)
            Digital weights, weight units: the layer's own, or what it computes of them at each call.
        bias : Tensor (N,) or None

        Returns
        -------
        Tensor (B, N, *spatial) or (N, *spatial)
            Activation units, of x's dtype.

        Raises
        ------
        ShapeError
            The input does not fit the layer.
        """
        if self._has_batch(x):
            return self._on_crossbars(x, weight, bias)
        return self._on_crossbars(x[None], weight, bias)[0]

    @uncompiled
    def _on_crossbars(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv: Any = self
        with exact_dtype(x, weight, bias) as (inputs, w, b):
            if not inputs.numel():  # no tile has anything to do
                return conv._conv_forward(inputs, w, b).to(x.dtype)
            inputs, padding = self._pad(inputs)
            for size, kernel, pad, dilation in zip(inputs.shape[2:], conv.kernel_size, padding, conv.dilation):
                if size + 2 * pad < dilation * (kernel - 1) + 1:
                    raise ShapeError(f"{self._where()}: input {tuple(x.shape)} is smaller than the kernel")
            geometry = ConvGeometry(conv.stride, padding, conv.dilation, conv.groups)
            if self._reads_rows(w, geometry):
                return self._unfolded(inputs, w, b, geometry).to(x.dtype)
            plan = self.plan(inputs, w)
            return convolved(rounded(inputs, plan), w, b, geometry, plan, self.learned_range).to(x.dtype)

    def _reads_rows(self, w: Tensor, geometry: ConvGeometry) -> bool:
        """Return whether an input is converted by another rule or DAC under each place of the kernel."""
        managed, places = Management.of(self.profile), geometry.groups * math.prod(w.shape[2:])
        by_vector = managed is not None and managed.by_vector
        return by_vector or (self.profile.dac.differs_by_row and places > 1)

    def _unfolded(self, x: Tensor, w: Tensor, b: Tensor | None, geometry: ConvGeometry) -> Tensor:
        """Convolve by rows: multiply the inputs under the kernel at each position as a linear layer multiplies its own.

        That takes kernel-size times the memory of x, and the time of so much copying. Groups are matrices of their own.
        """
        groups, kernel = geometry.groups, w.shape[2:]
        written = self.write(w)
        size, rows = math.prod(kernel), self.profile.tile.rows
        if self.profile.tile.mapping == "channel" and rows is not None:
            rows = max(1, rows // size) * size
        plan = self.read(x, written).as_matrix(rows)
        matrix, columns, found = w.flatten(1), len(w) // groups, []
        for group, images in enumerate(x.chunk(groups, 1)):
            under = patches(images, kernel, geometry)
            own, part = slice(group * columns, (group + 1) * columns), plan
            if groups > 1:
                part = plan.part(own, *(self.draw(plan.read.spec) if group else (plan.read.seed, plan.read.stream)))
                if self._observer is not None:
                    self._observer.written(written.part(own))
            bias = None if b is None else b[own]
            y = multiplied(under.flatten(0, -2), matrix[own], bias, part, self.learned_range)
            found.append(y.unflatten(0, under.shape[:-1]).movedim(-1, 1))
        return torch.cat(found, 1).contiguous()

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Pad here what the kernel's own symmetric zero padding cannot; return the padding left for the kernel."""
        conv: Any = self
        if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            return x, conv.padding
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        widths = conv._reversed_padding_repeated_twice
        return (F.pad(x, widths, mode=mode) if any(widths) else x), (0,) * len(conv.kernel_size)


class AnalogConv1d(_AnalogConv, nn.Conv1d):
    """nn.Conv1d on simulated crossbars: its constructor arguments, and `profile=`. See `AnalogConv2d`.

    Input (B, C, L) or (C, L).

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogConv1d(3, 4, 5, padding=2, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 4, 16])
    """

    digital = nn.Conv1d


class AnalogConv2d(_AnalogConv, nn.Conv2d):
    """nn.Conv2d on simulated crossbars: its constructor arguments, and `profile=`.

    Input (B, C, H, W) or (C, H, W). Rows of the crossbar are (channel, kernel row, kernel column); by default a tile
    holds whole channels (`tile.mapping`), and each group has tiles of its own. Padding is digital.

    Examples
    --------
    >>> import torch
    >>> layer = AnalogConv2d(3, 4, 5, padding=2, profile=HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    digital = nn.Conv2d


class AnalogConv3d(_AnalogConv, nn.Conv3d):
    """nn.Conv3d on simulated crossbars: its constructor arguments, and `profile=`. See `AnalogConv2d`.

    Input (B, C, D, H, W) or (C, D, H, W).

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogConv3d(3, 4, 3, padding=1, profile=an.HardwareProfile(dac={"bits": 8, "input_range": 1.0}))
    >>> layer(torch.zeros(2, 3, 5, 6, 7)).shape
    torch.Size([2, 4, 5, 6, 7])
    """

    digital = nn.Conv3d
