"""How much noise at each site adds to the error of LeNet-5's logits, and σ and s of each layer that follow from it.

With a small σ_i at site i alone, drawn anew for each image, the logits' mean square error is c_i·σ_i², which is
measured here on a network that was trained without noise. So noise of σ at all n sites makes an error of σ²·Σc, and
there are two ways to give each site a σ_i of its own at the same error:

* equal: every site makes the n-th part of it, σ_i = σ·√(Σc / n·c_i): much noise where the network does not mind it;
* proportional: σ_i = σ·√(c_i·Σc / Σc²): much noise where noise hurts.

The steps of constant scaling are chosen likewise, for rounding to steps of s makes an error of c_i·s²/12.

analogsim train models.lenet:LeNet5 npz:../shared/data/cifar10-jpeg.npz --arg pool=average --epochs 60 --out runs/float
python -m benchmarks.paper.shares runs/float
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from analogsim import NoiseSpec, inject_noise, noise_sites, set_noise
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.storage.files import write_text
from analogsim.training.checkpoint import load_model
from analogsim.training.data import load_data
from models.lenet import LeNet5

from ..common import ROOT
from .protocol import SCRIPTS

RESULT = ROOT / "benchmarks" / "results" / "paper" / "site-errors.json"
SMALL = 0.01
"""σ of the measurement, beside which activations are large: c_i is the limit of small σ."""
Way = Literal["equal", "proportional"]


def measure(model: torch.nn.Module, images: torch.Tensor, sigma: float) -> dict[str, float]:
    """Return c_i of every noise site of a network in evaluation mode, in logits squared over σ² of activation units."""
    noisy = inject_noise(model.eval(), NoiseSpec())
    sites = noise_sites(noisy)
    found = {}
    with torch.no_grad():
        exact = model(images)
        for name in sites:
            torch.manual_seed(0)
            set_noise(noisy, 0.0, layers={name: sigma})
            found[name] = ((noisy(images) - exact) ** 2).mean().item() / sigma**2
    return found


def spread(level: float, errors: Sequence[float], way: Way) -> list[float]:
    """Return levels (σ or s) for sites of these c_i that together make the error of one level everywhere."""
    whole, count = sum(errors), len(errors)
    if way == "equal":
        return [level * (whole / count / error) ** 0.5 for error in errors]
    return [level * (error * whole / sum(other**2 for other in errors)) ** 0.5 for error in errors]


def errors() -> dict[str, float]:
    """Return c_i of each site, as it was measured."""
    kept: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return kept["errors"]


def chosen(level: float, way: Way, kind: str = "") -> dict[str, float]:
    """Return σ or s by site, to three digits, of the sites whose name has `kind` in it."""
    own = {name: error for name, error in errors().items() if kind in name}
    return {name: float(f"{one:.3g}") for name, one in zip(own, spread(level, list(own.values()), way))}


def main(run: Path, images: Annotated[int, typer.Option(min=1, help="Training images.")] = 2000) -> None:
    """Measure a network that `analogsim train` trained, and write c_i of its sites."""
    model = LeNet5(**SCRIPTS.networks["LeNet-5"].args)
    about = load_model(model, run / "model.safetensors")
    data = load_data(about["data"])
    found = measure(model, data.normalise(data.train_x[:images]), SMALL)
    report = {"machine": machine(), "commit": commit(), "images": images, "epochs": about["spec"]["epochs"]}
    write_text(RESULT, json.dumps(report | {"errors": found}, indent=1) + "\n")
    for name, error in found.items():
        typer.echo(f"{name}: {error:.3g}")


if __name__ == "__main__":
    typer.run(main)
