"""Cells of several devices, and 1/f noise that is the same in all reads of an age."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import analogsim as an
from analogsim.profile import HardwareProfile
from analogsim.seeds import Key, Stream, derive
from tests.support import oracle
from tests.support.chips import IDEAL, LAWS, POLYNOMIAL, drawn, effective, linear

FLICKER = {"amplitude": 0.0088, "exponent": 0.65, "maximum": 0.2, "read_time": 250e-9}
PAIR = {"mapping": "differential"}


def seeds(count, chip=3):
    own = derive(chip, Key.CHIP, 0)
    return [derive(own, Key.DEVICE, device) if device else own for device in range(count)]


def device(targets, seed, array, seconds=0.0, frozen=False, stuck=(0.0, 0.0)):
    """One device of every cell, cell by cell."""
    shape = targets.shape
    n_program, n_drift = (drawn(shape, seed, what, array) for what in (Stream.PROGRAMMING, Stream.DRIFT))
    u = stats.norm.cdf(drawn(shape, seed, Stream.STUCK, array))
    age = int(np.float64(seconds).view(np.uint64))
    slow = drawn(shape, derive(seed, Key.AGE, age), Stream.FLICKER, array)
    out = np.zeros(shape)
    for place in np.ndindex(shape):
        written, now = (
            oracle.cell(
                float(targets[place]),
                polynomial=POLYNOMIAL,
                n_program=n_program[place],
                nu=oracle.log_law(*LAWS["nu"].values()),
                nu_sigma=oracle.log_law(*LAWS["nu_sigma"].values()),
                n_drift=n_drift[place],
                t0=20.0,
                seconds=age,
                g_min=0.0,
                stuck_off=0.0,
                stuck_on=0.0,
                u=0.5,
                negative=False,
            )
            for age in (0.0, seconds)
        )
        if frozen:
            sigma = oracle.flicker(now, written, **FLICKER, time=20.0 + seconds)
            now = max(0.0, now + sigma * slow[place])
        if u[place] < stuck[0]:
            now = 0.0
        elif u[place] >= 1 - stuck[1]:
            now = 1.0
        out[place] = now
    return out


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_weight_is_the_mean_of_its_devices_each_with_its_own_fate(count, frozen):
    profile = IDEAL.varied(
        cells=PAIR | {"devices": count},
        programming={"sigma": POLYNOMIAL},
        drift=LAWS,
        faults={"stuck_off": 0.1, "stuck_on": 0.05},
    )
    profile = profile.varied(flicker=FLICKER | {"frozen": True}) if frozen else profile
    layer = linear(profile)
    an.program(layer, 3)
    an.at_time(layer, 86400.0)
    w = layer.weight.detach().numpy()
    want = np.zeros_like(w)
    for seed in seeds(count):
        for array, sign in enumerate((1, -1)):
            target = np.maximum(sign * w, 0)
            want += sign * device(target, seed, array, 86400.0, frozen, (0.1, 0.05)) / count
    np.testing.assert_allclose(effective(layer), want, rtol=1e-9, atol=1e-12)


def test_one_device_is_what_a_cell_was():
    profile = IDEAL.varied(cells=PAIR, programming={"sigma": 0.05}, drift=LAWS)
    layers = [linear(profile), linear(profile.varied(cells={"devices": 1}))]
    for layer in layers:
        an.program(layer, 3)
        an.at_time(layer, 1e5)
    np.testing.assert_array_equal(*map(effective, layers))


@pytest.mark.parametrize("count", [2, 4])
def test_the_variance_of_errors_and_of_reads_falls_with_the_number(count):
    """60 × 200 cells: the ratio of two variances scatters by √(4/12000) = 1.8 %; 6 % is a false alarm in 1 of 1,000."""
    found = []
    for devices in (1, count):
        cells = {"mapping": "signed", "devices": devices}
        layer = linear(IDEAL.varied(cells=cells, programming={"sigma": 0.05}), 60, 200)
        an.program(layer, 1)
        found.append((effective(layer) - layer.weight.detach().numpy()).var())
    assert found[0] / found[1] == pytest.approx(count, rel=0.06)
    flicker = linear(IDEAL.varied(cells=PAIR | {"devices": count}, flicker=FLICKER))
    single = linear(IDEAL.varied(cells=PAIR, flicker=FLICKER))
    for layer in (flicker, single):
        an.program(layer, 1)
    variances = [layer.write(layer.weight).chip.planes[0].variance for layer in (flicker, single)]
    torch.testing.assert_close(variances[0] * count, variances[1])


def test_stuck_devices_leave_the_others_to_work():
    layer = linear(IDEAL.varied(cells=PAIR | {"devices": 2}, faults={"stuck_off": 0.5}), 40, 60)
    an.program(layer, 1)
    ratio = effective(layer) / np.where(layer.weight == 0, 1, layer.weight.detach().numpy())
    values, counts = np.unique(np.round(ratio[np.abs(layer.weight.detach().numpy()) > 0], 9), return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / counts.sum(), [0.25, 0.5, 0.25], atol=0.05)


def test_two_devices_of_hermes_are_what_its_fit_says_of_their_drift():
    """aihwkit's fits to the chip with one device a cell and with two, drawn as if both held the same conductance.

    The exponents of two spread by 4 to 23 % more than those of one by √2, and their programming errors are smaller than
    those by √2, since the chip's two devices are programmed one to make up for the other.
    """
    preset = HardwareProfile.load("hermes")
    for g in np.linspace(0.35, 1, 14):
        one = -0.0165 * g**2 + 0.0116 * g + 0.0104  # aihwkit: HermesNoiseModel, num_devices 1
        two = sum(c * g**i for i, c in enumerate(preset.drift.nu_sigma.above))
        assert 1.03 < two / (one / math.sqrt(2)) < 1.24
        error = sum(c * g**i for i, c in enumerate((0.15781817, 2.32443916, -2.16310839, 0.68841818))) / 10.35
        fitted = sum(c * g**i for i, c in enumerate(preset.programming.sigma))
        assert 0.65 < fitted / (error / math.sqrt(2)) < 0.95


def test_frozen_noise_is_one_draw_for_an_age_of_a_chip():
    profile = IDEAL.varied(cells=PAIR, flicker=FLICKER | {"frozen": True}, drift={"nu": 0.05})
    layer = linear(profile)
    an.program(layer, 1)
    an.at_time(layer, 3600.0)
    first = effective(layer)
    np.testing.assert_array_equal(effective(layer), first)  # not anew at a read
    an.at_time(layer, 7200.0)
    later = effective(layer)
    an.at_time(layer, 3600.0)
    np.testing.assert_array_equal(effective(layer), first)
    an.program(layer, 2)
    an.at_time(layer, 3600.0)
    assert not np.array_equal(effective(layer), first)
    quiet = linear(profile.varied(flicker={"amplitude": 0.0}))
    an.program(quiet, 1)
    an.at_time(quiet, 3600.0)
    errors = first - effective(quiet)
    an.at_time(quiet, 7200.0)
    others = later - effective(quiet)
    live = np.abs(errors) > 0
    assert live.sum() > 60
    # 80 pairs: |r| < 4.5/√80 has a false-alarm rate of 7e-6.
    assert abs(np.corrcoef(errors[live], others[live])[0, 1]) < 4.5 / math.sqrt(live.sum())
    assert profile.is_drawn
    assert not profile.cells_are_noisy
    assert layer.write(layer.weight).chip.planes[0].variance is None


def test_chips_differ_by_it_as_the_law_says():
    """One matrix on 300 chips after a day, by aihwkit's equations in numpy: spreads of 84 weights by their variances.

    The sum of squared, standardised errors is χ²; outside [0.0001, 0.9999] is refused, as is a σ 5 % off.
    """
    w = linear(IDEAL).weight.detach().numpy()
    profile = IDEAL.varied(cells=PAIR, flicker=FLICKER | {"frozen": True})
    layer, seconds, chips = linear(profile), 86400.0, 300
    draws = []
    for chip in range(chips):
        an.program(layer, chip)
        an.at_time(layer, seconds)
        draws.append(effective(layer))
    g = np.abs(w)
    q = np.minimum(0.0088 / np.maximum(g**0.65, 1e-3), 0.2)
    sigma = g * q * np.sqrt(np.log((seconds + 20.0 + 250e-9) / (2 * 250e-9)))
    live = g > 0.05  # below, noise is cut off at a conductance of 0
    z = ((np.stack(draws) - w)[:, live] / sigma[live]) ** 2
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], z.size)
    assert low < z.sum() < high
    for wrong in (1.05, 0.95):
        assert not low < z.sum() * wrong**2 < high


def test_frozen_noise_is_in_the_budget_as_an_error_of_weights():
    torch.manual_seed(0)
    digital, x = torch.nn.Linear(30, 10), torch.randn(200, 30)
    profile = HardwareProfile(dac={"bits": 8}, cells=PAIR, flicker=FLICKER | {"frozen": True})
    analog = an.convert(digital, profile).eval()
    an.calibrate(analog, x, progress=False)
    an.program(analog, 1)
    an.at_time(analog, 86400.0)
    (layer,) = an.noise_budget(analog, x, repeats=2, progress=False).layers
    assert layer.stages["noise_read"] == 0
    assert layer.stages["weight"] > 10 * layer.stages["dac_rounding"] > 0
    assert layer.total == pytest.approx(layer.measured, rel=1e-3)


def test_curved_cells_are_single_devices():
    with pytest.raises(an.AnalogSimError, match="that of one device; leave out iv or cells.devices"):
        HardwareProfile(cells=PAIR | {"devices": 2}, iv={"second": 0.1})


def test_cost_counts_devices():
    one, two = (
        an.cost(torch.nn.Linear(8, 4), HardwareProfile(cells=PAIR | {"devices": count}), (8,)).layers[0].macs
        for count in (1, 2)
    )
    assert (one, two) == (64, 128)
