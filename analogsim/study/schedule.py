"""The noise that a network is trained under, over the epochs and images of a training."""

from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import ConversionError
from ..noise import NoiseSite, NoiseSpec, inject_noise, noise_sites, remove_noise
from .spec import TrainSpec


class TrainingNoise(AbstractContextManager["TrainingNoise"]):
    """The noise of a training on its network, for as long as the context lasts; in training mode only.

    Raises
    ------
    ConversionError
        The network has noise of the same target already, or no layer to inject noise into.
    """

    def __init__(self, model: nn.Module, spec: TrainSpec) -> None:
        self.model, self.spec = model, spec
        self.sites: list[tuple[NoiseSite, float]] = []
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def __enter__(self) -> Self:
        spec = self.spec
        if spec.silent:
            return self
        if noise_sites(self.model, spec.target):
            raise ConversionError(
                f"{type(self.model).__name__} has noise on its {spec.target} already: remove_noise(model) to train "
                "under the noise of TrainSpec, or leave sigma, multiplicative and layers out of that to keep its own"
            )
        noise = NoiseSpec(
            sigma=spec.sigma, multiplicative=spec.multiplicative, target=spec.target, layers=spec.layers, eval=False
        )
        inject_noise(self.model, noise, inplace=True)
        self.sites = [(site, float(site.sigma)) for site in noise_sites(self.model, spec.target).values()]
        return self

    def __exit__(self, *_: Any) -> None:
        if self.sites:
            remove_noise(self.model, self.spec.target)
            self.sites = []

    def draw(self, epoch: int, batch: int, generator: torch.Generator) -> None:
        """Set every site's σ for one step.

        Parameters
        ----------
        epoch : int
            From 0.
        batch : int
            Images of the step.
        generator : torch.Generator
            On the CPU.
        """
        variance, ramp = self.spec.variance, self.spec.ramp(epoch)
        z: float | Tensor = 0.0
        if variance is not None:
            draws = torch.randn(batch if variance.per == "image" else 1, generator=generator).abs()
            # Sent once for all sites, and without waiting.
            z = draws.to(self.device, non_blocking=True) if variance.per == "image" else draws.item()
        for site, sigma in self.sites:
            # A site that is silent by `layers` stays silent.
            if variance is None or sigma == 0:
                site.sigma = ramp * sigma
            else:
                site.sigma = ramp * (sigma * variance.mean + variance.spread * z)
            site.multiplicative = ramp * self.spec.multiplicative
