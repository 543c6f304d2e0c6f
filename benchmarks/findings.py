"""The tables of docs/paper.md, from the studies in benchmarks/results/paper/; `benchmarks.tables` puts them there."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import pandas as pd

from analogsim.robustness.curve import RobustnessCurve
from analogsim.robustness.midpoint import midpoint_texts
from analogsim.study import load_map
from analogsim.study.grid import MATCHED
from analogsim.study.store import Store

from .common import ROOT
from .paper.protocol import SCRIPTS

PAPER = ROOT / "benchmarks" / "results" / "paper"
KINDS = PAPER / "open" / "noise-kinds"
NETWORKS = ("lenet5", "vgg11", "resnet18")
LONG, LAYERS = "long/lenet5", "long/lenet5-layers"
EIGHT = "constant scaling, 8 bits"
MISSING = "*Not measured yet.*\n"
Rows = list[dict[str, Any]]
FULL = "noisy training, σ=1"
RISING = "noisy training, σ rising to 1"
UNIFORM = "float", FULL, "constant scaling, s=0.5", "constant scaling, s=8"
MATCHED_NOISE = "noisy training, matched"
QUANTIZED_MATCHED = f"{MATCHED_NOISE}, 8 bits"
MAX_POOLED = "float, maximum pooling"
FIXED_NOISE = "noisy training, fixed σ"
SAME_NETWORK = "float", MATCHED_NOISE, FIXED_NOISE
KINDS_LONG = "long/lenet5-kinds"
SHOWN = 0.01, 0.0316, 0.1, 0.178, 0.316, 0.562, 1, 1.78, 3.16, 5.62, 10, 31.6, 100
"""σ of the map's columns."""
RIVALS = 0.01, 0.1, 0.178, 0.316, 0.562, 1, 1.78, 3.16, 5.62, 10
TEXTS = ("variant", "flags", "scaling", "claim", "data")


