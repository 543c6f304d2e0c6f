"""Published rows whose data or weights cannot come with this package: measured by whoever has them.

ResNet-50 on ImageNet, BERT on tasks of GLUE, and an LSTM on the Penn treebank, on SONOS cells or on those of PCM that
`products.standard` has. Nothing is trained for hardware here; the LSTM is trained where no weights are given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from analogsim import HardwareProfile, evaluate

from .products import standard
from .resnet14 import folded

CALIBRATION = 256  # samples of the training data from which ranges are found


@dataclass(frozen=True)
class Wanted:
    """A published number, and what it takes to measure it.

    Attributes
    ----------
    what, published, where, needs, command : str
    """

    what: str
    published: str
    where: str
    needs: str
    command: str


XIAO = "Xiao et al. 2022, from summaries"
RASCH = "Rasch et al. 2023, from summaries"
IMAGENET = "folders `train` and `val` of images, one a class; MLPerf's weights of ResNet-50 v1.5, or torchvision's V1"
WANTED = (
    Wanted("ResNet-50 v1.5, ImageNet, digital", "76.47 %", XIAO, IMAGENET, "imagenet --folder IMAGENET"),
    Wanted("the same, cells without errors", "76.08 %", XIAO, IMAGENET, "imagenet --folder IMAGENET"),
    Wanted("the same, SONOS, 1152 rows", "74.30 ± 0.35 %", XIAO, IMAGENET, "imagenet --folder IMAGENET"),
    Wanted(
        "ResNet-50, ImageNet, error, digital → on PCM after an hour → trained for it",
        "23.87 → 36.51 → 24.83 %",
        RASCH,
        IMAGENET,
        "imagenet --folder IMAGENET --hardware pcm (the first two)",
    ),
    Wanted(
        "BERT, GLUE, error, digital → trained for PCM, after an hour",
        "17.47 → 17.55 %",
        RASCH,
        "a task's train.tsv and dev.tsv; a model fine-tuned for it and its tokenizer, as transformers saves them",
        "glue --folder GLUE/SST-2 --model MODEL --task sst2 (before training)",
    ),
    Wanted(
        "LSTM, Penn treebank, perplexity, digital → trained for PCM, after an hour",
        "72.90 → 73.00",
        RASCH,
        "ptb.train.txt, ptb.valid.txt and ptb.test.txt",
        "ptb --folder PTB (before training)",
    ),
)


def hardware(name: str) -> tuple[dict[str, HardwareProfile], str]:
    """Return the profiles that a network is measured on, by name, and at which age."""
    if name == "pcm":
        return {"pcm": standard().varied(dac={"input_range": "calibrated"}, drift={"compensation": "global"})}, "1h"
    sonos = HardwareProfile.load("sonos")
    ideal = sonos.varied(programming={"sigma": 0.0}, noise={"read": 0.0}, drift={"moments": None})
    return {"ideal cells": ideal, "sonos": sonos}, "0"


def measure(net: nn.Module, test: Any, seen: Any, name: str, chips: int, metric: str = "accuracy") -> dict[str, Any]:
    """Return a network's measure, digital and on each chip of each profile."""
    profiles, age = hardware(name)
    found: dict[str, Any] = {}
    for title, profile in profiles.items():
        each = evaluate(
            net, test, metric=metric, profile=profile, chips=chips, ages=age, calibration=seen, method="mse"
        )
        found |= {"digital": each.digital, "samples": each.samples, title: list(each.values[0])}
    return found


def imagenet(folder: Path, network: str, weights: str | None, count: int | None) -> tuple[nn.Module, Any, Any]:
    """Return a network of torchvision with batch normalisation folded, test batches, and those for calibration.

    Parameters
    ----------
    folder : Path
        With `train` and `val`, a folder of images for each class.
    network : str
        As torchvision calls it.
    weights : str or None
        A name of torchvision's, or a file with a state_dict; None: as initialised.
    count : int or None
        Test images, evenly taken; None: all.
    """
    from torchvision import models, transforms
    from torchvision.datasets import ImageFolder

    path = None if weights is None else Path(weights)
    own = path is not None and path.is_file()
    net = models.get_model(network, weights=None if own else weights)
    if path is not None and own:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    as_trained = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    parts = [ImageFolder(str(folder / part), as_trained) for part in ("val", "train")]
    test, seen = (evenly(part, wanted) for part, wanted in zip(parts, (count, CALIBRATION), strict=True))
    return folded(net.eval()), DataLoader(test, 64), DataLoader(seen, 64)


