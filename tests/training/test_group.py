"""Networks trained as one: the same as singly where nothing is random, apart from each other, and through kills."""

import copy
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats
from torch import nn

from analogsim.errors import ConversionError, StudyError
from analogsim.noise import NoiseSpec, inject_noise, noise_sites
from analogsim.qat import QATSpec, prepare_qat
from analogsim.study import load_results, run_study
from analogsim.study.folder import ERROR, GROUP, GROUPED, REFUSED, RESULT
from analogsim.study.grid import Study
from analogsim.study.grouping import family, form_groups
from analogsim.study.store import GROUPS, Store
from analogsim.training.data import load_data
from analogsim.training.group import group as group_module
from analogsim.training.group.group import Group, Member, quickest
from analogsim.training.group.noise import PackedNoise, site_sigmas
from analogsim.training.group.packed import check_pack, join, pack, split
from analogsim.training.spec import TrainSpec
from analogsim.training.train import CHECKPOINT, train
from models.lenet import LeNet5
from models.resnet import ResNet18
from models.vgg import VGG11
from tests.study.test_study import TINY, alive, wait_until
from tests.support.shell import call, start

CPU = torch.device("cpu")
SPEC = TrainSpec(epochs=2, batch_size=48, lr=2e-3)
HOW = ("separate", "grouped", "unfolded")


@pytest.fixture(scope="module")
def digits():
    return load_data("digits").subset(192, 100)


def built(make, count):
    """Networks whose initial weights differ."""
    networks = []
    for number in range(count):
        torch.manual_seed(number)
        networks.append(make(number))
    return networks


def quantized(number):
    spec = QATSpec(weight_bits=4, act_bits=4, scaling="constant", s=(0.02, 0.1, 0.5)[number])
    return prepare_qat(LeNet5(channels=1), spec, inplace=True)


NETWORKS = {
    "max-pool": lambda _: LeNet5(channels=1),
    "average-pool": lambda _: LeNet5(channels=1, pool="average"),
    "quantized, three s": quantized,
    "quantized after noise": lambda _: prepare_qat(
        LeNet5(channels=1), QATSpec(scaling="constant", s=0.05, relu_noise="after"), inplace=True
    ),
}
DEEP = {
    "VGG-11": lambda _: VGG11(channels=1, hidden=32, dropout=0.0, init="vgg"),
    "ResNet-18": lambda _: ResNet18(channels=1, init="fixup"),
    "ResNet-18, batch norm": lambda _: ResNet18(channels=1, batch_norm=True),
}


def trained_together(networks, specs, data, **options):
    members = [Member(str(i), network, spec) for i, (network, spec) in enumerate(zip(networks, specs))]
    group = Group(list(members), data, CPU, **options)
    while group.members:
        group.run_epoch()
    return members


# The packed network


@pytest.mark.parametrize(
    ("name", "how"), [*((name, how) for name in NETWORKS for how in HOW), *((name, "separate") for name in DEEP)]
)
def test_gradients_are_those_of_the_networks_singly(name, how):
    networks = built({**NETWORKS, **DEEP}[name], 2)
    packed = pack(networks, how)
    assert [n for n, _ in packed.named_parameters()] == [n for n, _ in networks[0].named_parameters()]
    x, y = torch.randn(2, 6, 1, 32, 32), torch.randint(10, (2, 6))
    losses = nn.functional.cross_entropy(
        packed(torch.cat(list(x), 1)).view(6, 2, 10).flatten(0, 1), y.T.flatten(), reduction="none"
    )
    losses.view(6, 2).mean(0).sum().backward()
    for number, network in enumerate(networks):
        nn.functional.cross_entropy(network(x[number]), y[number]).backward()
        for (key, whole), own in zip(packed.named_parameters(), network.parameters()):
            grad = whole.grad.chunk(2)[number]
            # A batch normalisation over few values makes rounding larger.
            error = (grad - own.grad).abs().max() / own.grad.abs().max().clamp_min(1e-12)
            assert error < (1e-2 if "batch" in name else 2e-4), key
    buffers = split(packed.state_dict(), 2)
    for network, own in zip(networks, buffers):
        for key, value in network.state_dict().items():
            torch.testing.assert_close(own[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1), "bias": False},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 1, "groups": 2},
    ],
    ids=str,
)
def test_convolutions_of_every_kind(settings, how):
    layers = built(lambda _: nn.Conv2d(4, 6, **settings), 3)
    x = torch.randn(3, 2, 4, 7, 9)
    out = pack(layers, how)(torch.cat(list(x), 1))
    for number, layer in enumerate(layers):
        torch.testing.assert_close(out.chunk(3, 1)[number], layer(x[number]), rtol=1e-5, atol=1e-6)


