"""Exact wires: columns' currents against an independent solution of Kirchhoff's equations, to 1e-6 and better."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analogsim as an
from analogsim.chip.circuit import Ends, transfer
from analogsim.errors import CalibrationError, ProfileError
from analogsim.kernels.backends.numba import Numba
from analogsim.kernels.backends.reference import Reference
from analogsim.kernels.circuit import Circuit
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import HardwareProfile
from tests.support import oracle
from tests.support.chips import IDEAL, effective, linear

RESISTANCE = st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 1.0, 10.0])
PAIRS = {"mapping": "differential", "g_min": 0.1}


def cells(generator, rows, columns, sides):
    """Conductances, some of them 0."""
    return [
        generator.uniform(0, 1, (rows, columns)) * (generator.uniform(0, 1, (rows, columns)) < 0.8)
        for _ in range(sides)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 2), *[RESISTANCE] * 4, st.integers(0, 2**32 - 1))
def test_an_array_is_kirchhoffs(rows, columns, sides, row, column, row_terminal, column_terminal, seed):
    generator = np.random.default_rng(seed)
    matrices, x = cells(generator, rows, columns, sides), generator.uniform(-1, 1, rows)
    ends = row, column, row_terminal, column_terminal
    want = oracle.circuit(matrices, x, *ends)
    found = transfer([torch.from_numpy(g) for g in matrices], Ends(row, row_terminal, column, column_terminal))
    np.testing.assert_allclose(x @ found.numpy(), want, rtol=1e-8, atol=1e-9)  # what the oracle itself cancels


def test_the_solution_itself_knows_what_an_older_one_says():
    """The general circuit of the oracle is its first one, which the first-order wires were tested against."""
    generator = np.random.default_rng(0)
    g, x = generator.uniform(0.05, 1, (6, 5)), generator.uniform(0, 1, 6)
    np.testing.assert_allclose(oracle.circuit([g], x, 0.02, 0.03), oracle.network(g, x, 0.02, 0.03), rtol=1e-12)


def test_tiny_segments_are_next_to_none_whatever_the_terminal_is():
    generator = np.random.default_rng(0)
    (g,) = cells(generator, 12, 9, 1)
    found = [transfer([torch.from_numpy(g)], Ends(tiny, 0.5, tiny, 1.0)) for tiny in (0.0, 1e-12)]
    np.testing.assert_allclose(found[1].numpy(), found[0].numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_an_array_of_256_rows_and_columns_is_kirchhoffs():
    generator = np.random.default_rng(0)
    (g,), x = cells(generator, 256, 256, 1), generator.uniform(-1, 1, 256)
    found = transfer([torch.from_numpy(g)], Ends(2e-5, 1e-4, 1e-5, 2e-4)).numpy()
    want = oracle.circuit([g], x, 2e-5, 1e-5, 1e-4, 2e-4)
    assert np.abs(x @ found - want).max() < 1e-9 * np.abs(want).max()
    assert np.abs(x @ found - x @ g).max() > 0.1 * np.abs(want).max()


OPTIONS = [
    {"row": 2e-3, "column": 1e-3},
    {"row": 2e-3, "row_terminal": 5e-3},
    {"column": 1e-3, "column_terminal": 5e-3},
    {"row": 2e-3, "column": 1e-3, "row_terminal": 5e-3, "column_terminal": 4e-3, "interleaved": True},
]


def layer_currents(w, x, wires, g_min=0.1, rows=4, cols=3):
    """What a layer of differential pairs in arrays of `rows` x `cols` gives, from the oracle's circuits."""
    resistances = {key: value for key, value in wires.items() if key not in ("interleaved", "solution")}
    out = np.zeros(len(w))
    for start in range(0, len(w), cols):
        for first in range(0, w.shape[1], rows):
            block, part = w[start : start + cols, first : first + rows].T, x[first : first + rows]
            sides = [g_min + (1 - g_min) * np.maximum(sign * block, 0) for sign in (1, -1)]
            if wires.get("interleaved"):
                current = oracle.circuit(sides, part, **resistances)
            else:
                plus, minus = (oracle.circuit([side], part, **resistances) for side in sides)
                current = plus - minus
            out[start : start + cols] += current / (1 - g_min)
    return out


