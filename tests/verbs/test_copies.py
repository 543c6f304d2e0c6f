"""Every verb that returns a copy: changing the copy changes only the copy, and changes what the copy computes."""

import dis
import inspect
import types
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

import analogsim as an
from analogsim.errors import AnalogSimWarning, ConversionError
from analogsim.nn.copies import copied, global_names
from tests.support import zoo

PROFILE = an.HardwareProfile(dac={"bits": 8, "input_range": 4.0}, adc={"bits": 8, "full_scale": 8.0})
X = zoo.inputs()
SHARES = "in a copy would go on computing with it|cannot be copied"
LABELS = torch.tensor([0, 1, 2, 0, 1])


def convert(net, **options):
    return an.convert(net, PROFILE, **options)


def inject(net, target="activations", **options):
    return an.inject_noise(net, an.NoiseSpec(sigma=0.1, target=target), **options)


def quantize(net, **options):
    return an.prepare_qat(net, an.QATSpec(scaling="constant", s=0.1, exclude=excluded(net)), **options)


def excluded(net):
    """Return what prepare_qat refuses: subclasses, parametrised layers."""
    kinds = nn.Linear, nn.LSTM
    return tuple(name for name, one in net.named_modules() if isinstance(one, kinds) and type(one) not in kinds)


# name: (what is done to the network itself before, the verb)
VERBS = {
    "convert": ((), convert),
    "to_digital": ((convert,), an.to_digital),
    "convert again": ((convert,), convert),
    "inject_noise": ((), inject),
    "inject_noise, weights": ((), lambda net: inject(net, "weights")),
    "inject_noise, converted": ((convert,), inject),
    "convert, noisy": ((inject,), convert),
    "prepare_qat": ((), quantize),
    "freeze_quantization": ((quantize,), an.freeze_quantization),
    "copied": ((), copied),
}
# What a verb refuses for a reason of its own.
NOISE_ON_WEIGHTS = {"weight_norm", "spectral_norm", "orthogonal", "a_parametrisation_of_its_own"}


@pytest.fixture(autouse=True)
def _fresh(request):
    if "compiled" in request.node.name:
        torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnalogSimWarning)  # of what is not reached, test_unreached.py
        yield


def built(build, before=()):
    torch.manual_seed(1)
    net = build().eval()
    for verb in before:
        verb(net, inplace=True)
    return net


@torch.no_grad()
def output(net):
    torch.manual_seed(2)
    return net(X)


def tensors(net):
    """All that a network computes with, by name: what its modules, and the lists they keep, have of parameters."""
    hidden = [m for value in vars(net).values() for m in _modules_in(value)]
    found = dict(net.named_parameters())
    return found | {f"{n}.{name}": p for n, one in enumerate(hidden) for name, p in one.named_parameters()}


def _modules_in(value):
    if isinstance(value, nn.Module):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [module for one in values for module in _modules_in(one)]


@contextmanager
def changed(*given):
    """Change tensors in place, for a while."""
    before = [tensor.detach().clone() for tensor in given]
    with torch.no_grad():
        for tensor in given:
            tensor.mul_(-1.5).add_(0.7)
        yield
        for tensor, value in zip(given, before):
            tensor.copy_(value)


def check(verb, net):
    """Each weight of the copy decides what the copy computes, and only that."""
    made = verb(net)
    assert made is not net
    first, copys = output(net), output(made)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    parts = tensors(made)
    assert len(parts) >= len(tensors(net)) > 0  # more where a weight was tied to an embedding, and is quantized now
    for name, tensor in parts.items():
        with changed(tensor):
            assert torch.equal(output(net), first), f"the copy's {name} changed the original"
            assert all(torch.allclose(value, state[key], 0, 0, True) for key, value in net.state_dict().items())
            assert not torch.equal(output(made), copys), f"the copy does not compute with its {name}"
    with changed(*tensors(net).values()):
        assert not torch.equal(output(net), first)
        assert torch.equal(output(made), copys), "the original's weights changed the copy"


def product(names, fast):
    """Every verb on every network; the verbs that are not named run with -m slow."""
    return [
        pytest.param(verb, name, id=f"{verb}-{name}", marks=() if verb in fast else pytest.mark.slow)
        for verb in VERBS
        for name in names
        if not (verb == "inject_noise, weights" and name in NOISE_ON_WEIGHTS)
    ]


@pytest.mark.parametrize(("verb", "name"), product(zoo.COPIED, {"convert", "inject_noise", "prepare_qat"}))
def test_a_copy_computes_with_its_own_weights(verb, name):
    before, verb = VERBS[verb]
    check(verb, built(zoo.COPIED[name], before))


@pytest.mark.parametrize(("verb", "name"), product(zoo.REFUSED, {"convert"}))
def test_what_would_compute_with_the_original_is_refused(verb, name):
    before, verb = VERBS[verb]
    net = built(zoo.REFUSED[name], () if "own_copy" in name else before)
    with pytest.raises(ConversionError, match=f"{SHARES}|would share|is a subclass|no layer is|computed from other"):
        verb(net)


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_in_place_nothing_is_shared(name):
    """The same networks convert in place: the noise and the converters are then on what they call."""
    net = built(zoo.REFUSED[name])
    keep = "fc2" if name == "a_layer_that_is_its_own_copy" else ()
    before = output(net)
    if name != "a_lambda_over_a_weight":  # which no layer is called for
        assert not torch.equal(output(an.convert(net, PROFILE, keep_digital=keep, inplace=True)), before)
    net = built(zoo.REFUSED[name])
    assert not torch.equal(output(inject(net, inplace=True)), before)


