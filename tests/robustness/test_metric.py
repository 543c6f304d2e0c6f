"""A sweep of a metric: accuracy as one is accuracy, any output and labels will do, and what is no score is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import DataError, FitError, NonFiniteError
from analogsim.robustness.metric import Metric


class Right:
    """The share of right guesses, as torchmetrics' classes are built."""

    def __init__(self, value=None):
        self.value = value

    def reset(self):
        self.right = self.samples = 0

    def update(self, preds, target):
        self.right += int((preds.argmax(1) == target).sum())
        self.samples += len(target)

    def compute(self):
        return torch.tensor(self.right / self.samples if self.value is None else self.value, dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


DATA = torch.randn(90, 4, generator=torch.Generator().manual_seed(1)), torch.arange(90) % 3


@pytest.mark.parametrize("batches", [DATA, list(zip(DATA[0].split(17), DATA[1].split(17), strict=True))])
def test_accuracy_as_a_metric_is_accuracy(batches):
    options = {"sigmas": [0.1, 0.5, 2.0], "repeats": 2, "progress": False}
    plain = an.noise_sweep(network(), batches, **options)
    own = an.noise_sweep(network(), batches, metric=Right(), chance=1 / 3, **options)
    assert np.array_equal(plain.accuracies, own.accuracies)
    assert (plain.noise_free, plain.samples, plain.chance) == (own.noise_free, own.samples, own.chance)
    assert own.about["metric"] == "Right"
    assert "metric" not in plain.about


def test_labels_and_outputs_are_what_the_metric_takes():
    class Near(Right):
        def update(self, preds, target):
            self.right += int(((preds - target).abs() < 1).all(1).sum())
            self.samples += len(target)

    model = nn.Linear(4, 2)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    data = x, model(x).detach()
    sigmas = [0.1, 1.0, 10.0]
    curve = an.noise_sweep(model, data, sigmas, metric=Near(), chance=0.01, progress=False)
    assert curve.noise_free == 1
    mean = curve.accuracies.mean(1)
    assert mean[0] > 0.9 > mean[1] > mean[2]


def test_what_is_no_score_is_refused():
    for other in (3, Right):
        with pytest.raises(FitError, match="give an object with reset, update and compute"):
            an.noise_sweep(network(), DATA, metric=other, chance=0.1, progress=False)
    with pytest.raises(FitError, match="Right gave Tensor, no single number"):
        an.noise_sweep(network(), DATA, metric=Right([0.1, 0.2]), chance=0.1, progress=False)
    with pytest.raises(NonFiniteError, match="Right is nan without noise"):
        an.noise_sweep(network(), DATA, metric=Right(float("nan")), chance=0.1, progress=False)
    with pytest.raises(FitError, match="no 'acuracy'; did you mean 'accuracy'"):
        an.noise_sweep(network(), DATA, metric="acuracy", progress=False)
    with pytest.raises(DataError, match="differ in number"):
        an.noise_sweep(network(), [(DATA[0], DATA[1][:5])], metric=Right(), chance=0.1, progress=False)
    with pytest.raises(DataError, match="empty"):
        an.noise_sweep(network(), [], metric=Right(), chance=0.1, progress=False)
    assert isinstance(Right(), Metric)


def test_the_metric_that_is_given_stays_as_it_is():
    metric = Right(3.0)
    metric.right = 17
    curve = an.noise_sweep(network(), DATA, [0.1, 1.0], metric=metric, chance=0.1, progress=False)
    assert metric.right == 17
    assert curve.noise_free == curve.values.max() == 3
