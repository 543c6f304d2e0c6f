"""Numbers in the prose of docs/published.md, and what docs/devices.md quotes of them, by name."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from . import tables
from .over_time import AGES


def parts(name: str) -> dict[str, Any]:
    """Return what was measured, by its own names."""
    return tables.load(name)["parts"]


def mean(name: str, part: str, digits: int = 1) -> str:
    """Return the mean over chips of a part that is a list, in percent."""
    return f"{100 * np.mean(parts(name)[part]):.{digits}f}"


def accuracy(part: str, digits: int = 1, spread: bool = True) -> str:
    """Return mean and standard deviation of a trained network's accuracy, in percent."""
    values = 100 * np.array(parts("recovery")[part]["accuracy"])
    return f"{values.mean():.{digits}f}" + spread * f" ± {values.std(ddof=1):.{digits}f}"


def deviation(name: str, part: str) -> str:
    """Return the standard deviation of chips' accuracies, in points."""
    return f"{100 * np.std(parts(name)[part]['accuracy'], ddof=1):.0f}"


def lost(part: str) -> float:
    """Return the points below what the same network has digitally."""
    found = parts("recovery")[part]
    return 100 * (found["digital"] - np.mean(found["accuracy"]))


def gained(part: str, over: str) -> str:
    """Return how many points a network's chips are above another's."""
    found = parts("recovery")
    return f"{100 * (np.mean(found[part]['accuracy']) - np.mean(found[over]['accuracy'])):.1f}"


def digitally(part: str, below: str) -> str:
    """Return how many points of digital accuracy a training costs."""
    found = parts("recovery")
    return f"{100 * (found[below]['digital'] - found[part]['digital']):.1f}"


def aged(part: str, age: str) -> float:
    """Return the points lost at an age."""
    found = parts("over-time")[part]
    return 100 * (found["digital"] - np.mean(found["accuracy"][AGES.index(age)]))


def held(age: str) -> str:
    """Return the least and the greatest accuracy on `pcm` that nothing compensates, in percent."""
    found = parts("over-time")
    ends = sorted(
        100 * np.mean(found[f"pcm, {net}, none"]["accuracy"][AGES.index(age)]) for net in ("published", "noise")
    )
    return f"{ends[0]:.0f} to {ends[1]:.0f}"


def by_output() -> list[float]:
    """Return how many points more are lost by one factor an output than by one a layer, of all networks and ages."""
    nets = [f"{preset}, {net}" for preset in ("pcm", "hermes") for net in ("published", "noise")]
    return [aged(f"{net}, output", age) - aged(f"{net}, global", age) for net in nets for age in AGES]


def worth(part: str, over: str, digits: int = 0, spread: bool = False) -> str:
    """Return by how many points chips of one hardware are above the same chips of another: the mean, and its spread."""
    found = parts("resnet14-varied")
    points = 100 * (np.array(found[part]) - np.array(found[over]))
    return f"{points.mean():.{digits}f}" + spread * f" ± {points.std(ddof=1):.{digits}f}"


def seconds(who: str) -> str:
    """Return the median time of a chip of SONOS on one thread."""
    return f"{np.median([chip[who]['seconds'] for chip in sonos(1)]):.1f}"


def sonos(threads: int) -> list[dict[str, Any]]:
    """Return the chips of SONOS that read 64 images at a time."""
    start = f"sonos, batches of 64, {threads} thread"
    return [chip for name, chip in parts("crosssim").items() if name.startswith(start)]


def ratio(threads: int, digits: int) -> str:
    """Return how many times as long as ours CrossSim takes for a chip of SONOS."""
    ratios = [chip["CrossSim"]["seconds"] / chip["analogsim"]["seconds"] for chip in sonos(threads)]
    return f"{np.median(ratios):.{digits}f}"


def fresh(preset: str, digits: int) -> str:
    """Return the error of products on a fresh chip, in percent."""
    return f"{100 * np.mean(parts('products-over-time')[preset]['0']):.{digits}f}"


