"""docs/budget.md's figures: LeNet-5 on digits, by the commands that the page shows."""

import io
import json
import shlex
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from analogsim import DesignSearch, LayerBudget, NetworkCost, NoiseBudget, RobustnessCurve, style
from analogsim.bench import machine
from analogsim.cli import app
from analogsim.machine import commit
from analogsim.storage.files import write_text

from .common import IMAGES, ROOT
from .findings import MISSING, grid

RESULT = ROOT / "benchmarks" / "results" / "budget.json"
TRAIN = "train models.lenet:LeNet5 digits --epochs 20 --lr 2e-3 --batch-size 32 --out runs/plain"
SEARCH = "search runs/plain --drop 0.005 --trials 80"
METHODS = {"maximum": "maximum", "percentile": "percentile (99.9)", "mse": "mse", "noise-aware": "noise-aware"}
RANGED = ("8bit", "noisy")  # presets on which methods are compared: without noise, and with it
# Without those of many slices and steps, `sram` and `isaac`, which take long.
PRESETS = (
    *("sonos", "pcm", "pcm-afm", "hermes", "hermes-1", "reram", "cmo-reram", "reram-milo"),
    *("reram-crosssim", "brainscales2"),
)
PRICED = ("8bit", "isaac", "hermes")
STAGES = {
    "dac_clipping": "DAC clipping",
    "dac_rounding": "DAC rounding",
    "weight": "weights as programmed",
    "noise_read": "read noise",
    "noise_output": "output noise",
    "noise_multiplicative": "multiplicative noise",
    "adc_clipping": "ADC clipping",
    "adc_rounding": "ADC rounding",
}
SHOWN = ("dac_clipping", "dac_rounding", "adc_clipping", "adc_rounding")  # what is not 0 on `8bit`


def main() -> None:
    """Train the network and measure it, in runs/budget; write benchmarks/results/budget.json and two pictures.

    What is there already is not measured again.
    """
    torch.set_num_threads(1)
    folder = ROOT / "runs" / "budget" / "runs" / "plain"
    shell(TRAIN, folder / "model.safetensors")
    shell("sweep runs/plain", folder / "sweep.json")
    accuracy = json.loads((folder / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])["test_accuracy"]
    curve = RobustnessCurve.load(folder / "sweep.json")
    found: dict[str, Any] = {"accuracy": accuracy, "midpoint": curve.midpoint, "interval": curve.ci}
    found["costs"] = {}
    for preset in PRICED:
        shell(f"cost runs/plain --profile {preset} --out runs/plain/cost-{preset}.json", folder / f"cost-{preset}.json")
        table = NetworkCost.load(folder / f"cost-{preset}.json")
        found["costs"][preset] = table.to_frame().replace({np.nan: None}).to_dict("records")
    shell(SEARCH, folder / "search" / "designs.json")
    designs = DesignSearch.load(folder / "search" / "designs.json").to_frame()
    found["designs"] = designs.to_dict("records")
    found["budgets"] = {}
    for preset, method in [(name, way) for name in RANGED for way in METHODS] + [(name, "maximum") for name in PRESETS]:
        found["budgets"][f"{preset}, {method}"] = budget(folder, preset, method)
        write_text(RESULT, json.dumps({"machine": machine(), "commit": commit(), **found}, indent=1) + "\n")
    draw(found["budgets"]["8bit, maximum"]["layers"])
    (IMAGES / "pareto.png").write_bytes((folder / "search" / "pareto.png").read_bytes())


def draw(layers: list[dict[str, Any]]) -> None:
    """Draw the layers' errors as `analogsim budget` does, from what the result file says of them."""
    made = tuple(
        LayerBudget(
            name=one["name"],
            stages=one["stages"],
            covariance=one["total"] - sum(one["stages"].values()),
            total=one["total"],
            measured=one["measured"],
            signal=one["total"] * 10 ** (one["snr"] / 10),
            input_clipped=one["clipped"],
            adc_clipped=float("nan"),
        )
        for one in layers
    )
    with style.picture(IMAGES / "budget.png", (3.2 + 1.1 * len(made), 4.6)) as figure:
        NoiseBudget(made, float("nan"), float("nan"), "8bit").plot(figure.subplots())


