"""A programmed matrix: what its fields are of each other, and its parts."""

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim import AnalogConv2d, AnalogLinear, HardwareProfile
from analogsim.ranges.observer import Observer

EIGHT_BITS = HardwareProfile(weight={"bits": 8})
CHIP = EIGHT_BITS.varied(
    cells={"mapping": "differential"},
    programming={"sigma": 0.02},
    drift={"nu": 0.05, "compensation": "global"},
)


def written(profile, kind=AnalogLinear):
    torch.manual_seed(0)
    layer = kind(6, 4, 3, profile=profile) if kind is AnalogConv2d else kind(6, 4, profile=profile)
    with torch.no_grad():
        layer.weight[1] = 0.0
    if profile is CHIP:
        an.program(layer.eval(), 1)
        an.at_time(layer, 1000.0)
    return layer, layer.write(layer.weight)


@pytest.mark.parametrize("kind", [AnalogLinear, AnalogConv2d])
@pytest.mark.parametrize("profile", [EIGHT_BITS, CHIP], ids=["levels", "chip"])
def test_the_effective_matrix_is_the_programmed_one_in_weight_units(profile, kind):
    layer, matrix = written(profile, kind)
    largest = layer.weight.detach().flatten(1).abs().amax(1)
    gain = matrix.chip.gain if matrix.chip else 1.0
    assert (gain > 1) == (profile is CHIP)
    torch.testing.assert_close(matrix.w_max, largest * gain)
    assert matrix.w_max[1] == 0
    column = matrix.w_max.view(-1, *[1] * (matrix.weight.ndim - 1))
    torch.testing.assert_close(matrix.effective, matrix.programmed * column)
    error = (matrix.effective - layer.weight.detach()).abs().max() / layer.weight.detach().abs().max()
    assert 1e-4 < error < (0.2 if profile is CHIP else 0.5 / 127 * 1.01)


def test_what_is_programmed_exactly_is_the_digital_matrix():
    layer, matrix = written(HardwareProfile(noise={"output": 0.1}))
    assert matrix.weight is layer.weight
    assert matrix.effective is layer.weight
    assert matrix.chip is None


@pytest.mark.parametrize("profile", [HardwareProfile(), EIGHT_BITS, CHIP], ids=["exact", "levels", "chip"])
def test_a_part_has_the_fields_of_its_outputs(profile):
    _, matrix = written(profile)
    part = matrix.part(slice(2, 4))
    for name in ("weight", "programmed", "w_max", "effective"):
        assert torch.equal(getattr(part, name), getattr(matrix, name)[2:4])
    assert (part.chip is None) == (matrix.chip is None)
    if part.chip is not None:
        assert torch.equal(part.chip.weight, part.programmed)


def test_observers_are_told_of_the_matrix():
    """`calibrate` sees a layer whose weights are half as large through the same fields."""
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    layer = an.convert(nn.Linear(6, 4), HardwareProfile(adc={"bits": 6}, dac={"bits": 6}))
    observer = Observer(layer.profile)
    observer.written(layer.eval().write(layer.weight))
    assert observer.row_power == pytest.approx(float(layer.weight.detach().square().sum(1).mean()))
    assert observer.gain_power == pytest.approx(float(layer.weight.detach().abs().amax(1).square().mean()))
    first = an.calibrate(layer, x, progress=False)
    with torch.no_grad():
        layer.weight.mul_(0.5)
    assert an.calibrate(layer, x, progress=False) == first  # in normalised units nothing is other
