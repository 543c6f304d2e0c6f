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
        self.level, self.z = 1.0, torch.zeros(0)

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

    def begin(self, epoch: int, z: Tensor) -> None:
        """Set what σ is in an epoch, but for what `draw` varies.

        Parameters
        ----------
        epoch : int
            From 0.
        z : Tensor (N,)
            |z_i| of variance-aware noise, of the epoch's images in order; on the CPU.
        """
        self.level, variance = self.spec.ramp(epoch), self.spec.variance
        # Sent once for all steps and sites; a σ that a batch shares is a number, so that nothing waits for the device.
        self.z = z.to(self.device) if variance is not None and variance.per == "image" else z
        for site, sigma in self.sites:
            site.sigma, site.multiplicative = self.level * sigma, self.level * self.spec.multiplicative

    def draw(self, start: int, stop: int) -> None:
        """Set every site's σ for the step of the epoch's images start … stop - 1."""
        variance = self.spec.variance
        if variance is None:
            return
        z = self.z[start:stop] if variance.per == "image" else self.z[start].item()
        for site, sigma in self.sites:
            # A site that is silent by `layers` stays silent.
            if sigma:
                site.sigma = self.level * (sigma * variance.mean + variance.spread * z)