@pytest.mark.parametrize("wires", OPTIONS, ids=lambda wires: "+".join(wires))
def test_layers_of_pairs_are_kirchhoffs(wires):
    profile = IDEAL.varied(tile={"rows": 4, "cols": 3}, cells=PAIRS, wires=wires | {"solution": "exact"})
    layer, x = linear(profile, 5, 10), np.linspace(-1, 1, 10)
    want = layer_currents(layer.weight.detach().numpy(), x, wires)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, rtol=1e-9, atol=1e-12)
    assert np.abs(effective(layer) @ x - layer.weight.detach().numpy() @ x).max() > 1e-3


@pytest.mark.parametrize("wires", OPTIONS, ids=lambda wires: "+".join(wires))
def test_first_order_wires_agree_to_second_order(wires):
    """A tenth of the resistances leaves a hundredth of the difference between the two solutions."""
    x = np.linspace(-1, 1, 10)
    left = []
    for scale in (0.1, 0.01):
        scaled = {key: value if key == "interleaved" else scale * value for key, value in wires.items()}
        profile = IDEAL.varied(tile={"rows": 4, "cols": 3}, cells=PAIRS, wires=scaled)
        first = linear(profile, 5, 10)
        exact = linear(profile.varied(wires={"solution": "exact"}), 5, 10)
        left.append(np.abs(effective(first) @ x - effective(exact) @ x).max())
        lost = np.abs(effective(first) @ x - first.weight.detach().numpy() @ x).max()
        assert left[-1] < lost / 10
    assert left[1] == pytest.approx(left[0] / 100, rel=0.1)


def test_reference_columns_and_slices_are_in_the_circuit():
    """Offset cells: each array's last columns are its references, whose current is subtracted."""
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 6},
        weight={"bits": 4},
        cells={"mapping": "offset", "g_min": 0.1, "bits": 2},
        wires={"row": 2e-3, "column": 1e-3, "solution": "exact"},
    )
    layer, x = linear(profile, 5, 8), np.linspace(-1, 1, 8)
    codes, want = np.round(layer.weight.detach().numpy() * 7).astype(int) + 8, np.zeros(5)
    for outputs in (range(0, 3), range(3, 5)):
        for rows in (slice(0, 4), slice(4, 8)):
            held = [codes[j, rows] >> 2 * i & 3 for j in outputs for i in range(2)]
            held += [np.full(4, 8 >> 2 * i & 3) for i in range(2)]
            current = oracle.circuit([0.1 + 0.9 * np.array(held).T / 3], x[rows], 2e-3, 1e-3)
            for j in outputs:
                for i in range(2):
                    line = current[2 * (j - outputs[0]) + i] - current[2 * len(outputs) + i]
                    want[j] += 4**i * 3 / 7 * line / 0.9
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, rtol=1e-9, atol=1e-12)


def test_digital_pairs_lie_in_one_array():
    profile = IDEAL.varied(
        tile={"rows": 8, "cols": 6},
        cells=PAIRS | {"subtraction": "digital"},
        wires={"row": 2e-3, "column": 1e-3, "solution": "exact"},
    )
    layer, x = linear(profile, 3, 8), np.linspace(-1, 1, 8)
    w = layer.weight.detach().numpy()
    g = 0.1 + 0.9 * np.array([np.maximum(sign * one, 0) for one in w for sign in (1, -1)])
    current = oracle.circuit([g.T], x, 2e-3, 1e-3)
    want = (current[::2] - current[1::2]) / 0.9
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, rtol=1e-9, atol=1e-12)


