"""CrossSim's parameters as profiles: what is carried over computes the same, and what is not is said.

Where CrossSim is on PYTHONPATH the same matrices are multiplied by both; elsewhere those tests are skipped.
"""

import itertools
import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import analogsim as an
from analogsim.errors import ProfileError, TranslationWarning
from analogsim.nn import AnalogLinear
from analogsim.profile import HardwareProfile, Range, presets
from analogsim.profile.peers import crosssim
from analogsim.profile.peers.crosssim_devices import (
    POLYNOMIALS,
    SONOS_NOISE,
    cubic,
    milo,
    moments,
    polynomial,
    saturating,
)
from analogsim.profile.peers.crosssim_devices import SONOS as SONOS_SIGMA
from analogsim.profile.peers.report import flat, same
from tests.chip.test_peers import agreement


def simulator():
    return pytest.importorskip("simulator", reason="CrossSim is not on PYTHONPATH")


def matrices(m=30, k=48, n=20, seed=0):
    generator = np.random.default_rng(seed)
    w = generator.uniform(-1, 1, (n, k))
    w[0, 0] = 1.0
    return generator.uniform(-1, 1, (m, k)), w


def configured(**settings):
    """CrossSim's parameters with some of them set; "__" for dots."""
    params = simulator().CrossSimParameters()
    for name, value in settings.items():
        *parts, last = name.split("__")
        at = params
        for part in parts:
            at = getattr(at, part)
        setattr(at, last, value)
    return params


def theirs(params, x, w):
    return simulator().AnalogCore(w, params=params).matmat(x.T).T


def mine(found, x, w, chip=1, age=0.0):
    profile = HardwareProfile(**found.values)
    layer = AnalogLinear(w.shape[1], len(w), bias=False, dtype=torch.float64, profile=profile).eval()
    layer.weight.data.copy_(torch.from_numpy(w))
    if profile.is_drawn:
        an.program(layer, chip)
        an.at_time(layer, age)
    with torch.no_grad():
        return layer(torch.from_numpy(x)).numpy()


def step_of(found, w):
    """What one code of one ADC is worth in the output."""
    profile = HardwareProfile(**found.values)
    if profile.adc.bits is None:
        return 0.0
    scale, alpha = max(profile.adc.slice_scales or [profile.adc.full_scale]), profile.dac.input_range
    step = scale.codes(profile.adc.bits)[2] if isinstance(scale, Range) else scale / profile.adc.levels
    return step * float(np.abs(w).max()) * (alpha.size if isinstance(alpha, Range) else alpha)


def agree(found, params, x, w, tolerance=2e-5):
    """Equal to their float32, but where a value was within its rounding of a threshold: rarely, and by one step."""
    a, b = theirs(params, x, w), mine(found, x, w)
    difference = np.abs(a - b)
    assert np.abs(a).max() > 0.5
    assert difference.max() <= 1.001 * step_of(found, w) + tolerance
    assert (difference > tolerance).mean() < 0.003


# --- what is computed is the same ------------------------------------------------------------------------------------

PAIRS = {
    "exact": {},
    "5-bit cells": {"xbar__device__cell_bits": 5},
    "no limit of on/off": {"xbar__device__infinite_on_off_ratio": True},
    "digital": {"core__balanced__subtract_current_in_xbar": False},
    "4-bit cells, on/off 4": {"xbar__device__cell_bits": 4, "xbar__device__Rmax": 4000.0},
}
DACS = {
    "no DAC": {},
    "6-bit DAC": {"xbar__dac__mvm__model": "SignMagnitudeDAC", "xbar__dac__mvm__bits": 6},
    "bit by bit": {
        "xbar__dac__mvm__model": "SignMagnitudeDAC",
        "xbar__dac__mvm__bits": 5,
        "xbar__dac__mvm__input_bitslicing": True,
    },
    "unsigned, 2 bits at once": {
        "core__mapping__inputs__mvm__min": 0.0,
        "xbar__dac__mvm__signed": False,
        "xbar__dac__mvm__model": "QuantizerDAC",
        "xbar__dac__mvm__bits": 6,
        "xbar__dac__mvm__input_bitslicing": True,
        "xbar__dac__mvm__slice_size": 2,
    },
    "range of 3": {
        "xbar__dac__mvm__model": "SignMagnitudeDAC",
        "xbar__dac__mvm__bits": 8,
        "core__mapping__inputs__mvm__min": -3.0,
        "core__mapping__inputs__mvm__max": 3.0,
    },
}
ADCS = {
    "no ADC": {},
    "8 bits, range 5.03": {
        "xbar__adc__mvm__model": "SignMagnitudeADC",
        "xbar__adc__mvm__bits": 8,
        "xbar__adc__mvm__calibrated_range": [-5.03, 5.03],  # on no level of cells and inputs, which would be ties
    },
    "8 bits, all of it": {
        "xbar__adc__mvm__model": "SignMagnitudeADC",
        "xbar__adc__mvm__bits": 8,
        "xbar__adc__mvm__adc_range_option": "MAX",
        "core__rows_max": 48,
    },
}


