"""How much noise a trained network survives: its accuracy over a noise grid, and from it the midpoint noise level µ."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from ..batch_norm import estimate_batch_norm
from ..batches import Batches, Labelled, Step, device_of, listed, moved, repeatable
from ..errors import ConversionError, FitError
from ..nn import analog_layers, called_layers, set_seed
from ..nn.copies import copied
from ..nn.reach import warn_of_layers, watched
from ..noise import NoiseSpec, all_sites, injected, noise_sites, sited_layers
from ..quantities import TARGETS, Quantity, Target, quantity_named
from ..restore import restored
from ..seeds import Key, checked, derive
from ..sigmas import log_spaced
from ..terminal.progress import bar
from ..value import whole
from .curve import RobustnessCurve
from .measure import ACCURACY, Measure, as_measure
from .metric import Accuracy, Metric, guessed, made, measured, noiseless, with_worst

__all__ = ["SIGMAS", "RobustnessCurve", "noise_sweep"]

SIGMAS = log_spaced(-2, 2, 17)
"""The paper's grid, an array of 17 numbers: log-uniform in [1e-2, 1e2], in the unit of what is varied. It is read-only.

References
----------
*On Hardening DNNs against Noisy Computations*, arXiv 2501.14531.

Examples
--------
>>> import analogsim as an
>>> len(an.SIGMAS), float(an.SIGMAS[0]), float(an.SIGMAS[-1])
(17, 0.01, 100.0)
"""
SIGMAS.flags.writeable = False


def noise_sweep(
    model: nn.Module,
    data: Batches,
    sigmas: ArrayLike = SIGMAS,
    repeats: int = 5,
    *,
    quantity: Quantity = "activations",
    chance: float | None = None,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    step: Step | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_norm: Batches | None = None,
    progress: bool = True,
) -> RobustnessCurve:
    """Measure one trained network's accuracy, or another metric, at every σ of a grid, with new noise in every repeat.

    What is swept is a copy in evaluation mode: the network stays as it is, and so does torch's random state.

    Parameters
    ----------
    model : nn.Module
        Its output is a tensor, or has one as its `logits` (or, of a mapping, as "out"); of accuracy (batch, classes).
    data : iterable of batches, Dataset, or (inputs, labels)
        Test data. Batches are pairs (inputs, labels), called as model(inputs), or mappings, called as model(**batch),
        whose `labels` or `label` are taken out as the target. Or all inputs (N, …) and labels (N, …).
    sigmas : array
        Finite, not negative; unit of the quantity. 0 is the noise-free evaluation, which is made in any case; alone it
        is all that is done.
    repeats : int
        Evaluations at each σ.
    quantity : {"activations", "weights", "noise.output", "noise.read", "noise.multiplicative"}
        What is varied. "activations" or "weights": the σ of all noise sites of this kind, the same everywhere; sites
        are injected into a copy of a model that has none. The others: this field of the profile of every analog layer
        of a converted model. Everything else in a profile stays; all other noise of sites is silent.
    metric : str, Measure, Metric or callable
        What is measured: "accuracy", "top5", "token_accuracy", "perplexity", "mse", "mae", "r2", "cosine"; with
        torchmetrics "f1" (macro), "miou", "auroc", "spearman", and every `torchmetrics.Metric`; any object with
        `reset`, `update(output, labels)` and `compute`; or a function (output, labels) → value(s), whose mean counts.
        Of your own more is better, unless their attribute `higher_is_better` is False; a `Measure` says all of it.
    chance : float, optional
        Value of guessing; default: what it is for classes that are equally frequent (accuracy: 1 / classes), or what
        naming always the same target gives ("mse", "mae"). Give the largest class's share where classes are uneven.
        Of your own metrics it is not known if it is not given: µ is then halfway to the curve's own worst level.
    step : callable, optional
        (model, batch) → (output, target): how the network is called on batches of any other kind.
    seed : int
        Decides all noise, in [0, 2^64). An accuracy depends on seed, σ, repeat and batches: not on the rest of the
        grid, nor on other threads. (Random numbers that the network's own code draws are torch's.)
    device : torch.device or str, optional
        Where to compute; default: where the model is.
    batch_norm : iterable of batches, Dataset, or a batch, optional
        Training inputs, from which the statistics of batch normalisation are estimated anew at every σ, once for all
        repeats (`estimate_batch_norm`); default: they stay as they are.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    RobustnessCurve

    Raises
    ------
    FitError
        An impossible σ, number of repeats, seed or quantity; no such metric, or one that gives no number.
    ConversionError
        A hardware field is to be swept, but no layer is analog; or there is no batch normalisation to estimate; or the
        model cannot be copied.
    DataError
        Data that is empty, or of which it is not known how to call the network and what the target is; of accuracy,
        labels that are no integers of one class each.
    ShapeError
        The model's output is not what the metric takes; of accuracy (batch, classes).
    NonFiniteError
        The network's output, or the metric, is not finite without noise.

    Warns
    -----
    UnreachedWarning
        Layers that noise is to reach are never called on this data; or see `inject_noise`.
    AnalogSimWarning
        A metric is not finite in some evaluations.

    Notes
    -----
    Cost: 1 + S·R passes over the data. Outputs that are NaN under noise count as wrong ("accuracy", "top5",
    "token_accuracy", "f1", "miou"). Where another metric is not finite under noise, or gets outputs that are NaN, its
    value is the worst: that of guessing, or where that is not known the worst that was measured. Of a function its
    value counts. A metric of your own is copied.

    One output for each label ("f1", "auroc") is a logit: above 0 it says yes.

    Labels of -100 do not count ("token_accuracy", "perplexity", "f1", "miou"; of "miou" 255 neither). Of a causal
    language model of transformers, `labels` in a mapping are shifted by one as transformers does it for its loss: the
    output at each place is compared with the label of the next.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(4, 4, bias=False), torch.randn(500, 4)
    >>> net.weight.data = torch.eye(4)
    >>> curve = an.noise_sweep(net, (x, x.argmax(1)), sigmas=[0.01, 0.1, 0.3, 1, 3, 10, 100], repeats=3)
    >>> curve.noise_free, curve.values.shape
    (1.0, (7, 3))
    >>> 0.3 < curve.midpoint < 3  # µ, in units of the activations
    True
    """
    repeats, seed = whole(repeats, "repeats", FitError), checked(seed, FitError)
    measure = as_measure(metric)
    score = made(measure)
    grid, quantity = _grid(sigmas, repeats), quantity_named(quantity)
    model = _prepared(model, quantity, device)
    where = device_of(model) if device is None else torch.device(device)
    statistics = None if batch_norm is None else listed(batch_norm)
    with torch.no_grad(), bar(progress) as shown:
        task = shown.add_task("Sweeping noise", total=1 + len(grid) * repeats)
        batches = repeatable(data, where, step)
        set_noise = _silenced(model, quantity)

        def set_level(sigma: float) -> None:
            set_noise(sigma)
            if statistics is not None:
                reseed(model, derive(seed, Key.SWEEP_STATISTICS, _bits(sigma)))
                estimate_batch_norm(model, statistics, step=step, progress=False, together=False)

        set_level(0.0)
        reseed(model, derive(seed, Key.SWEEP, _bits(0.0), 0))
        layers, advice = _disturbed(model, quantity)
        with watched(layers) as called:
            noise_free, samples = noiseless(model, batches, score, measure, step)
        if chance is None:
            chance = guessed(measure, score)
        warn_of_layers("noise_sweep", layers, called, advice)
        shown.advance(task)
        values = np.full((len(grid), repeats), np.nan)
        for row, sigma in enumerate(grid):
            set_level(float(sigma))
            for repeat in range(repeats):
                reseed(model, derive(seed, Key.SWEEP, _bits(float(sigma)), repeat))
                values[row, repeat] = measured(model, batches, score, measure, step=step)[0]
                shown.advance(task)
    values = with_worst("noise_sweep", values, measure, noise_free, chance)
    about = {"seed": seed, "batch_norm": "as trained" if statistics is None else "estimated at every σ"}
    if measure is not ACCURACY:
        about["metric"] = measure.name
    chance = None if chance is None else float(chance)
    return RobustnessCurve(grid, values, noise_free, chance, quantity, samples, about=about, metric=measure)


def _target(quantity: Quantity) -> Target | None:
    """Return what is disturbed where the quantity is injected noise; None where it is the hardware's."""
    return next((target for target in TARGETS if target == quantity), None)


