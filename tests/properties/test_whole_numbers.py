"""Whole numbers come as Python's, NumPy's or a tensor's, and mean the same; truth values are none."""

import numpy as np
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import AnalogSimError, ProgrammingError
from analogsim.value import whole

NOISY = an.HardwareProfile(
    dac={"bits": 6, "input_range": 3.0}, noise={"output": 0.1}, programming={"sigma": 0.05}, cells={"mapping": "offset"}
)
KINDS = {
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "array": lambda n: np.array(n),
    "tensor": torch.tensor,
}
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def chip(number):
    model = an.convert(network(), NOISY)
    assert an.program(model, number) == 3
    an.set_seed(model, 1)
    return model(X).tolist()


def seeded(number):
    model = an.convert(network(), NOISY)
    an.program(model, 1)
    an.set_seed(model, number)
    return model(X).tolist()


def assigned(number):
    model = an.convert(network(), NOISY)
    an.program(model, 1)
    for _, layer in an.analog_layers(model):
        layer.seed = number
    return model(X).tolist()


def abstract(number):
    place = 3 if isinstance(number, np.ndarray | torch.Tensor) and number.dtype != torch.bool else number  # no keys
    model = an.inject_noise(network(), an.NoiseSpec(sigma=0.1, seed=number, layers={place: 0.7}))
    an.set_noise(model, layers={place: 0.5})
    return model(X).tolist()


def sweep(number):
    curve = an.noise_sweep(network(), (X, Y), [0.5, 1.0], repeats=number, seed=number, progress=False)
    return curve.accuracies.tolist(), curve.about["seed"]


def budget(number):
    model = an.convert(network(), NOISY)
    an.program(model, 1)
    return an.noise_budget(model, X, repeats=number, seed=number, progress=False).output_error


def counted(number):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    return an.cost(model, NOISY, (number,)).total.macs


def profile(number):
    return an.HardwareProfile(tile={"rows": number}).tile.rows, an.QATSpec(weight_bits=number).weight_bits


VERBS = [chip, seeded, assigned, abstract, sweep, budget, counted, profile]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_whole_number_of_any_type_means_the_same(verb, kind):
    assert verb(KINDS[kind](3)) == verb(3)


@pytest.mark.parametrize("truth", [True, np.True_, torch.tensor(True)], ids=["bool", "numpy", "tensor"])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb is not assigned])
def test_a_truth_value_is_no_number(verb, truth):
    with pytest.raises(AnalogSimError, match="(whole )?number (or text )?is needed"):
        verb(truth)


def test_a_profile_takes_truth_values_where_they_belong():
    assert not an.HardwareProfile(dac={"signed": False}).dac.signed
    with pytest.raises(AnalogSimError, match=r"noise\.output: a number or text is needed"):
        an.HardwareProfile(noise={"output": True})


@pytest.mark.parametrize("value", [1.5, "3", None, np.array([1, 2]), np.float64(3)])
def test_other_things_are_refused_by_name(value):
    with pytest.raises(ProgrammingError, match="seed: a whole number is needed"):
        whole(value, "seed", ProgrammingError)


def test_the_row_itself():
    """`program(model, np.int64(7))` was an OverflowError."""
    assert an.program(an.convert(network(), NOISY), np.int64(7)) == 7


def test_a_search_takes_numpys_numbers(tmp_path):
    pytest.importorskip("optuna")
    model, data = network(), [(X, Y)]

    def search(n):
        space = {"adc.bits": np.arange(4, 6)}
        found = an.design_search(
            model, data, space, calibration=[X], trials=n(2), repeats=n(1), seed=n(3), progress=False
        )
        return [(one.cost, one.accuracy) for one in found.designs]

    assert search(np.int64) == search(int)
    with pytest.raises(AnalogSimError, match="seed: a whole number"):
        search(lambda n: n if n < 3 else True)
