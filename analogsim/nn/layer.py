"""What every analog layer shares: its profile, its constant ranges, its programmed weights, and who draws its noise."""

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..chip import Chip, DeviceKernel
from ..chip.kept import Kept
from ..errors import (
    CalibrationError,
    ConversionError,
    NonFiniteError,
    ProfileError,
    ProgrammingError,
    ShapeError,
)
from ..kernels import Backend, BackendName, BySlice, MatmulSpec, Precision, Read, uncompiled
from ..kernels.dispatch import find
from ..kernels.memory import refuse_symbols
from ..kernels.philox import seed_of_call
from ..kernels.weights import Copy, by_tile
from ..profile import HardwareProfile, Range
from ..profile.kinds import CELL_MODELS
from ..seeds import Key, Stream, checked, derive, next_call, numbered
from ..value import LEAST_SCALE
from .basis import INPUT, basis, changed
from .correction import KEYS, Correction
from .function import Plan, exact_dtype
from .management import Management, multiplied
from .matrix import ProgrammedMatrix, cells_of, layout
from .surgery import _forbid_fused_inference, allow_fused_inference, twin  # noqa: F401  # pickles name the hook here

RANGES = ("input_range", "adc_full_scale")
CHIP = ("chip_seed", "chip_seconds")
RECORD = "calibrated_for"


