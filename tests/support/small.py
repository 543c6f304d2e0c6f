"""A network that trains in no time, for tests and the processes that they start."""

import torch
from torch import nn


def network(seed=0):
    """One layer of every kind that has state or draws random numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(100, 10),
    )
