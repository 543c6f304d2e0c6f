"""One network on several kinds of hardware, side by side: how good it is on each, as chips age, and what it costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from .. import style
from ..ages import text
from ..batches import Batches, Step
from ..errors import ProfileError
from ..profile import HardwareProfile
from ..ranges.calibrate import Method
from ..result import Result
from ..robustness.measure import Measure
from ..robustness.metric import Metric
from ..tables import Column, Table, amount
from ..terminal.progress import bar
from ..terminal.text import label
from .cost import NetworkCost, cost, unknown_on
from .evaluate import Evaluation, asked, on_hardware, over_chips
from .reference import reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Comparison(Result):
    """A network on several kinds of hardware; a table where it is printed.

    Attributes
    ----------
    evaluations : tuple of Evaluation
        How good it is on each.
    costs : tuple of NetworkCost
        What one input costs on each.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
    >>> data = x, net(x).argmax(1)
    >>> found = an.compare(net, data, ["8bit", "isaac"])
    >>> [cost.total.tiles for cost in found.costs]
    [1, 1]
    """

    kind: ClassVar[str] = "comparison"

    evaluations: tuple[Evaluation, ...]
    costs: tuple[NetworkCost, ...]

    def table(self) -> Table:
        """Return a row for each profile and age: the measure as `Evaluation` has it, and the cost of an input."""
        metric, first = self.evaluations[0].metric, self.evaluations[0].table().columns
        columns = (
            Column("profile", number=False),
            *first,
            Column("tiles", show=","),
            Column("adc_conversions", show=",", title="ADC conv."),
            Column("energy", "pJ", amount),
            Column("latency", "ns", amount),
        )
        rows = []
        for found, priced in zip(self.evaluations, self.costs):
            total = priced.total
            price = total.tiles, total.adc_conversions, total.energy, total.latency
            rows += [(found.profile, *row, *price) for row in found.table().rows]
        one = self.evaluations[0]
        caption = f"digital network: {metric.text(one.digital)}; {one.samples} samples"
        return Table(columns, tuple(rows), "; ".join(filter(None, (caption, unknown_on(self.costs)))))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the mean over chips, and its standard deviation, against age: a line for each profile.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (7, 4.2))
        first = self.evaluations[0]
        for number, found in enumerate(self.evaluations):
            places = range(len(found.ages))
            style.series(ax, style.look(number), places, found.mean, found.std, label=label(found.profile))
        ax.axhline(first.digital, color=style.GREY, linewidth=1, label="digital network")
        ax.set_xticks(range(len(first.ages)), [text(age) for age in first.ages])
        ax.set_xlabel("age of the chip t")
        ax.set_ylabel(first.metric.title)
        if first.metric.logarithmic:
            ax.set_yscale("log")
        style.above(ax, 3)
        return ax


@torch.no_grad()
def compare(
    model: nn.Module,
    data: Batches,
    profiles: Sequence[HardwareProfile | str],
    *,
    metric: str | Measure | Metric | Callable[[Any, Any], Any] = "accuracy",
    chips: int = 3,
    ages: float | str | Sequence[float | str] = 0,
    calibration: Batches | None = None,
    method: Method = "maximum",
    step: Step | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Measure one network on several kinds of hardware, and count what it costs on each.

    Parameters
    ----------
    model : nn.Module
        As for `evaluate`; it stays as it is.
    data : batches, or Dataset
        What the measure is taken on, as of `noise_sweep`.
    profiles : sequence of HardwareProfile or str
        Profiles, names of shipped ones, or files; at least one.
    metric, chips, ages, calibration, method, step, seed
        As for `evaluate`; chips of one seed are the same random numbers on every profile.
    progress : bool
        Show a progress bar where standard error is a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    ProfileError
        No profile is given, or one cannot be read.
    AnalogSimError
        As `evaluate` and `cost`.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> data = torch.randn(64, 8), torch.randint(4, (64,))
    >>> found = an.compare(net, data, ["8bit", "pcm"], chips=2)
    >>> [one.profile for one in found.evaluations]
    ['8bit', 'pcm']
    """
    loaded = [HardwareProfile.load(one) if isinstance(one, str) else one for one in profiles]
    if not loaded:
        raise ProfileError("profiles: at least one is needed")
    chips, times, seed = asked(chips, ages, seed)
    digital = reference(model, data, metric, step)
    sample = next(iter(digital.batches))
    evaluations, costs = [], []
    with bar(progress) as shown:
        for profile in loaded:
            network = on_hardware(digital, profile, calibration, method, "compare")
            evaluations.append(over_chips(digital, network, chips, times, seed, "compare", shown))
            costs.append(cost(digital.network, profile, sample, step=step))
    return Comparison(tuple(evaluations), tuple(costs))
