"""Measured converters: an ADC whose codes begin where they were seen to, and DACs whose codes are not quite even."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import ProfileError
from analogsim.nn import AnalogConv2d, AnalogLinear
from analogsim.profile import HardwareProfile

BITS, SCALE = 4, 2.0


def edges(signed, curves, seed=0):
    """Edges of a few ADCs, LSB: even ones, each moved by less than half a step."""
    codes = np.arange(1, 2**BITS) - (2 ** (BITS - 1) if signed else 0)
    return (codes - 0.5) + np.random.default_rng(seed).uniform(-0.4, 0.4, (curves, len(codes)))


def measured(signed=True, curves=3, **more):
    own = edges(signed, curves).tolist()
    adc = {"kind": "measured", "bits": BITS, "full_scale": SCALE, "signed": signed, "transfer": {"edge": own}}
    return HardwareProfile(tile={"rows": 4}, dac={"input_range": 1.0}, weight={"w_max": 1.0}, adc=adc, **more)


def converted(s, own, signed):
    """What an ADC makes of a sum: the last code whose edge it reached; clipped before."""
    top = 2 ** (BITS - 1) - 1 if signed else 2**BITS - 1
    step = SCALE / top
    s = min(max(s, -SCALE if signed else 0.0), SCALE)
    code = sum(1 for edge in own if s >= edge * step) - (2 ** (BITS - 1) if signed else 0)
    return max(code, -top) * step


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("curves", [1, 3, 9])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_each_output_has_its_measured_adc(signed, curves, backend):
    """Of nine inputs on tiles of four, and seven outputs that have the curves in turn, by the oracle of each ADC."""
    profile = measured(signed, curves)
    layer = AnalogLinear(9, 7, bias=False, profile=profile, dtype=torch.float64 if backend == "reference" else None)
    nn.init.uniform_(layer.weight, -1, 1, generator=torch.Generator().manual_seed(1))
    layer.eval().backend = backend
    x = torch.rand(20, 9, generator=torch.Generator().manual_seed(2), dtype=layer.weight.dtype) * 2 - 1
    w, rows, own = layer.weight.detach().double().numpy(), x.double().numpy(), edges(signed, curves)
    want = np.zeros((20, 7))
    for i, j in np.ndindex(20, 7):
        for tile in (slice(0, 4), slice(4, 8), slice(8, 9)):
            want[i, j] += converted(rows[i, tile] @ w[j, tile], own[j % curves], signed)
    assert not profile.is_random
    np.testing.assert_allclose(layer(x).detach().numpy(), want, atol=1e-6)


@pytest.mark.parametrize("kind", ["Conv1d", "ConvTranspose1d"])
def test_groups_go_on_with_the_next_adc(kind):
    """Of two groups of three outputs the second begins with the fourth output's ADC, the second of two."""
    transfer = {"inl": [[0.0] * 7, [3.0] * 7]}  # a sum of almost 0 is the code 0, or -3
    profile = an.HardwareProfile(
        dac={"input_range": 1.0}, adc={"bits": 3, "kind": "measured", "full_scale": 3e3, "transfer": transfer}
    )
    layer = getattr(an, f"Analog{kind}")(2, 6, 1, groups=2, bias=False, profile=profile).eval()
    with torch.no_grad():
        layer.weight.fill_(1e-3)
        found = layer(torch.ones(1, 2, 1))[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, -3.0, 0.0, -3.0, 0.0, -3.0]), rtol=1e-5, atol=0)
    (budget,) = an.noise_budget(layer, torch.ones(1, 2, 1), repeats=1, progress=False).layers
    assert budget.total == pytest.approx(budget.measured, rel=1e-4)


def test_convolutions_have_the_same_adcs():
    conv, linear = AnalogConv2d(1, 5, 3, bias=False, profile=measured()), AnalogLinear(9, 5, bias=False)
    linear.profile = measured()
    linear.weight.data = conv.weight.detach().flatten(1)
    x = torch.rand(4, 1, 3, 3)
    for one in (conv, linear):
        one.profile = one.profile.varied(tile={"rows": 4, "mapping": "im2col"})
        one.eval()
    assert torch.equal(conv(x).flatten(1), linear(x.flatten(1)))


