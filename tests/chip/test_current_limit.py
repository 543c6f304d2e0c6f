"""Integrators that take no more than a current (`tile.current_limit`), against loops in float64."""

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.chip.planes import of_rows
from analogsim.errors import CalibrationError, ConversionError, ProfileError
from analogsim.kernels.backends.reference import Reference
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import HardwareProfile
from tests.support.chips import IDEAL, linear

LIMIT = 0.7
PAIRS = {"mapping": "differential", "g_min": 0.1}
LIMITED = IDEAL.varied(tile={"rows": 4, "cols": 3, "current_limit": LIMIT}, cells=PAIRS)


def clip(current, limit=LIMIT):
    return min(max(current, -limit), limit)


def column(targets, x, limit=LIMIT):
    """One column's current in units of the largest cell's, as its integrator leaves it."""
    return clip(sum((0.1 + 0.9 * g) * one for g, one in zip(targets, x, strict=True)), limit)


def pairs(w, x, rows=4, limit=LIMIT):
    """Every tile's two columns are cut off by themselves, and then subtracted."""
    out = np.zeros(len(w))
    for j in range(len(w)):
        for first in range(0, w.shape[1], rows):
            own, part = w[j, first : first + rows], x[first : first + rows]
            plus, minus = (column(np.maximum(sign * own, 0), part, limit) for sign in (1, -1))
            out[j] += (plus - minus) / 0.9
    return out


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_both_columns_of_a_pair_are_cut_off_before_they_are_subtracted(backend):
    dtype = torch.float32 if backend == "numba" else torch.float64
    layer, x = linear(LIMITED, 5, 10), np.linspace(-1, 1, 10)
    w = layer.weight.detach().numpy()
    layer = layer.to(dtype)
    layer.backend = backend
    got = layer(torch.tensor(x, dtype=dtype)).detach().numpy()
    np.testing.assert_allclose(got, pairs(w, x), atol=2e-6 if backend == "numba" else 1e-12)
    assert np.abs(got - w @ x).max() > 0.05
    late = np.array([sum(clip(float(w[j, f : f + 4] @ x[f : f + 4])) for f in (0, 4, 8)) for j in range(5)])
    assert np.abs(got - late).max() > 0.05  # which cutting off the difference is not


@pytest.mark.parametrize(
    ("mapping", "subtraction"), [("differential", "analog"), ("differential", "digital"), ("offset", "analog")]
)
def test_a_limit_that_no_current_reaches_changes_nothing(mapping, subtraction):
    cells = {"mapping": mapping, "subtraction": subtraction}
    profile = IDEAL.varied(
        tile={"rows": 4, "current_limit": 4.01}, cells=cells, adc={"bits": 6, "full_scale": 2.0}, dac={"bits": 5}
    )
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).view(3, 10)
    free = profile.varied(tile={"current_limit": None})
    assert torch.equal(linear(profile, 5, 10)(x), linear(free, 5, 10)(x))


def test_slices_steps_and_reference_columns_are_cut_off_by_themselves():
    profile = IDEAL.varied(
        tile={"rows": 4, "cols": 6, "current_limit": LIMIT},
        dac={"bits": 3, "signed": False, "step_bits": 2},
        weight={"bits": 4},
        cells={"mapping": "offset", "g_min": 0.1, "bits": 2},
        adc={"bits": 7, "full_scale": 3.0},
    )
    layer, inputs = linear(profile, 5, 8), np.random.default_rng(0).integers(0, 8, 8)
    codes, want, step, cut = np.round(layer.weight.detach().numpy() * 7).astype(int) + 8, np.zeros(5), 3.0 / 63, 0
    for first in (0, 4):
        for i in range(2):
            for part in range(2):
                x = (inputs[first : first + 4] >> 2 * part & 3) / 3
                for j in range(5):
                    cells = [(codes[j, first + k] >> 2 * i & 3) / 3 for k in range(4)]
                    reference = [(8 >> 2 * i & 3) / 3] * 4
                    s = (column(cells, x) - column(reference, x)) / 0.9
                    cut += column(cells, x, np.inf) > LIMIT
                    want[j] += 4**i * 3 / 7 * 4**part * 3 / 7 * step * np.round(min(max(s / step, -63), 63))
    got = layer(torch.from_numpy(inputs / 7)).detach().numpy()
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert cut > 5


