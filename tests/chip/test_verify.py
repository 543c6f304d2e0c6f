"""Write-verify: cells are read and written again until they are near their targets."""

import math

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.chip import written
from analogsim.errors import ProfileError, ProgrammingError
from analogsim.profile import Programming

N = 200_000


def verified(sigma, **verify):
    return Programming(sigma=sigma, verify=verify)


def test_with_exact_reads_and_whole_steps_every_pulse_is_another_try():
    """Pulses are geometric, and errors those of a normal distribution that is cut off at the tolerance, but for cells
    whose pulses ran out. n = 200,000; every bound is 5 standard errors, a false alarm in 6e-7 each.
    """
    sigma, tolerance, most = 0.05, 0.02, 10
    targets = torch.full((N,), 0.5)
    g, pulses = written(targets, verified(sigma, tolerance=tolerance, pulses=most), seed=1)
    hit = math.erf(tolerance / sigma / math.sqrt(2))
    missed = (1 - hit) ** (most - 1)
    assert abs((pulses == most).double().mean() - missed) < 5 * math.sqrt(missed / N)
    mean = (1 - (1 - hit) ** most) / hit
    assert abs(pulses.double().mean() - mean) < 5 * math.sqrt((1 - hit) / hit**2 / N)
    error = (g - targets).double()
    assert error[pulses < most].abs().max() <= tolerance + 1e-7
    a = tolerance / sigma
    within = sigma**2 * (1 - 2 * a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi) / hit)
    left = (1 - hit) ** most  # cells that no pulse left within the tolerance
    outside = (sigma**2 - hit * within) / (1 - hit)
    variance = (1 - left) * within + left * outside
    assert abs(error.square().mean() - variance) < 5 * error.square().std() / math.sqrt(N)


def test_steps_walk_towards_the_target_and_a_mean_error_is_taken_out():
    programming = Programming(mean=-0.3, verify={"tolerance": 0.01, "step": 0.5, "pulses": 20})
    g, pulses = written(torch.full((4,), 0.8), programming)
    assert pulses.tolist() == [6] * 4  # 0.3, 0.15, 0.075, 0.0375, 0.01875, 0.009375
    assert torch.allclose(g, torch.tensor(0.8 - 0.3 / 2**5))


def test_noise_of_the_verifying_read_is_left_in_the_cells():
    """What a read misses by chance is put into the cell: of one further pulse without error exactly its noise."""
    programming = Programming(mean=0.2, verify={"tolerance": 1e-9, "pulses": 2, "sigma": 0.0, "read": 0.03})
    g, pulses = written(torch.full((N,), 0.5), programming, seed=3)
    assert (pulses == 2).all()
    error = (g - 0.5).double()
    assert abs(error.mean()) < 5 * 0.03 / math.sqrt(N)
    assert abs(error.std() - 0.03) < 5 * 0.03 / math.sqrt(2 * N)


def test_cells_are_judged_by_their_reads():
    """All are 0.02 beside their targets; n = 200,000 at 5 standard errors, a false alarm in 6e-7."""
    verify = {"tolerance": 0.03, "pulses": 2, "sigma": 0.0, "read": 0.05}
    pulses = written(torch.full((N,), 0.5), Programming(mean=0.02, verify=verify), seed=6)[1]
    near = (math.erf(0.01 / 0.05 / math.sqrt(2)) + math.erf(0.05 / 0.05 / math.sqrt(2))) / 2
    assert abs((pulses == 1).double().mean() - near) < 5 * math.sqrt(near * (1 - near) / N)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_cell_is_not_written_again_once_it_was_near_enough(noise):
    targets = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    few, first = written(targets, verified(0.05, tolerance=0.03, pulses=3, read=noise), seed=4)
    many, later = written(targets, verified(0.05, tolerance=0.03, pulses=30, read=noise), seed=4)
    done = first < 3
    assert torch.equal(few[done], many[done])
    assert torch.equal(first[done], later[done])
    assert (later >= first).all()
    assert not torch.equal(few, many)


