"""The tables of docs/published.md of networks that were trained for hardware; `benchmarks.tables` puts them there."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ..findings import MISSING, grid
from .device_aware import LAWS
from .kept import RESULTS
from .over_time import AGES, LABELS, NETWORKS, WAYS
from .recovery import CELLS, CLIPPED, PRESETS

TITLES = {"sonos": "SONOS", "rram-milo": "RRAM (Milo)", "pcm": "`pcm`", "hermes": "`hermes`"}
SETS = {"lossless": "1,017 lossless", "jpeg": "JPEG"}
TRAINED = {
    "published": "as published",
    "digital": "digitally",
    "noise": "under weight noise",
    "own": "on its own chips",
    "clipped": "on its own chips, clipped",
}
MNIST = {"digital": "98.98", "plain": "93.74 ± 1.15", "trained": "97.62 ± 0.22"}
ROWS = {
    "digital": "trained plainly, digital",
    "plain": "trained plainly, on chips",
    "trained": "trained on chips, on other chips",
}


def load(name: str) -> dict[str, Any]:
    """Return what a row's file holds; no parts where it was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}


def spread(values: Any) -> str:
    """Return mean and standard deviation in percent; of a single value itself."""
    values = np.asarray(values, dtype=float)
    mean = f"{100 * values.mean():.2f}"
    return f"{mean} ± {100 * values.std(ddof=1):.2f}" if values.size > 1 else mean


def made(found: dict[str, Any], more: str) -> str:
    """Return what a row was measured with."""
    facts = found["machine"]
    versions = f"torch {facts['versions']['torch']}"
    return f"\n{more} {facts['processor']}, {facts['cores']} cores; {versions}; commit {found['commit'][:10]}.\n"


def recovered() -> str:
    """Return the accuracy on each hardware, a column for each way that the network was trained."""
    found = load("recovery")
    parts, lines = found["parts"], []
    if not parts:
        return MISSING
    for hardware in (*CELLS, *PRESETS):
        for kind, images in SETS.items():
            cells = []
            for name in TRAINED:
                trained = {"own": hardware, "clipped": f"{hardware}{CLIPPED}"}.get(name, name)
                part = parts.get(f"{trained}, {hardware}, {kind}")
                cells.append("" if part is None else f"{spread(part['accuracy'])} ({100 * part['digital']:.2f})")
            if any(cells):
                lines.append([TITLES[hardware], images, *cells])
    chips = min(len(part["accuracy"]) for part in parts.values())
    epochs = f"{found['epochs']} epochs of {found['images']:,} images"
    about = f"{chips} chips each; {epochs}; {found['tests']:,} JPEG test images."
    return grid(["hardware", "images", *TRAINED.values()], lines) + made(found, about)


def aged() -> str:
    """Return accuracies against time, a row for each preset, network and way to compensate the drift."""
    found = load("over-time")
    parts, lines = found["parts"], []
    if not parts:
        return MISSING
    for preset in PRESETS:
        for name in NETWORKS:
            for way, title in WAYS.items():
                if (part := parts.get(f"{preset}, {name}, {way}")) is not None:
                    lost = [100 * (part["digital"] - np.array(row)) for row in part["accuracy"]]
                    shown = [f"{np.mean(row):.2f} ± {np.std(row, ddof=1):.2f}" for row in lost]
                    lines.append([f"`{preset}`", TRAINED[name], title, *shown])
    chips = min(len(part["accuracy"][0]) for part in parts.values())
    head = ["points lost", "trained", "compensation", *LABELS[: len(AGES)]]
    digital = {name: next((p["digital"] for key, p in parts.items() if f", {name}," in key), None) for name in NETWORKS}
    texts = (f"{100 * value:.2f} {TRAINED[name]}" for name, value in digital.items() if value is not None)
    return grid(head, lines) + made(found, f"{chips} chips each; digital: {', '.join(texts)}.")


def device_aware() -> str:
    """Return the three rows of the tutorial, and ours for both laws of error."""
    found = load("device-aware")
    parts = found["parts"]
    if not parts:
        return MISSING
    runs = {law: [part for name, part in parts.items() if name.startswith(law)] for law in LAWS}
    lines = []
    for key, title in ROWS.items():
        # Of several networks: the mean over all chips, and the spread between a network's chips.
        ours = []
        for law in LAWS:
            values = [np.atleast_1d(np.asarray(part[key], dtype=float)) for part in runs[law]]
            inner = np.mean([v.std(ddof=1) if v.size > 1 else np.nan for v in values]) if values else np.nan
            mean = f"{100 * np.mean(np.concatenate(values)):.2f}" if values else ""
            ours.append(mean if np.isnan(inner) else f"{mean} ± {100 * inner:.2f}")
        lines.append([title, MNIST[key], *ours])
    first = next(iter(parts.values()))
    networks = f"{len(runs[LAWS[0]])} networks, {len(first['plain'])} chips each"
    about = f"{networks}; {found['data']}: {found['images']:,} training and {first['samples']} test images,"
    head = ["accuracy in percent", "published, MNIST", *(f"ours, {law} error" for law in LAWS)]
    return grid(head, lines) + made(found, f"{about} {found['epochs']} epochs.")


TABLES: dict[str, Callable[[], str]] = {
    "published_recovery": recovered,
    "published_aged": aged,
    "published_device_aware": device_aware,
}