@pytest.mark.parametrize(("pair", "dac", "adc"), list(itertools.product(PAIRS, DACS, ADCS)), ids=str)
def test_pairs_compute_the_same(pair, dac, adc):
    """Every product of cells, DACs and ADCs; an ADC for each step where inputs are in steps."""
    settings = PAIRS[pair] | DACS[dac] | ADCS[adc]
    if "xbar__dac__mvm__input_bitslicing" in settings and adc != "no ADC":
        settings["xbar__adc__mvm__adc_per_ibit"] = True
    if adc != "no ADC" and pair == "digital" and dac.startswith("unsigned"):
        settings |= {"xbar__adc__mvm__model": "QuantizerADC", "xbar__adc__mvm__calibrated_range": [0.0, 5.03]}
    params = configured(**settings)
    found = crosssim.read(params)
    x, w = matrices()
    x = np.abs(x) if dac.startswith("unsigned") else x
    expected = {"partition"} | ({"adc_range_option"} if "MAX" in str(settings) else set())
    assert all(any(word in line for word in expected) for line in found.lost), found.lost
    agree(found, params, x, w)


@pytest.mark.parametrize("adc_per_ibit", [True, False])
@pytest.mark.parametrize(("bits", "slices"), [(9, 2), (8, 2), (8, 4), (7, 3)])
@pytest.mark.parametrize("subtraction", ["analog", "digital"])
def test_slices_compute_the_same(bits, slices, subtraction, adc_per_ibit):
    limits = [[-7.013, 7.013]] * slices
    params = configured(
        core__style="BITSLICED",
        core__weight_bits=bits,
        core__bit_sliced__num_slices=slices,
        core__balanced__subtract_current_in_xbar=subtraction == "analog",
        **DACS["bit by bit"],
        xbar__adc__mvm__model="SignMagnitudeADC",
        xbar__adc__mvm__bits=8,
        xbar__adc__mvm__adc_per_ibit=adc_per_ibit,
        xbar__adc__mvm__calibrated_range=limits,
    )
    found = crosssim.read(params)
    assert not found.lost
    x, w = matrices()
    a, b = theirs(params, x, w), mine(found, x, w)
    # A code of the highest slice and step is worth the most: a rare one that float32 rounds to the other side.
    assert np.abs(a - b).max() <= 1.01 * step_of(found, w)
    assert (np.abs(a - b) > 2e-5).mean() < 0.01


@pytest.mark.parametrize(("bits", "slices"), [(8, 2), (8, 4), (6, 2)])
@pytest.mark.parametrize("ratio", [10.0, 1000.0])
def test_slices_of_offset_cells_compute_the_same(bits, slices, ratio):
    params = configured(
        core__style="BITSLICED",
        core__weight_bits=bits,
        core__bit_sliced__style="OFFSET",
        core__bit_sliced__num_slices=slices,
        core__offset__style="UNIT_COLUMN_SUBTRACTION",
        xbar__device__cell_bits=bits // slices,
        xbar__device__Rmax=1000.0 * ratio,
    )
    found = crosssim.read(params)
    assert not found.lost
    agree(found, params, *matrices())


@pytest.mark.parametrize("style", ["DIGITAL_OFFSET", "UNIT_COLUMN_SUBTRACTION"])
@pytest.mark.parametrize("cell_bits", [0, 5])
def test_offset_cells_compute_the_same_but_for_the_gain_that_is_said(style, cell_bits):
    params = configured(
        core__style="OFFSET", core__offset__style=style, xbar__device__cell_bits=cell_bits, xbar__device__Rmax=5000.0
    )
    found = crosssim.read(params)
    x, w = matrices()
    gain = 1 - 1 / (2**cell_bits - 1) if cell_bits else 1.0
    np.testing.assert_allclose(theirs(params, x, w), gain * mine(found, x, w), atol=2e-5)
    assert any("error of gain" in line for line in found.lost) == bool(cell_bits)
    assert any("exact and digital" in line for line in found.lost) == (style == "DIGITAL_OFFSET")


@pytest.mark.parametrize("low", [None, -0.7])
def test_ranges_of_weights_and_inputs_are_theirs(low):
    """The largest of each, or a constant that clips."""
    params = configured(**DACS["6-bit DAC"])
    params.core.mapping.inputs.mvm.percentile = 1.0
    if low is not None:
        params.core.mapping.weights.percentile = None
        params.core.mapping.weights.min, params.core.mapping.weights.max = low, -low
    found = crosssim.read(params)
    assert found.values["weight"]["w_max"] == ("tensor" if low is None else 0.7)
    x, w = matrices()
    np.testing.assert_allclose(theirs(params, 2.5 * x, 0.9 * w), mine(found, 2.5 * x, 0.9 * w), atol=2e-5)


def aligned(low, high, bits):
    """The same range, shifted by half a step at most so that CrossSim has a level at 0, too."""
    return tuple(Range(low, high).aligned(bits))


