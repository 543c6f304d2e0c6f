"""One table of a network: which layer is on which hardware, and what stays digital and why."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import style
from .ages import text
from .batches import Batches, Step, run
from .errors import ConversionError
from .nn import AnalogComposite, AnalogLayer, Crossbar, called_layers, plain_class
from .nn.copies import copied
from .nn.known import exactly, like
from .nn.matrix import layout
from .nn.reach import matrices
from .result import Result
from .tables import Column, Table
from .terminal.text import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LayerSummary:
    """One matrix of a network, or one layer that looks up.

    Attributes
    ----------
    name, kind : str
        The layer's name and class; of a layer of several matrices each has a line.
    shape : tuple of int
        Of its weight, as it is programmed: (N, K, …).
    tiles : int
        Arrays that it takes; 0 where it is digital.
    profile : str or None
        The hardware's name; None where it is digital.
    input_range : float or str or None
        The DAC's α, activation units; "dynamic", "not calibrated", or None where the DAC has no range.
    full_scale : float, tuple of float, str or None
        The ADC's, normalised units, one, or one a tile or a slice and step; "not calibrated", or None where the ADC is
        ideal.
    chip : int or None
        The seed of the chip that it was programmed on.
    age : float or None
        The chip's, seconds.
    backend : str or None
        Who computes it; None where it is digital.
    why : str
        Why it is digital; empty where it is not.
    calls : int or None
        How often the layer was called on the data; None where there were none.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.summary(an.convert(torch.nn.Linear(600, 3), an.HardwareProfile.load("8bit"))).layers[0]
    >>> layer.shape, layer.tiles, layer.input_range
    ((3, 600), 3, 'not calibrated')
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    tiles: int = 0
    profile: str | None = None
    input_range: float | tuple[float, ...] | str | None = None
    full_scale: float | tuple[float, ...] | str | None = None
    chip: int | None = None
    age: float | None = None
    backend: str | None = None
    why: str = ""
    calls: int | None = None


@dataclass(frozen=True)
class Summary(Result):
    """What `summary` found; a table where it is printed.

    Attributes
    ----------
    network : str
        Its class.
    layers : tuple of LayerSummary
        In the network's order.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> print(an.summary(torch.nn.Sequential(torch.nn.Linear(4, 3))))
    layer  class   shape  tiles  computed
    ──────────────────────────────────────────
    0      Linear  3×4           not converted
    Sequential: 0.0% of 12 weights on 0 tiles
    """

    kind: ClassVar[str] = "summary"

    network: str
    layers: tuple[LayerSummary, ...]

    def table(self) -> Table:
        """Return a row a matrix."""
        analog = [layer for layer in self.layers if layer.profile is not None]
        weights, held = (sum(math.prod(one.shape) for one in some) for some in (self.layers, analog))
        arrays = sum(layer.tiles for layer in analog)
        caption = f"{self.network}: {held / max(weights, 1):.1%} of {weights:,} weights on {arrays} tiles"
        columns = (
            Column("name", number=False, title="layer"),
            Column("kind", number=False, title="class"),
            Column("shape", show=lambda shape: "×".join(map(str, shape)), number=False),
            Column("tiles", show=lambda tiles: str(tiles or "")),
            Column("profile", number=False),
            Column("input_range", show=_range, title="DAC α"),
            Column("full_scale", show=_range, title="ADC"),
            Column("chip", show=_short, screen=False),
            Column("age", "s", text, "age"),
            Column("calls"),
            Column("computed", number=False),
        )
        rows = tuple(
            (
                *(one.name, one.kind, one.shape, one.tiles, one.profile),
                *(
                    ("ideal" if held is None else held) if one.profile else None
                    for held in (one.input_range, one.full_scale)
                ),
                *(one.chip, one.age, one.calls, one.backend or one.why),
            )
            for one in self.layers
        )
        return Table(columns, rows, caption)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw a bar a matrix: its weights, on hardware or digital.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (7, 1.2 + 0.26 * len(self.layers)))
        ax.grid(False, axis="y")
        for color, hatch, what, own in ((style.COLORS[0], "", "on hardware", True), ("0.8", "///", "digital", False)):
            places = [place for place, one in enumerate(self.layers) if (one.profile is not None) is own]
            sizes = [math.prod(self.layers[place].shape) for place in places]
            if places:
                ax.barh(places, sizes, color=color, hatch=hatch, edgecolor="white", label=what, height=0.7)
        ax.set_yticks(range(len(self.layers)), [label(one.name) for one in self.layers])
        ax.invert_yaxis()
        ax.set_xlabel("weights (count)")
        ax.legend(fontsize="small", frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return ax


def summary(model: nn.Module, data: Batches | None = None, *, step: Step | None = None) -> Summary:
    """Say of every layer of a network which hardware it is on, and of what is digital why.

    Parameters
    ----------
    model : nn.Module
        Digital, converted, or in part; it stays as it is.
    data : batches, optional
        What `calibrate` takes: a copy of the network runs on it once, and `calls` says how often each layer was called.
    step : callable, optional
        How the network is called on batches of any other kind; as for `calibrate`.

    Returns
    -------
    Summary
        Printed, one table with units: α in activation units, the ADC's full scale in normalised units.

    Raises
    ------
    ConversionError
        The network has no matrix.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> found = an.summary(an.convert(net, an.HardwareProfile.load("8bit"), keep_digital="2"))
    >>> [(layer.name, layer.shape, layer.profile) for layer in found.layers]
    [('0', (3, 4), '8bit'), ('2', (2, 3), None)]
    """
    calls = None if data is None else _calls(model, data, step)
    converted = bool(called_layers(model))
    rows = list(_rows(model, converted))
    if not rows:
        raise ConversionError(f"{type(model).__name__}: no layer of it has a matrix")
    layers = (LayerSummary(**values, calls=None if calls is None else calls[id(owner)]) for owner, values in rows)
    return Summary(type(model).__name__, tuple(layers))


def _calls(model: nn.Module, data: Batches, step: Step | None) -> Counter[int]:
    net, found = copied(model).eval(), Counter[int]()
    originals = {id(new): id(old) for old, new in zip(model.modules(), net.modules(), strict=True)}

    def count(module: nn.Module, args: Any) -> None:
        found[originals[id(module)]] += 1

    for module in net.modules():
        module.register_forward_pre_hook(count)
    run(net, data, False, "summary", step)
    return found


def _rows(model: nn.Module, converted: bool) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    every: dict[int, list[tuple[str, Tensor]]] = {}
    for one in matrices(model):
        every.setdefault(id(one.owner), []).append((one.name, one.tensor))
    done: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, AnalogComposite):
            for part in module.matrices():
                crossbar = module.get_submodule(f"crossbar_{part}")
                yield module, _analog(f"{name}.{part}".lstrip("."), crossbar, module, module.weight_of(part))
        elif isinstance(module, AnalogLayer) and not isinstance(module, Crossbar):
            yield module, _analog(name, module, module, module.crossbar_weight())
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield module, _digital(name, module, module.weight, "looked up, not multiplied")
        elif not isinstance(module, Crossbar):
            for place, tensor in every.get(id(module), []):
                if id(tensor) not in done:
                    done.add(id(tensor))
                    own = place if len(every[id(module)]) > 1 else name
                    yield module, _digital(own, module, tensor, _why(module, converted))


