"""What computes a measure, batch by batch, as torchmetrics' classes are built; and one pass over the data with it."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import IGNORED, Batch, Step, answered, logits_of, samples_in, samples_of, tensors_of
from ..errors import DataError, FitError, NonFiniteError, ShapeError, warn
from .measure import ACCURACY, MEASURES, Measure

ROUNDING = 1e-6  # by which a share, a float32, may be beyond [0, 1]
VOID = 255  # the label of pixels that do not count, in data sets for segmentation


@runtime_checkable
class Metric(Protocol):
    """Anything with these three methods; every `torchmetrics.Metric` has them.

    `higher_is_better` says its direction; without it more is better.
    """

    def reset(self) -> None:
        """Forget all batches."""

    def update(self, preds: Any, target: Any, /) -> Any:
        """Take note of the network's output for a batch, and of what it should be."""

    def compute(self) -> Any:
        """Return the value over all batches since `reset`: a number, or a tensor of one."""


class Accuracy:
    """The share of samples whose class (B,) has the largest output (B, classes); an output of NaN is never right."""

    classes = 0

    def reset(self) -> None:
        """Forget all batches."""
        self.right: Tensor | int = 0
        self.samples = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        self.classes = preds.shape[1]
        best, guess = preds.max(1)
        # NaN beats every number in max: such a row knows nothing.
        self.right = self.right + ((guess == target) & ~best.isnan()).sum()
        self.samples += len(target)

    def compute(self) -> float:
        """Return the share; only here a GPU is waited for."""
        return int(self.right) / self.samples if self.samples else math.nan


class Top5(Accuracy):
    """The share of samples whose class is among the five largest outputs (all, of fewer); NaN is never right."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        preds, target = per_class(preds, target)
        self.classes = preds.shape[1]
        known = ~preds.isnan().any(1)
        among = (preds.topk(min(5, self.classes), 1).indices == target[:, None]).any(1)
        self.right = self.right + (among & known).sum()
        self.samples += len(target)


class TokenAccuracy(Accuracy):
    """The share of labels (not -100) that have the largest output of their place; NaN is never right."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        super().update(*per_class(preds, target))


class Perplexity:
    """exp of the mean cross entropy (nats) of labels that are not -100."""

    def reset(self) -> None:
        """Forget all batches."""
        self.entropy: Tensor | float = 0.0
        self.labels = self.classes = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        preds, target = per_class(preds, target)
        self.classes = preds.shape[1]
        self.entropy = self.entropy + F.cross_entropy(preds.float(), target, reduction="sum").double()
        self.labels += len(target)

    def compute(self) -> float:
        """Return the perplexity; inf where it is beyond what a float holds."""
        if not self.labels:
            return math.nan
        mean = float(self.entropy) / self.labels
        return math.exp(mean) if mean < 700 else mean * math.inf


class Errors:
    """Sums of what output and target (of one shape, any) differ by; guessing is naming the targets' mean or median."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def reset(self) -> None:
        """Forget all batches."""
        self.error: Tensor | float = 0.0
        self.targets: list[Tensor] = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        preds, target = alike(preds, target)
        difference = preds.double() - target
        self.error = self.error + (difference.abs() if self.kind == "mae" else difference.square()).sum()
        self.targets.append(target)

    def guess(self) -> float | None:
        """Return what always naming the same gives; None where that is always right."""
        target = torch.cat(self.targets)
        if self.kind == "r2":
            return 0.0
        same = target.median() if self.kind == "mae" else target.mean()
        apart = (target - same).abs() if self.kind == "mae" else (target - same).square()
        return float(apart.mean()) or None

    def compute(self) -> float:
        """Return the mean error, or the share of the targets' variance that is explained."""
        target = torch.cat(self.targets)
        if self.kind != "r2":
            return float(self.error) / len(target)
        spread = float((target - target.mean()).square().sum())
        return 1 - float(self.error) / spread if spread else math.nan


class Cosine:
    """The mean cosine of the angle between output and target (B, …), each sample one vector."""

    classes = 0

    def reset(self) -> None:
        """Forget all batches."""
        self.total: Tensor | float = 0.0
        self.samples = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        if preds.shape != target.shape or preds.ndim < 2:
            raise ShapeError(
                f"cosine: output {tuple(preds.shape)} and target {tuple(target.shape)} must be alike (B, …)"
            )
        self.total = self.total + F.cosine_similarity(preds.flatten(1).double(), target.flatten(1).double()).sum()
        self.samples += len(preds)

    def compute(self) -> float:
        """Return the mean."""
        return float(self.total) / self.samples


