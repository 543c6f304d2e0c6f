"""The table of docs/published.md; `benchmarks.tables` puts it there."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ..common import ROOT
from ..findings import MISSING, grid
from .products import AGES, HARDWARE, LABELS

RESULTS = ROOT / "benchmarks" / "results" / "published"
IMAGES = {"lossless": "1,017 lossless", "jpeg": "10,000, JPEG re-encoded"}
TUTORIAL = "CrossSim's ISCA 2024 tutorial, its first 5,000 test images, one chip"
# Device → (what it is called, the published accuracy in percent).
PUBLISHED = {
    "digital": ("digital", "89.40"),
    "ideal cells": ("converters alone, cells without errors", ""),
    "sonos": ("SONOS", "88.86"),
    "rram-milo": ("RRAM (Milo)", "64.48"),
}
# Row of products.json → (setting, published share of the exact product's norm, in percent).
PRODUCTS = {
    "Le Gallo et al. 2023": ("512 × 512, PCM, 1 s, half of the inputs 0, weights N(0, 0.246²) clipped to ±1", "13"),
    "Rasch et al. 2023": ("512 × 512, PCM, 8-bit converters, 1 h", "about 15"),
}


def percent(values: list[float]) -> str:
    """Return the mean of chips, and their standard deviation where there are several."""
    mean = f"{100 * np.mean(values):.2f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.2f} ({len(values)} chips)" if len(values) > 1 else mean


def load(name: str) -> dict[str, Any]:
    """Return a row's parts; none where it was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}


def made_by(*names: str) -> str:
    """Return what the rows were measured with."""
    loaded = [found for name in names if (found := load(name)).get("machine")]
    commits = ", ".join(dict.fromkeys(found["commit"][:10] for found in loaded))
    machine = loaded[0]["machine"]
    return f"{machine['processor']}, {machine['cores']} cores; torch {machine['versions']['torch']}; commit {commits}."


def rows() -> str:
    """Return every published number with ours."""
    networks, products = load("resnet14")["parts"], load("products")["parts"]
    if not networks or not products:
        return MISSING
    lines = []
    for device, (title, published) in PUBLISHED.items():
        for name, images in IMAGES.items():
            if (found := networks.get(f"{name}, {device}")) is not None:
                ours = percent(found["accuracy"])
                lines.append(
                    [
                        f"accuracy of ResNet-14, {title}",
                        published or "-",
                        TUTORIAL if published else "-",
                        ours,
                        f"no: {images}",
                    ]
                )
    for anchor, (setting, published) in PRODUCTS.items():
        for hardware in HARDWARE:
            if (values := products.get(f"{anchor}, {hardware}")) is not None:
                ours = f"{percent(values)}, `{hardware}`"
                lines.append([f"error of products, {setting}", published, anchor, ours, ""])
    head = ["what, in percent", "published", "where", "ours", "same images?"]
    return grid(head, lines) + "\n" + made_by("resnet14", "products") + "\n"


def varied() -> str:
    """Return accuracies over ADC bits, methods of calibration, and tile rows."""
    found = load("resnet14-varied")
    parts = found["parts"]
    if not parts:
        return MISSING
    bits = sorted({int(name.split()[0]) for name in parts if "bits" in name})
    methods = list(dict.fromkeys(name.split(", ")[1] for name in parts if "bits" in name))
    lines = [
        [how, *(percent(parts[f"{count} bits, {how}"]).split(" (")[0] for count in bits)]
        for how in methods
        if all(f"{count} bits, {how}" in parts for count in bits)
    ]
    text = grid(["ranges \\ ADC bits", *map(str, bits)], lines)
    rows = sorted((int(name.split()[0]) for name in parts if name.endswith("rows")), key=int)
    if rows:
        text += "\n" + grid(
            ["tile rows", *map(str, rows)],
            [["published ranges", *(percent(parts[f"{count} rows"]).split(" (")[0] for count in rows)]],
        )
    return text + "\n" + made_by("resnet14-varied") + "\n"


def over_time() -> str:
    """Return the error of products on every preset at each age, the best preset first."""
    parts = load("products-over-time")["parts"]
    if not parts:
        return MISSING
    lines = [
        [f"`{name}`", *(percent(found[age]).split(" (")[0] if age in found else "" for age in AGES)]
        for name, found in sorted(parts.items(), key=lambda part: np.mean(part[1]["0"]))
    ]
    return grid(["in percent", *LABELS], lines) + "\n" + made_by("products-over-time") + "\n"


TABLES: dict[str, Callable[[], str]] = {"published": rows, "published_varied": varied, "published_over_time": over_time}
