"""Batch normalisation's statistics under noise: what they are, what stays, and what a sweep with them shows."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from analogsim import NoiseSpec, RobustnessCurve, estimate_batch_norm, inject_noise, noise_sites, noise_sweep
from analogsim.errors import CalibrationError, ConversionError
from tests.support.shell import call, done


def network():
    """Two classes by the sign of what is in front of batch normalisation, which is far from 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    model[0].bias.data += 50
    return model


def inputs(batches=4, size=32):
    return list(torch.randn(batches, size, 4, generator=torch.Generator().manual_seed(1)))


def test_statistics_are_the_means_over_batches():
    model = network()
    estimate_batch_norm(model, inputs(), progress=False)
    weight, bias = (p.detach().double().numpy() for p in model[0].parameters())
    outputs = np.stack([x.double().numpy() @ weight.T + bias for x in inputs()])
    # Without dropout: the mean, and the unbiased variance, of each batch.
    np.testing.assert_allclose(model[2].running_mean.double(), outputs.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(model[2].running_var.double(), outputs.var(1, ddof=1).mean(0), rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_all_else_stays(training):
    model = network().train(training)
    model[2].momentum = 0.3
    kept = {key: value.clone() for key, value in model.state_dict().items() if "running" not in key}
    estimate_batch_norm(model, [(x, torch.zeros(32)) for x in inputs()], progress=False)
    assert all(module.training is training for module in model.modules())
    assert model[2].momentum == 0.3
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in kept.items() if "tracked" not in key)
    whole = network()
    estimate_batch_norm(whole, (torch.cat(inputs()), torch.zeros(128, dtype=torch.int64)), progress=False)
    torch.testing.assert_close(whole[2].running_mean, model[2].running_mean)


def test_noise_of_evaluation_is_in_them():
    # n = 40,000 values a channel, σ = 2 at the input and at the layer; α = 1e-3 in all (two-sided, 3 channels) and a
    # network without the second site's noise must be rejected.
    n, sigma = 40_000, 2.0
    model = inject_noise(nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)), NoiseSpec(sigma=sigma))
    nn.init.eye_(model[0].weight)
    torch.manual_seed(0)
    estimate_batch_norm(model, torch.zeros(n, 3), progress=False)
    low, high = stats.chi2.ppf((1e-3 / 6, 1 - 1e-3 / 6), n - 1) / (n - 1)
    ratio = model[1].running_var.double().numpy() / sigma**2
    assert ((low < ratio / 2) & (ratio / 2 < high)).all()
    assert not ((low < ratio) & (ratio < high)).any()


def test_refusals_leave_the_statistics():
    with pytest.raises(ConversionError, match="Sequential: no batch normalisation with running statistics"):
        estimate_batch_norm(
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), torch.ones(4, 2)
        )
    model = network()
    estimate_batch_norm(model, inputs(), progress=False)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CalibrationError, match="batches: empty"):
        estimate_batch_norm(model, [])
    with pytest.raises(RuntimeError):
        estimate_batch_norm(model, [inputs()[0] + 1, torch.ones(3, 5)], progress=False)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def trained():
    """A network whose statistics are those of strong noise, and what it tells apart."""
    torch.manual_seed(0)
    x = torch.randn(600, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    noisy = inject_noise(model, NoiseSpec(sigma=20.0))
    estimate_batch_norm(noisy, x, progress=False)
    return noisy, x, y


class TestSweep:
    def test_statistics_fit_each_sigma_and_are_given_back(self, trained):
        model, x, y = trained
        state = {key: value.clone() for key, value in model.state_dict().items()}
        kept = noise_sweep(model, (x, y), [0.01, 0.1], 2, progress=False)
        fitted = noise_sweep(model, (x, y), [0.01, 0.1], 2, batch_norm=(x, y), progress=False)
        assert fitted.noise_free > 0.95
        assert (fitted.accuracies[0] > 0.95).all()
        assert fitted.noise_free > kept.noise_free + 0.1
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert {site.sigma for site in noise_sites(model).values()} == {20.0}

    def test_an_accuracy_does_not_depend_on_the_rest_of_the_grid(self, trained):
        model, x, y = trained
        batches = x.split(200)
        whole = noise_sweep(model, (x, y), [0.1, 1.0, 3.0], 2, batch_norm=iter(batches), progress=False)
        part = noise_sweep(model, (x, y), [1.0], 2, batch_norm=batches, progress=False)
        assert (whole.accuracies[1] == part.accuracies[0]).all()
        other = noise_sweep(model, (x, y), [1.0], 2, batch_norm=batches, seed=1, progress=False)
        assert (other.accuracies != part.accuracies).any()

    def test_without_batch_normalisation_it_is_refused(self, trained):
        _, x, y = trained
        with pytest.raises(ConversionError, match="no batch normalisation"):
            noise_sweep(nn.Linear(8, 2), (x, y), batch_norm=x, progress=False)


def test_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, norm=True):\n"
        "        norm = [nn.BatchNorm2d(4)] * norm\n"
        "        super().__init__(nn.Conv2d(1, 4, 5, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))\n"
    )

    common = ["digits", "--epochs", 2, "--lr", 0.01, "--sigma", 3, "--threads", 1, "--device", "cpu"]
    for norm in ("true", "false"):
        done("train", "own_net:Net", *common, "--arg", f"norm={norm}", "--out", norm)
    options = ["--sigmas", "0.1,1", "--repeats", 1, "--threads", 1, "--device", "cpu"]
    for extra in ([], ["--batch-norm", 300]):
        done("sweep", "true", *options, *extra)
    kept, fitted = (RobustnessCurve.load(tmp_path / "true" / f"sweep{name}.json") for name in ("", "-batch-norm"))
    assert kept.noise_free != fitted.noise_free
    assert (tmp_path / "true" / "sweep-batch-norm.png").exists()
    refused = call("sweep", "false", *options, "--batch-norm", 300)
    assert refused.exit_code == 1
    assert "no batch normalisation with running statistics" in " ".join(refused.output.split())
