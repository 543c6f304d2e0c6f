"""Random numbers: no two that draw from one seed meet, and what a seed decides is decided by nothing else."""

import copy
import itertools
import sys
import threading
from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import analogsim as an
from analogsim.analysis import meter
from analogsim.errors import AnalogSimError, ProgrammingError, SeedError
from analogsim.kernels import ConvGeometry, MatmulSpec, add_noise, philox, tiled_conv, tiled_matmul
from analogsim.noise import NoiseSite
from analogsim.seeds import Key, Stream, derive, numbered
from analogsim.training.data import load_data
from analogsim.training.epoch import epoch_seeds
from analogsim.training.train import TrainSpec, train
from tests.support.chips import IDEAL, LAWS
from tests.support.processes import two_processes

# Everything that draws, in one profile: 2 slices, 2 lines each, 2 steps, ADCs of their own, and all noises.
EVERYTHING = an.HardwareProfile(
    tile={"rows": 8, "cols": 9},
    dac={"bits": 4, "step_bits": 2, "input_range": 2.0},
    weight={"bits": 5},
    cells={"mapping": "differential", "bits": 2, "subtraction": "digital", "devices": 2, "read_noise": 0.01},
    programming={"sigma": 0.05},
    drift=LAWS,
    faults={"stuck_off": 0.01, "dead_rows": 0.01, "dead_columns": 0.01},
    flicker={"amplitude": 0.01, "frozen": True},
    noise={"output": 0.1, "read": 0.01, "multiplicative": 0.01, "wander": 0.1, "wander_length": 3.0},
    adc={"bits": 7, "full_scale": 4.0, "kind": "sar", "capacitor_mismatch": 0.05}
    | {"gain_error": 0.05, "offset_error": 0.05},
)
GEOMETRY = ConvGeometry((1,), (0,), (1,))
PLAIN = IDEAL.varied(noise={"output": 0.3})
CHIP = set(range(Stream.PROGRAMMING >> 56, (Stream.FLICKER >> 56) + 1))


# Keys and streams, exactly


def derived(seed, many):
    """Every key that is made of one seed in the library, and what it is for."""
    yield ("itself",), seed
    for layer, call in itertools.product(range(many), repeat=2):
        yield ("training", layer, call), derive(seed, Key.TRAINING_CHIP, layer, call)
    for number in range(many):
        chip = derive(seed, Key.CHIP, number)
        for own, path in ((seed, ("read",)), (chip, ("chip", number))):
            yield (*path, "part", number), derive(own, Key.PART, number + 1)
            yield (*path, "line", number), derive(own, Key.LINE, number + 1)
            yield (*path, "part", "line", number), derive(derive(own, Key.PART, 1), Key.LINE, number + 1)
        yield ("chip", number), chip
        for plane in range(1, 9):
            yield ("plane", plane, number), derive(seed, Key.PLANE, plane, number)
            yield ("rank", "plane", plane, number), derive(derive(seed, Key.RANK, number + 1), Key.PLANE, plane, 1)
        for call in range(many):
            yield ("further", number, call), derive(seed, Key.FURTHER, number, call + 1)
            yield ("budget", number, call), derive(seed, Key.BUDGET_READ, 0, number, call)
            yield ("sample", number, call), derive(seed, Key.BUDGET_SAMPLE, number, call)
            yield ("sweep", number, call), derive(seed, Key.SWEEP, int(np.float64(number).view(np.uint64)), call)
            yield ("search", number, call), derive(derive(seed, Key.SEARCH_CHIP, number), Key.CHIP, call)
            yield ("rank", number, call), derive(derive(seed, Key.RANK, number + 1), Key.TRAINING_CHIP, 0, call)
        yield ("device", number), derive(chip, Key.DEVICE, number + 1)
        yield ("age", number), derive(chip, Key.AGE, int(np.float64(number).view(np.uint64)))
        yield ("pulse", number), derive(chip, Key.PULSE, number + 2, 0)
        yield ("verified", number), derive(chip, Key.PULSE, number + 2, 1)
        yield ("outputs", number), derive(seed, Key.OUTPUTS, number, 0)
        yield ("statistics", number), derive(seed, Key.SWEEP_STATISTICS, number)
        yield ("rank", number), derive(seed, Key.RANK, number + 1)
        yield ("replica", number), derive(seed, Key.REPLICA, number)
        yield ("retry", number), derive(seed, Key.RETRY, number + 1)
        yield ("retry", "plane", number), derive(derive(seed, Key.RETRY, number + 1), Key.PLANE, 1, number)
        yield ("elsewhere", number), derive(seed, Key.ELSEWHERE, Stream.READ + number)
        yield ("proposals", number), derive(seed, Key.SEARCH_PROPOSALS, number)
        yield ("group", number), derive(seed, Key.GROUP, 2, number, 0)
        yield ("check", number), derive(chip, Key.CHECK)
    yield ("hardware",), derive(seed, Key.BUDGET_HARDWARE)
    yield ("sites",), derive(seed, Key.BUDGET_SITES)
    yield ("searched",), derive(seed, Key.SEARCH_READS)