def test_conductances_stay_above_zero_but_of_signed_cells():
    programming = verified(0.1, tolerance=0.001, pulses=3)
    assert written(torch.zeros(1000), programming)[0].min() == 0
    assert written(torch.zeros(1000), programming, negative=True)[0].min() < 0


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_layer_is_on_cells_that_were_verified(backend):
    cells = {"mapping": "differential", "g_min": 0.1, "devices": 2}
    loose = {"sigma": 0.05, "verify": {"tolerance": 0.02, "pulses": 12}}
    digital, x = nn.Linear(64, 32, bias=False), torch.randn(50, 64)
    errors = {}
    for name, programming in {"one": {"sigma": 0.05}, "verified": loose}.items():
        profile = an.HardwareProfile(cells=cells, programming=programming)
        layer = an.convert(digital, profile).eval()
        layer.backend = backend
        an.program(layer, seed=1)
        assert torch.equal(layer(x), layer(x))
        errors[name] = (layer(x) - digital(x)).detach().norm()
    assert errors["verified"] < 0.35 * errors["one"]  # of the errors themselves 0.25


def test_a_layers_chip_has_the_cells_that_written_gives():
    """G⁺ and G⁻ are arrays 0 and 1 of the layer's own seed."""
    profile = an.HardwareProfile(
        cells={"mapping": "differential"}, programming=verified(0.05, tolerance=0.02).model_dump()
    )
    layer = an.convert(nn.Linear(6, 5, bias=False), profile).eval()
    an.program(layer, seed=7)
    weight = layer.weight.detach()
    w = weight / weight.abs().amax(1, keepdim=True)
    plus, minus = (
        written(side.clamp(min=0), profile.programming, layer.chip_seed, array)[0] for array, side in enumerate((w, -w))
    )
    assert torch.allclose(layer(torch.eye(6)).T, (plus - minus) * weight.abs().amax(1, keepdim=True), atol=1e-6)


def test_cost_counts_the_pulses_that_write_a_network():
    cells = {"mapping": "offset", "bits": 2, "devices": 3}
    plain = an.HardwareProfile(cells=cells, weight={"bits": 6}, tile={"rows": 10, "cols": 30})
    net = nn.Linear(20, 16)
    layer = an.cost(net, plain, (20,)).layers[0]
    slices, blocks = 3, 2  # ten outputs of three bit lines each in a block, with three reference columns
    assert layer.pulses == 3 * 20 * (16 * slices + blocks * slices)
    assert layer.write_energy is None
    verify = {"sigma": 0.05, "verify": {"tolerance": 0.02, "pulses": 10}}
    more = an.cost(net, plain.varied(programming=verify, cost={"pulse_energy": 2.0}), (20,)).layers[0]
    hit = math.erf(0.4 / math.sqrt(2))
    mean = (1 - (1 - hit) ** 10) / hit
    # At conductance 0 half of the first errors are cut off, so that such a cell is done sooner: a bound, not a value.
    assert 0.5 * mean * layer.pulses < more.pulses < mean * layer.pulses * 1.05
    assert more.write_energy == 2.0 * more.pulses


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ProfileError, match="verify: the first pulse leaves every cell at its target"):
        an.HardwareProfile(programming={"verify": {"tolerance": 0.01}})
    with pytest.raises(ProfileError, match="tolerance"):
        an.HardwareProfile(programming={"sigma": 0.1, "verify": {}})
    table = {"g": [0.2, 1.0], "value": [0.1, 0.1]}
    profile = an.HardwareProfile(
        cells={"mapping": "differential"},
        programming={"sigma": 0.1, "verify": {"tolerance": 0.01, "sigma": table}},
    )
    layer = an.convert(nn.Linear(4, 3), profile).eval()
    an.program(layer, seed=0)
    with pytest.raises(ProgrammingError, match=r"programming\.verify\.sigma"):
        layer(torch.randn(2, 4))