def _analog(name: str, layer: Any, owner: nn.Module, weight: Tensor) -> dict[str, Any]:
    profile, spread = layer.profile, weight.detach().to("meta")
    cancels = profile.dac.bits is None and profile.adc.full_scale is None
    place = layout(spread, profile, getattr(owner, "groups", 1))
    backend = layer.backend if isinstance(layer.backend, str) else type(layer.backend).__name__
    return {
        "name": name,
        "kind": plain_class(owner).__name__,
        "shape": tuple(weight.shape),
        "tiles": len(place.tiles) * len(place.widths),
        "profile": profile.name,
        "input_range": None if cancels else _set(profile.dac.input_range, layer.input_range),
        "full_scale": _set(profile.adc.full_scale, layer.adc_full_scale),
        "chip": layer.chip_seed,
        "age": layer.chip_seconds,
        "backend": backend,
    }


def _set(rule: Any, held: Tensor) -> Any:
    """Return a range as it is: a number of the profile or of calibration, or a word."""
    if isinstance(rule, tuple):  # low and high, or slices' full scales, each of which may have both
        return tuple(end for one in rule for end in (one if isinstance(one, tuple) else [one]))
    if rule != "calibrated":
        return rule
    if held.is_meta or bool(held.isnan().any()):
        return "not calibrated"
    return float(held) if not held.ndim else tuple(held.flatten().tolist())


def _digital(name: str, module: nn.Module, tensor: Tensor, why: str) -> dict[str, Any]:
    shape = () if is_lazy(tensor) else tuple(tensor.shape)
    return {"name": name, "kind": plain_class(module).__name__, "shape": shape, "why": why}


def _why(module: nn.Module, converted: bool) -> str:
    if hasattr(module, "weight_quant"):
        return "quantized: freeze_quantization, then convert"
    if exactly(plain_class(module)) is not None:
        return "kept digital" if converted else "not converted"
    return "a subclass that computes otherwise" if like(module) is not None else "no layer stands for it"


def _held(value: Any) -> Any:
    return "ideal" if value is None else value


def _range(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{min(value):.3g}…{max(value):.3g}"
    return value if isinstance(value, str) else f"{value:.3g}"


def _short(seed: int) -> str:
    return str(seed) if seed < 10**6 else f"…{seed % 10**4:04d}"