def test_no_two_keys_meet():
    """Of neighbouring seeds, seeds of high bits, and seeds derived from one another."""
    given = [*range(12), 2**32, 2**63, 2**64 - 1, derive(0, Key.CHIP, 0), derive(0, Key.SEARCH_CHIP, 1)]
    found = Counter()
    paths = 0
    for seed in given:
        for _, key in derived(seed, 12):
            found[key] += 1
            paths += 1
    # What is derived from layer 0's chip, and from a search's second, is that chip's own once more: 12 keys of its
    # layers beside itself. All others are told apart.
    repeated = {key: times for key, times in found.items() if times > 1}
    assert paths > 20_000
    assert len(repeated) <= 2 * 60
    fresh = Counter(key for seed in given[:-2] for _, key in derived(seed, 12))
    assert max(fresh.values()) == 1


def test_no_two_streams_meet():
    """Layers and sites, whatever their number and call, with the flag of the slow offset and without."""
    numbers = [0, 1, 9, 255, 256, 2**24 - 1, 2**24, 2**24 + 1, 2**40]
    calls = [0, 1, 2, 255, 256, 2**24, 2**32 - 1, 2**32, 2**32 + 1, 2**40]
    kinds = [Stream.READ, Stream.ACTIVATIONS, Stream.WEIGHTS]
    found = [numbered(seed, *one) for seed in range(4) for one in itertools.product(kinds, numbers, calls)]
    found += [(key, stream | Stream.WANDER) for key, stream in found]
    found += [(seed, kind) for seed in range(4) for kind in Stream if kind >> 56 in CHIP]
    assert len(set(found)) == len(found) == 4 * (2 * 270 + 9)
    assert all(0 <= number < 2**64 for pair in found for number in pair)


# What is drawn, as it is drawn


@pytest.fixture
def drawn(monkeypatch):
    """All that the readable random numbers are asked for: (key, stream, tile, first, count), and the numbers."""
    seen = []
    real = philox.normals

    def spy(shape, seed, stream, tile, *, offset=0, device="cpu"):
        numbers = real(shape, seed, stream, tile, offset=offset, device=device)
        seen.append(((seed, int(stream), tile, offset, numbers.numel()), numbers))
        return numbers

    monkeypatch.setattr(philox, "normals", spy)
    return seen


def meetings(draws):
    """How many numbers were drawn twice: places of the same key, stream and tile that overlap."""
    places, twice = {}, 0
    for key, stream, tile, first, count in draws:
        places.setdefault((key, stream, tile), []).append((first, first + count))
    for spans in places.values():
        spans.sort()
        twice += sum(max(0, before[1] - after[0]) for before, after in itertools.pairwise(spans))
    return twice


