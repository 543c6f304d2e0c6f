"""Full scales of weights by tile, by a tile's column and by percentile: what they mean, on every part of a chip."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import CalibrationError, ProfileError
from analogsim.kernels import Read
from analogsim.kernels.philox import normals
from analogsim.kernels.weights import weight_scale
from analogsim.profile import Weight
from tests.properties.test_invariances import PARTS
from tests.support.oracle import quantize

BY_TILE = ["tile", "tile-column"]


def scales_of(w, tiles, blocks, rule):
    """The statement: the largest magnitude of a crossbar, or of a column of it; 0 of a column that holds nothing."""
    out = np.zeros((len(tiles), len(w)))
    for t, rows in enumerate(tiles):
        for n in range(len(w)):
            own = np.abs(w[n, rows])
            block = next(block for block in blocks if n in block)
            out[t, n] = (np.abs(w[np.ix_(block, rows)]).max() if rule == "tile" else own.max()) if own.any() else 0
    return out


def loops(x, w, tiles, blocks, rule, *, alpha, dac, weight_bits, full_scale, adc):
    """A layer in loops: each tile's weights over its own full scale, and its codes multiplied by that."""
    scales, out = scales_of(w, tiles, blocks, rule), np.zeros((len(x), len(w)))
    for i, row in enumerate(x):
        codes = np.array([quantize(v / alpha, dac, True) for v in row])
        for n in range(len(w)):
            for t, rows in enumerate(tiles):
                if scales[t, n]:
                    held = [quantize(v / scales[t, n], weight_bits, True) for v in w[n, rows]]
                    s = sum(c * h for c, h in zip(codes[rows], held, strict=True))
                    out[i, n] += alpha * scales[t, n] * full_scale * quantize(s / full_scale, adc, True)
    return out


@pytest.mark.parametrize("rule", BY_TILE)
@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("m", [1, 30])
def test_a_linear_layer_is_the_statement_in_loops(rule, backend, m):
    generator = np.random.default_rng(0)
    w = generator.normal(size=(40, 11)) * np.geomspace(1, 0.01, 11)
    w[3], w[5, :4] = 0, 0
    x = generator.normal(size=(m, 11))
    scalars = {"alpha": 2.0, "dac": 6, "weight_bits": 4, "full_scale": 1.5, "adc": 5}
    profile = an.HardwareProfile(
        tile={"rows": 4, "cols": 15},
        dac={"bits": 6, "input_range": 2.0},
        weight={"bits": 4, "w_max": rule},
        adc={"bits": 5, "full_scale": 1.5},
    )
    dtype = torch.float64 if backend == "reference" else torch.float32
    layer = an.AnalogLinear(11, 40, bias=False, profile=profile, dtype=dtype).eval()
    layer.backend = backend
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(w))
        got = layer(torch.from_numpy(x).to(dtype)).double().numpy()
    tiles = [list(range(0, 4)), list(range(4, 8)), list(range(8, 11))]
    blocks = [list(range(0, 15)), list(range(15, 30)), list(range(30, 40))]
    want = loops(x, w, tiles, blocks, rule, **scalars)
    off = np.abs(got - want) > 1e-5
    assert off.mean() <= (0 if backend == "reference" else 0.01)
    assert np.abs(got - want).max() < 2 * 1.5 / 15 * 3
    assert not got[:, 3].any()


# What gives nothing for inputs of 0, so that tiles can be read one by one.
SILENT_AT_ZERO = [
    name
    for name, part in PARTS.items()
    if not {"output", "wander"} & part.get("noise", {}).keys()
    and "offset_error" not in part.get("adc", {})
    and name not in ("ramp", "unsigned ADC")
]
LAYERS = {
    "linear": (lambda: nn.Linear(14, 6, bias=False), (7, 14), {}),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (3, 4, 5, 5), {"tile": {"rows": 20}}),
    "im2col": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False),
        (3, 4, 5, 5),
        {"tile": {"rows": 18, "mapping": "im2col"}},
    ),
}


def parts_of_inputs(kind, x):
    """Inputs that reach one tile each; their sum is x."""
    cut = [slice(0, 6), slice(6, 12), slice(12, 14)] if kind == "linear" else [slice(0, 2), slice(2, 4)]
    for rows in cut:
        own = torch.zeros_like(x)
        own[:, rows] = x[:, rows]
        yield rows, own


@torch.no_grad()
def read(digital, profile, x, backend):
    layer = an.convert(digital, profile).eval()
    layer.backend = backend
    if profile.is_drawn:
        an.program(layer, seed=1)
        an.at_time(layer, 3600.0)
    an.set_seed(layer, 3)
    return layer(x)


