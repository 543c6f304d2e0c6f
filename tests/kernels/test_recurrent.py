"""All steps of a recurrent layer in one pass, against one step at a time."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from analogsim import HardwareProfile, calibrate, calibrate_outputs, convert, program
from analogsim.errors import BackendError
from analogsim.kernels import MatmulSpec, Read, Recurrence, reference
from analogsim.kernels.backends.numba import Numba, recurrent
from analogsim.kernels.backends.numba import matmul as cpu
from analogsim.nn import set_seed
from analogsim.nn.recurrent import CELLS

PARTS = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
ALL = {"noise_output": 0.1, "noise_read": 0.05, "noise_multiplicative": 0.1}
SPECS = {
    "nothing": MatmulSpec(),
    "DAC": MatmulSpec(3, 1.5, 4),
    "clips in tiles": MatmulSpec(3, 2.0, adc_full_scale=0.8, noise_output=0.1),
    "all": MatmulSpec(3, 1.5, 6, adc_full_scale=2.0, adc_bits=7, **ALL),
    "all in one tile": MatmulSpec(None, 1.5, 6, adc_full_scale=2.0, adc_bits=7, **ALL),
}
SIZES = [[3] * 4, [5, 5, 3, 1, 1], [1] * 3, [33] * 3, [14, 13]]
WIDTHS = [1, 5, 12, 16, 20, 33, 2, 8]  # of states: whole blocks of 16 outputs and others


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def small_blocks(request, monkeypatch):
    torch.set_num_threads(request.param)
    for where, name in ((cpu, "SLAB"), (recurrent, "SUMS")):
        monkeypatch.setattr(where, name, 1)
    monkeypatch.setattr(recurrent, "MOST", 12)


def case(cell, h, sizes, seed, backwards=False):
    """A matrix on [-1, 1], a read's scale and bias, and what is to be done with them."""
    torch.manual_seed(seed)
    n = PARTS[cell] * h
    state = [torch.rand(sizes[0], h) * 2 - 1 for _ in range(2 if cell == "LSTM" else 1)]
    keys = [(seed + 2**40 * t, 2**33 + t) for t in range(len(sizes))]
    what = Recurrence(cell, torch.randn(sum(sizes), n), list(sizes), backwards, keys, state)
    return torch.rand(n, h) * 2 - 1, {"scale": torch.rand(n) + 0.2, "bias": torch.randn(n)}, what


def one_step(w, read, what, number, state):
    """Return what the reference makes of a step, in float64 but for the product: the state after it."""
    first, size = what.places[number]
    running = [part[:size].double() for part in state]
    sums, _ = reference.tiled_matmul(state[0][:size], w, read.spec, *what.keys[number])
    from_hidden = sums.double() * read.scale.double() + read.bias.double()
    return CELLS[what.cell](what.x[first : first + size].double(), from_hidden, running)


def cut(what, steps):
    """Return the first steps of all that are to be made, alone."""
    chosen = slice(len(what.sizes) - steps, None) if what.backwards else slice(steps)
    x = what.x[sum(what.sizes[: chosen.start or 0]) :] if what.backwards else what.x[: sum(what.sizes[chosen])]
    return Recurrence(what.cell, x, what.sizes[chosen], what.backwards, what.keys[:steps], what.state)


@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("cell", PARTS)
def test_each_step_is_the_reference_s(cell, name, backwards, small_blocks):
    """Each from the state that the pass itself came to; at most one of some thousand sums may be an ADC's step off."""
    off = 0
    for number, (sizes, h) in enumerate(zip(itertools.cycle(SIZES), WIDTHS)):
        w, ends, what = case(cell, h, sizes, number, backwards)
        read, state = Read(SPECS[name], **ends), what.state
        for steps in range(1, len(sizes) + 1):
            part = cut(what, steps)
            out, final = recurrent.recur(w, read, part)
            want = one_step(w, read, what, steps - 1, state)
            first, size = part.places[-1]
            wrong = [(a[:size] - b).abs().amax(1) > 2e-5 for a, b in zip(final, want, strict=True)]
            off += int(torch.stack(wrong).any(0).sum())
            assert torch.equal(out[first : first + size], final[0][:size])
            assert all(torch.equal(a[size:], b[size:]) for a, b in zip(final, state, strict=True))
            state = final
        whole = recurrent.recur(w, read, what)[0]
        assert not whole.isnan().any()
    assert off <= (1 if SPECS[name].dac_levels else 0)


