"""One training: a plain loop with Adam and a cosine schedule, under noise if asked, that survives a kill."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..errors import CheckpointError, ConversionError, DivergenceError
from ..nn import AnalogLayer, analog_layers
from ..noise import noise_sites
from ..quantities import TARGETS
from ..robustness import sweep as robustness
from ..seeds import forked, seed_generators
from ..storage.files import first_line
from ..terminal.progress import bar
from ..value import Value
from .checkpoint import load_checkpoint, save_checkpoint
from .clip import clip_weights
from .data import DataSet
from .epoch import EpochOrder, epoch_seeds
from .history import History, guessed, has_ended, numbered, record, write_history
from .noise import TrainingNoise
from .spec import TrainSpec, VarianceAware
from .step import adam, differentiate, divergence, losses_and_hits, set_rate, take_batch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainResult", "TrainSpec", "VarianceAware", "accuracy", "train"]

CHECKPOINT, HISTORY = "checkpoint.pt", "history.jsonl"
RANGES_FASTER = 30  # than weights (docs/budget.md has what other rates gave)
LOOK = 50  # steps between two looks whether the loss is finite: on a GPU each look waits for it


@dataclass
class TrainResult:
    """What a training gave.

    Attributes
    ----------
    model : nn.Module
        The trained network, without the noise that it was trained under.
    history : list of dict
        One entry an epoch: epoch (from 1), loss, train_accuracy (under the training's noise and augmentation),
        test_accuracy (without), lr, sigma (the ramp's; before `layers` and `variance`), seconds.
    status : {"finished", "collapsed"}
        Collapsed: the last epoch is no better than guessing (`is_guessing`), neither in training nor on test images.
    """

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    status: Literal["finished", "collapsed"] = "finished"

    @property
    def accuracy(self) -> float:
        """Accuracy on the test images after the last epoch, without the training's noise."""
        return self.history[-1]["test_accuracy"]

    def to_frame(self) -> "pd.DataFrame":
        """Return the history as a frame, one row an epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)


def train(
    model: nn.Module,
    data: DataSet,
    spec: TrainSpec,
    *,
    out: Path | str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    resume: bool = True,
    range_lr: float | None = None,
) -> TrainResult:
    """Train a network by cross entropy, itself.

    Parameters
    ----------
    model : nn.Module
        Images (B, C, H, W) to logits (B, classes): plain, with quantizers, or on simulated hardware; noise sites that
        it has stay as they are.
    data : DataSet
    spec : TrainSpec
    out : path, optional
        Directory for `checkpoint.pt` and `history.jsonl`, both after every epoch. A training found there is continued
        from its last whole epoch, and gives what an unbroken one gives (on the CPU bit for bit, with as many threads).
    device : torch.device or str
        Where to train; the images are kept there. The model stays there.
    progress : bool
        Show a progress bar where standard error is a terminal.
    resume : bool
        False: start anew whatever `out` holds.
    range_lr : float, optional
        Adam's rate in the first epoch for input ranges that are learned (`learn_ranges`), activation units; default:
        `RANGES_FASTER` times spec.lr.

    Returns
    -------
    TrainResult

    Raises
    ------
    DivergenceError
        The loss or a weight is not finite, or a learned input range not positive; the checkpoint of the last good epoch
        stays.
    CheckpointError
        `out` holds another training or a corrupt checkpoint, or cannot be written.
    ConversionError
        There is noise to be injected, but the model has no layer for it, or has noise already; or range_lr is given,
        but no range is learned.

    Notes
    -----
    Every epoch's random numbers are decided by spec.seed and the epoch alone, so a checkpoint needs no random state;
    torch's own generators are left as they were. Dropout knows no other: trainings in several threads take turns, an
    epoch each, and what else draws from torch's generators meanwhile changes their numbers.
    """
    loop = _Loop(model, data, spec, torch.device(device), range_lr)
    path = None if out is None else Path(out) / CHECKPOINT
    if path is not None and resume and path.exists():
        try:
            loop.load_state(load_checkpoint(path, loop.identity))
        except ValueError as error:
            raise CheckpointError(
                f"no state of this training ({first_line(error)}); move it away to train from the start: {path}"
            ) from None
    with loop.noise, bar(progress) as shown:
        task = shown.add_task("Training", total=spec.epochs * loop.steps, completed=loop.epoch * loop.steps)
        while not has_ended(spec, loop.history, data):
            loop.run_epoch(lambda text: shown.update(task, advance=1, description=text))
            if path is not None:
                # The history may be of one epoch less than the checkpoint after a kill, which holds it too.
                save_checkpoint(path, loop.identity, loop.state())
                write_history(path.with_name(HISTORY), loop.history)
    if path is not None:
        write_history(path.with_name(HISTORY), loop.history)
    return TrainResult(model, loop.history, "collapsed" if guessed(loop.history, data) else "finished")


def parameter_groups(model: nn.Module, faster: float) -> list[dict[str, Any]]:
    """Return a network's parameters for an optimiser; input ranges that are learned by themselves.

    They are few, of the size of activations, and nothing else moves them: their rate is `faster` times the weights',
    and they do not decay (which would pull them to 0).
    """
    ranges = [layer.input_range for _, layer in learning_layers(model)]
    weights = [p for p in model.parameters() if all(p is not alpha for alpha in ranges)]
    own = {"params": ranges, "weight_decay": 0.0, "faster": faster}
    return [{"params": weights}] + [own] * bool(ranges)


def learning_layers(model: nn.Module) -> list[tuple[str, AnalogLayer]]:
    """Return the layers whose input range is a parameter, by name."""
    return [(name, layer) for name, layer in analog_layers(model) if isinstance(layer.input_range, nn.Parameter)]


def accuracy(model: nn.Module, data: DataSet, device: torch.device | str = "cpu") -> float:
    """Return a network's accuracy on the test images, in evaluation mode."""
    return robustness.accuracy(model, data.test_batches(device=device))


class TrainingState(Value):
    """What a checkpoint holds of a training, after a whole epoch."""

    model: dict[str, Any]
    optimiser: dict[str, Any]
    epoch: Annotated[int, Field(ge=1)]
    history: History
    calls: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _of_one_epoch(self) -> Self:
        if len(numbered(self.history)) != self.epoch:
            raise ValueError(f"epoch {self.epoch}, but a history of {len(self.history)}")
        return self


class _Loop:
    """The state of one training, and one epoch of it."""

    def __init__(
        self, model: nn.Module, data: DataSet, spec: TrainSpec, device: torch.device, range_lr: float | None = None
    ) -> None:
        self.model, self.data, self.spec, self.device = model.to(device), data, spec, device
        # Both before anything is injected or learned.
        self.own_sites = [site for target in TARGETS for site in noise_sites(model, target).values()]
        self.identity = identity(model, describe_data(data), spec)
        self.learning = learning_layers(model)
        if range_lr is not None and not self.learning:
            raise ConversionError("range_lr: the model learns no input range; learn_ranges(model) first")
        self.range_lr = RANGES_FASTER * spec.lr if range_lr is None else range_lr
        if self.learning:
            self.identity["range_lr"] = self.range_lr
        self.noise = TrainingNoise(model, spec)
        self.optimiser = adam(parameter_groups(model, self.range_lr / spec.lr), spec)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.images, self.labels = data.train_x.to(device), data.train_y.to(device)
        self.steps = -(-len(self.labels) // spec.batch_size)

    def run_epoch(self, tell: Callable[[str], None]) -> None:
        """Train one epoch and test; `tell` is called after every step with a line on how it goes."""
        started, spec, data = time.perf_counter(), self.spec, self.data
        set_rate(self.optimiser, spec, self.epoch)
        loss_sum, right = torch.zeros(2, device=self.device, dtype=torch.float64)
        title = f"Training: epoch {self.epoch + 1}/{spec.epochs}"
        last = f", test accuracy {self.history[-1]['test_accuracy']:.3f}" if self.history else ""
        line = title + last
        with self._seeded():
            self.model.train()
            order = EpochOrder.draw(spec, self.epoch, data)
            self.noise.begin(self.epoch, order.z)
            order, count = order.to(self.device), len(self.labels)
            for step, start in enumerate(range(0, count, spec.batch_size), 1):
                stop = min(start + spec.batch_size, count)
                images, labels = take_batch(data, self.images, self.labels, order.part(start, stop))
                self.noise.draw(start, stop)
                loss, hits = differentiate(partial(losses_and_hits, self.model), self.optimiser, images, labels)
                self.optimiser.step()
                if spec.clip_weights is not None:
                    clip_weights(self.model, spec.clip_weights)
                self._check_ranges()
                loss_sum += loss * (stop - start)
                right += hits
                if step % LOOK == 0 or step == self.steps:
                    self._check(loss_sum)
                    line = f"{title}, loss {loss_sum.item() / stop:.3f}{last}"
                tell(line)
            self._check(*self.model.parameters())
            test_accuracy = accuracy(self.model, data, self.device)
        seconds = time.perf_counter() - started
        self.history.append(
            record(spec, self.epoch, loss_sum.item() / count, right.item() / count, test_accuracy, seconds)
        )
        self.epoch += 1

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Start torch's generators from the training's seed and the epoch; give them back as they were."""
        with forked(self.device):
            seed_generators(epoch_seeds(self.spec, self.epoch)[1], self.device)
            yield

    def _check(self, *tensors: Tensor) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise divergence(self.spec, self.epoch, self.history)

    def _check_ranges(self) -> None:
        for name, layer in self.learning:
            if not (alpha := layer.input_range.item()) > 0:
                raise DivergenceError(
                    f"the training diverged in epoch {self.epoch + 1}: the input range of {name or 'the layer'}, which "
                    f"is learned, is {alpha:.3g} and must stay positive; lower the ranges' learning rate (now "
                    f"{self.range_lr:g})",
                    self.history,
                )

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "calls": [counting.calls for counting in self._counting()],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises
        ------
        ValueError
            It is none of this training.
        """
        try:
            kept = TrainingState.model_validate(state)
            self.model.load_state_dict(kept.model)
            groups = zip(kept.optimiser["param_groups"], self.optimiser.param_groups, strict=True)
            # How many passes a step makes is this device's and version's, not the checkpoint's.
            own = [saved | {"fused": group["fused"]} for saved, group in groups]
            self.optimiser.load_state_dict(kept.optimiser | {"param_groups": own})
            for counting, calls in zip(self._counting(), kept.calls, strict=True):
                counting.calls = calls
        except Exception as error:  # of torch's loaders, whatever they find first
            raise ValueError(str(error)) from error
        self.epoch, self.history = kept.epoch, [cast(dict[str, float], epoch) for epoch in kept.history]

    def _counting(self) -> list[Any]:
        """Return what numbers its calls by itself: the model's own noise sites and analog layers of fixed seeds."""
        return [*self.own_sites, *(layer for _, layer in analog_layers(self.model))]


def identity(model: nn.Module, data: dict[str, Any], spec: TrainSpec) -> dict[str, Any]:
    """Say which training it is, for its checkpoint; `data` is `describe_data`'s."""
    return {"spec": spec.model_dump(mode="json"), "data": data, "model": describe(model)}


def describe(model: nn.Module) -> dict[str, str]:
    """Say what a network is, module by module: a resume must find the same, or it would train something else."""
    parts = {name or type(model).__name__: f"{type(m).__name__}({m.extra_repr()})" for name, m in model.named_modules()}
    parts |= {f"{name}.shape": str(list(value.shape)) for name, value in model.named_parameters()}
    parts |= {f"{name}.profile": layer.profile.model_dump_json() for name, layer in analog_layers(model)}
    for target in TARGETS:
        for name, site in noise_sites(model, target).items():
            parts[f"{name}.noise on {target}"] = f"σ={site.sigma}, σ_m={site.multiplicative}, train={site.train}"
    # No addresses of this process.
    return {name: re.sub(r" at 0x[0-9a-f]+", "", text) for name, text in parts.items()}


def describe_data(data: DataSet) -> dict[str, Any]:
    """Say what data are trained on."""
    sizes = {"label": data.label, "images": [*data.train_x.shape], "test_images": [*data.test_x.shape]}
    return sizes | {"fingerprint": data.fingerprint, "augmentation": data.augmentation.model_dump()}