@pytest.mark.parametrize("rule", BY_TILE)
@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("part", SILENT_AT_ZERO)
def test_tiles_are_scaled_after_they_are_converted_on_every_part_of_a_chip(part, backend, rule):
    """A matrix whose tiles are S_t·V_t, V_t in full range, holds the cells of V: y = Σ_t S_t·y_t of V.

    Compensation of drift is left out: it is one factor of weights, in which tiles count by their scales.
    """
    torch.manual_seed(0)
    for kind, (make, shape, changes) in LAYERS.items() if backend == "reference" or rule == "tile" else ():
        profile = an.HardwareProfile(tile={"rows": 6}, dac={"bits": 6, "input_range": 2.0}, adc={"full_scale": 3.0})
        profile = profile.varied(adc={"bits": 7}).varied(**PARTS[part]).varied(**changes)
        profile = profile.varied(drift={"compensation": "none"})
        dtype = torch.float64 if backend == "reference" else torch.float32
        digital, x = make().to(dtype), torch.randn(shape, dtype=dtype)
        pieces = list(parts_of_inputs(kind, x))
        with torch.no_grad():
            digital.weight.uniform_(-1, 1)
            for rows, _ in pieces:
                digital.weight[:, rows].flatten(1)  # every column of every tile reaches the full scale
                first = digital.weight[:, rows.start] if kind == "linear" else digital.weight[:, rows.start, 0, 0]
                first.fill_(1.0)
        factors, want = (8.0, 0.5, 0.25), 0
        for (_, own), factor in zip(pieces, factors):
            want = want + factor * read(digital, profile, own, backend)
        with torch.no_grad():
            for (rows, _), factor in zip(pieces, factors):
                digital.weight[:, rows] *= factor
        got = read(digital, profile.varied(weight={"w_max": rule}), x, backend)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5 if backend == "numba" else 1e-9, msg=kind)


@pytest.mark.parametrize("rule", BY_TILE)
def test_groups_have_crossbars_of_their_own(rule):
    torch.manual_seed(0)
    digital, x = nn.Conv2d(4, 6, 3, groups=2, bias=False), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        digital.weight[3:] *= 0.01
    profile = an.HardwareProfile(
        dac={"input_range": 3.0}, adc={"bits": 6, "full_scale": 4.0}, weight={"bits": 4, "w_max": rule}
    )
    got = read(digital, profile, x, "numba")
    for group, own in enumerate((slice(0, 3), slice(3, 6))):
        one = nn.Conv2d(2, 3, 3, bias=False)
        one.weight.data.copy_(digital.weight[own])
        whole = profile.varied(weight={"w_max": {"tile": "tensor", "tile-column": "column"}[rule]})
        want = read(one, whole, x[:, 2 * group : 2 * group + 2], "numba")
        torch.testing.assert_close(got[:, own], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(8, 5), lambda: nn.MultiheadAttention(8, 2), lambda: nn.ConvTranspose2d(8, 4, 2, groups=2)]
)
def test_one_tile_of_a_column_is_a_column_in_every_layer(make):
    torch.manual_seed(0)
    profile = an.HardwareProfile(
        tile={"rows": None, "cols": None},
        dac={"bits": 8, "input_range": 3.0},
        adc={"bits": 8, "full_scale": 4.0},
        noise={"output": 0.1},
        programming={"sigma": 0.05},
        cells={"mapping": "differential"},
    )
    digital = make()
    x = torch.randn(2, 8, 4, 4) if isinstance(digital, nn.ConvTranspose2d) else torch.randn(3, 2, 8)
    for tile, whole in (("tile-column", "column"), ("tile", "tensor")):
        if tile == "tile" and isinstance(digital, nn.ConvTranspose2d):
            continue  # a group is a crossbar
        found = []
        for rule in (tile, whole):
            analog = an.convert(digital, profile.varied(weight={"w_max": rule})).eval()
            an.program(analog, seed=1)
            an.set_seed(analog, 2)
            args = (x, x, x) if isinstance(digital, nn.MultiheadAttention) else (x,)
            with torch.no_grad():
                out = analog(*args)
            found.append(out[0] if isinstance(out, tuple) else out)
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def through(exact, value):
    return exact + (value - exact).detach()