def test_gates_are_those_of_float64():
    """Within 2.5e-7 of themselves (tanh also at 0), and NaN, ±inf and what overflows e^v as torch has them."""
    v = torch.cat([torch.linspace(-20, 20, 4001), torch.logspace(-30, 0, 500), -torch.logspace(-30, 0, 500)])
    v = torch.cat([v, torch.tensor([0.0, 85.0, -85.0, 1e4, -1e4, torch.inf, -torch.inf, torch.nan])])
    n, read = len(v), Read(MatmulSpec())

    def once(cell, x, h):
        what = Recurrence(cell, x, [1], False, [(0, 0)], [h])
        return recurrent.recur(torch.zeros(x.shape[1], n), read, what)[0][0]

    tanh = once("RNN_TANH", v[None], torch.zeros(1, n))
    torch.testing.assert_close(tanh.double(), v.double().tanh(), rtol=2.5e-7, atol=0, equal_nan=True)
    # 0 + z·(1 - 0), for a new state of 0
    sigmoid = once("GRU", torch.cat([torch.zeros(n), v, torch.zeros(n)])[None], torch.ones(1, n))
    torch.testing.assert_close(sigmoid.double(), v.double().sigmoid(), rtol=2.5e-7, atol=1e-37, equal_nan=True)


HARDWARE = HardwareProfile(
    tile={"rows": 4}, dac={"input_range": 2.0}, adc={"full_scale": 1.5}, noise={"output": 0.05, "multiplicative": 0.1}
)
LAYERS = [
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"batch_first": True, "bias": False}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.RNN, {"bidirectional": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


@pytest.fixture
def passes(monkeypatch):
    """Count them."""
    made = []

    def counted(w, read, what):
        made.append(what)
        return recur(w, read, what)

    recur = recurrent.recur
    monkeypatch.setattr(recurrent, "recur", counted)
    return made


def inputs(layer):
    torch.manual_seed(3)
    x, packed = torch.randn(5, 3, 4), pack_sequence([torch.randn(n, 4) for n in (3, 6, 1)], enforce_sorted=False)
    count, batch = layer.num_layers * (1 + layer.bidirectional), 5 if layer.batch_first else 3
    h = [torch.randn(count, size, 6) for size in (batch, 3)]
    hx = [(one, one + 1) if isinstance(layer, nn.LSTM) else one for one in h]
    return [(x,), (x, hx[0]), (x[:, 0],), (packed,), (packed, hx[1])]


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in value if part is not None for leaf in flat(part)]


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_layers_make_one_pass_and_mean_the_same(kind, options, passes):
    """Nothing rounds here, so that no step of a converter hides a difference; every random number is the same."""
    layer = convert(kind(4, 6, **options), HARDWARE).eval()
    directions = layer.num_layers * (1 + layer.bidirectional)
    for arguments in inputs(layer):
        for seed in (None, 5):
            found = []
            for backend in ("numba", "reference"):
                for one in layer.children():
                    one.backend = backend
                set_seed(layer, seed)
                torch.manual_seed(1)
                before = len(passes)
                with torch.no_grad():
                    found.append(flat(layer(*arguments)))
                assert len(passes) - before == directions * (backend == "numba")
                found[-1].append(torch.get_rng_state())
                found[-1].append(torch.tensor([one.calls for one in layer.children()]))
            for a, b in zip(*found, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_pass_leaves_states_and_inputs_as_they_were(passes):
    layer = convert(nn.LSTM(4, 6), HARDWARE).eval()
    x, h, c = torch.randn(5, 3, 4), torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    copies = [part.clone() for part in (x, h, c)]
    with torch.no_grad():
        layer(x, (h, c))
    assert len(passes) == 1
    assert all(map(torch.equal, (x, h, c), copies))


def test_other_weights_are_seen(passes):
    """By whatever way they were changed."""
    layer = convert(nn.GRU(4, 6), HARDWARE.varied(noise={"output": 0.0, "multiplicative": 0.0})).eval()
    x = torch.randn(5, 3, 4)
    changes = [
        lambda w: w.data.mul_(0.5),
        lambda w: w.detach().numpy().__imul__(0.5),
        lambda w: w.copy_(w * 0.5),
        lambda w: w.view(-1)[:7].zero_(),
    ]
    with torch.no_grad():
        before = layer(x)[0]
        for change in changes:
            change(layer.weight_hh_l0)
            after = layer(x)[0]
            assert not torch.equal(after, before)
            layer.crossbar_hh_l0._kept.clear()
            assert torch.equal(layer(x)[0], after)
            before = after
    assert len(passes) == 9


def varied(**changes):
    return lambda layer: [setattr(one, "profile", HARDWARE.varied(**changes)) for one in layer.children()]


def of_a_chip(layer):
    varied(noise={"distribution": "laplace"}, programming={"sigma": 0.1})(layer)
    program(layer, 1)


BY_STEP = {
    "training": (lambda layer: layer.train(), {}),
    "a range found anew": (varied(dac={"bits": 8, "input_range": "dynamic"}), {}),
    "a range for each vector": (varied(dac={"bits": 8, "input_range": "vector"}), {}),
    "noise of another shape": (of_a_chip, {}),
    "full scales of tiles": (varied(weight={"w_max": "tile"}), {}),
    "double precision": (lambda layer: layer.double(), {"dtype": torch.float64}),
    "half precision": (lambda layer: layer.half(), {"dtype": torch.float16}),
    "another backend": (lambda layer: setattr(layer.crossbar_hh_l0, "backend", "reference"), {}),
    "nothing": (lambda layer: None, {}),
}


@pytest.mark.parametrize("why", BY_STEP)
def test_who_reads_each_step_by_itself(why, passes):
    layer = convert(nn.LSTM(4, 6), HARDWARE).eval()
    change, kind = BY_STEP[why]
    change(layer)
    with torch.no_grad():
        assert layer(torch.randn(5, 3, 4, **kind))[0].isfinite().all()
    assert len(passes) == (why == "nothing")


def test_gradients_projections_and_calibration_read_each_step_by_itself(passes):
    layer = convert(nn.LSTM(4, 6), HARDWARE).eval()
    layer(torch.randn(5, 3, 4))[0].sum().backward()
    assert layer.weight_hh_l0.grad.abs().sum() > 0
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    x, h = torch.randn(5, 3, 4), torch.zeros(1, 3, 6)
    layer(x.requires_grad_())[0].sum().backward()
    layer(x.detach(), (h, h.clone().requires_grad_()))[0].sum().backward()
    wanted = convert(nn.LSTM(4, 6), HARDWARE.varied(dac={"input_range": "calibrated"}))
    calibrate(wanted, [x.detach()], progress=False)
    with torch.no_grad():
        convert(nn.LSTM(4, 6, proj_size=2), HARDWARE).eval()(x.detach())
        layer(x[:1].detach())
    assert not passes
    layer(x.detach())
    assert len(passes) == 1


def test_a_sequence_that_is_no_number_stays_alone():
    layer = convert(nn.GRU(4, 6), HARDWARE).eval()
    x = torch.randn(5, 3, 4)
    set_seed(layer, 1)
    with torch.no_grad():
        want = layer(x)[0]
        x[2, 1, 0] = torch.nan
        set_seed(layer, 1)
        got = layer(x)[0]
    assert got[2:, 1].isnan().all()
    got[:, 1] = want[:, 1] = 0
    assert torch.equal(got, want)


def test_no_sequences_and_one_backend_alone():
    layer = convert(nn.LSTM(4, 6), HARDWARE).eval()
    with torch.no_grad():
        assert layer(torch.zeros(5, 0, 4))[0].shape == (5, 0, 6)
    assert Numba().recurs
    with pytest.raises((NotImplementedError, BackendError)):
        super(Numba, Numba()).recur(torch.zeros(1, 1), Read(MatmulSpec()), None)


def test_a_chip_with_corrected_outputs(passes):
    """Cells as programmed, each output's gain and offset as measured."""
    layer = convert(nn.LSTM(4, 6), HARDWARE.varied(programming={"sigma": 0.1}, weight={"bits": 4})).eval()
    program(layer, 1)
    x = torch.randn(5, 3, 4)
    calibrate_outputs(layer, [x], progress=False)
    assert layer.crossbar_hh_l0.correction.offset.abs().min() > 0
    found = []
    for backend in ("numba", "reference"):
        layer.crossbar_hh_l0.backend = backend
        set_seed(layer, 1)
        with torch.no_grad():
            found.append(layer(x)[0])
    assert len(passes) == 1
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
