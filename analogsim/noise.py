"""The paper's abstract noise: Gaussian, on a network's input and on the output of its layers, or on its weights."""

import copy
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import ConversionError, ProfileError, ShapeError
from .kernels import add_noise
from .profile import explain

Target = Literal["activations", "weights"]
Sigma = float | Tensor

_CONV_LINEAR: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear)
_ACTIVATIONS = tuple(
    kind
    for kind in vars(nn.modules.activation).values()
    if isinstance(kind, type)
    and issubclass(kind, nn.Module)
    and kind.__module__ == nn.modules.activation.__name__
    and kind is not nn.MultiheadAttention
)
_POOLS = tuple(kind for name, kind in vars(nn).items() if "Pool" in name and isinstance(kind, type))
_SITES = (*_CONV_LINEAR, *_ACTIVATIONS, *_POOLS)
_ATTRIBUTES = {"activations": "noise_site", "weights": "weight_noise_site"}


class NoiseSpec(BaseModel):
    """What noise to inject, and where.

    Examples
    --------
    >>> NoiseSpec(sigma=0.5, layers={"input": 0.0}).sigma
    0.5
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    sigma: Annotated[float, Field(ge=0)] = 0.0
    """σ of additive noise N(0, σ²), in the units of the tensor that it is added to."""
    multiplicative: Annotated[float, Field(ge=0)] = 0.0
    """σ_m of multiplicative noise, relative (no unit): x becomes x·(1 + N(0, σ_m²))."""
    target: Target = "activations"
    """activations: the input and the output of every convolution, linear, activation and pooling layer; weights: the
    weight of every convolution and linear layer, drawn anew at every forward."""
    layers: dict[str | int, Annotated[float, Field(ge=0)]] = {}
    """σ of single sites, by the layer's name ("input" for the network's input) or the site's index."""
    train: bool = True
    """Whether there is noise in training mode."""
    eval: bool = True
    """Whether there is noise in evaluation mode."""
    seed: int | None = None
    """Fixes the numbers of each call; null: drawn from torch's default generator, as torch.manual_seed decides."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(f"NoiseSpec: {explain(error)}") from None


class NoiseSite:
    """One place where noise enters: a forward hook with its settings.

    Attributes
    ----------
    name, index : str, int
        The layer's name ("input" for the network's input), and the position among the sites.
    sigma, multiplicative : float or Tensor (batch,)
        Standard deviations, in units of the tensor and relative; a tensor has one value per sample.
    train, eval : bool
        Whether there is noise in training and in evaluation mode.
    seed : int or None
    """

    def __init__(self, name: str, index: int, spec: NoiseSpec) -> None:
        self.name, self.index = name, index
        self.sigma: Sigma = spec.sigma
        self.multiplicative: Sigma = spec.multiplicative
        self.train, self.eval, self.seed = spec.train, spec.eval, spec.seed
        self.calls = 0
        self.handles: list[Any] = []

    def perturb(self, x: Tensor, training: bool) -> Tensor:
        """Return x with this site's noise; x itself where there is none."""
        if not (self.train if training else self.eval) or not (_positive(self.sigma) or _positive(self.multiplicative)):
            return x
        if not x.is_floating_point():
            raise ShapeError(f"noise site {self.name!r}: a floating-point tensor is needed, got {x.dtype}")
        if self.seed is None:
            seed, call = int(torch.randint(2**63 - 1, ()).item()), 0
        else:
            self.calls += 1
            seed, call = self.seed, self.calls
        stream = (self.index << 32) + call
        return _AddNoise.apply(x, _per_sample(self.sigma, x), _per_sample(self.multiplicative, x), seed, stream)

    # Hooks: what torch calls them with is fixed.

    def on_output(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Perturb a layer's output (the first one where there are several)."""
        if isinstance(output, tuple):
            return (self.perturb(output[0], module.training), *output[1:])
        return self.perturb(output, module.training)

    def on_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Perturb a network's first input."""
        return (self.perturb(inputs[0], module.training), *inputs[1:]) if inputs else inputs

    def shadow(self, module: nn.Module, inputs: Any) -> None:
        """Put a noisy weight before the parameter while the layer computes."""
        weight: Any = module.weight
        noisy = self.perturb(weight, module.training)
        if noisy is not weight:
            module.__dict__["weight"] = noisy

    def unshadow(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Take the noisy weight away again."""
        module.__dict__.pop("weight", None)


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
        if _positive(ctx.multiplicative):
            g = _draw(g, 0.0, ctx.multiplicative, ctx.seed, ctx.stream)
        return g, None, None, None, None


def inject_noise(model: nn.Module, spec: NoiseSpec, *, inplace: bool = False) -> nn.Module:
    """Inject noise into a network.

    For activations (the default) the sites are, as in the paper, the network's input and the output of every convolution,
    linear, activation and pooling layer, the last linear layer included: 12 of them in LeNet-5. Injecting again
    replaces the settings of the same target; noise on activations and on weights can be on one network together.

    Parameters
    ----------
    model : nn.Module
        Any network; its structure and `state_dict` keys stay as they are.
    spec : NoiseSpec
    inplace : bool
        Change the model itself instead of a copy.

    Raises
    ------
    ConversionError
        The model has no layer to inject noise into, or `spec.layers` names one that it has not.
    """
    if not inplace:
        model = copy.deepcopy(model)
    remove_noise(model, spec.target)
    kinds = _CONV_LINEAR if spec.target == "weights" else _SITES
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if not found:
        wanted = "convolution or linear" if spec.target == "weights" else "convolution, linear, activation or pooling"
        raise ConversionError(f"{type(model).__name__}: no {wanted} layer to inject noise into")
    attribute = _ATTRIBUTES[spec.target]
    if spec.target == "activations":
        site = NoiseSite("input", 0, spec)
        site.handles.append(model.register_forward_pre_hook(site.on_input))
        model.input_noise_site = site  # type: ignore[assignment]
    offset = 1 if spec.target == "activations" else 2**16
    for number, (name, module) in enumerate(found):
        site = NoiseSite(name or type(module).__name__, offset + number, spec)
        if spec.target == "weights":
            site.handles.append(module.register_forward_pre_hook(site.shadow))
            site.handles.append(module.register_forward_hook(site.unshadow, always_call=True))
        else:
            site.handles.append(module.register_forward_hook(site.on_output))
        setattr(module, attribute, site)
    set_noise(model, layers=spec.layers, target=spec.target)
    return model


def noise_sites(model: nn.Module, target: Target = "activations") -> dict[str, NoiseSite]:
    """Return a network's noise sites by name, in order; empty where none were injected."""
    sites = []
    for module in model.modules():
        sites += [
            vars(module)[name] for name in ("input_noise_site",) if target == "activations" and name in vars(module)
        ]
        sites += [vars(module)[name] for name in (_ATTRIBUTES[target],) if name in vars(module)]
    return {site.name: site for site in sorted(sites, key=lambda site: site.index)}


def set_noise(
    model: nn.Module,
    sigma: Sigma | None = None,
    *,
    multiplicative: Sigma | None = None,
    layers: Mapping[str | int, float] | None = None,
    train: bool | None = None,
    eval: bool | None = None,
    target: Target = "activations",
) -> None:
    """Change injected noise without rebuilding the network; what is None stays.

    Parameters
    ----------
    sigma, multiplicative : float or Tensor (batch,), optional
        Set at every site.
    layers : mapping, optional
        σ of single sites by name or index, set after `sigma`.
    train, eval : bool, optional
    target : {"activations", "weights"}

    Raises
    ------
    ConversionError
        The network has no such noise sites.
    """
    sites = noise_sites(model, target)
    if not sites:
        raise ConversionError(f"{type(model).__name__}: no noise on {target}; inject_noise(model, NoiseSpec(…)) first")
    for site in sites.values():
        for name, value in (("sigma", sigma), ("multiplicative", multiplicative), ("train", train), ("eval", eval)):
            if value is not None:
                setattr(site, name, value)
    names = list(sites)
    for key, value in (layers or {}).items():
        name = names[key] if isinstance(key, int) and -len(names) <= key < len(names) else key
        if name not in sites:
            raise ConversionError(f"layers: no noise site {key!r}; there are {len(names)}: {', '.join(names)}")
        sites[name].sigma = value


def remove_noise(model: nn.Module, target: Target | None = None) -> None:
    """Take injected noise (of one target, or all) out of a network, itself."""
    for module in model.modules():
        names = [name for kind, name in _ATTRIBUTES.items() if target in (None, kind)]
        names += ["input_noise_site"] if target != "weights" else []
        for name in names:
            site = vars(module).pop(name, None)
            for registry in (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called):
                for key in [key for key, hook in registry.items() if site is not None and _owner(hook) is site]:
                    del registry[key]


def _owner(hook: Callable[..., Any] | bool) -> Any:
    return getattr(hook, "__self__", None)


def _positive(value: Sigma) -> bool:
    return bool((value > 0).any()) if isinstance(value, Tensor) else value > 0


def _per_sample(value: Sigma, x: Tensor) -> Sigma:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return float(value)
    if len(value) != len(x):
        raise ShapeError(f"σ has {len(value)} values for a batch of {len(x)}")
    return value.to(x.device, torch.float32).reshape(-1, *[1] * (x.ndim - 1))


def _draw(x: Tensor, sigma: Sigma, multiplicative: Sigma, seed: int, stream: int) -> Tensor:
    if x.device.type == "cuda":
        # torch's own generator: reproducible for one seed and kind of GPU, but not the CPU's numbers.
        generator = torch.Generator(x.device).manual_seed((seed ^ (stream * 0x9E3779B97F4A7C15)) & 0x7FFFFFFFFFFFFFFF)
        n1 = torch.empty_like(x).normal_(generator=generator)
        out = x * (1 + multiplicative * n1) if _positive(multiplicative) else x
        return out + sigma * torch.empty_like(x).normal_(generator=generator)
    low = x.dtype in (torch.float16, torch.bfloat16)
    return add_noise(x.float() if low else x, sigma, multiplicative, seed, stream).to(x.dtype)
