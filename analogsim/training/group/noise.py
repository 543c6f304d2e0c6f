"""The noise of a packed network's training: at the sites of `inject_noise`, each network with its own σ."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConversionError
from ...noise import NoiseSite, NoiseSpec
from ..noise import TrainingNoise
from ..spec import TrainSpec


def site_sigmas(network: nn.Module, spec: TrainSpec) -> dict[str, float]:
    """Return the σ of every noise site of a training, by name and in order; empty where it is silent.

    Raises
    ------
    ConversionError
        The network has no such site, or noise already.
    """
    with TrainingNoise(network, spec) as noise:
        return {site.name: sigma for site, sigma in noise.sites}


class PackedNoise:
    """x·(1 + σ_m·n₁) + σ·n₂ at the sites of a packed network, in training mode; σ and σ_m are each network's own.

    Parameters
    ----------
    packed : nn.Module
        `pack`'s; hooks are put on it.
    specs : sequence of TrainSpec
        One a network, of one `target`.
    sigmas : sequence of dict
        `site_sigmas` of each.
    device : torch.device
    fused : bool
        Draw by `kernels.add_noise` (in one pass, on the CPU) instead of torch's generator of the device.

    Notes
    -----
    The numbers are one batched draw: those of a network depend on torch's random state and on its place in the group.
    """

    def __init__(
        self,
        packed: nn.Module,
        specs: Sequence[TrainSpec],
        sigmas: Sequence[Mapping[str, float]],
        device: torch.device,
        fused: bool,
    ) -> None:
        self.specs, self.networks, self.fused, self.device = specs, len(specs), fused, device
        self.names = list(next((own for own in sigmas if own), {}))
        rows = [[own.get(name, 0.0) for own in sigmas] for name in self.names]
        self.sigma = torch.tensor(rows).view(len(self.names), self.networks)  # (S, G)
        self.sites = [NoiseSite(name, index, NoiseSpec(), 0.0) for index, name in enumerate(self.names)]
        self.multiplicative = any(spec.multiplicative for spec in specs)
        self.levels = self.constant = torch.zeros(len(self.names), 1, self.networks)
        self.varying: Tensor | None = None
        self.factors = torch.zeros(1, self.networks)
        if not self.names:
            return
        target, modules = specs[0].target, dict(packed.named_modules())
        for index, name in enumerate(self.names):
            if not (self.multiplicative or self.sigma[index].any()):
                continue
            if target == "weights":
                layer: Any = modules[name] if name in modules else packed
                if layer.quantize is not None:
                    raise ConversionError(f"{name}: noise on quantized weights cannot be drawn for a group")
                layer.disturb = partial(self._disturbed, index, batch=1)
            elif index == 0:
                packed.register_forward_pre_hook(partial(self._on_input, index))
            else:
                # A layer that is called "input" made room for the network's input; a network that is one layer has a
                # site by its class's name.
                path = "input" if name == "input.output" else name
                modules.get(path, packed).register_forward_hook(partial(self._on_output, index))

    def begin(self, epoch: int) -> None:
        """Set what σ is in an epoch (from 0) but for what `draw` varies: the only numbers that go to the device."""
        ramp, mean, spread, factor = torch.tensor(
            [
                (spec.ramp(epoch), *((v.mean, v.spread) if (v := spec.variance) else (1.0, 0.0)), spec.multiplicative)
                for spec in self.specs
            ],
            dtype=torch.float32,
        ).T
        self.factors = (ramp * factor).view(1, -1).to(self.device)
        sigma = self.sigma[:, None]  # (S, 1, G)
        self.levels = self.constant = (ramp * sigma * mean).to(self.device)
        self.varying = (ramp * (sigma > 0) * spread).to(self.device) if spread.any() else None

    def draw(self, z: Tensor) -> None:
        """Set every site's σ for one step.

        Parameters
        ----------
        z : Tensor (B, G)
            |z_i| of variance-aware noise, image by image (a batch's weights have that of its first); 0 where a training
            has none.
        """
        if self.varying is not None:
            self.levels = self.constant + self.varying * z

    def _on_input(self, index: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._on_output(index, module, args, args[0]), *args[1:])

    def _on_output(self, index: int, module: nn.Module, args: Any, x: Tensor) -> Tensor:
        return self._disturbed(index, x, len(x)) if module.training else x

    def _disturbed(self, index: int, x: Tensor, batch: int) -> Tensor:
        level, factor = self.levels[index, :batch], self.factors
        if self.fused:
            site = self.sites[index]
            site.sigma = level.expand(batch, -1).reshape(-1)
            site.multiplicative = factor.expand(batch, -1).reshape(-1) if self.multiplicative else 0.0
            return site.perturb(x.reshape(batch * self.networks, -1), True).view(x.shape)
        rows = x.reshape(batch, self.networks, -1)
        out = rows
        if self.multiplicative:
            out = rows * (1 + factor[..., None] * torch.randn_like(rows))
        return (out + level[..., None] * torch.randn_like(rows)).view(x.shape)
