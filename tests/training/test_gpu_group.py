"""On a GPU: groups of networks, and networks on hardware, train and agree with what they should."""

import pytest
import torch

import analogsim as an
from analogsim.training.data import load_data
from analogsim.training.group.group import Group, Member
from analogsim.training.spec import TrainSpec
from analogsim.training.train import train
from models.lenet import LeNet5
from models.resnet import ResNet18

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LEARNS = TrainSpec(epochs=5, batch_size=32, lr=2e-3)
VARIANCE = {"mean": 0.8, "spread": 0.4, "per": "image"}


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


def networks(count, make=lambda: LeNet5(channels=1)):
    for seed in range(count):
        torch.manual_seed(seed)
        yield make()


def trained(data, spec, count=4, make=lambda: LeNet5(channels=1), **options):
    """The members of a group, once all are trained."""
    members = [Member(str(seed), net, spec.varied(seed=seed)) for seed, net in enumerate(networks(count, make))]
    group = Group(list(members), data, DEVICE, **options)
    while group.members:
        group.run_epoch()
    return members


def losses(member):
    return [epoch["loss"] for epoch in member.history]


def test_without_noise_a_group_is_its_networks_trained_singly(data):
    spec = TrainSpec(epochs=2)
    members = trained(data, spec, count=3, how="grouped")
    for seed, net in enumerate(networks(3)):
        single = train(net, data, spec.varied(seed=seed), device=DEVICE, progress=False)
        # Convolutions add up in another order, and by TF32: 1e-3 of a product, and more of what two epochs make of it.
        assert losses(members[seed])[-1] == pytest.approx(single.history[-1]["loss"], rel=0.05)


@pytest.mark.parametrize("how", [None, "grouped", "separate", "unfolded"])
def test_each_way_of_convolving_learns(data, how):
    for member in trained(data, LEARNS.varied(sigma=0.5), how=how):
        assert losses(member)[-1] < 0.9 * losses(member)[0]


@pytest.mark.parametrize(
    "noise",
    [{"sigma": 0.5, "variance": VARIANCE}, {"sigma": 0.05, "target": "weights"}, {"multiplicative": 0.3}],
    ids=str,
)
def test_each_noise_of_training_learns(data, noise):
    for member in trained(data, LEARNS.varied(**noise), how="grouped"):
        assert losses(member)[-1] < 0.9 * losses(member)[0]


def test_a_compiled_group_learns_and_so_does_the_next(data):
    for _ in range(2):
        for member in trained(data, LEARNS.varied(sigma=0.5), how="grouped", compile=True):
            assert losses(member)[-1] < 0.9 * losses(member)[0]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_residual_networks_may_be_grouped(data, batch_norm):
    spec = TrainSpec(epochs=1, lr=1e-4)
    for member in trained(data, spec, 4, lambda: ResNet18(channels=1, batch_norm=batch_norm), how="grouped"):
        assert not member.diverged


def test_a_network_on_hardware_is_the_cpus_and_trains(data):
    x = data.normalise(data.test_x[:200])
    models = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = an.convert(LeNet5(channels=1), an.HardwareProfile.load("8bit")).to(device)
        if models:
            model.load_state_dict(models[0].state_dict())
        else:
            an.calibrate(model, [x], progress=False)
        an.set_seed(model, 5)
        models.append(model.eval())
    with torch.no_grad():
        cpu, gpu = models[0](x), models[1](x.to(DEVICE)).cpu()
    assert (gpu - cpu).norm() / cpu.norm() < 0.02  # some ADCs one level apart
    history = train(models[1], data, LEARNS, device=DEVICE, progress=False).history
    assert history[-1]["loss"] < 0.98 * history[0]["loss"]


def test_a_sweep(data):
    model = train(LeNet5(channels=1), data, LEARNS, device=DEVICE, progress=False).model
    test = data.normalise(data.test_x), data.test_y
    curve = an.noise_sweep(model, test, [0.01, 100.0], 2, device=DEVICE, progress=False)
    assert curve.mean[0] > 0.5 > curve.mean[1]
