"""Image data sets in memory: digits (embedded), CIFAR-10, and a user's own arrays or folders."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .augment import Augmentation
from .readers import Images, read_folder, read_npz

__all__ = ["DataSet", "identify", "load_data"]

KINDS = "digits, cifar10, cifar10:ROOT, npz:PATH or folder:PATH"
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the paper's
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels of a training and a test part.

    Attributes
    ----------
    label : str
        What it is called in results.
    train_x, test_x : Tensor (N, C, H, W), uint8
    train_y, test_y : Tensor (N,), int64
        Class numbers, from 0.
    mean, std : tuple of float
        Per channel, of pixels in [0, 1].
    classes : tuple of str
    augmentation : Augmentation
        How its training images may be varied; `TrainSpec.augment` overrides it.

    Raises
    ------
    DataError
        The parts do not fit together.
    """

    label: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    augmentation: Augmentation = Augmentation(crop=4, flip=False)

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            where = f"{self.label}, {part} part"
            if x.ndim != 4 or x.dtype != torch.uint8:
                raise DataError(f"{where}: images must be uint8 (N, C, H, W), got {_kind(x)}")
            if y.ndim != 1 or y.dtype != torch.int64:
                raise DataError(f"{where}: labels must be int64 (N,), got {_kind(y)}")
            if len(x) != len(y):
                raise DataError(f"{where}: {len(x)} images, but {len(y)} labels")
            if not len(x):
                raise DataError(f"{where}: no images; both parts are needed")
            if y.min() < 0 or y.max() >= len(self.classes):
                wrong = int(y.min()) if y.min() < 0 else int(y.max())
                raise DataError(
                    f"{where}: label {wrong} is out of range; there are {len(self.classes)} classes, so labels must be "
                    f"0..{len(self.classes) - 1}"
                )
        if len(self.classes) < 2:
            raise DataError(f"{self.label}: at least two classes are needed (got {', '.join(self.classes) or 'none'})")
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            sizes = " and ".join(str(tuple(x.shape[1:])) for x in (self.train_x, self.test_x))
            raise DataError(f"{self.label}: training and test images differ in shape: {sizes} (C, H, W)")
        if not len(self.mean) == len(self.std) == self.train_x.shape[1] or min(self.std) <= 0:
            raise DataError(f"{self.label}: mean and std must have one value a channel, and std must be positive")

    @property
    def chance(self) -> float:
        """Accuracy of guessing at its best on the test part: always naming the most frequent class."""
        return guessing_accuracy(self.test_y)

    @property
    def fingerprint(self) -> str:
        """CRC-32 of all images and labels, as hexadecimal digits."""
        crc = 0
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            crc = zlib.crc32(part.contiguous().numpy().data, crc)
        return f"{crc:08x}"

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) as float32 of mean 0 and variance 1, per channel of the training part."""
        gain, offset = _scales(self.mean, self.std, images.device)
        return images.float().mul_(gain).sub_(offset)

    def test_batches(
        self, batch_size: int = 500, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test part as normalised batches (x, y)."""
        for x, y in zip(self.test_x.split(batch_size), self.test_y.split(batch_size)):
            yield self.normalise(x.to(device)), y.to(device)

    def train_sample(self, count: int, batch_size: int = 256) -> list[Tensor]:
        """Return at most so many training images, drawn at random, as normalised batches: to calibrate ranges on."""
        return [self.normalise(part) for part in self.subset(train=count).train_x.split(batch_size)]

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> "DataSet":
        """Return a data set of at most so many images (None: all), drawn at random, in their order.

        Which test images are drawn does not depend on `train`, nor the other way round. Mean and std stay.
        """
        if min(n for n in (train, test, 1) if n is not None) < 1:
            raise DataError(f"{self.label}: a subset needs at least one image of each part (got {train} and {test})")
        generator = torch.Generator().manual_seed(seed)
        a, b = (
            torch.randperm(len(y), generator=generator)[:n].sort().values
            for y, n in ((self.train_y, train), (self.test_y, test))
        )
        if len(a) == len(self.train_y) and len(b) == len(self.test_y):
            return self
        return replace(
            self,
            label=f"{self.label}, {len(a)} + {len(b)} images",
            train_x=self.train_x[a],
            train_y=self.train_y[a],
            test_x=self.test_x[b],
            test_y=self.test_y[b],
        )


def guessing_accuracy(labels: Tensor) -> float:
    """Return the share of the most frequent of labels (N,)."""
    return float(labels.bincount().max()) / len(labels)


