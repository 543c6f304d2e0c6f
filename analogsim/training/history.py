"""What a training says of its epochs, and what follows from it: whether it has collapsed, and whether it has ended."""

import json
import math
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ..storage.files import write_text
from ..value import Fraction, NonNegative
from .data import DataSet, guessing_accuracy
from .spec import TrainSpec
from .step import learning_rate


class Epoch(TypedDict):
    """What a training's history says of one epoch."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[misc]

    epoch: Annotated[int, Field(ge=1)]
    loss: float
    train_accuracy: Fraction
    test_accuracy: Fraction
    lr: NonNegative
    sigma: NonNegative
    seconds: NonNegative


History = list[Epoch]


def numbered(history: History) -> History:
    """Return a history whose epochs are numbered from 1.

    Raises
    ------
    ValueError
        They are not.
    """
    if [entry["epoch"] for entry in history] != list(range(1, len(history) + 1)):
        raise ValueError("epochs must be numbered 1, 2, …")
    return history


def record(
    spec: TrainSpec, epoch: int, loss: float, train_accuracy: float, test_accuracy: float, seconds: float
) -> dict[str, float]:
    """Return what a history says of an epoch (from 0)."""
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "train_accuracy": train_accuracy,
        "test_accuracy": test_accuracy,
        "lr": learning_rate(spec, epoch),
        "sigma": spec.sigma * spec.ramp(epoch),
        "seconds": round(seconds, 3),
    }


def write_history(path: Path, history: list[dict[str, float]], durable: bool = True) -> None:
    """Write one line of JSON an epoch; `durable` as in `write_text`."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in history), durable)


def is_guessing(accuracy: float, labels: Tensor) -> bool:
    """Return whether an accuracy over images with these labels (N,) is no better than guessing.

    That is: at most 4 binomial standard deviations above the accuracy of always naming the most frequent class, which
    a guesser exceeds by luck once in 30,000 epochs (normal approximation).
    """
    p = guessing_accuracy(labels)
    return accuracy <= p + 4 * math.sqrt(p * (1 - p) / len(labels))


def guessed(history: list[dict[str, float]], data: DataSet, epochs: int = 1) -> bool:
    """Return whether so many epochs, the last ones, were all no better than guessing.

    In training, too: under noise batch normalisation may keep statistics that are far from those without it, and a
    network that has learned then names test images by chance until they are estimated anew (`estimate_batch_norm`).
    """
    last = history[-epochs:]
    return len(last) == epochs and all(
        is_guessing(epoch[f"{part}_accuracy"], labels)
        for epoch in last
        for part, labels in (("train", data.train_y), ("test", data.test_y))
    )


def has_ended(spec: TrainSpec, history: list[dict[str, float]], data: DataSet) -> bool:
    """Return whether all epochs are done, or the training collapsed and is to stop then."""
    patience = spec.stop_on_collapse
    return len(history) >= spec.epochs or bool(patience and guessed(history, data, patience))
