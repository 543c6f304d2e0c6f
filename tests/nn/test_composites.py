"""Transposed convolutions, attention and recurrent layers on crossbars, against naive float64 statements of each."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from analogsim.convert import convert, to_digital
from analogsim.errors import ConversionError, NonFiniteError, ShapeError
from analogsim.kernels.philox import normals
from analogsim.nn import (
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
    AnalogGRU,
    AnalogGRUCell,
    AnalogLinear,
    AnalogLSTM,
    AnalogLSTMCell,
    AnalogMultiheadAttention,
    AnalogRNN,
    AnalogRNNCell,
    Crossbar,
    analog_layers,
    set_seed,
)
from analogsim.profile import HardwareProfile
from analogsim.seeds import Stream

ALPHA, FULL_SCALE, ROWS = 1.5, 2.0, 3
COARSE = HardwareProfile(
    tile={"rows": ROWS}, dac={"bits": 4, "input_range": ALPHA}, adc={"bits": 5, "full_scale": FULL_SCALE}
)
# Not `is_ideal`, so that the analog path runs; exact up to rounding.
EXACT = HardwareProfile(tile={"rows": ROWS}, dac={"input_range": 2.0}, adc={"full_scale": 1e6})
NOISY = COARSE.varied(noise={"output": 0.1})
RANGES = ("input_range", "adc_full_scale")


def crossbar(x, w, bias=None):
    """Design 3.1-3.6 for COARSE, one row of inputs and one column at a time."""
    rows, columns = x.tolist(), w.tolist()
    out = [[0.0] * len(columns) if bias is None else bias.tolist() for _ in rows]
    for (m, row), (n, column) in itertools.product(enumerate(rows), enumerate(columns)):
        w_max = max(map(abs, column))
        for start in range(0, len(row), ROWS):
            total = 0.0
            for value, weight in zip(row[start : start + ROWS], column[start : start + ROWS]):
                total += min(7, max(-7, round(value / ALPHA * 7))) / 7 * weight / w_max
            total = min(FULL_SCALE, max(-FULL_SCALE, total))
            out[m][n] += ALPHA * w_max * round(total / FULL_SCALE * 15) / 15 * FULL_SCALE
    return torch.tensor(out, dtype=torch.float64)


def leaves(value):
    """Tensors of a nested output, PackedSequence included."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in value or () if part is not None for leaf in leaves(part)]


def assert_twin(digital, *args, **kwargs):
    """With exact hardware the analog module gives its twin's outputs and gradients, and converts back to it."""
    analog = convert(digital, EXACT)
    assert {key for key in analog.state_dict() if not key.endswith(RANGES)} == set(digital.state_dict())
    ref, comp = (leaves(module(*args, **kwargs)) for module in (digital, analog))
    assert len(ref) == len(comp)
    for a, b in zip(ref, comp):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)
    for outputs in (ref, comp):
        floats = [out for out in outputs if out.is_floating_point()]
        sum((out * torch.linspace(0.1, 1, out.numel()).view_as(out)).sum() for out in floats).backward()
    for (name, a), b in zip(digital.named_parameters(), analog.parameters()):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    back = to_digital(analog)
    assert [type(module) for module in back.modules()] == [type(module) for module in digital.modules()]
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in digital.state_dict().items())
    ideal = leaves(convert(digital, HardwareProfile())(*args, **kwargs))
    for a, b in zip(ref, ideal):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)


# --- transposed convolutions -----------------------------------------------------------------------------------------

TRANSPOSED = [
    {"kernel_size": 3},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    {"kernel_size": 2, "dilation": 3, "output_padding": 2, "bias": False},
    {"kernel_size": 1, "stride": 3},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
]


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
@pytest.mark.parametrize(
    ("kind", "spatial"), [(nn.ConvTranspose1d, (7,)), (nn.ConvTranspose2d, (5, 6)), (nn.ConvTranspose3d, (3, 4, 5))]
)
def test_transposed_convolution_is_its_twin_on_exact_hardware(kind, spatial, options):
    layer = kind(8, 12, **options)
    assert_twin(layer, torch.randn(2, 8, *spatial))
    layer.zero_grad()
    assert_twin(layer, torch.randn(8, *spatial))


