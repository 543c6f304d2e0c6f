"""One training: a plain loop with Adam and a cosine schedule, under noise if asked, that survives a kill."""

import copy
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ..errors import DivergenceError, ProfileError
from ..noise import NoiseSpec, inject_noise, noise_sites, remove_noise, set_noise
from ..profile import explain
from ..progress import bar
from .augment import augment
from .checkpoint import load_checkpoint, save_checkpoint
from .data import DataSet

if TYPE_CHECKING:
    import pandas as pd


class TrainSpec(BaseModel):
    """How to train; the defaults are the paper's where it fits a small machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    epochs: Annotated[int, Field(ge=1)] = 20
    """Passes over the training images (the paper: 500)."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Images a step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's learning rate at the start; a cosine takes it to 0 over all epochs."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Adam's L2 penalty."""
    sigma: Annotated[float, Field(ge=0)] = 0.0
    """σ of the noise injected while training, activation units, the same at every site."""
    ramp_epochs: Annotated[int, Field(ge=0)] = 0
    """Incremental noise: epochs over which σ rises linearly from 0 to its full value."""
    spread: Annotated[float, Field(ge=0)] = 0.0
    """Variance-aware noise (arXiv 2503.16183): each image's σ is multiplied by 1 + spread·|N(0, 1)|, drawn anew."""
    crop: Annotated[int, Field(ge=0)] | None = None
    """Random crop with this padding, pixels; null: 4, or 2 for images that must not be flipped."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of images, their augmentation and the noise."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ProfileError(f"TrainSpec: {explain(error)}") from None


@dataclass
class TrainResult:
    """What a training gave.

    Attributes
    ----------
    model : nn.Module
        The trained network, without the noise that it was trained under.
    history : list of dict
        One entry an epoch: epoch, loss, train_accuracy, test_accuracy (noise-free), lr, sigma, seconds.
    status : {"finished", "collapsed"}
        Collapsed: no better than guessing on the test images (within 4 standard deviations of chance).
    """

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    status: Literal["finished", "collapsed"] = "finished"

    @property
    def accuracy(self) -> float:
        """Noise-free accuracy on the test images after the last epoch."""
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
) -> TrainResult:
    """Train a network by cross entropy, in place of its weights.

    Parameters
    ----------
    model : nn.Module
        Images (B, C, H, W) to logits (B, classes). It is trained itself; noise sites it has keep their settings unless
        `spec.sigma` is positive, in which case the paper's noise is injected for the training.
    data : DataSet
    spec : TrainSpec
    out : path, optional
        Directory for `checkpoint.pt` (after every epoch) and `history.jsonl`. A training found there is continued, and
        gives what an unbroken one gives (bit for bit on the CPU).
    resume : bool
        False: start anew whatever `out` holds.

    Raises
    ------
    DivergenceError
        The loss is not finite; the last good epoch's checkpoint stays.
    CheckpointError
        `out` holds another training, or a corrupt checkpoint.
    """
    loop = _Loop(model, data, spec, torch.device(device))
    path = None if out is None else Path(out) / "checkpoint.pt"
    if path is not None and resume and path.exists():
        loop.load_state(load_checkpoint(path, loop.identity()))
    with bar(progress) as shown:
        task = shown.add_task("Training", total=spec.epochs, completed=loop.epoch)
        while loop.epoch < spec.epochs:
            entry = loop.run_epoch()
            if path is not None:
                save_checkpoint(path, loop.identity(), loop.state())
                _write_history(path.with_name("history.jsonl"), loop.history)
            shown.update(task, advance=1, description=f"Training: test accuracy {entry['test_accuracy']:.3f}")
    if loop.injected:
        remove_noise(model)
    guess = 1 / len(data.classes)
    limit = guess + 4 * math.sqrt(guess * (1 - guess) / len(data.test_y))
    status = "collapsed" if loop.history[-1]["test_accuracy"] <= limit else "finished"
    return TrainResult(model, loop.history, status)


@torch.no_grad()
def accuracy(model: nn.Module, data: DataSet, device: torch.device | str = "cpu") -> float:
    """Return a network's accuracy on the test images, in evaluation mode."""
    training = model.training
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.test_batches(device=device))
    model.train(training)
    return right / len(data.test_y)


class _Loop:
    """The state of one training, and one epoch of it."""

    def __init__(self, model: nn.Module, data: DataSet, spec: TrainSpec, device: torch.device) -> None:
        self.model, self.data, self.spec, self.device = model.to(device), data, spec, device
        self.injected = bool(spec.sigma) and not noise_sites(model)
        if self.injected:
            inject_noise(model, NoiseSpec(sigma=spec.sigma, eval=False), inplace=True)
        self.optimiser = torch.optim.Adam(model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, T_max=spec.epochs)
        self.order = torch.Generator().manual_seed(spec.seed)
        self.noise_state = torch.Generator().manual_seed(spec.seed + 1).get_state()
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.images, self.labels = data.train_x.to(device), data.train_y.to(device)

    def run_epoch(self) -> dict[str, float]:
        started, spec = time.perf_counter(), self.spec
        sigma = spec.sigma * min(1.0, (self.epoch + 1) / spec.ramp_epochs) if spec.ramp_epochs else spec.sigma
        crop = spec.crop if spec.crop is not None else (4 if self.data.flip else 2)
        self.model.train()
        loss_sum, right = 0.0, 0
        rate = self.optimiser.param_groups[0]["lr"]
        # The noise (and dropout) draws from torch's default generator, which is the caller's: borrow it.
        with torch.random.fork_rng():
            torch.set_rng_state(self.noise_state)
            for batch in torch.randperm(len(self.labels), generator=self.order).split(spec.batch_size):
                images = augment(self.images[batch], self.order, padding=crop, flip=self.data.flip)
                labels = self.labels[batch]
                if spec.sigma:
                    set_noise(self.model, self._sigma(sigma, len(batch)))
                logits = self.model(self.data.normalise(images))
                loss = F.cross_entropy(logits, labels)
                value = loss.item()
                if not math.isfinite(value):
                    raise DivergenceError(
                        f"the loss became {value} in epoch {self.epoch + 1}; lower the learning rate (now {spec.lr:g})"
                    )
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
                loss_sum += value * len(batch)
                right += int((logits.argmax(1) == labels).sum())
            self.noise_state = torch.get_rng_state()
        self.schedule.step()
        self.epoch += 1
        entry = {
            "epoch": self.epoch,
            "loss": loss_sum / len(self.labels),
            "train_accuracy": right / len(self.labels),
            "test_accuracy": accuracy(self.model, self.data, self.device),
            "lr": rate,
            "sigma": sigma,
            "seconds": time.perf_counter() - started,
        }
        self.history.append(entry)
        return entry

    def _sigma(self, sigma: float, batch: int) -> float | Tensor:
        if not self.spec.spread:
            return sigma
        return sigma * (1 + self.spec.spread * torch.randn(batch).abs())

    def identity(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(),
            "data": self.data.label,
            "images": list(self.images.shape),
            "model": {name: list(value.shape) for name, value in self.model.state_dict().items()},
        }

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise_state,
            "epoch": self.epoch,
            "history": copy.deepcopy(self.history),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.order.set_state(state["order"])
        self.noise_state, self.epoch, self.history = state["noise"], state["epoch"], state["history"]


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    aside.replace(path)
