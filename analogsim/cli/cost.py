"""`analogsim cost`: tiles, conversions, energy and latency of a network on the hardware."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..profile import HardwareProfile
from ..tables import Table
from .base import EXIT_CODES, present
from .options import Arg, Data, Model, OutToo, RunPath, StepPath, WeightsFile, own_profile
from .output import Force, FormOption, asked, claimed, kept
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
    "analogsim cost runs/plain --profile isaac --profile hermes   (their totals side by side)\n\n"
    "analogsim cost runs/plain --profile mychip.yaml --out cost.json\n\n"
    f"{EXIT_CODES}"
)


def cost(
    context: typer.Context,
    run: RunPath = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="NAME|FILE",
            help="The hardware: a shipped profile, YAML or JSON. Several are compared. Default: what the run was "
            "trained on.",
        ),
    ] = None,
    data: Data = None,
    model: Model = None,
    arg: Arg = None,
    weights: WeightsFile = None,
    step: StepPath = None,
    target: OutToo = None,
    form: FormOption = "table",
    force: Force = False,
) -> None:
    """Count tiles, products and conversions of every layer on the hardware; energy and latency where it has them."""
    from ..analysis.cost import cost as count

    if target is not None and profile and len(profile) > 1:
        raise typer.BadParameter("of several profiles nothing is written; --format csv prints them", param_hint="--out")
    wanted = asked(context)
    path = None if target is None else claimed(target, wanted, force)
    on = subject(run, model, arg, weights, data, step, None)
    hardware = [HardwareProfile.load(name) for name in profile] if profile else [own_profile(on.network)]
    sample = on.test_sample(1)
    results = [count(on.network, one, sample, step=on.step) for one in hardware]
    if path is not None:
        kept(results[0], path, wanted, (7, 1.2 + 0.3 * len(results[0].layers)), form)
    else:
        present(results[0].table() if len(results) == 1 else side_by_side(results), form)


def side_by_side(results: "list[NetworkCost]") -> Table:
    """Return the totals of a network on several kinds of hardware, a row each."""
    from ..analysis.cost import unknown_on

    tables = [result.table() for result in results]
    first = replace(tables[0].columns[0], name="profile")
    rows = tuple((result.profile, *table.rows[-1][1:]) for result, table in zip(results, tables))
    return Table((first, *tables[0].columns[1:]), rows, unknown_on(results))
