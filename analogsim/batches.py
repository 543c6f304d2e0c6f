"""What a batch is, how a network is called on one, and what of its output is looked at: the same for every verb."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from operator import length_hint
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from .errors import AnalogSimError, CalibrationError, DataError
from .seeds import forked
from .terminal.progress import track

Batch: TypeAlias = Any
"""What a network is called on at a time.

A tensor x (or PackedSequence), called as model(x); a pair (x, target), as a tuple or list, as model(x); a mapping, as
model(**batch), whose `labels` or `label` are the target. Anything else needs a `Step`. It is moved to the network's
device as a whole: what is in tuples, lists, mappings and dataclasses, and whatever has a method `to`.
"""
Step: TypeAlias = Callable[[nn.Module, Any], tuple[Any, Any]]
"""How a network is called on a batch of any other kind: (model, batch) -> (output, target)."""
Batches: TypeAlias = Any
"""Batches: an iterable or a Dataset of them, or a single one, be it a tensor, a mapping or a tuple (inputs, labels)."""
Labelled = tuple[Tensor, Tensor]
"""Network inputs, and the class of each as a whole number."""

BATCH = 500  # samples of a batch that is cut from tensors or from a data set; batches that are given stay as they are
KEEP = 2**30  # bytes of test data that are held on the model's device; more is read again for every evaluation
IGNORED = -100  # the label of what does not count, as in torch's cross entropy and in transformers
TARGETS = "labels", "label"  # of a mapping
LOGITS = "logits", "out"  # of an output that is a mapping: transformers', torchvision's for segmentation


def device_of(model: nn.Module) -> torch.device:
    """Return where a network is; the CPU where it has no tensors."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@torch.no_grad()
def run(model: nn.Module, batches: Batches, progress: bool, title: str, step: Step | None = None) -> None:
    """Run a network on batches of inputs, where it is and without gradients; targets are not looked at.

    Raises
    ------
    CalibrationError
        No batch was given, or the network cannot be called on one; see `called`.
    """
    device, number = device_of(model), 0
    for batch in track(Lent(as_batches(batches)), title, progress):
        called(model, moved(batch, device), step, f"batches: batch {number}", CalibrationError)
        number += 1
    if not number:
        raise CalibrationError("batches: empty; give at least one batch of network inputs")


def called(
    model: nn.Module, batch: Batch, step: Step | None, what: str, error: type[AnalogSimError] = DataError
) -> Any:
    """Call a network on a batch (already on its device) and return its output as it is.

    Of a tuple or list, whatever its length, the first is the network's input.

    Raises
    ------
    AnalogSimError
        Of the class given, with `what` in front: there is no default way to call a network on such a batch.
    """
    if step is not None:
        return _stepped(model, batch, step, what)[0]
    return _call(model, inputs_of(batch), what, error)[0]


def inputs_of(batch: Batch) -> Any:
    """Return what of a batch a network is called on: of a tuple or list the first."""
    return batch[0] if _is_sequence(batch) and batch else batch


def answered(model: nn.Module, batch: Batch, step: Step | None, what: str) -> tuple[Any, Any]:
    """Call a network on a batch (already on its device) and return its output and the target.

    Of a mapping `labels` or `label` are taken out of the call, so that no loss is computed, unless the network needs
    them: where they are a parameter of its forward without a default, or of an encoder-decoder of transformers to make
    the decoder's inputs of. Labels of a causal language model of transformers are shifted as transformers does: the
    target of each position is the next label, and of the last one -100.

    Raises
    ------
    DataError
        There is no default way to call a network on such a batch, or no target in it.
    """
    if step is not None:
        return _stepped(model, batch, step, what)
    if _is_sequence(batch) and len(batch) == 2:
        x, target = batch
        if isinstance(x, Tensor) and isinstance(target, Tensor) and x.shape[:1] != target.shape[:1]:
            raise DataError(f"{what}: {tuple(x.shape)} inputs and {tuple(target.shape)} labels differ in number")
        return _call(model, x, what)[0], target
    if not isinstance(batch, Mapping):
        kind = type(batch).__name__ + (f" of {len(batch)}" if _is_sequence(batch) else "")
        raise DataError(f"{what} is no pair (inputs, labels), and no mapping with labels, but {kind}; {_ADVICE}")
    output, target = _call(model, batch, what)
    if target is None:
        raise DataError(f"{what}: none of {', '.join(map(str, batch))} is `labels` or `label`; {_ADVICE}")
    return output, target