@pytest.mark.parametrize(("low", "high"), [(-2.0, 6.0), (-9.0, 4.0), (-6.0, 6.0)])
@pytest.mark.parametrize(("dac_low", "dac_high"), [(-0.4, 1.0), (-1.0, 0.3), (0.0, 0.8)])
@pytest.mark.parametrize("pair", ["exact", "4-bit cells, on/off 4", "digital"])
def test_asymmetric_ranges_compute_the_same(pair, dac_low, dac_high, low, high):
    """Quantizers of 2^b levels, from a least to a largest input or sum; both clip, on both sides."""
    (dac_low, dac_high), (low, high) = aligned(dac_low, dac_high, 5), aligned(low, high, 6)
    params = configured(
        **PAIRS[pair],
        xbar__dac__mvm__model="QuantizerDAC",
        xbar__dac__mvm__bits=5,
        core__mapping__inputs__mvm__min=dac_low,
        core__mapping__inputs__mvm__max=dac_high,
        xbar__adc__mvm__model="QuantizerADC",
        xbar__adc__mvm__bits=6,
        xbar__adc__mvm__calibrated_range=[1.001 * low, 1.001 * high],  # no ties
    )
    found = crosssim.read(params)
    assert not found.lost
    x, w = matrices()
    agree(found, params, x, w)
    assert np.abs(theirs(params, x, w) - np.clip(x, dac_low, dac_high) @ w.T).max() > 0.1


def test_a_range_without_a_level_at_0_is_said():
    params = configured(
        xbar__adc__mvm__model="QuantizerADC", xbar__adc__mvm__bits=6, xbar__adc__mvm__calibrated_range=[-5.0, 5.0]
    )
    found = crosssim.read(params)
    assert [line for line in found.lost if "0.5 of a step beside" in line]
    x, w = matrices()
    step = 10 / 63
    assert np.abs(theirs(params, x, w) - mine(found, x, w)).max() <= 1.001 * step
    profile = HardwareProfile(**found.values)
    assert (profile.adc.symmetric, profile.adc.full_scale) == (False, pytest.approx((-5 / 0.9, 5 / 0.9)))


CONVERTERS = {
    "split SAR": {"model": "SarADC", "split_cdac": True},
    "SAR": {"model": "SarADC", "split_cdac": False},
    "ramp": {"model": "RampADC"},
    "pipeline": {"model": "PipelineADC"},
    "cyclic": {"model": "CyclicADC"},
}
UNEVEN = {
    "split SAR": {"sigma_capacitor": 0.05, "sigma_comparator": 0.01, "gain_db": 40},
    "SAR": {"sigma_capacitor": 0.1, "sigma_comparator": 0.01, "gain_db": 40},
    "ramp": {"sigma_capacitor": 0.1, "sigma_comparator": 0.01, "gain_db": 40},
    "pipeline": {"sigma_C1": 0.04, "sigma_C2": 0.04, "sigma_comparator": 0.05, "gain_db": 45},
    "cyclic": {"sigma_C1": 0.01, "sigma_C2": 0.05, "sigma_comparator": 0.05, "gain_db": 45},
}


def converting(name, bits=7, **settings):
    adc = {"bits": bits, "calibrated_range": [-5.03, 5.03], **CONVERTERS[name], **settings}
    if name != "ramp":
        adc["group_size"] = 1
    return configured(**{f"xbar__adc__mvm__{key}": value for key, value in adc.items()})


def kind_of(found):
    adc = HardwareProfile(**found.values).adc
    return adc.kind, adc.signed, adc.gain_db


@pytest.mark.parametrize("low", [-5.03, 0.0])
@pytest.mark.parametrize("name", CONVERTERS)
def test_kinds_of_adcs_compute_the_same_but_for_the_half_step_that_is_said(name, low):
    """Sums that are half a step higher there have codes half a step higher, of ADCs without errors; also where its
    range is said to begin at 0, which moves no level.
    """
    params = converting(name, gain_db=400, calibrated_range=[low, 5.03])
    found = crosssim.read(params)
    assert any("half a step beside ours" in line for line in found.lost)
    assert len(found.lost) == 1 + (low == 0)
    kind = {"split SAR": "split-sar", "SAR": "sar"}.get(name, name)
    assert kind_of(found) == (kind, True, None)
    x, w = matrices(k=6, n=40)
    x, w = (np.abs(x), np.abs(w)) if low == 0 else (x, w)
    step = 5.03 / 64 / 0.9
    # One more row, which holds half a step.
    shift = np.full((len(w), 1), step / 2)
    a = theirs(params, np.hstack([x, np.ones((len(x), 1))]), np.hstack([w, shift])) - step / 2
    b = mine(found, x, w)
    assert (np.abs(a - b) > 2e-5).mean() < 0.003
    assert np.abs(b - x @ w.T).max() > 0.4 * step


