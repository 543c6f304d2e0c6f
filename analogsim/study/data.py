"""Image data sets in memory: digits (embedded), CIFAR-10, and a user's own arrays or folders."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the paper's
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class DataSet:
    """Images and labels of a training and a test part.

    Attributes
    ----------
    label : str
        What it is called in results.
    train_x, test_x : Tensor (N, C, H, W), uint8
    train_y, test_y : Tensor (N,), int64
    mean, std : tuple of float
        Per channel, of pixels in [0, 1].
    classes : tuple of str
    flip : bool
        Whether a mirrored image is still an image of its class.
    """

    label: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    flip: bool = True

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.ndim != 4 or x.dtype != torch.uint8:
                raise DataError(
                    f"{self.label}: {part} images must be uint8 (N, C, H, W), got {x.dtype} {tuple(x.shape)}"
                )
            if len(x) != len(y) or not len(x):
                raise DataError(f"{self.label}: {len(x)} {part} images and {len(y)} labels; as many of both are needed")
            if y.min() < 0 or y.max() >= len(self.classes):
                raise DataError(
                    f"{self.label}: {part} labels must lie in 0..{len(self.classes) - 1}, got {int(y.max())}"
                )

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) as float32 with mean 0 and variance 1 per channel of the training part."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def test_batches(
        self, batch_size: int = 500, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test part as normalised batches (x, y)."""
        for x, y in zip(self.test_x.split(batch_size), self.test_y.split(batch_size)):
            yield self.normalise(x.to(device)), y.to(device)

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> "DataSet":
        """Return a data set of so many images, drawn at random (None: all)."""
        generator = torch.Generator().manual_seed(seed)
        picks = [torch.randperm(len(y), generator=generator) for y in (self.train_y, self.test_y)]
        a, b = picks[0][:train], picks[1][:test]
        label = f"{self.label} ({len(a)} + {len(b)} images)" if train or test else self.label
        parts = {
            "train_x": self.train_x[a],
            "train_y": self.train_y[a],
            "test_x": self.test_x[b],
            "test_y": self.test_y[b],
        }
        return replace(self, label=label, **parts)


def load_data(name: str) -> DataSet:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        `digits`: scikit-learn's 1,797 handwritten digits, resized to 32×32 (embedded, nothing is downloaded).
        `cifar10` or `cifar10:ROOT`: torchvision's, downloaded into ROOT (default ./data) where it is missing.
        `npz:PATH`: arrays {train,test}_images (uint8, NHWC or NCHW) and {train,test}_labels, optionally class_names;
        or {train,test}_jpeg (concatenated JPEG files), {train,test}_offsets and {train,test}_labels.
        `folder:PATH`: PATH/{train,test}/CLASS/*.png or .jpg, all of one size.

    Raises
    ------
    DataError
        There is no such data set, or it is not what its kind needs.
    """
    kind, _, rest = name.partition(":")
    if kind == "digits":
        return _digits()
    if kind == "cifar10":
        return _cifar10(rest or "data")
    if kind in ("npz", "folder") and rest:
        path = Path(rest)
        if not path.exists():
            raise DataError(f"{name}: no such {'file' if kind == 'npz' else 'folder'}")
        return _npz(path) if kind == "npz" else _folder(path)
    raise DataError(f"no data set {name!r}: choose digits, cifar10, cifar10:ROOT, npz:PATH or folder:PATH")


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    images, labels = images.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(digits.target).long()
    # A fifth of every class, the same one always, is the test part.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    rank = torch.zeros(len(labels), dtype=torch.long)
    for digit in range(10):
        members = order[labels[order] == digit]
        rank[members] = torch.arange(len(members))
    test = rank % 5 == 0
    classes = tuple(str(digit) for digit in range(10))
    return _with_statistics("digits", images[~test], labels[~test], images[test], labels[test], classes, flip=False)


def _cifar10(root: str) -> DataSet:
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(f"cifar10: neither in {root!r} nor to be downloaded: {error}") from error
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    labels = [torch.tensor(part.targets) for part in parts]
    return DataSet("CIFAR-10", images[0], labels[0], images[1], labels[1], CIFAR10_MEAN, CIFAR10_STD, CIFAR10_CLASSES)


def _npz(path: Path) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an .npz file of plain arrays: {error}") from None
    jpeg = "train_jpeg" in arrays
    wanted = [f"{part}_{what}" for part in ("train", "test") for what in (("jpeg", "offsets") if jpeg else ("images",))]
    missing = [key for key in (*wanted, "train_labels", "test_labels") if key not in arrays]
    if missing:
        raise DataError(f"{path}: array {missing[0]!r} is missing (there are {', '.join(arrays) or 'none'})")
    labels = [torch.from_numpy(arrays[f"{part}_labels"].astype(np.int64)) for part in ("train", "test")]
    if jpeg:
        images = [_decode(arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]) for part in ("train", "test")]
    else:
        images = [_channels_first(path, arrays[f"{part}_images"]) for part in ("train", "test")]
    count = int(max(int(y.max()) if len(y) else 0 for y in labels)) + 1
    classes = tuple(str(c) for c in arrays.get("class_names", np.arange(count)))
    if set(classes) == set(CIFAR10_CLASSES):
        label = "CIFAR-10 (JPEG re-encoded)" if jpeg else f"CIFAR-10 ({path.stem})"
        return DataSet(label, images[0], labels[0], images[1], labels[1], CIFAR10_MEAN, CIFAR10_STD, classes)
    return _with_statistics(path.stem, images[0], labels[0], images[1], labels[1], classes)


def _decode(stream: np.ndarray, offsets: np.ndarray) -> Tensor:
    from PIL import Image

    data = stream.tobytes()
    images = [np.asarray(Image.open(io.BytesIO(data[a:b])).convert("RGB")) for a, b in zip(offsets[:-1], offsets[1:])]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _channels_first(path: Path, images: np.ndarray) -> Tensor:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(f"{path}: images must be uint8 with 4 dimensions, got {images.dtype} {images.shape}")
    tensor = torch.from_numpy(images)
    return tensor.permute(0, 3, 1, 2).contiguous() if images.shape[-1] in (1, 3) else tensor


def _folder(path: Path) -> DataSet:
    from PIL import Image

    classes = tuple(sorted(entry.name for entry in (path / "train").glob("*") if entry.is_dir()))
    if not classes:
        raise DataError(f"{path}: no class folders in {path / 'train'}")
    parts = []
    for part in ("train", "test"):
        files = [
            (file, number)
            for number, name in enumerate(classes)
            for file in sorted((path / part / name).glob("*"))
            if file.suffix.lower() in (".png", ".jpg", ".jpeg")
        ]
        if not files:
            raise DataError(f"{path / part}: no .png or .jpg images in its class folders")
        images = [np.asarray(Image.open(file).convert("RGB")) for file, _ in files]
        if len({image.shape for image in images}) > 1:
            raise DataError(f"{path / part}: images differ in size; resize them to one")
        parts += [
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([n for _, n in files]),
        ]
    return _with_statistics(path.name, *parts, classes)


def _with_statistics(
    label: str,
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    classes: tuple[str, ...],
    flip: bool = True,
) -> DataSet:
    if not len(train_x):
        raise DataError(f"{label}: no training images")
    pixels = train_x.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp_min(1e-6)
    return DataSet(label, train_x, train_y, test_x, test_y, tuple(mean.tolist()), tuple(std.tolist()), classes, flip)
