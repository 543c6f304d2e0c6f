"""`analogsim cost`: tiles, conversions, energy and latency of a network on the hardware."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ..profile import HardwareProfile
from .base import EXIT_CODES, note, numbers, out, plain
from .options import Arg, Data, Model, Profile, RunPath, StepPath, WeightsFile, check_suffix, own_profile
from .output import write_table
from .subject import subject

if TYPE_CHECKING:
    from ..analysis.cost import NetworkCost

EPILOG = (
    "[bold]How to read it:[/] all counts are for one input (of your own data the mean of the first batch). ADC "
    "conversions are usually what costs most: larger tiles "
    "need fewer of them, but convert larger sums. Energy and latency appear where the profile's part `cost` gives "
    "energies and latencies of conversions and MACs (`analogsim profile schema` lists its fields and units).\n\n"
    "[bold]Examples:[/]\n\n"
    "analogsim cost runs/plain --profile 8bit\n\n"
    "analogsim cost runs/plain --profile mychip.yaml --out cost.csv\n\n"
    f"{EXIT_CODES}"
)


def cost(
    run: RunPath = None,
    profile: Profile = None,
    data: Data = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    target: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="CSV to write too.")] = None,
) -> None:
    """Count tiles, products and conversions of every layer on the hardware; energy and latency where it has them."""
    check_suffix(target, ".csv")

    from ..analysis.cost import cost as count

    on = subject(run, model, arg, weights, data, step, None)
    hardware = own_profile(on.network) if profile is None else HardwareProfile.load(profile)
    result = count(on.network, hardware, on.test_sample(1), step=on.step)
    if target is not None:
        write_table(result.to_frame(), target)
    out().print(table(result))
    if target is not None:
        note(f"written: {plain(target)}")


def table(cost: "NetworkCost") -> Table:
    """Return a row a layer, and the total."""
    total = cost.total
    energy, latency = not math.isnan(total.energy), not math.isnan(total.latency)
    titles = ["rows × columns", "tiles", "used", "products", "DAC conv.", "ADC conv.", "MACs"]
    titles += ["energy (nJ)"] * energy + ["latency (µs)"] * latency
    written = not math.isnan(total.write_energy)
    titles += ["pulses", "writing (nJ)"] * written
    result = Table(Column("layer", no_wrap=True), *numbers(*titles))
    for layer in (*cost.layers, total):
        size = "" if layer is total else f"{layer.rows} × {layer.columns}"
        counts = layer.products, layer.dac_conversions, layer.adc_conversions, layer.macs
        figures = [f"{layer.energy / 1000:.4g}"] * energy + [f"{layer.latency / 1000:.4g}"] * latency
        figures += [f"{layer.pulses:,}", f"{layer.write_energy / 1000:.4g}"] * written
        row = size, str(layer.tiles), f"{layer.utilisation:.1%}", *(f"{count:,}" for count in counts), *figures
        result.add_row(plain(layer.name), *row, end_section=layer is cost.layers[-1])
    return result