def shell(line: str, made: Path) -> None:
    """Run one of the page's commands, unless what it makes is there."""
    if made.is_file():
        return
    where = ROOT / "runs" / "budget"
    where.mkdir(parents=True, exist_ok=True)
    typer.echo(f"analogsim {line}")
    with chdir(where), redirect_stdout(io.StringIO()):
        try:
            app(["-q", *shlex.split(line)])
        except SystemExit as end:
            if end.code:
                raise


def budget(folder: Path, preset: str, method: str) -> dict[str, Any]:
    """Return the network's equivalent σ, the mean square error of its logits, and of each layer the stages and SNR."""
    ranges = "" if method == "maximum" else f" --ranges {method}"
    path = folder / (f"budget-{preset}" + ("" if method == "maximum" else f"-{method}") + ".json")
    shell(f"budget runs/plain --profile {preset} --images 360{ranges}", path)
    found = NoiseBudget.load(path)
    layers = [
        {
            "name": layer.name,
            "stages": dict(layer.stages),
            "total": layer.total,
            "measured": layer.measured,
            "snr": layer.snr,
            "clipped": layer.input_clipped,
        }
        for layer in found.layers
    ]
    return {"sigma": found.equivalent_sigma, "error": found.output_error, "layers": layers}


def report() -> dict[str, Any] | None:
    """Return what was measured; None where it was not."""
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else None


def made(found: dict[str, Any]) -> str:
    """Say on what it was measured."""
    facts = found["machine"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "numba"))
    where = f"{facts['processor']}; {versions}; commit {(found['commit'] or 'unknown')[:10]}"
    return f"\n{where}; `python -m benchmarks.budget`.\n"


def root(square: float) -> str:
    """Return the root of a mean square, three digits."""
    return f"{square**0.5:.3g}"


def layers() -> str:
    """Tell the stages of `8bit`, layer by layer."""
    found = report()
    if found is None:
        return MISSING
    header = ["layer", *(STAGES[stage] for stage in SHOWN), "σ predicted", "σ simulated", "SNR"]
    lines = [
        [
            layer["name"],
            *(root(layer["stages"][stage]) for stage in SHOWN),
            root(layer["total"]),
            root(layer["measured"]),
            f"{layer['snr']:.1f} dB",
        ]
        for layer in found["budgets"]["8bit, maximum"]["layers"]
    ]
    return grid(header, lines) + made(found)


def profiles() -> str:
    """Tell the equivalent σ on each preset, and the last layer's largest stage."""
    found = report()
    if found is None:
        return MISSING
    own = {name.partition(",")[0]: each for name, each in found["budgets"].items() if name.endswith("maximum")}
    lines = []
    for name, each in sorted(own.items(), key=lambda item: item[1]["sigma"]):
        last = each["layers"][-1]
        largest = max(last["stages"], key=last["stages"].get)
        lines.append([name, f"{each['sigma']:.3g}", STAGES[largest], f"{last['snr']:.1f} dB"])
    return grid(["profile", "equivalent σ", "largest stage", "SNR of the last layer"], lines) + made(found)


def ranges() -> str:
    """Tell the error of the logits by method of calibration."""
    found = report()
    if found is None:
        return MISSING
    header = ["ranges", *(f"{name}: {what}" for name in RANGED for what in ("error", "σ"))]
    lines = []
    for method, title in METHODS.items():
        each = [found["budgets"][f"{name}, {method}"] for name in RANGED]
        lines.append([title, *(f"{one[what]:#.3g}" for one in each for what in ("error", "sigma"))])
    return grid(header, lines) + made(found)


def costs(name: str) -> str:
    """Tell what each layer costs on a preset."""
    found = report()
    if found is None:
        return MISSING
    counts = ("products", "dac_conversions", "adc_conversions", "macs")
    titles = ["products", "DAC conv.", "ADC conv.", "MACs"]
    priced = found["costs"][name][0]["energy_pJ"] is not None
    amounts = ("energy_pJ", "latency_ns") if priced else ()
    header = ["layer", "rows", "columns", "tiles", "used", *titles, *(("energy (pJ)", "latency (ns)") * priced)]
    lines = [
        [
            row["layer"],
            *("" if row[key] is None else f"{row[key]:,.0f}" for key in ("rows", "columns", "tiles")),
            f"{row['utilisation']:.3f}",
            *(f"{row[key]:,.0f}" for key in (*counts, *amounts)),
        ]
        for row in found["costs"][name]
    ]
    return grid(header, lines) + made(found)