def test_the_quickest_way_is_taken_and_one_without_memory_is_left_out(monkeypatch):
    tried = []

    class Slow(nn.Linear):
        def __init__(self, how):
            super().__init__(2, 1)
            self.how = how

        def forward(self, x):
            if self.how == "unfolded":
                raise torch.OutOfMemoryError("no memory")
            tried.append(self.how)
            time.sleep({"grouped": 0.03, "separate": 0.0}[self.how])
            return super().forward(x)

    monkeypatch.setattr(group_module, "pack", lambda networks, how: Slow(how))
    networks, before = [nn.Linear(2, 1)] * 2, torch.get_rng_state()
    assert quickest(networks, torch.ones(3, 1), CPU) == "separate"
    assert tried == ["grouped"] * 4 + ["separate"] * 4
    assert torch.get_rng_state().equal(before)


def test_the_quickest_way_of_networks_with_frozen_and_unused_weights():
    def make(_):
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(1), nn.Linear(72, 2))
        network[0].weight.requires_grad_(False)
        return network

    networks, images, before = built(make, 2), torch.rand(3, 1, 8, 8), torch.get_rng_state()
    assert quickest(networks, images, CPU) in HOW
    assert torch.get_rng_state().equal(before)


def test_taking_apart_and_joining_are_inverse():
    networks = built(DEEP["ResNet-18, batch norm"], 3)
    state = pack(networks).state_dict()
    for number, part in enumerate(split(state, 3)):
        for key, value in networks[number].state_dict().items():
            assert torch.equal(part[key], value)
    again = join(split(state, 3))
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_packing_leaves_the_networks_as_they_are():
    (network, other) = built(NETWORKS["max-pool"], 2)
    before = copy.deepcopy(network)
    packed = pack([network, other])
    noise = [SPEC.varied(sigma=0.5)] * 2
    PackedNoise(packed, noise, [site_sigmas(n, s) for n, s in zip((network, other), noise)], CPU, True)
    packed.eval()
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before.parameters()))


