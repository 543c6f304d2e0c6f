"""LeNet-5: the published sizes, and layers that the transforms find."""

import pytest
import torch
from torch import nn

from analogsim import NoiseSpec, inject_noise, noise_sites
from models.lenet import LeNet5


def kinds(model):
    return [type(m).__name__ for m in model.modules() if not list(m.children())]


@pytest.mark.parametrize(("channels", "classes", "parameters"), [(3, 10, 62_006), (1, 10, 61_706), (3, 100, 69_656)])
def test_parameters(channels, classes, parameters):
    # 3 channels: conv 456 + 2,416, linear 48,120 + 10,164 + 850. A channel fewer: 6·25 weights fewer, twice.
    model = LeNet5(classes, channels)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)


@pytest.mark.parametrize(("pool", "layer"), [("max", "MaxPool2d"), ("average", "AvgPool2d")])
def test_layers_are_the_papers(pool, layer):
    expected = f"Conv2d ReLU {layer} Conv2d ReLU {layer} Flatten Linear ReLU Linear ReLU Linear"
    assert " ".join(kinds(LeNet5(pool=pool))) == expected


def test_noise_finds_input_and_every_layer():
    model = inject_noise(LeNet5(), NoiseSpec(sigma=0.1))
    layers = [name for name, m in model.named_modules() if not list(m.children()) and not isinstance(m, nn.Flatten)]
    assert list(noise_sites(model)) == ["input", *layers]


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pool: must be 'max' or 'average'.*got 'min'"):
        LeNet5(pool="min")
