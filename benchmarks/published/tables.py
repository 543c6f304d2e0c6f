"""The tables of docs/published.md; `benchmarks.tables` puts them there."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..findings import MISSING, grid
from . import dft, elsewhere, macros, varied
from .beside import BATCH, BESIDE, part
from .kept import RESULTS
from .products import AGES, HARDWARE, LABELS
from .resnet14 import Device

IMAGES = {"lossless": "1,017 lossless images", "jpeg": "10,000 images, JPEG re-encoded"}
TUTORIAL = "CrossSim's tutorial"
TUTORIAL_IMAGES = 5000
TRANSFORMS = "the same, part 2"
# Device → (what it is called, the published accuracy in percent).
PUBLISHED = {
    "digital": ("digital", "89.40"),
    "ideal cells": ("converters alone, cells without errors", ""),
    "sonos": ("SONOS", "88.86"),
    "rram-milo": ("RRAM (Milo)", "64.48"),
}
# Row of products.json → (setting, published share of the exact product's norm, in percent).
PRODUCTS = {
    "Le Gallo et al. 2023": ("512 × 512, PCM, 1 s", "13"),
    "Rasch et al. 2023": ("512 × 512, PCM, 1 h", "about 15"),
}
DEVIATIONS = 2  # standard deviations within which a published number is called reproduced
NEAR = 10  # percent within which a published energy or area is counted as met


@dataclass(frozen=True)
class Row:
    """A published number beside ours.

    Attributes
    ----------
    what : str
    published : str
        As it is printed there, in percent.
    where : str
    ours : list of float
        Of each chip, fractions.
    samples : int or None
        Images that an accuracy is taken of; None of errors.
    published_samples : int or None
        Those of the published one.
    same : str
        Whether the data is the same.
    command : str
        What measures it.
    hardware : str
        Named beside our number.
    """

    what: str
    published: str
    where: str
    ours: list[float]
    command: str
    same: str
    samples: int | None = None
    published_samples: int | None = None
    hardware: str = ""

    @property
    def spread(self) -> float:
        """Standard deviation, in percent: of chips, and of images that are others (binomial), squares added."""
        chips = float(np.var(self.ours, ddof=1)) if len(self.ours) > 1 else 0.0
        p = float(np.mean(self.ours))
        of_images = sum(p * (1 - p) / count for count in (self.samples, self.published_samples) if count)
        return 100 * math.sqrt(chips + of_images)

    @property
    def within(self) -> bool:
        """Whether the published number is at most two standard deviations and half of its last digit from our mean."""
        number = self.published.split()[-1]
        rounding = 0.5 * 10.0 ** -len(number.partition(".")[2])
        return abs(float(number) - 100 * float(np.mean(self.ours))) <= DEVIATIONS * self.spread + rounding

    def cells(self) -> list[str]:
        """Return the row of the table."""
        ours = percent(self.ours) + (f", `{self.hardware}`" if self.hardware else "")
        verdict = "yes" if self.within else "no"
        spread = f"{DEVIATIONS * self.spread:.2f}"
        return [self.what, self.published, self.where, ours, spread, verdict, self.same, self.command]


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


def networks() -> list[Row]:
    """Return the accuracies of ResNet-14 that are published; images that were re-encoded are no match for them."""
    parts = load("resnet14")["parts"]
    return [
        Row(
            f"accuracy of ResNet-14, {title}",
            published,
            TUTORIAL,
            of["accuracy"],
            "resnet14",
            "no: 1,017 others",
            of["samples"],
            TUTORIAL_IMAGES,
        )
        for device, (title, published) in PUBLISHED.items()
        if published and (of := parts.get(f"lossless, {device}")) is not None
    ]


def on_all_images() -> str:
    """Return ResNet-14's accuracy on each device and on both sets of images."""
    parts = load("resnet14")["parts"]
    if not parts:
        return MISSING
    lines = [
        [title, *(percent(parts[f"{images}, {device}"]["accuracy"]) for images in IMAGES)]
        for device, (title, _) in PUBLISHED.items()
    ]
    return grid(["accuracy of ResNet-14, in percent", *IMAGES.values()], lines) + "\n" + made_by("resnet14") + "\n"