def test_transposed_convolution_reaches_an_output_size():
    layer = nn.ConvTranspose2d(4, 3, 3, stride=2)
    assert_twin(layer, torch.randn(2, 4, 5, 6), output_size=[12, 13])


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_against_the_oracle(groups):
    """A row is an input channel, a column an (output channel, kernel row, kernel column); overlaps add up digitally."""
    layer = AnalogConvTranspose2d(8, 4, (3, 2), stride=(2, 1), padding=(1, 0), groups=groups, profile=COARSE).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    ref = torch.zeros(2, 4, 2 * 2 + 3, 3 + 2, dtype=torch.float64)
    for b, g, i, j in itertools.product(range(2), range(groups), range(3), range(4)):
        channels = slice(g * 8 // groups, (g + 1) * 8 // groups)
        columns = layer.weight[channels].reshape(8 // groups, -1).T
        patch = crossbar(x[b, channels, i, j][None], columns).reshape(4 // groups, 3, 2)
        outputs = slice(g * 4 // groups, (g + 1) * 4 // groups)
        ref[b, outputs, 2 * i : 2 * i + 3, j : j + 2] += patch
    comp = layer(x)
    torch.testing.assert_close(comp, ref[:, :, 1:-1] + layer.bias[:, None, None], atol=1e-12, rtol=0)


def test_transposed_convolution_draws_noise_for_its_products():
    """Group g reads with its own stream; element e of the products (B·H·W, columns) gets normal e of its tile."""
    profile = HardwareProfile(tile={"rows": ROWS}, noise={"output": 0.5}, dac={"input_range": 1.0})
    layer = AnalogConvTranspose2d(8, 2, 1, groups=2, bias=False, profile=profile).double()
    set_seed(layer, 7)
    quiet = copy.deepcopy(layer)
    quiet.profile = HardwareProfile()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    noise = (layer(x) - quiet(x))[0]
    for group in range(2):
        w_max = layer.weight[4 * group : 4 * group + 4].abs().amax()
        ref = sum(normals((6, 1), 7, Stream.READ + group + 1, tile) for tile in range(2)) * 0.5 * w_max
        torch.testing.assert_close(noise[group].reshape(6, 1), ref, atol=1e-12, rtol=0)


def test_transposed_convolution_scales_each_column():
    """One column of eight is large; with a scale of its own it does not cost the others their resolution."""
    layer = AnalogConvTranspose2d(3, 2, 2, bias=False, profile=COARSE)
    with torch.no_grad():
        layer.weight.uniform_(0.1, 0.2)[:, 0, 0, 0] *= 100
    x = torch.full((1, 3, 1, 1), ALPHA / 3)
    ref = nn.functional.conv_transpose2d(x, layer.weight)[0].flatten()[1:]
    torch.testing.assert_close(layer(x)[0].flatten()[1:], ref, atol=0, rtol=0.3)
    layer.profile = COARSE.varied(weight={"w_max": "tensor"})
    assert not layer(x)[0].flatten()[1:].any()


@pytest.mark.parametrize("shape", [(8,), (1, 7, 4, 4), (1, 1, 8, 4, 4)])
def test_transposed_convolution_refuses_other_shapes(shape):
    with pytest.raises(ShapeError, match="AnalogConvTranspose2d"):
        AnalogConvTranspose2d(8, 4, 3, profile=COARSE)(torch.zeros(shape))


def test_transposed_convolution_refuses_an_unreachable_size():
    with pytest.raises(ShapeError, match="valid sizes"):
        AnalogConvTranspose2d(8, 4, 3, profile=COARSE)(torch.zeros(1, 8, 4, 4), output_size=[20, 20])


# --- attention -------------------------------------------------------------------------------------------------------

PADDING = torch.tensor([[False] * 3 + [True] * 2, [False] * 5, [False] * 4 + [True]])
MASKS = [
    {},
    {"key_padding_mask": PADDING},
    {"attn_mask": torch.ones(4, 5).triu(2).bool()},
    {"attn_mask": torch.ones(4, 5).triu(2).bool(), "key_padding_mask": PADDING},
    {"attn_mask": torch.linspace(-1, 1, 120).view(6, 4, 5)},
    {"attn_mask": torch.linspace(-1, 1, 120).view(6, 4, 5), "key_padding_mask": torch.linspace(-1, 0, 15).view(3, 5)},
]
ATTENTIONS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 6, "vdim": 10},
    {"kdim": 6, "add_bias_kv": True, "add_zero_attn": True},
]


@pytest.mark.parametrize("options", ATTENTIONS, ids=str)
@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}], ids=str)
def test_attention_is_its_twin_on_exact_hardware(options, weights):
    layer = nn.MultiheadAttention(8, 2, **options)
    inputs = [torch.randn(3, 4, 8), torch.randn(3, 5, layer.kdim), torch.randn(3, 5, layer.vdim)]
    if not layer.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    for masks in MASKS:
        layer.zero_grad()
        assert_twin(layer, *inputs, **masks, **weights)
    layer.zero_grad()
    unbatched = [x[0] if layer.batch_first else x[:, 0] for x in inputs]
    assert_twin(layer, *unbatched, attn_mask=torch.randn(2, 4, 5), key_padding_mask=torch.randn(5), **weights)