@pytest.mark.parametrize("name", UNEVEN)
def test_errors_of_adcs_are_theirs(name):
    """Mean squares of what 1,000 ADCs make of 30 sums agree to 15 %; those of twice the mismatch are beyond it.

    Capacitors that an array's ADCs share count as one ADC: those of SAR ADCs there (which is said) and of any ramp,
    of which there are 200.
    """
    params = converting(name, **UNEVEN[name])
    found = crosssim.read(params)
    said = {"cyclic": ["sigma_C1"], "SAR": ["sigma_capacitor"], "split SAR": ["sigma_capacitor"]}.get(name, [])
    assert [line.split(" = ")[0].rpartition(".")[2] for line in found.lost] == [*said, "model"][:: -1 if said else 1]
    x = np.linspace(-4.5, 4.5, 30)[:, None] / 0.9
    np.random.seed(3)  # noqa: NPY002 - CrossSim draws from the global generator

    def errors(product, apart):
        arrays = 200 if apart else 1
        made = [product(x / 5, np.ones((1000 // arrays, 1)) * 5, chip) for chip in range(arrays)]
        return np.square(np.concatenate(made, axis=1) - x).mean()

    a = errors(lambda x, w, chip: theirs(params, x, w), name in ("SAR", "split SAR", "ramp"))
    b = errors(lambda x, w, chip: mine(found, x, w, chip), name == "ramp")
    assert a == pytest.approx(b, rel=0.15)
    doubled = {key: 2 * value if "sigma" in key else value for key, value in UNEVEN[name].items()}
    worse = crosssim.read(converting(name, **doubled))
    assert errors(lambda x, w, chip: mine(worse, x, w, chip), name == "ramp") > 1.3 * a


def test_tiles_are_cut_alike_where_they_fill():
    params = configured(core__rows_max=16, core__cols_max=10, **ADCS["8 bits, range 5.03"], xbar__device__cell_bits=6)
    found = crosssim.read(params)
    assert (found.values["tile"]["rows"], found.values["tile"]["cols"]) == (16, 10)
    agree(found, params, *matrices())


# --- each file that CrossSim ships -----------------------------------------------------------------------------------


def shipped(name):
    folder = Path(simulator().__file__).parent / "configs"
    return folder / f"{name}.json", simulator().CrossSimParameters.from_json(folder / f"{name}.json")


def test_the_default_file_computes_the_same():
    path, params = shipped("default")
    found = crosssim.read(path)
    assert all("partition" in line for line in found.lost)
    agree(found, params, *matrices())


@pytest.mark.parametrize(("name", "codes"), [("ISAAC", 0.01), ("ISAAC-SarADC", 2.0)])
def test_isaacs_files_compute_the_same_to_a_code(name, codes):
    """What is said: the unit column is converted, too, there, and the SAR ADC's levels stand half a step beside ours.

    So sums of a few rows are exact with the one, and with the other off by less than two codes of one cell's level.
    """
    path, params = shipped(name)
    params.xbar.device.infinite_on_off_ratio = True
    config = json.loads(path.read_text())
    config["xbar"]["device"]["infinite_on_off_ratio"] = True
    found = crosssim.read(config)
    x, w = matrices(k=32)
    a, b = theirs(params, 152 * x, w), mine(found, 152 * x, w)
    unit = step_of(found, w) * sum(4.0**-i for i in range(8)) * 3 * 4**7 / (2**15 - 1)
    assert np.abs(a - b).max() <= codes * unit
    if name == "ISAAC":
        assert np.abs(b - 152 * x @ w.T).max() < 0.05


@pytest.mark.parametrize("adc_per_ibit", [True, False])
def test_a_range_for_each_slice_computes_the_same(adc_per_ibit):
    limits = [8.013, 4.0065, 2.00325]  # it warns where they do not differ by powers of 2
    params = configured(
        core__style="BITSLICED",
        core__weight_bits=7,
        core__bit_sliced__num_slices=3,
        **DACS["bit by bit"],
        xbar__adc__mvm__model="SignMagnitudeADC",
        xbar__adc__mvm__bits=8,
        xbar__adc__mvm__adc_per_ibit=adc_per_ibit,
        xbar__adc__mvm__calibrated_range=[[-one, one] for one in limits],
    )
    found = crosssim.read(params)
    assert not found.lost
    profile = HardwareProfile(**found.values)
    span, steps = 1 - profile.cells.g_min, profile.dac.steps
    assert profile.adc.slice_scales == pytest.approx([one / span for one in limits for _ in range(steps)])
    x, w = matrices()
    a, b = theirs(params, x, w), mine(found, x, w)
    assert np.abs(a - b).max() <= 1.01 * step_of(found, w)
    assert (np.abs(a - b) > 2e-5).mean() < 0.01
    back = profile.to_crosssim()["xbar"]["adc"]["mvm"]["calibrated_range"]
    np.testing.assert_allclose(back, [[-one, one] for one in limits])


@pytest.mark.parametrize("name", ["PRIME", "SONOS-TCAS"])
def test_ramps_that_stand_half_a_step_beside_ours_differ_by_no_more(name):
    """PRIME's with a range for each slice, and SONOS' with an even one and no errors: what is said to be lost."""
    path, params = shipped(name)
    config = json.loads(path.read_text())
    adc = config["xbar"]["adc"]["mvm"]
    adc["calibrated_range"] = [[-8.0, 8.0], [-4.0, 4.0]] if name == "PRIME" else [-4.0, 4.0]
    params.xbar.adc.mvm.calibrated_range = adc["calibrated_range"]
    for part in ("programming_error", "drift_error"):
        config["xbar"]["device"][part]["enable"] = False
        getattr(params.xbar.device, part).enable = False
    found = crosssim.read(config)
    x, w = matrices()
    a, b = theirs(params, 152 * x, w), mine(found, 152 * x, w)
    step = step_of(found, w)
    conversions = 1.0 if name == "SONOS-TCAS" else 2 * (15 / 127 * (1 + 16)) * (7 / 31 * (1 + 8))
    assert np.abs(a - b).max() <= 1.01 * step * conversions
    assert np.abs(a - b).mean() > 0.05 * step, "the half step is there"


# --- errors of devices, statistically --------------------------------------------------------------------------------

ERRORS = {
    "NormalIndependentDevice": {"xbar__device__programming_error__magnitude": 0.05},
    "NormalProportionalDevice": {"xbar__device__programming_error__magnitude": 0.08},
    "PCMJoshi": {"xbar__device__Rmin": 4e4, "xbar__device__Rmax": 4e6},
    "RRAMMilo": {"xbar__device__Rmin": 1 / 225e-6, "xbar__device__Rmax": 1 / 50e-6},
    "RRAMWan": {"xbar__device__Rmin": 3e4, "xbar__device__Rmax": 3e6},
    "SONOS": {"xbar__device__Rmin": 3.5e4, "xbar__device__Rmax": 6e12, "xbar__device__Vread": 0.06},
}


@pytest.mark.parametrize("model", ERRORS)
@pytest.mark.parametrize("target", [0.1, 0.5, 1.0])
def test_programming_errors_are_theirs(model, target):
    """Pairs programmed to one weight, 20 000 each: means and variances, false alarms 1e-4; a spread 7 % off is seen."""
    params = configured(
        xbar__device__programming_error__model=model, xbar__device__programming_error__enable=True, **ERRORS[model]
    )
    found = crosssim.read(params)
    assert not found.lost
    n = 20_000
    w = np.full((n, 2), target)
    w[:, 1] = 0.0
    w[0, 0] = 1.0  # theirs is the scale of the largest
    np.random.seed(5)  # noqa: NPY002 - CrossSim draws from the global generator
    a = theirs(params, np.array([[1.0, 0.0]]), w).ravel()[1:]
    b = mine(found, np.array([[1.0, 0.0]]), w).ravel()[1:]
    assert min(agreement(a, b)) > 5e-5
    assert agreement(a, b.mean() + (b - b.mean()) * 1.07)[1] < 5e-5


@pytest.mark.parametrize("distribution", ["Independent", "Proportional"])
def test_uniform_errors_are_normal_ones_with_their_variance(distribution):
    params = configured(
        xbar__device__programming_error__model=f"Uniform{distribution}Device",
        xbar__device__programming_error__enable=True,
        xbar__device__programming_error__magnitude=0.2,
    )
    found = crosssim.read(params)
    assert [line for line in found.lost if "normal, with the same variance" in line]
    w = np.full((20_000, 2), 0.5)
    w[:, 1], w[0, 0] = 0.0, 1.0
    np.random.seed(5)  # noqa: NPY002
    a, b = (
        f(x, w).ravel()[1:]
        for f, x in (
            (lambda x, w: theirs(params, x, w), np.array([[1.0, 0.0]])),
            (lambda x, w: mine(found, x, w), np.array([[1.0, 0.0]])),
        )
    )
    assert min(agreement(a, b)) > 5e-5
    assert agreement(a, b.mean() + (b - b.mean()) * 1.07)[1] < 5e-5


SONOS = ERRORS["SONOS"] | {
    "xbar__device__drift_error__enable": True,
    "xbar__device__drift_error__model": "SONOS",
    "xbar__device__programming_error__enable": True,
    "xbar__device__programming_error__model": "SONOS",
}


@pytest.mark.parametrize("days", [1, 2.5, 5])
@pytest.mark.parametrize("target", [0.1, 0.5, 1.0])
def test_sonos_ages_as_theirs(target, days):
    """Pairs as above, so many days old; at 2.5 days the coefficients of σ are interpolated there, σ here: 1e-4 apart.

    20,000 pairs: means and variances, false alarms 1e-4; a spread 7 % off is seen, and so is a chip that is new.
    """
    params = configured(**SONOS, xbar__device__time=days)
    found = crosssim.read(params)
    assert len(found.lost) == 1
    assert f"at_time(model, {days * 86400:g})" in found.lost[0]
    n = 20_000
    w = np.full((n, 2), target)
    w[:, 1], w[0, 0] = 0.0, 1.0
    x = np.array([[1.0, 0.0]])
    np.random.seed(5)  # noqa: NPY002
    a = theirs(params, x, w).ravel()[1:]
    new, b = (mine(found, x, w, age=age).ravel()[1:] for age in (0.0, days * 86_400.0))
    assert min(agreement(a, b)) > 5e-5
    assert agreement(a, b.mean() + (b - b.mean()) * 1.07)[1] < 5e-5
    assert min(agreement(a, new)) < 5e-5


def test_models_of_drift_without_a_law_and_times_without_a_model_are_said():
    late = crosssim.read(configured(**SONOS | {"xbar__device__drift_error__model": "PCMJoshi"}, xbar__device__time=2))
    assert [line for line in late.lost if "drift_error.model = 'PCMJoshi'" in line]
    assert "drift" not in late.values
    off = crosssim.read(configured(**SONOS | {"xbar__device__drift_error__enable": False}, xbar__device__time=2))
    assert [line for line in off.lost if "xbar.device.time = 2: there cells have no errors" in line]
    wide = crosssim.read(configured(**SONOS | {"xbar__device__Vread": 0.07}, xbar__device__time=2))
    assert [line for line in wide.lost if "drift_error.model = 'SONOS': its fit ends" in line]


@pytest.mark.parametrize("style", ["BALANCED", "OFFSET"])
@pytest.mark.parametrize("model", ["NormalIndependentDevice", "NormalProportionalDevice", "SONOS"])
def test_read_noise_is_theirs(style, model):
    """800 reads of 40 outputs, 24 cells each: variances agree to 12 %, over 4 of the standard errors that the unit
    column has, whose noise all outputs share there.
    """
    params = configured(
        core__style=style,
        core__offset__style="UNIT_COLUMN_SUBTRACTION",
        xbar__device__read_noise__enable=True,
        xbar__device__read_noise__model=model,
        xbar__device__read_noise__magnitude=0.03,
        **(ERRORS["SONOS"] if model == "SONOS" else {}) | {"xbar__device__Rmax": 7e4 if model == "SONOS" else 2000.0},
    )
    found = crosssim.read(params)
    assert not found.lost
    x, w = matrices(m=1, k=24, n=40)
    np.random.seed(6)  # noqa: NPY002
    core = simulator().AnalogCore(w, params=params)
    a = np.array([core.matvec(x[0]) for _ in range(800)])
    b = mine(found, np.repeat(x, 800, axis=0), w)
    assert a.var(0).mean() == pytest.approx(b.var(0).mean(), rel=0.12)
    np.testing.assert_allclose(b.mean(0), (x @ w.T)[0], atol=5 * b.std() / 28)


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_wires_are_theirs(source, interleaved):
    """Solved exactly by both, to 1e-6 of the largest output."""
    settings = DACS["unsigned, 2 bits at once"] | {"xbar__dac__mvm__slice_size": 1, "xbar__dac__mvm__bits": 1}
    where = "xbar__array__parasitics__"
    settings |= {f"{where}enable": True, f"{where}Rp_row": 1.0, f"{where}Rp_col": 0.5, f"{where}Rp_col_terminal": 2.0}
    if source:
        settings |= {f"{where}current_from_input": False, f"{where}Rp_row_terminal": 3.0}
    params = configured(**settings, core__balanced__interleaved_posneg=interleaved)
    params.simulation.Verr_th_mvm, params.simulation.Niters_max_parasitics = 1e-9, 1000
    found = crosssim.read(params)
    assert not found.lost
    x, w = matrices(m=4, k=24)
    x = (x > 0).astype(float)
    core = simulator().AnalogCore(w, params=params)
    a, b = np.array([core.matvec(one) for one in x]), mine(found, x, w)
    np.testing.assert_allclose(a, b, atol=2e-6 * np.abs(a).max())
    assert np.abs(a - x @ w.T).max() > 0.1


@pytest.mark.parametrize(("model", "volts"), [("RRAMMilo", 0.5), ("RRAMMilo", 0.2), ("CubicDevice", 0.8)])
def test_curves_of_cells_are_theirs(model, volts):
    params = configured(
        xbar__device__nonlinear_IV__model=model,
        xbar__device__nonlinear_IV__enable=True,
        xbar__device__Vread=volts,
        xbar__device__Rmin=1 / 225e-6,
        xbar__device__Rmax=1 / 50e-6,
    )
    found = crosssim.read(params)
    assert not found.lost
    x, w = matrices()
    a, b = theirs(params, x, w), mine(found, x, w)
    np.testing.assert_allclose(a, b, atol=2e-5)
    assert np.abs(a - x @ w.T).max() > 0.01


@pytest.mark.parametrize("dac", ["no DAC", "bit by bit"])
@pytest.mark.parametrize(
    "cells", ["pairs", "pairs of 4-bit cells", "digital", "one column", "arrays", "offset", "slices"]
)
def test_integrators_cut_off_the_same_currents(cells, dac):
    """Of each column, slice and step of inputs, of which some carry more than 1.5."""
    settings = {
        "arrays": {"core__rows_max": 16, "core__mapping__weights__row_partition_strategy": 1},
        "one column": {"core__balanced__interleaved_posneg": True},
        "offset": {"core__style": "OFFSET", "core__offset__style": "UNIT_COLUMN_SUBTRACTION"},
        "slices": {
            "core__style": "BITSLICED",
            "core__weight_bits": 9,
            "core__bit_sliced__num_slices": 2,
            "xbar__device__cell_bits": 4,
        },
        "pairs of 4-bit cells": PAIRS["4-bit cells, on/off 4"],
    }.get(cells, PAIRS.get(cells, {}))
    limit = 1.5
    free = configured(**settings, **DACS[dac], xbar__adc__mvm__adc_per_ibit=True)
    params = configured(**settings, **DACS[dac], xbar__adc__mvm__adc_per_ibit=True, xbar__array__Icol_max=limit)
    found = crosssim.read(params)
    assert found.values["tile"]["current_limit"] == limit
    assert found.lost == crosssim.read(free).lost
    x, w = matrices()
    agree(found, params, x, w)
    assert np.abs(theirs(params, x, w) - theirs(free, x, w)).max() > 0.2


# --- what is said ----------------------------------------------------------------------------------------------------


def test_what_has_no_counterpart_is_listed_and_what_is_at_its_default_is_not():
    config = {
        "core": {"rows_max": 128, "complex_matrix": True, "balanced": {"style": 2}},
        "xbar": {
            "adc": {"mvm": {"model": "SarADC", "bits": 8, "stochastic_rounding": True, "calibrated_range": [-1, 1]}},
            "device": {"clip_conductance": True, "nonlinear_IV": {"enable": True, "model": "Mine"}},
        },
        "simulation": {"useGPU": True},
    }
    found = crosssim.read(config)
    for name in ("complex_matrix", "balanced.style", "stochastic_rounding", "clip_cond", "nonlinear_IV"):
        assert sum(name in line for line in found.lost) == 1, name
    assert not any("GPU" in line or "gain_db" in line for line in found.lost)
    assert "core.rows_max = 128 -> tile.rows = 128" in found.carried
    with pytest.warns(TranslationWarning, match=r"complex_matrix = True: no counterpart"):
        profile = HardwareProfile.from_crosssim(config)
    assert profile.tile.rows == 128


@pytest.mark.parametrize("name", sorted(set(crosssim.DEFAULTS) - {"core.weight_bits"}))
def test_no_setting_is_dropped_in_silence(name):
    """Whichever setting is changed is carried over, listed, or without an effect where another is off."""
    other = {bool: lambda v: not v, int: lambda v: v + 3, float: lambda v: v + 0.25, str: lambda v: v + "X"}
    value = crosssim.DEFAULTS[name]
    changed = other.get(type(value), lambda v: 0.9)(value)
    plain = crosssim.read(flat_to_nested({}))
    try:
        found = crosssim.read(flat_to_nested({name: changed}))
    except ProfileError:
        return  # no such choice
    off = name.endswith(("_match", "output_dtype")) or name.rpartition(".")[0].endswith(
        ("mvm", "parasitics", "read_noise", "programming_error", "drift_error", "nonlinear_IV", "offset", "bit_sliced")
    )
    unused = (
        name in ("xbar.device.Vread", "core.balanced.interleaved_posneg")
        or name.startswith("core.mapping.weights.")
        or "strategy" in name
    )
    assert found.lost != plain.lost or found.values != plain.values or off or unused, name


def flat_to_nested(values):
    nested = {}
    for name, value in values.items():
        at = nested
        *parts, last = name.split(".")
        for part in parts:
            at = at.setdefault(part, {})
        at[last] = value
    assert flat(nested) == values
    return nested


@pytest.mark.parametrize("config", [3, {"tile": {}}, "nosuch.json", {"core": {"style": "SQUARE"}}])
def test_what_is_no_configuration_is_refused(config):
    with pytest.raises(ProfileError):
        HardwareProfile.from_crosssim(config)


def test_a_file_of_anything_else_is_refused_and_never_run(tmp_path):
    path = tmp_path / "config.json"
    for text in (b"\x80\x04\x95", b"[1]", b"{"):
        path.write_bytes(text)
        with pytest.raises(ProfileError, match="no JSON file of CrossSim"):
            HardwareProfile.from_crosssim(path)


def test_nothing_is_warned_of_where_all_is_carried_over():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert HardwareProfile.from_crosssim({}).weight.w_max == "tensor"


# --- and back --------------------------------------------------------------------------------------------------------

BASE = {"weight": {"w_max": 1.0, "bits": 7}, "dac": {"bits": 6, "input_range": 1.0}}
LARGEST = 0.06 / 35e3 * 1e9  # nA
EXPORTED = {
    "pair": {"cells": {"mapping": "differential", "g_min": 0.1}, "adc": {"bits": 8, "full_scale": 5.03}},
    "digital": {
        "cells": {"mapping": "differential", "g_min": 0.25, "subtraction": "digital"},
        "adc": {"bits": 8, "full_scale": 5.03},
    },
    "slices and steps": {
        "cells": {"mapping": "differential", "bits": 2},
        "adc": {"bits": 8, "full_scale": 7.013},
        "dac": {"bits": 6, "input_range": 1.0, "step_bits": 1},
    },
    "unsigned": {
        "cells": {"mapping": "differential"},
        "dac": {"bits": 5, "input_range": 1.0, "signed": False},
        "weight": {"w_max": "tensor"},
        "tile": {"rows": 16, "cols": 10},
    },
    "offset slices": {"cells": {"mapping": "offset", "bits": 4, "g_min": 0.01}, "weight": {"w_max": 1.0, "bits": 8}},
    "noisy": {
        "programming": {"sigma": [0.0, 0.02]},
        "cells": {"mapping": "differential", "g_min": 0.5, "g_max": 50.0, "read_noise": 0.03},
    },
    "asymmetric": {
        "cells": {"mapping": "differential", "g_min": 0.1},
        "dac": {"bits": 5, "symmetric": False, "input_range": list(Range(-0.4, 1.0).aligned(5))},
        "adc": {"bits": 6, "symmetric": False, "full_scale": list(Range(-3.0, 6.5).aligned(6))},
    },
    "several devices": {
        "programming": {"sigma": [0.0, 0.02 * math.sqrt(3)]},
        "cells": {"mapping": "differential", "g_min": 0.5, "g_max": 50.0, "devices": 3},
    },
    "sonos": {
        "cells": {"mapping": "differential", "g_max": 1e6 / 35e3, "read_noise": saturating(SONOS_NOISE, LARGEST)},
        "programming": {"sigma": saturating(SONOS_SIGMA[0], LARGEST)},
        "drift": {"moments": moments(LARGEST)},
    },
    "joshi": {
        "cells": {"mapping": "differential", "g_max": 25.0, "g_min": 0.01},
        "programming": {"sigma": polynomial(POLYNOMIALS["PCMJoshi"], 25.0)},
    },
    "curved": {"cells": {"mapping": "differential", "g_max": 225.0, "g_min": 0.25}, "iv": milo(225.0, 0.4)},
    "cubic": {
        "cells": {"mapping": "differential", "g_max": 50.0, "g_min": 0.25},
        "dac": {"bits": 5, "symmetric": False, "input_range": list(Range(-0.4, 1.0).aligned(5))},
        "iv": cubic(50.0, 0.6),
    },
    "limited": {
        "cells": {"mapping": "differential", "g_min": 0.1},
        "tile": {"rows": 16, "cols": 10, "current_limit": 1.5},
        "dac": {"bits": 5, "symmetric": False, "input_range": list(Range(-0.4, 1.0).aligned(5))},
    },
    "limited pairs": {
        "cells": {"mapping": "differential", "g_min": 0.1},
        "tile": {"current_limit": 1.5},
        "wires": {"interleaved": True},
    },
    "wires": {
        "cells": {"mapping": "differential", "g_min": 0.1},
        "wires": {"row": 1e-3, "column": 2e-3, "column_terminal": 1e-3, "solution": "exact", "interleaved": True},
    },
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_profile_comes_back_as_it_went(name):
    profile = HardwareProfile(**BASE | EXPORTED[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error", TranslationWarning)
        config = profile.to_crosssim()
        back = HardwareProfile.from_crosssim(json.loads(json.dumps(config)))
    assert back.cells.g_max == pytest.approx(profile.cells.g_max or 100.0)
    if profile.cells.devices > 1:  # one there, with the spread of their mean
        profile = profile.varied(cells={"devices": 1}, programming={"sigma": [0.0, 0.02]})
    want, got = (one.varied(cells={"g_max": None}).model_dump(mode="json") for one in (profile, back))
    assert not {part: (value, got[part]) for part, value in want.items() if not same(value, got[part], 1e-6)}


RANDOM = "noisy", "wires", "several devices", "sonos", "joshi"


@pytest.mark.parametrize("name", [name for name in EXPORTED if name not in RANDOM])
def test_an_exported_profile_computes_the_same_there(name):
    profile = HardwareProfile(**BASE | EXPORTED[name])
    params = simulator().CrossSimParameters(**profile.to_crosssim())
    x, w = matrices()
    x = x if profile.dac.signed else np.abs(x)
    found = SimpleNamespace(values=profile.model_dump())
    agree(found, params, x, w, tolerance=2e-4 if name == "offset slices" else 2e-5)


@pytest.mark.parametrize("kind", ["sar", "split-sar", "ramp", "pipeline", "cyclic"])
def test_kinds_of_adcs_go_there_and_back(kind):
    """Of what one mismatch and one offset say; levels stand half a step beside each other, which is said."""
    staged = kind in ("pipeline", "cyclic")
    adc = {"kind": kind, "bits": 7, "full_scale": 5.03, "capacitor_mismatch": 0.02, "gain_db": 60.0}
    profile = HardwareProfile(
        **BASE,
        cells={"mapping": "differential", "g_min": 0.1},
        adc=adc | ({"comparator_offset": 0.03} if staged else {"offset_error": 0.01}),
    )
    with pytest.warns(TranslationWarning, match="half a step beside ours there"):
        config = profile.to_crosssim()
    back = HardwareProfile(**crosssim.read(config).values)
    assert same(profile.adc.model_dump(mode="json"), back.adc.model_dump(mode="json"))


@pytest.mark.parametrize("name", ["sonos", "reram-crosssim"])
def test_presets_of_crosssims_devices_are_those_devices_there(name):
    profile = HardwareProfile.load(name)
    with pytest.warns(TranslationWarning):
        config = profile.to_crosssim()
    device = config["xbar"]["device"]
    assert device["programming_error"]["model"] == {"sonos": "SONOS", "reram-crosssim": "RRAMWan"}[name]
    assert device.get("drift_error", {}).get("model") == ("SONOS" if name == "sonos" else None)
    back = HardwareProfile(**crosssim.read(config).values)
    assert same(profile.drift.model_dump(mode="json"), back.drift.model_dump(mode="json"), 1e-4)
    assert same(profile.programming.model_dump(mode="json"), back.programming.model_dump(mode="json"), 1e-4)


@pytest.mark.parametrize("name", presets())
def test_of_every_preset_it_is_said_what_crosssim_does_not_have(name):
    """Each field that differs from its default is carried over or listed, by its name."""
    from analogsim.profile.peers import to_crosssim

    profile, plain = HardwareProfile.load(name), HardwareProfile()
    found = to_crosssim.write(profile.model_dump(mode="json"), plain.model_dump(mode="json"))
    said = "\n".join([*found.carried, *found.lost])
    for section, values in profile.model_dump().items():
        for field, value in (values if isinstance(values, dict) else {}).items():
            differs = value != getattr(getattr(plain, section), field)
            if differs and section != "cost" and field not in ("mapping", "t0", "exponent", "maximum", "read_time"):
                assert f"{section}.{field}" in said, f"{section}.{field}"
    json.dumps(found.values)


def test_the_parameters_of_every_preset_are_crosssims():
    for name in presets():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TranslationWarning)
            simulator().CrossSimParameters(**HardwareProfile.load(name).to_crosssim())
