"""Shapes of a read's noise: standard normals turned into numbers of another distribution, by their quantiles."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import ProfileError
from ..profile.kinds import DISTRIBUTIONS


class NoiseDistribution(ABC):
    """A shape of noise, `noise.distribution` in a profile; its mean is 0 and its variance 1.

    Derive a class with a `name`, and give it to `analogsim.register`. The noise of a sum is √V times such numbers, V
    being the variance of all contributions (design section 3.4).
    """

    name: str

    @abstractmethod
    def shaped(self, normal: Tensor) -> Tensor:
        """Turn standard normals n into numbers of this distribution, element by element.

        By the quantile function F⁻¹ of the distribution that is F⁻¹(Φ(n)), with Φ = `torch.special.ndtr`.

        Parameters
        ----------
        normal : Tensor, float64
            Any shape. (In float32 Φ(-5.6) is 0, where many quantile functions are infinite.)
        """

    def check(self) -> None:
        """Refuse a distribution of another mean or variance, by 4,096 numbers evenly spaced in probability.

        They reach to 3.7 σ, so that a fifth of the variance may lie in tails beyond.

        Raises
        ------
        ProfileError
            The mean is not 0, the variance not 1, a number is not finite, or the shape is another one.
        """
        normal = torch.special.ndtri((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096).view(64, 64)
        found = self.shaped(normal.clone())
        right = isinstance(found, Tensor) and found.shape == normal.shape and bool(found.isfinite().all())
        if not right or abs(float(found.double().mean())) > 0.05 or not 0.8 < float(found.double().var()) < 1.2:
            raise ProfileError(
                f"noise.distribution {self.name!r}: of standard normals it must make numbers of their shape, finite, "
                "with mean 0 and variance 1"
            )


class Gaussian(NoiseDistribution):
    """The normal distribution."""

    name = "gaussian"

    def shaped(self, normal: Tensor) -> Tensor:
        """Return them as they are."""
        return normal


class Uniform(NoiseDistribution):
    """Evenly from -√3 to √3."""

    name = "uniform"

    def shaped(self, normal: Tensor) -> Tensor:
        """Return √12·(Φ(n) - 1/2)."""
        return math.sqrt(12) * (torch.special.ndtr(normal) - 0.5)


class Laplace(NoiseDistribution):
    """Exponential on both sides, with scale 1/√2."""

    name = "laplace"

    def shaped(self, normal: Tensor) -> Tensor:
        """Return -sign(n)·ln(2·Φ(-|n|))/√2: 1 - |2u - 1| = 2·Φ(-|n|), without cancellation."""
        return -normal.sign() * torch.log(2 * torch.special.ndtr(-normal.abs())) / math.sqrt(2)


for kind in (Gaussian(), Uniform(), Laplace()):
    DISTRIBUTIONS.add(kind)


def shaped(normal: Tensor, distribution: str) -> Tensor:
    """Turn standard normals into numbers of a distribution with mean 0 and variance 1, by its name."""
    return normal if distribution == "gaussian" else DISTRIBUTIONS[distribution].shaped(normal.double())