@given(st.booleans(), st.integers(0, 2**16))
def test_edges_are_said_by_inl_dnl_and_voltages(signed, seed):
    own = edges(signed, 2, seed)
    ideal = np.arange(1, 2**BITS) - (2 ** (BITS - 1) if signed else 0) - 0.5
    base = {"kind": "measured", "bits": BITS, "full_scale": SCALE, "signed": signed}

    def found(**transfer):
        return np.array(HardwareProfile(adc=base | {"transfer": transfer}).adc.transfer.edges(BITS, signed))

    np.testing.assert_allclose(found(edge=own.tolist()), own)
    np.testing.assert_allclose(found(inl=(own - ideal).tolist()), own, atol=1e-12)
    with_zero = np.concatenate([[[9.0], [9.0]], own - ideal], 1)  # the lowest code begins nowhere
    np.testing.assert_allclose(found(inl=with_zero.tolist()), own, atol=1e-12)
    first = own - own[:, :1] + ideal[0]  # what dnl does not say
    np.testing.assert_allclose(found(dnl=(np.diff(own) - 1).tolist()), first, atol=1e-12)
    np.testing.assert_allclose(found(dnl=(np.diff(own[0]) - 1).tolist()), first[:1], atol=1e-12)
    volts = found(volts=(0.3 + 0.002 * own).tolist())
    ends = (own - own[:, :1]) / (own[:, -1:] - own[:, :1]) * (ideal[-1] - ideal[0]) + ideal[0]
    np.testing.assert_allclose(volts, ends, atol=1e-9)