class Rows(nn.Module):
    """Ten linear layers, a grouped transposed convolution, a recurrent layer and attention, in float64."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(10)))
        self.up = nn.ConvTranspose1d(16, 16, 2, groups=2)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = self.layers(x)
        x = self.up(x[..., None])
        x = self.recurrent(x.transpose(1, 2))[0]
        return self.attention(x, x, x, need_weights=False)[0][:, 0]


def network(profile=EVERYTHING, kind=Rows):
    torch.manual_seed(2)
    return an.convert(kind().double(), profile)


def unique(draws):
    """Chips are built again when they must be, of the same numbers: once each."""
    chips = {place for place in draws if place[1] >> 56 in CHIP}
    return [*chips, *(place for place in draws if place[1] >> 56 not in CHIP)]


@pytest.mark.filterwarnings("ignore::analogsim.UnreachedWarning")  # recurrent layers are no sites
@pytest.mark.slow
def test_one_seed_for_everything_draws_nothing_twice(drawn):
    """The chip, reads, slow offsets, injected noise on activations and weights, training chips, all with seed 1."""
    net, x = network(), torch.randn(16, 16, dtype=torch.float64)
    an.inject_noise(net, an.NoiseSpec(sigma=0.1, multiplicative=0.1, seed=1), inplace=True)
    an.inject_noise(net, an.NoiseSpec(sigma=0.1, target="weights", seed=1), inplace=True)
    an.program(net, 1)
    an.at_time(net, 100.0)
    an.set_seed(net, 1)
    with torch.no_grad():
        for _ in range(2):
            net.eval()(x)
        at = len(drawn)
        net.train()(x)
        net(x)
    two = an.convert(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).double(), PLAIN).eval()
    an.noise_budget(two, x, repeats=2, seed=1, progress=False)
    # A budget compares its σ with the same numbers.
    places = [place for place, _ in drawn if place[0] != derive(1, Key.BUDGET_SITES)]
    kinds = {stream >> 56 for _, stream, *_ in places}
    assert {Stream.READ >> 56, Stream.ACTIVATIONS >> 56, Stream.WEIGHTS >> 56, *CHIP} <= kinds
    assert any(stream & Stream.WANDER for _, stream, *_ in places)
    assert len(places) > 2000
    assert len({key for key, stream, *_ in places[at:] if stream >> 56 == Stream.PROGRAMMING >> 56}) > 2 * 15
    assert meetings(unique(places)) == 0
    # Each chip's keys are one layer's: no number of cells is drawn for two shapes.
    shapes = {}
    for key, stream, tile, _, count in places:
        if stream >> 56 in CHIP:
            shapes.setdefault((key, stream, tile), set()).add(count)
    assert all(len(counts) == 1 for counts in shapes.values())


@pytest.mark.filterwarnings("ignore::analogsim.UnreachedWarning")  # recurrent layers are no sites
def test_no_two_draws_correlate(drawn):
    """n = 256 numbers of each draw; |r| < 0.45 is 7.2 standard errors: a false alarm in 6e-13 of the 1e5 pairs each."""
    net, x = network(kind=lambda: nn.Sequential(*(nn.Linear(16, 16) for _ in range(10)))), torch.randn(16, 16).double()
    an.inject_noise(net, an.NoiseSpec(sigma=0.1, multiplicative=0.1, seed=1), inplace=True)
    an.program(net, 1)
    an.set_seed(net, 1)
    with torch.no_grad():
        net.eval()(x)
        net.train()(x)
    numbers = {place: own.flatten()[:256] for place, own in drawn if own.numel() >= 256}
    assert len(numbers) > 400
    r = np.corrcoef(torch.stack(list(numbers.values())).numpy())
    np.fill_diagonal(r, 0)
    assert np.abs(r).max() < 0.45
    assert np.abs(np.corrcoef(r[0], r[0])).max() > 0.45  # what is the same is seen


def test_the_slow_offset_of_one_layer_is_not_the_programming_of_another():
    profile = IDEAL.varied(programming={"sigma": 0.1}, noise={"wander": 0.5, "wander_length": 1e-3})
    net = an.convert(nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(10))).double(), profile).eval()
    an.program(net, 1)
    an.set_seed(net, 1)
    quiet = profile.varied(noise={"wander": 0.0})
    slow = net[0](torch.zeros(16, 16, dtype=torch.float64)).flatten().detach()
    for layer in net:
        layer.profile = quiet
        # What programming changed in the magnitudes.
        moved = (layer(torch.eye(16, dtype=torch.float64)).T - layer.weight) * layer.weight.sign()
        # n = 256: 0.45 is 7.2 standard errors.
        assert abs(np.corrcoef(slow.numpy(), moved.flatten().detach().numpy())[0, 1]) < 0.45


@pytest.mark.parametrize(("rows", "repeats", "part"), [(2, 260, 1), (2048, 2, 2**16)])
def test_a_budget_s_reads_are_all_different(drawn, monkeypatch, rows, repeats, part):
    """Many repeats, and many parts of a batch whose sizes are powers of 2."""
    monkeypatch.setattr(meter, "_PART", part)
    size = 1 if rows == 2 else 64
    layer = an.AnalogLinear(size, size, profile=PLAIN).double().eval()
    an.noise_budget(layer, torch.randn(rows, size, dtype=torch.float64), repeats=repeats, progress=False)
    reads = [place for place, _ in drawn if place[1] >> 56 == Stream.READ >> 56]
    assert len(reads) >= 2 * repeats
    assert meetings(reads) == 0


def test_layers_of_a_budget_sample_their_converters_by_themselves():
    """Two layers of the same weights and inputs, and two halves of a batch that are the same."""
    profile = IDEAL.varied(
        noise={"output": 0.3, "distribution": "uniform"}, adc={"bits": 5, "full_scale": 2.0, "kind": "sar"}
    )

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.load_state_dict(self.a.state_dict())

        def forward(self, x):
            return self.a(x) + self.b(x)

    net = an.convert(Pair(), profile).eval()
    an.program(net, 0)
    a, b = an.noise_budget(net, torch.randn(40, 8), repeats=0, progress=False).layers
    assert a.signal == b.signal
    assert a.total != b.total
    assert a.total == pytest.approx(b.total, rel=0.05)


# Seeds that are none


@pytest.mark.parametrize("seed", [-1, 2**64, 2**64 + 1, 1.0, None, "1"])
def test_a_seed_that_would_be_another_one_is_refused(seed):
    layer, x = an.AnalogLinear(4, 3, profile=PLAIN).eval(), torch.randn(5, 4)
    data = torch.randn(20, 4), torch.randint(3, (20,))
    uses = {
        "noise_sweep": lambda: an.noise_sweep(nn.Linear(4, 3), data, [0.1], 1, seed=seed, progress=False),
        "noise_budget": lambda: an.noise_budget(layer, x, seed=seed, progress=False),
        "design_search": lambda: an.design_search(
            nn.Linear(4, 3), [data], calibration=[x], trials=1, seed=seed, progress=False
        ),
        "tiled_matmul": lambda: tiled_matmul(x, x, MatmulSpec(), seed),
        "tiled_conv": lambda: tiled_conv(x[..., None], x[..., None], MatmulSpec(), GEOMETRY, 0, seed),
        "add_noise": lambda: add_noise(x, 1.0, 0.0, 0, seed),
    }
    if seed is not None:
        uses |= {
            "set_seed": lambda: an.set_seed(layer, seed),
            "program": lambda: an.program(layer, seed),
            "NoiseSpec": lambda: an.NoiseSpec(seed=seed) if seed != 1.0 and seed != "1" else an.set_seed(layer, seed),
        }
    for use in uses.values():
        with pytest.raises(AnalogSimError, match=r"seed|stream"):
            use()
    if seed is not None:
        layer.seed = seed
        with pytest.raises(SeedError):
            layer(torch.randn(5, 4))


def test_seeds_that_differ_in_their_upper_half_differ():
    layer, x = an.AnalogLinear(4, 3, profile=PLAIN).eval(), torch.zeros(500, 4)
    found = []
    for seed in (1, 2**32 + 1, 2**63 + 1, 2**64 - 1):
        an.set_seed(layer, seed)
        found.append(layer(x).flatten().tolist())
    assert len(set(map(tuple, found))) == 4
    trainings = [TrainSpec(epochs=3, seed=seed) for seed in (0, 1, 2**32, 2**32 + 1, 2**33)]
    keys = [key for spec in trainings for epoch in range(3) for key in epoch_seeds(spec, epoch)]
    assert len(set(keys)) == len(keys) == 30


# Several processes


@pytest.fixture
def rank(monkeypatch):
    """Make this process one of two, of torch's backend that computes nothing."""
    yield lambda number: dist.init_process_group("fake", store=FakeStore(), rank=number, world_size=2)
    if dist.is_initialized():
        dist.destroy_process_group()


