"""One pass over a chip's sums gives what its parts give one after the other; what is drawn once is never another's."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.chip import ADCKind
from analogsim.chip import adc as converters
from analogsim.chip.distributions import shaped
from analogsim.kernels import reference
from analogsim.kernels.backends.numba import Numba, adcs, device, jit
from analogsim.profile import kinds
from tests.support.machine_code import from_python

CPU = {"tile": {"rows": 40}, "dac": {"bits": 8, "input_range": 2.0}, "adc": {"bits": 7, "full_scale": 3.0}}
BASE = an.HardwareProfile(name="all noise", **CPU, noise={"output": 0.05, "read": 0.02, "multiplicative": 0.03})
PARTS = {
    "slices": {"weight": {"bits": 8}, "cells": {"bits": 4}},
    "two steps": {"dac": {"step_bits": 4}},
    "three steps": {"dac": {"step_bits": 3}},
    "1/f noise": {"flicker": {"amplitude": 0.05}},
    "1/f noise alone": {"flicker": {"amplitude": 0.05}, "noise": {"read": 0.0, "output": 0.0}},
    "noise of cells": {"cells": {"mapping": "differential", "read_noise": {"g": [0, 1], "value": [0.01, 0.1]}}},
    "errors": {"adc": {"gain_error": 0.02, "offset_error": 0.02}},
    "SAR": {"adc": {"kind": "sar", "capacitor_mismatch": 0.02}},
    "SAR in disorder": {"adc": {"kind": "sar", "capacitor_mismatch": 0.4}},
    "ramp": {"adc": {"kind": "ramp", "capacitor_mismatch": 0.2, "inl": 1.5}},
    "measured ADCs": {"adc": {"kind": "measured", "transfer": {"dnl": [[0.1] * 126, [-0.05] * 126]}}},
    "down": {"adc": {"rounding": "down"}},
    "unsigned": {"adc": {"signed": False}},
    "register": {"adc": {"sum_bits": 7}},
    "Laplace": {"noise": {"distribution": "laplace"}},
    "uniform": {"noise": {"distribution": "uniform"}},
    "wandering": {"noise": {"wander": 0.1}},
    "no ADC": {"adc": {"bits": None, "full_scale": None}, "noise": {"distribution": "laplace"}},
    "much": {
        "weight": {"bits": 8},
        "cells": {"bits": 4, "mapping": "differential", "subtraction": "digital"},
        "dac": {"step_bits": 4},
        "flicker": {"amplitude": 0.05},
        "adc": {"kind": "sar", "capacitor_mismatch": 0.02, "gain_error": 0.02, "sum_bits": 8},
        "noise": {"distribution": "laplace", "wander": 0.1},
    },
}


@pytest.fixture(autouse=True)
def _threads():
    """Leave as many threads as there were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tables(kind, count, codes, step, generator):
    """Return thresholds and outputs of ADCs whose codes begin evenly, nearly so, in order, or in none."""
    even = (torch.arange(1, codes) - codes // 2 - 0.5).repeat(count, 1)
    noise = torch.randn(even.shape, generator=generator)
    thresholds = {
        "even": even,
        "near": (even + 0.2 * noise).sort(1).values,
        "bent": (even + 3 * torch.sin(even / 9) + 0.5 * noise).sort(1).values,
        "far": (codes * noise).sort(1).values,
        "ties": (even + noise).div(2).round().mul(2).sort(1).values,
        "disorder": even + noise,
        "infinite": torch.where(noise > 0, even, torch.inf).sort(1).values,
    }[kind]
    outputs = (torch.arange(codes) - codes // 2).clamp(min=1 - codes // 2).float().repeat(count, 1)
    return thresholds * step, (outputs if kind == "even" else outputs + 0.1 * (noise[:, :1] > 0)) * step


@given(
    st.sampled_from(["even", "near", "bent", "far", "ties", "disorder", "infinite"]),
    st.integers(1, 9),
    st.sampled_from([(1, 1), (37, 5), (3, 64), (29, 1025), (2, 3, 7), (3, 2, 5, 11), (1, 2, 700)]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_codes_are_those_of_the_search(kind, bits, shape, one, errors, first, seed):
    """Thresholds themselves, their neighbours, what clips, and NaN: bit by bit, but where an error of gain rounds."""
    generator, step = torch.Generator().manual_seed(seed), 0.37
    count = 1 if one else shape[1]
    thresholds, outputs = tables(kind, count, 2**bits, step, generator)
    top = 2.0 ** (bits - 1) * step
    sums = torch.randn(shape, generator=generator) * top
    if thresholds.numel():
        at = thresholds[:, torch.randint(thresholds.shape[1], (), generator=generator)]
        at = at.expand(shape[1]).view(1, -1, *[1] * (len(shape) - 2)).expand(shape)
        choice = torch.randint(5, shape, generator=generator)
        below, above = (torch.nextafter(at, torch.full_like(at, end)) for end in (-torch.inf, torch.inf))
        sums = torch.where(choice == 0, at, torch.where(choice == 1, below, torch.where(choice == 2, above, sums)))
    odd = torch.randint(30, shape, generator=generator)
    for number, value in enumerate((torch.nan, torch.inf, -torch.inf, 0.0)):
        sums = torch.where(odd == number, value, sums)
    gains, offsets = torch.ones(shape[1]), torch.zeros(shape[1])
    if errors:
        gains, offsets = (v + 0.1 * torch.randn(v.shape, generator=generator) for v in (gains, offsets))
    limits, before = (-top, top * 0.99), torch.randn(shape, generator=generator)
    want, clipped = reference.convert(sums, limits, step, gains, offsets, (thresholds, outputs))
    want = want if first else before + want
    out, marks = before.clone(), torch.zeros(shape, dtype=torch.uint8)
    counted = device.convert(out, sums, limits, step, gains, offsets, (thresholds, outputs), 11, marks, first)
    if not errors:
        assert torch.equal(marks, clipped.to(torch.uint8) << 3)
        assert counted == int(clipped.sum())
        torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)
    else:  # a gain and an offset are one rounding here, and two there: where that makes no difference, none
        table = thresholds.double(), outputs.double()
        ends = [
            reference.convert(sums.double(), limits, step, gains.double(), offsets.double() + by, table)
            for by in (-1e-5, 1e-5)
        ]
        sure = (ends[0][0] == ends[1][0]) & (ends[0][1] == ends[1][1])
        assert torch.equal((marks > 0)[sure], ends[0][1][sure])
        want = ends[0][0] + (0 if first else before)
        torch.testing.assert_close(out.double()[sure], want[sure], rtol=1e-5, atol=1e-5)
        assert torch.equal(out.isnan(), want.isnan())


@pytest.mark.parametrize(("mismatch", "comparisons"), [(0.0, 1), (0.01, 2), (1.0, 0)])
def test_tables_of_evenly_spaced_codes_are_not_searched(mismatch, comparisons):
    """It is what makes them fast: one threshold next to the guess, or two; a table in disorder is searched."""
    adc = an.HardwareProfile(adc={"bits": 8, "full_scale": 20.0, "kind": "sar", "capacitor_mismatch": mismatch}).adc
    chip = converters.Converters(adc, BASE.noise, 3, Numba())
    made = adcs.adcs(chip.conversion(20.0, 0, torch.zeros(1, 64)), 64, True)
    assert made.comparisons <= comparisons
    assert bool(made.comparisons) == bool(comparisons)


def test_noise_of_the_packages_distributions_is_that_of_their_quantiles():
    normals = torch.linspace(-6.7, 6.7, 100_001)
    for number, name in enumerate(device.DISTRIBUTIONS):
        got = normals.numpy().copy()
        from_python(jit.reshape_noise)(got, number)
        want = shaped(normals, name).double().numpy()
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (700, 33), (4000, 70)])
def test_slow_offsets_are_the_filters(shape):
    white = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for threads in (1, 3):
        torch.set_num_threads(threads)
        got = device.smooth(white.clone(), 0.97, 0.3)
        torch.testing.assert_close(got, reference.smooth(white, 0.97, 0.3), rtol=1e-6, atol=1e-6)


def layer(part, k=100, n=33, seed=1, **more):
    """Return a layer whose weights any other such layer has too."""
    torch.manual_seed(0)
    made = an.convert(nn.Linear(k, n), BASE.varied(**part).varied(**more)).eval()
    an.program(made, seed)
    return made


def output(made, x, backend="numba"):
    """Return a layer's output and the gradient of its input."""
    made.backend = backend
    an.set_seed(made, 3)
    x = x.clone().requires_grad_()
    y = made(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), grad


@pytest.mark.parametrize("name", PARTS)
def test_rows_in_one_pass_are_the_references(name, monkeypatch):
    """And those of a pass for each line, step and tile; of one output, of few and many, on one thread and several."""
    for m, k, n in ((300, 100, 64), (33, 130, 5), (1, 40, 1), (700, 90, 17)):
        made, x = layer(PARTS[name], k, n), torch.randn(m, k, generator=torch.Generator().manual_seed(m))
        want, want_grad = output(made, x, "reference")
        once = output(made, x)
        assert ((once[0] - want).abs() > 1e-4).double().mean() < 0.01, (m, k, n)
        assert ((once[1] - want_grad).abs() > 1e-4).double().mean() < 0.02, (m, k, n)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            again = output(made, x)
            torch.testing.assert_close(again[0], once[0], rtol=0, atol=2e-4 if n < 16 else 5e-5)
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(Numba, "read_lines", lambda *_: None)
            apart = output(made, x)
        assert ((once[0] - apart[0]).abs() > 1e-4).double().mean() < 0.01, (m, k, n)
        assert ((once[1] - apart[1]).abs() > 1e-4).double().mean() < 0.02, (m, k, n)


@pytest.fixture
def asked(monkeypatch):
    """Count how often an ADC's tables are made."""
    calls, made = [], converters.Converters._conversion

    def counted(self, *args):
        calls.append(args[:2])
        return made(self, *args)

    monkeypatch.setattr(converters.Converters, "_conversion", counted)
    return calls


SAR = {"adc": {"kind": "sar", "capacitor_mismatch": 0.05, "gain_error": 0.05, "offset_error": 0.05}}


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_adcs_are_drawn_once_for_a_chip_and_anew_for_another(backend, asked):
    """Whatever they follow from is changed in turn, back and forth: always the numbers of a layer made that way."""
    x = torch.randn(50, 100, generator=torch.Generator().manual_seed(5))
    made = layer(SAR)
    first = output(made, x, backend)[0]
    assert len(asked) == 3  # tiles
    assert torch.equal(output(made, x, backend)[0], first)
    assert len(asked) == 3
    changes = [
        lambda one: an.program(one, 2),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(adc={"full_scale": 2.0})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(adc={"capacitor_mismatch": 0.06})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(adc={"kind": "ramp"})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(adc={"bits": 6})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(tile={"rows": 30})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(noise={"distribution": "laplace"})),
        lambda one: setattr(one, "profile", BASE.varied(**SAR).varied(drift={"nu": 0.1})),
        lambda one: an.at_time(one, 1e6),
    ]
    for change in changes:
        change(made)
        fresh = layer(SAR)
        fresh.profile = made.profile
        fresh.chip_seed, fresh.chip_seconds = made.chip_seed, made.chip_seconds
        now = output(made, x, backend)[0]
        assert torch.equal(now, output(fresh, x, backend)[0])
    an.program(made, 1)
    made.profile = BASE.varied(**SAR)
    assert torch.equal(output(made, x, backend)[0], first)