class AnalogLayer(nn.Module):
    """Mixin: a torch layer whose matrix product runs on simulated crossbars.

    A concrete layer inherits from this and from its digital twin, so it has the twin's constructor arguments,
    parameters and `state_dict` keys, and is an instance of the twin's class.

    Attributes
    ----------
    profile : HardwareProfile
        The hardware; may be assigned anew at any time.
    input_range : Tensor () or (2,), buffer
        α, activation units, or with `dac.symmetric: false` its two ends; NaN until calibrated. Used where the profile's
        `dac.input_range` is "calibrated".
    adc_full_scale : Tensor (), (tiles,), (1, 2), (tiles, 2), (slices, steps, 1) or (slices, steps, 2), buffer
        Normalised units, one for the layer, one for each cut of its rows into tiles (column tiles and groups share
        it), or one for each slice of its weights and step of its inputs, the lowest first; with `adc.symmetric: false`
        two ends each. NaN until calibrated. Used where the profile's `adc.full_scale` is "calibrated".
    chip_seed : int or None
        What was drawn when the layer was programmed (`analogsim.program`), as a seed; None until then. It is in the
        `state_dict` but no buffer: what averages, casts or empties buffers would make it another chip's.
    chip_seconds : float or None
        The chip's age in seconds since its first read (`analogsim.at_time`); likewise.
    calibrated_for : tuple of float, or None
        What `calibrate` found the ranges for (`basis.basis`), which the profile must agree with; None for ranges that
        were set otherwise, of which nothing is known. In the `state_dict`, and no buffer either.
    correction : Correction or None
        Gain and offset of each output that were measured on this chip (`analogsim.calibrate_outputs`); likewise.
    backend : {"auto", "reference", "numba", "triton"} or Backend
        Which kernel computes; see `analogsim.kernels`.
    precision : {"ieee", "tf32", "tf32x3"}
        How a GPU multiplies float32; see `analogsim.kernels.precision`.
    layer_name : str
        The layer's name in the model that `convert` found it in, for messages.
    keep_programmed : bool
        In evaluation, keep the weights as they were programmed until the weights, the profile or the chip are others:
        one more copy of them on the CPU, of the size of a chip's cells where there is one, and elsewhere, where only a
        chip is held, a copy to compare with. `train()` gives the memory back. By default True.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.AnalogLinear(8, 3)
    >>> isinstance(layer, an.AnalogLayer), isinstance(layer, torch.nn.Linear)
    (True, True)
    >>> layer.profile = an.HardwareProfile.load("8bit")
    >>> layer.input_range  # until `calibrate`
    tensor(nan)
    """

    digital: type[nn.Module]
    input_range: Tensor
    adc_full_scale: Tensor
    chip_seed: int | None
    chip_seconds: float | None
    calibrated_for: tuple[float, ...] | None
    correction: Correction | None

    def _init_analog(self, profile: HardwareProfile | None, device: torch.device | None = None) -> None:
        if profile is not None and not isinstance(profile, HardwareProfile):
            raise ProfileError(
                f"profile: a HardwareProfile is needed, got {type(profile).__name__}; HardwareProfile.load(…) reads one"
            )
        self.profile = profile or HardwareProfile(name="ideal")
        # Not self.weight: reading a parametrised weight may change it (spectral_norm iterates).
        device = device or next(self.parameters()).device
        for name in RANGES:
            self.register_buffer(name, torch.full((), math.nan, device=device))
        self.chip_seed = self.chip_seconds = self.calibrated_for = self.correction = None
        self.backend: BackendName | Backend = "auto"
        self.precision: Precision = "ieee"
        self.layer_name = ""
        self.stream = 0
        self.seed: int | None = None
        self.calls = 0
        self._observer: Any = None  # a backend that takes notes (see `observing.py`)
        self.keep_programmed = True
        self._kept = Kept()
        self._spec: tuple[HardwareProfile, tuple[Any, ...], MatmulSpec] | None = None
        self._basis: tuple[HardwareProfile, tuple[float, ...]] | None = None
        self._asked: dict[str, tuple[Tensor, int, Any]] = {}

    @classmethod
    def from_digital(cls, module: nn.Module, profile: HardwareProfile) -> Self:
        """Turn a digital layer, itself, into its analog twin; parameters, hooks and parametrisations stay.

        Raises
        ------
        ConversionError
            The module is not of the class that this layer replaces.
        """
        if not isinstance(module, cls.digital):
            raise ConversionError(f"{cls.__name__} replaces {cls.digital.__name__}, not {type(module).__name__}")
        module.__class__ = twin(module, cls)
        module._init_analog(profile)  # type: ignore[operator]
        return module  # type: ignore[return-value]

    def to_digital(self) -> nn.Module:
        """Turn this layer, itself, back into its digital twin; parameters, hooks and parametrisations stay."""
        for name in (*RANGES, *CHIP, RECORD, "correction"):
            delattr(self, name)
        own = "profile", "backend", "precision", "layer_name", "stream", "seed", "calls", "keep_programmed"
        for name in (*own, "_observer", "_kept", "_spec", "_asked", "_basis"):
            delattr(self, name)
        allow_fused_inference(self)
        self.__class__ = twin(self, self.digital)  # type: ignore[assignment]
        return self

    def spec(self, x: Tensor) -> MatmulSpec:
        """Gather the scalars that the kernel needs for this input.

        Raises
        ------
        CalibrationError
            A range is "calibrated" in the profile and was never set.
        NonFiniteError
            The range is "dynamic" and the input holds NaN or an infinity. (With a constant range NaN passes on, as in
            torch, and an infinity is clipped.)
        """
        wanted = self._input_range(x), self._full_scale(), self.precision
        if self._spec is None or self._spec[0] is not self.profile or self._spec[1] != wanted:
            self._spec = self.profile, wanted, MatmulSpec.of(self.profile, *wanted)
        return self._spec[2]

    @property
    def transparent(self) -> bool:
        """True where this computes exactly what its digital twin computes, and nobody observes.

        On the meta device there is nothing but shapes to compute, and they are the twin's.
        """
        return (self.profile.is_ideal or self.input_range.is_meta) and self._observer is None

    @property
    def programs_exactly(self) -> bool:
        """True where ŵ·w_max is the digital weight itself."""
        part = self.profile.weight
        return not self.profile.needs_chip and part.bits is None and not part.clips and self.correction is None

    def draw(self, spec: MatmulSpec) -> tuple[int, int]:
        """Return (seed, stream) for one call: drawn from torch's generator, or the explicit seed and a call count."""
        if not (spec.noisy or self.profile.reads_differ):
            return 0, 0
        seed = seed_of_call(self.seed, self.input_range.device, self.training)
        return numbered(seed, Stream.READ, self.stream, 0 if self.seed is None else next_call(self))

    def crossbar_weight(self) -> Tensor:
        """Return the weights (N, K, …) as they are programmed, weight units: outputs first."""
        weight: Any = self.weight
        return weight

    @uncompiled
    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply rows by a matrix on this layer's crossbars.

        Parameters
        ----------
        x : Tensor (..., K)
        weight : Tensor (N, K)
            Digital weights, weight units.
        bias : Tensor (N,) or None

        Returns
        -------
        Tensor (..., N)
            Activation units, of x's dtype.
        """
        with exact_dtype(x, weight, bias) as (rows, w, b):
            if not (rows.numel() and w.numel()):  # no tile has anything to do
                return F.linear(rows, w, b).to(x.dtype)
            if rows.ndim == 2 and rows is x:  # what follows takes longer than a small product
                return multiplied(rows, w, b, self.plan(rows, w), self.learned_range)
            out = multiplied(rows.reshape(-1, rows.shape[-1]), w, b, self.plan(rows, w), self.learned_range)
            return out.reshape(*x.shape[:-1], len(weight)).to(x.dtype)

    def plan(self, x: Tensor, weight: Tensor) -> Plan:
        """Return what one call needs."""
        return self._plan_unprogrammed(x, weight) or self.read(x, self.write(weight))

    def _plan_unprogrammed(self, x: Tensor, weight: Tensor) -> Plan | None:
        """Return the plan of a call that programs as it reads, where reading the weights once is all the cost."""
        if x.ndim != 2 or self._observer is not None:
            return None
        kernel = self._kernel(x)
        if not kernel.programs(x.shape[0], weight.shape[0]):  # asked first, since it mostly says no
            return None
        if self.profile.weight.w_max != "column" or not self.programs_exactly:
            return None
        if weight.stride(-1) != 1:  # to turn it takes longer than to read what is kept
            return None
        if Management.of(self.profile) is not None or self.learned_range is not None:
            return None
        spec = self.spec(x)
        read = Read(spec, *self.draw(spec), w_max=weight.new_empty(len(weight)))
        return Plan(weight.detach(), None, kernel, read, torch.is_grad_enabled())

    def write(self, weight: Tensor) -> ProgrammedMatrix:
        """Program a matrix of weights (N, K, …), weight units, onto this layer's crossbars.

        In evaluation that is done once, and anew where the weights, the profile or the chip are others.

        Raises
        ------
        ProgrammingError
            In evaluation, the profile has something that differs between chips, and the layer was never programmed.
        """
        chip = self._wanted_chip() if self.profile.needs_chip else None
        if self.training or self._observer is not None or not self.keep_programmed:
            return self._written(weight, chip)
        mark = self._kernel(weight).fingerprint(weight)
        if chip is None and mark is None:  # to compare a copy costs more than to divide
            return self._written(weight, chip)
        cells = None if chip is None else CELL_MODELS[chip[0].cells.model]
        if cells is not None and vars(cells):  # a model that holds anything may change, so that it is asked every time
            return self._written(weight, chip)
        kind = weight.shape, weight.dtype, weight.device, chip or (self.profile.weight, self.profile.tile), cells
        kind = *kind, self._applied()
        key = Copy(weight) if mark is None else mark, *kind

        def write() -> ProgrammedMatrix:
            matrix = self._written(weight, chip)
            return matrix.of(matrix.programmed)  # not to hold weights that are replaced

        return self._kept.get("matrix", key, write).of(weight)

    def _written(self, weight: Tensor, which: tuple[HardwareProfile, int, float] | None) -> ProgrammedMatrix:
        groups, tile_gains, tiles = getattr(self, "groups", 1), None, ()
        if self.profile.weight.by_tile and weight.numel():
            where = layout(weight, self.profile, groups)
            programmed, w_max, tile_gains = by_tile(weight, self.profile.weight, where.tiles, where.widths)
            tiles = where.tiles
        else:
            programmed, w_max = self._kernel(weight).program(weight, self.profile.weight)
        chip = None
        if which is not None:

            def build() -> Chip:
                return cells_of(programmed, which[0], groups, *which[1:], tile_gains)

            # Kirchhoff's equations are not solved anew for every batch that is observed.
            solved = self._observer is not None and which[0].wires.any and which[0].wires.solution == "exact"
            chip = self._kept.get("observed", (Copy(weight), which), build) if solved else build()
        if chip is not None:
            programmed, w_max = chip.weight, w_max * chip.gain
        correction, offset = self._applied(), None
        if correction is not None:
            gain, offset = (v.to(w_max) for v in (correction.gain, correction.offset))
            w_max = w_max * gain
        exact = self.programs_exactly or self._observer is not None
        matrix = ProgrammedMatrix(weight, programmed, w_max, exact, chip, tile_gains, tiles, offset)
        if self._observer is not None:
            self._observer.written(matrix)
        return matrix

    def _applied(self) -> Correction | None:
        """Return what outputs are corrected by: in evaluation, on the chip that it was measured on."""
        held, observer = self.correction, self._observer
        if held is None or self.training or (observer is not None and not observer.wants_the_chip):
            return None
        why = held.why_not(self.profile, self.chip_seed)
        if why is not None:
            raise CalibrationError(
                f"{self._where()}: gain and offset of its outputs were measured {why}; run calibrate_outputs(model, "
                "batches) again, or program(model, seed), which takes them away"
            )
        return held

    def _kernel(self, x: Tensor) -> Backend:
        # What `choose` refuses as well, `exact_dtype` has refused.
        return find(x.device.type, x.dtype, self.backend)

    def _wanted_chip(self) -> tuple[HardwareProfile, int, float]:
        """Return which chip weights are on, as its profile, seed and age: in training, a new one at every call."""
        profile = self.profile
        if self._observer is not None and not self._observer.wants_the_chip:
            return profile.without_variation(), 0, 0.0  # ranges are found for the chip that was wanted
        if not profile.is_drawn:
            return profile, 0, 0.0
        if self.training:
            return profile, self._training_chip(), 0.0
        if self.chip_seed is None or self.chip_seconds is None:
            raise ProgrammingError(
                f"{self._where()}: its profile has programming noise, ageing, faults or converter errors, drawn "
                "once for a chip: run program(model, seed) before evaluating (in training they are drawn anew at "
                "each call)"
            )
        return profile, self.chip_seed, self.chip_seconds

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as every module; training gives back the memory of what was programmed."""
        if mode:
            self._kept.clear()
        return super().train(mode)

    def read(self, x: Tensor, matrix: ProgrammedMatrix) -> Plan:
        """Return what one call needs on a matrix that `write` programmed; as `plan`."""
        chip = matrix.chip
        if self._observer is not None:
            kernel = self._observer
            if kernel.reads_chips and chip is not None and DeviceKernel.needed(chip, self.profile):
                kernel = DeviceKernel(kernel, chip, self.profile, observer=True)
            read = Read(self._observer.spec(self, x), scale=matrix.w_max, tile_gains=matrix.tile_gains)
            return Plan(matrix.programmed, None, kernel, read, False, management=Management.of(self.profile))
        spec = self.spec(x)
        kernel = self._kernel(x)
        # Asked here: within autograd's functions it is always off.
        differentiable = torch.is_grad_enabled()
        if chip is not None and DeviceKernel.needed(chip, self.profile):
            slopes = tuple(map(matrix.in_weight_units, chip.powers)) if differentiable else ()
            kernel = DeviceKernel(kernel, chip, self.profile, slopes=slopes)
        read = Read(spec, *self.draw(spec), matrix.gain(spec.input_range), tile_gains=matrix.tile_gains)
        w_eff = matrix.effective if differentiable and not matrix.exact else None
        return Plan(matrix.programmed, w_eff, kernel, read, differentiable, matrix.offset, Management.of(self.profile))

    @property
    def learned_range(self) -> Tensor | None:
        """α as a parameter, where training shall learn it (`learn_ranges`)."""
        dac = self.profile.dac
        if dac.input_range != "calibrated" or not torch.is_grad_enabled() or self._observer is not None:
            return None
        alpha = self.input_range
        if not alpha.requires_grad:
            return None
        if not dac.symmetric or dac.rounding != "nearest":
            raise ProfileError(
                f"{self._where()}: only symmetric input ranges are learned, of DACs that round to the nearest level; "
                "set dac.symmetric to true and dac.rounding to 'nearest', or run learn_ranges(model, learn=False)"
            )
        if self.profile.tile.current_limit is not None:
            raise ProfileError(
                f"{self._where()}: no input ranges are learned where integrators limit columns' currents; set "
                "tile.current_limit to null, or run learn_ranges(model, learn=False)"
            )
        return alpha

    def _training_chip(self) -> int:
        """Return the seed of a chip for one training call."""
        seed = seed_of_call(self.seed, self.input_range.device, training=True)
        return seed if self.seed is None else derive(seed, Key.TRAINING_CHIP, self.stream, next_call(self))

    def _input_range(self, x: Tensor) -> float | Range:
        rule = self.profile.dac.input_range
        if isinstance(rule, float | Range):
            return rule
        if rule == "vector":  # rows are divided by their own before (`management.py`)
            return 1.0
        noise, linear = self.profile.noise, not self.profile.iv.any and self.profile.tile.current_limit is None
        plain = self.profile.dac.bits is None and self.profile.adc.full_scale is None
        if plain and linear and not (noise.output or noise.wander):
            return 1.0  # α cancels
        if rule == "dynamic":
            low, high = (float(end) for end in x.detach().aminmax()) if x.numel() else (0.0, 0.0)
            found = Range(min(low, 0.0), max(high, 0.0))
            top = found.size
            if not math.isfinite(top):
                raise NonFiniteError(
                    f"{self._where()}: its input holds {top}, so that a dynamic input range has no value; check the "
                    "data and the layers before"
                )
            if self.profile.dac.symmetric:
                return max(top, LEAST_SCALE)
            return found if top >= LEAST_SCALE else Range(0.0, LEAST_SCALE)
        return self._calibrated("input_range", "dac.input_range")

    def _full_scale(self) -> float | Range | tuple[float | Range, ...] | BySlice | None:
        adc = self.profile.adc
        found: Any = adc.full_scale
        if isinstance(found, float):
            return found
        shape = self.profile.slices, self.profile.dac.steps
        if found == "calibrated":
            found = self._calibrated("adc_full_scale", "adc.full_scale")
        elif adc.slice_scales:
            found = BySlice.cut(adc.slice_scales, shape[1])
        if not isinstance(found, BySlice):
            return found
        if found.shape != shape:
            raise CalibrationError(
                f"{self._where()}: adc.full_scale was calibrated for {found.shape[0]} slices of weights and "
                f"{found.shape[1]} steps of inputs, and there are {shape[0]} and {shape[1]}; run calibrate(model, "
                "batches) again"
            )
        return found if shape != (1, 1) else found.each[0][0]

    def _calibrated(self, name: Literal["input_range", "adc_full_scale"], field: str) -> Any:
        values = self._numbers(name)
        value = _ranges([values] if name == "input_range" and isinstance(values, list) else values)
        if value is None:
            raise CalibrationError(
                f"{self._where()}: {field} is 'calibrated' but was never set; run "
                f"calibrate(model, batches) first, or give {field} a number in the profile"
            )
        fields = self.outlived(name)
        if fields:
            now = ", ".join(f"{one} (now {_short(attrgetter(one)(self.profile))})" for one in fields)
            raise CalibrationError(
                f"{self._where()}: {field} was calibrated for another {now}; run calibrate(model, batches) again"
            )
        converter = field.split(".")[0]
        symmetric = getattr(self.profile, converter).symmetric
        several = isinstance(value, tuple) and not isinstance(value, Range)
        each: Any = value.all if isinstance(value, BySlice) else value if several else (value,)
        for one in each:
            if isinstance(one, Range) and (symmetric or not (one.low <= 0 <= one.high and one.size > 0)):
                raise CalibrationError(
                    f"{self._where()}: {field} holds {tuple(one)}, which is no range of a converter with "
                    f"{converter}.symmetric: {str(symmetric).lower()}; run calibrate(model, batches) again"
                )
        if symmetric:
            return value
        # What was set by hand as one number is a range that reaches as far on both sides.
        ranges = tuple(one if isinstance(one, Range) else Range(-one, one) for one in each)
        if isinstance(value, BySlice):
            return BySlice.cut(ranges, value.shape[1])
        return ranges if several else ranges[0]

    def outlived(self, name: str) -> list[str]:
        """Return the profile's fields that a range (one of `RANGES`) was calibrated for another value of."""
        if self.calibrated_for is None:
            return []
        if self._basis is None or self._basis[0] is not self.profile:
            self._basis = self.profile, basis(self.profile)
        fields = changed(self.calibrated_for, self._basis[1])
        return fields if name == "adc_full_scale" else [field for field in fields if field in INPUT]

    def _numbers(self, name: str) -> Any:
        """Return a range's numbers; those of a device, which must be waited for, are kept until they change."""
        held = getattr(self, name)
        if held.device.type == "cpu" or isinstance(held, nn.Parameter) or held.is_inference():
            return held.tolist()
        kept = self._asked.get(name)
        if kept is None or kept[0] is not held or kept[1] != held._version:
            self._asked[name] = kept = held, held._version, held.tolist()
        return kept[2]

    def _where(self) -> str:
        what = f"{self._get_name()}({self.extra_repr()})"
        return f"{self.layer_name} = {what}" if self.layer_name else what

    def _check_features(self, x: Tensor, dim: int, expected: int) -> None:
        refuse_symbols(x)
        if x.is_nested:  # has no shape; `exact_dtype` refuses it, or the digital twin takes it
            return
        if x.ndim < -dim or x.shape[dim] != expected:
            raise ShapeError(
                f"{type(self).__name__}: dimension {dim} of the input must be {expected}, got shape {tuple(x.shape)}"
            )

    def extra_repr(self) -> str:
        """Name the profile beside the twin's own description."""
        own = super().extra_repr()
        return f"{own}, profile={self.profile.name!r}" if hasattr(self, "profile") else own

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # The ranges follow the layer's device and keep their precision: half() would round α and may overflow.
        before = {name: getattr(self, name) for name in RANGES}
        learned = {name: value.detach().clone() for name, value in before.items() if name in self._parameters}
        super()._apply(fn, recurse)
        for name, value in (before | learned).items():
            device = getattr(self, name).device
            lost = value.is_meta and device.type != "meta"
            value = torch.full_like(value, math.nan, device=device) if lost else value.to(device)
            if name in learned:  # the same parameter, for the optimiser that holds it
                getattr(self, name).data = value
            else:
                setattr(self, name, value)
        self._kept.clear()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if any(prefix + name in state_dict for name in RANGES):  # what they are for comes with them
            self.calibrated_for = None
        # A digital network's state_dict has no ranges: keep this layer's own instead of calling them missing.
        for name in RANGES:
            own = getattr(self, name)
            if own.is_meta:  # what `assign` leaves there would have no value
                own = torch.full(own.shape, math.nan, device="cpu")
            given = state_dict.setdefault(prefix + name, own)
            if given.shape != own.shape:  # one full scale for the layer, or one for each tile
                setattr(self, name, own.new_full(given.shape, math.nan))
        # A chip is known where it was programmed, here or in the layer that was saved; the record likewise.
        seed, seconds = (state_dict.pop(prefix + name, None) for name in CHIP)
        if seed is not None and not seed.is_meta:
            self._load_chip(seed, seconds)
        record = state_dict.pop(prefix + RECORD, None)
        if record is not None and not record.is_meta:
            self.calibrated_for = tuple(record.tolist())
        values, about = (state_dict.pop(prefix + name, None) for name in KEYS)
        if values is not None and about is not None and not values.is_meta and not about.is_meta:
            self.correction = Correction.of(values, about)
        elif seed is not None:  # another chip, that nobody measured
            self.correction = None
        self._kept.clear()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.chip_seed is not None:
            # With a check, for states are averaged and cast as well.
            words = [self.chip_seed, derive(self.chip_seed, Key.CHECK)]
            destination[prefix + "chip_seed"] = torch.tensor(words, dtype=torch.int64, device="cpu")
            destination[prefix + "chip_seconds"] = torch.tensor(self.chip_seconds, dtype=torch.float64, device="cpu")
        if self.calibrated_for is not None:
            destination[prefix + RECORD] = torch.tensor(self.calibrated_for, dtype=torch.float64, device="cpu")
        if self.correction is not None:
            destination.update({prefix + name: v for name, v in zip(KEYS, self.correction.tensors(), strict=True)})

    def _load_chip(self, seed: Tensor, seconds: Tensor | None) -> None:
        """Take over a saved chip: its seed and check, or, as it once was saved, the seed alone."""
        number, *check = seed.flatten().tolist() or [-1]
        age = 0.0 if seconds is None else float(seconds)
        known = seed.dtype == torch.int64 and number >= 0 and check == [derive(number, Key.CHECK)] * (seed.ndim > 0)
        known &= seconds is None or seconds.dtype == torch.float64
        if not (known and 0 <= age < math.inf):
            raise ProgrammingError(
                f"{self._where()}: chip_seed and chip_seconds of this state are those of no chip (averaged, cast or "
                "damaged?); take them from the network that was programmed, or leave them out and run program"
            )
        self.chip_seed, self.chip_seconds = number, age

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.pop("_built", None)  # what once was kept, and by what
        self.__dict__.setdefault("_kept", Kept())
        self.__dict__.setdefault("_spec", None)
        self.__dict__.setdefault("keep_programmed", True)
        self.__dict__.setdefault("correction", None)
        for name in CHIP:  # they once were buffers
            held = self._buffers.pop(name, None)
            self.__dict__.setdefault(name, None if held is None else held.item())

    def _replicate_for_data_parallel(self) -> Self:
        replica: Self = super()._replicate_for_data_parallel()  # type: ignore[misc]
        if self.seed is not None:
            # torch.nn.DataParallel makes its replicas anew in every step, so that what they count is lost.
            replica.seed, replica.calls = derive(self.seed, Key.REPLICA, next_call(self)), 0
        return replica