def test_columns_that_a_pair_shares_are_cut_off_after_they_are_subtracted():
    profile = LIMITED.varied(wires={"interleaved": True})
    layer, x = linear(profile, 5, 10), np.linspace(-1, 1, 10)
    w = layer.weight.detach().numpy()
    want = [sum(clip(0.9 * float(w[j, f : f + 4] @ x[f : f + 4])) / 0.9 for f in (0, 4, 8)) for j in range(5)]
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("mapping", ["differential", "offset"])
def test_what_wires_leave_is_cut_off(mapping, gated):
    """Against the two columns' currents, each found without a limit from an array whose other columns still carry."""
    wires = {"solution": "exact", "row": 0.02, "column": 0.02, "gated": gated}
    tile = {"rows": 8, "cols": None}
    profile = IDEAL.varied(tile=tile, cells={"mapping": mapping, "g_min": 0.1}, wires=wires)
    limited, x = linear(profile.varied(tile={"current_limit": LIMIT}), 4, 8), torch.linspace(0.2, 1, 8).double()
    plane = limited.write(limited.weight).chip.planes[0]
    free = linear(profile, 4, 8)
    (whole,) = free.write(free.weight).chip.planes
    currents = [of_rows(one, Reference(), x[None], 0, 8)[0] * one.coefficient for one in plane.columns]
    assert torch.allclose(sum(currents), of_rows(whole, Reference(), x[None], 0, 8)[0], atol=1e-9)
    limit = LIMIT / 0.9 * (2 if mapping == "offset" else 1)  # where a weight of 1 is all, or half, of a cell's range
    want = sum(one.clamp(-limit, limit) for one in currents)
    assert torch.allclose(limited(x), want, atol=1e-9)
    assert (limited(x) - free(x)).abs().max() > 0.05


def test_cells_that_are_not_linear_are_cut_off_too():
    profile = LIMITED.varied(iv={"second": 0.2, "third": -0.1})
    layer, x = linear(profile, 5, 10), np.linspace(-1, 1, 10)
    w, want = layer.weight.detach().numpy(), np.zeros(5)
    for j in range(5):
        for first in (0, 4, 8):
            part = x[first : first + 4]
            both = [0.1 + 0.9 * np.maximum(sign * w[j, first : first + 4], 0) for sign in (1, -1)]
            want[j] += sum(
                sign * clip(float((g * part + 0.2 * part**2 - 0.1 * part**3).sum())) / 0.9
                for sign, g in zip((1, -1), both, strict=True)
            )
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), want, atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_convolution_is_the_product_of_patches(noise):
    profile = LIMITED.varied(tile={"rows": 4}, cells={"read_noise": noise})
    layer = AnalogConv2d(4, 6, 2, groups=2, bias=False, profile=profile).double().eval()
    torch.nn.init.uniform_(layer.weight, -1, 1)
    x = torch.linspace(-1, 1, 2 * 4 * 3 * 3, dtype=torch.float64).view(2, 4, 3, 3)
    an.set_seed(layer, 1)
    got, mean = layer(x).detach(), torch.stack([layer(x).detach() for _ in range(200)]).mean(0)
    for group in range(2):
        w = layer.weight.detach()[3 * group : 3 * group + 3].flatten(1).numpy()
        under = torch.nn.functional.unfold(x[:, 2 * group : 2 * group + 2], 2).transpose(1, 2)
        want = np.array([[pairs(w, row) for row in image.numpy()] for image in under])
        want = torch.from_numpy(want).transpose(1, 2).unflatten(2, (2, 2))
        own = slice(3 * group, 3 * group + 3)
        if not noise:
            assert (got[:, own] - want).abs().max() < 1e-12
        else:  # noise that is cut off has a mean
            assert (mean[:, own] - want).abs().mean() < 0.03
            assert (got[:, own] - want).abs().mean() > 0.01