def grid(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def load(folder: Path) -> tuple[Rows, Rows] | None:
    """Return a study's summary (one row a variant) and results (one row a training); None where it was not run."""
    if not (folder / "summary.csv").is_file():
        return None
    return read_table(folder / "summary.csv"), read_table(folder / "results.csv")


def read_table(path: Path) -> Rows:
    """Read a study's table; a text that is missing is an empty one, a number that is missing NaN."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    texts = frame.columns.intersection(TEXTS)
    return frame.assign(**{name: frame[name].fillna("") for name in texts}).to_dict("records")  # type: ignore[return-value]


def methods(name: str, **beside: tuple[str, ...]) -> str:
    """Tell everything that a study measured, network by network, below rows of other studies by their titles."""
    loaded = [load(PAPER / study) for study in (name, *beside)]
    studies = [study for study in loaded if study is not None]
    if len(studies) < len(loaded):
        return MISSING
    (summary, results), *others = studies
    pairs = [
        (row, source) for (rows, source), titles in zip(others, beside.values()) for row in rows if title(row) in titles
    ]
    pairs += [(row, results) for row in filter(ended, summary)]
    models = list(dict.fromkeys(row["model"] for row, _ in pairs))
    pairs.sort(key=lambda pair: models.index(pair[0]["model"]))
    several = len(models) > 1
    lines = []
    for row, source in pairs:
        own = trainings(source, row)
        mus = [training["midpoint"] for training in own if np.isfinite(training["midpoint"])]
        # With one training its own µ is the one beside it. Those of a matched curve have other curves than that.
        several_seeds = len(own) > 1 and row.get("curve") != MATCHED
        seeds = ", ".join(f"{mu:#.3g}" for mu in mus) if several_seeds else ""
        midpoint, interval = midpoint_texts(row["midpoint"], row["ci_low"], row["ci_high"])
        cells = [title(row), number(row["noise_free"]), number(row["peak"]), midpoint, interval, seeds, row["flags"]]
        lines.append(([row["model"]] if several else []) + cells)
    header = ["method", "noise-free", "peak", "µ", "95 % interval", "µ of each seed", "flags"]
    begun = {row["method"] for row in summary if ended(row)}
    left = [row for row in summary if not ended(row)]
    open_ = ", ".join(dict.fromkeys(title(row) if row["method"] in begun else row["method"] for row in left))
    return grid(["network"] * several + header, lines) + f"\nNot run: {open_}.\n" * bool(open_) + made(name, results)


def made(name: str, results: Rows) -> str:
    """Say on what data, how long and with which code a study was run."""
    store = Store(PAPER / name)
    study = store.study()
    read = (store.result(r["job"]) for r in results if r["status"] != "failed")
    facts = [fact for fact in read if fact]
    commits = ", ".join(dict.fromkeys(str(fact.commit) for fact in facts))
    epochs = sorted({row["epochs"] for row in results})
    seeds = len({row["seed"] for row in results})
    data = ", ".join(dict.fromkeys(filter(None, (row["data"] for row in results))))
    hours = np.nansum([row["seconds"] for row in results]) / 3600
    # An interrupted study was run by the same command again.
    commands = "; ".join(dict.fromkeys(f"`{run.command}`" for run in store.runs() if run.command))
    return (
        f"\n{data}; {', '.join(map(str, epochs))} epochs, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"{study.sweep.repeats} evaluations at each σ. {study.about} {commands}, "
        f"{hours:.1f} hours of jobs on {facts[0].processor} ({facts[0].device}), "
        f"torch {facts[0].versions['torch']}, commit {commits}.\n"
    )


def claims() -> str:
    """Put the numbers of every network beside each claim."""
    rows: list[list[str]] = []
    studies = {name: found for name in (LONG, *NETWORKS) if (found := load(PAPER / name))}
    for text, judge in CLAIMS.items():
        for name, (everything, results) in studies.items():
            summary = [row for row in everything if ended(row)]
            for model in dict.fromkeys(row["model"] for row in summary):
                own, ran = ([row for row in rows_ if row["model"] == model] for rows_ in (summary, results))
                evidence = judge(own, ran)
                if evidence:
                    # A long study's name says how long.
                    rows.append([text, Store(PAPER / name).study().name if name == LONG else model, evidence])
    return grid(["claim", "network", "measured"], rows)


def noisy_is_best(summary: Rows, results: Rows) -> str:
    """Compare the best of noisy training with the best of everything without noise in training."""
    noisy, others = (best([row for row in summary if under_noise(row) == wanted]) for wanted in (True, False))
    if not (noisy and others):
        return ""
    matched = only(summary, MATCHED_NOISE)
    first = f"{told(matched)}; " if matched and matched is not noisy else ""
    return f"{first}highest µ: {told(noisy)}; without noise in training {told(others)}"


def resnet_is_best(summary: Rows, results: Rows) -> str:
    """Tell the µ that networks are compared by."""
    plain, noisy = only(summary, "float"), best(list(filter(under_noise, summary)))
    return f"float {short(plain)}; {told(noisy)}" if plain and noisy else ""


def grows_with_s(summary: Rows, results: Rows) -> str:
    """Tell µ and peak over s, of quantizers of each width."""
    told_ = []
    for method, rows in by_method(summary, "constant scaling").items():
        rows.sort(key=lambda row: row["s"])
        steps = ", ".join(f"{row['s']:g}" for row in rows)
        mus, peaks = " → ".join(map(short, rows)), " → ".join(number(row["peak"]) for row in rows)
        told_.append(f"{width(method)}s = {steps}: µ {mus}, peak {peaks}")
    return "; ".join(told_)


def dynamic_below_float(summary: Rows, results: Rows) -> str:
    """Compare dynamic scaling with the baseline, seed by seed, for quantizers of each width."""
    plain, told_ = only(summary, "float"), []
    if plain is None:
        return ""
    for method, (dynamic,) in by_method(summary, "dynamic scaling").items():
        first, second = (
            {row["seed"]: row["midpoint"] for row in results if row["method"] == name} for name in (method, "float")
        )
        ratios = [first[seed] / second[seed] for seed in sorted(first.keys() & second.keys())]
        seeds = f"; µ by seed × {', '.join(f'{ratio:.2f}' for ratio in ratios)}" if len(ratios) > 1 else ""
        peaks = f"peak {number(dynamic['peak'])} against {number(plain['peak'])}"
        told_.append(f"{width(method)}µ {short(dynamic)} against {short(plain)}{seeds}; {peaks}")
    if told_ and (alike := only(summary, MAX_POOLED)):
        told_.append(f"float with the pooling of the quantized: µ {short(alike)}, peak {number(alike['peak'])}")
    return "; ".join(told_)


def quantization_adds_nothing(summary: Rows, results: Rows) -> str:
    """Compare noisy training with and without quantizers, at the same σ."""
    if only(summary, QUANTIZED_MATCHED):
        points = [
            f"{own:.3f} against {plain:.3f} at σ = {sigma:.3g}"
            for sigma, own in reached_matched(QUANTIZED_MATCHED).items()
            if not np.isnan(plain := reached(sigma, sigma))
        ]
        return f"accuracy {', '.join(points)}" if points else ""
    quantized = only(summary, "noisy training, quantized")
    if quantized is None:
        return ""
    plain = only([row for row in summary if row["sigma"] == quantized["sigma"]], "noisy training")
    if plain is None:
        return ""
    peaks = f"peak {number(quantized['peak'])} against {number(plain['peak'])}"
    return f"σ = {quantized['sigma']:g}: µ {short(quantized)} against {short(plain)}; {peaks}"


def by_method(summary: Rows, start: str) -> dict[str, Rows]:
    """Return the rows of methods whose name begins so, by method."""
    found: dict[str, Rows] = {}
    for row in summary:
        if row["method"].startswith(start):
            found.setdefault(row["method"], []).append(row)
    return found


def width(method: str) -> str:
    """Return how wide a method's quantizers are, with a colon; nothing where its name does not say it."""
    bits = method.partition(", ")[2]
    return f"{bits}: " if bits else ""


def vgg_collapses(summary: Rows, results: Rows) -> str:
    """Tell the peak at each s of VGG-11."""
    rows = [row for row in summary if row["method"] == "constant scaling" and row["model"].startswith("VGG")]
    return "; ".join(f"s = {row['s']:g}: peak {number(row['peak'])}{flagged(row)}" for row in rows)


CLAIMS: dict[str, Callable[[Rows, Rows], str]] = {
    "1 noisy training beats every other method": noisy_is_best,
    "2 ResNet-18 has the highest µ": resnet_is_best,
    "3 µ grows with s while peak accuracy falls": grows_with_s,
    "4 dynamic scaling is below the baseline": dynamic_below_float,
    "5 quantization adds nothing to noisy training": quantization_adds_nothing,
    "6 VGG-11 collapses where s is too large": vgg_collapses,
}


def mismatch() -> str:
    """Tell the accuracy at every σ of inference for every σ of training; the best of each column in bold."""
    folder = PAPER / "lenet5"
    if load(folder) is None:
        return MISSING
    curves: dict[float, list[RobustnessCurve]] = {}
    store = Store(folder)
    for cell in store.plan():
        if cell.bits is None and (curve := store.curve(cell.job)):
            curves.setdefault(cell.sigma, []).append(curve)
    sigmas = next(iter(curves.values()))[0].sigmas
    shown = [0, *(place for place, sigma in enumerate(sigmas) if 0.09 < sigma < 6)]
    means = {sigma: np.stack([curve.mean for curve in own]) for sigma, own in sorted(curves.items())}
    table = np.stack([values.mean(0)[shown] for values in means.values()])
    spread = max(values.std(0, ddof=1).max() for values in means.values())
    rows = []
    for sigma, line in zip(means, table):
        best_ = line == table.max(0)
        cells = [f"**{value:.3f}**" if top else f"{value:.3f}" for value, top in zip(line, best_)]
        rows.append([f"trained at {sigma:g}" if sigma else "trained without noise", *cells])
    count = len(next(iter(curves.values())))
    about = f"Mean of {count} trainings of LeNet-5, CIFAR-10 (JPEG re-encoded); "
    about += f"their standard deviation is at most {spread:.3f}.\n"
    return grid(["σ at inference", *(f"{sigmas[place]:.2g}" for place in shown)], rows) + "\n" + about


@cache
def networks() -> pd.DataFrame:
    """Return what every network of the long matched curve reaches at every σ, and those without noise in training.

    Columns: trained (σ of training; 0: without noise), sigma (of evaluation), seed, accuracy.
    """
    folder = PAPER / LONG
    frame = load_map(folder)
    store = Store(folder)
    rows = [
        {"trained": 0.0, "sigma": sigma, "seed": cell.seed, "accuracy": accuracy}
        for cell in store.plan()
        if cell.method == "float" and (curve := store.curve(cell.job))
        for sigma, accuracy in zip([0.0, *curve.sigmas.tolist()], [curve.noise_free, *curve.mean.tolist()])
    ]
    together = pd.concat([pd.DataFrame(rows), frame.query("method == @MATCHED_NOISE")])
    for name in ("trained", "sigma"):  # one σ may differ in its last digit as that of training and of evaluation
        together[name] = [float(f"{sigma:.6g}") for sigma in together[name]]
    return together


@cache
def everywhere() -> pd.DataFrame:
    """Return the mean accuracy over seeds: σ of training (0: without noise) × σ of evaluation."""
    return networks().pivot_table("accuracy", "trained", "sigma")


def reached(trained: float, sigma: float) -> float:
    """Return the accuracy at a σ of the network that was trained at another, both to one part in a hundred; NaN where
    there is none.
    """
    table = everywhere()
    rows, columns = ([at for at in ats if near(at, (one,))] for ats, one in ((table.index, trained), (table, sigma)))
    return float(table.loc[rows[0], columns[0]]) if rows and columns else np.nan


def reached_matched(method: str, *, noise: bool = True) -> dict[float, float]:
    """Return the mean accuracy over seeds of a matched curve's networks, each at its own σ, or without noise."""
    own = load_map(PAPER / LONG).query("method == @method")
    own = own[np.isclose(own["trained"], own["sigma"], rtol=0.01, atol=0) if noise else own["sigma"] == 0]
    return {float(sigma): float(one["accuracy"].mean()) for sigma, one in own.groupby("trained")}  # type: ignore[arg-type]


def matched_at(method: str, sigma: float) -> float:
    """Return what a matched curve of the long study has at a σ, to one part in a hundred; NaN where it has no point."""
    return next((one for at, one in reached_matched(method).items() if near(at, (sigma,))), np.nan)


def lost(trained: float, sigma: float) -> float:
    """Return how many points less that is than the network has that was trained at the σ; NaN where one is missing."""
    return 100 * (reached(sigma, sigma) - reached(trained, sigma))


def long_map() -> str:
    """Tell accuracy for σ of training and of inference, of the long matched curve; the best of each column in bold."""
    if load(PAPER / LONG) is None:
        return MISSING
    table = everywhere()
    columns = [sigma for sigma in table.columns if near(sigma, (0, *SHOWN))]
    rows = []
    for sigma, line in table[columns].iterrows():
        cells = [f"**{v:.3f}**" if v == table[at].max() else f"{v:.3f}" for at, v in line.items()]
        rows.append([f"trained at {sigma:.3g}" if sigma else "trained without noise", *cells])
    seeds = sorted(set(networks().groupby("trained")["seed"].nunique()))
    several = f"Mean of {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} trainings."
    about = several if seeds[-1] > 1 else "One training each."
    return grid(["σ at inference", *(f"{sigma:.3g}" for sigma in columns)], rows) + f"\n{about}\n"


def wrong_sigma() -> str:
    """Tell how many points a network loses that was trained at another σ than it is read at, against one that was."""
    if load(PAPER / LONG) is None:
        return MISSING
    at = 10**-1, 10**-0.5, 1.0, 10**0.5
    rows = []
    for factor in (0.0, *(10 ** (step / 4) for step in (-4, -2, -1, 1, 2, 4))):
        points = [lost(factor * sigma, sigma) for sigma in at]
        cells = ["" if np.isnan(one) else f"{one:.1f}" for one in (*points, np.mean(points))]
        rows.append([f"at {factor:.2g} times σ" if factor else "without noise", *cells])
    return grid(["trained", *(f"σ = {sigma:.3g}" for sigma in at), "mean"], rows)


def near(sigma: float, ones: tuple[float, ...]) -> bool:
    """Say whether a σ is one of those."""
    return bool(np.isclose(sigma, ones, rtol=0.01, atol=0).any())


def clipping() -> str:
    """Tell µ where range and step of the quantizers come apart."""
    found = load(KINDS)
    if found is None:
        return MISSING
    rows = []
    for row in sorted((r for r in found[0] if r["method"] == "constant scaling"), key=lambda r: (r["s"], r["bits"])):
        bits, s = int(row["bits"]), row["s"]
        mus = ", ".join(f"{mu:#.3g}" for mu in by_seed(found[1], row).values())
        rows.append([f"{bits} bits", f"{2**bits * s:g}", f"{s:g}", mus])
    return grid(["activations", "range, 2^b · s", "s, about the step", "µ of each seed"], rows)


def swept(method: str) -> dict[str, list[RobustnessCurve]]:
    """Return the curves over all σ of a method's networks in the long study, one for each seed, by variant."""
    store, found = Store(PAPER / LONG), {}
    for cell in store.plan():
        if cell.method == method and (curve := store.curve(cell.job)):
            found.setdefault(cell.variant, []).append(curve)
    return found


def long_rivals() -> str:
    """Tell what the methods of the long study reach at some σ; of constant scaling at each the best s."""
    if load(PAPER / LONG) is None:
        return MISSING
    others = {name: swept(name) for name in ("float", MAX_POOLED, "dynamic scaling, 8 bits", EIGHT)}
    rows = []
    for at in RIVALS:
        cells = []
        for name, variants in others.items():
            reached_ = {variant: mean_at(curves, at) for variant, curves in variants.items()}
            best_ = max(reached_, key=lambda variant: reached_[variant], default="")
            own = f" ({best_})" if name == EIGHT and best_ else ""
            cells.append(f"{reached_[best_]:.3f}{own}" if reached_ else "")
        for method in (MATCHED_NOISE, QUANTIZED_MATCHED):
            own = matched_at(method, at)
            cells.append("" if np.isnan(own) else f"{own:.3f}")
        rows.append([f"{at:.3g}", *cells])
    header = ["float", "float, maximum pooling", "dynamic, 8 bits", "constant, 8 bits, the best s"]
    return grid(["σ", *header, "matched", "matched, 8 bits"], rows)


def mean_at(curves: list[RobustnessCurve], sigma: float) -> float:
    """Return the mean accuracy of curves at the σ nearest to one."""
    place = int(np.abs(np.log(curves[0].sigmas / sigma)).argmin())
    return float(np.mean([curve.mean[place] for curve in curves]))


def long_clipping() -> str:
    """Tell µ and peak of both widths of quantizers at each s of the long study: one step, two ranges."""
    found = load(PAPER / LONG)
    constant = {} if found is None else by_method([row for row in found[0] if ended(row)], "constant scaling")
    if not constant:
        return MISSING
    four = SCRIPTS.networks["LeNet-5"].span_at_4_bits
    assert four is not None
    span = {8: 2**8, 4: four}
    rows = []
    for s in sorted({row["s"] for own in constant.values() for row in own}):
        cells = [f"{s:g}"]
        for bits in (8, 4):
            row = next((r for own in constant.values() for r in own if (r["bits"], r["s"]) == (bits, s)), None)
            cells += ["", "", ""] if row is None else [f"{span[bits] * s:g}", number(row["peak"]), short(row)]
        rows.append(cells)
    header = [f"{what}, {bits} bits" for bits in (8, 4) for what in ("range", "peak", "µ")]
    return grid(["s", *header], rows)


@cache
def uniform() -> list[tuple[float, float]]:
    """Return accuracy without noise and µ of every network of the long study that was trained under one σ everywhere,
    or without noise, each swept over all σ; means over seeds, by rising accuracy.
    """
    store = Store(PAPER / LONG)
    points: dict[float, list[tuple[float, float]]] = {}
    for cell in {cell.job: cell for cell in store.plan()}.values():
        curve = store.curve(cell.job) if cell.bits is None and cell.method in SAME_NETWORK else None
        if curve is not None and np.isfinite(curve.midpoint) and not curve.flags:
            points.setdefault(cell.sigma, []).append((curve.noise_free, curve.midpoint))
    return sorted((float(np.mean([a for a, _ in own])), geometric_mean(mu for _, mu in own)) for own in points.values())


def at_cost(accuracy: float, points: list[tuple[float, float]]) -> float:
    """Return the µ on the line between points (accuracy, µ), its logarithm linear in the accuracy; NaN beyond them.

    Of points that another one beats in both, the line knows nothing.
    """
    best_ = [(a, mu) for a, mu in points if not any(b > a and nu > mu for b, nu in points)]
    known, mus = zip(*best_)
    return float(np.exp(np.interp(accuracy, known, np.log(mus)))) if known[0] <= accuracy <= known[-1] else np.nan


def long_layers() -> str:
    """Hold σ and s of each layer against one σ or s for all, at the same accuracy without noise."""
    found = load(PAPER / LAYERS)
    if found is None or load(PAPER / LONG) is None:
        return MISSING
    rows = []
    for row in filter(ended, found[0]):
        other = of_one_level(row)
        cells = [title(row), number(row["noise_free"]), number(row["peak"]), short(row)]
        rows.append([*cells, "" if np.isnan(other) else f"{other:#.3g}"])
    header = ["method", "noise-free", "peak", "µ", "µ of one σ or s for all, at this noise-free accuracy"]
    return grid(header, rows) + made(LAYERS, found[1])


def of_one_level(row: dict[str, Any]) -> float:
    """Return the µ that one σ, or one s, for all layers has in the long study at a variant's noise-free accuracy."""
    if np.isnan(row["bits"]):
        return at_cost(row["noise_free"], uniform())
    main = load(PAPER / LONG)
    scaled = [] if main is None else by_method(main[0], EIGHT).get(EIGHT, [])
    return at_cost(
        row["noise_free"], sorted((one["noise_free"], one["midpoint"]) for one in scaled if one["midpoint"] > 0)
    )


def by_error(way: str, sigma: str) -> float:
    """Return how many times that µ a network has whose σ of each layer was chosen by the error that it makes."""
    row = {title(row): row for row in (load(PAPER / LAYERS) or ([], []))[0]}[f"σ by error, {way}, as σ={sigma}"]
    return row["midpoint"] / of_one_level(row)


def order() -> str:
    """Tell what quantizers cost, by whether noise comes before or after them."""
    found = load(KINDS)
    if found is None:
        return MISSING
    summary, results = found
    rows = []
    for quantized, plain in (("dynamic scaling", "float"), ("noise on activations, quantized", "noise on activations")):
        cells = []
        base = by_seed(results, next(row for row in summary if row["method"] == plain))
        for variant in ("relu_noise=before", "relu_noise=after"):
            own = by_seed(results, {"model": "LeNet-5", "method": quantized, "variant": variant})
            cells.append(", ".join(f"{own[seed] / base[seed]:.2f}" for seed in own.keys() & base.keys()))
        rows.append([f"{quantized} / {plain}", *cells])
    return grid(["ratio of µ, by seed", "noise, then quantizer", "quantizer, then noise"], rows)


def batch_norm() -> str:
    """Tell what statistics of batch normalisation that fit the noise of inference change."""
    folder = PAPER / "open" / "batch-norm"
    rows = []
    for kind, text in (("float", "float"), ("full", FULL), ("rising", RISING)):
        for end, statistics in (("", "as trained"), ("-estimated", "estimated at each σ")):
            curves = [RobustnessCurve.load(path) for path in sorted(folder.glob(f"{kind}-?{end}.json"))]
            if not curves:
                return MISSING
            pooled = RobustnessCurve.pool(curves)
            midpoint, interval = midpoint_texts(pooled.midpoint, *pooled.ci)
            seeds = ", ".join(f"{curve.midpoint:#.3g}" for curve in curves if np.isfinite(curve.midpoint))
            cells = [f"{pooled.noise_free:.3f}", f"{pooled.peak:.3f}", midpoint, interval, seeds]
            rows.append([text, statistics, *cells, " ".join(pooled.flags)])
    header = ["training", "statistics", "noise-free", "peak", "µ", "95 % interval", "µ of each seed", "flags"]
    return grid(header, rows)


def by_seed(results: Rows, row: dict[str, Any]) -> dict[int, float]:
    """Return seed → µ of a variant's trainings."""
    return {one["seed"]: one["midpoint"] for one in trainings(results, row)}


def trainings(results: Rows, row: dict[str, Any]) -> Rows:
    """Return the trainings behind a row of the summary, by seed."""
    same = [one for one in results if all(one[key] == row[key] for key in ("model", "method", "variant"))]
    return sorted(same, key=lambda one: one["seed"])


def ended(row: dict[str, Any]) -> bool:
    """Say whether a variant has a result, be it only that its trainings diverged."""
    return bool(row["trainings"] or row["flags"])


def under_noise(row: dict[str, Any]) -> bool:
    """Say whether a variant was trained under noise; a matched curve, which has no σ of its own, was."""
    return row["sigma"] > 0 or row.get("curve") == MATCHED


def best(summary: Rows) -> dict[str, Any] | None:
    """Return the row of the highest µ that is a number."""
    known = [row for row in summary if np.isfinite(row["midpoint"])]
    return max(known, key=lambda row: row["midpoint"], default=None)


def only(summary: Rows, method: str) -> dict[str, Any] | None:
    """Return the row of a method that has one."""
    return next((row for row in summary if row["method"] == method), None)


def told(row: dict[str, Any] | None) -> str:
    """Say which variant it is, with µ and peak."""
    return f"{title(row)}, µ {short(row)}, peak {number(row['peak'])}" if row else "none"


def short(row: dict[str, Any]) -> str:
    """Return µ with its flags."""
    return midpoint_texts(row["midpoint"], row["ci_low"], row["ci_high"])[0] + flagged(row)


def flagged(row: dict[str, Any]) -> str:
    """Return a row's flags in parentheses."""
    return f" ({row['flags']})" if row["flags"] else ""


def title(row: dict[str, Any]) -> str:
    """Name a variant."""
    return ", ".join(filter(None, (row["method"], row["variant"])))


def number(value: float) -> str:
    """Return an accuracy; a hyphen where there is none."""
    return "-" if value != value else f"{value:.3f}"


TABLES: dict[str, Callable[[], str]] = {
    **{name: (lambda name=name: methods(name)) for name in NETWORKS},
    "claims": claims,
    "mismatch": mismatch,
    "long_lenet5": lambda: methods(LONG),
    "long_map": long_map,
    "wrong_sigma": wrong_sigma,
    "long_rivals": long_rivals,
    "long_clipping": long_clipping,
    "long_kinds": lambda: methods(KINDS_LONG, **{LONG: ("float", f"{FIXED_NOISE}, σ=1")}),
    "long_kinds_weights": lambda: methods(f"{KINDS_LONG}-weights"),
    "long_layers": long_layers,
    "clipping": clipping,
    "order": order,
    "kinds": lambda: methods("open/noise-kinds"),
    "kinds_weights": lambda: methods("open/noise-kinds-weights"),
    "by_layer": lambda: methods("open/layers", lenet5=UNIFORM),
    "shortcuts": lambda: methods("open/shortcuts", resnet18=("float", FULL)),
    "batch_norm": batch_norm,
    "longer": lambda: methods("open/longer"),
    "statistics": lambda: methods("open/statistics"),
    "ramp": lambda: methods("open/ramp", **{"resnet18": (FULL,), "open/shortcuts": (FULL,)}),
}
