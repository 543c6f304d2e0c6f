"""Data sets: what is in them, how they are normalised and varied, and what is said of wrong ones."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogsim.errors import DataError
from analogsim.training.augment import NONE, Augmentation, cut, draw_crops
from analogsim.training.data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, DataSet, load_data


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def arrays(train=6, test=4, size=8, classes=2, channels=3):
    rng = np.random.default_rng(0)
    out = {}
    for part, count in (("train", train), ("test", test)):
        out[f"{part}_images"] = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
        out[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)
    return out


def saved(tmp_path, values, name="own.npz"):
    np.savez(tmp_path / name, **values)
    return f"npz:{tmp_path / name}"


def jpegs(images):
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    stream = np.frombuffer(b"".join(files), np.uint8)
    return files, stream, np.cumsum([0, *(len(file) for file in files)])


def packed(values):
    out = {key: value for key, value in values.items() if "images" not in key}
    for part in ("train", "test"):
        _, out[f"{part}_jpeg"], out[f"{part}_offsets"] = jpegs(values[f"{part}_images"])
    return out


class TestDigits:
    def test_is_scikit_learns_resized(self, digits):
        from sklearn.datasets import load_digits

        source = load_digits()
        assert len(digits.train_y) + len(digits.test_y) == len(source.target) == 1797
        assert digits.train_x.shape[1:] == (1, 32, 32)
        assert digits.classes == tuple("0123456789")
        # Bilinear enlargement by 4 keeps an image's mean, but for what is clamped at its border.
        both = torch.cat([digits.train_x, digits.test_x]).double().mean() / 255
        assert both.item() == pytest.approx(source.images.mean() / 16, abs=0.002)

    def test_split_is_fixed_stratified_and_disjoint(self, digits):
        again = load_data("digits")
        assert again.fingerprint == digits.fingerprint
        share = digits.test_y.bincount() / (digits.test_y.bincount() + digits.train_y.bincount())
        assert ((share >= 0.2) & (share < 0.21)).all()
        train, test = ({x.numpy().tobytes() for x in part} for part in (digits.train_x, digits.test_x))
        assert not train & test

    def test_normalised_training_part_has_mean_0_and_variance_1(self, digits):
        x = digits.normalise(digits.train_x)
        assert x.dtype == torch.float32
        assert x.mean().item() == pytest.approx(0, abs=1e-4)
        assert x.std().item() == pytest.approx(1, abs=1e-4)

    def test_is_never_mirrored(self, digits):
        assert digits.augmentation == Augmentation(crop=2, flip=False)


class TestDataSet:
    def test_test_batches_are_the_whole_test_part_in_order(self, digits):
        batches = list(digits.test_batches(100))
        assert [len(y) for _, y in batches] == [100, 100, 100, 64]
        assert torch.equal(torch.cat([x for x, _ in batches]), digits.normalise(digits.test_x))
        assert torch.equal(torch.cat([y for _, y in batches]), digits.test_y)

    def test_subset_draws_each_part_by_the_seed_alone(self, digits):
        small = digits.subset(100, 50)
        assert (len(small.train_y), len(small.test_y)) == (100, 50)
        assert small.label == "digits, 100 + 50 images"
        assert small.fingerprint == digits.subset(100, 50).fingerprint != digits.subset(100, 50, seed=1).fingerprint
        assert torch.equal(digits.subset(test=50).test_x, small.test_x)
        assert torch.equal(digits.subset(test=50).train_x, digits.train_x)
        assert digits.subset() is digits
        assert digits.subset(10**6) is digits
        with pytest.raises(DataError, match="at least one image"):
            digits.subset(0)

    def test_chance_is_the_largest_class(self):
        x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        y = torch.tensor([0, 1, 1, 1])
        assert DataSet("x", x, y, x, y, (0.5,), (0.5,), ("a", "b")).chance == 0.75

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train_x": torch.zeros(4, 1, 2, 2)}, r"train part: images must be uint8 \(N, C, H, W\), got float32"),
            ({"test_y": torch.zeros(4)}, r"test part: labels must be int64 \(N,\), got float32"),
            ({"train_y": torch.tensor([0, 1, 1])}, "train part: 4 images, but 3 labels"),
            ({"train_y": torch.tensor([0, 1, 2, 1])}, r"train part: label 2 is out of range.*2 classes.*0\.\.1"),
            ({"test_y": torch.tensor([0, 1, -1, 1])}, "test part: label -1 is out of range"),
            ({"test_x": torch.zeros(4, 1, 2, 3, dtype=torch.uint8)}, r"differ in shape: \(1, 2, 2\) and \(1, 2, 3\)"),
            ({"std": (0.0,)}, "std must be positive"),
            ({"mean": (0.5, 0.5)}, "one value a channel"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, change, message):
        x, y = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        right = {"train_x": x, "train_y": y, "test_x": x, "test_y": y, "mean": (0.5,), "std": (0.5,)}
        with pytest.raises(DataError, match=message):
            DataSet("x", classes=("a", "b"), **(right | change))


class TestNpz:
    @pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_arrays(self, tmp_path, layout, channels):
        values = arrays(channels=channels)
        expected = values["train_images"].transpose(0, 3, 1, 2)
        if layout == "NCHW":
            values |= {k: v.transpose(0, 3, 1, 2) for k, v in values.items() if "images" in k}
        data = load_data(saved(tmp_path, values))
        assert np.array_equal(data.train_x, expected)
        assert data.train_y.tolist() == [0, 1, 0, 1, 0, 1]
        assert (data.label, data.classes) == ("own", ("0", "1"))
        pixels = expected / 255
        assert data.mean == pytest.approx(pixels.mean((0, 2, 3)))
        assert data.std == pytest.approx(pixels.std((0, 2, 3)))
        assert not data.augmentation.flip

    def test_jpegs_are_decoded_each_from_its_own_bytes(self, tmp_path):
        values = arrays()
        data = load_data(saved(tmp_path, packed(values) | {"class_names": np.array(["cat", "dog"])}))
        files, _, _ = jpegs(values["test_images"])
        expected = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        assert np.array_equal(data.test_x, expected.transpose(0, 3, 1, 2))
        assert data.classes == ("cat", "dog")

    @pytest.mark.parametrize(
        ("pack", "label"), [(True, "CIFAR-10 (JPEG re-encoded)"), (False, "CIFAR-10 (own)")], ids=["jpeg", "arrays"]
    )
    def test_cifar10_is_known_by_its_classes(self, tmp_path, pack, label):
        values = arrays(train=20, test=10, size=32, classes=10)
        values = (packed(values) if pack else values) | {"class_names": np.array(CIFAR10_CLASSES)}
        data = load_data(saved(tmp_path, values))
        assert (data.label, data.mean, data.std) == (label, CIFAR10_MEAN, CIFAR10_STD)
        assert data.augmentation == Augmentation(crop=4, flip=True)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"test_labels": None}, "missing test_labels; the arrays there are: test_images, train_images"),
            ({"train_images": np.zeros((6, 8, 8, 3))}, r"train_images must be uint8 .* got float64 \(6, 8, 8, 3\)"),
            ({"test_images": np.zeros((4, 8, 8), np.uint8)}, r"test_images must be uint8 .* got uint8 \(4, 8, 8\)"),
            ({"train_images": np.zeros((6, 8, 8, 4), np.uint8)}, "neither the last nor the second axis has 1 or 3"),
            ({"train_labels": np.zeros(6)}, r"train_labels must be whole numbers \(N,\), got float64"),
            ({"train_labels": np.zeros((6, 1), int)}, r"train_labels must be whole numbers \(N,\)"),
            ({"class_names": np.zeros(2)}, "class_names must be text"),
            ({"class_names": np.array(["a"])}, "label 1 is out of range; there are 1 classes"),
            (
                {"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)},
                "test part: no images",
            ),
            (
                {"train_images": np.zeros((0, 8, 8, 3), np.uint8), "train_labels": np.zeros(0, int)},
                "train part: no imag",
            ),
            ({"train_labels": np.array([None] * 6)}, "no readable .npz file of plain arrays: .*allow_pickle"),
        ],
    )
    def test_wrong_arrays_are_refused(self, tmp_path, change, message):
        values = {key: value for key, value in (arrays() | change).items() if value is not None}
        with pytest.raises(DataError, match=message):
            load_data(saved(tmp_path, values))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train_offsets": np.arange(7)}, "train_offsets must be whole numbers that rise from 0 to the"),
            ({"test_offsets": np.zeros(0, int)}, "test_offsets must be whole numbers"),
            ({"train_jpeg": np.zeros(3)}, r"train_jpeg must be uint8 \(bytes,\), got float64"),
            ({"test_labels": np.zeros(5, int)}, "test part: 4 images, but 5 labels"),
        ],
    )
    def test_wrong_jpeg_arrays_are_refused(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            load_data(saved(tmp_path, packed(arrays()) | change))

    def test_damaged_jpeg_is_named(self, tmp_path):
        values = packed(arrays())
        start = values["train_offsets"][2]
        values["train_jpeg"] = values["train_jpeg"].copy()
        values["train_jpeg"][start : start + 4] = 0
        with pytest.raises(DataError, match=r"own.npz: train_jpeg\[2\] is no readable image"):
            load_data(saved(tmp_path, values))

    def test_jpegs_of_different_sizes_are_refused(self, tmp_path):
        values = packed(arrays())
        other = packed(arrays(size=9))
        values |= {key: other[key] for key in ("test_jpeg", "test_offsets")}
        with pytest.raises(DataError, match=r"differ in shape: \(3, 8, 8\) and \(3, 9, 9\)"):
            load_data(saved(tmp_path, values))

    @pytest.mark.parametrize("damage", ["truncated", "text", "flipped", "npy", "empty"])
    def test_damaged_file_is_refused(self, tmp_path, damage):
        name = saved(tmp_path, arrays())
        path = tmp_path / "own.npz"
        whole = bytearray(path.read_bytes())
        whole[400] ^= 255
        array = io.BytesIO()
        np.save(array, np.zeros(3))
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "text": b"not an archive",
                "flipped": whole,
                "npy": array.getvalue(),
                "empty": b"",
            }[damage]
        )
        with pytest.raises(DataError, match="own.npz: (no readable .npz file|a single array)"):
            load_data(name)


class TestFolder:
    def write(self, root, mode="RGB", size=(8, 8), classes=("cat", "dog")):
        for part, count in (("train", 3), ("test", 2)):
            for number, name in enumerate(classes):
                (root / part / name).mkdir(parents=True)
                for k in range(count):
                    Image.new(mode, size, 40 * number + k if mode == "L" else (40 * number + k, 0, 9)).save(
                        root / part / name / f"{k}.png"
                    )
        return f"folder:{root}"

    def test_classes_are_folders(self, tmp_path):
        data = load_data(self.write(tmp_path / "pets"))
        assert (data.label, data.classes) == ("pets", ("cat", "dog"))
        assert data.train_x.shape == (6, 3, 8, 8)
        assert data.train_x[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41, 42]
        assert data.train_y.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.test_y.tolist() == [0, 0, 1, 1]

    def test_grey_images_have_one_channel(self, tmp_path):
        assert load_data(self.write(tmp_path, mode="L")).train_x.shape == (6, 1, 8, 8)

    def test_one_class_is_no_task(self, tmp_path):
        with pytest.raises(DataError, match=r"at least two classes are needed \(got cat\)"):
            load_data(self.write(tmp_path, classes=("cat",)))

    def test_an_enormous_image_is_refused(self, tmp_path, monkeypatch):
        name = self.write(tmp_path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        with pytest.raises(DataError, match="is no readable image: .*decompression bomb"):
            load_data(name)

    def test_what_is_missing_or_odd_is_said(self, tmp_path):
        name = self.write(tmp_path)
        (tmp_path / "test" / "bird").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / "bird" / "0.png")
        with pytest.raises(DataError, match="test: class 'bird' has no training images"):
            load_data(name)
        (tmp_path / "test" / "bird" / "0.png").unlink()
        Image.new("RGB", (9, 8)).save(tmp_path / "train" / "dog" / "2.png")
        with pytest.raises(DataError, match=r"dog.2.png is 9×8 pixels, the first image is 8×8; resize"):
            load_data(name)
        (tmp_path / "train" / "dog" / "2.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"dog.2.png is no readable image"):
            load_data(name)
        # Pillow would clip 16 bits at 255, not scale them: an image of white.
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "train" / "dog" / "2.png")
        with pytest.raises(DataError, match=r"dog.2.png is no readable image: its pixels have more than 8 bits"):
            load_data(name)
        (tmp_path / "train").rename(tmp_path / "training")
        with pytest.raises(DataError, match="no folder 'train'; images are expected as train/CLASS/NAME.png"):
            load_data(name)
        (tmp_path / "train").mkdir()
        with pytest.raises(DataError, match="train: no images .* in folders of classes"):
            load_data(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", "no data set 'mnist': choose digits, cifar10, cifar10:ROOT, npz:PATH or folder:PATH"),
        ("digits:8", "no data set 'digits:8'"),
        ("npz:", "no data set 'npz:'"),
        ("", "no data set ''"),
        ("npz:nowhere.npz", f"npz:nowhere.npz: no such file in {Path.cwd()}"),
        ("folder:/nowhere", "folder:/nowhere: no such folder$"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(DataError, match=message):
        load_data(name)


def augment(x, seed, how):
    return cut(x, draw_crops(len(x), torch.Generator().manual_seed(seed), how))


class TestAugment:
    def images(self, batch=200):
        return torch.randint(1, 256, (batch, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("how", [Augmentation(), Augmentation(crop=2, flip=False), Augmentation(crop=0)])
    def test_every_image_is_one_of_its_crops(self, how):
        x = self.images()
        out = augment(x, 0, how)
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (how.crop,) * 2, (how.crop,) * 2))
        seen = set()
        for image, result in zip(padded, out.numpy()):
            crops = {}
            for i in range(2 * how.crop + 1):
                for j in range(2 * how.crop + 1):
                    crop = image[:, i : i + 12, j : j + 10]
                    crops[crop.tobytes()] = (i, j, False)
                    if how.flip:
                        crops[crop[:, :, ::-1].tobytes()] = (i, j, True)
            seen.add(crops[result.tobytes()])
        # 200 draws from 162 equal crops miss 29 % of them on average; from 25 and from 2 none, but for 1 in 100.
        possible = (2 * how.crop + 1) ** 2 * (2 if how.flip else 1)
        assert len(seen) > (possible // 2 if possible > 100 else possible - 2)

    def test_is_decided_by_its_generator(self):
        x, state = self.images(), torch.get_rng_state()
        first = augment(x, 0, Augmentation())
        assert torch.equal(first, augment(x, 0, Augmentation()))
        assert not torch.equal(first, augment(x, 1, Augmentation()))
        assert torch.equal(torch.get_rng_state(), state)

    def test_flips_half_and_shifts_evenly(self):
        # n = 20,000 images; α = 1e-3 each, normal approximation: would show a flip rate off by 0.012.
        n = 20_000
        x = torch.zeros(n, 1, 1, 9, dtype=torch.uint8)
        x[..., 4:5] = 1
        x[..., 5] = 2
        out = augment(x, 3, Augmentation(crop=3))[:, 0, 0]
        # The vertical shift must be 0 for the only row to stay: 1 in 7.
        kept = out[out.sum(1) == 3]
        assert abs(len(kept) / n - 1 / 7) < 3.3 * (1 / 7 * 6 / 7 / n) ** 0.5
        one, two = kept.eq(1).float().argmax(1), kept.eq(2).float().argmax(1)
        flipped = (two < one).double().mean().item()
        assert abs(flipped - 0.5) < 3.3 * 0.5 / len(kept) ** 0.5

    def test_none_is_the_images_themselves(self):
        x = self.images(3)
        assert augment(x, 0, NONE) is x
        assert augment(x[:0], 0, Augmentation()).shape == (0, 3, 12, 10)
