"""A small character-level GPT, trained plainly and under noise, with its weights clipped and not."""

import itertools
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

import analogsim as an
from analogsim import style
from analogsim.bench import machine
from analogsim.machine import commit
from analogsim.profile.compare import titled
from analogsim.quantities import QUANTITIES, Quantity
from analogsim.robustness.curve import RobustnessCurve
from analogsim.robustness.measure import measure_named
from analogsim.robustness.midpoint import midpoint_texts
from analogsim.storage.files import write_text
from analogsim.terminal.progress import bar
from analogsim.training.checkpoint import load_checkpoint, save_checkpoint

from .common import IMAGES, ROOT, Quick
from .findings import MISSING, grid

RESULT = ROOT / "benchmarks" / "results" / "char_gpt.json"
SHARED = 60  # characters in common that bind two topics together: longer than a heading or a turn of phrase
ALPHA = 2.5  # weights are clipped at so many standard deviations of their column, as Analog Foundation Models does
SIGMAS: dict[Quantity, np.ndarray] = {
    "activations": np.geomspace(0.03, 10, 11),
    "weights": np.geomspace(0.003, 1, 11),
    "noise.output": np.geomspace(0.01, 10, 11),
}
REPEATS = CHIPS = 2
# What of the hardware is varied: the preset, and the values.
AXES: dict[str, tuple[str, list[Any]]] = {
    "programming.sigma": ("pcm", [0.01, 0.02, 0.05, 0.1, 0.2]),
    "age": ("pcm", [0, "1d", "1y"]),
    "adc.bits": ("8bit", [4, 5, 6, 8]),
}


@dataclass(frozen=True)
class Recipe:
    """The network, and how it is trained."""

    layers: int = 3
    width: int = 96
    heads: int = 4
    context: int = 64
    batch: int = 16
    steps: int = 800
    rate: float = 3e-3
    warmup: int = 60
    decay: float = 0.01
    windows: int = 64
    """Windows of held-out text that robustness is measured on; the perplexity of a network is that of all of them."""
    keep: int = 100
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class Variant:
    """What a network is trained under: noise of a kind, at a σ, and clipped weights (α) or not."""

    noise: str = ""
    sigma: float = 0.0
    alpha: float | None = None

    @property
    def name(self) -> str:
        """As tables call it."""
        noise = f"{self.noise}, σ = {self.sigma:g}" if self.noise else "no noise"
        return noise + (", clipped" if self.alpha else "")


# Noise on activations has one σ in absolute units; programming noise is a share of each column's largest weight.
NOISES = ("", 0.0), ("programming", 0.1), ("activations", 0.3)
VARIANTS = tuple(Variant(noise, sigma, alpha) for noise, sigma in NOISES for alpha in (None, ALPHA))


def topics() -> dict[str, str]:
    """Return the text at hand: the pages that Python's own help shows."""
    from pydoc_data.topics import topics

    return dict(sorted(topics.items()))


def split(pages: Mapping[str, str], share: float = 0.1, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return the names of the pages to train on, and of those held out: about `share` of all characters.

    Pages have passages in common ("with" is a part of "compound"), so pages that share one stay on the same side.
    """
    owner: dict[str, str] = {}
    group = {name: name for name in pages}
    for name, text in pages.items():
        for start in range(len(text) - SHARED + 1):
            other = group[owner.setdefault(text[start : start + SHARED], name)]
            if other != group[name]:
                gone = group[name]
                group = {page: other if found == gone else found for page, found in group.items()}
    groups: dict[str, list[str]] = {}
    for name, first in group.items():
        groups.setdefault(first, []).append(name)
    sizes = {first: sum(len(pages[name]) for name in names) for first, names in groups.items()}
    wanted, held = share * sum(sizes.values()), []
    for place in torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist():
        first = list(groups)[place]
        # The largest group, most of the text, never fits.
        if sum(sizes[one] for one in held) + sizes[first] <= wanted:
            held.append(first)
    out = [name for first in held for name in groups[first]]
    return [name for name in pages if name not in out], sorted(out)


def encoded(names: Iterable[str], pages: Mapping[str, str]) -> Tensor:
    """Return pages as the numbers of their characters; the alphabet is that of all pages."""
    alphabet = {character: n for n, character in enumerate(sorted(set("".join(pages.values()))))}
    return torch.tensor([alphabet[character] for character in "".join(pages[name] for name in names)])


def batches(text: Tensor, recipe: Recipe, windows: int | None = None) -> list[dict[str, Tensor]]:
    """Return text cut into windows, side by side, evenly over the text where only so many are wanted."""
    every = text[: len(text) // recipe.context * recipe.context].reshape(-1, recipe.context)
    if windows is not None and windows < len(every):
        every = every[torch.linspace(0, len(every) - 1, windows).long()]
    return [{"input_ids": part, "labels": part} for part in every.split(64)]


def network(characters: int, recipe: Recipe) -> nn.Module:
    """Return an untrained GPT-2 of a size. Its head is not tied, so that clipping it leaves the embedding alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=characters,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        **dropout,
    )
    return GPT2LMHeadModel(config)