def outputs(training, seed, of):
    """What one process gets: read noise, a chip, injected noise."""
    profile = PLAIN.varied(programming={"sigma": 0.2})
    torch.manual_seed(5)
    layer = an.AnalogLinear(8, 8, profile=profile)
    an.program(layer, 3)
    an.set_seed(layer, seed)
    quiet = an.AnalogLinear(8, 8, profile=profile.varied(noise={"output": 0.0})).train(training)
    an.program(quiet, 3)
    an.set_seed(quiet, seed)
    quiet.load_state_dict(layer.state_dict())
    sites = an.inject_noise(nn.Sequential(nn.Linear(8, 8)), an.NoiseSpec(sigma=1.0, seed=seed)).train(training)
    sites[0].load_state_dict({name: torch.zeros_like(value) for name, value in sites[0].state_dict().items()})
    torch.manual_seed(6)  # the usual set-up: every process has the same
    return {
        "reads": layer.train(training)(torch.zeros(40, 8)).detach(),
        "chip": quiet(torch.eye(8)).detach(),
        "sites": sites(torch.zeros(40, 8)).detach(),
    }[of]


@pytest.mark.parametrize("of", ["reads", "chip", "sites"])
@pytest.mark.parametrize("seed", [None, 4])
def test_ranks_differ_in_training_and_only_there(rank, seed, of):
    alone = {training: outputs(training, seed, of) for training in (True, False)}
    for number in (0, 1):
        rank(number)
        assert torch.equal(outputs(False, seed, of), alone[False])
        here = outputs(True, seed, of)
        dist.destroy_process_group()
        assert torch.equal(here, alone[True]) == (number == 0)
        if number and of != "chip":  # n = 320: 0.4 is 7 standard errors
            assert abs(np.corrcoef(here.flatten(), alone[True].flatten())[0, 1]) < 0.4