def test_dead_lines_are_open_circuits():
    profile = IDEAL.varied(
        cells=PAIRS, wires={"row": 2e-3, "column": 1e-3, "solution": "exact"}, faults={"dead_rows": 0.4}
    )
    plain = profile.varied(wires={"row": 0.0, "column": 0.0, "solution": "first-order"})
    layer, other = linear(profile, 6, 12), linear(plain, 6, 12)
    for one in (layer, other):
        an.program(one, 1)
    dead = effective(other).any(0) == 0
    assert 1 < dead.sum() < 11
    w = layer.weight.detach().numpy()
    sides = [(0.1 + 0.9 * np.maximum(sign * w, 0)).T * ~dead[:, None] for sign in (1, -1)]
    x = np.linspace(-1, 1, 12)
    plus, minus = (oracle.circuit([side], x, 2e-3, 1e-3) for side in sides)
    np.testing.assert_allclose(effective(layer) @ x, (plus - minus) / 0.9, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_noise_of_a_cell_counts_as_the_circuit_lets_it(interleaved):
    """A weight's variance is σ² times the square of ∂I/∂g of its cells, to first order in the resistances.

    ∂I/∂g is taken by differences from the exact circuit. What is left falls with the square of the resistance.
    """
    left, x = [], np.zeros(5)
    for scale in (1.0, 0.1):
        wires = {"row": 2e-3 * scale, "column": 1e-3 * scale, "row_terminal": 3e-3 * scale}
        profile = IDEAL.varied(
            cells=PAIRS, flicker={"amplitude": 0.1}, wires=wires | {"solution": "exact", "interleaved": interleaved}
        )
        layer, ideal = linear(profile, 4, 5), linear(profile.varied(wires={k: 0.0 for k in wires}), 4, 5)
        found = []
        for one in (layer, ideal):
            an.program(one, 1)
            (plane,) = one.write(one.weight.detach()).chip.planes
            found.append(plane.variance.numpy())
        w = layer.weight.detach().numpy()
        sides = [(0.1 + 0.9 * np.maximum(sign * w, 0)).T for sign in (1, -1)]
        unit = oracle.flicker(1.0, 1.0, amplitude=0.1, exponent=0.0, maximum=1.0, read_time=250e-9, time=20.0)
        want = np.zeros_like(w)
        for r in range(5):
            x[:] = np.arange(5) == r
            for c in range(4):
                for side in (0, 1):
                    changed = [g.copy() for g in sides]
                    step = 1e-4
                    changed[side][r, c] += step
                    before, after = (
                        oracle.circuit(both, x, **wires) if interleaved else oracle.circuit([both[side]], x, **wires)
                        for both in (sides, changed)
                    )
                    want[c, r] += ((after - before)[c] / step / 0.9 * unit * sides[side][r, c]) ** 2
        lost = np.abs(found[0] / found[1] - 1).max()
        left.append(np.abs(found[0] / want - 1).max())
        assert left[-1] < lost / 5
    assert left[1] < left[0] / 50


def test_what_does_not_fit_together_is_refused():
    for change, message in (
        ({"wires": {"row": 1e-3, "solution": "exact"}}, "signed"),
        ({"wires": {"row": 1e-3, "interleaved": True}}, "interleaved"),
        ({"wires": {"row": 1e-3, "gated": True}, "cells": PAIRS}, "gated"),
        ({"wires": {"source": 1e-3, "solution": "exact"}, "cells": PAIRS}, "gated"),
        ({"wires": {"source": 1e-3, "solution": "exact", "gated": True}, "cells": PAIRS}, "step"),
        ({"wires": {"source_terminal": 1e-3}}, "source"),
        ({"wires": {"interleaved": True}, "cells": PAIRS | {"subtraction": "digital"}}, "interleaved"),
    ):
        with pytest.raises(ProfileError, match=message):
            HardwareProfile(**change)


# --- gated rows ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 2),
    st.booleans(),
    *[RESISTANCE] * 4,
    st.integers(0, 2**32 - 1),
)
def test_an_array_with_gated_rows_is_kirchhoffs(rows, columns, sides, along_rows, supply, column, end, exit, seed):
    generator = np.random.default_rng(seed)
    matrices, x = cells(generator, rows, columns, sides), generator.uniform(-1, 1, (3, rows))
    x[generator.uniform(0, 1, x.shape) < 0.5] = 0
    if along_rows:
        wires = {"row": supply, "row_terminal": end}
    else:
        wires, x = {"source": supply, "source_terminal": end}, np.sign(np.abs(x))
    circuit = Circuit(torch.tensor(np.array(matrices)), supply, end, column, exit, along_rows)
    want = [oracle.circuit(matrices, one, column=column, column_terminal=exit, gated=True, **wires) for one in x]
    for backend in (Reference(), Numba()):
        np.testing.assert_allclose(backend.settle(circuit, torch.from_numpy(x)).numpy(), want, rtol=1e-7, atol=1e-8)


