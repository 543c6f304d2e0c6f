"""What must hold for each case of `tests.fuzz`."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import analogsim as an
from analogsim.chip import DeviceKernel
from analogsim.chip.dac_steps import step_coefficients, steps
from analogsim.errors import AnalogSimError, AnalogSimWarning
from analogsim.kernels import reference
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.reference import Reference
from analogsim.kernels.conv_job import CONVS
from analogsim.kernels.tiles import cut
from analogsim.nn import analog_layers, function
from analogsim.ranges.kinds import size
from tests.fuzz.draw import Case

LARGE = 1e36  # what stays below cannot overflow float32 when a few of it are added


class Failure(Exception):
    """Something that must hold does not."""


def check(case: Case) -> str | None:
    """Return None where all holds, or why the library refuses the case.

    Raises
    ------
    Failure
        Something that must hold does not. Any other exception that is no `AnalogSimError` is a failure too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", AnalogSimWarning)
        torchs = r"(?s).*(padding='same'|zero-element|RNN module weights|LSTM with projections).*"
        warnings.filterwarnings("ignore", message=torchs)
        try:
            with torch.no_grad():
                wanted = case.module.eval()(*case.inputs)
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
            return f"torch refuses: {type(error).__name__}"
        try:
            _check(case, wanted)
        except AnalogSimError as error:
            message = str(error)
            if "\n" in message or not message:
                raise Failure(f"a message of several lines: {message!r}") from error
            if _plain(case) and not ("all zero" in message and _may_become_zero(case)):
                raise Failure(f"refused: {type(error).__name__}: {message}") from error
            return f"{type(error).__name__}: {message.split(': ')[-1][:60]}"
    return None


def _plain(case: Case) -> bool:
    """Say whether nothing of a case is a reason to refuse it."""
    dac = case.profile.dac
    if not _sizes(case) or not case.inputs[0].numel() or case.dtype == torch.float16:
        return False
    learnable = dac.symmetric and dac.rounding == "nearest" and case.profile.tile.current_limit is None
    if case.options["learn"] and not learnable:
        return False
    usual = {"normal", "positive", "sparse", "ties"}
    signed = case.profile.dac.signed and case.profile.adc.signed
    return set(case.styles) <= {"normal", "positive"} or (signed and set(case.styles) <= usual and _sizes(case) > 64)


def _may_become_zero(case: Case) -> bool:
    """Say whether a DAC may turn usual inputs into zeros only: negative ones, or ones below half its step."""
    dac = case.profile.dac
    return not dac.signed or (dac.bits is not None and isinstance(dac.input_range, float))


def _sizes(case: Case) -> int:
    return min(case.inputs[0].numel(), *(p.numel() for p in case.module.parameters() if p.ndim > 1))


def _check(case: Case, wanted: Tensor) -> None:
    options, x = case.options, case.inputs[0]
    model = an.convert(case.module, case.profile)
    layers = [layer for _, layer in analog_layers(model)]
    rules = case.profile.dac.input_range, case.profile.adc.full_scale
    if "calibrated" in rules:
        report = an.calibrate(model, x, options["method"], per=options["per"], progress=False)
        for name, line in report.items():
            values = [value for value in line.values() if not isinstance(value, str)]
            numbers = torch.tensor([size(v) for value in values for v in _leaves(value)])
            if not numbers.isfinite().all() or (numbers < 0).any():
                raise Failure(f"calibrate's report of {name!r}: {line}")
    if case.profile.is_drawn:
        an.program(model, options["chip"])
        an.at_time(model, options["age"])
    out = _run(model, case, x)
    with by_steps():  # a pass over a whole sequence rounds otherwise; tests/kernels/test_recurrent.py compares them
        stepwise = _run(model, case, x)
    with compared(case):
        an.set_seed(model, options["seed"])
        if not _same(stepwise, model(x.clone().requires_grad_(x.is_floating_point())).detach()):
            raise Failure("with gradients the output is another")
    if out.shape != wanted.shape or out.dtype != wanted.dtype:
        raise Failure(f"output {tuple(out.shape)} {out.dtype}, torch's {tuple(wanted.shape)} {wanted.dtype}")
    finite = _must_be_finite(case, layers)
    if finite and not out.isfinite().all():
        raise Failure("a finite input gives an output that is not finite")
    if case.profile.is_ideal and finite and case.dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(out, wanted)
    if not _check_neighbours(model, case, out, finite) and not _same(out, _run(model, case, x)):
        raise Failure("the same seed gives another output")
    _check_gradients(model, case, finite)
    if options["threads"]:
        torch.set_num_threads(2)
        try:
            if not _same(_run(model, case, x), out) and not any(_converts(layer) for layer in layers):
                torch.testing.assert_close(_run(model, case, x), out, rtol=1e-3, atol=1e-4, equal_nan=True)
        finally:
            torch.set_num_threads(1)