def matrices(model: nn.Module) -> list[tuple[Tensor, int]]:
    """Return the weights that crossbars hold, each with the axis along which a column of the crossbar runs."""
    from transformers.pytorch_utils import Conv1D

    found = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    return [(module.weight, 1 if isinstance(module, nn.Linear) else 0) for module in found]


@torch.no_grad()
def clip_weights(model: nn.Module, alpha: float) -> None:
    """Clip every weight at α standard deviations of its column, the weights of one output."""
    for weight, axis in matrices(model):
        bound = alpha * weight.std(axis, keepdim=True)
        weight.clamp_(-bound, bound)


@torch.no_grad()
def peaks(model: nn.Module) -> float:
    """Return the largest weight of a column in units of its root mean square, averaged over all columns."""
    ratios = [weight.abs().amax(axis) / weight.square().mean(axis).sqrt() for weight, axis in matrices(model)]
    return float(torch.cat(ratios).mean())


def under_noise(model: nn.Module, variant: Variant) -> nn.Module:
    """Return a network as it is trained: what it is to bear is drawn anew at every call."""
    if variant.noise == "activations":
        return an.inject_noise(model, an.NoiseSpec(sigma=variant.sigma), inplace=True)
    if variant.noise == "programming":  # all else of this hardware is ideal
        profile = an.HardwareProfile(weight={"w_max": "column"}, programming={"sigma": variant.sigma})
        return an.convert(model, profile, inplace=True)
    return model


def train(
    text: Tensor, characters: int, variant: Variant, recipe: Recipe, seed: int, folder: Path
) -> tuple[nn.Module, list[float]]:
    """Train a network, or go on with the training that is in the folder; return it without noise, and its losses.

    Each step's random numbers are decided by the seed and the step alone, so that a checkpoint needs none.
    """
    from transformers import get_cosine_schedule_with_warmup

    torch.manual_seed(seed)
    model = network(characters, recipe)
    noisy = under_noise(model, variant).train()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, (0.9, 0.98), weight_decay=recipe.decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup, recipe.steps)
    path, losses = folder / "checkpoint.pt", []
    identity = {"variant": asdict(variant), "recipe": asdict(recipe), "seed": seed, "characters": len(text)}
    if path.is_file():
        state = load_checkpoint(path, identity)
        noisy.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        losses = state["losses"]
    folder.mkdir(parents=True, exist_ok=True)
    with bar() as shown:
        task = shown.add_task(f"{variant.name}, seed {seed}", total=recipe.steps, completed=len(losses))
        for step in range(len(losses), recipe.steps):
            torch.manual_seed(seed * 1_000_003 + step)
            starts = torch.randint(len(text) - recipe.context, (recipe.batch,))
            x = text[starts[:, None] + torch.arange(recipe.context)]
            loss = noisy(input_ids=x, labels=x).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if variant.alpha:
                clip_weights(noisy, variant.alpha)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise typer.BadParameter(f"{variant.name}: the loss of step {step} is {losses[-1]}; take a lower rate")
            if (step + 1) % recipe.keep == 0 or step + 1 == recipe.steps:
                state = {"model": noisy.state_dict(), "optimizer": optimizer.state_dict()}
                save_checkpoint(path, identity, state | {"schedule": schedule.state_dict(), "losses": losses})
            shown.advance(task)
    if variant.noise == "programming":
        an.to_digital(noisy, inplace=True)
    elif variant.noise:
        an.remove_noise(noisy)
    return noisy.eval(), losses


