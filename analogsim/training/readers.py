"""A user's own images, from an .npz file or from folders."""

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..machine import memory
from ..storage.files import content, first_line

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits a pixel begin so; it would clip them, not scale them


@dataclass(frozen=True, eq=False)
class Images:
    """What was read: images (N, C, H, W) uint8, labels (N,) int64, class names, and whether the file held JPEGs."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    jpeg: bool = False

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training images and labels, test images and labels."""
        return self.train_x, self.train_y, self.test_x, self.test_y


def read_npz(path: Path) -> Images:
    """Read arrays, or JPEGs packed into arrays; no code is run (allow_pickle=False).

    Raises
    ------
    DataError
        The file is damaged, an array is missing, or one is not what it should be.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{path}: a single array; an .npz file with several named ones is needed")
            with zipfile.ZipFile(file) as archive:
                _check_sizes(path, archive)
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = {key: loaded[key] for key in loaded.files}
    except DataError:
        raise
    except Exception as error:  # what bytes that are no such archive make its readers raise
        raise DataError(f"{path}: no readable .npz file of plain arrays: {first_line(error)}") from None
    jpeg = "train_jpeg" in arrays
    kinds = ("jpeg", "offsets", "labels") if jpeg else ("images", "labels")
    wanted = [f"{part}_{kind}" for part in ("train", "test") for kind in kinds]
    if missing := [key for key in wanted if key not in arrays]:
        there = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path}: missing {', '.join(missing)}; the arrays there are: {there}")
    parts = []
    for part in ("train", "test"):
        parts.append(_unpacked(path, arrays, part) if jpeg else _channels_first(path, part, arrays[f"{part}_images"]))
        parts.append(_labels(path, part, arrays[f"{part}_labels"]))
    return Images(*parts, classes=_classes(path, arrays, parts[1], parts[3]), jpeg=jpeg)


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse arrays that say they are of another size than their part of the archive, or that no memory holds."""
    total = 0
    for info in archive.infolist():
        total += info.file_size
        if not info.filename.endswith(".npy"):
            continue
        with archive.open(info) as part:
            version = np.lib.format.read_magic(part)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(part)
            size = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and part.tell() + size != info.file_size:
                raise ValueError(f"{info.filename} says that it has {size:,} bytes, and has not")
    _check_memory(str(path), total)


def _check_memory(what: str, size: int) -> None:
    """Refuse what is larger than this machine's memory."""
    if size > (most := memory()):
        raise DataError(f"{what}: {size / 1e9:,.0f} GB of data, more than the {most / 1e9:,.0f} GB of this machine")


def _labels(path: Path, part: str, labels: np.ndarray) -> Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {part}_labels must be whole numbers (N,), got {labels.dtype} {labels.shape}")
    return torch.from_numpy(labels.astype(np.int64))


def _classes(path: Path, arrays: dict[str, np.ndarray], *labels: Tensor) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return tuple(str(number) for number in range(1 + max(int(y.max()) if len(y) else -1 for y in labels)))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: class_names must be text (classes,), got {names.dtype} {names.shape}")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())


def _channels_first(path: Path, part: str, images: np.ndarray) -> Tensor:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{path}: {part}_images must be uint8 (N, H, W, C) or (N, C, H, W), got {images.dtype} {images.shape}"
        )
    if images.shape[3] in (1, 3):
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if images.shape[1] in (1, 3):
        return torch.from_numpy(images)
    raise DataError(f"{path}: {part}_images {images.shape}: neither the last nor the second axis has 1 or 3 channels")


def _unpacked(path: Path, arrays: dict[str, np.ndarray], part: str) -> Tensor:
    stream, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
    if stream.ndim != 1 or stream.dtype != np.uint8:
        raise DataError(f"{path}: {part}_jpeg must be uint8 (bytes,), got {stream.dtype} {stream.shape}")
    if (
        offsets.ndim != 1
        or offsets.dtype.kind not in "iu"
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(stream)
        or (offsets[1:] <= offsets[:-1]).any()
    ):
        raise DataError(
            f"{path}: {part}_offsets must be whole numbers that rise from 0 to the {len(stream)} bytes of {part}_jpeg"
        )
    data, ends = stream.tobytes(), offsets.tolist()
    sources = ((f"{part}_jpeg[{k}]", io.BytesIO(data[ends[k] : ends[k + 1]])) for k in range(len(ends) - 1))
    return _decoded(path, sources, len(ends) - 1, "RGB")


def _decoded(path: Path, sources: Iterable[tuple[str, io.BytesIO | Path]], count: int, mode: str) -> Tensor:
    """Decode images of one size into one tensor (N, C, H, W)."""
    width, height, channels = 0, 0, len(mode)
    images = np.zeros((count, height, width, channels), np.uint8)
    for number, (name, source) in enumerate(sources):
        try:
            with _image(source) as image:
                if image.mode.startswith(DEEP):
                    raise ValueError(f"its pixels have more than 8 bits (mode {image.mode}); convert it to 8 bits")
                size, pixels = image.size, np.asarray(image.convert(mode))
        except Exception as error:  # what a damaged image makes its decoder raise
            raise DataError(f"{path}: {name} is no readable image: {first_line(error)}") from None
        if number == 0:
            width, height = size
            _check_memory(str(path), count * width * height * channels)
            images = np.zeros((count, height, width, channels), np.uint8)
        if size != (width, height):
            raise DataError(
                f"{path}: {name} is {size[0]}×{size[1]} pixels, the first image is {width}×{height}; "
                "resize them to one size"
            )
        images[number] = pixels.reshape(height, width, channels)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read_folder(path: Path) -> Images:
    """Read PATH/{train,test}/CLASS/*.png or .jpg; grey where all images are grey.

    Raises
    ------
    DataError
        A part, its classes or images are missing, or an image cannot be read.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise DataError(f"{path}: no folder {part!r}; images are expected as {part}/CLASS/NAME.png")
        folders = sorted(entry for entry in (path / part).iterdir() if entry.is_dir())
        found[part] = {
            folder.name: sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
            for folder in folders
        }
        if not any(found[part].values()):
            raise DataError(f"{path / part}: no images ({', '.join(SUFFIXES)}) in folders of classes")
    classes = tuple(name for name, files in found["train"].items() if files)
    if unknown := [name for name, files in found["test"].items() if files and name not in classes]:
        raise DataError(f"{path / 'test'}: class {unknown[0]!r} has no training images")
    files = {
        part: [(file, number) for number, name in enumerate(classes) for file in found[part].get(name, [])]
        for part in found
    }
    mode = "L" if all(_grey(path, file) for part in files.values() for file, _ in part) else "RGB"
    parts = []
    for part in ("train", "test"):
        sources = ((str(file.relative_to(path)), file) for file, _ in files[part])
        parts += [_decoded(path, sources, len(files[part]), mode), torch.tensor([number for _, number in files[part]])]
    return Images(*parts, classes=classes)


def _grey(path: Path, file: Path) -> bool:
    try:
        with _image(file) as image:
            return image.mode in ("1", "L", "LA")
    except Exception as error:
        raise DataError(f"{path}: {file.relative_to(path)} is no readable image: {first_line(error)}") from None


@contextmanager
def _image(source: io.BytesIO | Path) -> "Iterator[Image.Image]":
    """Open a PNG or JPEG file, whatever its name; other formats start other programs. A pipe is not waited for."""
    from PIL import Image

    if isinstance(source, Path):
        source = io.BytesIO(content(source))
    with warnings.catch_warnings():
        # Of more than 89 million pixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(source, formats=("PNG", "JPEG")) as image:
            yield image