def test_files_have_a_row_for_each_code(tmp_path):
    own, codes = edges(True, 2), range(1, 16)
    inl = own - (np.arange(-7, 8) - 0.5)
    files = {
        "inl": "code,inl_1 [LSB],inl_2 [LSB]\n" + "".join(f"{c - 8},{a},{b}\n" for c, a, b in zip(codes, *inl)),
        "zero": "code,inl_1,inl_2\n0,0,0\n" + "".join(f"{c},{a},{b}\n" for c, a, b in zip(codes, *inl)),
        "bare": "edge_a_LSB,edge1,edge2\n" + "".join(f"7,{a},{b}\n" for a, b in zip(*own)),
        "falling": "code,inl1,inl2\n" + "".join(f"{c},{a},{b}\n" for c, a, b in reversed([*zip(codes, *inl)])),
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
        adc = {"kind": "measured", "bits": BITS, "full_scale": SCALE}
        profile = HardwareProfile(adc=adc | {"transfer": {"file": str(tmp_path / f"{name}.csv")}})
        np.testing.assert_allclose(profile.adc.transfer.edges(BITS, True), own, atol=1e-12)
        profile.save(tmp_path / "p.yaml")
        assert HardwareProfile.load(tmp_path / "p.yaml") == profile
    (tmp_path / "volts.csv").write_text("code,edge_mV\n" + "".join(f"{c},{500 + 2 * c}\n" for c in codes))
    profile = HardwareProfile(adc=adc | {"transfer": {"file": str(tmp_path / "volts.csv")}})
    np.testing.assert_allclose(profile.adc.transfer.edges(BITS, True), [np.arange(-7, 8) - 0.5], atol=1e-9)
    assert profile.adc.transfer.volts[0][0] == pytest.approx(0.502)


def test_what_is_too_long_for_yaml_is_saved_as_json(tmp_path):
    curves = np.random.default_rng(0).uniform(-0.4, 0.4, (64, 255)).tolist()
    profile = HardwareProfile(adc={"kind": "measured", "bits": 8, "full_scale": 1.0, "transfer": {"inl": curves}})
    with pytest.raises(ProfileError, match="characters of YAML, more than 400,000; save it as .json"):
        profile.save(tmp_path / "p.yaml")
    assert not any(tmp_path.iterdir())
    profile.save(tmp_path / "p.json")
    assert HardwareProfile.load(tmp_path / "p.json") == profile


ADC = {"kind": "measured", "bits": 3, "full_scale": 1.0}


@pytest.mark.parametrize(
    ("adc", "message"),
    [
        (ADC, "a transfer is of a kind 'measured', which needs one"),
        ({"transfer": {"inl": [0] * 7}}, "a transfer is of a kind 'measured'"),
        (
            ADC | {"transfer": {"inl": [0] * 7, "dnl": [0] * 6}},
            r"one of edge, volts, inl, dnl is needed \(got inl and dnl",
        ),
        (ADC | {"transfer": {}}, "one of edge, volts, inl, dnl is needed"),
        (ADC | {"transfer": {"inl": [0] * 6}}, r"an ADC of 3 bits needs 7 numbers, of its codes -3 to 3 \(got 6\)"),
        (ADC | {"transfer": {"inl": [0] * 9}}, "needs 7 numbers"),
        (ADC | {"transfer": {"inl": [0] * 7, "code": range(7)}}, "needs 7 numbers"),
        (ADC | {"transfer": {"inl": [0] * 3, "code": [1, 3, 2]}}, "codes must come one after the other .got 1, then 3"),
        (ADC | {"transfer": {"inl": [[0] * 7, [0] * 8]}}, "every curve needs as many numbers"),
        (ADC | {"transfer": {"dnl": [0] * 7}}, "needs 6 numbers, of its codes -3 to 2"),
        (ADC | {"transfer": {"dnl": [0, 0, -1.5, 0, 0, 0]}}, "code -1 begins at -1.5 LSB, after the next one"),
        (ADC | {"transfer": {"volts": [1, 2, 3, 4, 5, 6, 1]}}, "must increase from the first"),
        (ADC | {"transfer": {"inl": [0] * 7}, "inl": 0.1}, "inl is of a kind 'ramp'"),
        (ADC | {"transfer": {"inl": [0] * 7}, "capacitor_mismatch": 0.1}, "capacitor_mismatch and gain_db are of"),
        (ADC | {"transfer": {"inl": [[0] * 255] * 600}}, "more than 131,072 numbers"),
    ],
)
def test_what_is_no_transfer_is_refused(adc, message):
    with pytest.raises(ProfileError, match=rf"^adc.*{message}"):
        HardwareProfile(adc=adc)


# --- DACs ------------------------------------------------------------------------------------------------------------

INL = {True: [-0.3, 0.1, 0.2, 0, -0.4, 0.3, 0.6], False: [0, 0.2, -0.3, 0.4, 0.1, -0.2, 0.3, 0.5]}


def bent(v, signed, inl, bits=3):
    """What a DAC makes of an input: clipped, rounded to a code, and its code's error added."""
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    code = int(np.round(min(max(v, -1.0 if signed else 0.0), 1.0) * top))
    return (code + inl[code + (top if signed else 0)]) / top


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_inputs_are_what_the_dacs_give(signed, backend):
    profile = HardwareProfile(
        tile={"rows": 4}, dac={"bits": 3, "signed": signed, "input_range": 1.5, "inl": INL[signed]}, noise={"read": 0.0}
    )
    assert profile.needs_chip
    assert not profile.is_random
    layer = AnalogLinear(9, 7, bias=False, profile=profile, dtype=torch.float64 if backend == "reference" else None)
    layer.eval().backend = backend
    x = torch.randn(20, 9, generator=torch.Generator().manual_seed(2), dtype=layer.weight.dtype)
    x[0] = 0
    rows = np.vectorize(lambda v: bent(v / 1.5, signed, INL[signed]))(x.double().numpy()) * 1.5
    want = rows @ layer.weight.detach().double().numpy().T
    np.testing.assert_allclose(layer(x).detach().numpy(), want, atol=2e-6)
    x[1, 2] = float("nan")
    assert layer(x)[1].isnan().all()


def test_padding_is_driven_by_nobody():
    dac = {"bits": 3, "input_range": 1.0, "inl": INL[True]}
    conv = AnalogConv2d(2, 3, 3, padding=1, bias=False, profile=HardwareProfile(dac=dac)).double().eval()
    x = torch.rand(2, 2, 4, 4, dtype=torch.float64) * 2 - 1
    rows = torch.from_numpy(np.vectorize(lambda v: bent(v, True, INL[True]))(x.numpy()))
    torch.testing.assert_close(conv(x), nn.functional.conv2d(rows, conv.weight, padding=1))


def test_each_step_has_the_errors_of_its_code():
    """Four bits of magnitude in two steps of two: x̂ = Σ_j 4^j·(c_j + inl(c_j))/15."""
    inl = [-0.2, 0.1, -0.3, 0, 0.2, 0.3, -0.1]
    profile = HardwareProfile(dac={"bits": 5, "input_range": 1.0, "step_bits": 2, "inl": inl})
    layer = AnalogLinear(6, 3, bias=False, profile=profile, dtype=torch.float64).eval()
    x = torch.rand(9, 6, dtype=torch.float64) * 2 - 1
    codes = np.round(x.numpy() * 15).astype(int)
    rows = np.zeros_like(x.numpy())
    for index, code in np.ndenumerate(codes):
        for j in range(2):
            digit = int(np.sign(code)) * (abs(code) >> 2 * j & 3)
            rows[index] += 4**j * (digit + inl[digit + 3]) / 15
    np.testing.assert_allclose(layer(x).detach().numpy(), rows @ layer.weight.detach().numpy().T, atol=1e-12)


@pytest.mark.parametrize("step_bits", [None, 1])
def test_gradients_pass_straight_through_and_weights_see_what_was_applied(step_bits):
    inl = INL[True] if step_bits is None else [-0.1, 0, 0.2]
    profile = HardwareProfile(dac={"bits": 3, "input_range": 1.0, "inl": inl, "step_bits": step_bits})
    layer = AnalogLinear(6, 3, bias=False, profile=profile, dtype=torch.float64)
    x = (torch.randn(9, 6, dtype=torch.float64)).requires_grad_()
    g = torch.randn(9, 3, dtype=torch.float64)
    layer(x).backward(g)
    applied = layer.eval()(x).detach() @ torch.linalg.pinv(layer.weight.detach().T)
    torch.testing.assert_close(x.grad, (g @ layer.weight.detach()) * (x.abs() <= 1))
    given_back = layer.weight.grad @ layer.weight.detach().T  # as far as the outputs tell the inputs
    torch.testing.assert_close(given_back, g.T @ applied @ layer.weight.detach().T)


def test_a_budget_counts_them_as_rounding():
    """Of a layer with nothing but such DACs the budget is the square of its error."""
    profile = HardwareProfile(dac={"bits": 3, "input_range": 1.0, "inl": INL[True]})
    model = an.convert(nn.Sequential(nn.Linear(9, 7, bias=False)).double(), profile).eval()
    x = torch.rand(50, 9, dtype=torch.float64) * 2 - 1
    rows = torch.from_numpy(np.vectorize(lambda v: bent(v, True, INL[True]))(x.numpy()))
    error = (rows - x) @ model[0].weight.detach().T
    found = an.noise_budget(model, x, progress=False).layers[0]
    assert found.total == pytest.approx(float(error.square().mean()), rel=1e-9)
    assert found.measured == pytest.approx(found.total, rel=1e-9)


SEVERAL = [INL[True], [0.3, 0.2, -0.4, 0, 0.1, -0.2, 0.4], [-0.1, 0, 0.1, 0, 0.2, 0.2, -0.3]]


def by_rows(x, tile, alpha=1.0, step_bits=None):
    """What three DACs make of rows: row r of each tile has the DAC r mod 3."""
    out = np.zeros_like(x)
    for (i, k), v in np.ndenumerate(x):
        out[i, k] = alpha * bent(v / alpha, True, SEVERAL[k % tile % 3])
    return out


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_rows_have_dacs_of_their_own(backend):
    """In each tile they begin anew; gradients of weights see what was applied, those of inputs none of it."""
    profile = HardwareProfile(tile={"rows": 4}, dac={"bits": 3, "input_range": 1.5, "inl": SEVERAL})
    dtype = torch.float64 if backend == "reference" else torch.float32
    layer = AnalogLinear(10, 7, bias=False, profile=profile, dtype=dtype)
    layer.backend = backend
    x = torch.randn(20, 10, generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()
    g = torch.randn(20, 7, generator=torch.Generator().manual_seed(3), dtype=dtype)
    rows = by_rows(x.detach().double().numpy(), 4, 1.5)
    w = layer.weight.detach().double().numpy()
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), rows @ w.T, atol=5e-6)
    y.backward(g)
    np.testing.assert_allclose(layer.weight.grad.numpy(), g.double().numpy().T @ rows, atol=2e-5)
    within = np.abs(x.detach().numpy()) <= 1.5
    np.testing.assert_allclose(x.grad.numpy(), g.double().numpy() @ w * within, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2])