def _disturbed(model: nn.Module, quantity: Quantity) -> tuple[dict[str, nn.Module], str]:
    """Return the layers that noise is to reach, and what to say where they are never called."""
    target = _target(quantity)
    if target is None:
        return called_layers(model), "code that reads a layer's weight past the layer computes without its crossbars"
    layers = sited_layers(model, target)
    return layers, "code that reads a layer's weight, or calls its forward, past the layer computes without this noise"


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Labelled]) -> float:
    """Return the share of labels that a network names in evaluation mode; NaN names none. Its modes stay as they are.

    Raises
    ------
    DataError
        There is no sample.
    """
    device = device_of(model)
    with restored(model.modules(), "training"):
        model.eval()
        return measured(model, (moved(batch, device) for batch in batches), Accuracy(), ACCURACY)[0]


def _grid(sigmas: ArrayLike, repeats: int) -> np.ndarray:
    """Return the positive σ, ascending, each once; 0 where there is no other."""
    grid = np.unique(np.asarray(sigmas, dtype=float))
    if not grid.size or not np.isfinite(grid).all() or (grid < 0).any():
        raise FitError(f"sigmas: finite numbers that are not negative are needed, got {grid.tolist()}")
    if repeats < 1:
        raise FitError(f"repeats: at least 1 is needed, got {repeats}")
    return grid[grid > 0] if grid[-1] else grid