def test_noise_of_cells_is_cut_off_with_the_current_of_their_column():
    """A column far beyond its limit carries none, one far within it all: σ_g·‖x‖ of each, 100,000 reads (±1 %)."""
    layer = linear(IDEAL.varied(tile={"current_limit": 2.0}, cells=PAIRS | {"read_noise": 0.01}), 2, 8)
    layer.weight.data[0] = 1.0  # I⁺ = 8 of at most 2, I⁻ = 0.8
    layer.weight.data[1] = torch.tensor([0.01, -0.01] * 4)  # 0.8 of both
    x = torch.ones(100_000, 8, dtype=torch.float64)
    an.set_seed(layer, 3)
    with torch.no_grad():
        y = layer(x)
    one = 0.01 * 8**0.5 / 0.9
    assert y[:, 0].mean() == pytest.approx((2.0 - 0.8) / 0.9, rel=1e-3)
    assert y[:, 0].std() == pytest.approx(one, rel=0.01)
    assert y[:, 1].std() == pytest.approx(one * 2**0.5, rel=0.01)
    assert np.corrcoef(y.T.numpy())[0, 1] == pytest.approx(0, abs=0.015)


def test_noise_of_reads_is_added_after_the_limit():
    layer = linear(IDEAL.varied(tile={"current_limit": 2.0}, cells=PAIRS, noise={"output": 0.1}), 1, 8)
    layer.weight.data[:] = 1.0
    an.set_seed(layer, 3)
    with torch.no_grad():
        y = layer(torch.ones(100_000, 8, dtype=torch.float64))
    assert y.std() == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("adc", [{"full_scale": None}, {"bits": 8, "full_scale": 8.0}])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_no_gradient_passes_where_a_column_was_cut_off(kind, adc):
    """The rule of ADCs: that of the products of tiles of which neither column was cut off."""
    profile = LIMITED.varied(adc=adc)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(2, 10).requires_grad_()
    layer = linear(profile, 5, 10)
    w = layer.weight.detach().numpy()
    g = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if kind == "linear":
        layer(x).backward(g)
        grad_w = layer.weight.grad.numpy()
    else:
        conv = AnalogConv2d(10, 5, 1, bias=False, profile=profile).double().eval()
        conv.weight.data.copy_(layer.weight.detach()[..., None, None])
        conv(x.view(2, 10, 1, 1)).backward(g.view(2, 5, 1, 1))
        grad_w = conv.weight.grad.flatten(1).numpy()
    want_x, want_w, cut = np.zeros((2, 10)), np.zeros((5, 10)), 0
    rows = x.detach().numpy()
    for i in range(2):
        for j in range(5):
            for first in (0, 4, 8):
                own = slice(first, min(first + 4, 10))
                both = [column(np.maximum(sign * w[j, own], 0), rows[i, own], np.inf) for sign in (1, -1)]
                if max(map(abs, both)) > LIMIT:
                    cut += 1
                    continue
                want_x[i, own] += float(g[i, j]) * w[j, own]
                want_w[j, own] += float(g[i, j]) * rows[i, own]
    assert 2 < cut < 28
    np.testing.assert_allclose(x.grad.numpy(), want_x, atol=1e-12)
    np.testing.assert_allclose(grad_w, want_w, atol=1e-12)


def test_ranges_are_those_of_the_sums_that_integrators_leave_and_of_no_other_limit():
    w = torch.ones(3, 8)
    profile = HardwareProfile(
        dac={"bits": 8},
        weight={"w_max": 1.0},
        cells={"mapping": "differential"},
        tile={"current_limit": 2.0},
        adc={"bits": 8},
    )
    layer = AnalogLinear(8, 3, bias=False, profile=profile).eval()
    layer.weight.data.copy_(w)
    x = torch.rand(64, 8, generator=torch.Generator().manual_seed(0)) * 3
    x[0, :] = 3.0
    an.calibrate(layer, x, method="maximum", progress=False)
    assert float(layer.adc_full_scale) == pytest.approx(2.0, rel=1e-3)
    layer.profile = profile.varied(tile={"current_limit": 3.0})
    with pytest.raises(CalibrationError, match="current_limit"):
        layer(x)