class Library:
    """A measure that torchmetrics computes, made when the first output tells how many classes there are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes, self.metric = 0, None

    def reset(self) -> None:
        """Forget all batches."""
        self.metric, self.finite = None, True

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        if self.name == "spearman":
            preds, target = alike(preds, target)
            self.finite = self.finite and bool(not preds.isnan().any())
        elif preds.shape == target.shape or preds.shape == (*target.shape, 1):
            # One logit: a class of its own, and one that is not it.
            preds, target, self.classes = preds.reshape(-1), target.reshape(-1).long(), 2
        else:
            preds, target = per_class(preds, target, VOID if self.name == "miou" else None)
            self.classes = preds.shape[1]
        if self.name in ("f1", "miou"):
            unknown = preds.isnan() if preds.ndim == 1 else preds.isnan().any(1)
            guess = (preds > 0).long() if preds.ndim == 1 else preds.argmax(1)
            preds = torch.where(unknown, (target + 1) % self.classes, guess)
        elif self.name == "auroc":
            self.finite = self.finite and bool(not preds.isnan().any())
            # One scale in [0, 1] for all batches: torchmetrics makes probabilities of those batches that have none. Not
            # the sigmoid where order is all that counts: it is 1 from 17 on.
            preds = preds.double().clamp(-1e300, 1e300)  # infinity too
            preds = preds[:, 1] - preds[:, 0] if preds.ndim == 2 and self.classes == 2 else preds
            preds = 0.5 + 0.5 * preds / (1 + preds.abs()) if preds.ndim == 1 else preds.softmax(1)
        if self.metric is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the memory that outputs take until the end
                self.metric = self._made().to(preds.device)
        if self.finite:
            self.metric.update(preds, target)

    def compute(self) -> float:
        """Return the value; NaN where an output was not finite and none can be counted as wrong."""
        return float(self.metric.compute()) if self.finite and self.metric is not None else math.nan

    def _made(self) -> Any:
        library = torchmetrics(self.name)
        if self.name == "spearman":
            return library.SpearmanCorrCoef()
        if self.name == "auroc":
            kind = {"task": "binary"} if self.classes == 2 else {"task": "multiclass", "num_classes": self.classes}
            return library.AUROC(**kind)
        if self.name == "miou":
            return library.JaccardIndex(task="multiclass", num_classes=self.classes)
        return library.F1Score(task="multiclass", num_classes=self.classes, average="macro")


class Own:
    """A user's metric, as it is, and how many classes the outputs have."""

    classes = 0

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()

    def to(self, device: torch.device) -> None:
        """Go where the outputs are, if the metric can."""
        if callable(move := getattr(self.metric, "to", None)):
            move(device)

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch."""
        self.classes = classes_of(preds, target)
        self.metric.update(preds, target)

    def guess(self) -> float | None:
        """Return what the metric says itself that guessing gives, if it does."""
        guess: Callable[[], Any] | None = getattr(self.metric, "guess", None)
        return None if guess is None else float(guess())

    def compute(self) -> Any:
        """Return what the metric does."""
        return self.metric.compute()


class Mean:
    """The mean of a function of (output, target): of all values, or of one a batch, weighted by its samples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function

    def reset(self) -> None:
        """Forget all batches."""
        self.total: Tensor | float = 0.0
        self.weighted: Tensor | float = 0.0
        self.values = self.samples = self.classes = 0
        self.several = False

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch."""
        value = self.function(preds, target)
        try:
            found = torch.as_tensor(value).double()
        except (TypeError, ValueError, RuntimeError):
            raise FitError(f"metric: the function gave {type(value).__name__}, no number and no tensor") from None
        samples = samples_of(target)
        # A tensor of one value may be that of a batch, or of the one label in it: other batches tell.
        self.several = self.several or found.numel() != 1
        self.total, self.values = self.total + found.sum(), self.values + found.numel()
        self.weighted, self.samples = self.weighted + found.sum() * samples, self.samples + samples
        self.classes = classes_of(preds, target)

    def compute(self) -> float:
        """Return the mean."""
        total, weight = (self.total, self.values) if self.several else (self.weighted, self.samples)
        return float(total) / weight if weight else math.nan


OWN: dict[str, Callable[[], Any]] = {
    "accuracy": Accuracy,
    "top5": Top5,
    "token_accuracy": TokenAccuracy,
    "perplexity": Perplexity,
    "mse": lambda: Errors("mse"),
    "mae": lambda: Errors("mae"),
    "r2": lambda: Errors("r2"),
    "cosine": Cosine,
}


def torchmetrics(name: str) -> Any:
    """Return the library.

    Raises
    ------
    FitError
        It is not installed.
    """
    try:
        import torchmetrics as library
    except ImportError:
        raise FitError(f"metric {name!r} needs torchmetrics: pip install 'analogsim[metrics]'") from None
    return library


def made(measure: Measure) -> Any:
    """Return an object of its own that computes a measure; what the user gave stays as it is.

    Raises
    ------
    FitError
        Nothing computes the measure, or it needs torchmetrics, which is missing.
    """
    of, needed = measure.of, "an object with reset, update and compute, or a function (output, target)"
    if isinstance(of, type) or of is not None and not (isinstance(of, Metric) or callable(of)):
        raise FitError(f"metric: {measure.name} is to be computed by {of!r}; give {needed}")
    if of is not None:
        return Own(copy.deepcopy(of)) if isinstance(of, Metric) else Mean(of)
    if measure.name not in MEASURES:
        raise FitError(f"metric: nothing computes {measure.name!r}; give Measure({measure.name!r}, of=…), {needed}")
    if measure.name in OWN:
        return OWN[measure.name]()
    torchmetrics(measure.name)
    return Library(measure.name)


def guessed(measure: Measure, metric: Any) -> float | None:
    """Return what guessing gives on the data that a metric has just seen; None where it is not known.

    Raises
    ------
    FitError
        The measure's function of the number of classes gives none.
    """
    if measure.guess is None:
        return metric.guess() if isinstance(metric, Errors | Own) else None
    classes = getattr(metric, "classes", 0)
    try:
        return float(measure.guess(classes))
    except ArithmeticError as error:
        raise FitError(f"metric: what guessing gives of {measure.name} for {classes} classes: {error}") from None


def classes_of(preds: Any, target: Any) -> int:
    """Return how many classes outputs have, (B, classes, …) or (B, …, classes) for targets (B, …); 0 of no classes."""
    if not isinstance(preds, Tensor) or preds.ndim < 2:
        return 0
    second = isinstance(target, Tensor) and preds.shape[:-1] != target.shape
    return preds.shape[1] if second and (preds.shape[0], *preds.shape[2:]) == target.shape else preds.shape[-1]


def per_class(preds: Tensor, target: Tensor, void: int | None = None) -> tuple[Tensor, Tensor]:
    """Return outputs (M, classes) and labels (M,) of all places, (B, classes, …) or (B, …, classes); -100 left out.

    Raises
    ------
    ShapeError
        They do not fit together.
    """
    if target.is_floating_point() or preds.ndim < 2:
        raise ShapeError(f"labels must be whole numbers, got {target.dtype} for outputs {tuple(preds.shape)}")
    if preds.shape[:-1] == target.shape:
        classes = preds.shape[-1]
        preds = preds.reshape(-1, classes)
    elif (preds.shape[0], *preds.shape[2:]) == target.shape:
        classes = preds.shape[1]
        preds = preds.movedim(1, -1).reshape(-1, classes)
    else:
        raise ShapeError(
            f"outputs {tuple(preds.shape)} and labels {tuple(target.shape)} do not fit: (batch, …, classes) or "
            "(batch, classes, …) for (batch, …) is needed"
        )
    target = target.reshape(-1).long()
    counted = target != IGNORED if void is None else (target != IGNORED) & (target != void)
    preds, target = preds[counted], target[counted]
    if len(target) and not 0 <= int(target.min()) <= int(target.max()) < classes:
        wrong = f"{int(target.min())} … {int(target.max())}"
        raise DataError(f"data: labels must lie in 0 … {classes - 1} (the model's classes), got {wrong}")
    return preds, target


def alike(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets, flat; (B, 1) and (B,) are one shape.

    Raises
    ------
    ShapeError
        They differ in shape.
    """
    if preds.shape != target.shape and preds.shape != (*target.shape, 1) and (*preds.shape, 1) != target.shape:
        raise ShapeError(f"outputs {tuple(preds.shape)} and targets {tuple(target.shape)} must have one shape")
    return preds.reshape(-1), target.reshape(-1).double()


