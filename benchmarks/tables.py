"""Write the tables and values of README.md and of the pages in docs/ from the results, between their markers."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import typer

from analogsim.bench import Case, Report, Result, Spread

from . import budget, char_gpt, compensation, encoder, findings, values
from .common import RESULTS, ROOT
from .findings import grid
from .published import recovery_tables
from .published import tables as published

NAMES = ("performance", "gpu", "paper", "devices", "studies", "budget", "char_gpt", "encoder", "published")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in NAMES))
MARKER = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def number(value: Spread) -> str:
    """Median [quartiles]."""
    return f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"


def judged(result: Result) -> str:
    """Return a ratio, bold where it misses its goal."""
    assert result.ratio is not None
    text = number(result.ratio)
    return text if result.met is not False else f"**{text}**"


def source(report: Report, command: str, goals: bool = True) -> str:
    """Say on what machine a report was measured, and by which command."""
    facts = report.machine
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "numba"))
    commit = (facts["commit"] or "unknown")[:10]
    where = f"{facts['processor']}, {facts['cores']} cores; {versions}; commit {commit}"
    return f"\n{where}; `{command}`.{' Bold: above the goal.' if goals else ''}\n"


def per_case(report: Report, candidates: list[str], titles: list[str]) -> str:
    """Return a table with a row for each case, and a column for each candidate and number of threads."""
    timed = [case for case in report.cases if case.unit == "s"]
    measured = {(r.name, case.threads) for case in timed for r in case.results}
    counts = sorted({case.threads for case in timed})
    columns = [(name, title, n) for name, title in zip(candidates, titles) for n in counts if (name, n) in measured]
    header = ["", *(f"{title}, {n} thread{'s' if n > 1 else ''}" for _, title, n in columns)]
    rows = []
    for name in dict.fromkeys(case.name for case in timed):
        found = {(r.name, c.threads): judged(r) for c in timed if c.name == name for r in c.results if r.ratio}
        rows.append([name, *(found.get((candidate, count), "") for candidate, _, count in columns)])
    return grid(header, rows)


def kernels() -> str:
    """All candidates on the kernels' shapes."""
    report = Report.load(RESULTS / "kernels.json")
    names = ["analogsim (numba)", "AnalogLinear, all off", "AnalogLinear", "naive torch loop", "analogsim (reference)"]
    titles = ["kernel", "layer, all off", "layer", "naive loop", "reference"]
    counts = sorted({case.threads for case in report.cases})
    parts = []
    for count in counts:
        own = report.model_copy(update={"cases": tuple(case for case in report.cases if case.threads == count)})
        parts.append(per_case(own, names, titles))
    goals = "Goals: kernel 1.35, 1.35, 1.25, 1.35; layer with everything off 1.05.\n"
    return "\n".join(parts) + source(report, "analogsim bench --out benchmarks/results/speed/kernels.json") + goals


def readme() -> str:
    """Tell of the kernel and the naive loop only."""
    report = Report.load(RESULTS / "kernels.json")
    first = [case for case in report.cases if case.threads == 1]
    table = per_case(report, ["analogsim (numba)"], ["analogsim"])
    naive = {case.name: r for case in first for r in case.results if r.name == "naive torch loop"}
    lines = table.splitlines()
    lines[0] += " naive torch loop, 1 thread |"
    lines[1] += " --- |"
    for number_, line in enumerate(lines[2:], 2):
        ratio = naive[line.split("|")[1].strip()].ratio
        lines[number_] = line + f" {number(ratio) if ratio else ''} |"
    head = (
        "Time of the tiled product with 8-bit DAC, noise and 8-bit ADC at every tile, as a ratio to one\n"
        "`torch.matmul` of the same shape (M × K → N, float32):\n\n"
    )
    more = "\n[More, and where the time goes](docs/performance.md).\n"
    return head + "\n".join(lines) + "\n" + source(report, "make bench") + slower() + more


def slower() -> str:
    """Say how many times as long as ours other simulators' layers take, on one thread."""
    report = Report.load(RESULTS / "peers.json")
    factors: dict[str, list[float]] = {}
    for case in (case for case in report.cases if case.threads == 1):
        medians = {result.name: result.value.median for result in case.results}
        for name in medians.keys() - {"nn.Linear", "analogsim"}:
            factors.setdefault(name, []).append(medians[name] / medians["analogsim"])
    each = ", ".join(f"{name} {min(found):.1f} – {max(found):.1f}" for name, found in sorted(factors.items()))
    where = "[each shape, and what they leave out](docs/performance.md#other-simulators)"
    return f"\nTime of a whole layer on one thread, in units of analogsim's: {each} ({where}).\n"