class Mixing(nn.Module):
    """Reshapes in its forward, so that networks side by side would mix."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.conv(x).flatten(2).mean(2).sub(self.conv(x).mean((1, 2, 3))[:, None]))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(1024, 10)

    def forward(self, x):
        return self.head(x.flatten(1)) * self.scale


def tied(_):
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10), nn.ReLU(), nn.Linear(10, 10), nn.Linear(10, 10))
    network[4].weight = network[3].weight
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Mixing(), "Mixing: its forward does not keep the channels of several networks apart"),
        (lambda _: Scaled(), "Scaled: has weights or buffers of its own"),
        (lambda _: nn.Sequential(nn.Flatten(), nn.LayerNorm(1024), nn.Linear(1024, 10)), "1: LayerNorm: not known"),
        (lambda _: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10), nn.Softmax(1)), "2: Softmax: not known"),
        (lambda _: nn.Sequential(nn.Flatten(0), nn.Linear(1024, 10)), r"0: Flatten: only nn.Flatten\(1, -1\)"),
        (lambda n: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10 + n)), "1: Linear: the networks differ"),
        (lambda _: inject_noise(LeNet5(channels=1), NoiseSpec(sigma=1.0)), "LeNet5: hooks, or injected noise"),
        (
            lambda _: prepare_qat(LeNet5(channels=1), QATSpec()),
            "features.relu1: QuantReLU: its quantizer.s range is",
        ),
        (tied, "Sequential: layers that share a weight"),
    ],
)
def test_what_cannot_be_packed_is_refused(make, message):
    with pytest.raises(ConversionError, match=message):
        check_pack(built(make, 2), "separate", torch.randn(4, 1, 32, 32), CPU)


def test_rounding_is_no_reason_to_refuse():
    # In float32 one of 11,042 activations lies where rounding, of 7e-7, tips its level: logits differ by 23 %.
    from benchmarks.group import network, pictures

    data = pictures(128)
    torch.manual_seed(5044)
    check_pack([network(True) for _ in range(2)], "grouped", data.normalise(data.train_x[:4]), CPU)


# Training


@pytest.mark.parametrize("name", NETWORKS)
def test_without_noise_a_group_trains_what_single_trainings_do(name, digits):
    count = 3
    specs = [SPEC.varied(seed=seed) for seed in (5, 6, 2**63 + 1)]
    members = trained_together(built(NETWORKS[name], count), specs, digits)
    for member, network, spec in zip(members, built(NETWORKS[name], count), specs):
        single = train(network, digits, spec, progress=False)
        for key, value in network.state_dict().items():
            torch.testing.assert_close(member.state["model"][key], value, rtol=1e-3, atol=1e-4)
        for ours, theirs in zip(member.history, single.history, strict=True):
            assert ours.keys() == theirs.keys()
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.011)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_likewise(name, digits):
    data, spec = digits.subset(96, 60), SPEC.varied(lr=1e-4)
    specs = [spec, spec.varied(seed=1)]
    members = trained_together(built(DEEP[name], 2), specs, data)
    for member, network, own in zip(members, built(DEEP[name], 2), specs):
        single = train(network, data, own, progress=False)
        assert [e["loss"] for e in member.history] == pytest.approx([e["loss"] for e in single.history], rel=5e-3)


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(digits):
    specs = [SPEC.varied(seed=seed) for seed in range(2)]
    plain, compiled = (
        trained_together(built(NETWORKS["max-pool"], 2), specs, digits, how="grouped", fused=False, compile=compile)
        for compile in (False, True)
    )
    for ours, theirs in zip(compiled, plain):
        assert [e["loss"] for e in ours.history] == pytest.approx([e["loss"] for e in theirs.history], rel=1e-4)


def test_dropout_is_each_network_s_own(digits):
    networks = [LeNet5(channels=1)] * 2
    packed = pack([nn.Sequential(nn.Flatten(), nn.Dropout(0.5)) for _ in networks])
    out = packed(torch.ones(64, 2, 32, 32)).view(64, 2, 1024)
    kept = (out > 0).double()
    assert not torch.equal(kept[:, 0], kept[:, 1])
    # 65,536 coins: within 5 standard deviations, which a fair one leaves once in 1.7 million tests.
    assert (kept.mean((0, 2)) - 0.5).abs().max() < 5 * 0.5 / 256


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("target", ["activations", "weights"])
def test_noise_has_each_network_s_own_strength_and_differs(target, fused):
    # The noise of one site, seen behind an identity: linear layers of weight 0 or inputs 1 show it as it is.
    width, batch = 64, 500

    def make(_):
        network = nn.Sequential(nn.Linear(1, width, bias=False))
        nn.init.zeros_(network[0].weight)
        return network

    specs = [TrainSpec(sigma=s, target=target, seed=i, epochs=9, ramp_epochs=3) for i, s in enumerate((0.5, 0.0, 2.0))]
    networks = built(make, 3)
    packed, noise = under_noise(networks, specs, fused)
    torch.manual_seed(1)
    drawn = {}
    for epoch in (1, 8):
        noise.begin(epoch)
        noise.draw(torch.zeros(batch, 3))
        rounds = 1 if target == "activations" else batch
        images = batch if target == "activations" else 1
        parts = [packed(torch.ones(images, 3)).view(images, 3, width) for _ in range(rounds)]
        drawn[epoch] = torch.cat(parts).detach().double().numpy()
    half, full = drawn[1], drawn[8]
    assert (full[:, 1] == 0).all()
    # n = 32,000 normals: a two-sided test at α = 1e-6 finds a σ that is 5 % off with probability > 1 - 1e-9.
    for values, scale in ((half, 0.5), (full, 1.0)):
        for number, sigma in ((0, 0.5), (2, 2.0)):
            assert variance_fits(values[:, number], scale * sigma)
            assert not variance_fits(values[:, number], scale * sigma * 1.05)
    assert abs(np.corrcoef(full[:, 0].ravel(), full[:, 2].ravel())[0, 1]) < 5 / np.sqrt(full[:, 0].size)
    packed.eval()
    assert (packed(torch.ones(2, 3)) == 0).all()


def under_noise(networks, specs, fused):
    packed = pack(networks)
    return packed, PackedNoise(packed, specs, [site_sigmas(n, s) for n, s in zip(networks, specs)], CPU, fused)


def variance_fits(values, sigma):
    n = values.size
    low, high = stats.chi2.ppf((5e-7, 1 - 5e-7), n)
    return low < (values**2).sum() / sigma**2 < high


@pytest.mark.parametrize("fused", [True, False])
def test_variance_aware_and_multiplicative_noise(fused):
    spec = TrainSpec(sigma=1.0, variance={"mean": 0.5, "spread": 2.0}, layers={"input": 0.0})
    specs = [spec, TrainSpec(multiplicative=0.3)]
    networks = [nn.Sequential(nn.Linear(400, 400, bias=False)) for _ in range(2)]
    for network in networks:
        nn.init.eye_(network[0].weight)
    packed, noise = under_noise(networks, specs, fused)
    torch.manual_seed(2)
    z = torch.tensor([0.0, 1.0, 3.0])
    noise.begin(0)
    noise.draw(torch.stack([z, torch.zeros(3)], 1))
    out = (packed(torch.ones(3, 800)).view(3, 2, 400) - 1).detach().double().numpy()
    for row, value in enumerate(z.tolist()):
        assert variance_fits(out[row, 0], 0.5 + 2.0 * value)
    # At the input and at the output: 1 + n₁ + n₂ + n₁·n₂.
    assert variance_fits(out[:, 1], np.sqrt(2 * 0.3**2 + 0.3**4) * np.sqrt(1.0))


@pytest.mark.parametrize("fused", [True, False])
def test_a_batch_s_weights_have_the_sigma_of_that_batch(fused):
    variance = {"mean": 0.5, "spread": 2.0, "per": "batch"}
    specs = [TrainSpec(sigma=1.0, target="weights", variance=variance), TrainSpec(sigma=0.3, target="weights")]
    networks = [nn.Sequential(nn.Linear(400, 100, bias=False)) for _ in range(2)]
    for network in networks:
        nn.init.zeros_(network[0].weight)
    packed, noise = under_noise(networks, specs, fused)
    torch.manual_seed(2)
    noise.begin(0)
    x = torch.cat([torch.eye(400)] * 2, 1)
    for z in (0.0, 1.5):
        noise.draw(torch.tensor([[z, 0.0]]).expand(400, 2))
        out = packed(x).view(400, 2, 100).detach().double().numpy()
        assert variance_fits(out[:, 0], 0.5 + 2.0 * z)
        assert variance_fits(out[:, 1], 0.3)


def test_noise_is_where_inject_noise_puts_it():
    networks, spec = built(NETWORKS["max-pool"], 2), SPEC.varied(sigma=1.0)
    packed = pack(networks)
    sigmas = site_sigmas(networks[0], spec)
    assert list(sigmas) == list(noise_sites(inject_noise(networks[0], NoiseSpec(sigma=1.0))))
    PackedNoise(packed, [spec, spec], [sigmas, sigmas], CPU, True)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in packed.modules()) == 12
    with pytest.raises(ConversionError, match="no noise site 'nowhere'"):
        site_sigmas(networks[0], SPEC.varied(layers={"nowhere": 1.0}))


def test_a_group_is_repeatable_and_its_networks_are_apart(digits):
    specs = [SPEC.varied(seed=seed, sigma=sigma) for seed, sigma in ((0, 0.5), (0, 1.0), (1, 0.5))]
    first, second = (trained_together(built(NETWORKS["max-pool"], 3), specs, digits) for _ in range(2))
    for one, other in zip(first, second):
        assert all(torch.equal(one.state["model"][key], value) for key, value in other.state["model"].items())
    # A network beside one that is NaN from the start: the same to the bit as beside a sound one.
    networks = built(NETWORKS["max-pool"], 3)
    nn.init.constant_(networks[1].features.conv1.weight, float("nan"))
    members = [Member(str(number), network, spec) for number, (network, spec) in enumerate(zip(networks, specs))]
    for how in HOW:
        group = Group(copy.copy(members), digits, CPU, how=how)
        others = zip(members, built(NETWORKS["max-pool"], 3))
        sound = Group([Member(m.name, n, m.spec) for m, n in others], digits, CPU, how=how)
        assert group.run_epoch() == [members[1]]
        sound.run_epoch()
        assert "diverged in epoch 1" in members[1].diverged
        assert not members[1].history
        assert [m.name for m in group.members] == ["0", "2"]
        for member, other in zip(group.members, (sound.members[0], sound.members[2])):
            assert member.history[0]["loss"] == other.history[0]["loss"]
        for member in members:
            member.state, member.diverged = {}, ""


@pytest.mark.slow
def test_noisy_results_lie_within_the_spread_of_seeds(digits):
    spec = TrainSpec(epochs=6, batch_size=32, lr=2e-3, sigma=0.1)
    specs = [spec.varied(seed=seed) for seed in range(6)]
    together = [m.history[-1]["loss"] for m in trained_together(built(NETWORKS["max-pool"], 6), specs, digits)]
    networks = built(NETWORKS["max-pool"], 6)
    singly = [train(n, digits, s, progress=False).history[-1]["loss"] for n, s in zip(networks, specs)]
    # The same initial weights and images in pairs: what is left is the noise. Welch's t-test at α = 1e-4.
    assert stats.ttest_ind(together, singly, equal_var=False).pvalue > 1e-4
    louder = [m.history[-1]["loss"] for m in trained_together(networks, [s.varied(sigma=2.0) for s in specs], digits)]
    assert stats.ttest_ind(louder, singly, equal_var=False).pvalue < 1e-4


# Studies


def made(**changes):
    return Study(**(TINY | {"train_subset": 128, "test_subset": 60, "seeds": 2} | changes))


def test_groups_are_of_jobs_that_may_go_together():
    methods = [
        {"name": "float"},
        {"name": "noisy", "grid": {"train.sigma": [0.5, 1.0]}},
        {"name": "constant", "qat": {"bits": 8}, "grid": {"qat.s": [0.1, 0.5]}},
        {"name": "fewer bits", "qat": {"bits": 4, "s": 0.5}},
        {"name": "dynamic", "qat": {"bits": 8}},
        {"name": "weights", "train": {"sigma": 1.0, "target": "weights"}},
        {"name": "quantized weights", "qat": {"bits": 8, "s": 1.0}, "train": {"sigma": 1.0, "target": "weights"}},
        {"name": "faster", "train": {"lr": 0.1}},
    ]
    entries, jobs = made(methods=methods).expand()
    name = {entry.job: (entry.method, entry.seed) for entry in entries}
    groups = [[name[job][0] for job in group] for group in form_groups(jobs.items(), 100)]
    assert sorted(map(sorted, groups)) == [
        ["constant"] * 4,
        ["faster"] * 2,
        ["fewer bits"] * 2,
        ["float"] * 2 + ["noisy"] * 4,
        ["weights"] * 2,
    ]
    assert {name[job][0] for job in jobs if family(jobs[job]) is None} == {"dynamic", "quantized weights"}
    sizes = [len(group) for group in form_groups(jobs.items(), 4)]
    assert sorted(sizes) == [2, 2, 2, 2, 4, 4]
    assert form_groups(jobs.items(), 1) == []


METHODS = [
    {"name": "float"},
    {"name": "noisy", "grid": {"train.sigma": [0.3, 1e38]}},
    {"name": "nowhere", "train": {"layers": {"nowhere": 1.0}}},
]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A study in groups: with a training that diverges, and one that fails, beside others."""
    out = tmp_path_factory.mktemp("grouped") / "out"
    counts = run_study(made(methods=METHODS), out, workers=2, device="cpu", group=8, progress=False)
    return out, counts