def test_other_full_scales_outputs_and_lines_have_adcs_of_their_own():
    adc = BASE.varied(**SAR).adc
    chip, like = converters.Converters(adc, BASE.noise, 3, Numba()), torch.zeros(1, 6)
    first = chip.conversion(3.0, 0, like)
    assert chip.conversion(3.0, 0, like) is first
    others = [
        chip.conversion(2.0, 0, like),
        chip.conversion(3.0, 1, like),
        chip.conversion(3.0, 0, torch.zeros(1, 7)),
        chip.conversion(3.0, 0, like.double()),
        converters.Converters(adc, BASE.noise, 3, Numba(), 1, chip.kept).conversion(3.0, 0, like),
        converters.Converters(adc, BASE.noise, 4, Numba(), 0, chip.kept).conversion(3.0, 0, like),
    ]
    drawn = [tuple(one.table[0].flatten().tolist()) for one in (first, *others)]
    assert len(set(drawn)) == len(drawn)
    again = chip.conversion(3.0, 0, like)
    assert torch.equal(again.table[0], first.table[0])
    assert torch.equal(again.offsets, first.offsets)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_draw_for_themselves(twin):
    x, made = torch.randn(20, 100), layer(SAR)
    want = output(made, x)[0]
    other = twin(made)
    assert not other._kept._held
    assert torch.equal(output(other, x)[0], want)
    an.program(other, 2)
    assert not torch.equal(output(other, x)[0], want)
    assert torch.equal(output(made, x)[0], want)


def test_a_kind_of_ones_own_is_asked_again_as_soon_as_it_may_have_changed(monkeypatch):
    monkeypatch.setattr(kinds.ADC_KINDS, "_made", dict(kinds.ADC_KINDS._made))
    calls = []

    def define(shift):
        class Shifted(ADCKind):
            name = "shifted"

            def transfer(self, adc, codes, draw):
                calls.append(shift)
                return codes[None, 1:] - 0.5 + shift + getattr(self, "more", 0), codes[None]

        return Shifted

    an.register(define(0.0))
    made, x = layer({"adc": {"kind": "shifted"}}), torch.randn(20, 100)
    first = output(made, x)[0]
    count = len(calls)
    assert torch.equal(output(made, x)[0], first)
    assert len(calls) == count
    an.register(define(2.0))  # as when a notebook's cell is run again
    moved = output(made, x)[0]
    assert not torch.equal(moved, first)
    kinds.ADC_KINDS["shifted"].more = -2.0
    assert torch.equal(output(made, x)[0], first)
    kinds.ADC_KINDS["shifted"].more = 0.0
    assert torch.equal(output(made, x)[0], moved)