@pytest.mark.parametrize("name", [name for name in zoo.REFUSED if "own_copy" not in name])
def test_verbs_that_copy_inside_refuse_too(name):
    data = (X, LABELS)
    with pytest.raises(ConversionError, match=SHARES):
        an.noise_sweep(built(zoo.REFUSED[name]), data, [0.5], 1, progress=False)
    with pytest.raises(ConversionError, match=SHARES):
        an.cost(built(zoo.REFUSED[name]), PROFILE, (4,))
    net = convert(built(zoo.REFUSED[name]), inplace=True)
    with pytest.raises(ConversionError, match=SHARES):
        an.noise_budget(net, X, repeats=1, progress=False)


@pytest.mark.parametrize("name", ["plain", "forward_hooks", "a_compiled_module", "weight_norm"])
def test_verbs_that_copy_inside_see_the_weights_and_leave_them(name):
    pytest.importorskip("optuna")

    def figures(net):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        state = torch.get_rng_state()
        curve = an.noise_sweep(net, (X, LABELS), [0.2, 1.0], 3, progress=False)
        an.cost(net, PROFILE, (4,))
        budget = an.noise_budget(convert(net), X, repeats=1, progress=False)
        found = an.design_search(net, [(X, LABELS)], {"adc.bits": [4, 5]}, calibration=[X], trials=2, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        assert net.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        return curve.noise_free, curve.accuracies.tolist(), budget.equivalent_sigma, found.accuracy

    net = built(zoo.COPIED[name])
    first = figures(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-2)
    assert figures(net)[2] != first[2]


# --- what a copy keeps -----------------------------------------------------------------------------------------------


def gradient(net):
    net.fc1.weight.grad = None
    torch.manual_seed(2)
    net(X).sum().backward()
    return net.fc1.weight.grad


@pytest.mark.parametrize("verb", ["convert", "inject_noise", "prepare_qat", "freeze_quantization", "copied"])
def test_hooks_on_gradients_and_attributes_of_parameters_are_kept(verb):
    before, verb = VERBS[verb]
    made = verb(built(zoo.hooks_on_gradients, before))
    bare = verb(built(zoo.plain, before))
    torch.testing.assert_close(gradient(made), 6 * gradient(bare))
    assert made.fc1.weight.note == ["no decay"]


# --- layers whose forward is held ------------------------------------------------------------------------------------


class HoldsForward(zoo.Net):
    def __init__(self, hold):
        super().__init__()
        self.last = hold(self.fc2)

    def forward(self, x):
        last = self.last[0] if isinstance(self.last, list) else self.last
        return last(self.relu(self.fc1(x)))


HOLDS = {
    "bound": lambda layer: layer.forward,
    "listed": lambda layer: [layer.forward],
    "partial": lambda layer: partial(nn.Linear.forward, layer),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("hold", HOLDS)
def test_a_held_forward_of_a_plain_layer_is_refused(hold, inplace):
    for verb in (convert, inject, quantize):
        with pytest.raises(ConversionError, match="last: holds the forward of fc2.*hold the layer itself"):
            verb(HoldsForward(HOLDS[hold]), inplace=inplace)


def test_a_layers_own_replaced_forward_is_heard_in_place():
    net = zoo.Net().eval()
    old = net.fc1.forward
    net.fc1.forward = lambda x: 2 * old(x)
    before = output(net)
    assert not torch.equal(output(inject(net, inplace=True)), before)


# --- TorchScript -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_script_modules_are_refused():
    scripted = torch.jit.script(zoo.Net())
    traced = torch.jit.trace(zoo.Net(), X)
    for model in (scripted, traced, nn.Sequential(nn.Linear(4, 4), nn.ReLU(), scripted)):
        for verb in (convert, inject, quantize):
            with pytest.raises(ConversionError, match="TorchScript has compiled Net.*before torch.jit.script"):
                verb(model)
    kept = an.convert(model, PROFILE, keep_digital="2")
    assert [name for name, _ in an.analog_layers(kept)] == ["0"]
    check(lambda net: an.convert(net, PROFILE, keep_digital="2"), model)


# --- the row itself --------------------------------------------------------------------------------------------------


def test_the_row_itself():
    """`m.forward = lambda z: old(z)`, a compiled forward, a lambda over self in `__init__`: the copy equalled m."""
    for name in ("a_forward_over_the_old_one", "a_compiled_forward", "a_lambda"):
        net = built(zoo.REFUSED[name])
        with pytest.raises(ConversionError, match=r"(forward|kept): a function there holds a .*inplace=True"):
            an.convert(net, PROFILE)


def test_a_lock_is_a_conversion_error_that_names_it():
    cases = {"a_lock": "Net.lock", "a_generator": "fc1.numbers", "an_object_that_refuses": "Net.thing"}
    for name, where in cases.items():
        with pytest.raises(ConversionError, match=rf"{where}: cannot be copied \(.*inplace=True"):
            an.convert(zoo.REFUSED[name](), PROFILE)


# --- what a function reads -------------------------------------------------------------------------------------------


def code_of(*modules):
    """All code of modules, and of one function with more names than an instruction can count to."""
    many = "\n".join(f"  n{i}.a{i}, n{i}.call()" for i in range(300))
    todo = [compile(f"def wide():\n{many}\nn0", "", "exec")]
    todo += [compile(inspect.getsource(module), module.__name__, "exec") for module in modules]
    for one in todo:
        yield one
        todo += [constant for constant in one.co_consts if isinstance(constant, types.CodeType)]


def test_the_globals_that_code_reads_are_those_of_its_disassembly():
    """On this version of Python, whose instructions are read as they lie in memory."""
    count = 0
    for code in code_of(dis, inspect, types, nn.modules.activation):
        steps = dis.get_instructions(code)
        assert global_names(code) == {s.argval for s in steps if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        count += 1
    assert count > 200