def test_rows_of_a_convolution_are_those_of_its_unfolded_input(kernel, groups):
    """Each place of the kernel has a row; a tile holds whole channels."""
    profile = HardwareProfile(tile={"rows": 9}, dac={"bits": 3, "input_range": 1.0, "inl": SEVERAL})
    conv = AnalogConv2d(10, 6, kernel, groups=groups, padding=1, profile=profile).double().eval()
    x = torch.randn(2, 10, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, tile = conv(x).detach(), 9 // kernel**2 * kernel**2
    for group, images in enumerate(x.chunk(groups, 1)):
        under = nn.functional.unfold(images, kernel, padding=1).transpose(1, 2).flatten(0, 1)
        own = slice(group * 6 // groups, (group + 1) * 6 // groups)
        want = by_rows(under.numpy(), tile) @ conv.weight.detach()[own].flatten(1).numpy().T
        want = torch.from_numpy(want + conv.bias.detach()[own].numpy()).unflatten(0, (2, -1)).transpose(1, 2)
        torch.testing.assert_close(found[:, own].flatten(2), want)
    an.calibrate_outputs(conv, x, progress=False)
    (line,) = an.noise_budget(conv, x, progress=False).layers
    assert line.measured == pytest.approx(line.total, rel=1e-6)


def test_steps_of_rows_have_the_errors_of_their_codes():
    inl = [[-0.1, 0, 0.2], [0.3, 0, -0.2]]
    profile = HardwareProfile(tile={"rows": 3}, dac={"bits": 3, "input_range": 1.0, "step_bits": 1, "inl": inl})
    layer = AnalogLinear(5, 4, bias=False, profile=profile).double().eval()
    codes = np.random.default_rng(0).integers(-3, 4, (6, 5))
    rows = np.zeros(codes.shape)
    for (i, k), code in np.ndenumerate(codes):
        for j in range(2):
            digit = int(np.sign(code)) * (abs(code) >> j & 1)
            rows[i, k] += 2**j * (digit + inl[k % 3 % 2][digit + 1]) / 3
    got = layer(torch.from_numpy(codes / 3)).detach().numpy()
    np.testing.assert_allclose(got, rows @ layer.weight.detach().numpy().T, atol=1e-12)


def test_a_file_has_a_column_for_each_dac(tmp_path):
    lines = ["code,inl_1 [LSB],inl_2 [LSB],inl_3 [LSB]"]
    lines += [f"{code},{','.join(map(str, each))}" for code, each in zip(range(-3, 4), zip(*SEVERAL))]
    (tmp_path / "dac.csv").write_text("\n".join(lines))
    (tmp_path / "chip.yaml").write_text("dac: {bits: 3, inl: {file: dac.csv}}")
    profile = HardwareProfile.load(tmp_path / "chip.yaml")
    np.testing.assert_allclose(profile.dac.inl.inl, SEVERAL)
    assert profile.dac.differs_by_row
    profile.save(tmp_path / "saved.json")
    assert HardwareProfile.load(tmp_path / "saved.json") == profile
    assert not HardwareProfile(dac={"bits": 3, "inl": SEVERAL[:1]}).dac.differs_by_row


@pytest.mark.parametrize(
    ("dac", "message"),
    [
        ({"bits": 3, "inl": [[0] * 7, [0] * 8]}, "every curve needs as many numbers"),
        ({"bits": 3, "inl": [[0] * 7, [0, 0, 0, 1, 0, 0, 0]]}, "inl of code 0 must be 0"),
        ({"bits": 8, "inl": [[0] * 255] * 600}, "more than 131,072 numbers"),
        ({"inl": [0, 0]}, "inl is of a DAC with bits"),
        ({"bits": 3, "inl": [0] * 8}, r"inl needs 7 numbers, of the codes -3 to 3 \(got 8\)"),
        ({"bits": 3, "inl": {"inl": [0] * 7, "code": list(range(7))}}, "of the codes -3 to 3"),
        ({"bits": 3, "step_bits": 1, "inl": [0] * 7}, "needs 3 numbers, of the codes -1 to 1"),
        ({"bits": 3, "signed": False, "inl": [0.1] + [0] * 7}, "inl of code 0 must be 0, .*take it off all numbers"),
        ({"bits": 3, "inl": {"inl": [0] * 7, "code": [1, 2]}}, "inl needs a number for each code"),
    ],
)
def test_what_is_no_dac_is_refused(dac, message):
    with pytest.raises(ProfileError, match=rf"^dac.*{message}"):
        HardwareProfile(dac=dac)
