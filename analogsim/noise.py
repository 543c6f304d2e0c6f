"""The paper's abstract noise: Gaussian, on a network's input and on the output of its layers, or on its weights.

Reproducibility: on the CPU, and on CUDA devices where Triton is installed, noise comes from `kernels.add_noise`, so a
seed gives the same numbers on every machine and for every number of threads. Elsewhere (and for float64 on a GPU) it
comes from torch's own generator, seeded with the same key: a run replays on the same kind of device, but its numbers
are not those of the CPU.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import ConversionError, NonFiniteError, ProfileError, ShapeError
from .kernels import add_noise, uncompiled
from .kernels.dispatch import find
from .kernels.memory import refuse_unreal
from .kernels.philox import seed_of_call
from .nn.copies import copied, refuse_held_forwards, refuse_script
from .nn.known import is_activation, its_weight, like
from .nn.reach import matrices, warn_of_weights
from .quantities import Target
from .restore import restored
from .seeds import Key, Stream, derive, next_call, numbered
from .value import NonNegative, Value, explain, whole

__all__ = ["NoiseSite", "NoiseSpec", "inject_noise", "noise_sites", "remove_noise", "set_noise"]

Sigma = float | Tensor


def _numbered(key: Any) -> Any:
    return int(key[1:]) if isinstance(key, str) and re.fullmatch(r"#-?\d+", key) else key


# JSON knows no numbers as keys: there, and in texts, site number 3 is "#3" (a layer may well be called "3").
SiteKey = Annotated[
    str | int,
    BeforeValidator(_numbered),
    PlainSerializer(lambda key: f"#{key}" if isinstance(key, int) else key, when_used="json"),
]

_ACTIVATIONS = tuple(getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__)
_POOLS = tuple(kind for name, kind in vars(nn).items() if "Pool" in name and isinstance(kind, type))
_ATTRIBUTES = {"activations": "noise_site", "weights": "weight_noise_site"}
_INPUT = "input_noise_site"
_STREAMS: dict[Target, Stream] = {"activations": Stream.ACTIVATIONS, "weights": Stream.WEIGHTS}


class NoiseSpec(Value):
    """What noise to inject, and where.

    Raises
    ------
    ProfileError
        A value is impossible, or a key is unknown.

    Examples
    --------
    >>> NoiseSpec(sigma=0.5, layers={"input": 0.0}).sigma
    0.5
    """

    sigma: NonNegative = 0.0
    """σ of additive noise N(0, σ²), in the units of the tensor that it is added to."""
    multiplicative: NonNegative = 0.0
    """σ_m of multiplicative noise, relative (no unit): x becomes x·(1 + N(0, σ_m²))."""
    target: Target = "activations"
    """activations: the input and the output of every convolution, linear, activation and pooling layer; weights: the
    weight of every convolution and linear layer, drawn anew at every forward."""
    layers: dict[SiteKey, NonNegative] = {}
    """σ of single sites, by the layer's name ("input" for the network's input) or the site's position (3 or "#3")."""
    extra: tuple[str, ...] = ()
    """Class names of further modules whose outputs are sites, such as "BatchNorm2d" (activations only)."""
    train: bool = True
    """Whether there is noise in training mode."""
    eval: bool = True
    """Whether there is noise in evaluation mode."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    """Call number n of a site draws the same numbers in every run. null: the numbers are decided by torch's default
    generator (torch.manual_seed), at each call."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(f"NoiseSpec: {explain(error, type(self))}") from None

    @model_validator(mode="after")
    def _extra_sites_are_outputs(self) -> Self:
        if self.extra and self.target == "weights":
            raise ValueError("extra names further outputs to disturb; with target='weights' leave it out")
        return self


