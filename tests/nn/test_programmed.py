"""What a layer keeps of its programmed weights in evaluation: nothing that was changed since is ever read."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import analogsim as an
from analogsim import AnalogConv2d, AnalogLinear, HardwareProfile
from analogsim.kernels.backends.numba import Numba

PLAIN = HardwareProfile(
    tile={"rows": 32},
    dac={"bits": 8, "input_range": 3.0},
    adc={"bits": 8, "full_scale": 20.0},
    noise={"output": 0.1},
)
PROFILES = {
    "exact": PLAIN,
    "levels": PLAIN.varied(weight={"bits": 5}),
    "one scale": PLAIN.varied(weight={"w_max": "tensor"}),
    "given scale": PLAIN.varied(weight={"w_max": 0.1}),
    "chip": PLAIN.varied(
        cells={"mapping": "differential"},
        programming={"sigma": 0.02},
        drift={"nu": 0.05, "compensation": "global"},
        adc={"gain_error": 0.02},
    ),
}
ROWS = {"few rows": 3, "rows": 40}


def linear(profile, size=70):
    torch.manual_seed(0)
    layer = AnalogLinear(size, 66, profile=profile).eval()
    if profile.needs_chip:
        an.program(layer, 1)
    return layer


def answer(layer, rows=40):
    """Return the layer's output on the same inputs with the same noise."""
    an.set_seed(layer, 5)
    x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return layer(x)


def fresh(layer, rows=40):
    """Return the answer of a layer that has never computed anything."""
    other = copy.deepcopy(layer)
    assert other._kept._held == {}
    other.keep_programmed = False
    return answer(other, rows)


@torch.no_grad()
def other_weight(layer):
    return layer.weight.detach().flip(0) * 0.5


def by_optimiser(layer):
    layer.weight.grad = torch.ones_like(layer.weight)
    torch.optim.SGD([layer.weight], lr=0.1).step()


def by_one_number(layer):
    layer.weight.data.view(-1)[layer.weight.argmax()] *= -1


def by_numpy(layer):
    layer.weight.detach().numpy()[4, 5] *= -1


def by_a_view(layer):
    layer.weight.detach().view(-1)[7:9].mul_(-1)


def by_an_older_view(layer):
    layer.view.mul_(-1)


def by_swapping(layer):
    data = layer.weight.data
    data[0, 0], data[1, 1] = data[1, 1].clone(), data[0, 0].clone()


def by_parametrisation(layer):
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data *= 2


def by_its_inner_weight(layer):
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    answer(layer)
    layer.parametrizations.weight.original.data *= 3


def by_casts(layer):
    layer.half()
    layer.float()


def in_inference_mode(layer):
    with torch.inference_mode():
        layer.weight.copy_(other_weight(layer))


CHANGES = {
    "optimiser": by_optimiser,
    "copy_": lambda layer: layer.weight.detach().copy_(other_weight(layer)),
    "load_state_dict": lambda layer: layer.load_state_dict(layer.state_dict() | {"weight": other_weight(layer)}),
    "assign": lambda layer: layer.load_state_dict(layer.state_dict() | {"weight": other_weight(layer)}, assign=True),
    "data": lambda layer: setattr(layer.weight, "data", other_weight(layer)),
    "data in place": lambda layer: layer.weight.data.neg_(),
    "one number of data": by_one_number,
    "swapped numbers": by_swapping,
    "numpy": by_numpy,
    "a view": by_a_view,
    "an older view": by_an_older_view,
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(other_weight(layer))),
    "parametrisation": by_parametrisation,
    "inner weight": by_its_inner_weight,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "casts": by_casts,
    "init": lambda layer: nn.init.normal_(layer.weight),
    "inference mode": in_inference_mode,
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_change_of_weights_goes_unseen(change, profile, rows):
    layer = linear(profile)
    layer.view = layer.weight.data.view(-1)[:3]
    before = answer(layer, rows)
    assert torch.equal(before, answer(layer, rows))
    change(layer)
    after = answer(layer, rows)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(layer, rows))


OTHERS = {
    "profile": lambda layer: setattr(layer, "profile", layer.profile.varied(weight={"bits": 3})),
    "cells": lambda layer: setattr(layer, "profile", layer.profile.varied(programming={"sigma": 0.1})),
    "tiles": lambda layer: setattr(layer, "profile", layer.profile.varied(tile={"rows": 16})),
    "converters": lambda layer: setattr(layer, "profile", layer.profile.varied(adc={"gain_error": 0.1})),
    "chip": lambda layer: an.program(layer, 2),
    "age": lambda layer: an.at_time(layer, 1e5),
    "backend": lambda layer: setattr(layer, "backend", "reference"),
    "a saved chip": lambda layer: layer.load_state_dict(saved(layer)),
}


def saved(layer):
    other = copy.deepcopy(layer)
    an.program(other, 3)
    return other.state_dict()


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_no_change_of_the_hardware_goes_unseen(change):
    layer = linear(PROFILES["chip"])
    before = answer(layer)
    change(layer)
    after = answer(layer)
    assert layer.backend == "reference" or not torch.equal(after, before)
    assert torch.equal(after, fresh(layer))