@pytest.mark.parametrize("separate", [False, True])
def test_attention_against_the_oracle(separate):
    options = {"kdim": 5, "vdim": 7} if separate else {}
    layer = AnalogMultiheadAttention(6, 2, batch_first=True, profile=COARSE, **options).double()
    nn.init.normal_(layer.in_proj_bias)
    q, k, v = (torch.randn(1, n, e, dtype=torch.float64) for n, e in ((3, 6), (4, layer.kdim), (4, layer.vdim)))
    weights = (
        (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight) if separate else layer.in_proj_weight.chunk(3)
    )
    q_, k_, v_ = (crossbar(x[0], w, b) for x, w, b in zip((q, k, v), weights, layer.in_proj_bias.chunk(3)))
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = torch.softmax(q_[:, head] @ k_[:, head].T / math.sqrt(3), -1)
        heads.append(scores @ v_[:, head])
    ref = crossbar(torch.cat(heads, 1), layer.out_proj.weight, layer.out_proj.bias)
    for need_weights in (True, False):
        comp = layer(q, k, v, need_weights=need_weights)[0][0]
        torch.testing.assert_close(comp, ref, atol=1e-12, rtol=0)


def test_attention_has_four_crossbars_with_noise_of_their_own():
    layer = convert(nn.MultiheadAttention(8, 2), HardwareProfile(noise={"output": 1.0}, dac={"input_range": 1.0}))
    assert [name for name, _ in analog_layers(layer)] == ["out_proj", "crossbar_q", "crossbar_k", "crossbar_v"]
    x = torch.randn(3, 2, 8)
    with torch.no_grad():
        for part in layer.in_proj_weight.chunk(3):
            part.copy_(torch.eye(8))
    set_seed(layer, 3)
    q, k, v = (layer._crossbar(name).product(x, *layer._projections()[name]) for name in "qkv")
    assert min((q - k).abs().min(), (k - v).abs().min(), (q - v).abs().min()) > 0


def test_attention_noise_does_not_depend_on_batch_first():
    one = AnalogMultiheadAttention(8, 2, profile=NOISY)
    other = AnalogMultiheadAttention(8, 2, batch_first=True, profile=NOISY)
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 3, 8)
    torch.manual_seed(5)
    ref = one(x, x, x)[0]
    torch.manual_seed(5)
    comp = other(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1)
    assert torch.equal(ref, comp)


def test_attention_drops_out_in_training_only():
    layer = AnalogMultiheadAttention(8, 2, dropout=0.5, profile=COARSE)
    x = torch.randn(4, 3, 8)
    for need_weights in (True, False):
        layer.train()
        assert not torch.equal(
            layer(x, x, x, need_weights=need_weights)[0], layer(x, x, x, need_weights=need_weights)[0]
        )
        layer.eval()
        assert torch.equal(layer(x, x, x, need_weights=need_weights)[0], layer(x, x, x, need_weights=need_weights)[0])


def test_attention_runs_the_hooks_of_its_out_projection():
    layer = convert(nn.MultiheadAttention(8, 2), COARSE)
    seen = []
    layer.out_proj.register_forward_hook(lambda *_: seen.append(1))
    layer(*[torch.randn(4, 3, 8)] * 3)
    assert seen == [1]


