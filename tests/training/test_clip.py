"""Clipped weights: what is clipped and by how much, by hand and after every step of a training."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import analogsim as an
from analogsim.errors import ConversionError, ProfileError
from analogsim.study.grid import Study
from analogsim.study.grouping import family
from analogsim.training.augment import NONE
from analogsim.training.data import load_data
from analogsim.training.group.group import Group, Member
from analogsim.training.spec import TrainSpec
from analogsim.training.train import train
from models.lenet import LeNet5
from tests.study.test_study import TINY


def clipped(weight, deviations):
    """What clipping means, in float64."""
    w = weight.detach().double().numpy()
    bound = deviations * np.sqrt(np.mean((w - w.mean()) ** 2))
    return np.clip(w, -bound, bound)


@given(st.integers(0, 2**31), st.floats(0.1, 4))
def test_weights_beyond_so_many_deviations_are_moved_to_them_and_no_others(seed, deviations):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        model[0].weight.mul_(7).pow_(3)
    before = copy.deepcopy(model)
    an.clip_weights(model, deviations)
    for number in (0, 3):
        wanted = clipped(before[number].weight, deviations)
        assert np.allclose(model[number].weight.detach().numpy(), wanted, rtol=1e-5)
        assert torch.equal(model[number].bias, before[number].bias)
        inside = np.abs(before[number].weight.detach().numpy()) < np.abs(wanted).max() * (1 - 1e-5)
        assert np.array_equal(
            model[number].weight.detach().numpy()[inside], before[number].weight.detach().numpy()[inside]
        )
    assert torch.equal(model[1].weight, before[1].weight)


def test_every_kind_of_layer_is_clipped_on_hardware_too():
    torch.manual_seed(0)
    digital = nn.ModuleList([nn.Linear(6, 5), nn.Conv1d(2, 3, 3), nn.MultiheadAttention(6, 2, kdim=4, vdim=4)])
    analog = an.convert(digital, an.HardwareProfile.load("8bit"))
    names = ["0.weight", "1.weight", *(f"2.{key}_proj_weight" for key in "qkv"), "2.out_proj.weight"]
    wanted = {name: clipped(digital.get_parameter(name), 1.0) for name in names}
    for model in (digital, analog):
        an.clip_weights(model, 1.0)
        for name in names:
            assert np.allclose(model.get_parameter(name).detach().numpy(), wanted[name], rtol=1e-5), name


def test_equal_weights_and_a_single_one_stay():
    """They have no deviation (or what rounding makes of it), and would be 0 for ever."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(3, 2), nn.Linear(301, 17), nn.Linear(2, 1))
    model[3].weight = nn.Parameter(torch.empty(0, 2))  # nothing at all
    for layer, value in ((model[1], 0.5), (model[2], 0.1)):
        nn.init.constant_(layer.weight, value)
    before = [layer.weight.detach().clone() for layer in model]
    an.clip_weights(model, 2.0)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(model, before, strict=True))


@pytest.mark.parametrize("deviations", [0, -1, float("inf"), float("nan")])
def test_impossible_bounds_are_refused(deviations):
    with pytest.raises(ProfileError, match="positive"):
        an.clip_weights(nn.Linear(2, 2), deviations)


def test_what_has_no_weights_to_clip_is_refused():
    with pytest.raises(ConversionError, match="no convolution, linear or attention"):
        an.clip_weights(nn.BatchNorm2d(3), 2.0)
    with pytest.raises(ConversionError, match="computed from other parameters"):
        an.clip_weights(parametrizations.weight_norm(nn.Linear(3, 3)), 2.0)


@pytest.fixture(scope="module")
def few():
    return load_data("digits").subset(64, 20)


def test_a_training_clips_after_every_step(few):
    torch.manual_seed(0)
    by_hand = LeNet5(10, 1)
    model, spec = copy.deepcopy(by_hand), TrainSpec(epochs=2, lr=1e-2, batch_size=64, augment=NONE, clip_weights=1.5)
    train(model, few, spec, progress=False)
    optimiser = torch.optim.Adam(by_hand.parameters())
    for rate in (1e-2, 5e-3):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        F.cross_entropy(by_hand(few.normalise(few.train_x)), few.train_y).backward()
        optimiser.step()
        an.clip_weights(by_hand, 1.5)
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, atol=2e-4), name


def test_jobs_and_checkpoints_keep_their_names_where_nothing_is_clipped():
    assert "clip_weights" not in TrainSpec().model_dump()
    assert TrainSpec().varied(clip_weights=2.0).model_dump(mode="json")["clip_weights"] == 2.0
    assert TrainSpec(**TrainSpec(clip_weights=2.0).model_dump()).clip_weights == 2.0
    with pytest.raises(ProfileError, match="clip_weights"):
        TrainSpec(clip_weights=0)


def test_groups_do_not_clip(few):
    spec = TrainSpec(clip_weights=2.0)
    with pytest.raises(ConversionError, match="clip_weights"):
        Group([Member("a", LeNet5(10, 1), spec)], few, torch.device("cpu"))
    study = Study(**TINY | {"train": TINY["train"] | {"clip_weights": 2.0}})
    _, jobs = study.expand()
    assert all(family(job) is None for job in jobs.values())