def _short(value: object) -> str:
    text = str(value)  # of a table, thousands of numbers
    return text if len(text) <= 60 else f"{text[:59]}…"


def _ranges(values: Any) -> Any:
    """Return what a range's buffer holds as `MatmulSpec` takes it: a number, a Range, several of them; None for NaN.

    Parameters
    ----------
    values : float or list
        A full scale, those of tiles, two ends, a list of two ends for each tile (or, if it is one, for all), or for
        each slice a list of each step's one or two ends.
    """
    if isinstance(values, float):
        return None if math.isnan(values) else values
    if isinstance(values[0], list) and isinstance(values[0][0], list):
        ends = [end for steps in values for end in steps]
        each = tuple(_ranges([end] if len(end) == 2 else end[0]) for end in ends)
        return None if None in each else BySlice.cut(each, len(values[0]))
    if any(_ranges(value) is None for value in values):
        return None
    if isinstance(values[0], list):
        return Range(*values[0]) if len(values) == 1 else tuple(Range(*ends) for ends in values)
    return tuple(values)


def analog_layers(model: nn.Module) -> Iterator[tuple[str, AnalogLayer]]:
    """Yield (name, layer) of every analog layer of a model, each once.

    Parameters
    ----------
    model : nn.Module

    Yields
    ------
    name : str
        As of `named_modules`; of a layer in several places the first.
    layer : AnalogLayer
        Those of layers of several matrices (attention, recurrent layers) are their crossbars.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> [name for name, layer in an.analog_layers(an.convert(net, an.HardwareProfile.load("8bit")))]
    ['0', '2']
    """
    for name, module in model.named_modules():
        if isinstance(module, AnalogLayer):
            yield name, module