def transforms() -> list[Row]:
    """Return the errors of Fourier transforms."""
    parts = load("dft")["parts"]
    return [
        Row(f"mean error, {name}", f"{100 * row.published:.3f}", TRANSFORMS, parts[name], "dft", "yes")
        for name, row in dft.ROWS.items()
        if name in parts
    ]


def products() -> list[Row]:
    """Return the errors of products on PCM."""
    parts = load("products")["parts"]
    return [
        Row(f"error of products, {setting}", published, anchor, values, "products", "drawn anew", hardware=hardware)
        for anchor, (setting, published) in PRODUCTS.items()
        for hardware in HARDWARE
        if (values := parts.get(f"{anchor}, {hardware}")) is not None
    ]


def rows() -> str:
    """Return every published number with ours."""
    found = [*networks(), *transforms(), *products()]
    if not found:
        return MISSING
    head = ["what, in percent", "published", "where", "ours", "2 s", "within?", "same data?", "command"]
    return grid(head, [row.cells() for row in found]) + "\n" + made_by("resnet14", "dft", "products") + "\n"


def answer() -> str:
    """Return how many published numbers are met, of each kind, and which are not."""
    lines = []
    for kind, found in (
        ("accuracy of ResNet-14 (CrossSim's tutorial)", networks()),
        ("errors of Fourier transforms (CrossSim's tutorial)", transforms()),
        ("errors of products on PCM: two numbers, each on four kinds of hardware", products()),
    ):
        missed = [row for row in found if not row.within]
        names = [f"{row.what} ({row.hardware})" if row.hardware else row.what for row in missed]
        lines.append([kind, str(len(found)), f"{len(found) - len(missed)} within 2 s", shortened(names)])
    gaps = {f"{name}, {unit}": ours / published - 1 for name, unit, published, ours in accelerators()}
    missed = [name for name, value in gaps.items() if 100 * abs(value) > NEAR]
    kind = "energy and area of two accelerators (NeuRRAM, ISAAC)"
    lines.append([kind, str(len(gaps)), f"{len(gaps) - len(missed)} within {NEAR} %", shortened(missed)])
    return grid(["what", "rows", "met", "not met"], lines)


def shortened(names: list[str]) -> str:
    """Return the names, or how many there are."""
    return "; ".join(names) if len(names) < 3 else f"{len(names)} rows"


def beside() -> str:
    """Return CrossSim's and our accuracies and times, of one run."""
    parts = load("crosssim")["parts"]
    if not parts:
        return MISSING
    lines, layers = [], []
    for device, title in BESIDE.items():
        for batch in (BATCH, 256):
            for count in (1, 2):
                chips = [of for i in range(100) if (of := parts.get(part(device, batch, count, i))) is not None]
                if not chips:
                    continue
                theirs, ours = ([chip[who] for chip in chips] for who in ("CrossSim", "analogsim"))
                accuracy = [percent([one["accuracy"] for one in own]).split(" (")[0] for own in (theirs, ours)]
                seconds = [f"{np.median([one['seconds'] for one in own]):.2f}" for own in (theirs, ours)]
                ratios = [a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True)]
                low, middle, high = np.percentile(ratios, [25, 50, 75])
                ratio = f"{middle:.1f} [{low:.1f}, {high:.1f}]"
                lines.append([title, str(batch), str(count), str(len(chips)), *accuracy, *seconds, ratio])
    head = ["cells", "batch", "threads", "chips", "CrossSim, %", "ours, %", "CrossSim, s", "ours, s", "ratio of times"]
    text = grid(head, lines)
    if (found := parts.get("agreement")) is not None:
        layers = [[f"`{name}`", f"{value:.1e}"] for name, value in found["layers"].items()]
        told = (
            f"Logits differ by {100 * found['logits']:.2f} % of their norm, and {found['equal']:,} of "
            f"{found['images']:,} images are of the same class.\n"
        )
        text += "\n" + grid(["layer", "relative difference of its outputs"], layers) + "\n" + told
    return text + "\n" + made_by("crosssim") + "\n"


