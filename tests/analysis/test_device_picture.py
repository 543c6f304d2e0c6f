"""The picture of a profile's cells and converters: its lines are what the profile says, in its units."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from analogsim.analysis.device_picture import draw_device
from analogsim.profile import HardwareProfile, presets

INL = [0.1, -0.2, 0.3, 0, 0.2, -0.1, 0.05]
CHIP = HardwareProfile(
    name="$x$",
    cells={
        "mapping": "differential",
        "g_max": 25.0,
        "g_min": 0.2,
        "read_noise": {"g_uS": [5, 25], "read_noise_uS": [0.1, 0.3]},
    },
    programming={"sigma": {"g_uS": [5, 10, 25], "sigma_uS": [0.5, 0.9, 1.2]}, "mean": [-0.02, 0.01]},
    drift={"table": {"g0": [0.2, 1], "seconds": [20, 1e3, 1e6], "g": [[0.2, 0.19, 0.1], [1, 0.9, 0.6]]}},
    adc={"kind": "measured", "bits": 3, "full_scale": 1.0, "transfer": {"inl": [INL, [-one for one in INL]]}},
    dac={"bits": 3, "input_range": 1.0, "inl": [[-0.3, 0.1, 0.2, 0, -0.4, 0.3, 0.6], [0.3, 0, 0, 0, 0.1, 0, 0]]},
)


def drawn(profile):
    """Return the axes by their titles."""
    figure = Figure(layout="constrained")
    draw_device(profile, figure)
    return {ax.get_title(): ax for ax in figure.axes}


def lines(ax):
    """Return the lines and rows of dots: those with as many points as were given."""
    return [line.get_xydata() for line in ax.lines]


def test_what_was_read_is_drawn_in_its_units():
    panels = drawn(CHIP)
    assert list(panels) == [
        "programming error",
        "drift",
        "read noise of a cell",
        "ADC: measured, 3 bits",
        "ADC: where codes begin",
        "DAC",
    ]
    sigma, dots, mean, *_ = lines(panels["programming error"])
    np.testing.assert_allclose(dots, [[5, 0.5], [10, 0.9], [25, 1.2]])
    np.testing.assert_allclose(sigma[:, 1], np.interp(sigma[:, 0], [5, 10, 25], [0.5, 0.9, 1.2]))
    np.testing.assert_allclose(mean[:, 1], -0.5 + 0.01 * mean[:, 0])
    assert panels["programming error"].get_xlabel() == "conductance g (µS)"
    low, high, *points = lines(panels["drift"])
    np.testing.assert_allclose(points[1], [[20, 25], [1e3, 22.5], [1e6, 15]])
    logs = np.log([20, 1e3, 1e6])
    np.testing.assert_allclose(high[:, 1], np.interp(np.log(high[:, 0]), logs, [25, 22.5, 15]), rtol=1e-9)
    np.testing.assert_allclose(low[:, 1], np.interp(np.log(low[:, 0]), logs, [5, 4.75, 2.5]), rtol=1e-9)
    noise, *_ = lines(panels["read noise of a cell"])
    np.testing.assert_allclose(noise[:, 1], 0.1 + 0.2 * (noise[:, 0] - 5) / 20)
    one, other, _ = lines(panels["ADC: where codes begin"])
    np.testing.assert_allclose(one, np.stack([np.arange(-3, 4), INL], 1), atol=1e-12)
    np.testing.assert_allclose(other[:, 1], -one[:, 1], atol=1e-12)
    assert [text.get_text() for text in panels["DAC"].get_legend().get_texts()] == ["row 0", "row 1"]
    for curve, inl in zip(lines(panels["DAC"])[:-1], CHIP.dac.inl.inl, strict=True):
        np.testing.assert_allclose(curve, np.stack([np.arange(-3, 4), inl], 1), atol=1e-12)


def test_moments_are_drawn_with_their_spread():
    """Halfway to the first age the mean has moved by half, and σ is halfway between that of programming and its own."""
    moments = {"seconds": [100, 1e4], "mean": [[-0.02], [-0.02, -0.1]], "sigma": [[0.03], [0.05]]}
    cells = {"mapping": "differential", "g_max": 25.0}
    panels = drawn(HardwareProfile(cells=cells, programming={"sigma": 0.01}, drift={"moments": moments}))
    assert list(panels) == ["programming error", "drift (± σ)"]
    ax = panels["drift (± σ)"]
    for g, line, band in zip(np.linspace(0, 1, 5), lines(ax), ax.collections):
        times, middle = line.T
        mean = np.interp(times, [0, 100, 1e4], [g, g - 0.02, g - 0.02 - 0.1 * g])
        np.testing.assert_allclose(middle, 25 * mean, rtol=1e-9, atol=1e-12)
        (path,) = band.get_paths()
        top = {x: path.vertices[path.vertices[:, 0] == x, 1].max() for x in times}
        sigma = np.interp(times, [0, 100, 1e4], [0.01, 0.03, 0.05])
        np.testing.assert_allclose([top[x] for x in times], 25 * (mean + sigma), rtol=1e-9)


def test_a_transfer_curve_steps_where_codes_begin():
    sums, codes = lines(drawn(CHIP)["ADC: measured, 3 bits"])[0].T
    for code, inl in zip(range(-2, 4), INL[1:]):
        begins = sums[codes >= code - 1e-9][0]
        assert begins == pytest.approx((code - 0.5 + inl) / 3, abs=1e-3)
    assert (codes.min(), codes.max()) == (-3, 3)


@pytest.mark.parametrize("kind", ["sar", "ramp", "split-sar", "pipeline", "cyclic"])
def test_converters_whose_codes_begin_where_they_should_have_no_panel_of_errors(kind):
    adc = {"kind": kind, "bits": 8, "full_scale": 1.0}
    assert list(drawn(HardwareProfile(adc=adc))) == [f"ADC: {kind}, 8 bits"]
    assert "ADC: where codes begin" in drawn(HardwareProfile(adc=adc | {"offset_error": 1e-6}))


def test_gains_and_offsets_shift_where_codes_begin():
    """Of an ideal ADC (s·gain + offset ≥ (k - 1/2)·step): a line through the offset with the slope of the gain."""
    adc = {"bits": 6, "full_scale": 1.0, "gain_error": 0.1, "offset_error": 0.05}
    panels = drawn(HardwareProfile(adc=adc))
    four = lines(panels["ADC: where codes begin"])[:-1]
    assert len(four) == 4
    for one, staircase in zip(four, lines(panels["ADC: ideal, 6 bits"])):
        for code, late in one[20:40]:  # where the staircase is seen to step
            begins = staircase[staircase[:, 1] >= code - 1e-9][0, 0]
            assert begins == pytest.approx((code - 0.5 + late) / 31, abs=1e-3)
    for one in four:
        slope, offset = np.polyfit(one[:, 0] - 0.5, one[:, 1], 1)
        np.testing.assert_allclose(one[:, 1], slope * (one[:, 0] - 0.5) + offset, atol=1e-9)
        assert slope
        assert offset
    assert len({float(one[0, 1]) for one in four}) == 4


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_drawn(name):
    profile = HardwareProfile.load(name)
    panels = drawn(profile)
    assert ("programming error" in panels) == profile.programming.draws
    assert ("drift (± σ)" in panels) == profile.drift.is_on
    assert any(title.startswith("ADC") for title in panels) == (profile.adc.bits is not None)
    for ax in panels.values():
        for xy in lines(ax):
            assert np.isfinite(xy).all()


def test_currents_are_drawn_where_they_are_not_linear():
    profile = HardwareProfile(cells={"mapping": "differential", "g_max": 10.0}, iv={"second": 0.1, "third": 0.2})
    *_, bent, straight = lines(drawn(profile)["current of a cell (grey: linear)"])
    x = straight[:, 0]
    np.testing.assert_allclose(straight[:, 1], 10 * x)
    np.testing.assert_allclose(bent[:, 1], 10 * (x + 0.1 * x**2 + 0.2 * x**3), atol=1e-12)


def test_the_power_law_is_drawn_with_its_spread():
    profile = HardwareProfile(drift={"nu": 0.05, "nu_sigma": 0.01, "t0": 10.0})
    panels = drawn(profile)
    *_, last = lines(panels["drift (± σ)"])
    np.testing.assert_allclose(last[:, 1], (last[:, 0] / 10) ** -0.05, rtol=1e-9)
    band = panels["drift (± σ)"].collections[-1].get_paths()[0].vertices
    year = band[np.isclose(band[:, 0], band[:, 0].max()), 1]
    np.testing.assert_allclose(
        [year.min(), year.max()], [(band[:, 0].max() / 10) ** -nu for nu in (0.06, 0.04)], rtol=1e-6
    )
    assert "drift exponent (± σ)" in panels


def test_what_integrators_take_of_a_columns_current_is_drawn():
    profile = HardwareProfile(cells={"mapping": "differential", "g_max": 10.0}, tile={"current_limit": 4.0})
    taken, whole = lines(drawn(profile)["current of a column (grey: all of it)"])
    np.testing.assert_allclose(whole[:, 1], whole[:, 0])
    assert (whole[0, 0], whole[-1, 0]) == (-80, 80)
    np.testing.assert_allclose(taken, np.stack([whole[:, 0], whole[:, 0].clip(-40, 40)], 1))