_ADVICE = "give step=, a function (model, batch) -> (output, target)"


def _stepped(model: nn.Module, batch: Batch, step: Step, what: str) -> tuple[Any, Any]:
    found = step(model, batch)
    if not isinstance(found, tuple) or len(found) != 2:
        raise DataError(f"{what}: step gave {type(found).__name__}; it must return (output, target)")
    return found


def _call(model: nn.Module, x: Any, what: str, error: type[AnalogSimError] = DataError) -> tuple[Any, Any]:
    if isinstance(x, Mapping):
        inputs = dict(x)
        key = next((key for key in TARGETS if key in inputs), None)
        target = inputs.pop(key, None)
        if key is not None and _needs(model, key, inputs):
            inputs[key] = target
        output = model(**inputs)
        return output, _next(target) if key == "labels" and _is_causal(model) else target
    if isinstance(x, Tensor | PackedSequence) or _is_sequence(x):
        return model(x), None
    raise error(
        f"{what} is neither a tensor, nor a pair (inputs, labels), nor a mapping, but {type(x).__name__}; {_ADVICE}"
    )


def _needs(model: nn.Module, key: str, inputs: Mapping[str, Any]) -> bool:
    """Say whether a network needs its labels to compute its output."""
    try:
        parameter = inspect.signature(model.forward).parameters.get(key)
    except (TypeError, ValueError):
        parameter = None
    if parameter is not None and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
        return True
    is_pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return bool(is_pair) and not {"decoder_input_ids", "decoder_inputs_embeds"} & set(inputs)


def _is_causal(model: nn.Module) -> bool:
    """Say whether a network is a language model of transformers that predicts each label from those before it."""
    config = getattr(model, "config", None)
    if config is None or any(
        getattr(part, "is_encoder_decoder", False) for part in (config, getattr(config, "text_config", None))
    ):
        return False
    base = getattr(model, "get_base_model", None)  # peft's
    inner = base() if callable(base) else model
    if getattr(inner, "loss_type", None) == "ForConditionalGeneration":  # that sees pictures, too
        return True
    names = [kind.__name__ for kind in type(inner).__mro__ if kind.__module__.startswith("transformers.")]
    return any(part in name and not name.startswith(_UNSHIFTED) for name in names for part in ("CausalLM", "LMHead"))


_UNSHIFTED = "XLMWithLMHead", "XLNetLMHead", "FlaubertWithLMHead"  # whose labels are those of the same place


def _next(labels: Any) -> Any:
    """Shift labels (…, T) to what each position of a causal language model predicts."""
    if not isinstance(labels, Tensor) or not labels.ndim:
        return labels
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], IGNORED)], -1)


def logits_of(output: Any) -> Any:
    """Return what of a network's output is measured: its `logits` (of an object or mapping; or "out"), else all."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = next((output[key] for key in LOGITS if key in output), None)
    return output if found is None else found


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device: all tensors in it, at whatever depth; what is given stays as it is."""
    if isinstance(batch, Tensor | PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]
    if isinstance(batch, tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if isinstance(batch, list):
        return [moved(part, device) for part in batch]
    if isinstance(batch, Mapping) and not hasattr(batch, "to"):
        parts = {key: moved(part, device) for key, part in batch.items()}
        if type(batch) is dict or not hasattr(batch, "__setitem__"):
            return parts
        made: Any = copy.copy(batch)
        for key, part in parts.items():
            made[key] = part
        return made
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        made = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(made, field.name, moved(getattr(batch, field.name), device))
        return made
    if callable(getattr(batch, "to", None)) and not isinstance(batch, type):
        held: Any = copy.copy(batch)
        return held.to(device)  # transformers' BatchEncoding and PyG's Data move in place
    return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in their order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, PackedSequence):
        yield batch.data
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from tensors_of(part)
    elif isinstance(batch, tuple | list):
        for part in batch:
            yield from tensors_of(part)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from tensors_of(getattr(batch, field.name))