@torch.no_grad()
def perplexity(model: nn.Module, parts: list[dict[str, Tensor]]) -> float:
    """Return the perplexity, by the loss that the network itself computes."""
    windows = [len(part["input_ids"]) for part in parts]
    losses = [float(model(**part).loss) for part in parts]
    return math.exp(float(np.average(losses, weights=windows)))


def measured(model: nn.Module, seen: list[dict[str, Tensor]], held: Tensor, recipe: Recipe) -> dict[str, Any]:
    """Return perplexities and robustness of a trained network; `seen` are training batches, to take ranges from."""
    part = batches(held, recipe, recipe.windows)
    how = {"metric": "perplexity", "seed": 0}
    whole = perplexity(model, batches(held, recipe))
    found: dict[str, Any] = {"perplexity": whole, "peaks": peaks(model), "sweeps": {}, "hardware": {}}
    for quantity, sigmas in SIGMAS.items():
        swept = model
        if quantity == "noise.output":
            swept = an.convert(model, an.HardwareProfile.load("8bit"))
            an.calibrate(swept, seen)
            an.program(swept, 0)
        curve = an.noise_sweep(swept, part, sigmas, REPEATS, quantity=quantity, **how)
        numbers = {"sigmas": curve.sigmas.tolist(), "values": curve.values.tolist()}
        found["sweeps"][quantity] = numbers | {"noise_free": curve.noise_free, "chance": curve.chance}
    for axis, (preset, values) in AXES.items():
        profile = an.HardwareProfile.load(preset)
        sweep = an.hardware_sweep(
            model, part, {axis: values}, profile=profile, calibration=seen, chips=CHIPS, metric="perplexity"
        )
        found["hardware"][axis] = [{"value": point[axis], "perplexity": list(each)} for point, each in sweep.points]
        found["digital"] = sweep.digital
    return found


