"""What a training is: a value that can be written down, compared and run again."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from ..errors import ProfileError
from ..noise import SiteKey
from ..quantities import Target
from ..value import NonNegative, Value, explain
from .augment import Augmentation


class VarianceAware(Value):
    """Variance-aware noisy training: σ_i = σ·mean + spread·|z_i|, z_i ~ N(0, 1), drawn anew in every step.

    All sites of a network share an image's z_i.

    References
    ----------
    X. Wang, H. Borras, B. Klein and H. Fröning, *Variance-Aware Noisy Training: Hardening DNNs against Unstable Analog
    Computations*, 2025, arXiv 2503.16183. There, mean is 0.05 … 0.55 and spread 0.25 … 1.5.
    """

    mean: NonNegative
    """m, fraction of σ (no unit)."""
    spread: NonNegative
    """s, in the units of σ."""
    per: Literal["image", "batch"] = "image"
    """Whether each image of a batch has a σ of its own, or all have the same."""


class TrainSpec(Value):
    """How to train; the defaults are the paper's, but for the number of epochs.

    Examples
    --------
    >>> TrainSpec(epochs=500, sigma=0.5, ramp_epochs=100).ramp(99)
    1.0
    """

    epochs: Annotated[int, Field(ge=1)] = 20
    """Passes over the training images (the paper: 500)."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Images a step; the last step of an epoch has those that are left."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's learning rate in the first epoch; a cosine takes it towards 0 over all epochs."""
    weight_decay: NonNegative = 0.0
    """Adam's L2 penalty."""
    augment: Augmentation | None = None
    """How training images are varied; null: as the data set says."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Decides the order of the images, their augmentation, dropout and noise; the initial weights are the model's."""

    sigma: NonNegative = 0.0
    """σ of the noise injected while training, in the units of the tensors it is added to, the same at every site."""
    multiplicative: NonNegative = 0.0
    """σ_m of multiplicative noise, relative (no unit)."""
    target: Target = "activations"
    """Where the noise is: on the input and the output of every layer, or on the weights."""
    layers: dict[SiteKey, NonNegative] = {}
    """σ of single sites, by the layer's name ("input" for the network's input) or the site's position (3 or "#3")."""
    ramp_epochs: Annotated[int, Field(ge=0)] = 0
    """Incremental noise: it rises linearly over this many epochs, from 0 in the first to its full value in the last of
    them, and stays there. 0: full from the start."""
    variance: VarianceAware | None = None
    """Variance-aware noise: σ varies around its value; null: it is constant."""

    clip_weights: Annotated[float, Field(gt=0)] | None = None
    """After every step the weights of a layer are clipped to so many of their standard deviations (`clip_weights`; 2 to
    2.5 in V. Joshi et al., Nature Communications 11, 2473, 2020); null: they are not clipped."""

    stop_on_collapse: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs in a row that are no better than guessing in training and on test images; null: train
    on."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(f"TrainSpec: {explain(error, type(self))}") from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.variance is not None:
            if not (self.sigma or any(self.layers.values())):
                raise ValueError("variance: varies σ around its value, so sigma, or one of layers, must be positive")
            if self.target == "weights" and self.variance.per == "image":
                raise ValueError('variance.per: must be "batch" with target "weights", which a batch shares')
        if self.ramp_epochs > self.epochs:
            raise ValueError(
                f"ramp_epochs: {self.ramp_epochs}, so the noise is never at its full value in {self.epochs} epochs"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_it_is: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Jobs and checkpoints are named by these fields, and keep the names from before there was clipping.
        values = as_it_is(self)
        if self.clip_weights is None:
            values.pop("clip_weights", None)
        return values

    @property
    def silent(self) -> bool:
        """Whether there is no noise at all."""
        return not (self.sigma or self.multiplicative or any(self.layers.values()))

    def ramp(self, epoch: int) -> float:
        """Return the fraction of the noise in an epoch (from 0): linspace(0, 1, ramp_epochs), then 1."""
        return min(1.0, epoch / max(1, self.ramp_epochs - 1)) if self.ramp_epochs else 1.0

    def varied(self, **changes: Any) -> "TrainSpec":
        """Return a validated copy with these fields changed."""
        return TrainSpec(**(self.model_dump() | changes))
