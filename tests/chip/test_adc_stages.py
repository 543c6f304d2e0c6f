"""Pipeline, cyclic and split-capacitor ADCs, and amplifiers of finite gain, against naive float64 loops."""

import math

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.chip.adc import Converters
from analogsim.errors import ProfileError
from analogsim.kernels import MatmulSpec, Read
from analogsim.kernels.backends.numba import Numba
from analogsim.profile import ADC, Noise
from analogsim.seeds import Stream
from tests.support.chips import drawn, linear

FULL_SCALE, CHIP, TILE, COLUMNS = 2.0, 9, 4, 3


def staged(v, *, bits, signed, mismatch, gain, offset, normals, cyclic):
    """The code u of a sum v in LSB, decided stage by stage; normals are those of one ADC's C1, C2 and comparators."""
    reference = 2 ** (bits - 1)
    voltage, code = v + 0.5 - (0 if signed else reference), 0
    stages = 1 if cyclic else bits - 1
    for n in range(bits - 1):
        own = 0 if cyclic else n
        c1, c2 = (1 + mismatch * normals[half * stages + own] for half in (0, 1))
        over = reference / 4 + offset * reference * normals[2 * stages + 2 * own]
        under = -reference / 4 + offset * reference * normals[2 * stages + 2 * own + 1]
        decided = 0
        if voltage > over:
            code, decided = code + 2 ** (bits - 1 - n), -1
        elif voltage > under:
            code += 2 ** (bits - 2 - n)
        if voltage < under:
            decided += 1
        beta = c1 / (c1 + c2)
        voltage = ((1 + c2 / c1) * voltage + decided * reference * c2 / c1) / (1 + 1 / (gain * beta))
    return code + (voltage > offset * reference * normals[-1])


def converters(kind, **fields):
    return Converters(ADC(full_scale=FULL_SCALE, kind=kind, **fields), Noise(), CHIP)


def sums(bits, count=3001):
    """Between thresholds of an ideal ADC, and beyond the range."""
    return torch.linspace(-2.2, 2.2, count, dtype=torch.float64)[:, None].expand(count, COLUMNS).contiguous() + 1e-7


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("mismatch", "gain_db", "offset"), [(0, None, 0), (0.02, 50.0, 0.02), (0.2, 30.0, 0.3)])
@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize("kind", ["pipeline", "cyclic"])
def test_stages_are_the_oracles(kind, bits, mismatch, gain_db, offset, signed):
    cyclic = kind == "cyclic"
    fields = {"capacitor_mismatch": mismatch, "gain_db": gain_db, "comparator_offset": offset}
    chip = converters(kind, bits=bits, signed=signed, **fields)
    x = sums(bits)
    got, clipped = chip.converted(x, FULL_SCALE, TILE)
    count = 2 * (1 if cyclic else bits - 1) + (3 if cyclic else 2 * bits - 1)
    normals = drawn((COLUMNS, count), CHIP, Stream.CAPACITORS, TILE)
    levels, lowest = 2 ** (bits - signed) - 1, -(2 ** (bits - 1)) * signed
    gain = math.inf if gain_db is None else 10 ** (gain_db / 20)
    want = np.zeros(x.shape)
    for i, c in np.ndindex(*x.shape):
        v = min(FULL_SCALE, max(-FULL_SCALE * signed, float(x[i, c]))) / FULL_SCALE * levels
        options = {"mismatch": mismatch, "gain": gain, "offset": offset, "cyclic": cyclic}
        code = staged(v, bits=bits, signed=signed, normals=normals[c], **options) + lowest
        want[i, c] = max(code, -levels) * FULL_SCALE / levels
    assert (np.abs(got.numpy() - want) > 1e-9).mean() < 1e-3
    assert torch.equal(clipped, (x > FULL_SCALE) | (x < -FULL_SCALE * signed))
    if not mismatch:
        ideal = converters("ideal", bits=bits, signed=signed).converted(x, FULL_SCALE, TILE)[0]
        assert (got - ideal).abs().max() < 1e-9
    elif mismatch == 0.2 and bits == 7:
        assert (np.diff(got.numpy(), axis=0) < -1e-9).any(), "codes come in another order"
    # The compiled backend, in float32.
    fast = torch.zeros(x.shape)
    spec = MatmulSpec(rows=None, adc_bits=bits, adc_full_scale=FULL_SCALE)
    whole = Converters(chip.adc, Noise(), CHIP, Numba())
    whole.accumulate(fast, x.float(), torch.zeros(()), Read(spec), TILE, 0, None, True)
    assert ((fast.double() - got).abs() > 1e-5).double().mean() < 0.01


def loaded(k, units, other, gain, volts, middle):
    """A level behind the amplifier: the charged capacitors load it."""
    charged = sum(u for i, u in enumerate(units) if abs(k) >> i & 1)
    return (volts + middle) / (1 + (1 + charged / other) / gain) - middle


