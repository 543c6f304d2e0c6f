"""Networks of one structure as one network: their channels side by side, so that one call of a layer does for all.

An image batch is (B, G·C, H, W), network g having channels g·C … (g+1)·C - 1, and features are (B, G·F) likewise. Then
pooling, activation functions, dropout, flattening and sums need no change, batch normalisation is one of G·C channels,
a convolution is a grouped one, and a linear layer is a batched matrix product. Networks do not see each other.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConversionError
from ...nn.copies import copied
from ...nn.known import exactly, like
from ...qat import QuantReLU, activation_quantizer, weight_quantizer

Convolve = Literal["grouped", "separate", "unfolded"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# What treats every channel, or every element, by itself.
ALIKE = tuple(
    getattr(nn, name)
    for name in (
        "Identity Dropout Dropout1d Dropout2d AlphaDropout ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Tanh "
        "Sigmoid Softplus Softsign Hardtanh Hardsigmoid Hardswish LogSigmoid MaxPool1d MaxPool2d AvgPool1d AvgPool2d "
        "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveAvgPool1d AdaptiveAvgPool2d ZeroPad2d Upsample"
    ).split()
)
DROPOUTS = (nn.modules.dropout._DropoutNd,)
TOLERANCE = 1e-6
"""Of the largest logit, in float64. A network that cannot be packed is wrong by all of it."""


class PackedConv(nn.Module):
    """Convolutions of G networks: (B, G·C, …) → (B, G·C', …).

    Parameters
    ----------
    layers : sequence of nn.Conv1d or nn.Conv2d
        One a network, alike but for their weights.
    how : {"grouped", "separate", "unfolded"}
        One grouped convolution; one call a network; or, in two dimensions, every image unfolded and one batched matrix
        product.
    """

    def __init__(self, layers: Sequence[Any], how: Convolve) -> None:
        super().__init__()
        first = layers[0]
        if first.padding_mode != "zeros":
            raise ConversionError(f"padding_mode={first.padding_mode!r}")
        self.networks, self.how = len(layers), how
        row = like(first)
        assert row is not None
        assert row.packed is not None
        self.convolve = row.packed
        self.stride, self.padding, self.dilation, self.groups = (
            getattr(first, name) for name in ("stride", "padding", "dilation", "groups")
        )
        self.weight = _joined([layer.weight for layer in layers])
        self.bias = None if first.bias is None else _joined([layer.bias for layer in layers])
        self.quantize = WeightQuantizer.of(layers)
        self.disturb: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight, settings = _used(self), (self.stride, self.padding, self.dilation)
        n, unfolded = self.networks, self.how == "unfolded" and self.convolve is F.conv2d
        if unfolded and self.groups == 1 and not isinstance(self.padding, str):
            return self._unfolded(x, weight)
        if self.how != "separate":
            return self.convolve(x, weight, self.bias, *settings, n * self.groups)
        biases = [None] * n if self.bias is None else self.bias.chunk(n)
        parts = zip(x.chunk(n, 1), weight.chunk(n), biases)
        return torch.cat([self.convolve(*part, *settings, self.groups) for part in parts], 1)

    def _unfolded(self, x: Tensor, weight: Tensor) -> Tensor:
        size = weight.shape[2:]
        columns = F.unfold(x, size, self.dilation, self.padding, self.stride)  # (B, G·C·kernel, positions)
        rows = weight.view(self.networks, -1, weight[0].numel())  # (G, C', C·kernel)
        out = torch.matmul(rows, columns.unflatten(1, (self.networks, -1))).flatten(1, 2)
        if self.bias is not None:
            out = out + self.bias[:, None]
        reach = zip(x.shape[2:], size, self.stride, self.padding, self.dilation)
        return out.unflatten(2, [(n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, step, pad, far in reach])


class PackedLinear(nn.Module):
    """Linear layers of G networks: (B, G·F) → (B, G·F').

    Parameters
    ----------
    layers : sequence of nn.Linear
        One a network, alike but for their weights.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.networks = len(layers)
        self.weight = _joined([layer.weight for layer in layers])
        self.bias = None if layers[0].bias is None else _joined([layer.bias for layer in layers])
        self.quantize = WeightQuantizer.of(layers)
        self.disturb: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        n = self.networks
        weight = _used(self)
        weight = weight.view(n, -1, weight.shape[1]).transpose(1, 2)  # (G, F, F')
        columns = x.view(len(x), n, -1).transpose(0, 1)  # (G, B, F)
        if self.bias is None:
            out = torch.bmm(columns, weight)
        else:
            out = torch.baddbmm(self.bias.view(n, 1, -1), columns, weight)
        return out.transpose(0, 1).reshape(len(x), -1)


class WeightQuantizer:
    """Brevitas' weight quantizer of constant bits, for G networks' weights in one tensor.

    scale = max |w| / (2^(b-1) - 1) of an output channel, or of a network; q = scale · round(w / scale). Gradients are
    straight-through, and reach the scale's largest weight, as Brevitas' do.
    """

    def __init__(self, networks: int, bits: int, per_channel: bool, smallest: float) -> None:
        self.networks, self.per_channel, self.smallest = networks, per_channel, smallest
        self.levels = 2 ** (bits - 1) - 1

    @classmethod
    def of(cls, layers: Sequence[nn.Module]) -> "WeightQuantizer | None":
        """Return the quantizer of packed layers; None where they have none."""
        facts = weight_quantizer(layers[0])
        return None if facts is None else cls(len(layers), *facts)

    def __call__(self, weight: Tensor) -> Tensor:
        """Quantize (G·O, …)."""
        rows = weight.flatten(1) if self.per_channel else weight.view(self.networks, -1)
        scale = rows.abs().max(1, keepdim=True).values
        scale = scale + (scale.clamp_min(self.smallest) - scale).detach()
        scale = scale / self.levels
        # Nothing to clip: the largest weight is the largest level.
        return (_Round.apply(rows / scale) * scale).view_as(weight)


class PackedQuantizer(nn.Module):
    """Brevitas' unsigned activation quantizer of constant range, with a scale for each of G networks.

    Parameters
    ----------
    scales : sequence of float
        Quantization steps, activation units.
    bits : int
    """

    scale: Tensor

    def __init__(self, scales: Sequence[float], bits: int) -> None:
        super().__init__()
        self.highest = 2**bits - 1
        self.register_buffer("scale", torch.tensor(scales).view(-1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize (B, G·C, …); straight-through gradient, 0 where it clips."""
        steps = x.reshape(len(x), len(self.scale), -1) / self.scale
        # As Brevitas: rounded first, so that the gradient ends half a step outside the range; and no torch.clamp, which
        # has no gradient at the lowest and the highest level.
        levels = _Round.apply(steps)
        levels = torch.where(levels > self.highest, self.highest, levels)
        return (torch.where(levels < 0, 0, levels) * self.scale).view_as(x)


class _Round(torch.autograd.Function):
    """Nearest integer; straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def pack(networks: Sequence[nn.Module], how: Convolve = "separate") -> nn.Module:
    """Return one network that computes what all of them do.

    Parameters
    ----------
    networks : sequence of nn.Module
        Of one structure. They stay as they are; only their weights differ, and the range of constant quantizers.
    how : {"grouped", "separate", "unfolded"}
        Convolutions: see `PackedConv`.

    Returns
    -------
    nn.Module
        (B, G·C, …) → (B, G·classes); its `state_dict` has the networks' keys, with their tensors joined along the
        first dimension, and one number of batches for all.

    Raises
    ------
    ConversionError
        They differ, or there is a module that is not known to treat channels by themselves.
    """
    first = networks[0]
    for module in first.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise ConversionError(f"{type(module).__name__}: hooks, or injected noise, of its own cannot be shared")
    owners = [id(p) for module in first.modules() for p in module.parameters(recurse=False)]
    if len(owners) != len(set(owners)):
        raise ConversionError(f"{type(first).__name__}: layers that share a weight cannot be trained in a group")
    return _packed("", networks, how, {})


def _packed(name: str, modules: Sequence[Any], how: Convolve, done: dict[int, nn.Module]) -> nn.Module:
    first = modules[0]
    if id(first) in done:
        return done[id(first)]
    kind = type(first)
    where = f"{name or kind.__name__}: {kind.__name__}"
    if any(type(other) is not kind for other in modules):
        raise ConversionError(f"{where}: the networks differ")
    row = like(first) if hasattr(first, "weight_quant") else exactly(kind)
    try:
        if row is not None and row.packed is F.linear:
            made: nn.Module = PackedLinear(_alike(modules))
        elif row is not None and row.packed is not None:
            made = PackedConv(_alike(modules), how)
        elif kind in NORMS:
            made = _norm(modules)
        elif kind is QuantReLU:
            made = _quantized_relu(modules)
        elif kind in ALIKE:
            made = copy.deepcopy(first)
        elif kind is nn.Flatten:
            if (first.start_dim, first.end_dim) != (1, -1):
                raise ConversionError("only nn.Flatten(1, -1) keeps networks apart")
            made = copy.deepcopy(first)
        elif kind.__module__.startswith("torch.") and kind not in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            raise ConversionError("not known to treat channels by themselves")
        elif first._parameters or first._buffers:
            raise ConversionError("has weights or buffers of its own, which only its forward knows how to use")
        else:
            made = _shell(first)
            for child, below in first._modules.items():
                if below is not None:
                    inner = [module._modules[child] for module in modules]
                    made._modules[child] = _packed(f"{name}.{child}".lstrip("."), inner, how, done)
    except ConversionError as error:
        text = str(error)
        raise ConversionError(text if ": " in text else f"{where}: {text}: it cannot be trained in a group") from None
    made.train(first.training)
    done[id(first)] = made
    return made


def split(state: Mapping[str, Tensor], networks: int) -> list[dict[str, Tensor]]:
    """Return each network's part of a packed network's tensors, as tensors of their own on the CPU."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(networks)]
    for name, value in state.items():
        whole = value.detach().cpu()
        pieces = [whole] * networks if not whole.ndim else whole.chunk(networks)
        for part, piece in zip(parts, pieces):
            part[name] = piece.clone()
    return parts


def join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return networks' tensors in one, as `split` took them apart."""
    return {
        name: value.clone() if not value.ndim else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }


@torch.no_grad()
def check_pack(networks: Sequence[nn.Module], how: Convolve, images: Tensor, device: torch.device) -> None:
    """Try copies of networks singly and packed, on images of each one's own, without dropout.

    Parameters
    ----------
    networks : sequence of nn.Module
    how : {"grouped", "separate", "unfolded"}
    images : Tensor (B, C, H, W)
        At least 2.
    device : torch.device

    Raises
    ------
    ConversionError
        The packed network does not compute what they do: its forward mixes channels, or reshapes them apart.
    """
    title = type(networks[0]).__name__
    # In float64, where rounding neither tips a quantizer's level nor is as coarse as a GPU's TF32.
    images = images.to(device, torch.float64)
    inputs = [images.roll(number, 0) * (1 - number / (2 * len(networks))) for number in range(len(networks))]
    singles = [copied(network).to(device, torch.float64) for network in networks]
    packed = pack(singles, how)
    for network in (*singles, packed):
        network.train()
        for module in network.modules():
            if isinstance(module, DROPOUTS):
                module.eval()
    wanted = torch.stack([network(x) for network, x in zip(singles, inputs)], 1)
    try:
        out = packed(torch.cat(inputs, 1)).view(wanted.shape)
    except (RuntimeError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise ConversionError(f"{title}: its forward cannot be shared by several networks ({line})") from error
    worst = (out - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
    if worst > TOLERANCE:
        raise ConversionError(
            f"{title}: its forward does not keep the channels of several networks apart (logits differ by {worst:.0%})"
        )


def _shell(module: Any) -> Any:
    """Return a module of the same children, which may be replaced, and without a hook in common."""
    made = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict | set):
            vars(made)[name] = copy.copy(value)
    return made


def _used(layer: Any) -> Tensor:
    """Return the weight that a packed layer computes with."""
    weight = layer.weight
    if layer.disturb is not None and layer.training:
        weight = layer.disturb(weight)
    return weight if layer.quantize is None else layer.quantize(weight)


def _joined(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([tensor.detach() for tensor in tensors]), tensors[0].requires_grad)


def _alike(layers: Sequence[Any]) -> Sequence[Any]:
    if any(layer.extra_repr() != layers[0].extra_repr() for layer in layers):
        raise ConversionError("the networks differ")
    if len({weight_quantizer(layer) for layer in layers}) > 1:
        raise ConversionError("the networks' quantizers differ")
    return layers


def _norm(layers: Sequence[Any]) -> nn.Module:
    first = _alike(layers)[0]
    made = type(first)(
        first.num_features * len(layers), first.eps, first.momentum, first.affine, first.track_running_stats
    )
    state = join([layer.state_dict() for layer in layers])
    like = next((value for value in state.values() if value.is_floating_point()), None)
    if like is not None:  # else its numbers would be rounded to float32, which torch refuses to mix with float64
        made.to(like)
    made.load_state_dict(state)
    return made


def _quantized_relu(modules: Sequence[Any]) -> nn.Module:
    facts = [activation_quantizer(module) for module in modules]
    bits = facts[0][1]
    if any(other != bits for _, other in facts):
        raise ConversionError("the networks' quantizers differ")
    made = _shell(modules[0])
    made.quant = nn.Identity() if bits is None else PackedQuantizer([step for step, _ in facts], bits)
    return made