@pytest.mark.parametrize("rule", BY_TILE)
@pytest.mark.parametrize("read_noise", [0.0, 0.1])
def test_gradients_are_those_of_the_rule_in_differentiable_torch(rule, read_noise):
    torch.manual_seed(1)
    profile = an.HardwareProfile(
        tile={"rows": 5},
        dac={"bits": 5, "input_range": "calibrated"},
        weight={"w_max": rule},
        adc={"bits": 5, "full_scale": 0.9},
        noise={"read": read_noise},
    )
    layer = an.AnalogLinear(10, 4, profile=profile, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[:, 5:] *= 0.1
        layer.weight[2, :5] = 0  # nothing of it counts as clipped
    layer.input_range.fill_(1.3)
    (alpha,) = an.learn_ranges(layer)
    alpha.data = alpha.data.double()
    an.set_seed(layer, 5)
    x, g = torch.randn(6, 10, dtype=torch.float64, requires_grad=True), torch.randn(6, 4, dtype=torch.float64)
    got = torch.autograd.grad((layer(x) * g).sum(), [x, layer.weight, alpha])
    an.set_seed(layer, 5)
    with torch.no_grad():
        seed, stream = layer.draw(layer.spec(x))

    w, bias = layer.weight, layer.bias
    clamped = (x / alpha).clamp(-1, 1)
    hat = through(clamped, (clamped * 15).round() / 15)
    inside = (x.abs() <= alpha).double()
    fixed = hat.detach()
    goes = inside * fixed * (alpha.detach() / alpha) + (1 - inside) * fixed  # what noise of weights follows
    tiles = [list(range(5)), list(range(5, 10))]
    scales = torch.from_numpy(scales_of(w.detach().numpy(), tiles, [list(range(4))], rule))
    y, clipped = bias, 0
    for t, rows in enumerate(tiles):
        s = hat[:, rows] @ (w[:, rows] / torch.where(scales[t] == 0, 1, scales[t])[:, None]).T
        length = goes[:, rows].square().sum(1, keepdim=True)
        s = s + read_noise * length.sqrt() * normals((6, 4), seed, stream, t)
        live, clipped = s.clamp(-0.9, 0.9), clipped + int((s.abs() > 0.9).sum())
        y = y + alpha * scales[t] * through(live, (live / (0.9 / 15)).round() * (0.9 / 15))
    want = torch.autograd.grad((y * g).sum(), [x, w, alpha])
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(got[2], want[2])
    empty = got[1][2, :5]  # as if no ADC had clipped, so that training can fill it
    torch.testing.assert_close(empty, g[:, 2] @ (fixed[:, :5] * 1.3))
    others = torch.ones(4, 10, dtype=torch.bool)
    others[2, :5] = False
    torch.testing.assert_close(got[1][others], want[1][others])
    assert clipped > 5


def test_clips_of_an_empty_column_of_a_tile_are_not_held_against_it():
    """An offset drives it beyond the full scale all the time."""
    profile = an.HardwareProfile(
        tile={"rows": 2},
        dac={"input_range": 1.0},
        weight={"w_max": "tile-column"},
        adc={"bits": 6, "full_scale": 1.0},
        noise={"output": 50.0},
    )
    layer = an.AnalogLinear(4, 1, bias=False, profile=profile, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0, 1.0, 0.5]]))
    an.set_seed(layer, 1)
    x = torch.ones(30, 4, dtype=torch.float64)
    layer(x).sum().backward()
    assert layer.weight.grad[0, :2].tolist() == [30, 30]
    assert layer.weight.grad[0, 2] < 10


def test_unequal_tiles_keep_their_small_weights():
    """Rows that fall over a decade and a half, on 5-bit weights and 6-bit ADCs: finer scales, smaller errors."""
    torch.manual_seed(0)
    digital, x = nn.Linear(300, 64, bias=False), torch.randn(500, 300)
    digital.weight.data.copy_(torch.randn(64, 300) * torch.logspace(0, -1.5, 300))
    errors = {}
    for rule in ("tensor", "column", "tile", "tile-column"):
        profile = an.HardwareProfile(
            tile={"rows": 64},
            dac={"bits": 8},
            adc={"bits": 6, "full_scale": "calibrated", "per": "tile"},
            weight={"bits": 5, "w_max": rule},
        )
        layer = an.convert(digital, profile).eval()
        an.calibrate(layer, x, progress=False)
        with torch.no_grad():
            errors[rule] = float((layer(x) - digital(x)).norm() / digital(x).norm())
    assert errors["tile-column"] < 0.8 * errors["tile"] < 0.8 * 0.65 * errors["tensor"]
    assert errors["tile-column"] < 0.7 * errors["column"]


# --- percentiles -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.floats(0.1, 100), st.integers(0, 3))
def test_a_percentile_is_numpys(n, k, percentile, seed):
    w = np.random.default_rng(seed).normal(size=(n, k))
    whole = weight_scale(torch.from_numpy(w), Weight(w_max={"percentile": percentile}))
    np.testing.assert_allclose(whole, np.full(n, np.percentile(np.abs(w), percentile)), rtol=1e-9)
    own = weight_scale(torch.from_numpy(w), Weight(w_max={"percentile": percentile, "per": "column"}))
    np.testing.assert_allclose(own, np.percentile(np.abs(w), percentile, axis=1), rtol=1e-9)