GATED = {"row": 2e-3, "column": 1e-3, "row_terminal": 3e-3, "solution": "exact", "gated": True}
SOURCE = {"source": 2e-3, "column": 1e-3, "source_terminal": 3e-3, "solution": "exact", "gated": True}


def switched(k, seed=0):
    """Inputs of which half are 0."""
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, k) * (generator.uniform(0, 1, k) < 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("interleaved", [False, True])
def test_layers_with_gated_rows_are_kirchhoffs(interleaved, dtype):
    wires = GATED | {"interleaved": interleaved}
    layer = linear(IDEAL.varied(tile={"rows": 4, "cols": 3}, cells=PAIRS, wires=wires), 5, 10)
    w, x = layer.weight.detach().numpy(), switched(10)
    want = layer_currents(w, x, wires)
    got = layer.to(dtype)(torch.tensor(x, dtype=dtype)).detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-9)
    always_on = layer_currents(w, x, {key: value for key, value in wires.items() if key != "gated"})
    assert np.abs(want - always_on).max() > 1e-4


@pytest.mark.parametrize("interleaved", [False, True])
def test_source_wires_with_inputs_bit_by_bit_are_kirchhoffs(interleaved):
    """Each bit is a read of its own, of which the cells of rows with a 1 are connected."""
    wires = SOURCE | {"interleaved": interleaved}
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 3}, dac={"bits": 3, "signed": False, "step_bits": 1}, cells=PAIRS, wires=wires
    )
    layer, codes = linear(profile, 5, 10), np.random.default_rng(1).integers(0, 8, 10)
    w = layer.weight.detach().numpy()
    want = sum(2**bit / 7 * layer_currents(w, (codes >> bit & 1).astype(float), wires) for bit in range(3))
    got = layer(torch.from_numpy(codes / 7)).detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def test_gated_arrays_have_reference_columns_and_slices():
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 6},
        weight={"bits": 4},
        cells={"mapping": "offset", "g_min": 0.1, "bits": 2},
        wires=GATED,
    )
    layer, x = linear(profile, 5, 8), switched(8)
    codes, want = np.round(layer.weight.detach().numpy() * 7).astype(int) + 8, np.zeros(5)
    for outputs in (range(0, 3), range(3, 5)):
        for rows in (slice(0, 4), slice(4, 8)):
            held = [codes[j, rows] >> 2 * i & 3 for j in outputs for i in range(2)]
            held += [np.full(4, 8 >> 2 * i & 3) for i in range(2)]
            g = 0.1 + 0.9 * np.array(held).T / 3
            current = oracle.circuit([g], x[rows], 2e-3, 1e-3, row_terminal=3e-3, gated=True)
            for j in outputs:
                for i in range(2):
                    line = current[2 * (j - outputs[0]) + i] - current[2 * len(outputs) + i]
                    want[j] += 4**i * 3 / 7 * line / 0.9
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mapping", ["channel", "im2col"])
@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1), "groups": 2}])
def test_convolutions_with_gated_rows_are_products_of_patches(mapping, geometry):
    """Each group is a linear layer on the patches under its kernel, in the same tiles, with the same ADCs."""
    profile = IDEAL.varied(
        tile={"rows": 9, "cols": 2, "mapping": mapping},
        cells=PAIRS,
        wires=GATED,
        adc={"bits": 8, "full_scale": 4.0, "rounding": "down"},
    )
    groups = geometry.get("groups", 1)
    layer = AnalogConv2d(4, 6, (2, 2), bias=False, profile=profile, **geometry).double().eval()
    torch.nn.init.uniform_(layer.weight, -1, 1)
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    x = x.relu()
    got = layer(x).detach()
    for group in range(groups):
        own = slice(group * 6 // groups, (group + 1) * 6 // groups)
        weight, channels = layer.weight.detach()[own].flatten(1), slice(group * 4 // groups, (group + 1) * 4 // groups)
        rows = 9 if mapping == "im2col" else 8
        one = linear(profile.varied(tile={"rows": rows}), *weight.shape)
        one.weight.data.copy_(weight)
        options = {key: value for key, value in geometry.items() if key != "groups"}
        under = torch.nn.functional.unfold(x[:, channels], (2, 2), **options).transpose(1, 2)
        want = one(under).detach().transpose(1, 2).unflatten(2, got.shape[2:])
        assert (got[:, own] - want).abs().max() < 1e-9
    assert got.abs().max() > 0.1


def test_gradients_of_gated_rows_are_those_of_first_order_wires():
    profile = IDEAL.varied(tile={"rows": 4, "cols": 3}, cells=PAIRS, wires=GATED)
    first = profile.varied(wires={"solution": "first-order", "gated": False})
    grads = []
    for one in (linear(profile, 5, 10), linear(first, 5, 10)):
        x = torch.tensor(switched(10), requires_grad=True)
        one(x).sum().backward()
        grads.append((x.grad, one.weight.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_gated_reads_have_noise_and_other_outputs_none_of_it():
    """Read noise counts x alone; parts of a layer read the same circuits."""
    profile = IDEAL.varied(cells=PAIRS, wires=GATED, noise={"read": 0.05})
    layer, x = linear(profile, 3, 10), torch.from_numpy(switched(10)).expand(20_000, 10)
    an.set_seed(layer, 1)
    with torch.no_grad():
        noise = layer(x) - linear(profile.varied(noise={"read": 0.0}), 3, 10)(x)
    sigma = 0.05 * float(x[0].norm())
    assert abs(float(noise.std()) / sigma - 1) < 0.02  # 60 000 numbers: 7 standard deviations


def test_the_budget_knows_gated_rows():
    """What it predicts is what the simulation measures; wires are all that is wrong here, and count as the weights'."""
    layer, x = (
        linear(IDEAL.varied(tile={"rows": 4}, cells=PAIRS, wires=GATED), 5, 10),
        torch.from_numpy(switched(10))[None],
    )
    (one,) = an.noise_budget(layer, x, repeats=1).layers
    assert one.measured == pytest.approx(one.total, rel=1e-6)
    error = layer(x).detach() - x @ layer.weight.detach().T
    assert one.stages["weight"] == pytest.approx(float(error.square().mean()), rel=1e-6)


@pytest.mark.parametrize("solution", ["first-order", "exact", "gated"])
def test_full_scales_are_those_of_what_wires_leave(solution):
    """The largest sum of the layer itself; and other wires, or other columns beside them, need ranges of their own."""
    wires = {"row": 1e-3, "column": 1e-3, "solution": "exact" if solution == "gated" else solution}
    profile = HardwareProfile(
        tile={"rows": 32, "cols": 16},
        dac={"bits": 8, "input_range": 1.0},
        weight={"w_max": 1.0},
        cells={"mapping": "differential", "g_min": 0.1},
        adc={"full_scale": None},
        wires={**wires, "gated": solution == "gated"},
    )
    layer = AnalogLinear(32, 16, bias=False, profile=profile).eval()
    torch.nn.init.constant_(layer.weight, 0.5)
    x = torch.ones(4, 32)
    with torch.no_grad():
        most = float(layer(x).max())
    assert most < 0.9 * 16
    layer.profile = profile.varied(adc={"bits": 8, "full_scale": "calibrated"})
    report = an.calibrate(layer, x, method="maximum", progress=False)
    assert report[""]["adc_full_scale"] == pytest.approx(most, rel=1e-4)
    for change in ({"wires": {"row": 2e-3}}, {"tile": {"cols": 8}}):
        other = AnalogLinear(32, 16, bias=False, profile=layer.profile.varied(**change)).eval()
        other.load_state_dict(layer.state_dict())
        with pytest.raises(CalibrationError, match=next(iter(change))):
            other(x)


def test_a_weight_that_is_no_number_makes_its_array_none():
    profile = IDEAL.varied(
        tile={"rows": 8, "cols": 4}, cells=PAIRS, wires={"row": 1e-3, "column": 1e-3, "solution": "exact"}
    )
    layer = linear(profile, 8, 8)
    with torch.no_grad():
        whole = layer(torch.ones(1, 8, dtype=torch.float64))
        layer.weight[5, 2] = float("nan")
        found = layer(torch.ones(1, 8, dtype=torch.float64))
    assert torch.equal(found[:, :4], whole[:, :4])
    assert found[:, 4:].isnan().all()