def test_attention_refuses_what_does_not_fit():
    layer = AnalogMultiheadAttention(8, 2, batch_first=True, profile=COARSE)
    x = torch.zeros(3, 4, 8)
    for inputs, options, message in [
        ((x, x[:, :2], x), {}, "one length"),
        ((x, x[:2], x[:2]), {}, "one batch size"),
        ((x[..., :7], x, x), {}, "features"),
        ((x, x[0], x), {}, "dimensions"),
        ((x, x, x), {"is_causal": True}, "attn_mask"),
        ((x, x, x), {"attn_mask": torch.zeros(4, 3)}, "attn_mask"),
        ((x, x, x), {"attn_mask": torch.zeros(3, 4, 4)}, "attn_mask"),
        ((x, x, x), {"key_padding_mask": torch.zeros(4, 3)}, "key_padding_mask"),
        ((x, x, x), {"attn_mask": torch.zeros(4, 4, dtype=torch.int32)}, "bool or floating"),
    ]:
        with pytest.raises(ShapeError, match=message):
            layer(*inputs, **options)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_attention_refuses_nested_tensors():
    layer = AnalogMultiheadAttention(8, 2, batch_first=True, profile=COARSE).eval()
    x = torch.nested.nested_tensor([torch.zeros(3, 8), torch.zeros(2, 8)])
    with pytest.raises(ShapeError, match="nested"):
        layer(x, x, x)


# --- recurrent -------------------------------------------------------------------------------------------------------

RECURRENT = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 3, "batch_first": True}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "bias": False}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"batch_first": True, "bias": False}),
    (nn.RNN, {"bidirectional": True}),
    (nn.RNN, {"num_layers": 2, "nonlinearity": "relu"}),
]


def states(layer, batch):
    count = layer.num_layers * (1 + layer.bidirectional)
    h = torch.randn(count, batch, layer.proj_size or layer.hidden_size)
    return (h, torch.randn(count, batch, layer.hidden_size)) if isinstance(layer, nn.LSTM) else h


def every(function, state):
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "options"), RECURRENT, ids=str)
def test_recurrent_layer_is_its_twin_on_exact_hardware(kind, options):
    layer = kind(4, 6, **options)
    x = torch.randn(5, 3, 4)
    h = states(layer, 5 if layer.batch_first else 3)
    packed = pack_sequence([torch.randn(n, 4) for n in (3, 6, 1)], enforce_sorted=False)
    for arguments in [
        (x,),
        (x, h),
        (x[:, 0],),
        (x[0], every(lambda part: part[:, 0], h)),
        (packed,),
        (packed, states(layer, 3)),
    ]:
        layer.zero_grad()
        assert_twin(layer, *arguments)


