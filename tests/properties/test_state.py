"""State: whatever is done to a network's tensors, every layer stays on its chip, in its ranges; or it says so."""

import copy
import io
import math
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import analogsim as an
from analogsim.errors import CalibrationError, ProgrammingError
from analogsim.nn import analog_layers
from analogsim.qat.layers import FixedQuantizer
from tests.support.chips import LAWS

PROFILE = an.HardwareProfile(
    tile={"rows": 8},
    dac={"bits": 8},
    adc={"bits": 8, "full_scale": "calibrated", "per": "tile", "gain_error": 0.05},
    cells={"mapping": "differential"},
    programming={"sigma": 0.05},
    drift=LAWS,
)
KINDS = {
    "linear": (lambda: nn.Linear(12, 5), (6, 12)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, groups=2), (2, 6, 7)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(6, 4, 3, groups=2), (2, 6, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 3, 2, stride=2), (2, 4, 3, 3)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 2, 2, 2)),
    "lstm": (lambda: nn.LSTM(5, 4, bidirectional=True, batch_first=True), (2, 3, 5)),
    "gru": (lambda: nn.GRU(5, 4, num_layers=2), (3, 2, 5)),
    "rnn": (lambda: nn.RNN(5, 4), (3, 2, 5)),
    "lstm_cell": (lambda: Twice(nn.LSTMCell(5, 4)), (2, 5)),
    "gru_cell": (lambda: Twice(nn.GRUCell(5, 4)), (2, 5)),
    "rnn_cell": (lambda: Twice(nn.RNNCell(5, 4)), (2, 5)),
    "attention": (lambda: Attention(), (2, 4, 8)),
    "quantized": (lambda: frozen(), (6, 8)),
}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Twice(nn.Module):
    """Two steps of a cell: in the first its state is 0."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x, self.cell(x))


def frozen():
    """A network whose quantizers are done with training: they have a scale each."""
    model = an.prepare_qat(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), an.QATSpec(weight_bits=4))
    model(torch.randn(64, 8, generator=torch.Generator().manual_seed(4)))
    return an.freeze_quantization(model.eval())


def bare(kind):
    """A converted network that was neither calibrated nor programmed; the same weights each time."""
    make, shape = KINDS[kind]
    torch.manual_seed(3)
    return an.convert(make(), PROFILE).eval(), torch.randn(shape)


def ready(kind):
    """The network on an aged chip, with noise at its input, and its inputs."""
    model, x = bare(kind)
    an.calibrate(model, [x], progress=False)
    an.program(model, 7)
    an.at_time(model, 3600.0)
    if not kind.startswith(("lstm", "gru", "rnn", "attention")):  # whose parts `inject_noise` does not see
        an.inject_noise(model, an.NoiseSpec(sigma=0.0, multiplicative=0.01, seed=11), inplace=True)
    return model, x


def answer(model, x):
    """What a network says, with its reads and sites as after `set_seed`."""
    for site in an.noise_sites(model.model[0] if isinstance(model, Called) else model).values():
        site.calls = 0
    with torch.no_grad():
        out = model(x)
    while isinstance(out, tuple):
        out = out[0]
    return out


def held(model):
    """All that layers and quantizers hold, by name."""
    layers = {
        name: (
            *(
                layer.chip_seed,
                layer.chip_seconds,
                [-99.0 if math.isnan(v) else v for v in layer.calibrated_for or ()],
            ),  # NaN is not NaN
            *(layer.input_range.tolist(), layer.adc_full_scale.tolist()),
        )
        for name, layer in analog_layers(model)
    }
    steps = {name: float(m.scale) for name, m in model.named_modules() if isinstance(m, FixedQuantizer)}
    sites = {name: (s.sigma, s.multiplicative, s.seed, s.index) for name, s in an.noise_sites(model).items()}
    return layers, steps, sites


def averaged(model, **options):
    """Averages of a model with itself: what is no quantity must not notice."""
    mean = AveragedModel(model, **options)
    for _ in range(4):
        mean.update_parameters(model)
    return mean.module.eval()


def plain_average(old, new, count):
    return old * 0.7 + new * 0.3  # through floats, whatever the tensor holds


def averaged_states(model):
    """An average of `state_dict`s in place, as many a library keeps it."""
    mean = copy.deepcopy(model)
    with torch.no_grad():
        for old, new in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
            old.copy_(old * 0.9 + new * 0.1)
    return mean


def emptied(model):
    state = {name: value.clone() for name, value in model.named_parameters()}
    state |= {name: value.clone() for name, value in model.named_buffers() if name.endswith("scale")}
    model = copy.deepcopy(model).to_empty(device="cpu")
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name in state and not name.endswith("adc_full_scale"):
                value.copy_(state[name])
    return model


def replica(model):
    """As torch.nn.parallel.replicate makes it: shallow copies, whose tensors are attributes."""
    copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, twin in copies.items():
        for key, child in module._modules.items():
            twin._modules[key] = None if child is None else copies[child]
        for key, value in module._parameters.items():
            setattr(twin, key, None if value is None else value.detach())
    return copies[model]


def functional(model):
    tensors = {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    return Called(model, tensors)


class Called(nn.Module):
    def __init__(self, model, tensors):
        super().__init__()
        self.model, self.tensors = [model], tensors

    def forward(self, x):
        return torch.func.functional_call(self.model[0], self.tensors, (x,))


def saved(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


OPERATIONS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "average": lambda model: averaged(model, use_buffers=True),
    "average of weights": averaged,
    "moving average": lambda model: averaged(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    "average through floats": lambda model: averaged(model, avg_fn=plain_average, use_buffers=True),
    "average of states": averaged_states,
    "to_empty": emptied,
    "double and back": lambda model: copy.deepcopy(model).double().float(),
    "cpu": lambda model: copy.deepcopy(model).to("cpu", torch.float32),
    "share_memory": lambda model: copy.deepcopy(model).share_memory(),
    "replicate": replica,
    "functional_call": functional,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_stays_on_its_chip_and_in_its_ranges(kind):
    model, x = ready(kind)
    want, before = answer(model, x), held(model)
    for name, operation in OPERATIONS.items():
        other = operation(model)
        torch.testing.assert_close(answer(other, x), want, rtol=1e-5, atol=1e-6, msg=name)
        if name == "average through floats":  # 0.7 x + 0.3 x is x to rounding
            assert [layer[:3] for layer in held(other)[0].values()] == [layer[:3] for layer in before[0].values()]
        elif name != "functional_call":
            torch.testing.assert_close(held(other), before, msg=name)
        assert held(model) == before, name
    torch.testing.assert_close(answer(model, x), want, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_puts_another_network_on_the_chip(kind):
    model, x = ready(kind)
    an.remove_noise(model)
    want, there = answer(model, x), held(model)
    for how in ("strict", "assign", "assign to meta", "safetensors", "to_empty"):
        other, _ = bare(kind)
        state = load(save(model.state_dict())) if how == "safetensors" else saved(model)
        if how in ("assign to meta", "to_empty"):
            other.to("meta")
        if how == "to_empty":
            other.to_empty(device="cpu")
        other.load_state_dict(state, assign=how.startswith("assign"))
        assert held(other) == there, how
        torch.testing.assert_close(answer(other, x), want, rtol=0, atol=0, msg=how)
    # A digital network's state has neither chip nor ranges: they stay.
    own = "input_range", "adc_full_scale", "chip_seed", "chip_seconds", "calibrated_for"
    other.load_state_dict({key: value for key, value in state.items() if not key.endswith(own)})
    assert held(other) == there


def test_half_precision_and_meta_keep_the_chip():
    model, _ = ready("conv2d")
    before = held(model)
    torch.testing.assert_close(held(model.half()), before)
    assert model.input_range.dtype == torch.float32
    lost = copy.deepcopy(model).to("meta").to_empty(device="cpu").float()
    assert (lost.chip_seed, lost.chip_seconds) == before[0][""][:2]
    with pytest.raises(CalibrationError, match="never set"):  # ranges cannot survive without memory, and say so
        lost(torch.zeros(1, 3, 5, 5))


def test_a_learned_range_survives_as_a_parameter():
    model, x = ready("linear")
    an.remove_noise(model)
    (alpha,) = an.learn_ranges(model)
    want = answer(model, x)
    for name, operation in OPERATIONS.items():
        torch.testing.assert_close(answer(operation(model), x), want, rtol=1e-5, atol=1e-6, msg=name)
    assert next(p for p in model.parameters() if p.ndim == 0) is alpha
    lost = copy.deepcopy(model).to("meta")
    assert lost.input_range.is_meta
    assert lost.to_empty(device="cpu").input_range.isnan()


def test_states_from_before_the_check_are_loaded():
    model, x = ready("linear")
    state = saved(model)
    words = state["chip_seed"]
    assert words.shape == (2,)
    other, _ = bare("linear")
    other.load_state_dict(state | {"chip_seed": words[0]})
    assert held(other)[0] == held(model)[0]
    # Whole networks, too, whose buffers they once were.
    old = copy.deepcopy(model)
    del old.chip_seed, old.chip_seconds
    old.register_buffer("chip_seed", words[0])
    old.register_buffer("chip_seconds", state["chip_seconds"])
    new = pickle.loads(pickle.dumps(old))
    assert held(new) == held(model)
    assert an.program(new, 3) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda seed: seed.float(),
        lambda seed: seed.double(),
        lambda seed: (seed.float() * 0.9 + seed.float() * 0.1).long(),
        lambda seed: seed // 2 + seed // 3,
        lambda seed: seed + 1,
        lambda seed: seed.int(),
        lambda seed: -seed,
        lambda seed: seed[:0],
        lambda seed: seed[1],
        lambda seed: seed.repeat(2),
    ],
)
def test_what_is_no_seed_any_more_is_refused(damage):
    """A sign apart, the second word alone is a seed, as seeds were saved once: it has no check."""
    model, _ = ready("linear")
    state = saved(model)
    state["chip_seed"] = damage(state["chip_seed"])
    if state["chip_seed"].shape == ():
        state["chip_seed"] = -state["chip_seed"]
    with pytest.raises(ProgrammingError, match="those of no chip"):
        bare("linear")[0].load_state_dict(state)


@pytest.mark.parametrize(
    "age", [torch.tensor(-1.0), torch.tensor(math.inf), torch.tensor(math.nan), torch.tensor(3600)]
)
def test_an_age_that_is_none_is_refused(age):
    model, _ = ready("linear")
    state = saved(model) | {"chip_seconds": age if age.dtype == torch.int64 else age.double()}
    with pytest.raises(ProgrammingError, match="those of no chip"):
        bare("linear")[0].load_state_dict(state)


def test_calibration_and_programming_add_no_buffer():
    """So averages that were begun before them still have tensors of the same meaning side by side."""
    model, x = bare("linear")
    names = [name for name, _ in model.named_buffers()]
    an.calibrate(model, [x], progress=False)
    an.program(model, 1)
    assert [name for name, _ in model.named_buffers()] == names
    assert {"chip_seed", "chip_seconds", "calibrated_for"} < set(model.state_dict())
