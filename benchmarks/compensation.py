"""What compensation of drift, and gains and offsets that are measured, are worth: ResNet-14 for CIFAR-10 on aged chips.

The network is that of `benchmarks.published`; images are its lossless ones. Ranges are calibrated, and outputs are
measured, on 512 training images.
"""

import json
from typing import Annotated

import numpy as np
import torch
import typer

from analogsim import HardwareProfile, evaluate
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text

from .common import ROOT
from .findings import MISSING, grid
from .published.kept import Folder
from .published.resnet14 import images, load, normalised

RESULT = ROOT / "benchmarks" / "results" / "compensation.json"
AGES = {"pcm": ("0", "1d", "1y"), "hermes": ("0", "1d", "1y"), "sonos": ("0", "1d", "5d"), "reram": ("0",)}
WAYS = {"none": "nothing", "global": "one factor a layer", "output": "one an output", "outputs": "`calibrate_outputs`"}


def measure(folder: Folder, preset: str, way: str, chips: int) -> list[list[float]]:
    """Return the accuracy of every chip, for each of the preset's ages."""
    profile = HardwareProfile.load(preset)
    with np.load(folder / "cifar10-lossless-subset.npz") as file:
        seen = normalised(torch.from_numpy(file["train_images"][:512]))
    profile = profile.varied(drift={"compensation": "none" if way == "outputs" else way})
    found = evaluate(
        load(folder),
        images(folder, "lossless"),
        profile=profile,
        chips=chips,
        ages=AGES[preset],
        calibration=seen,
        method="percentile",
        outputs=seen if way == "outputs" else None,
        progress=False,
    )
    return [list(row) for row in found.values]


def main(folder: Folder, chips: Annotated[int, typer.Option(min=1, help="Chips of each preset.")] = 5) -> None:
    """Measure every preset, age and way; parts that are measured already are not measured again."""
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["parts"] if RESULT.is_file() else {}
    for preset, ages in AGES.items():
        for way in WAYS if len(ages) > 1 else ("none", "outputs"):
            if f"{preset}, {way}" not in kept:
                kept[f"{preset}, {way}"] = measure(folder, preset, way, chips)
                report = {"machine": machine(), "commit": commit(), "parts": kept}
                write_text(RESULT, json.dumps(report, indent=1) + "\n")
                typer.echo(f"{preset}, {way}: {np.mean(kept[f'{preset}, {way}'], 1)}")


def table() -> str:
    """Return a row for each preset and age."""
    if not RESULT.is_file():
        return MISSING
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    parts, rows = report["parts"], []
    for preset, ages in AGES.items():
        found = {way: parts[f"{preset}, {way}"] for way in WAYS if f"{preset}, {way}" in parts}
        for number, age in enumerate(ages if found else ()):
            rows.append([f"`{preset}`", age, *(_text(found[way][number]) if way in found else "" for way in WAYS)])
    facts = report["machine"]
    made = f"torch {facts['versions']['torch']}; commit {(report['commit'] or 'unknown')[:10]}"
    return grid(["", "age", *WAYS.values()], rows) + f"\n{made}; `python -m benchmarks.compensation`.\n"


def _text(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


TABLES = {"compensation": table}

if __name__ == "__main__":
    typer.run(main)