def test_a_chip_of_several_processes_needs_a_seed(rank):
    rank(1)
    layer = an.AnalogLinear(8, 8, profile=PLAIN.varied(programming={"sigma": 0.2}))
    with pytest.raises(ProgrammingError, match="same chip"):
        an.program(layer)
    an.program(layer, 1)


DISTRIBUTED = """
import sys
import torch, torch.distributed as dist
from torch import nn
import analogsim as an

rank, where = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
torch.manual_seed(0)
profile = an.HardwareProfile(dac={"input_range": 1.0}, noise={"output": 0.3}, programming={"sigma": 0.1})
net = an.convert(nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)), profile)
an.program(net, 7)
ddp = nn.parallel.DistributedDataParallel(net)
x = torch.randn(64, 16)
trained = ddp(x)
trained.sum().backward()
grad = net[0].weight.grad.clone()
ddp.eval()
torch.manual_seed(1)
evaluated = ddp(x)
for mine, same in ((trained.detach(), False), (grad, True), (evaluated.detach(), True)):
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both) == same, (rank, same)
noise = [both - both.mean() for both in (trained.detach(), evaluated.detach())]
dist.destroy_process_group()
print("done")
"""


@pytest.mark.slow
def test_two_processes_train_one_network_under_noise_of_their_own(tmp_path):
    two_processes(DISTRIBUTED, tmp_path)


def replicas(net, count):
    """One step of torch.nn.DataParallel without its devices: shallow copies made in turn."""
    copies = [[module._replicate_for_data_parallel() for _ in range(count)] for module in net]
    for module, twins in zip(net, copies, strict=True):
        for twin in twins:
            twin.weight, twin.bias = module.weight.detach(), None
    return [nn.Sequential(*twins) for twins in zip(*copies, strict=True)]


