"""Numbers in prose, by name: `<!-- value: NAME -->0.26<!-- end -->` in a page says what a result file says.

`python -m benchmarks.tables` writes them, as it writes tables. A number of a study of the paper is named by what it is,
the network and the method: `mu.lenet5.float`, `peak.vgg11.s3`; `times.lenet5.sigma2.float` is how many times the one's
µ is the other's, `lost.lenet5.sigma1` how many points of the baseline's noise-free accuracy it has less. Of the long
study of LeNet-5 `map.0.1_1` is the accuracy at σ = 1 of the network that was trained at 0.1 (0: without noise), and
`wrong.0.1_1` how many points that is less than the accuracy of the one that was trained at 1; `quantized.1` is the
accuracy at σ = 1 of the network that was trained at it with quantizers.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from statistics import mean
from typing import Any

from analogsim.bench import Case, Report

from . import budget, char_gpt, findings
from .common import RESULTS
from .published import values as published

KEPT = RESULTS.parent
MARKER = re.compile(r"(<!-- value: ([\w.-]+) -->)[^<]*(<!-- end -->)")
STUDIES = {
    "lenet5": "LeNet-5",
    "lenet5-60": "LeNet-5",
    "lenet5-kinds": "LeNet-5",
    "lenet5-kinds-weights": "LeNet-5",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "resnet18-bn": "ResNet-18, batch normalisation",
}
FOLDERS = {
    "lenet5-60": findings.LONG,
    "lenet5-kinds": findings.KINDS_LONG,
    "lenet5-kinds-weights": f"{findings.KINDS_LONG}-weights",
    "resnet18-bn": "resnet18",
}
METHODS = {
    "dynamic": "dynamic scaling",
    "quantized": "noisy training, quantized",
    "matched": findings.MATCHED_NOISE,
    "pooled": findings.MAX_POOLED,
}
DEAREST = "batch 1", "Transpose", "depthwise"
FIXED = "isaac", "brainscales2"  # presets whose ADCs have a full scale or a gain that is not calibrated
MORE_PRODUCTS = "1/f noise of cells", "weights in two slices", "inputs in two steps"


def fill(text: str) -> str:
    """Return a page with its values written anew."""
    return MARKER.sub(lambda match: match[1] + value(match[2]) + match[3], text)


def value(name: str) -> str:
    """Return a value as it is written.

    Raises
    ------
    KeyError
        Nothing has this name.
    """
    if name in VALUES:
        return VALUES[name]()
    if name.startswith("gpt."):
        return char_gpt.told(name)
    if name.startswith("quantized."):
        return f"{findings.matched_at(findings.QUANTIZED_MATCHED, float(name.removeprefix('quantized.'))):.3f}"
    what, study, *methods = name.split(".", 2)
    if what in ("map", "wrong"):
        trained, sigma = map(float, name.removeprefix(f"{what}.").split("_"))
        return f"{findings.reached(trained, sigma):.3f}" if what == "map" else f"{findings.lost(trained, sigma):.1f}"
    if what == "times":
        first, second = (method(study, title)["midpoint"] for title in re.split(r"\.(?=[a-z])", methods[0]))
        return f"{first / second:.{0 if first > 9.5 * second else 1}f}"
    row = method(study, methods[0])
    if what == "lost":
        return f"{100 * (method(study, 'float')['noise_free'] - row['noise_free']):.0f}"
    return {"mu": f"{row['midpoint']:#.3g}", "peak": f"{row['peak']:.3f}", "free": f"{row['noise_free']:.3f}"}[what]


def method(study: str, name: str) -> dict[str, Any]:
    """Return a method's row in a study's summary: `float`, `dynamic`, `quantized`, `s8`, `sigma1`, `weights0.1`."""
    title = METHODS.get(name, name)
    title = re.sub(r"^s(?=\d)", "constant scaling, s=", re.sub(r"^sigma(?=\d)", "noisy training, σ=", title))
    title = re.sub(r"^(weights|activations)(?=\d)", r"noise on \1, σ=", title)
    if study == "lenet5-60":  # which has several widths of quantizers, and matched curves beside those of one σ
        title = title.replace("training, σ=", "training, fixed σ, σ=").replace("scaling", "scaling, 8 bits")
    rows = {findings.title(row): row for row in summary(FOLDERS.get(study, study)) if row["model"] == STUDIES[study]}
    return rows[title]


@cache
def summary(study: str) -> tuple[dict[str, Any], ...]:
    """Return a study's table."""
    loaded = findings.load(findings.PAPER / study)
    return () if loaded is None else tuple(loaded[0])