def of_each(name: str) -> list[Report]:
    """Return what was measured on a processor with AVX2, and on those with AVX-512 that are kept beside it."""
    return [Report.load(path) for path in (RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}-*.json")))]


def layers() -> str:
    """Time by layer, then memory; then the times on a processor with AVX-512."""
    report, *wide = of_each("layers")
    text = per_case(report, ["AnalogConv2d"], ["ratio"])
    rows = [
        [c.name.removeprefix("memory of "), *(f"{r.value.median:.0f} MiB" for r in c.results), judged(c.results[-1])]
        for c in report.cases
        if c.unit == "MiB"
    ]
    memory = grid(["forward and backward", "nn.Conv2d", "AnalogConv2d", "ratio"], rows) if rows else ""
    first = f"{text}{source(report, 'python -m benchmarks.layers')}Goal: 1.5.\n\nPeak memory (goal: 2):\n\n{memory}"
    for other in wide:
        table = per_case(other, ["AnalogConv2d"], ["ratio"])
        first += f"\nThe same with AVX-512:\n\n{table}{source(other, 'python -m benchmarks.layers')}"
    return first


def shapes() -> str:
    """Layers of every kind, on processors with AVX2 and with AVX-512; recurrent ones also a step at a time."""
    parts = []
    for report in of_each("shapes"):
        goals = {case.name: f"{case.result('analog').goal:g}" for case in report.cases}
        columns = {"floor": "floor", "analog": "ratio", "analog, by steps": "step by step"}
        lines = per_case(report, list(columns), list(columns.values())).splitlines()
        lines[0] += " goal |"
        lines[1] += " --- |"
        lines[2:] = [f"{line} {goals[line.split('|')[1].strip()]} |" for line in lines[2:]]
        parts.append("\n".join(lines) + "\n" + source(report, "python -m benchmarks.shapes"))
    return "\n".join(parts)


def questions() -> str:
    """Tell how a network fares on chips and in a sweep, and CrossSim's time in units of ours."""
    report = Report.load(RESULTS / "questions.json")
    names, titles = ["programmed", "again", "sweep", "CrossSim"], ["programmed anew", "read again", "sweep", "CrossSim"]
    notes = "".join(f"* {note}\n" for note in report.notes)
    return per_case(report, names, titles) + source(report, "python -m benchmarks.questions") + "\n" + notes


def training() -> str:
    """Tell the ratios of each network."""
    report = Report.load(RESULTS / "training.json")
    names = ["converted", "inject_noise", "noise by torch.randn_like"]
    text = per_case(report, names, ["converted", "`inject_noise`", "`randn_like`"])
    goals = "Goals: converted 1.6; `inject_noise` 1.4 for LeNet-5, 1.2 for the others.\n"
    return text + source(report, "python -m benchmarks.training") + goals


def peers() -> str:
    """Tell the ratios of every library that was there."""
    report = Report.load(RESULTS / "peers.json")
    names = [result.name for result in report.cases[0].results if result.name != "nn.Linear"]
    notes = "".join(f"* {note}\n" for note in report.notes)
    return per_case(report, names, names) + source(report, "make bench-peers") + "\n" + notes


def startup() -> str:
    """Seconds, bold where they are above the goal."""
    parts = []
    for report in of_each("startup"):
        rows = []
        for case in report.cases:
            result = case.results[0]
            text = f"{number(result.value)} s"
            rows.append([case.name, f"**{text}**" if result.met is False else text, f"{result.goal:g} s"])
        parts.append(grid(["", "measured", "goal"], rows) + source(report, "python -m benchmarks.startup"))
    return "\n".join(parts)


def scaling() -> str:
    """Show the exponents and the picture."""
    report = Report.load(RESULTS / "scaling.json")
    lines = "".join(f"* {note}\n" for note in report.notes)
    picture = "![time against size](images/scaling.png)\n\nFitted over the upper decade:\n\n"
    return picture + lines + source(report, "python -m benchmarks.scaling")


def gpu() -> str:
    """Every case of the GPU's benchmark with its candidates' ratios; or that nobody has run it."""
    if not (RESULTS / "gpu.json").exists():
        return "Not yet measured on a GPU: `make bench-gpu`, where there is one, writes this table.\n"
    report = Report.load(RESULTS / "gpu.json")
    rows = []
    for case in report.cases:
        ratios = "; ".join(f"{r.name} {judged(r)}" for r in case.results if r.name != case.baseline)
        rows.append([case.name, ratios, str(case.baseline)])
    notes = "".join(f"* {note}\n" for note in report.notes)
    where = f"\n{report.machine['gpu']}; host:{source(report, 'make bench-gpu').strip()}\n\n"
    return grid(["", "ratios", "to"], rows) + where + notes


def side_by_side(cases: list[Case], titles: list[str], names: list[str]) -> str:
    """Return a table with a row for each candidate, and a column for each case."""
    rows = [[name, *(judged(case.result(name)) for case in cases)] for name in names]
    return grid(["", *titles], rows)


def devices() -> str:
    """Ratios of each part, threads side by side."""
    parts = []
    for report in of_each("devices"):
        cases = list(report.cases)
        titles = [f"{case.threads} thread{'s' if case.threads > 1 else ''}" for case in cases]
        names = [result.name for result in cases[0].results if result.name != cases[0].baseline]
        parts.append(side_by_side(cases, titles, names) + source(report, "python -m benchmarks.devices", goals=False))
    return "\n".join(parts)


def chips() -> str:
    """Accuracy of the networks on every profile: by age, and by ADC bits."""
    report = json.loads((RESULTS.parent / "presets.json").read_text(encoding="utf-8"))
    parts = []
    for title, found in report["networks"].items():
        ages, bits = found["age"], found["adc.bits"]
        years = max(map(len, ages.values()))
        labels = [str(n) for n in next(iter(bits.values()))]
        old = list(next(points for points in ages.values() if len(points) == years))[-1]
        rows = []
        for name in sorted(ages):
            means = [sum(v) / len(v) for v in ages[name].values()]
            by_bits = [f"{sum(v) / len(v):.3f}" for v in bits.get(name, {}).values()] or [""] * len(labels)
            rows.append([f"`{name}`", f"{means[0]:.3f}", f"{means[-1]:.3f}" if len(means) > 1 else "", *by_bits])
        header = [f"{title}, digital {found['digital']:.3f}", "1 s", old, *(f"{n} bits" for n in labels)]
        parts.append(grid(header, rows))
    facts, where = report["machine"], f"{report['images']} test images, mean of {report['chips']} chips"
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "numba"))
    note = f"\n{where}; {versions}; commit {report['commit'][:10]}; `python -m benchmarks.presets`.\n"
    return "\n".join(parts) + note


