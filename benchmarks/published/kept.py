"""Where the parts of a row of docs/published.md are kept, and the options that its commands share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text

from ..common import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "published"
Folder = Annotated[
    Path, typer.Option(help="Of the trained network, its ranges, and cifar10-lossless-subset.npz and cifar10.npz.")
]
Chips = Annotated[int, typer.Option(min=1, help="Chips of each hardware.")]


class Kept:
    """A row's parts, in its file as soon as they are measured."""

    def __init__(self, name: str, about: dict[str, Any] | None = None) -> None:
        self.path, self.about = RESULTS / f"{name}.json", about or {}
        values = self.values
        if values and any(values.get(key) != value for key, value in self.about.items()):
            raise typer.BadParameter(f"{self.path} was measured with other settings; move it away to measure anew")

    @property
    def values(self) -> dict[str, Any]:
        """What the file holds now: another command may be measuring other parts of it."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those parts that are not measured."""
        parts = self.values.get("parts", {})
        return [name for name in names if name not in parts]

    def keep(self, name: str, value: Any) -> None:
        """Write a part down."""
        parts = self.values.get("parts", {}) | {name: value}
        values = {"machine": machine(), "commit": commit(), **self.about, "parts": parts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(values, indent=1) + "\n")
