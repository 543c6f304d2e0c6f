"""Reading a chip: a backend made of another one, for slices of weights and inputs, cells' own noise, and real ADCs."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ..kernels import Backend, BySlice, Clips, ConvGeometry, MatmulSpec, Read, reference
from ..kernels.conv_job import CHUNK, Job, run_in_chunks
from ..kernels.conversion import Conversion, Conversions, Lines, of_spec
from ..kernels.rows import multiply_by_tile
from ..kernels.tiles import Tile, cut
from ..profile import HardwareProfile, Range
from ..seeds import Key, derive
from ..value import LEAST_SCALE
from .adc import Converters
from .build import Chip, Plane
from .dac_steps import step_coefficients, steps
from .integrators import Integrators, recorded
from .planes import of_images, of_rows
from .read_noise import wandering

WANDERING = 2**24  # slow offsets of a call that are drawn before it: 64 MiB; more are drawn a tile at a time


class DeviceKernel(Backend):
    """Reads one layer's chip through another backend.

        y = scale · Σ_planes Σ_steps c_p d_j · Σ_t ADC(x_j,t ŵ_p,tᵀ + noise) + bias

    Every plane and step is one call of the plain tiled product, where that can express it; ADCs that are no ideal
    quantizers, noise that is not white and Gaussian, and cells with noise of their own take a tile at a time here.

    Parameters
    ----------
    base : Backend
        Who multiplies.
    chip : Chip
    profile : HardwareProfile
    observer : bool
        `base` takes notes of what the converters would see, for calibration.
    slopes : tuple of Tensor (N, K, …)
        What the inputs' squares and cubes are multiplied by, weight units, for gradients of cells that are not linear.
    """

    def __init__(
        self,
        base: Backend | Any,
        chip: Chip,
        profile: HardwareProfile,
        *,
        observer: bool = False,
        slopes: tuple[Tensor, ...] = (),
    ) -> None:
        self.base, self.chip, self.profile, self.observer, self.slopes = base, chip, profile, observer, slopes
        ideal = observer or (profile.noise.is_plain and profile.adc.is_plain)
        own = profile.adc, profile.noise, chip.seed, base
        self.converters = None if ideal else Converters(*own, kept=chip.kept, first=chip.first)

    @staticmethod
    def needed(chip: Chip, profile: HardwareProfile) -> bool:
        """Return whether the plain backend alone cannot read this chip."""
        first, *others = chip.planes
        planes = bool(others) or first.coefficient != 1 or first.variance is not None or not first.is_product
        dac = profile.dac.step_bits is not None or profile.dac.inl is not None
        return planes or dac or not (profile.noise.is_plain and profile.adc.is_plain)

    def part(self, outputs: slice) -> "DeviceKernel":
        """Return the kernel of some outputs."""
        slopes = tuple(power[outputs] for power in self.slopes)
        return DeviceKernel(self.base, self.chip.part(outputs), self.profile, observer=self.observer, slopes=slopes)

    def as_matrix(self) -> "DeviceKernel":
        """Return the kernel of a convolution's weights as those of a matrix (N, K)."""
        planes = [plane.view((len(plane.weight), -1)) for plane in self.chip.planes]
        slopes = tuple(power.flatten(1) for power in self.slopes)
        return DeviceKernel(
            self.base, replace(self.chip, planes=planes), self.profile, observer=self.observer, slopes=slopes
        )

    def dac(self, x: Tensor, spec: MatmulSpec) -> Tensor:
        """Convert inputs to normalised units, all bits at once (what the gradients see)."""
        whole = self.base.dac(x, spec)
        if self.profile.dac.inl is None:
            return whole
        (coefficient, first), *others = steps(whole, spec, self.profile.dac)
        return sum((c * step for c, step in others), coefficient * first)

    def matmul(self, x: Tensor, w: Tensor, read: Read) -> tuple[Tensor, Clips | None]:
        """Compute as a backend's `matmul`; `w`, the sum of the planes, is not used."""
        products = all(plane.is_product for plane in self.chip.planes)
        by_tile = self.observer or not products or self.profile.adc.rounding == "stochastic"
        lines = None if by_tile else self._lines(x, read)
        found = None if lines is None else self.base.read_lines(x, lines, read)
        if found is not None:
            return found
        return self._sum(x, read, self._rows)

    def accumulate(self, *args: Any, **options: Any) -> int:
        """Convert as the backend beneath: what is a chip's own is in the planes."""
        return self.base.accumulate(*args, **options)

    def convolve(self, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> tuple[Tensor, Clips | None]:
        """Compute as a backend's `convolve`; `w`, the sum of the planes, is not used."""
        return self._sum(x, read, partial(self._images, geometry))

    def matmul_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, spec: MatmulSpec, clips: Clips | None, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Compute as a backend's; where cells are not linear, inputs have the derivative of their currents."""
        grad_x, grad_w = super().matmul_backward(grad, x, w, spec, clips, needs)
        for exponent, power in enumerate(self.slopes, 2):
            more, _ = super().matmul_backward(grad, x, power, spec, clips, (needs[0], False))
            if grad_x is not None and more is not None:
                grad_x += exponent * self.dac(x, spec) ** (exponent - 1) * more
        return grad_x, grad_w

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
        """Compute as a backend's, likewise."""
        grad_x, grad_w = super().convolve_backward(grad, x, w, spec, geometry, clips, needs)
        for exponent, power in enumerate(self.slopes, 2):
            own = power.view(w.shape)
            more, _ = super().convolve_backward(grad, x, own, spec, geometry, clips, (needs[0], False))
            if grad_x is not None and more is not None:
                grad_x += exponent * self.dac(x.contiguous(), spec) ** (exponent - 1) * more
        return grad_x, grad_w

    def _sum(
        self,
        x: Tensor,
        read: Read,
        product: Callable[[Any, Converters | None, Tensor, Plane, Read], tuple[Tensor, Clips | None]],
    ) -> tuple[Tensor, Clips | None]:
        """Read every plane in every step; `product` gets a backend, a plane's ADCs where they are no ideal quantizers,
        a step's inputs, the plane and its own read.
        """
        out, masks = None, None
        for base, adcs, coefficient, step, plane, own in self.reads(x, read):
            part, clips = product(base, adcs, step, plane, own)
            if adcs is not None and adcs.adc.sum_bits is not None:
                low, high = adcs.register(own.spec.full_scale(0))
                # Nothing of what is added to a register that is full has a gradient, whichever tile it is from.
                clips = None if clips is None else clips.everywhere((part < low) | (part > high))
                part = part.clamp(low, high)
            part = part * coefficient
            out = part if out is None else out.add_(part)
            masks = clips if masks is None or clips is None else Clips(masks.bits | clips.bits, clips.tiles)
        assert out is not None  # a chip has a plane, and an input a step
        columns = (-1, *[1] * (out.ndim - 2))
        if read.scale is not None:
            out = out * read.scale.view(columns)
        return out if read.bias is None else out + read.bias.view(columns), masks

    def _lines(self, x: Tensor, read: Read) -> Lines | None:
        """Return what `reads` yields, for a backend that reads all of it in one pass; None where that would not fit."""
        planes, dac, adcs = self.chip.planes, self.profile.dac, self.converters
        if dac.inl is not None:  # whoever reads all at once converts inputs by himself
            return None
        parts = step_coefficients(dac)
        places = [(plane.slice_number, step) for plane in planes for step in range(len(parts))]
        registers = None
        if adcs is not None and self.profile.adc.sum_bits is not None:
            registers = [adcs.register(read.spec.of_slice(*place).full_scale(0)) for place in places]
        seeds = [_own_seed(read.seed, i, j) for i in range(len(planes)) for j in range(len(parts))]
        shape = len(seeds), len(read.spec.tiles(x.shape[1])), len(x), len(planes[0].weight)
        wanders = bool(self.profile.noise.wander)
        if wanders and math.prod(shape) > WANDERING:
            return None
        return Lines(
            [plane.weight for plane in planes],
            [plane.variance for plane in planes],
            [plane.coefficient for plane in planes],
            parts,
            dac.step_bits,
            seeds,
            self._conversions(x, read.spec),
            self.profile.noise.distribution,
            registers,
            partial(self._slow, x.new_empty, shape, seeds, read) if wanders else None,
        )

    def _slow(self, new: Callable[..., Tensor], shape: tuple[int, ...], seeds: list[int], read: Read) -> Tensor:
        """Draw the slow offsets of all lines and steps, one for each seed, and of their tiles (seeds, tiles, M, N)."""
        out, noise = new(shape), self.profile.noise
        for seed, own in zip(seeds, out, strict=True):
            for tile, into in enumerate(own):
                drawn = wandering(self.base, into, replace(read, seed=seed), tile, noise.wander_length, noise.wander)
                into.copy_(drawn)
        return out

    def _conversions(self, x: Tensor, spec: MatmulSpec) -> Conversions:
        """Return the ADCs of all lines, steps and tiles for rows x (M, K)."""
        planes, steps, tiles = self.chip.planes, self.profile.dac.steps, len(spec.tiles(x.shape[1]))
        spec.check_tiles(tiles)
        adcs, like = self.converters, x.new_empty(0, len(planes[0].weight))
        key = None if adcs is None else adcs.key(like), spec.adc_full_scale, spec.adc_levels, steps, tiles

        def conversion(line: int, step: int, tile: int) -> Conversion:
            one, own = self._adcs(line, step, spec), spec.of_slice(planes[line].slice_number, step)
            return of_spec(own, tile) if one is None else one.conversion(own.full_scale(tile), tile, like)

        def make() -> Conversions:
            lines = range(len(planes))
            return Conversions([conversion(i, j, t) for i in lines for j in range(steps) for t in range(tiles)])

        return self.chip.kept.get("all", key, make) if adcs is None or adcs.keeps else make()

    def _adcs(self, line: int, step: int, spec: MatmulSpec) -> Converters | None:
        """Return the ADCs of one line in one step, where they are no ideal quantizers."""
        step = step if isinstance(spec.adc_full_scale, BySlice) else 0
        return None if self.converters is None else replace(self.converters, line=line, input_step=step)

    def reads(self, x: Tensor, read: Read) -> Iterator[tuple[Any, Converters | None, float, Tensor, Plane, Read]]:
        """Yield, for every plane and step, the backend, the ADCs where they are no ideal quantizers, what the result is
        multiplied by, the step's inputs in normalised units, the plane, and its own read.
        """
        inner = replace(read, spec=replace(read.spec, input_range=1.0, dac_bits=None), scale=None, bias=None)
        base, inputs = self._inputs(x, read.spec)
        for i, plane in enumerate(self.chip.planes):
            for j, (weight, step) in enumerate(inputs):
                adcs = self._adcs(i, j, read.spec)
                own = replace(inner, spec=inner.spec.of_slice(plane.slice_number, j), seed=_own_seed(read.seed, i, j))
                seen = base.of_slice(plane.slice_number, j) if self.observer else base
                yield seen, adcs, plane.coefficient * weight, step, plane, own

    def _inputs(self, x: Tensor, spec: MatmulSpec) -> tuple[Any, list[tuple[float, Tensor]]]:
        """Return the backend that multiplies, and what is applied to the rows: (weight, normalised units) a step."""
        dac = self.profile.dac
        if not self.observer:
            return self.base, steps(self.base.dac(x.contiguous(), spec), spec, dac)
        if dac.step_bits is None:
            return self.base, [(1.0, x)]
        # Steps depend on α, which is not known yet unless it is given: take the batch's. Their bits are much the same
        # with any α, so that sums are noted in normalised units.
        self.base.dac(x, spec)
        top = float(x.abs().amax()) if x.numel() else 1.0
        alpha = max(top, LEAST_SCALE) if math.isfinite(top) and top > 0 else 1.0
        alpha = dac.input_range if isinstance(dac.input_range, float) else alpha
        coded = replace(spec, input_range=alpha, dac_bits=dac.bits, dac_signed=dac.signed)
        quiet: Any = copy.copy(self.base)
        quiet.inputs = copy.deepcopy(quiet.inputs)
        return quiet, [(d * alpha, step) for d, step in steps(reference.dac(x, coded), coded, dac)]

    def _expressible(self, plane: Plane) -> bool:
        """Return whether one call of the plain tiled product reads a plane."""
        return plane.is_product and (self.observer or (self.converters is None and plane.variance is None))

    def _rows(
        self, base: Any, adcs: Converters | None, x: Tensor, plane: Plane, read: Read
    ) -> tuple[Tensor, Clips | None]:
        """Read one plane in one step for rows x (M, K)."""
        if self._expressible(plane):
            return base.matmul(x, plane.weight, read)
        if plane.limit is not None and not self.observer:
            return self._limited_rows(base, adcs, x, plane, recorded(read))
        backend, variance, multiply = adcs or base, plane.variance, None
        if not plane.is_product:
            multiply = partial(_rows_of, plane, base, self._alpha(x))
        if variance is None or self.observer:
            return multiply_by_tile(backend, x, plane.weight, read, multiply=multiply)

        def lengths(squares: Tensor, start: int, stop: int) -> Tensor:
            cells = squares @ variance[:, start:stop].T
            return cells + read.spec.noise_read**2 * squares.sum(1, keepdim=True) if read.spec.noise_read else cells

        return multiply_by_tile(backend, x, plane.weight, _with_noise_of_cells(read, plane), lengths, multiply)

    def _limited_rows(
        self, base: Any, adcs: Converters | None, x: Tensor, plane: Plane, read: Read
    ) -> tuple[Tensor, Clips | None]:
        """Read one plane whose columns' currents are limited."""
        starts = [start for start, _ in read.spec.tiles(x.shape[1])]
        integrators = self._integrators(base, adcs, plane, read)

        def multiply(part: Tensor, start: int, stop: int) -> Tensor:
            return integrators.sums(
                starts.index(start),
                lambda column: of_rows(column, base, part, start, stop),
                lambda variance: part.square() @ variance[:, start:stop].T,
            )

        return multiply_by_tile(integrators, x, plane.weight, read, multiply=multiply)

    def _integrators(self, base: Any, adcs: Converters | None, plane: Plane, read: Read) -> Integrators:
        return Integrators(plane, adcs or base, base, read.seed, read.stream, self.profile.noise.distribution)

    def _images(
        self,
        geometry: ConvGeometry,
        base: Any,
        adcs: Converters | None,
        x: Tensor,
        plane: Plane,
        read: Read,
    ) -> tuple[Tensor, Clips | None]:
        """Read one plane in one step for a convolution's input (B, C, *spatial)."""
        w = plane.weight
        if self._expressible(plane):
            return base.convolve(x, w, geometry, read)
        converts = adcs or base
        if plane.limit is not None and not self.observer:
            read = recorded(read)
            converts = self._integrators(base, adcs, plane, read)
        tiled = converts, x.contiguous(), cut(w, read.spec), w, geometry
        own, variance = _with_noise_of_cells(read, plane), plane.variance
        if self.observer:
            own, variance = read, None
        return _DeviceJob(*tiled, own, variance, read.spec.noise_read, plane, base, self._alpha(x)).run(run_in_chunks)

    def _alpha(self, x: Tensor) -> float | None:
        """Return the input that calibration takes for 1 where sums are not linear, while no range is known."""
        if not self.observer or self.profile.dac.step_bits is not None:  # steps are in normalised units
            return None
        top = float(x.abs().amax()) if x.numel() else 1.0
        dac = self.profile.dac
        given = dac.input_range
        if isinstance(given, Range):
            return given.aligned(dac.bits).size
        return given if isinstance(given, float) else max(top, LEAST_SCALE) if math.isfinite(top) else 1.0


def _rows_of(plane: Plane, base: Any, alpha: float | None, x: Tensor, start: int, stop: int) -> Tensor:
    return of_rows(plane, base, x, start, stop, alpha)


@dataclass(frozen=True)
class _DeviceJob(Job):
    """A convolution whose cells have noise of their own, or whose sums are no products."""

    variance: Tensor | None = None
    noise_read: float = 0.0
    plane: Plane | None = None
    base: Any = None
    alpha: float | None = None

    def sums(self, x: Tensor, tile: Tile, weight: Tensor) -> Tensor:
        """Return what the plane makes of a tile's inputs."""
        if self.plane is None or self.plane.is_product:
            return super().sums(x, tile, weight)
        if isinstance(self.kernel, Integrators):
            return self.kernel.sums(
                [own.start for own in self.tiles].index(tile.start),
                lambda column: of_images(column, self.base, self, x, tile),
                lambda variance: self.convolve(x.square(), tile.of(variance.view(self.w.shape)).contiguous()),
            )
        return of_images(self.plane, self.base, self, x, tile, self.alpha)

    def chunks(self, most: int = CHUNK) -> list[slice]:
        """Leave the batch whole where an ADC's offset wanders from one image to the next, or columns draw noise."""
        adcs = self.kernel.base if isinstance(self.kernel, Integrators) else self.kernel
        wanders = isinstance(adcs, Converters) and adcs.noise.wander
        whole = wanders or (isinstance(self.kernel, Integrators) and self.kernel.noisy)
        return [slice(0, len(self.x))] if whole else super().chunks(most)

    def squared_lengths(self, x: Tensor, tile: Tile) -> Tensor | None:
        """Return what stands for ‖x̂_t‖²: with cells' variances v, σ_r²·‖x̂_t‖² + Σ x̂² v."""
        norm2 = super().squared_lengths(x, tile) if self.noise_read else None
        if self.variance is None:
            return norm2
        own = self.convolve(x.square(), tile.of(self.variance).contiguous())
        return own if norm2 is None else own + self.noise_read**2 * norm2


def _own_seed(seed: int, plane: int, step: int) -> int:
    """Return the key of the random numbers of one plane in one step."""
    return derive(seed, Key.PLANE, plane, step) if plane or step else seed


def _with_noise_of_cells(read: Read, plane: Plane) -> Read:
    """Return a read for a ‖x̂‖² that holds σ_r² and the cells' own variances already."""
    return read if plane.variance is None else replace(read, spec=replace(read.spec, noise_read=1.0))