def main(
    seeds: Annotated[int, typer.Option(help="Trainings of each variant.")] = 2,
    only: Annotated[str, typer.Option(help="One training, as VARIANT:SEED, such as 0:1; default: all.")] = "",
    steps: Annotated[int, typer.Option(help="Of each training.")] = Recipe.steps,
    quick: Quick = False,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    runs: Annotated[Path, typer.Option(help="Where trainings are kept, and resumed from.")] = Path("runs/char_gpt"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON to write, training by training.")] = RESULT,
    image: Annotated[Path, typer.Option(help="Picture to write.")] = IMAGES / "char_gpt.png",
) -> None:
    """Train every variant, measure it, and draw perplexity against noise. What `out` has of it already is kept."""
    torch.set_num_threads(threads)
    recipe = replace(Recipe(steps=steps), **({"steps": 20, "warmup": 5, "windows": 8} if quick else {}))
    pages = topics()
    names, held_names = split(pages)
    text, held = encoded(names, pages), encoded(held_names, pages)
    characters = len(set("".join(pages.values())))
    seen = batches(text, recipe, 32)
    about = {"recipe": asdict(recipe), "python": platform.python_version(), "held": held_names}
    about |= {"characters": {"train": len(text), "held": len(held), "alphabet": characters}}
    jobs = list(itertools.product(range(1 if quick else seeds), range(len(VARIANTS))))
    if only:
        variant, _, seed = only.partition(":")
        jobs = [(int(seed), int(variant))]
    for seed, number in jobs:
        variant = VARIANTS[number]
        report = kept(out)
        if any(report.get(key, value) != value for key, value in about.items()):
            raise typer.BadParameter(f"{out} is of another recipe, text or Python: move it away")
        if any(run["variant"] == variant.name and run["seed"] == seed for run in report["runs"]):
            continue
        model, losses = train(text, characters, variant, recipe, seed, runs / f"{number}-{seed}-{recipe.steps}")
        found = {"variant": variant.name, "seed": seed, "loss": float(np.mean(losses[-50:]))}
        found |= measured(model, seen, held, recipe)
        typer.echo(f"{variant.name}, seed {seed}: perplexity {found['perplexity']:.3f} on held-out text")
        report = kept(out)  # another process may have finished another training meanwhile
        report |= about | {"machine": machine(), "commit": commit()}
        report["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        report["runs"].append(found)
        write_text(out, json.dumps(report, indent=1) + "\n")
    draw(kept(out), image)


def kept(path: Path) -> dict[str, Any]:
    """Return what was measured so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": []}


def by_variant(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the trainings of each variant that there is, in the order of `VARIANTS`."""
    runs = {v.name: [run for run in report["runs"] if run["variant"] == v.name] for v in VARIANTS}
    return {name: sorted(found, key=lambda run: run["seed"]) for name, found in runs.items() if found}


def curve_of(runs: list[dict[str, Any]], quantity: str) -> RobustnessCurve:
    """Return the curve of a variant, over all its trainings."""
    parts = []
    for run in runs:
        sweep, metric = run["sweeps"][quantity], measure_named("perplexity")
        sigmas, values = np.array(sweep["sigmas"]), np.array(sweep["values"])
        parts.append(RobustnessCurve(sigmas, values, sweep["noise_free"], sweep["chance"], quantity, metric=metric))
    return parts[0] if len(parts) == 1 else RobustnessCurve.pool(parts)


def robustness() -> str:
    """Tell each variant's perplexity, its µ of each quantity, and how far its largest weights stand out."""
    report = kept(RESULT)
    if not report["runs"]:
        return MISSING
    rows = []
    for name, runs in by_variant(report).items():
        cells = [name, each("{:.2f}", (run["perplexity"] for run in runs)), each("{:.1f}", (r["peaks"] for r in runs))]
        for quantity in SIGMAS:
            own = [curve_of([run], quantity) for run in runs]
            cells.append(each("{}", (midpoint_texts(one.midpoint, *one.ci)[0] + flagged(one) for one in own)))
        rows.append(cells)
    header = ["trained under", "perplexity", "peak weight", *(f"µ, `{quantity}`" for quantity in SIGMAS)]
    return grid(header, rows) + source(report)


def on_hardware() -> str:
    """Tell the perplexity of each variant on chips: the mean over chips and trainings."""
    report = kept(RESULT)
    if not report["runs"]:
        return MISSING
    parts = []
    for axis, (preset, values) in AXES.items():
        rows = []
        for name, runs in by_variant(report).items():
            means = [mean_on(runs, axis, number) for number in range(len(values))]
            digital = float(np.exp(np.mean([np.log(run["digital"]) for run in runs])))
            rows.append([name, f"{digital:.2f}", *(f"{mean:.2f}" for mean in means)])
        parts.append(grid([f"`{preset}`, `{axis}`", "digital", *map(str, values)], rows))
    return "\n".join(parts)


def each(form: str, values: Iterable[Any]) -> str:
    """Return one value a training."""
    return ", ".join(form.format(value) for value in values)


def flagged(curve: RobustnessCurve) -> str:
    """Return a curve's flags as they follow its µ."""
    return f" ({' '.join(curve.flags)})" if curve.flags else ""


def mean_on(runs: list[dict[str, Any]], axis: str, number: int) -> float:
    """Return the mean perplexity at a value of an axis, over chips and trainings: geometric, as perplexities are."""
    found = [value for run in runs for value in run["hardware"][axis][number]["perplexity"]]
    return float(np.exp(np.mean(np.log(found))))


def source(report: dict[str, Any]) -> str:
    """Say what was trained, on what, where."""
    size, recipe, facts = report["characters"], report["recipe"], report["machine"]
    text = f"Python {report['python']}'s help pages: {size['train']} characters to train on, {size['held']} held out"
    trained = f"{report['parameters']} parameters, {recipe['steps']} steps of {recipe['batch']} × {recipe['context']}"
    where = f"{facts['processor']}, {facts['cores']} cores; torch {facts['versions']['torch']}"
    return f"\n{text}; {trained}. {where}; commit {report['commit'][:10]}; `python -m benchmarks.char_gpt`.\n"


def alone(what: str, runs: list[dict[str, Any]]) -> str:
    """Return the mean over a variant's trainings of what each training has one of."""
    return f"{np.mean([run[what] for run in runs]):.2g}"


def dearer(runs: list[dict[str, Any]]) -> str:
    """Return how much higher a variant's perplexity is than that of the plain network."""
    plain = by_variant(kept(RESULT))["no noise"]
    return f"{np.mean([run['perplexity'] for run in runs]) - np.mean([run['perplexity'] for run in plain]):.1f}"


def apart(runs: list[dict[str, Any]]) -> float:
    """Return how far the perplexities of a variant's trainings are apart at most."""
    found = [run["perplexity"] for run in runs]
    return max(found) - min(found)


def furthest() -> str:
    """Return how far two trainings of one variant are apart, of all variants without noise on activations."""
    found = by_variant(kept(RESULT)).items()
    return f"{max(apart(runs) for name, runs in found if not name.startswith('activations')):.1f}"


def each_at_adc(runs: list[dict[str, Any]]) -> str:
    """Return the least and the greatest µ at the ADC of a variant's trainings."""
    found = [curve_of([run], "noise.output").midpoint for run in runs]
    return f"{min(found):.1f} – {max(found):.1f}"


# What prose tells of a variant, by name: `gpt.mu-weights.activations-clipped`.
TOLD: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "perplexity": partial(alone, "perplexity"),
    "loss": partial(alone, "loss"),
    "peak": partial(alone, "peaks"),
    "seeds": lambda runs: f"{apart(runs):.1f}",
    "dearer": dearer,
    "digital": lambda runs: f"{np.exp(np.mean([np.log(run['digital']) for run in runs])):.1f}",
    "year": lambda runs: f"{mean_on(runs, 'age', 2):.1f}",
    "sigma0.1": lambda runs: f"{mean_on(runs, 'programming.sigma', 3):#.3g}",
    "sigma0.2": lambda runs: f"{mean_on(runs, 'programming.sigma', 4):#.3g}",
    "bits4": lambda runs: f"{mean_on(runs, 'adc.bits', 0):#.2g}",
    "mu-activations": lambda runs: f"{curve_of(runs, 'activations').midpoint:.2f}",
    "mu-weights": lambda runs: f"{curve_of(runs, 'weights').midpoint:#.2g}",
    "mu-adc": lambda runs: f"{curve_of(runs, 'noise.output').midpoint:.2f}",
    "each-adc": each_at_adc,
}
NAMES = {"plain": "no noise", "programming": "programming, σ = 0.1", "activations": "activations, σ = 0.3"}
VALUES: dict[str, Callable[[], str]] = {
    "gpt.seeds": furthest,
    "gpt.characters": lambda: str(kept(RESULT)["characters"]["alphabet"]),
}


def told(name: str) -> str:
    """Return a number of a variant as it is written; `name` as in "gpt.sigma0.2.plain-clipped".

    Raises
    ------
    KeyError
        Nothing has this name.
    """
    what, variant = name.removeprefix("gpt.").rsplit(".", 1)
    noise = NAMES[variant.removesuffix("-clipped")]
    runs = by_variant(kept(RESULT))[noise + ", clipped" * variant.endswith("-clipped")]
    return TOLD[what](runs)


TABLES = {"char_gpt": robustness, "char_gpt_hardware": on_hardware}


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw perplexity against every σ that was swept, µ as a dotted line; and on hardware."""
    with style.picture(path, (13, 8), dpi=100) as figure:
        drawn(report, figure)


def drawn(report: dict[str, Any], figure: Any) -> None:
    """Draw the six panels into a figure."""
    axes = figure.subplots(2, 3, sharey="row").ravel()
    chance = report["characters"]["alphabet"]
    for name, runs in by_variant(report).items():
        clipped = name.endswith("clipped")
        number = [Variant(*noise).name for noise in NOISES].index(name.removesuffix(", clipped"))
        look = style.look(number, int(clipped))
        line = look.line | {"markersize": 4, "label": name, "markerfacecolor": "white" if clipped else look.color}
        for ax, quantity in zip(axes, SIGMAS):
            curve = curve_of(runs, quantity)
            ax.plot(curve.sigmas, np.minimum(curve.mean, 2 * chance), **line)
            if 0 < curve.midpoint < math.inf:
                ax.axvline(curve.midpoint, color=look.color, linestyle=look.style, linewidth=0.8, alpha=0.7)
            ax.set_xscale("log")
            ax.set_xlabel(QUANTITIES[quantity])
        for ax, (axis, (preset, values)) in zip(axes[len(SIGMAS) :], AXES.items()):
            means = [mean_on(runs, axis, place) for place in range(len(values))]
            ax.plot(range(len(values)), means, **line)
            ax.set_xticks(range(len(values)), list(map(str, values)))
            ax.set_xlabel(f"{titled(axis)}, {preset}")
    for ax in axes[: len(SIGMAS)]:
        ax.axhline(chance, color="0.5", linestyle=":", linewidth=1)
    for ax in axes:
        style.axes(ax).set_yscale("log")
    for ax in axes[::3]:
        ax.set_ylabel("perplexity on held-out text (no unit)")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)


if __name__ == "__main__":
    typer.run(main)