def set_seed(model: nn.Module, seed: int | None) -> None:
    """Fix the noise of every analog layer: call number n of a layer draws the same numbers in every run.

    Parameters
    ----------
    model : nn.Module
        Converted; changed in place.
    seed : int or None
        In [0, 2^64); None returns to seeds drawn from torch's default generator at each call.

    Raises
    ------
    ProgrammingError
        The seed is no whole number, negative or too large.

    Notes
    -----
    Layers are told apart by their position: networks, or parts of one, that get the same seed draw the same. Ranks of
    torch.distributed draw different numbers in training, and the same in evaluation.

    With a seed, torch.utils.checkpoint would draw different noise in its second forward, which is another call; without
    one it repeats the first.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> profile = an.HardwareProfile(dac={"input_range": 1.0}, noise={"output": 0.1})
    >>> layer, x = an.AnalogLinear(8, 3, profile=profile).eval(), torch.ones(1, 8)
    >>> an.set_seed(layer, 7)
    >>> first, second = layer(x), layer(x)
    >>> an.set_seed(layer, 7)
    >>> torch.equal(layer(x), first), torch.equal(first, second)
    (True, False)
    """
    seed = None if seed is None else checked(seed, ProgrammingError)
    for number, (_, layer) in enumerate(analog_layers(model)):
        layer.seed, layer.stream, layer.calls = seed, number, 0