def test_one_that_diverges_or_fails_stops_no_other(grouped):
    out, counts = grouped
    frame = load_results(out)
    states = frame.groupby("method")["status"].agg(set).to_dict()
    assert states["nowhere"] == {"failed"}
    assert counts["failed"] == 2
    assert counts["diverged"] == 2
    assert set(frame[frame["sigma"] == 1e38]["status"]) == {"diverged"}
    assert len(list(out.glob(f"{GROUPS}/*/{GROUP}"))) == 1
    assert not list(out.glob(f"{GROUPS}/*/{CHECKPOINT}")) + list(out.glob(f"{GROUPS}/*/{REFUSED}"))
    errors = [json.loads(path.read_text()) for path in out.glob(f"jobs/*/{ERROR}")]
    assert all("no noise site 'nowhere'" in error["message"] and "Traceback" in error["traceback"] for error in errors)


def test_a_job_s_folder_is_as_always(grouped, tmp_path):
    out, _ = grouped
    study = made(methods=METHODS[:1], seeds=1)
    run_study(study, tmp_path, workers=2, device="cpu", progress=False)
    (single,) = (tmp_path / "jobs").iterdir()
    ours = out / "jobs" / single.name
    assert {p.name for p in ours.iterdir()} == {p.name for p in single.iterdir()} | {GROUPED}
    mine, theirs = (json.loads((folder / RESULT).read_text()) for folder in (ours, single))
    assert mine.keys() == theirs.keys() | {"grouped"}
    assert mine["grouped"]["of"] == 8
    assert mine["job"] == theirs["job"]
    # Without noise the same training.
    for one, other in zip(mine["history"], theirs["history"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_group_goes_on_and_gives_what_an_unbroken_one_gives(tmp_path):
    methods = [{"name": "noisy", "grid": {"train.sigma": [0.2, 0.4]}}]
    settings = {"methods": methods, "train": {"epochs": 25, "batch_size": 16, "lr": 2e-3}, "sweep": TINY["sweep"]}
    study = made(**settings)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | {"train_subset": 128, "test_subset": 60, "seeds": 2} | settings))
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = start("study", "run", file, "--out", broken, "--workers", 2, "--device", "cpu", "--group", 4)
    wait_until(lambda: list(broken.glob(f"{GROUPS}/*/{CHECKPOINT}")), process, seconds=300)
    workers = {json.loads(path.read_text())["process"] for path in broken.glob("jobs/*/running.json")}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(map(alive, workers)), seconds=60)
    assert not list(broken.glob(f"jobs/*/{RESULT}"))
    # Whatever is asked for now, it goes on as the group that it was; with as many threads.
    run_study(study, broken, workers=2, device="cpu", group=1, progress=False)
    run_study(study, whole, workers=2, device="cpu", group=4, progress=False)
    frames = [load_results(folder).drop(columns="seconds") for folder in (broken, whole)]
    pd.testing.assert_frame_equal(*frames)
    assert len({row["job"] for row in frames[0].to_dict("records")}) == 4
    histories = [
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in json.loads(path.read_text())["history"]]
        for folder in (broken, whole)
        for path in sorted(folder.glob(f"jobs/*/{RESULT}"))
    ]
    assert histories[:4] == histories[4:]
    assert not list(broken.rglob("*.part"))


