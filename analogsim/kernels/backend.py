"""The contract of a backend: whoever computes products on crossbars is asked for these, and for nothing else.

A backend is a class that derives from `Backend` and computes at least `dac` and `accumulate`; what else it has a faster
way for, it replaces. An object of it is an argument of the public functions and an attribute of every layer:
`tiled_matmul(x, w, spec, backend=Mine())`, `layer.backend = Mine()`. docs/extending.md has an example.

Units are those of design section 3: inputs x and outputs in activation units; x̂, weights ŵ, partial sums and full
scales in normalised units.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ..profile import Weight
from . import backward, overlap, reference
from .circuit import Circuit, settle
from .clips import Clips
from .conv_job import Job, convolve_natively, run_in_chunks
from .conversion import Conversion, Lines
from .memory import contiguous
from .recurrence import Recurrence
from .rows import multiply_by_tile
from .spec import MatmulSpec, Read
from .tiles import ConvGeometry, cut
from .weights import normalised, weight_scale

BackendName = Literal["auto", "reference", "numba", "triton"]
"""Backends by name; `auto` is the first of `BACKENDS` that can compute the tensors at hand."""
HALF = (torch.bfloat16, torch.float16)


class Backend(ABC):
    """Computes products on crossbars, with converters and noise.

    Attributes
    ----------
    name : str
        For messages, and for the argument `backend`.
    dtypes : tuple of torch.dtype
        Of x and w in `matmul`. (Layers compute half precision in float32.)
    fast : bool
        Whether its noise is worth its time where any other would do, too (injected noise on a GPU).
    wants_sums : bool
        Whether `accumulate` is to see partial sums that nothing converts, too.
    recurs : bool
        Whether it has `recur`.
    """

    name: str = "a backend of your own"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    fast: bool = True
    wants_sums: bool = False
    recurs: bool = False

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """Return why tensors of this kind cannot be computed here, in a sentence for the user; None where they can.

        Asked before anything heavy is imported.

        Parameters
        ----------
        device : str
            Its type: "cpu", "cuda", …
        dtype : torch.dtype
        """
        return None if dtype in self.dtypes else f"it computes {', '.join(map(str, self.dtypes))}, not {dtype}"

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Multiply rows: Σ_t ADC(DAC(x)_t ŵ_tᵀ + noise)·scale + bias, as `reference.tiled_matmul` states it.

        Parameters
        ----------
        x : Tensor (M, K)
            Activation units.
        w : Tensor (N, K)
            ŵ, normalised units.
        read : Read

        Returns
        -------
        out : Tensor (M, N)
        clips : Clips or None
            Where each tile's ADC clipped, if `read.records`.
        """
        return multiply_by_tile(self, x, w, read)

    @abstractmethod
    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs of any shape to x̂, as `reference.dac` states it."""

    @abstractmethod
    def accumulate(
        self,
        out: Tensor,
        partial: Tensor,
        norm2: Tensor | None,
        read: Read,
        tile: int,
        offset: int = 0,
        bits: Tensor | None = None,
        first: bool = False,
    ) -> int:
        """Add ADC(partial + noise) to `out`, as `reference.adc` states it; the read's scale and bias are for later.

        Parameters
        ----------
        out, partial : Tensor (M, N, …)
            Contiguous blocks of one shape, which start at element `offset` of the whole output.
        norm2 : Tensor or None
            ‖x̂_t‖², broadcastable to `partial`; given where the read has read noise.
        tile : int
            Which of the tiles: the noise's, and the full scale's.
        bits : Tensor, uint8, or None
            Bit `tile` % 8 is to be set where the ADC clips.
        first : bool
            Overwrite `out` instead.

        Returns
        -------
        int
            How many were marked in `bits`.
        """

    def program(self, weight: Tensor, part: Weight) -> tuple[Tensor, Tensor]:
        """Return ŵ (N, K, …) and w_max (N,) of a matrix or kernel W (N, K, …), as the profile's `weight` says."""
        w_max = weight_scale(weight, part)
        return normalised(weight, w_max, part), w_max

    def fingerprint(self, weight: Tensor) -> object:
        """Return what is equal for equal weights alone, by which layers keep what they programmed.

        None where nothing is shorter than a copy.
        """
        return None

    def programs(self, rows: int, outputs: int) -> bool:
        """Return whether `matmul` of so many rows by so many outputs takes W itself, too (`Read.w_max`)."""
        return False

    def convolve(self, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> tuple[Tensor, Clips | None]:
        """Convolve x (B, C, *spatial) with ŵ (N, C / groups, *kernel); means `matmul` on the unfolded input.

        Noise follows the flat index in the contiguous (B, N, *output spatial) tensor, however the batch is cut. By
        default each tile is a native convolution over its channels, a chunk of the batch at a time (`Job`), whose sums
        go through `accumulate`.
        """
        if read.spec.exact and not self.wants_sums:
            return convolve_natively(x, w, geometry, read), None
        job = Job(self, contiguous(x), cut(w, read.spec), w, geometry, read)
        read.spec.check_tiles(len(job.tiles))
        return job.run(self.run)

    def run(self, job: Job, out: Tensor, bits: Tensor | None) -> list[int] | None:
        """Compute a convolution into `out` and mark clips in `bits`; return each tile's clips, if they are counted."""
        return run_in_chunks(job, out, bits)

    def add_patches(self, products: Tensor, bias: Tensor | None, where: overlap.Overlap) -> Tensor:
        """Add up a transposed convolution's products (B·positions, N·kernel), as `overlap.add_patches` states it."""
        return overlap.add_patches(products, bias, where)

    def convolve_transposed(
        self, x: Tensor, w: Tensor, bias: Tensor | None, where: overlap.Overlap, read: Read
    ) -> Tensor | None:
        """Convolve x (B, K, *spatial) transposed with ŵ (N·kernel, K) in one pass; None where there is none.

        By default there is none. It means `matmul` of every position's channels, whose noise follows the flat index of
        (B·positions, N·kernel), and `add_patches` of what it returns; `bias` (N,) is added to the result, the read's
        own to the products.
        """
        return None

    def convert(
        self,
        out: Tensor,
        sums: Tensor,
        limits: tuple[float, float],
        step: float,
        gains: Tensor,
        offsets: Tensor,
        table: tuple[Tensor, Tensor] | None,
        tile: int,
        bits: Tensor | None,
        first: bool,
    ) -> int:
        """Add what ADCs of their own make of one tile's noisy sums to `out`; mark and count clips as `accumulate`.

        Parameters
        ----------
        out, sums, bits : Tensor (M, N, …)
            All contiguous.
        limits : (float, float)
            Least and largest sum, normalised units.
        step : float
            Of an ideal quantizer; 0 does not round.
        gains, offsets : Tensor (N,)
            A sum s becomes s·gain + offset.
        table : (Tensor, Tensor) or None
            Thresholds (ADCs, 2^b - 1) and outputs (ADCs, 2^b) of a search, of one ADC or of N.
        """
        converted, clipped = reference.convert(sums, limits, step, gains, offsets, table)
        return reference.add(out, converted, clipped, tile, bits, first)

    def convert_noisy(
        self,
        out: Tensor,
        partial: Tensor,
        norm2: Tensor | None,
        read: Read,
        conversion: Conversion,
        distribution: str,
        slow: Tensor | None,
        tile: int,
        offset: int = 0,
        bits: Tensor | None = None,
        first: bool = False,
    ) -> int | None:
        """Add noise of a distribution and `convert`, in one pass; None where there is no such pass, as by default.

        Parameters
        ----------
        out, partial, norm2, read, tile, offset, bits, first
            As of `accumulate`.
        conversion : Conversion
            The ADCs, in place of the read's own.
        distribution : str
            Of the noise: a name of the profile's `noise.distribution`.
        slow : Tensor (M, N, …) or None
            Added to sums besides, normalised units.
        """
        return None

    def smooth(self, white: Tensor, rho: float, amplitude: float) -> Tensor:
        """Compute `reference.smooth`; white (times, N) may be overwritten."""
        return reference.smooth(white, rho, amplitude)

    def read_lines(self, x: Tensor, lines: Lines, read: Read) -> tuple[Tensor, Clips | None] | None:
        """Multiply rows x (M, K), activation units, by all bit lines of a chip in one pass over the rows.

        Returns what `matmul` returns, clips being those of any line and step; or None where there is no such pass, as
        by default, and each line and step is read by itself.
        """
        return None

    def recur(self, w: Tensor, read: Read, what: Recurrence) -> tuple[Tensor, list[Tensor]]:
        """Make all steps of a recurrent layer in one pass; asked for by those that say `recurs` alone.

        Parameters
        ----------
        w : Tensor (G·H, H)
            ŵ of the hidden state's matrix, normalised units.
        read : Read
            Of hidden states, but for whose random numbers they have, which `what` says.
        what : Recurrence

        Returns
        -------
        out : Tensor (rows, H)
            Hidden states after each step, in the order of `what.x`.
        state : list of Tensor (B, H)
            The last of each sequence.
        """
        raise NotImplementedError

    def settle(self, circuit: Circuit, x: Tensor) -> Tensor:
        """Compute `circuit.settle`: the column currents (M, C) of an array with gated rows, for x (M, R), float64."""
        return settle(circuit, x)

    def noisy(self, x: Tensor, sigma: Tensor | float, multiplicative: Tensor | float, seed: int, stream: int) -> Tensor:
        """Compute `reference.add_noise`; σ are numbers or broadcast over x."""
        return reference.add_noise(x, sigma, multiplicative, seed, stream)

    def matmul_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, spec: MatmulSpec, clips: Clips | None, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and of w, with each tile's clipped outputs left out (design section 3, Gradients).

        Parameters
        ----------
        grad : Tensor (M, N)
            Gradient with respect to the output, activation units.
        x : Tensor (M, K)
            Inputs as given to the layer, activation units.
        w : Tensor (N, K)
            Weights as programmed, in digital weight units: ŵ·w_max.
        clips : Clips or None
            Where the forward's ADCs clipped.
        needs : (bool, bool)
            Whether the gradients of x and of w are wanted.
        """
        return backward.matmul_backward(self, grad, x, w, spec, clips, needs)

    def convolve_backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        spec: MatmulSpec,
        geometry: ConvGeometry,
        clips: Clips | None,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of a convolution likewise; shapes are those of `convolve`."""
        return backward.convolve_backward(self, grad, x, w, spec, geometry, clips, needs)

    def part(self, outputs: slice) -> "Backend":
        """Return the backend of some of a layer's outputs; itself, where outputs are all alike to it."""
        return self