def over_hardware() -> str:
    """Return accuracies over ADC bits, methods of calibration, tile rows, slices and steps."""
    parts = load("resnet14-varied")["parts"]
    text: list[str] = []

    def table(device: Device, what: str, counts: Iterable[int], lines: dict[str, list[str]]) -> None:
        found = {title: [parts.get(varied.part(device, name)) for name in names] for title, names in lines.items()}
        whole = [[title, *(percent(of).split(" (")[0] for of in row)] for title, row in found.items() if all(row)]
        if whole:
            head = f"{PUBLISHED[device][0]}, {varied.CHIPS} chips: {what}"
            text.append(grid([head, *map(str, counts)], whole))

    undivided = f"{varied.BITS} bits, mse"
    for device in varied.DEVICES:
        methods = [*varied.METHODS, "noise-aware"]
        bits = {how: [f"{n} bits, {how}" for n in varied.COUNTS] for how in methods}
        table(device, "ranges \\ ADC bits", varied.COUNTS, bits)
        table(device, "tile rows", varied.ROWS, {"published ranges": [f"{n} rows" for n in varied.ROWS]})
        for what, whose, counts in (("slices", "weights", varied.SLICES), ("steps", "inputs", varied.STEPS)):
            names = [f"{n} {what}" if n > 1 else undivided for n in counts]
            table(device, f"{what} of {whose}", counts, {"ranges by `mse`": names})
    return "\n".join(text) + "\n" + made_by("resnet14-varied") + "\n" if text else MISSING


def accelerators() -> list[tuple[str, str, float, float]]:
    """Return name, unit, published and our number of what two accelerators take, and how large they are."""
    parts = load("macros")["parts"]
    if not parts:
        return []
    found = []
    for unit, settings in (("TOPS/W", macros.EFFICIENCIES), ("fJ", macros.SHARES)):
        for setting in settings:
            name = "fJ an operation" if unit == "fJ" else unit
            ours = parts[f"{unit}, {setting.title}"]
            found.append((f"NeuRRAM, {setting.title}", name, sum(setting.published), ours))
    isaac = parts["isaac"]
    for unit, key, published in (
        ("GOP/s/W", "per watt", 627.5),
        ("mm²", "area", 85.4),
        ("GOP/s/mm²", "per area", 479.0),
    ):
        found.append(("ISAAC-CE, chip", unit, published, isaac[key]))
    return found


def energies() -> str:
    """Return what accelerators take and how large they are, beside what is published."""
    found = accelerators()
    if not found:
        return MISSING
    lines = []
    for name, unit, published, ours in found:
        digits = 1 if name.startswith("ISAAC") else 2  # as they are published
        lines.append([name, unit, f"{published:.{digits}f}", f"{ours:.{digits}f}", gap(ours, published)])
    return grid(["what", "unit", "published", "ours", "difference"], lines) + "\n" + made_by("macros") + "\n"


def wanted() -> str:
    """Return the published numbers whose data cannot come with this package, and the commands for them."""
    head = ["what", "published", "where", "what one must have", "command"]
    lines, last = [], ""
    for row in elsewhere.WANTED:
        needs = "the same" if row.needs == last else row.needs
        lines.append([row.what, row.published, row.where, needs, f"`{row.command}`"])
        last = row.needs
    return grid(head, lines)


def gap(ours: float, published: float) -> str:
    """Return by how much a number is beside the published one."""
    return f"{100 * (ours / published - 1):+.1f} %"


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


TABLES: dict[str, Callable[[], str]] = {
    "published_answer": answer,
    "published": rows,
    "published_networks": on_all_images,
    "published_beside": beside,
    "published_varied": over_hardware,
    "published_over_time": over_time,
    "published_energies": energies,
    "published_elsewhere": wanted,
}
