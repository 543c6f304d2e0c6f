"""A zoo of networks as people write them: what they hold beside their modules, and how they call it.

Each maps (B, 4) to (B, 3), has linear layers and a ReLU, and is built anew by its function. Those of `COPIED` can be
copied; those of `REFUSED` would go on computing with the original, or cannot be copied at all.
"""

import functools
import threading
import types
import weakref

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

COPIED, REFUSED = {}, {}


def copied(build):
    COPIED[build.__name__] = build
    return build


def refused(build):
    REFUSED[build.__name__] = build
    return build


def inputs(rows=5):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(7))


class Net(nn.Module):
    """The one that the others vary."""

    def __init__(self):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x)))

    def scaled(self, x):
        return 2 * self.fc2(self.relu(self.fc1(x)))

    def louder(self, module, args, output):
        return output * self.fc1.weight.abs().sum()


# --- what can be copied ----------------------------------------------------------------------------------------------


@copied
def plain():
    return Net()


@copied
def nested():
    return nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Sequential(nn.Linear(4, 3))))


@copied
def shared_module():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 3))


@copied
def tied_weights():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    net[2].weight = net[0].weight
    return net


@copied
def tied_to_an_embedding():
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.fc1.weight = self.embedding.weight

        def forward(self, x):
            return super().forward(x + self.embedding(torch.tensor([1])))

    return Tied()


@copied
def forward_hooks():
    net = Net()
    net.fc1.register_forward_hook(lambda module, args, out: out * module.weight.abs().sum())
    net.fc2.register_forward_pre_hook(lambda module, args: (args[0] + module.bias.sum(),))
    net.register_forward_hook(lambda module, args, kwargs, out: 2 * out, with_kwargs=True)
    return net


@copied
def a_bound_method_as_hook():
    net = Net()
    net.fc2.register_forward_hook(net.louder)
    return net


@copied
def state_hooks():
    net = Net()
    net.register_state_dict_post_hook(lambda module, state, *_: state.update(told=module.fc1.bias))
    net.register_load_state_dict_pre_hook(lambda module, state, *_: state.pop("told", None))
    return net


def triple(weight):
    weight.grad.mul_(3)


@copied
def hooks_on_gradients():
    net = Net()
    net.fc1.weight.register_hook(lambda gradient: 2 * gradient)
    net.fc1.weight.register_post_accumulate_grad_hook(triple)
    net.fc1.weight.note = ["no decay"]
    return net


def parametrised(norm):
    def build():
        net = Net()
        norm(net.fc1)
        return net

    return build


for name in ("weight_norm", "spectral_norm", "orthogonal"):
    COPIED[name] = parametrised(getattr(parametrizations, name))


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, weight):
        return weight + self.a @ self.b


@copied
def a_parametrisation_of_its_own():
    net = Net()
    parametrize.register_parametrization(net.fc1, "weight", LowRank())
    return net


@copied
def modules_in_a_list():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = {"layers": [(nn.Linear(4, 4), nn.ReLU())]}
            self.fc, self.relu = nn.Linear(4, 3), nn.ReLU()

        def forward(self, x):
            for layer in self.hidden["layers"][0]:
                x = layer(x)
            return self.fc(self.relu(x))

    return Hidden()


@copied
def registered_modules_in_a_list():
    class Listed(Net):
        def __init__(self):
            super().__init__()
            self.order = [self.fc1, self.relu, self.fc2]

        def forward(self, x):
            for layer in self.order:
                x = layer(x)
            return x

    return Listed()


@copied
def calls_that_are_held():
    class Held(Net):
        def __init__(self):
            super().__init__()
            self.first, self.last = functools.partial(self.fc1), self.fc2.__call__

        def forward(self, x):
            return self.last(self.relu(self.first(x)))

    return Held()


@copied
def a_method_of_the_instance():
    net = Net()
    net.forward = types.MethodType(lambda self, x: self.fc2(self.relu(self.fc1(x))) + 1, net)
    return net


@copied
def its_own_method_as_forward():
    net = Net()
    net.forward = net.scaled
    return net


@copied
def a_compiled_module():
    return torch.compile(Net(), backend="eager")


@copied
def compiled_in_place():
    net = Net()
    net.compile(backend="eager")
    return net


@copied
def a_compiled_function_of_none():
    class Compiled(Net):
        def __init__(self):
            super().__init__()
            self.act = torch.compile(F.gelu, backend="eager")

        def forward(self, x):
            return self.fc2(self.relu(self.act(self.fc1(x))))

    return Compiled()


@copied
def a_teacher_beside_it():
    """A hook that holds a network which is no part of this one: both shall call the same teacher."""
    net, teacher = Net(), Net()
    net.register_forward_hook(lambda module, args, out: out + teacher(args[0]))
    return net


@copied
def recurrent():
    class Recurrent(Net):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            return super().forward(self.lstm(torch.stack([x, -x], 1))[0][:, 1])

    return Recurrent()


