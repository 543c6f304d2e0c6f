"""Agreement with independent simulators, where they can be imported: IBM's aihwkit and Sandia's CrossSim.

Neither is a dependency. `make bench-peers` installs aihwkit beside this package; CrossSim is found on PYTHONPATH.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import analogsim as an
from analogsim.chip.adc import Converters
from analogsim.nn import AnalogLinear
from analogsim.profile import ADC, HardwareProfile, Noise, Range

# aihwkit's HermesNoiseModel indexes as torch would rather not have it.
INDEXING = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
TIMES = {"1 s": 1.0, "1 hour": 3600.0, "1 day": 86_400.0, "1 year": 31_536_000.0}


# --- aihwkit: phase-change memory ------------------------------------------------------------------------------------


def pcm_model(preset="pcm"):
    reason = "aihwkit is not installed: make test-peers"
    if preset == "pcm":
        return pytest.importorskip("aihwkit.inference", reason=reason).PCMLikeNoiseModel(g_max=25.0)
    return pytest.importorskip("aihwkit.inference.noise.hermes", reason=reason).HermesNoiseModel(
        num_devices=1 if preset == "hermes-1" else 2
    )


def ours(target, seconds, cells, mapping, preset="pcm"):
    """Weights of `cells` cells (or pairs) of our preset, programmed to one target, as one read sees them."""
    whole = HardwareProfile.load(preset)
    profile = HardwareProfile(
        dac={"input_range": 1.0},
        weight={"w_max": 1.0},
        cells={"mapping": mapping},
        programming=whole.programming,
        drift=whole.drift.model_copy(update={"compensation": "none"}),
        flicker=whole.flicker,
    )
    layer = AnalogLinear(1, cells, bias=False, profile=profile).eval()
    layer.weight.data.fill_(target)
    an.program(layer, 7)
    an.at_time(layer, seconds)
    an.set_seed(layer, 8)
    with torch.no_grad():
        return layer(torch.ones(1, 1)).double().numpy().ravel()


def theirs(model, target, seconds, cells, seed=9):
    """Conductances of aihwkit's cells, fractions of g_max (its weights forget the idle half's programming noise)."""
    torch.manual_seed(seed)
    wanted = torch.full((cells,), model.g_max * target)
    programmed = model.apply_programming_noise_to_conductance(wanted.clone())
    exponents = model.generate_drift_coefficients(wanted)
    return model.apply_drift_noise_to_conductance(programmed, exponents, seconds).double().numpy() / model.g_max


def agreement(a, b):
    """The p values of the hypotheses that two samples have the same mean (Welch) and variance (by fourth moments)."""
    mean = stats.ttest_ind(a, b, equal_var=False).pvalue
    # var's standard error is √((m4 - var²)/n), whatever the distribution.
    spread = [((x - x.mean()) ** 4).mean() - x.var() ** 2 for x in (a, b)]
    z = (a.var() - b.var()) / math.sqrt(spread[0] / len(a) + spread[1] / len(b))
    return mean, 2 * stats.norm.sf(abs(z))


@INDEXING
@pytest.mark.parametrize("preset", ["pcm", "hermes", "hermes-1"])
@pytest.mark.parametrize("seconds", TIMES.values(), ids=TIMES.keys())
def test_pcm_cells_age_as_aihwkits(seconds, preset):
    """200 000 cells at each of 4 targets; false-alarm rate 1e-3 over the 8 tests of a time (Bonferroni).

    A spread 2 % off, or a mean 0.02·σ off, must be rejected. (aihwkit's conductances stop at 0 after the 1/f noise too;
    at these targets that is over 4 σ away.)
    """
    model = pcm_model(preset)
    cells, alpha = 200_000, 1e-3 / 8
    for target in (0.2, 0.4, 0.7, 1.0):
        a, b = ours(target, seconds, cells, "signed", preset), theirs(model, target, seconds, cells)
        assert min(agreement(a, b)) > alpha, (target, a.mean(), b.mean(), a.std(), b.std())
        wide = a.mean() + (a - a.mean()) * 1.02
        assert agreement(wide, b)[1] < alpha
        assert agreement(a + 0.02 * a.std(), b)[0] < alpha


@pytest.mark.parametrize("seconds", TIMES.values(), ids=TIMES.keys())
def test_pcm_pairs_age_as_two_of_aihwkits_cells(seconds):
    """The idle half is at 0, where aihwkit cuts the 1/f noise off and we do not: 0.001 in mean, 2 % in spread."""
    model, cells = pcm_model(), 200_000
    a = ours(0.5, seconds, cells, "differential")
    b = theirs(model, 0.5, seconds, cells) - theirs(model, 0.0, seconds, cells, seed=10)
    assert a.mean() == pytest.approx(b.mean(), abs=0.001)
    assert a.std() == pytest.approx(b.std(), rel=0.02)


@INDEXING
@pytest.mark.parametrize("preset", ["pcm", "hermes", "hermes-1"])
def test_drift_coefficients_are_aihwkits(preset):
    """Conductances at 1e6 s over those at 0 s, without noise: Kolmogorov-Smirnov, α = 1e-4, two times 20 000 cells."""
    model = pcm_model(preset)
    model.prog_noise_scale = model.read_noise_scale = 0.0
    for target in (0.05, 0.3, 0.9):
        layer = AnalogLinear(1, 20_000, bias=False, dtype=torch.float64).eval()
        drift = HardwareProfile.load(preset).drift.model_copy(update={"compensation": "none"})
        layer.profile = HardwareProfile(weight={"w_max": 1.0}, drift=drift)
        layer.weight.data.fill_(target)
        an.program(layer, 1)
        an.at_time(layer, 1e6)
        with torch.no_grad():
            mine = layer(torch.ones(1, 1, dtype=torch.float64)).numpy().ravel() / target
        other = theirs(model, target, 1e6, 20_000) / target
        assert stats.kstest(mine, other).pvalue > 1e-4
        assert stats.kstest(mine * 1.03, other).pvalue < 1e-4


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # aihwkit takes NumPy's logarithms of tensors
@pytest.mark.parametrize("seconds", [0.0, *TIMES.values()], ids=["0", *TIMES])
def test_cmo_cells_age_as_aihwkits(seconds):
    """200 000 cells at each of 3 targets; false-alarm rate 1e-3 over the 6 tests of a time (Bonferroni)."""
    reram = pytest.importorskip("aihwkit.inference.noise.reram", reason="aihwkit is not installed: make test-peers")
    whole, model = HardwareProfile.load("cmo-reram"), reram.ReRamCMONoiseModel()
    parts = {"programming": whole.programming, "drift": whole.drift, "flicker": whole.flicker}
    profile = HardwareProfile(dac={"input_range": 1.0}, weight={"w_max": 1.0}, **parts)
    for target in (0.2, 0.5, 0.8):  # aihwkit cuts conductances off at both ends
        layer = AnalogLinear(1, 200_000, bias=False, profile=profile).eval()
        layer.weight.data.fill_(target)
        an.program(layer, 7)
        an.at_time(layer, seconds)
        an.set_seed(layer, 8)
        with torch.no_grad():
            mine = layer(torch.ones(1, 1)).double().numpy().ravel()
        torch.manual_seed(9)
        wanted = torch.full((200_000,), model.g_max * target, dtype=torch.float64)
        written = model.apply_programming_noise_to_conductance(wanted.clone())
        age = torch.tensor(seconds, dtype=torch.float64)
        other = model.apply_drift_noise_to_conductance(written, wanted, age).numpy() / model.g_max
        assert min(agreement(mine, other)) > 1e-3 / 6
        assert agreement(mine.mean() + (mine - mine.mean()) * 1.02, other)[1] < 1e-3 / 6
        assert agreement(mine + 0.02 * mine.std(), other)[0] < 1e-3 / 6


@INDEXING
@pytest.mark.parametrize(("preset", "seconds"), [(p, t) for p in ("pcm", "hermes") for t in (0.0, 31_104_000.0)])
def test_products_are_as_wrong_as_aihwkits(preset, seconds):
    """Relative error of a product of 512 x 512 weights (uniform, 30 % zeros; inputs uniform, 50 % zeros), mean of the
    rows of 64 inputs: means of 4 chips agree to 3 %. Cells alone, without converters and compensation.
    """
    model, generator = pcm_model(preset), torch.Generator().manual_seed(3)
    w, x = (torch.rand(shape, generator=generator) * 2 - 1 for shape in ((512, 512), (64, 512)))
    w[torch.rand(w.shape, generator=generator) < 0.3] = 0
    x[torch.rand(x.shape, generator=generator) < 0.5] = 0
    want = x @ w.T

    def error(products):
        return float(torch.stack([(p - want).norm(dim=1) / want.norm(dim=1) for p in products]).mean())

    w_max = w.abs().max()
    mine, other = [], []
    for chip in range(4):
        whole = HardwareProfile.load(preset)
        parts = {"programming": whole.programming, "flicker": whole.flicker, "cells": whole.cells}
        drift = whole.drift.model_copy(update={"compensation": "none"})
        profile = HardwareProfile(
            tile={"rows": 512}, dac={"input_range": 1.0}, weight={"w_max": "tensor"}, **parts, drift=drift
        )
        layer = AnalogLinear(512, 512, bias=False, profile=profile).eval()
        layer.weight.data.copy_(w)
        an.program(layer, chip)
        an.at_time(layer, seconds)
        with torch.no_grad():
            mine.append(layer(x))
        halves = []
        for sign, seed in ((1, 2 * chip), (-1, 2 * chip + 1)):
            torch.manual_seed(seed)
            target = (sign * w).clamp(min=0) / w_max * model.g_max
            written = model.apply_programming_noise_to_conductance(target.clone())
            exponents = model.generate_drift_coefficients(target)
            halves.append(model.apply_drift_noise_to_conductance(written, exponents, seconds) / model.g_max * w_max)
        other.append(x @ (halves[0] - halves[1]).T)
    print(f"{preset} at {seconds:.3g} s: ours {error(mine):.4f}, aihwkit {error(other):.4f}")
    assert error(mine) == pytest.approx(error(other), rel=0.03)


@pytest.mark.parametrize("out_bits", [None, 7])
def test_vectors_are_managed_as_aihwkits(out_bits):
    """AbsMax noise management and iterative bound management, three more reads at most, of 200 vectors; float64.

    aihwkit looks for saturation after rounding, so that it lets a sum pass that is half a step beyond the range:
    vectors with such a sum in any read are left out (2 %).
    """
    reason = "aihwkit is not installed: make test-peers"
    mvm = pytest.importorskip("aihwkit.simulator.tiles.analog_mvm", reason=reason).AnalogMVM
    io = pytest.importorskip("aihwkit.simulator.parameters.io", reason=reason).IOParameters
    enums = pytest.importorskip("aihwkit.simulator.parameters.enums", reason=reason)
    retries, bound = 3, 0.7
    options = {
        "noise_management": enums.NoiseManagementType.ABS_MAX,
        "bound_management": enums.BoundManagementType.ITERATIVE,
        "max_bm_factor": 2**retries - 1,
        "max_bm_res": 1e9,
        **{"inp_bound": 1.0, "inp_res": -1.0, "out_bound": bound, "out_noise": 0.0, "w_noise": 0.0},
        "out_res": -1.0 if out_bits is None else 1 / (2**out_bits - 2),
    }
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((200, 12)), generator.uniform(-0.5, 0.5, (5, 12))
    w[0, 0] = 1.0
    x[7] = 0.0
    # A vector's largest input is halved to a tie of any DAC's codes, which rounding decides: no DAC.
    scaled = x / np.maximum(np.abs(x).max(1, keepdims=True), 1e-9)
    reads = [scaled / 2**n for n in range(retries + 1)]
    step = 0.0 if out_bits is None else bound / (2 ** (out_bits - 1) - 1)
    near = [(np.abs(r @ w.T) > bound * 0.999) & (np.abs(r @ w.T) < bound * 1.001 + step / 2) for r in reads]
    clear = ~np.any(near, axis=(0, 2))
    assert clear.mean() > 0.9
    weight = torch.from_numpy(w)
    theirs = torch.cat([mvm.matmul(weight, row[None].clone(), io(**options)) for row in torch.from_numpy(x)]).numpy()
    profile = HardwareProfile(
        tile={"rows": None},
        dac={"input_range": "vector"},
        weight={"w_max": 1.0},
        adc={"bits": out_bits, "full_scale": bound, "bound_management": retries},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine[clear], theirs[clear], atol=1e-9)
    once = layer_of(w, profile.varied(adc={"bound_management": 0}))(torch.from_numpy(x)).detach().numpy()
    assert (np.abs(once - mine).max(1) > 1e-3).mean() > 0.3


# --- CrossSim: converters and mappings -------------------------------------------------------------------------------


def crosssim():
    return pytest.importorskip("simulator", reason="CrossSim is not on PYTHONPATH")


def core(simulator, w, *, style, dac_bits=0, step_bits=None, weight_bits=0, slices=None, adc_bits=0, full_scale=1.0):
    """A CrossSim core that holds w (N, K) in [-1, 1], with a fixed ADC range in units of its normalised sums."""
    params = simulator.CrossSimParameters()
    params.core.style = style
    params.core.weight_bits = weight_bits
    params.core.mapping.weights.percentile = None
    params.core.mapping.weights.min, params.core.mapping.weights.max = -1.0, 1.0
    params.xbar.device.infinite_on_off_ratio = True
    if weight_bits and slices is None:
        params.xbar.device.cell_bits = weight_bits - 1
    if slices is not None:
        params.core.bit_sliced.num_slices = slices
        params.xbar.device.cell_bits = math.ceil((weight_bits - 1) / slices)
    if dac_bits:
        params.xbar.dac.mvm.model = "SignMagnitudeDAC"
        params.xbar.dac.mvm.bits = dac_bits
        params.xbar.dac.mvm.signed = True
        params.xbar.dac.mvm.input_bitslicing = step_bits is not None
        params.xbar.dac.mvm.slice_size = step_bits or 1
    if adc_bits:
        params.xbar.adc.mvm.model = "SignMagnitudeADC"
        params.xbar.adc.mvm.bits = adc_bits
        params.xbar.adc.mvm.adc_per_ibit = step_bits is not None
        limits = [-full_scale, full_scale]
        params.xbar.adc.mvm.calibrated_range = [limits] * slices if slices is not None else limits
    return simulator.AnalogCore(w, params=params)


def matrices(m=40, k=48, n=20):
    generator = np.random.default_rng(0)
    w = generator.uniform(-1, 1, (n, k))
    w[0, 0] = 1.0  # CrossSim may scale by the largest weight
    return generator.uniform(-1, 1, (m, k)), w


def layer_of(w, profile):
    layer = AnalogLinear(w.shape[1], len(w), bias=False, dtype=torch.float64, profile=profile).eval()
    layer.weight.data.copy_(torch.from_numpy(w))
    return layer


def compare(theirs, mine, step):
    """Equal to float rounding, but where a value was within rounding of a threshold: rarely, and then by one step."""
    difference = np.abs(theirs - mine)
    assert difference.max() <= step * 1.001 + 1e-6
    assert (difference > 1e-5).mean() < 0.002


BASE = {"tile": {"rows": None, "cols": None}, "weight": {"w_max": 1.0}}


@pytest.mark.parametrize(("dac_bits", "adc_bits"), [(8, 8), (4, 6), (6, 10)])
def test_quantization_with_fixed_ranges_is_crosssims(dac_bits, adc_bits):
    simulator = crosssim()
    x, w = matrices()
    other = core(simulator, w, style="BALANCED", dac_bits=dac_bits, adc_bits=adc_bits, full_scale=6.0)
    profile = HardwareProfile(
        **BASE,
        dac={"bits": dac_bits, "input_range": 1.0},
        cells={"mapping": "differential"},
        adc={"bits": adc_bits, "full_scale": 6.0},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    compare(other.matmat(x.T).T, mine, 6.0 / (2 ** (adc_bits - 1) - 1))
    assert np.abs(mine - x @ w.T).max() > 1e-3


def test_differential_mapping_of_limited_conductances_is_crosssims():
    simulator = crosssim()
    x, w = matrices()
    other = core(simulator, w, style="BALANCED", weight_bits=5)
    profile = HardwareProfile(
        **(BASE | {"weight": {"w_max": 1.0, "bits": 5}}), dac={"input_range": 1.0}, cells={"mapping": "differential"}
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    compare(other.matmat(x.T).T, mine, 1e-5)
    assert np.abs(mine - x @ w.T).max() > 1e-3


@pytest.mark.parametrize(("weight_bits", "cell_bits", "step_bits"), [(9, 4, None), (7, 2, None), (9, 4, 1), (7, 3, 2)])
def test_slices_are_crosssims(weight_bits, cell_bits, step_bits):
    """Weights in slices with an ADC for each, and inputs bit by bit."""
    simulator = crosssim()
    x, w = matrices()
    slices = (weight_bits - 1) // cell_bits
    options = {"dac_bits": 7, "step_bits": step_bits, "adc_bits": 8, "full_scale": 9.0}
    other = core(simulator, w, style="BITSLICED", weight_bits=weight_bits, slices=slices, **options)
    profile = HardwareProfile(
        **(BASE | {"weight": {"w_max": 1.0, "bits": weight_bits}}),
        dac={"bits": 7, "input_range": 1.0, "step_bits": step_bits},
        cells={"mapping": "differential", "bits": cell_bits},
        adc={"bits": 8, "full_scale": 9.0},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    compare(other.matmat(x.T).T, mine, 9.0 / 127)
    assert np.abs(mine - x @ w.T).max() > 1e-3


@pytest.mark.parametrize(("weight_bits", "cell_bits"), [(8, 4), (8, 2), (6, 3)])
def test_slices_of_offset_cells_are_crosssims(weight_bits, cell_bits):
    """Biased weights, of which a cell holds one digit without a sign, and a unit column with the bias' digits."""
    simulator = crosssim()
    x, w = matrices()
    params = core_parameters(simulator, weight_bits, cell_bits)
    other = simulator.AnalogCore(w, params=params)
    profile = HardwareProfile(
        **(BASE | {"weight": {"w_max": 1.0, "bits": weight_bits}}),
        dac={"input_range": 1.0},
        cells={"mapping": "offset", "bits": cell_bits, "g_min": 0.1},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine, other.matmat(x.T).T, atol=1e-5)
    assert np.abs(mine - x @ w.T).max() > 1e-3