@cache
def cases(name: str) -> tuple[Case, ...]:
    """Return what was measured of speed on one thread."""
    return tuple(case for case in Report.load(RESULTS / f"{name}.json").cases if case.threads == 1)


def ratios(name: str, candidate: str, *parts: str) -> list[float]:
    """Return a candidate's ratios of time in all cases whose name holds one of these parts."""
    return [
        result.ratio.median
        for case in cases(name)
        if case.unit == "s" and any(part in case.name for part in parts or ("",))
        for result in case.results
        if result.name == candidate and result.ratio
    ]


def span(values: Iterable[float]) -> str:
    """Return "least to greatest", or one number where both are written alike."""
    found = sorted(values)
    ends = [f"{end:.1f}" for end in (found[0], found[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def dearest() -> str:
    """Return the largest ratio of the layers that cost most, on all processors."""
    files = [path.stem for path in (RESULTS / "shapes.json", *sorted(RESULTS.glob("shapes-*.json")))]
    return f"{max(ratio for name in files for ratio in ratios(name, 'analog', *DEAREST)):.1f}"


def agreement(preset: str, age: int) -> Callable[[], str]:
    """Return what tells the encoder's mean agreement on a preset at the first or last age."""

    def told() -> str:
        parts = json.loads((KEPT / "encoder.json").read_text(encoding="utf-8"))["parts"]
        return f"{mean(parts[f'preset {preset}']['found'][age][1]):.2f}"

    return told


def on_presets(network: str = "LeNet-5") -> dict[str, Any]:
    """Return what was measured of a network on presets."""
    return json.loads((KEPT / "presets.json").read_text(encoding="utf-8"))["networks"][network]


def aging(preset: str) -> Callable[[], str]:
    """Return what tells how much of its accuracy LeNet-5 loses on a preset in a year, in percent."""

    def told() -> str:
        ages = on_presets()["age"][preset]
        return f"{100 * (1 - mean(ages['1 year']) / mean(ages['1 s'])):.0f}"

    return told


def five_bits() -> str:
    """Return how many points ADCs of five bits cost at most where ranges are calibrated."""
    networks = [on_presets(name) for name in ("LeNet-5", "ResNet-18")]
    costs = [
        network["digital"] - mean(bits["5"])
        for network in networks
        for name, bits in network["adc.bits"].items()
        if name not in FIXED
    ]
    return f"{100 * max(costs):.0f}"


VALUES: dict[str, Callable[[], str]] = {
    "long.quantized_free": lambda: f"{findings.reached_matched(findings.QUANTIZED_MATCHED, noise=False)[1.0]:.3f}",
    **{
        f"layers.{way}.{sigma}": lambda way=way, sigma=sigma: f"{findings.by_error(way, sigma):.2f}"
        for way in ("equal", "proportional")
        for sigma in ("0.316", "1")
    },
    "long.sigmas": lambda: str(sum(sigma > 0 for sigma in findings.everywhere().index)),
    "speed.whole": lambda: span(r for way in ("programmed", "again") for r in ratios("questions", way)),
    "speed.crosssim": lambda: f"{ratios('questions', 'CrossSim')[0]:.0f}",
    "speed.training": lambda: span(ratios("training", "converted", "VGG-11", "ResNet-18")),
    "speed.training_lenet5": lambda: span(ratios("training", "converted", "LeNet-5")),
    "speed.convolutions": lambda: span(ratios("layers", "AnalogConv2d")),
    "speed.convolutions_avx512": lambda: span(ratios("layers-avx512", "AnalogConv2d")),
    "speed.kernels": lambda: span(ratios("kernels", "analogsim (numba)")),
    "speed.naive": lambda: span(ratios("kernels", "naive torch loop")),
    "speed.linear": lambda: span(ratios("kernels", "AnalogLinear")),
    "speed.dearest": dearest,
    "speed.parts": lambda: span(r for name in MORE_PRODUCTS for r in ratios("devices", name)),
    **{f"encoder.{name}": agreement(name, 0) for name in ("8bit", "pcm", "hermes", "reram")},
    **{f"encoder.{name}_old": agreement(name, -1) for name in ("pcm", "hermes")},
    "presets.lenet5": lambda: f"{on_presets()['digital']:.3f}",
    "presets.five_bits": five_bits,
    **{f"presets.{name}_year": aging(name) for name in ("pcm", "hermes")},
    **budget.VALUES,
    **char_gpt.VALUES,
    **published.VALUES,
}