@pytest.mark.parametrize("training", [False, True])
def test_replicas_differ_from_one_another_and_from_step_to_step(training):
    profile = PLAIN.varied(programming={"sigma": 0.2}) if training else PLAIN
    net = nn.Sequential(*(an.AnalogLinear(8, 8, bias=False, profile=profile) for _ in range(2))).train(training)
    x, runs = torch.randn(20, 8), []
    for _ in range(2):
        an.set_seed(net, 3)
        steps = [[twin(x) for twin in replicas(net, 3)] for _ in range(3)]
        runs.append([out.flatten().tolist() for step in steps for out in step])
    assert len(set(map(tuple, runs[0]))) == 9
    assert runs[0] == runs[1]  # and they replay


# Threads


def together(jobs, beside=None):
    """Run jobs in threads of their own, all at once; `beside` runs again and again meanwhile."""
    results, gate = [None] * len(jobs), threading.Barrier(len(jobs))
    ended = threading.Event()

    def work(place):
        torch.set_num_threads(1)
        gate.wait()
        results[place] = jobs[place]()

    def disturb():
        while beside and not ended.is_set():
            beside()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    other = threading.Thread(target=disturb)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (*threads, other):
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        ended.set()
        other.join()
        sys.setswitchinterval(interval)
    return results


def sweep_of(net, quantity="activations", seed=0):
    x, y = torch.randn(200, 8, generator=torch.Generator().manual_seed(1)), torch.arange(200) % 4
    curve = an.noise_sweep(net, (x, y), [0.3, 1.0], 2, quantity=quantity, seed=seed, progress=False)
    return [curve.noise_free, *curve.accuracies.flatten().tolist()]


def small(sites=False):
    torch.manual_seed(0)
    net = an.convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), PLAIN)
    return an.inject_noise(net, an.NoiseSpec(sigma=0.5), inplace=True) if sites else net


def draw_and_seed():
    torch.manual_seed(11)
    torch.randn(5)


def test_sweeps_in_threads_give_what_they_give_alone():
    """Of one network, too, with sites and without, while another thread draws from torch's generator and seeds it."""
    nets = [small(sites=False), small(sites=True)]
    calls = [
        (net, quantity, seed)
        for net in nets
        for quantity in ("activations", "weights", "noise.output")
        for seed in (0, 1)
    ]
    alone = [sweep_of(*call) for call in calls]
    before = torch.get_rng_state()
    assert together([lambda call=call: sweep_of(*call) for call in calls]) == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert together([lambda call=call: sweep_of(*call) for call in calls[:3]], beside=draw_and_seed) == alone[:3]
    assert alone[:6] == alone[6:]  # the noise of other sites is silent
    assert len(set(map(tuple, alone))) == 6


def test_budgets_and_searches_in_threads_give_what_they_give_alone():
    net, x = small(sites=True), torch.randn(50, 8)
    data = [(torch.randn(60, 8), torch.arange(60) % 4)]
    base = an.HardwareProfile.load("8bit").varied(noise={"output": 0.2}, programming={"sigma": 0.1})

    def budget(seed):
        found = an.noise_budget(net.eval(), x, repeats=1, seed=seed, progress=False)
        return found.equivalent_sigma, found.output_error, [layer.measured for layer in found.layers]

    def search(seed):
        options = {"space": {"adc.bits": (4, 8)}, "trials": 2, "base": base, "progress": False, "seed": seed}
        return an.design_search(net, data, calibration=[x], **options).designs

    jobs = [lambda: budget(0), lambda: budget(1), lambda: search(0), lambda: search(1)]
    alone = [job() for job in jobs]
    before = torch.get_rng_state()
    assert together(jobs, beside=None) == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert alone[0] != alone[1]