@torch.no_grad()
def measured(
    model: nn.Module,
    batches: Iterable[Batch],
    metric: Any,
    measure: Measure,
    *,
    step: Step | None = None,
    examine: Callable[[Any, Any, int], None] | None = None,
) -> tuple[float, int]:
    """Return a measure's value over batches, and how many samples they have; NaN where it cannot be computed.

    Parameters
    ----------
    examine : callable, optional
        Gets every output, its target and the number of its batch, before the metric does.

    Raises
    ------
    FitError
        The value is no number; or, of a share, not in [0, 1].
    DataError
        There is no sample.
    """
    metric.reset()
    samples, lost = 0, False
    for number, batch in enumerate(batches):
        if not samples_in(batch):
            continue
        output, target = answered(model, batch, step, f"data: batch {number}")
        output = logits_of(output)
        if examine is not None:
            examine(output, target, number)
        if measure.of is None and not (isinstance(output, Tensor) and isinstance(target, Tensor)):
            kind = type(target if isinstance(output, Tensor) else output).__name__
            what = "labels" if isinstance(output, Tensor) else "the model's output"
            raise ShapeError(
                f"data: batch {number}: {measure.name} needs tensors, but {what} are {kind}; give step=, a function "
                "(model, batch) -> (output, target)"
            )
        if hasattr(metric, "to") and not samples and isinstance(output, Tensor):
            metric.to(output.device)
        samples += samples_of(target)
        try:
            metric.update(output, target)
        except (ValueError, RuntimeError, ArithmeticError):
            if not _has_nan(output):
                raise
            lost = True
        lost = lost or isinstance(measure.of, Metric) and _has_nan(output)  # of which it may make anything
    if not samples:
        raise DataError("data: empty; give at least one test sample with its label")
    if lost:
        return math.nan, samples
    found = metric.compute()
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):
        raise FitError(f"metric: {measure.name} gave {type(found).__name__}, no single number") from None
    if measure.share and not math.isnan(value):
        if not -ROUNDING <= value <= 1 + ROUNDING:
            raise FitError(f"metric: {measure.name} is {value:g}; a share lies in [0, 1]")
        value = min(1.0, max(0.0, value))
    return value, samples