def _converts(layer: Any) -> bool:
    return layer.profile.adc.bits is not None


def _run(model: nn.Module, case: Case, x: Tensor) -> Tensor:
    an.set_seed(model, case.options["seed"])
    with torch.no_grad():
        return model.eval()(x)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _magnitude(*tensors: Tensor | None) -> float:
    """Return the largest magnitude; NaN counts as infinite."""
    found = [
        t.detach().double().abs().nan_to_num(math.inf).amax().item() for t in tensors if t is not None and t.numel()
    ]
    return max(found, default=0.0)


def _must_be_finite(case: Case, layers: list[Any]) -> bool:
    """Say whether docs/design.md (Finite numbers) promises a finite output."""
    x = _magnitude(*[x for x in case.inputs if isinstance(x, Tensor)])
    w = _magnitude(*case.module.parameters())
    # A half-precision result overflows early.
    limit = {torch.float16: 1e3, torch.bfloat16: LARGE, torch.float32: LARGE, torch.float64: LARGE}[case.dtype]
    if not (math.isfinite(x) and math.isfinite(w)):
        return False
    profile = case.profile
    alphas = [_magnitude(layer.input_range.nan_to_num(1.0)) for layer in layers]
    given = profile.dac.input_range
    alpha = max([x, *alphas]) if isinstance(given, str) else size(given)
    least = min([1.0, *alphas]) if isinstance(given, str) else size(given)
    w_max = profile.weight.w_max if isinstance(profile.weight.w_max, float) else w
    terms = 1e3 * max(p.numel() for p in case.module.parameters())
    top = max(x, alpha, 1e-3) * max(w, w_max, 1e-3) * terms
    if profile.dac.bits is None:
        top = max(top, min(max(1.0, x / max(least, 2.0**-100)), LARGE) ** 2 * terms)
    scale = profile.adc.full_scale
    most = 1.0 if scale is None or isinstance(scale, str) else size(scale)
    top = max(top, most * max(alpha, 1.0) * max(w_max, 1.0) * terms)
    if case.kind not in ("linear",) and not case.kind.startswith("Conv"):
        top = min(top, LARGE) ** 3  # products of products
    return top < limit


def _check_neighbours(model: nn.Module, case: Case, out: Tensor, finite: bool) -> bool:
    """NaN in one sample stays in that sample, and stays NaN; return whether there are others to be looked at."""
    x = case.inputs[0]
    if case.batch is None or x.shape[case.batch] < 2 or not out.numel() or not finite or not x.numel():
        return False
    if case.profile.dac.input_range == "dynamic" and not case.profile.is_ideal:
        return False  # a range of the whole batch, which is refused
    victim = case.options["victim"] % x.shape[case.batch]
    broken = x.clone()
    broken.select(case.batch, victim).fill_(math.nan)
    after = _run(model, case, broken)
    where = case.output_batch or 0
    others = [i for i in range(out.shape[where]) if i != victim]
    before, now = (t.index_select(where, torch.tensor(others)) for t in (out, after))
    if not _same(before, now):
        raise Failure(f"NaN in sample {victim} changes others (by up to {_magnitude(before - now)})")
    with torch.no_grad():
        digital = case.module.eval()(broken)  # torch's attention without weights may give 0
    if digital.select(where, victim).isnan().any() and not after.select(where, victim).isnan().any():
        raise Failure("an input of NaN gives an output without NaN")
    return True


