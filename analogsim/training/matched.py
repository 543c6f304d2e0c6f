"""Noisy training as the paper has it: a network for each σ, trained under the σ at which it is evaluated."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from ..errors import DivergenceError, FitError, warn
from ..robustness.curve import RobustnessCurve
from ..robustness.matched import matched_curve
from ..robustness.sweep import SIGMAS, noise_sweep
from ..seeds import forked, seed_generators
from ..terminal.progress import bar
from ..value import whole
from .data import DataSet
from .spec import TrainSpec
from .train import train

__all__ = ["matched_sweep"]


def matched_sweep(
    make: Callable[[], nn.Module],
    data: DataSet,
    sigmas: ArrayLike = SIGMAS,
    spec: TrainSpec | None = None,
    repeats: int = 5,
    *,
    out: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = True,
    progress: bool = True,
) -> RobustnessCurve:
    """Train a network for each σ, and measure each at its own: the curve of *matched* noisy training.

    `noise_sweep` measures one trained network at every σ; here every point is of a network that was trained under it.

    Parameters
    ----------
    make : callable
        () → a network with new initial weights, from images (B, C, H, W) to logits (B, classes): plain or with
        quantizers. It is called once for each σ, with torch's generators started from spec.seed, so that all networks
        begin from the same weights.
    data : DataSet
        Trained on its training images, measured on its test images.
    sigmas : array (S,)
        Noise levels, finite and not negative, in the units of activations (of weights with spec.target "weights"). 0
        is a network trained at σ = 0, which then says what the curve's `noise_free` is; else it is that of the network
        of the lowest σ.
    spec : TrainSpec, optional
        How each is trained, but for its `sigma`; default: TrainSpec().
    repeats : int
        Evaluations of each network at its σ, with independent noise.
    out : path, optional
        A folder for the trainings, one for each σ: see `train`. What is found there is continued, and a training that
        is done is only measured.
    device : torch.device or str
        Where to train.
    resume : bool
        False: start anew, also where `out` holds trainings.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    RobustnessCurve
        Over the positive σ (S,), with `values` (S, repeats). Curves of several seeds are joined by
        `RobustnessCurve.pool`.

    Raises
    ------
    FitError
        An impossible σ or number of repeats.
    DivergenceError
        All trainings diverged.
    CheckpointError, ConversionError
        As `train`.

    Warns
    -----
    AnalogSimWarning
        Trainings diverged: the curve has the other σ.

    Notes
    -----
    The trainings run one after the other. `analogsim study run` runs them in parallel, as groups on a GPU, or on a
    cluster (docs/studies.md), pools seeds, and measures each network at all σ.

    Examples
    --------
    >>> from analogsim.training.data import load_data
    >>> from models.lenet import LeNet5
    >>> data = load_data("digits").subset(200, 100)
    >>> curve = matched_sweep(
    ...     lambda: LeNet5(channels=1), data, [0.1, 1.0], TrainSpec(epochs=1), repeats=2, progress=False
    ... )
    >>> curve.values.shape
    (2, 2)
    """
    spec, repeats = TrainSpec() if spec is None else spec, whole(repeats, "repeats", FitError)
    grid = np.unique(np.asarray(sigmas, dtype=float))
    if not np.isfinite(grid).all() or (grid < 0).any() or not (grid > 0).any():
        raise FitError(f"sigmas: finite and not negative, at least one above 0, is needed, got {grid.tolist()}")
    if repeats < 1:
        raise FitError(f"repeats: at least 1 is needed, got {repeats}")
    curves: dict[float, RobustnessCurve] = {}
    diverged: dict[float, DivergenceError] = {}
    with bar(progress) as shown:
        task = shown.add_task("", total=len(grid))
        for sigma in grid.tolist():
            shown.update(task, description=f"Training under σ = {sigma:.3g}")
            folder = None if out is None else Path(out) / f"sigma-{sigma!r}"
            try:
                network = train(
                    _made(make, spec.seed),
                    data,
                    spec.varied(sigma=sigma),
                    out=folder,
                    device=device,
                    progress=False,
                    resume=resume,
                ).model
            except DivergenceError as error:
                diverged[sigma] = error
            else:
                curves[sigma] = noise_sweep(
                    network,
                    list(data.test_batches()),
                    # A curve has a positive σ; of a network trained at 0 only its noise-free accuracy is used.
                    [sigma or float(grid[grid > 0][0])],
                    repeats,
                    quantity=spec.target,
                    chance=data.chance,
                    seed=spec.seed,
                    device=device,
                    progress=False,
                )
            shown.advance(task)
    return _joined(curves, diverged)


def _made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network with the initial weights of a seed."""
    with forked(cpu := torch.device("cpu")):
        seed_generators(seed, cpu)
        return make()


def _joined(curves: dict[float, RobustnessCurve], diverged: dict[float, DivergenceError]) -> RobustnessCurve:
    if not any(sigma > 0 for sigma in curves):
        raise next(iter(diverged.values()))
    if diverged:
        levels = ", ".join(f"{sigma:.3g}" for sigma in diverged)
        warn(
            f"matched_sweep: {len(diverged)} of {len(curves) + len(diverged)} trainings diverged (σ = {levels}), and "
            "the curve has the other σ; lower spec.lr, or raise the noise slowly by spec.ramp_epochs"
        )
    return matched_curve(curves)