def noiseless(
    model: nn.Module, batches: Iterable[Any], metric: Any, measure: Measure, step: Step | None
) -> tuple[float, int]:
    """Return a measure's value without noise and the number of samples, and look at outputs and labels.

    Raises
    ------
    ShapeError, DataError, NonFiniteError
        They are not what the measure takes, or not finite.
    """

    def examine(output: object, target: object, number: int) -> None:
        if measure is ACCURACY:
            metric.classes = check_logits(output, target, number)
        elif isinstance(output, Tensor) and output.isnan().any():
            raise NonFiniteError("model: its output is not finite without noise; check its weights and the inputs")

    value, samples = measured(model, _left_as_they_are(batches), metric, measure, step=step, examine=examine)
    if not math.isfinite(float(measure.heights(value))):
        raise NonFiniteError(f"metric: {measure.name} is {value} without noise; it must be finite")
    return value, samples


def _left_as_they_are(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; refuse a network that changes one in place, for the next pass would get another."""
    for number, batch in enumerate(batches):
        before = [
            (tensor, tensor._version, tensor.clone()) for tensor in tensors_of(batch) if not tensor.is_inference()
        ]
        yield batch
        for tensor, version, value in before:
            if tensor._version != version and not torch.equal(tensor, value):
                tensor.copy_(value)
                raise DataError(
                    f"data: batch {number}: the network changes it in place, so that the next pass would get another; "
                    "let it make a new one, as x = x - 1 does and x -= 1 does not"
                )


def with_worst(verb: str, values: np.ndarray, measure: Measure, best: float | None, chance: float | None) -> np.ndarray:
    """Return values in which those that are not finite are the worst: guessing, or the worst that was measured."""
    lost = ~np.isfinite(measure.heights(values))
    if not lost.any():
        return values
    known = [*values[~lost], *([] if best is None else [best])]
    worst = float(measure.values(measure.heights(known).min())) if chance is None else chance
    what = "that of guessing" if chance is not None else "the worst that was measured"
    warn(
        f"{verb}: {measure.name} is not finite in {int(lost.sum())} of {values.size} evaluations; they count as "
        f"{what}, {worst:.4g}"
    )
    return np.where(lost, worst, values)


def check_logits(out: object, y: object, number: int) -> int:
    """Refuse what are no logits of these labels; return how many classes there are."""
    if not isinstance(out, Tensor):
        raise ShapeError(f"model: its output must be a tensor (batch, classes), got {type(out).__name__}")
    if not isinstance(y, Tensor):
        raise DataError(f"data: batch {number} is no pair of tensors (inputs, labels): labels are {type(y).__name__}")
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"data: batch {number}: labels must be integers of shape (batch,), one class each; got {y.dtype} "
            f"{tuple(y.shape)}; or name another metric"
        )
    if out.ndim != 2 or len(out) != len(y) or out.shape[1] < 2:
        raise ShapeError(
            f"model: its output must be (batch, classes) with at least 2 classes; it gave {tuple(out.shape)} for "
            f"{len(y)} labels; wrap the model so that it returns logits, or name another metric"
        )
    if not out.isfinite().all():
        raise NonFiniteError("model: its output is not finite without noise; check its weights and the inputs")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= out.shape[1]:
        raise DataError(f"data: labels must lie in 0 … {out.shape[1] - 1} (the model's classes), got {low} … {high}")
    return out.shape[1]


def _has_nan(output: Any) -> bool:
    return isinstance(output, Tensor) and bool(output.isnan().any())