def test_trainings_in_threads_give_what_they_give_alone():
    """With dropout, for which torch has only the one generator: they take turns. Sweeps beside them do not mind."""
    data = load_data("digits").subset(96, 50)
    layers = nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10)
    untrained = an.convert(nn.Sequential(*layers), PLAIN)

    def training(seed):
        net = copy.deepcopy(untrained)
        result = train(net, data, TrainSpec(epochs=2, batch_size=32, sigma=0.2, seed=seed), progress=False)
        return [entry["loss"] for entry in result.history]

    net = small()
    jobs = [lambda: training(0), lambda: training(1), lambda: sweep_of(net)]
    alone = [job() for job in jobs]
    before = torch.get_rng_state()
    assert together(jobs) == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_calls_in_threads_are_numbered_each_by_itself(drawn):
    site = NoiseSite("one", 0, an.NoiseSpec(sigma=1.0, seed=1), 1.0)
    layer = an.AnalogLinear(2, 2, profile=PLAIN).double().eval()
    an.set_seed(layer, 1)
    x = torch.zeros(2, 2, dtype=torch.float64)

    def calls():
        with torch.no_grad():
            for _ in range(50):
                layer(x)
                site.perturb(x, False)

    together([calls] * 4)
    assert site.calls == layer.calls == 200
    assert meetings([place for place, _ in drawn]) == 0


# What is without noise


def noisy_sites(net):
    an.inject_noise(net, an.NoiseSpec(sigma=1.0, multiplicative=0.3), inplace=True)
    return an.inject_noise(net, an.NoiseSpec(sigma=0.5, target="weights"), inplace=True)


@pytest.mark.parametrize("method", ["maximum", "percentile", "mse", "noise-aware"])
def test_calibration_hears_no_injected_noise(method):
    profile = an.HardwareProfile(dac={"bits": 8}, adc={"bits": 8, "full_scale": "calibrated"}, noise={"read": 0.1})
    torch.manual_seed(0)
    net, x = an.convert(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), profile), torch.randn(50, 8)
    quiet = an.calibrate(net, [x], method, progress=False)
    noisy_sites(net)
    for site in an.noise_sites(net).values():
        site.seed = None
    before = torch.get_rng_state()
    assert an.calibrate(net.train(), [x], method, progress=False) == quiet
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn
    assert all(site.eval for site in an.noise_sites(net).values())
    an.set_noise(net, torch.ones(3))  # of another batch: nobody looks at it
    assert an.calibrate(net, [x], method, progress=False) == quiet


def test_costs_budgets_and_searches_leave_injected_noise_out():
    net, x = small(), torch.randn(50, 8)
    data = [(torch.randn(60, 8), torch.arange(60) % 4)]

    def answers():
        budget = an.noise_budget(net, x, repeats=1, progress=False)
        options = {"space": {"adc.bits": (4, 8)}, "trials": 2, "progress": False}
        return (
            an.cost(net, an.HardwareProfile.load("8bit"), (8,)),
            (budget.equivalent_sigma, budget.layers),
            an.design_search(net, data, calibration=[x], **options).designs,
        )

    net.eval()
    quiet = answers()
    noisy_sites(net)
    an.set_noise(net, torch.ones(7))
    before = torch.get_rng_state()
    assert repr(answers()) == repr(quiet)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("heard", [False, True])
def test_estimated_statistics_hear_the_noise_of_evaluation_and_no_other(heard):
    """A normalisation that has a site of its own, too, though it is in training mode while it is estimated."""
    net = nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(8))
    spec = an.NoiseSpec(sigma=0.0, layers={"0": 3.0}, extra=("BatchNorm1d",), train=not heard, eval=heard, seed=1)
    an.inject_noise(net, spec, inplace=True)
    an.estimate_batch_norm(net, [torch.randn(4000, 8)], progress=False)
    # Variance 1 without the noise between them, 10 with it; n = 4000 knows it to 2.2 %, 10 times 10 % is far.
    assert net[1].running_var.mean().item() == pytest.approx(10.0 if heard else 1.0, rel=0.1)
    assert all((site.train, site.eval) == (not heard, heard) for site in an.noise_sites(net).values())