def test_convolutions_keep_theirs_likewise():
    torch.manual_seed(0)
    layer = AnalogConv2d(6, 8, 3, groups=2, profile=PROFILES["chip"]).eval()
    an.program(layer, 1)
    x = torch.randn(2, 6, 9, 9)

    def out(layer):
        an.set_seed(layer, 1)
        with torch.no_grad():
            return layer(x)

    before = out(layer)
    for change in (lambda: layer.weight.data.neg_(), lambda: an.at_time(layer, 1e6)):
        change()
        other = copy.deepcopy(layer)
        other.keep_programmed = False
        assert not torch.equal(out(layer), before)
        assert torch.equal(out(layer), out(other))


class Counting(Numba):
    """Counts what it programs."""

    def __init__(self):
        self.programmed = 0

    def program(self, *args):
        self.programmed += 1
        return super().program(*args)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_weights_are_programmed_once_in_evaluation_and_always_in_training(profile):
    layer = linear(profile)
    layer.backend = counting = Counting()
    for _ in range(4):
        answer(layer)
    assert counting.programmed == 1
    layer.train()
    assert layer._kept._held == {}
    for call in range(3):
        layer(torch.randn(40, 70)).sum().backward()
        assert layer._kept._held == {}
        assert counting.programmed == 2 + call
    layer.eval()
    layer.keep_programmed = False
    answer(layer)
    answer(layer)
    assert counting.programmed == 6
    assert layer._kept._held == {}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_one_more_copy_of_the_weights_is_kept_and_no_replaced_one(profile):
    layer = linear(profile)
    answer(layer)
    held = {
        part.untyped_storage().data_ptr()
        for matrix in (layer._kept._held["matrix"][1],)
        for part in (matrix.weight, matrix.programmed, *(plane.weight for plane in getattr(matrix.chip, "planes", [])))
    }
    assert len(held) == 1
    assert layer.weight.untyped_storage().data_ptr() not in held
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._kept._held == {}
        assert torch.equal(answer(other), answer(layer))


def test_few_rows_by_exact_weights_keep_nothing():
    layer = linear(PLAIN)
    answer(layer, rows=3)
    assert layer._kept._held == {}


def test_gradients_in_evaluation_are_those_without_keeping():
    for profile in PROFILES.values():
        found = []
        for keep in (True, False):
            layer = linear(profile)
            layer.keep_programmed = keep
            an.set_seed(layer, 1)
            for _ in range(2):
                layer.zero_grad()
                x = torch.randn(40, 70, generator=torch.Generator().manual_seed(1)).requires_grad_()
                layer(x).square().sum().backward()
            found.append((x.grad, layer.weight.grad, layer.bias.grad))
        assert all(torch.equal(a, b) for a, b in zip(*found))


def test_a_matrix_in_weight_units_is_made_once_for_all_steps():
    """Of a sequence, whose every step would hold one for the backward."""
    layer = an.nn.AnalogLSTM(6, 8, profile=PROFILES["levels"])
    held = set()

    def pack(tensor):
        if tensor.shape == (32, 8):
            held.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(12, 3, 6))[0].sum().backward()
    assert len(held) == 2  # the parameter, and what it is as programmed


@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_matrix_and_its_transpose_are_two(profile, size):
    layer = AnalogLinear(size, size, profile=PROFILES[profile]).eval()
    if layer.profile.needs_chip:
        an.program(layer, 1)
    x, weight = torch.randn(20, size), torch.randn(size, size) / size**0.5
    with torch.no_grad():
        for matrix in (weight, weight.t(), weight, weight.t().contiguous(), weight.t()):
            an.set_seed(layer, 5)
            layer.keep_programmed = True
            found = layer.multiply(x, matrix, None)
            an.set_seed(layer, 5)
            layer.keep_programmed = False
            assert torch.equal(found, layer.multiply(x, matrix.contiguous(), None))


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_matrix_that_is_kept_transposed_is_read_anew(rows):
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    layer = an.convert(conv1d(66, 70), PLAIN).eval()
    x = torch.randn(rows, 70)
    with torch.no_grad():
        before = layer(x)
        layer.weight[3, 4] *= -1
        layer.weight.data.view(-1)[7] += 1
        an.set_seed(layer, 5)
        changed = layer(x)
        layer.keep_programmed = False
        an.set_seed(layer, 5)
        assert torch.equal(changed, layer(x))
    assert not torch.allclose(changed, before)


def test_elsewhere_than_in_machine_code_only_chips_are_kept():
    for name, profile in PROFILES.items():
        layer = linear(profile)
        layer.backend = "reference"
        before = answer(layer)
        assert bool(layer._kept._held) == (name == "chip")
        layer.weight.data.neg_()
        assert not torch.equal(answer(layer), before)
        assert torch.equal(answer(layer), fresh(layer))


def test_a_cell_model_that_is_another_now_programs_anew(monkeypatch):
    from analogsim.chip.cell_models import CellModel
    from analogsim.profile.kinds import CELL_MODELS

    def made(factor):
        class Weak(CellModel):
            name = "weak"

            def program(self, target, profile, draws):
                return target * factor

        return Weak()

    class Held(CellModel):
        name = "weak"

        def program(self, target, profile, draws):
            return target * self.factor

    monkeypatch.setattr(CELL_MODELS, "_made", {**CELL_MODELS._made, "weak": made(0.5)})
    layer = linear(PLAIN.varied(cells={"mapping": "differential", "model": "weak"}))
    half = answer(layer)
    CELL_MODELS._made["weak"] = made(0.25)
    assert not torch.equal(answer(layer), half)
    CELL_MODELS._made["weak"] = held = Held()
    held.factor = 0.5
    assert torch.equal(answer(layer), half)
    held.factor = 0.25
    assert not torch.equal(answer(layer), half)