@pytest.mark.parametrize(("kind", "parts"), [(nn.LSTMCell, 2), (nn.GRUCell, 1), (nn.RNNCell, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_cell_is_its_twin_on_exact_hardware(kind, parts, bias):
    layer = kind(4, 6, bias=bias)
    x, h = torch.randn(3, 4), torch.randn(3, 6)
    hx = (h, h + 1) if parts == 2 else h
    for arguments in [(x,), (x, hx), (x[0],), (x[0], every(lambda part: part[0], hx))]:
        layer.zero_grad()
        assert_twin(layer, *arguments)


def test_recurrent_layers_against_the_oracle():
    """Every step's input and hidden state go through crossbars of their own; gates are digital (torch's equations)."""
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    lstm, gru = AnalogLSTM(5, 3, profile=COARSE).double(), AnalogGRU(5, 3, profile=COARSE).double()
    cells = AnalogLSTMCell(5, 3, profile=COARSE).double(), AnalogGRUCell(5, 3, profile=COARSE).double()
    for layer, cell in zip((lstm, gru), cells):
        cell.load_state_dict(
            {key.removesuffix("_l0"): value for key, value in layer.state_dict().items()}, strict=False
        )
    h = c = g = torch.zeros(2, 3, dtype=torch.float64)
    cell_h = cell_c = cell_g = h
    ref_h, ref_g = [], []
    for step in x:
        gates = crossbar(step, lstm.weight_ih_l0, lstm.bias_ih_l0) + crossbar(h, lstm.weight_hh_l0, lstm.bias_hh_l0)
        i, f, n, o = gates.split(3, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(n)
        h = torch.sigmoid(o) * torch.tanh(c)
        ref_h.append(h)
        cell_h, cell_c = cells[0](step, (cell_h, cell_c))
        torch.testing.assert_close(cell_c, c, atol=1e-12, rtol=0)
        from_x = crossbar(step, gru.weight_ih_l0, gru.bias_ih_l0)
        from_h = crossbar(g, gru.weight_hh_l0, gru.bias_hh_l0)
        r, z = torch.sigmoid(from_x + from_h)[:, :3], torch.sigmoid(from_x + from_h)[:, 3:6]
        g = (1 - z) * torch.tanh(from_x[:, 6:] + r * from_h[:, 6:]) + z * g
        ref_g.append(g)
        cell_g = cells[1](step, cell_g)
    out, (last_h, last_c) = lstm(x)
    torch.testing.assert_close(out, torch.stack(ref_h), atol=1e-12, rtol=0)
    torch.testing.assert_close((last_h[0], last_c[0], cell_h), (h, c, h), atol=1e-12, rtol=0)
    out, last = gru(x)
    torch.testing.assert_close(out, torch.stack(ref_g), atol=1e-12, rtol=0)
    torch.testing.assert_close((last[0], cell_g), (g, g), atol=1e-12, rtol=0)


def test_packed_sequences_of_one_length_are_a_batch():
    """Same rows in the same order, hence the same noise."""
    layer = AnalogGRU(4, 6, bidirectional=True, profile=NOISY)
    x = torch.randn(5, 3, 4)
    torch.manual_seed(1)
    ref, ref_h = layer(x)
    torch.manual_seed(1)
    packed, h = layer(pack_sequence(list(x.unbind(1))))
    assert torch.equal(pad_packed_sequence(packed)[0], ref)
    assert torch.equal(h, ref_h)


def test_recurrent_layer_names_its_crossbars():
    layer = AnalogLSTM(4, 6, bidirectional=True, proj_size=2, profile=COARSE)
    parts = ("ih_l0", "hh_l0", "hr_l0", "ih_l0_reverse", "hh_l0_reverse", "hr_l0_reverse")
    assert [name for name, _ in analog_layers(layer)] == [f"crossbar_{part}" for part in parts]


def test_recurrent_layer_drops_out_between_its_layers():
    layer = AnalogLSTM(4, 6, num_layers=2, dropout=0.5, profile=COARSE)
    x = torch.randn(5, 3, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_recurrent_layers_refuse_what_does_not_fit():
    lstm, gru = AnalogLSTM(4, 6, profile=COARSE), AnalogGRU(4, 6, profile=COARSE)
    x, h = torch.zeros(5, 3, 4), torch.zeros(1, 3, 6)
    for call, message in [
        (lambda: lstm(x[..., :3]), "4 features"),
        (lambda: lstm(x[0, 0]), "2 or 3 dimensions"),
        (lambda: lstm(x[:0]), "at least one step"),
        (lambda: lstm(x, h), "pair"),
        (lambda: lstm(x, (h, h[:, :2])), "initial state"),
        (lambda: gru(x, h[0]), "initial state"),
        (lambda: AnalogLSTMCell(4, 6, profile=COARSE)(x[0], (h[0], h[0, :2])), "state"),
        (lambda: AnalogGRUCell(4, 6, profile=COARSE)(x), "AnalogGRUCell"),
        (lambda: AnalogRNNCell(4, 6, profile=COARSE)(x[0, :, :3]), "AnalogRNNCell"),
    ]:
        with pytest.raises(ShapeError, match=message):
            call()


# --- all -------------------------------------------------------------------------------------------------------------

CONSTRUCTED = [
    (AnalogConvTranspose1d, (4, 6, 3), {"stride": 2}),
    (AnalogConvTranspose2d, (4, 6, 3), {"padding": 1}),
    (AnalogConvTranspose3d, (4, 6, 3), {"bias": False}),
    (AnalogMultiheadAttention, (8, 2), {"kdim": 4, "dropout": 0.1}),
    (AnalogLSTM, (4, 6), {"num_layers": 2, "proj_size": 2}),
    (AnalogGRU, (4, 6), {"bidirectional": True}),
    (AnalogRNN, (4, 6), {"nonlinearity": "relu"}),
    (AnalogLSTMCell, (4, 6), {"bias": False}),
    (AnalogGRUCell, (4, 6), {}),
    (AnalogRNNCell, (4, 6), {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_input(value):
    """A dynamic range has no value then; with a constant one NaN passes on and an infinity clips."""
    layer = AnalogLinear(3, 2, profile=HardwareProfile(dac={"bits": 8, "input_range": "dynamic"}))
    x = torch.ones(2, 3)
    x[0, 1] = value
    with pytest.raises(NonFiniteError, match="input holds (nan|inf), so that a dynamic"):
        layer(x)
    layer.profile = layer.profile.varied(dac={"bits": 8, "input_range": 2.0})
    assert bool(layer(x)[0].isnan().all()) == math.isnan(value)
    assert layer(x)[1].isfinite().all()


@pytest.mark.parametrize(("kind", "args", "options"), CONSTRUCTED, ids=lambda value: getattr(value, "__name__", None))
def test_constructor_is_the_twins(kind, args, options):
    """Same arguments, same initial weights from the same seed, same state_dict keys; an instance of the twin."""
    torch.manual_seed(2)
    digital = kind.digital(*args, **options)
    torch.manual_seed(2)
    analog = kind(*args, **options, profile=COARSE, dtype=torch.float32)
    assert isinstance(analog, kind.digital)
    state = analog.state_dict()
    assert {key for key in state if not key.endswith(RANGES)} == set(digital.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in digital.state_dict().items())
    assert all(layer.profile == COARSE for _, layer in analog_layers(analog))
    assert type(to_digital(analog)) is kind.digital


@pytest.mark.parametrize(
    ("kind", "args", "options"), CONSTRUCTED[3:], ids=lambda value: getattr(value, "__name__", None)
)
def test_crossbars_replay_their_noise(kind, args, options):
    options = {key: value for key, value in options.items() if key not in ("kdim", "dropout")}
    module = kind(*args, **options, profile=NOISY)
    x = torch.randn(3, 2, args[0])
    inputs = [x] * 3 if kind is AnalogMultiheadAttention else [x[0] if "Cell" in kind.__name__ else x]

    def run():
        return leaves(module(*inputs))[0].detach()

    torch.manual_seed(4)
    first, second = run(), run()
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert torch.equal(run(), first)
    set_seed(module, 11)
    seeded = run()
    assert not torch.equal(run(), seeded)
    set_seed(module, 11)
    assert torch.equal(run(), seeded)


def test_a_crossbar_alone_computes_nothing():
    layer = Crossbar(COARSE)
    with pytest.raises(ConversionError, match="no matrix of its own"):
        layer(torch.zeros(2, 3))
    with pytest.raises(ConversionError, match="no digital twin"):
        layer.to_digital()


def test_from_digital_refuses_other_classes():
    with pytest.raises(ConversionError, match="AnalogLSTM replaces LSTM, not GRU"):
        AnalogLSTM.from_digital(nn.GRU(2, 3), COARSE)
    with pytest.raises(ConversionError, match="AnalogLinear replaces Linear"):
        AnalogLinear.from_digital(nn.Conv2d(2, 3, 1), COARSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    for module, x in [
        (AnalogConvTranspose2d(4, 2, 3, profile=COARSE), torch.randn(2, 4, 5, 5)),
        (AnalogLSTM(4, 6, profile=COARSE), torch.randn(5, 2, 4)),
        (AnalogGRUCell(4, 6, profile=COARSE), torch.randn(2, 4)),
    ]:
        low = copy.deepcopy(module).to(dtype)
        single = copy.deepcopy(low).float()
        out = leaves(low(x.to(dtype)))[0]
        assert out.dtype == dtype
        close = {"atol": 0.05, "rtol": 0.05}  # hidden states are rounded at every step
        torch.testing.assert_close(out.float(), leaves(single(x.to(dtype).float()))[0], **close)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_a_transposed_convolution_are_those_of_its_programmed_weights(groups):
    profile = HardwareProfile(weight={"bits": 4, "w_max": "tensor"}, dac={"input_range": 4.0})
    analog = AnalogConvTranspose2d(4, 6, 3, stride=2, groups=groups, profile=profile)
    digital = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    with torch.no_grad():
        top = analog.weight.abs().amax()
        digital.weight.copy_((analog.weight / top * 7).round() * top / 7)
        digital.bias.copy_(analog.bias)
    assert not torch.equal(digital.weight, analog.weight)
    grads = []
    for layer in (analog, digital):
        x = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        layer(x).square().sum().backward()
        grads.append((x.grad, layer.weight.grad, layer.bias.grad))
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