@pytest.mark.parametrize("ends", [[-2.0, 1.0], [-6.0, 3.0]])
def test_calibration_limits_currents_by_an_asymmetric_range_that_is_given(ends):
    """An input of 2 drives a row fully, or a third of it; whatever is the largest of the batch."""
    profile = IDEAL.varied(
        dac={"bits": 8, "symmetric": False, "input_range": ends},
        weight={"w_max": 1.0},
        cells={"mapping": "differential"},
        tile={"current_limit": 2.0},
        adc={"full_scale": "calibrated"},
    )
    layer = AnalogLinear(12, 3, bias=False, profile=profile).eval()
    layer.weight.data.fill_(1.0)
    x = -torch.linspace(0.1, 2.0, 64)[:, None].expand(-1, 12).contiguous()
    an.calibrate(layer, x, method="maximum", progress=False)
    assert float(layer.adc_full_scale) == pytest.approx(2.0, rel=1e-3)
    x = x / 4  # the largest is not that of the range
    an.calibrate(layer, x, method="maximum", progress=False)
    assert float(layer.adc_full_scale) == pytest.approx(min(2.0, 12 * 0.5 / -ends[0]), rel=1e-2)


def test_the_budget_counts_what_is_cut_off_as_an_error_of_weights():
    layer = linear(LIMITED.varied(adc={"bits": 7, "full_scale": 2.0}), 5, 10)
    x = torch.randn(200, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    (found,) = an.noise_budget(layer, x, repeats=1).layers
    assert found.measured == pytest.approx(found.total, rel=0.02)
    assert found.stages["weight"] > 0.5 * found.total


def test_what_is_not_known_is_refused_in_one_line():
    with pytest.raises(ProfileError, match="choose cells.mapping") as caught:
        HardwareProfile(tile={"current_limit": 1.0})
    assert "\n" not in str(caught.value)
    noisy = linear(LIMITED.varied(cells={"read_noise": 0.01}), 5, 10)
    with pytest.raises(ProfileError, match="current_limit to null"):
        an.noise_budget(noisy, torch.zeros(2, 10, dtype=torch.float64))
    layer = linear(LIMITED.varied(dac={"bits": 8, "input_range": "calibrated"}), 5, 10)
    layer.input_range.fill_(1.0)
    with pytest.raises(ConversionError, match="current_limit"):
        an.learn_ranges(layer)
    layer.profile = layer.profile.varied(tile={"current_limit": None})
    an.learn_ranges(layer)
    layer.profile = layer.profile.varied(tile={"current_limit": 1.0})
    with pytest.raises(ProfileError, match="current_limit"):
        layer(torch.zeros(2, 10, dtype=torch.float64))


def test_a_vector_whose_integrators_saturate_is_read_again():
    profile = LIMITED.varied(tile={"rows": 16, "current_limit": 2.0}, adc={"full_scale": 50.0, "bound_management": 3})
    layer = linear(profile, 3, 10)
    layer.weight.data.abs_()
    x = torch.ones(1, 10, dtype=torch.float64)
    assert torch.allclose(layer(x), x @ layer.weight.T, atol=1e-9)


def test_images_of_a_large_batch_have_noise_of_their_own():
    """Also where a batch is cut into parts of 2^19 outputs."""
    profile = LIMITED.varied(tile={"rows": 4, "current_limit": 50.0}, cells={"read_noise": 0.05})
    conv = AnalogConv2d(1, 4, 1, bias=False, profile=profile).eval()
    an.set_seed(conv, 1)
    with torch.no_grad():
        one, other = conv(torch.ones(2, 1, 400, 400)).flatten(1)
    assert not torch.equal(one, other)