class NoiseSite:
    """One place where noise enters: what its forward hook does, with its settings, which may be assigned at any time.

    Attributes
    ----------
    name, index : str, int
        The layer's name ("input" for the network's input), and the position among the sites.
    sigma, multiplicative : float or Tensor (batch,)
        Standard deviations, in units of the tensor and relative; a tensor has one value per sample.
    train, eval : bool
        Whether there is noise in training and in evaluation mode (of the layer).
    seed : int or None
        Explicit seed, or None: drawn from torch's default generator at each call.
    """

    def __init__(self, name: str, index: int, spec: NoiseSpec, sigma: float) -> None:
        self.name, self.index = name, index
        self.sigma: Sigma = sigma
        self.multiplicative: Sigma = spec.multiplicative
        self.train, self.eval, self.seed = spec.train, spec.eval, spec.seed
        self.stream = _STREAMS[spec.target]
        self.calls = 0

    def __repr__(self) -> str:
        return f"NoiseSite({self.name!r}, sigma={self.sigma}, multiplicative={self.multiplicative})"

    @uncompiled
    def perturb(self, x: Tensor, training: bool) -> Tensor:
        """Return x with this site's noise; x itself where there is none.

        Raises
        ------
        ShapeError
            x is not a floating-point tensor, or there is not one σ per sample.
        NonFiniteError
            σ is negative, infinite or NaN.
        """
        if not (self.train if training else self.eval) or (_zero(self.sigma) and _zero(self.multiplicative)):
            return x
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ShapeError(
                f"noise site {self.name!r}: a floating-point tensor is needed, got "
                f"{x.dtype if isinstance(x, Tensor) else type(x).__name__}; set sigma and multiplicative of it to 0"
            )
        if x.is_meta:
            return x  # it holds no numbers
        refuse_unreal(x)
        sigma, multiplicative = self._level("sigma", x), self._level("multiplicative", x)
        seed = seed_of_call(self.seed, x.device, training)
        seed, stream = numbered(seed, self.stream, self.index, 0 if self.seed is None else next_call(self))
        forward_mode = torch.autograd.forward_ad._current_level >= 0  # autograd refuses what would lose a tangent
        if forward_mode or (x.requires_grad and torch.is_grad_enabled()):
            return _AddNoise.apply(x, sigma, multiplicative, seed, stream)
        return _draw(x, sigma, multiplicative, seed, stream)

    def _level(self, name: str, x: Tensor) -> Sigma:
        """Return a checked σ: a number, or a tensor that broadcasts over x."""
        value = getattr(self, name)
        if isinstance(value, Tensor) and value.ndim:
            batch = len(x) if x.ndim else 1
            if value.numel() != batch:
                raise ShapeError(f"noise site {self.name!r}: {name} has {value.numel()} values for a batch of {batch}")
            return value.detach().to(x.device, _wide(x.dtype)).reshape((-1, *[1] * (x.ndim - 1)) if x.ndim else ())
        if not 0 <= value < math.inf:
            raise NonFiniteError(f"noise site {self.name!r}: {name} must be finite and not negative, got {value}")
        return float(value)

    # Hooks: what torch calls them with is fixed.

    def on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Perturb a layer's output (the first one where there are several)."""
        if isinstance(output, tuple):
            return (self.perturb(output[0], module.training), *output[1:])
        return self.perturb(output, module.training)

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Perturb a network's first input; integers (token ids) have no noise."""

        def perturbed(x: Any) -> Any:
            whole = isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())
            return x if whole else self.perturb(x, module.training)

        if args:
            return (perturbed(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs), None)
        return args, kwargs if first is None else kwargs | {first: perturbed(kwargs[first])}

    def on_call(self, module: nn.Module, args: Any) -> None:
        """Do nothing, visibly: before torch's TransformerEncoderLayer bypasses `forward`, it looks for hooks."""


@uncompiled
def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer with noisy weights in the place of its parameters."""
    site: NoiseSite = vars(module)[_ATTRIBUTES["weights"]]
    pairs = _weights(site.name, module)
    try:
        for owner, key in pairs:
            weight: Any = owner._parameters[key]
            noisy = site.perturb(weight, module.training)
            if noisy is not weight:
                vars(owner)[key] = noisy  # attributes come before parameters
        return type(module).forward(module, *args, **kwargs)
    finally:
        for owner, key in pairs:
            vars(owner).pop(key, None)


def replaced_forward(module: nn.Module) -> bool:
    """Say whether something other than noise on weights stands in the place of a module's forward."""
    return getattr(vars(module).get("forward", partial(_forward)), "func", None) is not _forward


