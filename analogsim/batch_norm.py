"""Batch normalisation on noisy hardware: its statistics, taken anew where the network is to work."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batches import Batches, Step, run
from .errors import CalibrationError, ConversionError
from .nn.reach import warn_of_layers, watched
from .noise import all_sites
from .ranks import gathered, heard
from .restore import restored


def estimate_batch_norm(
    model: nn.Module,
    batches: Batches,
    *,
    step: Step | None = None,
    progress: bool = True,
    together: bool = True,
) -> None:
    """Set the running means and variances of all batch normalisation from data, under the noise of evaluation.

    Noise adds to the variance in front of a batch normalisation. So statistics that were gathered while training under
    noise are wrong without it, and the other way round; the digital unit that holds them can be told better ones on the
    chip itself, without training. All else stays in evaluation mode: no dropout, ranges and weights as they are.

    Parameters
    ----------
    model : nn.Module
        As it will be used: with noise sites (those of evaluation are heard) or converted; it is changed itself.
    batches : iterable of batches, Dataset, or a batch
        Network inputs, as for `calibrate`; labels are not read. Statistics are the means over batches.
    step : callable, optional
        How the network is called on batches of any other kind; as for `calibrate`.
    progress : bool
        Show a progress bar where standard error is a terminal.
    together : bool
        Of processes of torch.distributed, each with batches of its own: all call this, and all get what follows from
        the batches of all. False: this process by itself, as where rank 0 alone calls it.

    Warns
    -----
    UnreachedWarning
        A normalisation was never called on these batches; its statistics stay.

    Raises
    ------
    ConversionError
        The model has no batch normalisation with running statistics.
    CalibrationError
        No batch was given, the network cannot be called on one, or processes of torch.distributed have other
        normalisations, or another of them failed; the statistics stay.

    References
    ----------
    V. Joshi et al., *Accurate deep neural network inference using computational phase-change memory*, Nature
    Communications 11, 2473 (2020): adaptive batch normalisation statistics, there against drift.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> norm = torch.nn.BatchNorm1d(3)
    >>> an.estimate_batch_norm(norm, 5 + torch.randn(1000, 3))
    >>> norm.running_mean.round()
    tensor([5., 5., 5.])
    """
    norms = batch_norms(model)
    if not norms:
        raise ConversionError(f"{type(model).__name__}: no batch normalisation with running statistics to be estimated")
    sites = all_sites(model)
    with restored(model.modules(), "training"), restored(norms, "momentum"), restored(sites, "train"):
        model.eval()
        for site in sites:
            site.train = site.eval  # a normalisation that has a site is in training mode while it is estimated
        with kept_statistics(model, always=False):
            before = [{key: buffer.clone() for key, buffer in norm.named_buffers()} for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over batches
                norm.train()
            layers = {name: m for name, m in model.named_modules() if any(m is norm for norm in norms)}
            with heard(together), watched(layers) as called:
                run(model, batches, progress, "Estimating batch normalisation", step)
            called = _pool(layers, norms, called, together)
            for norm, values in zip(norms, before):
                if not any(layers[name] is norm for name in called):
                    for key, buffer in norm.named_buffers():
                        buffer.copy_(values[key])
            warn_of_layers("estimate_batch_norm", layers, called, "their statistics stay as they were")


def _pool(layers: Collection[str], norms: list[_BatchNorm], called: set[str], together: bool) -> set[str]:
    """Give every process of torch.distributed the means over all batches, and the names that any of them called."""
    own = [{key: buffer.cpu() for key, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    kinds = [*layers], [[buffer.shape for buffer in values.values()] for values in own]
    ranks = gathered((called, own, kinds), together)
    if any(other != kinds for *_, other in ranks):
        raise CalibrationError(
            "the processes of torch.distributed have other batch normalisations: make the same network alike in all"
        )
    if len(ranks) > 1:
        for place, norm in enumerate(norms):
            each = [own[place] for _, own, _ in ranks]
            number = torch.stack([own["num_batches_tracked"] for own in each]).sum()
            for key, buffer in norm.named_buffers(recurse=False):
                total = torch.stack([own[key] * own["num_batches_tracked"] for own in each]).sum(0)
                buffer.copy_(number if key == "num_batches_tracked" else total / number.clamp(min=1))
    return set().union(*(names for names, *_ in ranks))


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalisations that have running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def kept_statistics(model: nn.Module, always: bool = True) -> Iterator[None]:
    """Put running statistics back as they were: at the end, or only after an error."""
    buffers = [buffer for norm in batch_norms(model) for buffer in norm.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    done = False
    try:
        yield
        done = True
    finally:
        if always or not done:
            for buffer, value in zip(buffers, before):
                buffer.copy_(value)