@pytest.mark.parametrize("gain_db", [40.0, 20.0])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", ["sar", "ramp"])
def test_amplifiers_pull_levels_to_the_middle(kind, signed, gain_db):
    bits, mismatch = 5, 0.05
    chip = converters(kind, bits=bits, signed=signed, capacitor_mismatch=mismatch, gain_db=gain_db)
    thresholds, outputs = chip.transfer(FULL_SCALE, TILE, torch.zeros(1, COLUMNS, dtype=torch.float64))
    adcs, count = (COLUMNS if kind == "sar" else 1), bits - signed + 1 + signed
    normals = drawn((adcs, count), CHIP, Stream.CAPACITORS, TILE)
    size, step = bits - signed, FULL_SCALE / (2 ** (bits - signed) - 1)
    gain, middle = 10 ** (gain_db / 20), 0.5 if signed else 0.5 - 2 ** (bits - 1)
    for row in range(adcs):
        units = [2**i + mismatch * math.sqrt(2**i) * normals[row, i] for i in range(size + 1)]
        other = 2**size + mismatch * math.sqrt(2**size) * normals[row, -1]
        levels = []
        for k in range(-(2 ** (bits - 1)) * signed, 2**size):
            charged = sum(u for i, u in enumerate(units) if abs(k) >> i & 1)
            volts = math.copysign(charged * 2**size / units[size], k)
            levels.append(loaded(k, units, other, gain, volts, middle))
        levels = np.array(levels)
        want = levels[1:] - 0.5 if kind == "sar" else (np.sort(levels)[1:] + np.sort(levels)[:-1]) / 2
        np.testing.assert_allclose(thresholds[row].numpy() / step, want, atol=1e-9)


@pytest.mark.parametrize("gain_db", [None, 45.0])
@pytest.mark.parametrize("bits", [2, 3, 6, 9])
def test_split_capacitors_are_the_circuits(bits, gain_db):
    """Two nodes joined by a bridge: the charge of each is kept, which is two equations for two voltages."""
    mismatch = 0.05
    chip = converters("split-sar", bits=bits, capacitor_mismatch=mismatch, gain_db=gain_db)
    thresholds, _ = chip.transfer(FULL_SCALE, TILE, torch.zeros(1, COLUMNS, dtype=torch.float64))
    normals = drawn((COLUMNS, bits + 1), CHIP, Stream.CAPACITORS, TILE)
    half, step = bits // 2, FULL_SCALE / (2 ** (bits - 1) - 1)
    for c in range(COLUMNS):
        sizes = [2**i for i in range(half)] + [2**i for i in range(bits - 1 - half)] + [1, 2**half / (2**half - 1)]
        *units, end, bridge = [s + mismatch * math.sqrt(s) * n for s, n in zip(sizes, normals[c], strict=True)]
        for u in range(1, 2**bits):
            k = u - 2 ** (bits - 1)
            charged = [q * (abs(k) >> i & 1) for i, q in enumerate(units)]
            # (all at a node + bridge)·V_node - bridge·V_other = what is charged, in units of the reference voltage
            low, high = sum(units[:half]) + end, sum(units[half:])
            circuit = np.array([[low + bridge, -bridge], [-bridge, high + bridge]])
            volts = np.linalg.solve(circuit, [sum(charged[:half]), sum(charged[half:])])[1]
            level = math.copysign(volts * 2 ** (bits - 1), k)
            if gain_db is not None:
                level = (level + 0.5) / (1 + 10 ** (-gain_db / 20)) - 0.5
            assert float(thresholds[c, u - 1]) / step == pytest.approx(level - 0.5, abs=1e-9)


@pytest.mark.parametrize("kind", ["split-sar", "pipeline", "cyclic"])
def test_layers_train_program_and_have_budgets(kind):
    profile = an.HardwareProfile(
        tile={"rows": 8},
        dac={"bits": 8, "input_range": 1.0},
        adc={"bits": 6, "kind": kind, "full_scale": 4.0, "capacitor_mismatch": 0.02, "gain_db": 60.0},
        noise={"output": 0.05},
    )
    layer = linear(profile, n=40, k=24).float()
    net = torch.nn.Sequential(layer)
    x = torch.rand(200, 24) * 2 - 1
    an.program(net, seed=3)
    for one in an.noise_budget(net, x, repeats=8, progress=False).layers:
        assert one.measured == pytest.approx(one.total, rel=0.04)
    net.train()
    net(x).square().sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().sum() > 0


def test_kinds_refuse_what_is_of_others():
    for fields, words in [
        ({"gain_db": 60.0}, "gain_db are of a kind"),
        ({"kind": "sar", "comparator_offset": 0.1}, "offset_error"),
        ({"kind": "split-sar", "signed": False}, "is signed"),
        ({"kind": "pipeline", "inl": 1.0}, "inl is of a kind 'ramp'"),
    ]:
        with pytest.raises(ProfileError, match=words):
            an.HardwareProfile(adc={"bits": 6, "full_scale": 1.0} | fields)
    drawn_ = an.HardwareProfile(adc={"bits": 6, "full_scale": 1.0, "kind": "pipeline", "comparator_offset": 0.01})
    assert drawn_.is_drawn
    assert not drawn_.without_variation().is_drawn
    assert not an.HardwareProfile(adc={"bits": 6, "full_scale": 1.0, "kind": "cyclic", "gain_db": 60.0}).is_drawn