@copied
def bare_weights():
    class Bare(Net):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(4)), nn.Buffer(torch.ones(4))

        def forward(self, x):
            return super().forward(x * self.scale + self.shift)

    return Bare()


# --- what cannot -----------------------------------------------------------------------------------------------------


@refused
def a_forward_over_the_old_one():
    net = Net()
    old = net.forward
    net.forward = lambda x: old(x)
    return net


@refused
def a_forward_at_a_prompt():
    """What it closes over is global."""
    space = {"Net": Net}
    exec("net = Net()\nold = net.forward\nnet.forward = lambda x: old(x)", space)
    return space["net"]


@refused
def a_helper_at_a_prompt():
    space = {"Net": Net}
    exec("net = Net()\ndef call(x):\n  return Net.forward(net, x)\nnet.forward = lambda x: call(x)", space)
    return space["net"]


@refused
def a_compiled_forward():
    net = Net()
    net.forward = torch.compile(net.forward, backend="eager")
    return net


@refused
def a_method_over_the_old_one():
    net = Net()
    old = net.forward
    net.forward = types.MethodType(lambda self, x: old(x), net)
    return net


@refused
def a_class_for_this_one():
    net = Net()
    old = net.forward
    net.__class__ = type("Patched", (Net,), {"forward": lambda self, x: old(x)})
    return net


def keeps(attribute):
    """A network whose second layer is reached only through what the attribute's maker holds."""

    class Keeps(Net):
        def __init__(self):
            super().__init__()
            self.kept = attribute(self)

        def forward(self, x):
            kept = self.kept
            while not callable(kept):
                kept = kept["last"] if isinstance(kept, dict) else kept[0]
            return kept(self.relu(self.fc1(x)))

    return Keeps


class Shy(nn.Linear):
    def __deepcopy__(self, memo):
        return self


def defaults(net):
    def call(x, *, layer=net.fc2):
        return layer(x)

    return call


def deep(net):
    def inner(x):
        return net.fc2(x)

    def outer(x):
        return inner(x)

    return outer


def rows_by_a_method(net):
    bound = net.fc2.weight.mv
    return lambda x: torch.stack([bound(row) for row in x])


REFUSED |= {
    "a_lambda": keeps(lambda net: lambda x: net.fc2(x)),
    "a_lambda_over_a_layer": keeps(lambda net: (lambda layer: lambda x: layer(x))(net.fc2)),
    "a_lambda_over_a_weight": keeps(lambda net: (lambda weight: lambda x: F.linear(x, weight))(net.fc2.weight)),
    "a_lambda_in_a_list": keeps(lambda net: [lambda x: net.fc2(x)]),
    "a_lambda_in_a_dict": keeps(lambda net: {"last": [(lambda x: net.fc2(x),)]}),
    "a_default": keeps(lambda net: lambda x, layer=net.fc2: layer(x)),
    "a_keyword_default": keeps(defaults),
    "a_closure_in_a_closure": keeps(deep),
    "a_partial_over_a_lambda": keeps(lambda net: functools.partial(lambda scale, x: net.fc2(x), 1)),
    "a_cache": keeps(lambda net: functools.lru_cache(net.fc2.__call__)),
    "a_compiled_method": keeps(lambda net: torch.compile(net.fc2.__call__, backend="eager")),
    "a_method_of_a_weight": keeps(rows_by_a_method),
    "a_weak_reference": keeps(lambda net: (lambda layer: lambda x: layer()(x))(weakref.ref(net.fc2))),
}


@refused
def a_hook_over_the_network():
    net = Net()
    net.fc1.register_forward_hook(lambda module, args, out: out * net.fc2.weight.sum())
    return net


@refused
def a_pre_hook_over_a_layer():
    net = Net()
    layer = net.fc2
    net.fc1.register_forward_pre_hook(lambda module, args: (args[0] * layer.weight.sum(),))
    return net


@refused
def a_state_hook_over_the_network():
    net = Net()
    net.register_state_dict_post_hook(lambda module, state, *_: state.update(told=net.fc1.bias))
    return net


@refused
def a_gradient_hook_over_the_network():
    net = Net()
    net.fc1.weight.register_hook(lambda gradient: gradient * net.fc2.bias.sum())
    return net


@refused
def a_parametrisation_over_the_network():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, weight):
            return weight * self.scale()

    net = Net()
    parametrize.register_parametrization(net.fc1, "weight", Scaled(lambda: net.fc2.weight.sum()))
    return net


@refused
def a_layer_that_is_its_own_copy():
    net = Net()
    net.fc2 = Shy(6, 3)
    return net


@refused
def a_lock():
    net = Net()
    net.lock = threading.Lock()
    return net


@refused
def a_generator():
    net = Net()
    net.fc1.numbers = (number for number in range(3))
    return net


@refused
def an_object_that_refuses():
    class Refuses:
        def __reduce_ex__(self, protocol):
            raise KeyError("no copy of me")

    net = Net()
    net.thing = [Refuses()]
    return net