def group() -> str:
    """Time of a network's epoch, groups against one process a network."""
    report = Report.load(RESULTS / "group.json")
    cases = [case for case in report.cases if case.baseline]
    titles, names = [case.name.rpartition(": ")[0] for case in cases], [result.name for result in cases[0].results]
    return side_by_side(cases, titles, names) + source(report, "make bench-group", goals=False)


def optimiser() -> str:
    """Time of the optimiser's step of trainings, to that of torch's Adam in several passes over the weights."""
    report = Report.load(RESULTS / "adam.json")
    cases = [(case.name.removeprefix("Adam, "), case.results) for case in report.cases]
    rows = [[name, *(f"{1e3 * r.value.median:.3g} ms" for r in found), judged(found[-1])] for name, found in cases]
    header = ["a step of Adam, one thread", "in several passes", "as trained", "ratio"]
    return grid(header, rows) + source(report, "python -m benchmarks.epoch Adam", False)


def epoch() -> str:
    """Time of training on the same images, as ratios to float32 in batches of 128; threads and groups in words."""
    report = Report.load(RESULTS / "epoch.json")
    known = {(case.name, case.threads): case for case in report.cases}
    cases = [case for (name, threads), case in known.items() if threads == 1 and "groups" not in name]
    rows = []
    for way in dict.fromkeys(result.name for case in cases for result in case.results):
        found = [{result.name: result for result in case.results}.get(way) for case in cases]
        rows.append([way, *("" if result is None else judged(result) for result in found)])
    both, one = (known["VGG-11", threads].results[0].value.median for threads in (2, 1))
    shares = ", ".join(f"{r.name} {number(r.ratio)}" for r in known["LeNet-5, groups", 1].results[1:] if r.ratio)
    words = f"\nVGG-11 on two threads takes {both / one:.2f} of the time that it takes on one. A network's share of a "
    words += f"group of LeNet-5, to training it by itself: {shares}. {' '.join(report.notes)}\n"
    return (
        grid(["", *(case.name for case in cases)], rows) + words + source(report, "python -m benchmarks.epoch", False)
    )


TABLES: dict[str, Callable[[], str]] = {
    "epoch": epoch,
    "optimiser": optimiser,
    "readme": readme,
    "kernels": kernels,
    "layers": layers,
    "shapes": shapes,
    "questions": questions,
    "training": training,
    "peers": peers,
    "startup": startup,
    "scaling": scaling,
    "gpu": gpu,
    "devices": devices,
    "group": group,
    "chips": chips,
    **findings.TABLES,
    **budget.TABLES,
    **char_gpt.TABLES,
    **compensation.TABLES,
    **encoder.TABLES,
    **published.TABLES,
    **recovery_tables.TABLES,
}


def fill(page: Path) -> None:
    """Write a page's tables and values anew."""

    def table(match: re.Match[str]) -> str:
        return match[1] + "\n" + TABLES[match[2]]() + "\n" + match[3]

    text = MARKER.sub(table, page.read_text(encoding="utf-8"))
    page.write_text(values.fill(text), encoding="utf-8")


def main() -> None:
    """Write every page's tables and values anew from benchmarks/results/."""
    for page in PAGES:
        fill(page)
        print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