def _check_gradients(model: nn.Module, case: Case, finite: bool) -> None:
    if case.options["learn"] and case.profile.dac.input_range == "calibrated":
        an.learn_ranges(model)
    x = case.inputs[0].clone().requires_grad_()
    wanted = {"both": (False, True), "evaluation": (False,), "training": (True,), False: ()}
    for training in wanted[case.options["gradients"]]:
        an.set_seed(model, case.options["seed"])
        model.zero_grad()
        x.grad = None
        out = model.train(training)(x)
        if out.requires_grad:
            out.sum().backward()
        if not finite:
            continue
        if training and not out.isfinite().all():
            raise Failure("a finite input gives an output that is not finite in training")
        for name, parameter in [("the input", x), *model.named_parameters()]:
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise Failure(f"the gradient of {name} is not finite ({'training' if training else 'evaluation'})")


# --- Numba against the reference -------------------------------------------------------------------------------------


@contextmanager
def by_steps() -> Iterator[None]:
    """Let recurrent layers read each step by itself, as they do for gradients."""
    Numba.recurs = False
    try:
        yield
    finally:
        Numba.recurs = True


@contextmanager
def compared(case: Case) -> Iterator[None]:
    """Hold every product of crossbars within the context to the reference's, at the same inputs."""
    linear, conv = function.CrossbarLinear.forward, function.CrossbarConv.forward

    def of_linear(ctx: Any, x: Tensor, weight: Tensor, bias: Any, plan: Any, alpha: Any = None) -> Tensor:
        out = linear(ctx, x, weight, bias, plan, alpha)
        _compare(case, out, x, plan, bias, None)
        return out

    def of_conv(ctx: Any, x: Tensor, w: Tensor, bias: Any, geometry: Any, plan: Any, alpha: Any = None) -> Any:
        out = conv(ctx, x, w, bias, geometry, plan, alpha)
        _compare(case, out, x, plan, bias, geometry)
        return out

    function.CrossbarLinear.forward, function.CrossbarConv.forward = staticmethod(of_linear), staticmethod(of_conv)
    try:
        yield
    finally:
        function.CrossbarLinear.forward, function.CrossbarConv.forward = staticmethod(linear), staticmethod(conv)


@torch.no_grad()
def _compare(case: Case, out: Tensor, x: Tensor, plan: Any, bias: Tensor | None, geometry: Any) -> None:
    kernel = plan.kernel
    deep = isinstance(kernel, DeviceKernel)
    base = kernel.base if deep else kernel
    if base.name != "numba":
        return  # the reference itself, or one that takes notes
    if plan.read.w_max is not None:  # Numba programs as it reads
        programmed, w_max = Reference().program(plan.programmed, case.profile.weight)
        gain = w_max * plan.read.spec.input_range
        plan = replace(plan, programmed=programmed, read=replace(plan.read, scale=gain, w_max=None))
    read = replace(plan.untracked(bias), record_clips=False)
    stated = DeviceKernel(Reference(), kernel.chip, kernel.profile) if deep else Reference()
    if geometry is None:
        want, _ = stated.matmul(x, plan.programmed, read)
    else:
        want, _ = stated.convolve(x, plan.programmed, geometry, read)
    rounding, flips, small = _bound(case, x, plan, geometry)
    if not small:
        return
    column = (-1, *[1] * (out.ndim - 2))
    scale = torch.ones(out.shape[1], dtype=torch.float64) if read.scale is None else read.scale.double().abs()
    rounding, flips = rounding * scale.view(column), flips * scale.view(column)
    rounding = (
        rounding + (out.double().abs().nan_to_num(0) + (0 if bias is None else bias.double().abs().view(column))) * 1e-6
    )
    if not torch.equal(out.isnan(), want.isnan()):
        raise Failure("Numba's NaN is not where the reference's is")
    off = (out.double() - want.double()).abs().nan_to_num(0)
    if (off > rounding + flips + 1e-37).any():  # where the bound is infinite or NaN, so is the result
        worst = (off - rounding - flips).nan_to_num(0).argmax()
        numbers = [float(v.expand_as(out).reshape(-1)[worst]) for v in (out, want, rounding, flips)]
        raise Failure("Numba is not the reference: {:.6g} and {:.6g}, rounding {:.2g}, steps {:.2g}".format(*numbers))
    continuous = case.styles == ("normal", "normal") and case.profile.weight.bits is None
    if continuous and (off > rounding + 1e-37).double().sum() > 5 + out.numel() * 0.02:
        raise Failure(f"Numba is another code than the reference in {int((off > rounding).sum())} of {out.numel()}")