def test_weights_beyond_a_percentile_clip_and_columns_of_zeros_count_for_nothing():
    layer = an.AnalogLinear(100, 2, bias=False, profile=an.HardwareProfile(weight={"w_max": {"percentile": 75}}))
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = torch.linspace(0.01, 1, 100), 0
    matrix = layer.write(layer.weight)
    top = float(np.percentile(np.concatenate([np.linspace(0.01, 1, 100), np.zeros(100)]), 75))
    torch.testing.assert_close(matrix.w_max, torch.tensor([top, 0.0]))
    torch.testing.assert_close(layer(torch.eye(100))[:, 0].detach(), layer.weight[0].detach().clamp(max=top))
    assert not layer.transparent
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[0, 0] = 3.0  # the percentile is 0
    assert layer.write(layer.weight).w_max.tolist() == [3.0, 0.0]


# --- records, refusals, budgets --------------------------------------------------------------------------------------


def test_ranges_know_the_rule_and_the_block_of_columns():
    base = an.HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"})
    digital, x = nn.Linear(10, 6), torch.randn(20, 10)

    def calibrated(rule):
        layer = an.convert(digital, base.varied(weight={"w_max": rule})).eval()
        an.calibrate(layer, x, progress=False)
        return layer

    layer = calibrated("tile")
    layer.profile = layer.profile.varied(tile={"cols": 3})
    with pytest.raises(CalibrationError, match=r"tile\.cols"):
        layer(x)
    layer = calibrated("tile-column")
    layer.profile = layer.profile.varied(tile={"cols": 3})
    layer(x)  # a column's scale is its own, whichever block it is in
    for rule in ("column", {"percentile": 99.0}, {"percentile": 98.0}, "tile"):
        layer.profile = base.varied(weight={"w_max": rule})
        with pytest.raises(CalibrationError, match=r"weight\.w_max"):
            layer(x)
    layer = calibrated({"percentile": 99.0})
    layer.profile = base.varied(weight={"w_max": {"percentile": 99.0}})
    layer(x)


def test_a_register_of_sums_has_one_unit():
    with pytest.raises(ProfileError, match=r"adc\.sum_bits"):
        an.HardwareProfile(weight={"w_max": "tile"}, adc={"bits": 8, "full_scale": 1.0, "sum_bits": 9})


@pytest.mark.parametrize("rule", [*BY_TILE, {"percentile": 95.0}])
def test_the_budget_foresees_the_error(rule):
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 10))
    with torch.no_grad():
        for layer in (digital[0], digital[2]):
            layer.weight *= torch.logspace(0, -1, layer.weight.shape[1]).view(1, -1, *[1] * (layer.weight.ndim - 2))
    x = torch.randn(200, 3, 6, 6)
    profile = an.HardwareProfile(
        tile={"rows": 16},
        dac={"bits": 6},
        weight={"bits": 5, "w_max": rule},
        adc={"bits": 6, "full_scale": "calibrated", "per": "tile"},
        noise={"output": 0.05, "read": 0.02},
    )
    analog = an.convert(digital, profile).eval()
    an.calibrate(analog, x, "noise-aware", progress=False)
    for layer in an.noise_budget(analog, x, repeats=8).layers:
        assert layer.total == pytest.approx(layer.measured, rel=0.04)
        assert sum(layer.stages.values()) + layer.covariance == pytest.approx(layer.total, rel=1e-6)


def test_the_few_rows_of_a_read_are_scaled_too():
    """A read that a backend programs as it reads has no gains of tiles."""
    assert Read.__dataclass_fields__["tile_gains"].default is None
    layer = an.AnalogLinear(40, 32, profile=an.HardwareProfile(weight={"w_max": "tile-column"}, tile={"rows": 8}))
    x = torch.randn(2, 40)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_columns_of_a_tile_that_hold_nothing_do_not_count_in_its_range():
    torch.manual_seed(0)
    profile = an.HardwareProfile(
        tile={"rows": 4}, dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated", "per": "tile"}
    ).varied(weight={"w_max": "tile-column"})
    full, x = nn.Linear(8, 3, bias=False), torch.randn(100, 8)
    half = nn.Linear(8, 6, bias=False)
    with torch.no_grad():
        half.weight.copy_(torch.cat([full.weight, full.weight]))
        half.weight[3:, :4] = 0
    found = []
    for digital in (full, half):
        report = an.calibrate(an.convert(digital, profile), x, "percentile", percentile=50.0, progress=False)
        found.append(report[""]["adc_full_scale"])
    assert found[0] == found[1]


def test_weights_are_programmed_anew_where_tiles_are_others():
    layer = an.AnalogLinear(8, 3, profile=an.HardwareProfile(weight={"bits": 3, "w_max": "tile"}, tile={"rows": 4}))
    layer.eval()
    x = torch.eye(8)
    before = layer(x)
    layer.profile = layer.profile.varied(tile={"rows": 2})
    assert not torch.equal(layer(x), before)
    fresh = an.convert(layer, layer.profile).eval()
    assert torch.equal(layer(x), fresh(x))