def samples_of(batch: Any) -> int:
    """Return how many samples inputs, or targets, have: the length of a list, a tuple of numbers or an array, or of the
    first tensor in them (1 of none).
    """
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, list) or isinstance(batch, tuple) and all(isinstance(part, int | float) for part in batch):
        return len(batch)
    if not isinstance(batch, Tensor) and (shape := getattr(batch, "shape", None)):  # numpy's
        return int(shape[0])
    first = next(tensors_of(batch), None)
    return 1 if first is None or not first.ndim else len(first)


def samples_in(batch: Batch) -> int:
    """Return how many samples a batch has: of a tuple or list of parts those of the first, of a list of samples all."""
    if not _is_sequence(batch) or not batch:
        return samples_of(batch)
    parts = Tensor | PackedSequence | list | tuple
    if isinstance(batch, list) and not any(isinstance(part, parts) for part in batch):
        return len(batch)
    return samples_of(batch[0])


def as_batches(data: Batches) -> Iterable[Batch]:
    """Return batches; a single one (a tensor, a mapping, a dataclass) is a list of it, and a Dataset is cut.

    A tuple of two tensors is one batch (inputs, labels) if both have as many samples, unless their shapes and types are
    the same, as those of two batches of inputs are.
    """
    if isinstance(data, Tensor | PackedSequence | Mapping) or _is_value(data):
        return [data]
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=BATCH, generator=torch.Generator())
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        if x.shape[:1] == y.shape[:1] and (x.shape, x.dtype) != (y.shape, y.dtype):
            return [data]
    return data


def listed(data: Batches) -> list[Batch]:
    """Return all batches, as `as_batches` has them."""
    return list(Lent(as_batches(data)))


def with_targets(data: Batches, step: Step | None = None) -> Iterable[Batch]:
    """Return batches with their targets: of inputs (N, …) and targets (N, …), a tuple or list, parts of `BATCH`.

    A list of two tensors of one kind are two batches for a step, which finds targets in them.

    Raises
    ------
    DataError
        There are not as many targets as inputs.
    """
    if isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = cast(Labelled, data)
        if step is not None and isinstance(data, list) and (x.dtype, x.shape[1:]) == (y.dtype, y.shape[1:]):
            return data
        if not x.ndim or x.shape[:1] != y.shape[:1]:
            raise DataError(f"data: as many inputs as labels are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
        return list(zip(x.split(BATCH), y.split(BATCH)))
    return as_batches(data)


def repeatable(data: Batches, device: torch.device, step: Step | None = None) -> Iterable[Batch]:
    """Return batches with targets that can be run through many times: on the device where they fit, else read again.

    Raises
    ------
    DataError
        It is nothing that batches come from, or no network's device.
    """
    source = with_targets(data, step)
    if device.type == "meta":
        raise DataError("model: it is on the device meta and has no numbers; load its weights first")
    if not isinstance(source, Iterable):
        raise DataError(f"data: batches are needed, got {type(data).__name__}")
    once = isinstance(source, Iterator)
    kept, size = [], 0
    for batch in Lent(source):
        size += sum(tensor.nbytes for tensor in tensors_of(batch))
        if size > KEEP and not once:
            return Lent(source, device)
        kept.append(batch if size > KEEP else moved(batch, device))
    return Lent(kept, device) if size > KEEP else kept


class Lent:
    """Batches, moved to a device each time they are asked for.

    A loader's own random numbers (order, augmentation) are torch's: they are lent, and its state is set back.
    """

    def __init__(self, source: Iterable[Batch], device: torch.device | None = None) -> None:
        self.source, self.device = source, device

    def __length_hint__(self) -> int:
        return length_hint(self.source)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.source if isinstance(self.source, Sequence) else self._drawn():
            yield batch if self.device is None else moved(batch, self.device)

    def _drawn(self) -> Iterator[Batch]:
        cpu = torch.device("cpu")
        with forked(cpu):
            source, state = iter(self.source), torch.get_rng_state()
        for _ in count():
            with forked(cpu):
                torch.set_rng_state(state)
                batch = next(source, self)
                state = torch.get_rng_state()
            if batch is self:
                return
            yield batch


def _is_sequence(batch: Any) -> bool:
    # A PackedSequence is a tuple too, but one input.
    return isinstance(batch, tuple | list) and not isinstance(batch, PackedSequence)


def _is_value(data: Any) -> bool:
    """Say whether data is a single batch by its kind: a dataclass's value that is no collection of batches."""
    return dataclasses.is_dataclass(data) and not isinstance(data, type | Dataset)
