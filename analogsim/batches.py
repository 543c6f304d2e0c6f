"""What a batch is: network inputs, with or without labels, in all forms in which the verbs take them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from .errors import CalibrationError, DataError
from .seeds import forked
from .terminal.progress import track

Batch = Tensor | PackedSequence | tuple[Tensor, ...] | list[Tensor]
"""Network inputs, or a tuple that begins with them."""
Batches = Iterable[Batch] | Tensor | PackedSequence
Labelled = tuple[Tensor, Tensor]
"""Network inputs, and the class of each as a whole number."""
LabelledData = Iterable[Labelled] | Labelled | Dataset[Labelled]

BATCH = 500  # samples of a batch that is cut from tensors or from a data set; batches that are given stay as they are
KEEP = 2**30  # bytes of test data that are held on the model's device; more is read again for every evaluation


@torch.no_grad()
def run(model: nn.Module, batches: Batches, progress: bool, title: str) -> None:
    """Run a network on batches of inputs, where it is and without gradients.

    Raises
    ------
    CalibrationError
        No batch was given, or one is not a tensor.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    for batch in track(as_batches(batches), title, progress):
        inputs = inputs_of(batch)
        if not isinstance(inputs, Tensor | PackedSequence):
            raise CalibrationError(
                f"batches: batch {count} is neither a tensor nor a tuple that starts with one (got "
                f"{type(batch).__name__})"
            )
        model(inputs.to(device))  # type: ignore[arg-type]
        count += 1
    if not count:
        raise CalibrationError("batches: empty; give at least one batch of network inputs")


def inputs_of(batch: Batch) -> Any:
    """Return a batch's network inputs: of a tuple or list the first, else the batch."""
    # A PackedSequence is a tuple too, but one input.
    return batch[0] if isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence) else batch


def as_batches(batches: Batches) -> Iterable[Batch]:
    """Return batches: a tensor is one, and so are inputs with their labels, integers (N,)."""
    if isinstance(batches, Tensor | PackedSequence):
        return [batches]
    if isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(part, Tensor) for part in batches):
        x, y = batches
        if y.shape == x.shape[:1] and not y.is_floating_point():  # type: ignore[union-attr]
            return [batches]  # type: ignore[list-item]
    return batches


def labelled_batches(data: LabelledData, device: torch.device, classes: bool = True) -> Iterable[Labelled]:
    """Return batches that can be run through many times: on the device where they fit, else read again each time.

    Parameters
    ----------
    data : iterable of (Tensor, Tensor), (Tensor, Tensor), or Dataset
        Batches (inputs, labels), or all inputs (N, …) and labels (N,) int, or a torch data set.
    device : torch.device
    classes : bool
        Labels must be integers, one class each; else they may be any tensors of as many samples.

    Raises
    ------
    DataError
        A batch is no pair of inputs and such labels.
    """
    if isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = cast(Labelled, data)
        if not x.ndim or x.shape[:1] != y.shape[:1]:
            raise DataError(f"data: as many inputs as labels are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
        source: Iterable[Labelled] = list(zip(x.split(BATCH), y.split(BATCH)))
    elif isinstance(data, Dataset):
        source = DataLoader(data, batch_size=BATCH, generator=torch.Generator())
    else:
        source = cast(Iterable[Labelled], data)
    once = isinstance(source, Iterator)
    kept, size = [], 0
    # A loader's own random numbers (order, augmentation) are torch's: they are lent.
    with nullcontext() if isinstance(source, Sequence) else forked(torch.device("cpu")):
        for number, batch in enumerate(source):
            x, y = _pair(number, batch, classes)
            size += x.nbytes + y.nbytes
            if size > KEEP and not once:
                return _Streamed(source, device, classes)
            kept.append((x, y) if size > KEEP else (x.to(device), y.to(device)))
    return _Streamed(kept, device, classes) if size > KEEP else kept


class _Streamed:
    """Batches moved to the device each time they are asked for."""

    def __init__(self, source: Iterable[Labelled], device: torch.device, classes: bool) -> None:
        self.source, self.device, self.classes = source, device, classes

    def __iter__(self) -> Iterator[Labelled]:
        cpu = torch.device("cpu")
        with forked(cpu):
            source, state = iter(self.source), torch.get_rng_state()
        for number in count():
            with forked(cpu):
                torch.set_rng_state(state)
                batch = next(source, None)
                state = torch.get_rng_state()
            if batch is None:
                return
            x, y = _pair(number, batch, self.classes)
            yield x.to(self.device), y.to(self.device)


def _pair(number: int, batch: object, classes: bool) -> Labelled:
    """Check that a batch is (inputs, labels)."""
    if not isinstance(batch, Sequence) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise DataError(f"data: batch {number} is no pair of tensors (inputs, labels), but {type(batch).__name__}")
    x, y = batch
    if not classes:
        if not x.ndim or x.shape[:1] != y.shape[:1]:
            raise DataError(
                f"data: batch {number}: {tuple(x.shape)} inputs and {tuple(y.shape)} labels differ in number"
            )
        return x, y
    if y.ndim != 1 or x.shape[:1] != y.shape or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"data: batch {number}: labels must be integers of shape (batch,), one class each; got {y.dtype} "
            f"{tuple(y.shape)} for inputs {tuple(x.shape)}"
        )
    return x, y