def core_parameters(simulator, weight_bits, cell_bits):
    params = simulator.CrossSimParameters()
    params.core.style = "BITSLICED"
    params.core.bit_sliced.style = "OFFSET"
    params.core.offset.style = "UNIT_COLUMN_SUBTRACTION"
    params.core.weight_bits = weight_bits
    params.core.bit_sliced.num_slices = weight_bits // cell_bits
    params.core.mapping.weights.percentile = None
    params.core.mapping.weights.min, params.core.mapping.weights.max = -1.0, 1.0
    params.xbar.device.cell_bits = cell_bits
    params.xbar.device.infinite_on_off_ratio = False
    params.xbar.device.Rmin, params.xbar.device.Rmax = 1e4, 1e5
    return params


@pytest.mark.parametrize("gain_db", [None, 60.0, 30.0])
@pytest.mark.parametrize("mismatch", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(("kind", "signed"), [("sar", True), ("split-sar", True), ("ramp", True), ("ramp", False)])
@pytest.mark.parametrize("bits", [4, 8])
def test_capacitive_adcs_are_crosssims(kind, signed, bits, mismatch, gain_db, monkeypatch):
    """One ADC with the capacitors that CrossSim drew, mismatched until codes are missing and out of order.

    CrossSim's codes stand half an LSB beside ours (2^b of them, none at 0), so it gets sums half an LSB higher, and its
    outputs are taken half an LSB lower; of its unsigned range, half of it, which it centres on 0. Its lowest signed
    code, which an even range lacks, is our next.
    """
    simulator = crosssim()
    from simulator.backend import ComputeBackend
    from simulator.circuits.adc.ramp_adc import RampADC
    from simulator.circuits.adc.sar_adc import SarADC

    ComputeBackend(use_gpu=False)
    full_scale = 3.0
    step = full_scale / (2 ** (bits - signed) - 1)
    reference = step * 2 ** (bits - 1)
    shift = step / 2 if signed else -reference + step / 2
    params = simulator.CrossSimParameters()
    params.xbar.adc.mvm.model = {"sar": "SarADC", "split-sar": "SarADC", "ramp": "RampADC"}[kind]
    adc = params.xbar.adc.mvm
    adc.bits, adc.calibrated_range = bits, [-reference, reference]
    adc.sigma_capacitor, adc.sigma_comparator, adc.gain_db = mismatch, 0.0, gain_db or 400
    if kind != "ramp":
        adc.split_cdac, adc.group_size = kind == "split-sar", 1
    else:
        adc.symmetric_cdac = signed
    make = RampADC if kind == "ramp" else SarADC
    other = make(adc, params.xbar.dac.mvm, params.core, params.simulation, 0)
    generator, drawn = np.random.default_rng(5), {}

    def normal(loc, scale, size):
        drawn[size] = generator.standard_normal(size)
        return loc + scale * drawn[size]

    monkeypatch.setattr(np.random, "normal", normal)
    other.set_limits(np.zeros((1, 1)))
    wanted = torch.from_numpy(drawn[bits + 1])[None]
    monkeypatch.setattr("analogsim.chip.adc.normals", lambda *arguments: wanted[:, : arguments[-1][-1]])

    x = np.random.default_rng(0).uniform(-full_scale if signed else 0, full_scale, 5000)
    fields = {"kind": kind, "signed": signed, "capacitor_mismatch": mismatch, "gain_db": gain_db}
    mine = Converters(ADC(bits=bits, full_scale=full_scale, **fields), Noise(), 0)
    got, _ = mine.converted(torch.from_numpy(x)[:, None], full_scale, 0)
    theirs = np.array([other.convert(np.array([one + shift])) for one in x]) - shift
    np.testing.assert_allclose(got.numpy(), np.maximum(theirs, -full_scale), atol=1e-9)
    ideal = (x / step).round()[:, None] * step
    assert bool((np.abs(got.numpy() - ideal) > step / 2).any()) == (mismatch > 0) or gain_db


@pytest.mark.parametrize("gain_db", [None, 60.0, 30.0])
@pytest.mark.parametrize("mismatch", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("kind", ["pipeline", "cyclic"])
@pytest.mark.parametrize("bits", [4, 8])
def test_staged_adcs_are_crosssims(kind, bits, mismatch, gain_db, monkeypatch):
    """One ADC with the capacitors and comparators that CrossSim drew; sums and outputs are shifted as above.

    CrossSim's parasitic capacitance, of which ours has none, is 0.
    """
    simulator = crosssim()
    from simulator.backend import ComputeBackend
    from simulator.circuits.adc.cyclic_adc import CyclicADC
    from simulator.circuits.adc.pipeline_adc import PipelineADC

    ComputeBackend(use_gpu=False)
    full_scale, offset = 3.0, mismatch / 2
    step = full_scale / (2 ** (bits - 1) - 1)
    reference = step * 2 ** (bits - 1)
    params = simulator.CrossSimParameters()
    adc = params.xbar.adc.mvm
    make = PipelineADC if kind == "pipeline" else CyclicADC
    adc.model, adc.bits, adc.calibrated_range, adc.group_size = make.__name__, bits, [-reference, reference], 1
    adc.sigma_C1 = adc.sigma_C2 = mismatch
    adc.sigma_Cpar, adc.sigma_comparator, adc.gain_db = 0.0, offset, gain_db or 400
    other = make(adc, params.xbar.dac.mvm, params.core, params.simulation, 0)
    generator, drawn = np.random.default_rng(5), []

    def normal(loc, scale, size):
        drawn.append(generator.standard_normal(size))
        return loc + scale * drawn[-1]

    monkeypatch.setattr(np.random, "normal", normal)
    other.set_limits(np.zeros((1, 1)))
    comparators, first, second, _ = (part.ravel() for part in drawn)
    wanted = torch.from_numpy(np.concatenate([first, second, comparators]))[None]
    monkeypatch.setattr("analogsim.chip.adc.normals", lambda *arguments: wanted)
    x = np.random.default_rng(0).uniform(-full_scale, full_scale, 5000)
    fields = {"kind": kind, "capacitor_mismatch": mismatch, "comparator_offset": offset, "gain_db": gain_db}
    mine = Converters(ADC(bits=bits, full_scale=full_scale, **fields), Noise(), 0)
    got, _ = mine.converted(torch.from_numpy(x)[:, None], full_scale, 0)
    theirs = np.array([other.convert(np.array([one + step / 2])) for one in x]) - step / 2
    np.testing.assert_allclose(got.numpy(), np.maximum(theirs, -full_scale), atol=1e-9)
    ideal = (x / step).round()[:, None] * step
    assert bool((np.abs(got.numpy() - ideal) > step / 2).any()) == (mismatch > 0) or gain_db


@pytest.mark.parametrize("ends", [(0.0, 3.0), (-1.0, 3.0), (-2.0, 0.5)])
@pytest.mark.parametrize("bits", [3, 8])
def test_asymmetric_ranges_are_crosssims(bits, ends):
    """Its quantizer's levels begin at the lower end; here that is a whole number of steps below 0, so they are ours."""
    simulator = crosssim()
    from simulator.circuits.adc.quantizer_adc import QuantizerADC

    low, high = Range(*ends).aligned(bits)
    params = simulator.CrossSimParameters()
    adc = params.xbar.adc.mvm
    adc.model, adc.bits, adc.signed, adc.calibrated_range = "QuantizerADC", bits, True, [low, high]
    other = QuantizerADC(adc, params.xbar.dac.mvm, params.core, params.simulation, 0)
    other.set_limits(np.zeros((1, 1)))
    x = np.random.default_rng(0).uniform(-3.5, 3.5, 5000)
    mine = Converters(ADC(bits=bits, symmetric=False, full_scale=ends), Noise(), 0)
    got, _ = mine.converted(torch.from_numpy(x)[:, None], Range(*ends), 0)
    np.testing.assert_allclose(got.numpy()[:, 0], other.convert(x), atol=1e-9)


# --- CrossSim: wires and I-V curves ----------------------------------------------------------------------------------


def wired(simulator, w, *, source=False, interleaved=False, row=0.0, column=0.0, row_terminal=0.0, column_terminal=0.0):
    """A core of differential pairs behind wires, resistances in units of 1/g_max, solved until voltages are 1e-9."""
    params = simulator.CrossSimParameters()
    params.core.style = "BALANCED"
    params.core.balanced.interleaved_posneg = interleaved
    params.core.mapping.weights.percentile = None
    params.core.mapping.weights.min, params.core.mapping.weights.max = -1.0, 1.0
    params.xbar.device.infinite_on_off_ratio = False
    params.xbar.device.Rmin, params.xbar.device.Rmax = 1e4, 1e5
    parasitics = params.xbar.array.parasitics
    parasitics.enable, parasitics.current_from_input = True, not source
    parasitics.Rp_row, parasitics.Rp_col = row * 1e4, column * 1e4
    parasitics.Rp_row_terminal, parasitics.Rp_col_terminal = row_terminal * 1e4, column_terminal * 1e4
    params.simulation.Verr_th_mvm, params.simulation.Niters_max_parasitics = 1e-9, 1000
    if source:
        dac = params.xbar.dac.mvm
        dac.model, dac.bits, dac.signed, dac.input_bitslicing, dac.slice_size = "QuantizerDAC", 1, False, True, 1
        params.core.mapping.inputs.mvm.percentile = None
        params.core.mapping.inputs.mvm.min, params.core.mapping.inputs.mvm.max = 0.0, 1.0
    return simulator.AnalogCore(w, params=params)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("size", [24, 64])
def test_exact_wires_are_crosssims(size, source, interleaved):
    """Its currents are those of voltages that are right to 1e-9, and float32 on the way.

    It puts the terminal of a row that carries current into every segment of row 0 instead (version 3.2.0), so that rows
    have none here where there are no source wires. `test_wires.py` has ours against Kirchhoff's equations.
    """
    simulator = crosssim()
    x, w = matrices(5, size, 20)
    x = (x > 0).astype(float) if source else x
    ends = {"column": 1e-3, "column_terminal": 3e-3}
    other = wired(simulator, w, source=source, interleaved=interleaved, row=1e-3, row_terminal=2e-3 * source, **ends)
    wires = {"source": 1e-3, "source_terminal": 2e-3, "gated": True} if source else {"row": 1e-3}
    profile = HardwareProfile(
        **BASE,
        dac={"input_range": 1.0} | ({"bits": 1, "signed": False} if source else {}),
        cells={"mapping": "differential", "g_min": 0.1},
        wires=wires | ends | {"solution": "exact", "interleaved": interleaved},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    theirs = np.array([other.matvec(one) for one in x])
    np.testing.assert_allclose(mine, theirs, atol=1e-6 * np.abs(theirs).max())
    assert np.abs(mine - x @ w.T).max() > 0.1


def test_curved_cells_are_crosssims():
    """RRAM of V. Milo et al. (IRPS 2021), 50 to 225 µS read with 0.5 V: CrossSim's polynomials in log10 of siemens."""
    simulator = crosssim()
    x, w = matrices()
    g_max, g_min, volts = 225e-6, 50e-6, 0.5
    device = simulator.CrossSimParameters()
    device.core.style = "BALANCED"
    device.core.mapping.weights.percentile = None
    device.core.mapping.weights.min, device.core.mapping.weights.max = -1.0, 1.0
    device.xbar.device.infinite_on_off_ratio = False
    device.xbar.device.Rmin, device.xbar.device.Rmax, device.xbar.device.Vread = 1 / g_max, 1 / g_min, volts
    device.xbar.device.nonlinear_IV.enable, device.xbar.device.nonlinear_IV.model = True, "RRAMMilo"
    theirs = simulator.AnalogCore(w, params=device).matmat(x.T).T

    def of_ln(coefficients, unit):
        """Σ c (log10 G)^i with the highest power first, as a polynomial in ln(G/g_max), the lowest first."""
        inner = np.poly1d([1 / math.log(10), math.log10(g_max)])
        return [float(c) * unit for c in np.poly1d(coefficients)(inner).coeffs[::-1]]

    second = of_ln([0.0001388, 0.001541, 0.005711, 0.007063], volts / g_max)
    third = of_ln([8.8710e-05, 6.7919e-04, 1.2968e-03], volts**2 / g_max)
    profile = HardwareProfile(
        **BASE,
        dac={"input_range": 1.0},
        cells={"mapping": "differential", "g_min": g_min / g_max},
        iv={"second": {"log": second}, "third": {"log": third}},
    )
    mine = layer_of(w, profile)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine, theirs, atol=2e-6)
    assert np.abs(mine - x @ w.T).max() > 0.1