def evenly(data: Dataset, count: int | None) -> Dataset:
    """Return so many samples, from all over the data."""
    length = len(data)  # type: ignore[arg-type]
    if count is None or count >= length:
        return data
    return Subset(data, [number * length // count for number in range(count)])


# Task → (columns of its texts, column of its label), as GLUE's files name them.
TASKS = {
    "sst2": (("sentence",), "label"),
    "mrpc": (("#1 String", "#2 String"), "Quality"),
    "rte": (("sentence1", "sentence2"), "label"),
    "qnli": (("question", "sentence"), "label"),
}


def glue(folder: Path, model: Path, task: str, count: int | None) -> tuple[nn.Module, Any, Any]:
    """Return a classifier of transformers, batches of a task's `dev.tsv`, and some of its `train.tsv`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    net = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts, label = TASKS[task]

    def batches(name: str, most: int | None) -> list[dict[str, Tensor]]:
        table = pd.read_csv(folder / name, sep="\t", quoting=3, keep_default_na=False).iloc[:most]
        found = []
        for start in range(0, len(table), 32):
            rows = table.iloc[start : start + 32]
            words = tokenizer(
                *(rows[column].astype(str).tolist() for column in texts),
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            classes = [int(one) if str(one).isdigit() else net.config.label2id[one] for one in rows[label]]
            found.append({**words, "labels": torch.tensor(classes)})
        return found

    return net, batches("dev.tsv", count), batches("train.tsv", CALIBRATION)


class WordLSTM(nn.Module):
    """Two layers of LSTM that predict the next word."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.embedding, self.drop = nn.Embedding(words, size), nn.Dropout(0.5)
        self.lstm, self.head = nn.LSTM(size, size, 2, batch_first=True, dropout=0.5), nn.Linear(size, words)

    def forward(self, words: Tensor) -> Tensor:
        """Map words (B, T) to logits (B, T, words)."""
        return self.head(self.drop(self.lstm(self.drop(self.embedding(words)))[0]))


def ptb(folder: Path, size: int, epochs: int, steps: int = 35, lines: int = 20) -> tuple[nn.Module, Any, Any]:
    """Train an LSTM on `ptb.train.txt`; return it, batches of `ptb.test.txt`, and some that it was trained on.

    Adam, gradients clipped to 0.25; the learning rate is a quarter after each epoch that is no better on
    `ptb.valid.txt`. Every sequence of `steps` words begins with an empty memory.
    """
    texts = {}
    for part in ("train", "valid", "test"):
        text = (folder / f"ptb.{part}.txt").read_text(encoding="utf-8")
        texts[part] = text.replace("\n", " <eos> ").split()
    words = {word: number for number, word in enumerate(dict.fromkeys(texts["train"]))}
    unknown = words.get("<unk>", 0)

    def batches(part: str) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.tensor([words.get(word, unknown) for word in texts[part]])
        rows = (len(numbers) - 1) // steps
        x, y = (numbers[shift : shift + rows * steps].view(rows, steps) for shift in (0, 1))
        return zip(x.split(lines), y.split(lines), strict=True)

    torch.manual_seed(0)
    net = WordLSTM(len(words), size)
    optimizer, best = torch.optim.Adam(net.parameters(), 2e-3), float("inf")
    for _ in range(epochs):
        net.train()
        for x, y in batches("train"):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.25)
            optimizer.step()
        net.eval()
        with torch.no_grad():
            found = [nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten()) for x, y in batches("valid")]
        loss = float(torch.stack(found).mean())
        if loss >= best:
            optimizer.param_groups[0]["lr"] /= 4
        best = min(best, loss)
    seen = [x for x, _ in batches("train")][: max(1, CALIBRATION // lines)]
    return net.eval(), list(batches("test")), seen