@pytest.mark.slow
def test_a_group_that_cannot_be_is_trained_singly(tmp_path, monkeypatch):
    (tmp_path / "mixing_networks.py").write_text(
        "from tests.training import test_group\n\n\nclass Mixing(test_group.Mixing):\n    pass\n"
    )
    root = str(Path(__file__).parents[2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(root)
    study = made(models={"mixing": "mixing_networks:Mixing"}, train={"epochs": 1})
    counts = run_study(study, tmp_path / "out", workers=2, device="cpu", group=2, progress=False)
    assert counts.total() == 2
    assert counts["failed"] == 0
    (refused,) = (tmp_path / "out").glob(f"{GROUPS}/*/{REFUSED}")
    assert "does not keep the channels" in json.loads(refused.read_text())["message"]
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").glob(f"jobs/*/{RESULT}")]
    assert not any("grouped" in result for result in results)


@pytest.mark.slow
def test_a_group_whose_checkpoint_is_damaged_is_not_trained_singly(tmp_path):
    study = made(methods=[{"name": "noisy", "train": {"sigma": 0.3}}], train={"epochs": 1})
    options = {"workers": 1, "device": "cpu", "progress": False}
    run_study(study, tmp_path / "whole", group=2, **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (folder,) = (tmp_path / "out").glob(f"{GROUPS}/*")
    for path in tmp_path.glob(f"out/jobs/*/{RESULT}"):
        path.unlink()
    (folder / CHECKPOINT).write_bytes(b"no checkpoint")
    assert run_study(study, tmp_path / "out", group=1, **options) == {"failed": 2}
    errors = [json.loads(path.read_text())["message"] for path in tmp_path.glob(f"out/jobs/*/{ERROR}")]
    assert all(error.startswith("CheckpointError: corrupt") and str(folder) in error for error in errors)
    assert (folder / CHECKPOINT).read_bytes() == b"no checkpoint"

    assert run_study(study, tmp_path / "out", group=1, retry_failed=True, **options)["failed"] == 0
    frames = [load_results(tmp_path / name).drop(columns="seconds") for name in ("whole", "out")]
    pd.testing.assert_frame_equal(*frames)
    assert (folder / "checkpoint.pt.damaged").exists()


@pytest.mark.slow
def test_a_collapse_is_left_out_when_it_is_to_stop(tmp_path):
    methods = [{"name": "noisy", "train": {"stop_on_collapse": 1}, "grid": {"train.sigma": [0.0, 1e4]}}]
    study = made(methods=methods, seeds=1, train={"epochs": 8, "batch_size": 16, "lr": 3e-3}, train_subset=None)
    run_study(study, tmp_path, workers=2, device="cpu", group=2, progress=False)
    frame = load_results(tmp_path).set_index("sigma")
    assert frame["status"].to_dict() == {0.0: "finished", 1e4: "collapsed"}
    assert frame["epochs"][1e4] < frame["epochs"][0.0] == 8


def test_a_group_s_size_is_checked(tmp_path):
    with pytest.raises(StudyError, match="group: 'auto', or at least 1 job, got 0"):
        run_study(made(), tmp_path, group=0, progress=False)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY))
    result = call("study", "run", file, "--group", "many")
    assert result.exit_code == 2
    assert "'auto' or a whole number from 1 is needed" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_on_the_cpu_auto_makes_no_groups(tmp_path):
    run_study(made(train={"epochs": 1}), tmp_path, workers=2, device="cpu", progress=False)
    assert not (tmp_path / GROUPS).exists()
    assert set(Store(tmp_path).state(entry.job) for entry in Store(tmp_path).plan()) <= {"finished", "collapsed"}