class _AddNoise(torch.autograd.Function):
    """x·(1 + σ_m·n₁) + σ·n₂; the gradient is g·(1 + σ_m·n₁), with n₁ drawn again instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Sigma, multiplicative: Sigma, seed: int, stream: int) -> Tensor:
        ctx.multiplicative, ctx.seed, ctx.stream = multiplicative, seed, stream
        return _draw(x, sigma, multiplicative, seed, stream)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        if not _zero(ctx.multiplicative):
            g = _draw(g, 0.0, ctx.multiplicative, ctx.seed, ctx.stream)
        return g, None, None, None, None


def inject_noise(model: nn.Module, spec: NoiseSpec, *, inplace: bool = False) -> nn.Module:
    """Inject noise into a network.

    For activations (the default) the sites are, as in the paper, the network's input and the output of every
    convolution, linear, activation and pooling module, the last linear layer included: 12 of them in LeNet-5. Noise is
    drawn anew at each call and independently at each site, in training and in evaluation, as the spec says.

    Parameters
    ----------
    model : nn.Module
        Any network; its structure and `state_dict` keys stay as they are.
    spec : NoiseSpec
        Injecting again replaces what was injected for the same target; noise on activations and on weights can be on
        one network together.
    inplace : bool
        Change the model itself instead of a copy.

    Returns
    -------
    nn.Module

    Raises
    ------
    ConversionError
        The model has no layer to inject noise into, `spec.layers` or `spec.extra` names what it has not, or weight
        noise is asked for on a weight that is not a plain parameter, or the model cannot be copied.

    Warns
    -----
    UnreachedWarning
        Matrices are in layers that are no sites: recurrent ones, classes of their own, bare parameters.

    Notes
    -----
    Only modules are seen: torch.nn.functional.relu in a network's forward is no site. A module that is called twice
    draws twice. An input of integers, such as token ids, stays as it is. The gradient passes additive noise unchanged
    and is multiplied by the same (1 + σ_m·n) as the signal. Weight noise reaches the parameter's gradient likewise; in
    a quantized or an analog layer it disturbs the digital weight, before it is quantized or programmed. torch.compile
    breaks its graph at each site (fullgraph=True refuses). With an explicit seed, torch.utils.checkpoint would draw
    different noise in its second forward; without one it repeats the first.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> noisy = an.inject_noise(net, an.NoiseSpec(sigma=0.5, layers={"input": 0.0}))
    >>> {name: site.sigma for name, site in an.noise_sites(noisy).items()}
    {'input': 0.0, '0': 0.5, '1': 0.5, '2': 0.5}
    >>> noisy(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """
    return injected(model, spec, inplace, "inject_noise")


def injected(model: nn.Module, spec: NoiseSpec, inplace: bool, verb: str) -> nn.Module:
    """Inject noise for a verb, which the warning is to name; see `inject_noise`."""
    plan = _plan(model, spec)
    sigmas = _by_name(spec.layers, list(plan))
    if spec.target == "weights":
        for name, module in plan.items():
            _weights(name, module)
            if replaced_forward(module):
                raise ConversionError(f"{name}: something else has replaced its forward; take that away first")
    refuse_held_forwards(model, plan.values())
    _warn(model, spec, plan, verb)
    if not inplace:
        model = copied(model)
        plan = _plan(model, spec)
    remove_noise(model, spec.target)
    for index, (name, module) in enumerate(plan.items()):
        site = NoiseSite(name, index, spec, sigmas.get(name, spec.sigma))
        if spec.target == "weights":
            module.register_forward_pre_hook(site.on_call)
            module.forward = partial(_forward, module)  # no hook: it must clean up however the forward ends
        elif index == 0:
            module.register_forward_pre_hook(site.on_input, with_kwargs=True)
        else:
            module.register_forward_hook(site.on_output)
        is_input = spec.target == "activations" and index == 0
        setattr(module, _INPUT if is_input else _ATTRIBUTES[spec.target], site)
    return model


def _warn(model: nn.Module, spec: NoiseSpec, plan: dict[str, nn.Module], verb: str) -> None:
    """Warn of matrices whose layers are no sites."""
    if spec.target == "weights":
        reached = {id(owner._parameters[key]) for name, layer in plan.items() for owner, key in _weights(name, layer)}
        advice = "make them layers of torch (nn.Linear, …, in an nn.ModuleList)"
        warn_of_weights(verb, matrices(model), reached, "are not disturbed", advice)
        return
    layers = [module for module in plan.values() if module is not model or _is_site(model, spec.target)]
    reached = {id(parameter) for layer in layers for parameter in layer.parameters()}
    advice = "extra=(…) of the NoiseSpec makes their class a site, with a σ of 0 in its `layers` if it shall have none"
    warn_of_weights(verb, matrices(model), reached, "are in layers whose outputs are not disturbed", advice)


def sited_layers(model: nn.Module, target: Target) -> dict[str, nn.Module]:
    """Return the layers that have noise sites, by name; the network's input is none."""
    return {_layer_name(path, m): m for path, m in model.named_modules() if _ATTRIBUTES[target] in vars(m)}


def noise_sites(model: nn.Module, target: Target = "activations") -> dict[str, NoiseSite]:
    """Return a network's noise sites by name, in order; empty where none were injected.

    Parameters
    ----------
    model : nn.Module
    target : {"activations", "weights"}

    Returns
    -------
    dict
        Name → `NoiseSite`, whose settings may be assigned at any time; the network's input is called "input".

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> list(an.noise_sites(an.inject_noise(net, an.NoiseSpec(sigma=0.1, target="weights")), "weights"))
    ['0', '2']
    """
    sites: dict[str, NoiseSite] = {}
    for path, module in model.named_modules():
        if target == "activations" and _INPUT in vars(module):
            sites[f"{path}.input".lstrip(".")] = vars(module)[_INPUT]
        if _ATTRIBUTES[target] in vars(module):
            sites[_layer_name(path, module)] = vars(module)[_ATTRIBUTES[target]]
    return sites


def set_noise(
    model: nn.Module,
    sigma: Sigma | None = None,
    *,
    multiplicative: Sigma | None = None,
    layers: Mapping[str | int, Sigma] | None = None,
    train: bool | None = None,
    eval: bool | None = None,
    target: Target = "activations",
) -> None:
    """Change injected noise without rebuilding the network; what is None stays.

    Parameters
    ----------
    model : nn.Module
        With noise injected; changed in place.
    sigma, multiplicative : float or Tensor (batch,), optional
        Set at *every* site, also where a σ of its own was set by `layers` before.
    layers : mapping, optional
        σ of single sites by name or position, set after `sigma`.
    train, eval : bool, optional
        Whether there is noise in training and in evaluation mode.
    target : {"activations", "weights"}

    Raises
    ------
    ConversionError
        The network has no such noise sites.
    NonFiniteError
        A σ is negative, infinite or NaN.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> noisy = an.inject_noise(net, an.NoiseSpec())
    >>> an.set_noise(noisy, 0.3, layers={"2": 1.0}, train=False)
    >>> [(site.sigma, site.train) for site in an.noise_sites(noisy).values()]
    [(0.3, False), (0.3, False), (0.3, False), (1.0, False)]
    """
    sites = noise_sites(model, target)
    if not sites:
        raise ConversionError(f"{type(model).__name__}: no noise on {target}; inject_noise(model, NoiseSpec(…)) first")
    own = _by_name(layers or {}, list(sites))
    for name, value in {"sigma": sigma, "multiplicative": multiplicative, **own}.items():
        if value is not None and not isinstance(value, Tensor) and not 0 <= value < math.inf:
            raise NonFiniteError(f"set_noise, {name}: must be finite and not negative, got {value}")
    for site in sites.values():
        for name, value in (("sigma", sigma), ("multiplicative", multiplicative), ("train", train), ("eval", eval)):
            if value is not None:
                setattr(site, name, value)
    for name, value in own.items():
        sites[name].sigma = value


def all_sites(model: nn.Module) -> list[NoiseSite]:
    """Return a network's noise sites, those of activations first."""
    return [site for target in _STREAMS for site in noise_sites(model, target).values()]


@contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Keep a network's sites silent in evaluation, for as long as the context lasts."""
    sites = all_sites(model)
    with restored(sites, "eval"):
        for site in sites:
            site.eval = False
        yield


def remove_noise(model: nn.Module, target: Target | None = None) -> None:
    """Take injected noise (of one target, or all) out of a network, itself.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    target : {"activations", "weights"}, optional
        Default: both.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> noisy = an.inject_noise(net, an.NoiseSpec(sigma=0.5))
    >>> an.remove_noise(noisy)
    >>> an.noise_sites(noisy)
    {}
    """
    attributes = [name for kind, name in _ATTRIBUTES.items() if target in (None, kind)]
    attributes += [_INPUT] if target != "weights" else []
    for module in model.modules():
        sites = [vars(module).pop(name, None) for name in attributes]
        if target != "activations" and getattr(vars(module).get("forward"), "func", None) is _forward:
            del module.forward
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                site = getattr(hook, "__self__", None)
                if isinstance(site, NoiseSite) and any(site is one for one in sites):
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)