def _bound(case: Case, x: Tensor, plan: Any, geometry: Any) -> tuple[Tensor, Tensor, bool]:
    """Return, in normalised units at the output, what rounding may do and what a step of each conversion is; and
    whether sums are small enough to be compared at all.
    """
    spec, profile, w = plan.read.spec, case.profile, plan.programmed
    x = x.double()
    planes: list[Any] = [(1.0, w.double(), None, ())]
    if isinstance(plan.kernel, DeviceKernel):
        # Columns whose currents are limited round, and draw, each by itself.
        lines = [(p.coefficient, own) for p in plan.kernel.chip.planes for own in p.columns or (p,)]
        planes = [(c, own.weight.double(), own.variance, own.powers) for c, own in lines]
    inputs = [(1.0, reference.dac(x, spec))]
    if isinstance(plan.kernel, DeviceKernel):
        inputs = steps(inputs[0][1], spec, profile.dac)
        assert len(inputs) == len(step_coefficients(profile.dac))

    def product(a: Tensor, b: Tensor) -> Tensor:
        if geometry is None:
            return a @ b.T
        return CONVS[a.ndim - 2](a, b, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)

    tiles = len(spec.tiles(x.shape[1])) if geometry is None else len(cut(w, spec))
    k = w[0].numel() if len(w) else 0
    normal = 2e-5 if profile.noise.distribution == "gaussian" else 2e-4
    scale = max(map(size, spec.full_scales), default=0.0)
    gain = 1 + 6 * profile.adc.gain_error
    levels = 2 ** (profile.adc.bits - profile.adc.signed) - 1 if profile.adc.bits else 0
    step = scale / levels if levels else 0.0
    if profile.adc.kind != "ideal":
        step = 2 * scale  # thresholds need not be in order: a sum beside one may end anywhere
    rounding = flips = torch.zeros((), dtype=torch.float64)
    largest = 0.0
    for c, weight, variance, powers in planes:
        for d, part in inputs:
            sums = product(part.abs(), weight.abs())
            for exponent, power in enumerate(powers, 2):
                sums = sums + product(part.abs() ** exponent, power.double().view(weight.shape).abs())
            ones = torch.ones_like(weight)
            length = product(part.square(), ones).sqrt()
            sigma = tiles * (spec.noise_output + profile.noise.wander) + spec.noise_multiplicative * sums
            sigma = sigma + spec.noise_read * tiles * length
            if variance is not None:
                sigma = sigma + tiles * product(part.square(), variance.double()).clamp(min=0).sqrt()
            own = (k + tiles + 16) * 2.0**-23 * sums + normal * sigma + tiles * scale * 1e-6
            own = own * gain + (tiles * scale * profile.adc.offset_error * 1e-6)
            rounding = rounding + abs(c * d) * own
            flips = flips + abs(c * d) * tiles * step * 1.001
            largest = max(largest, _magnitude(sums) + 10 * _magnitude(sigma))
    return rounding.nan_to_num(0, 0, 0), flips, largest < 1e18


def _leaves(value: Any) -> list[Any]:
    """Return a range or a number by itself, and those of lists of them, however deep."""
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, list) else [value]
