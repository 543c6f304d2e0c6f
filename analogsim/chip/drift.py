"""Ageing: conductances relax with a power of time, and their 1/f read noise grows."""

import math
import struct
from bisect import bisect_right

import torch
from torch import Tensor

from ..errors import ProgrammingError
from ..profile import Drift, DriftTable, Flicker, HardwareProfile
from ..seeds import Key, Stream, derive
from .draw import normals
from .laws import ROUNDING, SMALLEST, evaluate, interpolated


def exponents(target: Tensor, drift: Drift, seed: int, array: int) -> Tensor:
    """Draw each cell's ν = |N(µ(g), σ(g)²)| for its target conductance g (N, K), fraction of g_max.

    References
    ----------
    S. R. Nandakumar et al., "Phase-change memory models for deep learning training and inference", ICECS 2019: µ and σ
    linear in ln(g), between limits.
    """
    mean, spread = evaluate(drift.nu, target), evaluate(drift.nu_sigma, target)
    return (mean + spread * normals(target, seed, Stream.DRIFT, array)).abs()


def relax(g: Tensor, target: Tensor, drift: Drift, seconds: float, seed: int, array: int) -> Tensor:
    """Return what conductances became `seconds` after the first read: g·((t0 + seconds)/t0)^(-ν), or by a table."""
    if drift.table is not None:
        return measured(g, drift.table, drift.t0 + max(seconds, 0.0))
    if seconds <= 0 or not drift.is_on:
        return g
    return g * (1 + seconds / drift.t0) ** -exponents(target, drift, seed, array)


def measured(g: Tensor, table: DriftTable, time: float) -> Tensor:
    """Return what cells programmed to g became: g + Δ(|g|, t), of the sign of g, and not beyond 0.

    Δ is the table's g(g0, t) - g0, linear in g0 and ln t between its points, and held beyond them.

    Parameters
    ----------
    time : float
        t since programming, seconds.

    Raises
    ------
    ProgrammingError
        t is outside of a table that does not hold there.
    """
    times = table.seconds
    first, last = times[0], times[-1]
    if table.outside == "error" and not first * (1 - ROUNDING) <= time <= last * (1 + ROUNDING):
        raise ProgrammingError(
            f"drift.table: {time:.4g} s after programming (t0 and the chip's age) is outside of its {first:.4g} to "
            f"{last:.4g} s; measure longer, or say `outside: hold`"
        )
    right = min(max(bisect_right(times, time), 1), len(times) - 1)
    span = math.log(times[right] / times[right - 1])
    share = min(max(math.log(time / times[right - 1]) / span, 0.0), 1.0)
    changes = [row[right - 1] * (1 - share) + row[right] * share - g0 for g0, row in zip(table.g0, table.g)]
    size = g.abs()
    now = (size + interpolated(table.g0, tuple(changes), size)).clamp(min=0)
    return torch.where(g < 0, -now, now)


def spread_apart(g: Tensor, target: Tensor, profile: HardwareProfile, seconds: float, seed: int, array: int) -> Tensor:
    r"""Return what cells became whose mean and spread were measured (`drift.moments`), and not below 0.

    With µ_t and the deviation that `statistics` gives for a target ĝ, and one normal of each cell for all ages,

        g(t) = g + µ_t(ĝ) + √(max(σ_t(ĝ + µ_t)² - σ_0(ĝ)², 0))·N(0, 1)

    so that cells of one target have the variance σ_t².

    Raises
    ------
    ProgrammingError
        The chip is older than the last age.
    """
    if seconds <= 0:
        return g
    moved, more = statistics(target, profile, seconds)
    aged = g + moved.to(g) + more.to(g) * normals(g, seed, Stream.DRIFT, array)
    return aged if profile.cells.mapping == "signed" else aged.clamp(min=0)


def statistics(target: Tensor, profile: HardwareProfile, seconds: float) -> tuple[Tensor, Tensor]:
    r"""Return by how much cells of targets ĝ have moved in the mean, µ_t, and √(max(σ_t(ĝ + µ_t)² - σ_0(ĝ)², 0)).

    σ_t is the standard deviation at this age (above 0), and σ_0 that of programming. Both are in float64.

    Raises
    ------
    ProgrammingError
        The chip is older than the last age.
    """
    moments = profile.drift.moments
    assert moments is not None
    ages, last = (0.0, *moments.seconds), moments.seconds[-1]
    if seconds > last * (1 + ROUNDING) and moments.outside == "error":
        raise ProgrammingError(
            f"drift.moments: a chip of {seconds:.4g} s is older than the last age, {last:.4g} s; measure longer, or "
            "say `outside: hold`"
        )
    at = min(seconds, last)
    right = min(bisect_right(ages, at), len(moments.seconds))
    share = (at - ages[right - 1]) / (ages[right] - ages[right - 1])
    wanted = target.double()  # a polynomial of high degree, whose terms cancel
    means = [torch.zeros_like(wanted), *(evaluate(mean, wanted, signed=True) for mean in moments.mean[:right])]
    moved = torch.lerp(means[right - 1], means[right], share)
    now = (wanted + moved).clamp(min=0)
    first = evaluate(profile.programming.sigma, wanted)
    sigmas = [first, *(evaluate(law, now) for law in moments.sigma[:right])]
    return moved, (torch.lerp(sigmas[right - 1], sigmas[right], share).square() - first.square()).clamp(min=0).sqrt()


def flicker_sigma(now: Tensor, programmed: Tensor, flicker: Flicker, time: float) -> Tensor:
    """Return the 1/f read noise's σ of cells, fraction of g_max.

        σ = g(t)·min(amplitude·g^(-exponent), maximum)·√ln((t + t_read)/(2 t_read))

    Parameters
    ----------
    now, programmed : Tensor (N, K)
        g(t), and g as programmed.
    time : float
        t since programming, seconds.

    References
    ----------
    Joshi et al. (2020), Methods; Nandakumar et al. (2019).
    """
    g = programmed.abs()
    ratio = evaluate(flicker.amplitude, g) * g.clamp(min=SMALLEST) ** -flicker.exponent
    growth = math.log((time + flicker.read_time) / (2 * flicker.read_time))
    return now.abs() * ratio.clamp(max=flicker.maximum) * math.sqrt(max(growth, 0.0))


def frozen(now: Tensor, sigma: Tensor, seconds: float, seed: int, array: int, negative: bool) -> Tensor:
    """Return g + σ·N(0, 1), and not below 0 where conductances cannot be: one draw for each chip and age.

    As aihwkit draws it (class PCMLikeNoiseModel, apply_drift_noise_to_conductance).

    Parameters
    ----------
    seconds : float
        The chip's age: another one draws other numbers.
    negative : bool
        An abstract signed cell.
    """
    age = int.from_bytes(struct.pack("<d", seconds), "little")
    noisy = now + sigma * normals(now, derive(seed, Key.AGE, age), Stream.FLICKER, array)
    return noisy if negative else noisy.clamp(min=0)