def single_device() -> str:
    """Return how many times as wrong one device a sign is as two, least and greatest of all ages."""
    found = parts("products-over-time")
    ratios = [np.mean(found["hermes-1"][age]) / np.mean(of) for age, of in found["hermes"].items()]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def law(name: str, key: str) -> float:
    """Return a mean accuracy of the small network under a law of error, in percent."""
    found = [np.atleast_1d(part[key]) for part in (parts("device-aware")[k] for k in names(name))]
    return 100 * float(np.mean(np.concatenate(found)))


def names(start: str) -> Iterable[str]:
    """Return the networks of a law of error."""
    return [name for name in parts("device-aware") if name.startswith(start)]


def gaps(start: str) -> dict[str, float]:
    """Return how far energies and areas of an accelerator are from the published ones, in percent."""
    rows = tables.accelerators()
    return {f"{name}, {unit}": 100 * (ours / told - 1) for name, unit, told, ours in rows if name.startswith(start)}


RRAM, SONOS = "rram-milo, lossless", "sonos, lossless"
MISSED = "6 bits in, 8 bits out, two phases"  # the setting of NeuRRAM whose efficiency is not met
VALUES: dict[str, Callable[[], str]] = {
    "published.layers": lambda: f"{max(parts('crosssim')['agreement']['layers'].values()):.1e}".replace("e-0", "e-"),
    "published.equal": lambda: f"{parts('crosssim')['agreement']['equal']:,}",
    "published.images": lambda: f"{parts('crosssim')['agreement']['images']:,}",
    "published.rram_spread": partial(deviation, "resnet14", "lossless, rram-milo"),
    "published.seconds": partial(seconds, "CrossSim"),
    "speed.crosssim_zen4": partial(ratio, 1, 1),
    "published.ratio_2": partial(ratio, 2, 0),
    "published.products": partial(mean, "products", "Le Gallo et al. 2023, InferenceRPUConfig"),
    "published.products_hour": partial(mean, "products", "Rasch et al. 2023, InferenceRPUConfig"),
    "published.products_standard": partial(mean, "products", "Rasch et al. 2023, StandardHWATrainingPreset"),
    "published.products_pcm": partial(mean, "products", "Le Gallo et al. 2023, pcm"),
    "published.single": single_device,
    "published.isaac": lambda: f"{np.mean(parts('products-over-time')['isaac']['0']):.0e}".replace("e-0", "e-"),
    "published.cmo": partial(fresh, "cmo-reram", 1),
    "published.milo": partial(fresh, "reram-milo", 0),
    "published.neurram_near": lambda: str(sum(abs(gap) <= tables.NEAR for gap in gaps("NeuRRAM").values())),
    "published.neurram": lambda: str(len(gaps("NeuRRAM"))),
    "published.neurram_energy": lambda: f"{abs(gaps('NeuRRAM')[f'NeuRRAM, {MISSED}, fJ an operation']):.1f}",
    "published.isaac_area": lambda: f"{-gaps('ISAAC')['ISAAC-CE, chip, mm²']:.0f}",
    "published.mse4_sonos": partial(worth, "4 bits, mse", "4 bits, published", 1),
    "published.mse4_rram": partial(worth, "rram-milo, 4 bits, mse", "rram-milo, 4 bits, published", 1, True),
    "published.mse5_sonos": partial(worth, "5 bits, mse", "5 bits, published", 1),
    "published.mse5_rram": partial(worth, "rram-milo, 5 bits, mse", "rram-milo, 5 bits, published", 1, True),
    "published.maximum_sonos": partial(worth, "4 bits, published", "4 bits, maximum"),
    "published.maximum_rram": partial(worth, "rram-milo, 4 bits, published", "rram-milo, 4 bits, maximum"),
    "published.chips_rram": lambda: f"{100 * np.std(parts('resnet14-varied')['rram-milo, 8 bits, mse'], ddof=1):.0f}",
    "published.slices2": partial(worth, "rram-milo, 8 bits, mse", "rram-milo, 2 slices", 0, True),
    "published.slices4": partial(worth, "rram-milo, 8 bits, mse", "rram-milo, 4 slices", 0, True),
    "published.on_chips": partial(accuracy, f"rram-milo, {RRAM}", 1, False),
    "published.as_published": partial(accuracy, f"published, {RRAM}", 1, False),
    "published.on_chips_spread": partial(deviation, "recovery", f"rram-milo, {RRAM}"),
    "published.as_published_spread": partial(deviation, "recovery", f"published, {RRAM}"),
    "published.digital_training": partial(accuracy, f"digital, {RRAM}", 1, False),
    "published.chips_doing": partial(gained, f"rram-milo, {RRAM}", f"digital, {RRAM}"),
    "published.training": partial(gained, f"rram-milo, {RRAM}", f"published, {RRAM}"),
    "published.noise": partial(accuracy, f"noise, {RRAM}"),
    "published.noise_lost": lambda: f"{lost(f'noise, {RRAM}'):.1f}",
    "published.clipped": partial(accuracy, f"rram-milo+clip, {RRAM}"),
    "published.sonos": lambda: f"{lost(f'published, {SONOS}'):.1f}",
    "published.sonos_jpeg": lambda: f"{lost('published, sonos, jpeg'):.1f}",
    "published.sonos_most": lambda: f"{max(lost(f'{net}, sonos, jpeg') for net in ('digital', 'noise', 'sonos')):.1f}",
    **{
        f"published.{preset}_{net}": lambda preset=preset, net=net: f"{lost(f'{net}, {preset}, lossless'):.1f}"
        for preset in ("pcm", "hermes")
        for net in ("published", "noise")
    },
    "published.pcm_own": lambda: f"{lost('pcm, pcm, lossless'):.1f}",
    "published.hermes_own": lambda: f"{lost('hermes, hermes, lossless'):.1f}",
    "published.pcm_digital": partial(digitally, "pcm, pcm, lossless", "published, pcm, lossless"),
    "published.hermes_digital": partial(digitally, "hermes, hermes, lossless", "published, hermes, lossless"),
    "published.statistics_day": lambda: f"{aged('pcm, noise, statistics', '1d'):.1f}",
    "published.statistics_year": lambda: f"{aged('pcm, noise, statistics', '1y'):.1f}",
    "published.statistics_hermes": lambda: (
        f"{aged('hermes, noise, global', '1y') - aged('hermes, noise, statistics', '1y'):.0f}"
    ),
    "published.layer_day": lambda: f"{aged('pcm, noise, global', '1d'):.1f}",
    "published.layer_first": lambda: f"{aged('pcm, noise, global', AGES[0]):.1f}",
    "published.output_less": lambda: f"{-min(by_output()):.1f}",
    "published.output_more": lambda: f"{max(by_output()):.1f}",
    "published.nothing_day": partial(held, "1d"),
    "published.nothing_1000s": partial(held, "1000s"),
    "published.noise_first": lambda: (
        f"{aged('pcm, published, global', AGES[0]) - aged('pcm, noise, global', AGES[0]):.1f}"
    ),
    "published.noise_year": lambda: f"{aged('pcm, published, global', '1y') - aged('pcm, noise, global', '1y'):.1f}",
    "published.noise_digital": partial(digitally, "noise, pcm, lossless", "published, pcm, lossless"),
    "devices.as_published": partial(accuracy, f"published, {RRAM}", 0),
    "devices.noise": partial(accuracy, f"noise, {RRAM}", 0),
    "devices.noise_mean": partial(accuracy, f"noise, {RRAM}", 0, False),
    "devices.noise_digital": lambda: f"{100 * parts('recovery')[f'noise, {RRAM}']['digital']:.0f}",
    "devices.on_chips": partial(accuracy, f"rram-milo, {RRAM}", 0),
    "devices.clipped": partial(accuracy, f"rram-milo+clip, {RRAM}", 0),
    "devices.digital_training": partial(accuracy, f"digital, {RRAM}", 0),
    "published.small_lost": lambda: f"{law('proportional', 'digital') - law('proportional', 'plain'):.1f}",
    "published.small_independent": lambda: f"{law('independent', 'plain'):.0f}",
    "published.small_trained": lambda: f"{law('independent', 'trained'):.0f}",
}