@lru_cache(maxsize=16)
def _scales(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return gain and offset of each channel, kept on the device: sending them there waits for it."""
    m, s = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return 1 / (255 * s), m / s


def load_data(name: str) -> DataSet:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        `digits`: scikit-learn's 1,797 handwritten digits, resized to 32×32 (embedded, nothing is downloaded).
        `cifar10` or `cifar10:ROOT`: torchvision's, downloaded into ROOT (default ./data) where it is missing.
        `npz:PATH`: arrays {train,test}_images (uint8, NHWC or NCHW) and {train,test}_labels, optionally class_names;
        or the images as {train,test}_jpeg (JPEG files one after the other, uint8) and {train,test}_offsets (where
        each begins, and the end of the last).
        `folder:PATH`: `PATH/{train,test}/CLASS/*.png` or `.jpg`, all of one size.

    Raises
    ------
    DataError
        There is no such data set, or it is not what its kind needs.

    Notes
    -----
    CIFAR-10, from wherever, is normalised with the paper's constants, and cropped and flipped in training. Other
    data sets take their statistics from their training part and are cropped only: a mirrored digit is no digit.
    Decoding 60,000 JPEGs takes some 5 s.
    """
    kind, place = _parsed(name)
    if kind == "digits":
        return _digits()
    if kind == "cifar10":
        return _cifar10(place or "data")
    path = _found(name, kind, place)
    images = read_npz(path) if kind == "npz" else read_folder(path)
    return _own(path.stem if kind == "npz" else path.resolve().name, images)


def identify(name: str) -> str:
    """Return what a data set is, whatever the place: of files the SHA-256 of what is in them.

    Raises
    ------
    DataError
        There is no such file, folder or kind of data.
    """
    kind, place = _parsed(name)
    if kind in ("digits", "cifar10"):
        return kind
    path = _found(name, kind, place)
    digest = hashlib.sha256()
    files = [path] if kind == "npz" else sorted(file for file in path.rglob("*") if file.is_file())
    try:
        for file in files:
            if kind == "folder":
                digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
            with file.open("rb") as content:
                hashlib.file_digest(content, lambda: digest)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error}") from None
    return f"{kind}:{digest.hexdigest()}"


def _parsed(name: str) -> tuple[str, str]:
    """Return the kind of a data set, and the place that its name gives."""
    kind, colon, place = name.partition(":")
    if name == "digits" or kind == "cifar10" and (place or not colon) or kind in ("npz", "folder") and place:
        return kind, place
    raise DataError(f"no data set {name!r}: choose {KINDS}")


def _found(name: str, kind: str, place: str) -> Path:
    try:
        path = Path(place).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name}: {error}") from None
    if not (path.is_file() if kind == "npz" else path.is_dir()):
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{name}: no such {'file' if kind == 'npz' else 'folder'}{where}")
    return path


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    images, labels = images.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(digits.target).long()
    # A fifth of every class, the same one always, is the test part.
    order = np.random.default_rng(0).permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        test[order[digits.target[order] == digit][::5]] = True
    classes = tuple(str(digit) for digit in range(10))
    parts = Images(images[~test], labels[~test], images[test], labels[test], classes)
    # The originals are 8×8: two pixels are half of one of theirs.
    return _measured("digits", parts, Augmentation(crop=2, flip=False))


def _cifar10(root: str) -> DataSet:
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10: neither in {root!r} nor to be downloaded ({error}); give its folder by cifar10:ROOT"
        ) from error
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    labels = [torch.tensor(part.targets) for part in parts]
    return _cifar("CIFAR-10", Images(images[0], labels[0], images[1], labels[1], tuple(parts[0].classes)))


def _own(stem: str, images: Images) -> DataSet:
    if set(images.classes) == set(CIFAR10_CLASSES) and images.train_x.shape[1:] == (3, 32, 32):
        return _cifar("CIFAR-10 (JPEG re-encoded)" if images.jpeg else f"CIFAR-10 ({stem})", images)
    return _measured(stem, images, Augmentation(crop=4, flip=False))


def _cifar(label: str, images: Images) -> DataSet:
    augmentation = Augmentation(crop=4, flip=True)
    return DataSet(label, *images.parts, CIFAR10_MEAN, CIFAR10_STD, images.classes, augmentation)


def _measured(label: str, images: Images, augmentation: Augmentation) -> DataSet:
    """Take mean and std from the training part."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.train_x.unbind(1):
        # From the histogram: exact, and without a float copy of all images.
        share = channel.flatten().bincount(minlength=256).double() / max(channel.numel(), 1)
        mean = share @ values
        means.append(mean.item())
        stds.append(max((share @ (values - mean) ** 2).sqrt().item(), 1e-6))
    return DataSet(label, *images.parts, tuple(means), tuple(stds), images.classes, augmentation)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