def front() -> str:
    """Tell the designs that no other one beats, the one that is taken in bold."""
    found = report()
    if found is None:
        return MISSING
    lines = []
    for row in sorted((row for row in found["designs"] if row["pareto"]), key=lambda row: row["cost"]):
        cells = [f"{row[key]}" for key in ("adc.bits", "dac.bits", "tile.rows", "calibration")]
        cells += [f"{row['cost']:,.0f}", f"{row['accuracy']:.4f}"]
        lines.append([f"**{cell}**" for cell in cells] if row["best"] else cells)
    header = ["ADC bits", "DAC bits", "tile rows", "ranges", "conversion steps", "accuracy"]
    return grid(header, lines) + made(found)


def measured() -> dict[str, Any]:
    """Return what was measured, where a page speaks of it."""
    found = report()
    if found is None:
        raise FileNotFoundError(f"{RESULT}: run python -m benchmarks.budget")
    return found


def total(preset: str, amount: str) -> float:
    """Return what an image costs on a preset, in the unit of the command's table."""
    return sum(row[amount] for row in measured()["costs"][preset] if row["layer"] != "total")


def taken() -> dict[str, Any]:
    """Return the design that the search takes."""
    return next(row for row in measured()["designs"] if row["best"])


def sigma(preset: str) -> float:
    """Return the network's equivalent σ on a preset."""
    return measured()["budgets"][f"{preset}, maximum"]["sigma"]


def snr(preset: str, method: str) -> str:
    """Return the layers' SNR."""
    each = [f"{layer['snr']:.1f}" for layer in measured()["budgets"][f"{preset}, {method}"]["layers"]]
    return ", ".join(each[:-1]) + f" and {each[-1]} dB"


VALUES: dict[str, Callable[[], str]] = {
    "budget.accuracy": lambda: f"{measured()['accuracy']:.4f}",
    "budget.mu": lambda: f"{measured()['midpoint']:.2f}",
    "budget.interval": lambda: " - ".join(f"{end:.2f}" for end in measured()["interval"]),
    "budget.sigma": lambda: f"{sigma('8bit'):#.3g}",
    "budget.share": lambda: f"{measured()['midpoint'] / sigma('8bit'):.0f}",
    "budget.clipped": lambda: f"{100 * measured()['budgets']['brainscales2, maximum']['layers'][0]['clipped']:.0f}",
    "budget.snr_aware": lambda: snr("noisy", "noise-aware"),
    "budget.snr_percentile": lambda: snr("noisy", "percentile"),
    "budget.isaac_energy": lambda: f"{total('isaac', 'energy_pJ') / 1e6:.3g}",
    "budget.hermes_energy": lambda: f"{total('hermes', 'energy_pJ') / 1e6:.3g}",
    "budget.hermes_latency": lambda: f"{total('hermes', 'latency_ns') / 1e3:.3g}",
    "budget.steps": lambda: f"{total('8bit', 'conversion_steps'):,.0f}",
    "budget.fraction": lambda: f"{total('8bit', 'conversion_steps') / taken()['cost']:.0f}",
    "budget.designs": lambda: f"{len(measured()['designs'])}",
    "budget.adc": lambda: f"{taken()['adc.bits']}",
    "budget.dac": lambda: f"{taken()['dac.bits']}",
    "budget.taken": lambda: f"{taken()['accuracy']:.4f}",
}

TABLES: dict[str, Callable[[], str]] = {
    "budget_layers": layers,
    "budget_presets": profiles,
    "budget_ranges": ranges,
    "cost_8bit": lambda: costs("8bit"),
    "cost_isaac": lambda: costs("isaac"),
    "designs": front,
}

if __name__ == "__main__":
    typer.run(main)