def _prepared(model: nn.Module, quantity: Quantity, device: torch.device | str | None) -> nn.Module:
    """Return a copy of the model, on the device and with noise sites where they are swept."""
    target = _target(quantity)
    if target is not None and not noise_sites(model, target):
        model = injected(model, NoiseSpec(sigma=0.0, target=target), False, "noise_sweep")
    elif target is None and not any(analog_layers(model)):
        raise ConversionError(f"quantity={quantity!r}: no layer is analog; convert(model, profile) first")
    else:
        model = copied(model)
    return model if device is None else model.to(device)


def _silenced(model: nn.Module, quantity: Quantity) -> Callable[[float], None]:
    """Switch to evaluation without any site's noise, and return the function that sets the swept σ."""
    model.eval()
    for site in all_sites(model):
        site.sigma, site.multiplicative, site.eval = 0.0, 0.0, True
    layers = [layer for _, layer in analog_layers(model)]
    target = _target(quantity)
    if target is not None:
        swept = noise_sites(model, target).values()

        def set_sites(sigma: float) -> None:
            for site in swept:
                site.sigma = sigma

        return set_sites
    profiles = [layer.profile for layer in layers]
    part, name = quantity.split(".")

    def set_profiles(sigma: float) -> None:
        for layer, profile in zip(layers, profiles):
            layer.profile = profile.varied(**{part: {name: sigma}})

    return set_profiles


def reseed(model: nn.Module, key: int) -> None:
    """Seed whatever draws in one evaluation, and no generator of torch's, which other threads share."""
    set_seed(model, key)
    for target in TARGETS:
        for number, site in enumerate(noise_sites(model, target).values()):
            site.seed, site.index, site.calls = key, number, 0


def _bits(sigma: float) -> int:
    return int(np.float64(sigma).view(np.uint64))