def _plan(model: nn.Module, spec: NoiseSpec) -> dict[str, nn.Module]:
    """Return where noise enters, by name and in order; for activations the first is the network's input."""
    # torch's MultiheadAttention reads the weights of `out_proj` without calling it.
    inner = [module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    found, matched = {}, set()
    for path, module in model.named_modules():
        refuse_script(path, module, "")
        extra = {kind.__name__ for kind in type(module).__mro__}.intersection(spec.extra)
        matched |= extra
        if (_is_site(module, spec.target) or extra) and not any(module is one for one in inner):
            found[_layer_name(path, module)] = module
    if missing := set(spec.extra) - matched:
        raise ConversionError(f"{type(model).__name__}: extra: no module is a {', '.join(sorted(missing))}")
    if not found:
        wanted = "convolution or linear" if spec.target == "weights" else "convolution, linear, activation or pooling"
        raise ConversionError(
            f"{type(model).__name__}: no {wanted} module to inject noise into; functions such as "
            "torch.nn.functional.relu are not seen, use modules such as torch.nn.ReLU"
        )
    return found if spec.target == "weights" else {"input": model, **found}


def _is_site(module: nn.Module, target: Target) -> bool:
    """Return whether noise enters at a module's output, or on its weights."""
    row = like(module)
    weighted = row is not None and row.weights is not None
    return weighted or (
        target == "activations" and (isinstance(module, (*_ACTIVATIONS, *_POOLS)) or is_activation(module))
    )


def _layer_name(path: str, module: nn.Module) -> str:
    """Return a layer's name; one that is called "input" makes room for the network's input."""
    return "input.output" if path == "input" else path or type(module).__name__


def _by_name(layers: Mapping[str | int, Any], names: list[str]) -> dict[str, Any]:
    """Return per-layer values by name."""
    values = {}
    for key, value in layers.items():
        place = None if isinstance(key, str) else whole(key, "layers: a site's position", ConversionError)
        name = names[place] if place is not None and -len(names) <= place < len(names) else key
        if name not in names:
            raise ConversionError(f"layers: no noise site {key!r}; there are {len(names)}: {', '.join(names)}")
        values[name] = value
    return values


def _weights(name: str, module: Any) -> list[tuple[nn.Module, str]]:
    """Return whose parameters, and which, are the weights of a layer."""
    row = like(module)
    pairs = its_weight(module) if row is None or row.weights is None else row.weights(module)
    for owner, key in pairs:
        if owner._parameters.get(key) is None:
            raise ConversionError(
                f"{name}: its {key} is computed from other parameters (parametrised or pruned), so that noise cannot "
                "be put on it; make it a plain parameter first (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.prune.remove)"
            )
    return pairs


def _zero(value: Sigma) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: half precision would round the noise."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _draw(x: Tensor, sigma: Sigma, multiplicative: Sigma, seed: int, stream: int) -> Tensor:
    if x.device.type != "cpu" and find(x.device.type, x.dtype).fast:  # in half precision, too: it computes in float32
        return add_noise(x, sigma, multiplicative, seed, stream)
    wide = x.to(_wide(x.dtype))
    if x.device.type == "cpu":
        return add_noise(wide, sigma, multiplicative, seed, stream).to(x.dtype)
    generator = torch.Generator(x.device).manual_seed(derive(seed, Key.ELSEWHERE, stream))
    # The numbers follow the contiguous layout: the gradient's may differ from x's.
    out, n = wide, torch.empty(x.shape, dtype=wide.dtype, device=x.device)
    if not _zero(multiplicative):
        out = out * n.normal_(generator=generator).mul_(multiplicative).add_(1)
    if not _zero(sigma):
        out = n.normal_(generator=generator).mul_(sigma).add_(out)
    return out.to(x.dtype)
