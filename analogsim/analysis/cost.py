"""What a network costs on the hardware: tiles, products, conversions, and energy and latency where the profile says."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import style
from ..batches import Batch, Step, called, device_of, moved, samples_in
from ..chip import Layout, write_pulses
from ..convert import converted
from ..errors import ConversionError, ShapeError
from ..kernels import Clips, ConvGeometry, MatmulSpec, Read
from ..kernels.conv_job import convolve_natively
from ..kernels.tiles import cut
from ..nn import Crossbar, called_layers
from ..nn.matrix import ProgrammedMatrix, layout
from ..nn.observing import RowsAsImages, observed
from ..nn.reach import warn_of_layers
from ..noise import without_noise
from ..profile import Cost, HardwareProfile
from ..result import Result
from ..tables import Column, Table, amount
from ..terminal.text import label
from ..value import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LayerCost:
    r"""Counts of one layer for one input of the network, and what they amount to.

    With K rows (of a group), N columns in G groups, M products and T row tiles t of k_t rows; S slices of a weight,
    each in P devices (`cells.devices`, twice as many of a differential pair) with D conversions (2 of a pair that is
    subtracted digitally); J steps of an input; and C = ⌈(N/G) / ⌊cols / (S·D)⌋⌉, as a weight's S·D bit lines lie side
    by side in one tile:

        tiles = G·T·C     utilisation = K·N·S·D / (tiles·rows·cols)     tile_reads = M·J·tiles
        dac_conversions = M·J·G·C·Σ_t k_t     adc_conversions = M·J·T·N·S·D     macs = M·J·K·N·S·P
        energy = dac_conversions·E_dac + adc_conversions·E_adc + macs·E_mac
        latency = M·J·(a + c),  or M·J·max(a, c) + min(a, c) with `overlap`,
                  a = t_dac + t_array,  c = t_adc·⌈conversions of a tile / adcs_per_tile⌉

    where a tile converts its own inputs, a converter of b bits costs E = FOM·2^b if only its figure of merit is
    given (Walden, with all bits effective), all tiles of a layer work at the same time, the columns of a tile take
    turns at its ADCs and, with `overlap`, while the array is read again (both as in ISAAC, sections IV to VI), and a
    layer's products are made one after the other. Where a read is only known as a whole,

        energy = tile_reads·E_read     latency = M·J·t_read

    Attributes
    ----------
    name : str
    rows, columns, groups : int
        K, N, G.
    tiles : int
    utilisation : float
        Share of the tiles' cells that hold a weight. Where the profile sets no limit, a tile is as large as need be.
    products : int
        M, matrix-vector products: output positions of a convolution, rows of a linear layer, steps of a recurrent one.
    tile_reads, dac_conversions, adc_conversions, macs : int
        `macs` are those of devices. Reference columns (of an offset mapping) are not counted.
    conversion_steps : float or None
        dac_conversions·2^b_dac + adc_conversions·2^b_adc: energy in units of one figure of merit. None of ideal
        converters.
    pulses : int
        That write all devices once, reference columns' too: one each, and more with `programming.verify`, as counted on
        one chip.
    write_energy : float or None
        pJ of these pulses; None where the profile's `cost` has no `pulse_energy`.
    energy : float or None
        pJ; None where the profile's `cost` lacks a part of it, which `NetworkCost.unknown` names.
    latency : float or None
        ns; None likewise.

    References
    ----------
    R. H. Walden, *Analog-to-digital converter survey and analysis*, IEEE Journal on Selected Areas in Communications
    17(4), 1999. A. Shafiee et al., *ISAAC: A Convolutional Neural Network Accelerator with In-Situ Analog Arithmetic in
    Crossbars*, ISCA 2016.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> layer = an.cost(torch.nn.Linear(300, 10), an.HardwareProfile.load("8bit"), (300,)).layers[0]
    >>> layer.rows, layer.columns, layer.tiles, layer.adc_conversions
    (300, 10, 2, 20)
    """

    name: str
    rows: int
    columns: int
    groups: int
    tiles: int
    utilisation: float
    products: int
    tile_reads: int
    dac_conversions: int
    adc_conversions: int
    macs: int
    pulses: int
    write_energy: float | None
    conversion_steps: float | None
    energy: float | None
    latency: float | None


@dataclass(frozen=True)
class NetworkCost(Result):
    """The cost of one input of a network; a table where it is printed.

    Attributes
    ----------
    layers : tuple of LayerCost
    profile : str
    unknown : dict
        Which figures the profile does not give, and what it lacks: {"energy": "cost.mac_energy"}.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> found = an.cost(torch.nn.Linear(300, 10), an.HardwareProfile.load("8bit"), (300,))
    >>> found.total.tiles, found.total.energy, found.unknown["latency"]
    (2, None, 'cost.dac_latency, cost.array_latency and cost.adc_latency')
    """

    kind: ClassVar[str] = "cost"

    layers: tuple[LayerCost, ...]
    profile: str
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> LayerCost:
        """Sums over layers, which work one after the other; utilisation is that of all tiles together."""
        summed = {
            one.name: _sum([getattr(layer, one.name) for layer in self.layers])
            for one in fields(LayerCost)
            if one.name not in ("name", "utilisation")
        }
        room = sum(layer.rows * layer.columns / layer.utilisation for layer in self.layers)
        weights = sum(layer.rows * layer.columns for layer in self.layers)
        return LayerCost(name="total", utilisation=weights / room, **summed)

    def table(self) -> Table:
        """Return a row a layer, and the total."""
        rows = [tuple(getattr(layer, name) for name in _FIELDS) for layer in (*self.layers, self.total)]
        rows[-1] = (rows[-1][0], *[None] * len(_SHAPE), *rows[-1][1 + len(_SHAPE) :])  # a sum of shapes is none
        caption = f"one input on {self.profile}"
        for what, missing in self.unknown.items():
            caption += f"; {what} unknown: the profile has no {missing}"
        return Table(_TITLED, tuple(rows), caption, total=True)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw a bar a layer: its energy, or where that is unknown its ADC conversions, with its share of the whole.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        """
        ax = style.axes(ax, (7, 1.2 + 0.3 * len(self.layers)))
        what, title = ("energy", "energy of one input E (pJ)")
        if self.total.energy is None:
            what, title = "adc_conversions", "ADC conversions of one input (count)"
        values = [getattr(layer, what) for layer in self.layers]
        bars = ax.barh([label(layer.name) for layer in self.layers], values, color=style.COLORS[0], height=0.7)
        ax.bar_label(bars, [f"{value / max(sum(values), 1e-300):.1%}" for value in values], padding=3, fontsize="small")
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_xlabel(f"{title}, on {label(self.profile)}")
        ax.grid(False, axis="y")
        return ax


def unknown_on(costs: Iterable[NetworkCost]) -> str:
    """Return what profiles do not give, in words; those that lack the same are named together."""
    found: dict[str, list[str]] = {}
    for one in costs:
        for what, missing in one.unknown.items():
            found.setdefault(f"{what} unknown, the profile has no {missing}", []).append(one.profile)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())


_TITLED = (
    Column("layer", number=False),
    Column("rows", show=","),
    Column("columns", show=","),
    Column("groups", screen=False),
    Column("tiles", show=","),
    Column("utilisation", show=".3f", title="used"),
    Column("products", show=","),
    Column("tile_reads", screen=False),
    Column("dac_conversions", show=",", title="DAC conv."),
    Column("adc_conversions", show=",", title="ADC conv."),
    Column("macs", show=",", title="MACs"),
    Column("conversion_steps", screen=False),
    Column("energy", "pJ", amount),
    Column("latency", "ns", amount),
    Column("pulses", screen=False),
    Column("write_energy", "pJ", amount, title="writing (pJ)"),
)
_SHAPE = "rows", "columns", "groups"
_FIELDS = tuple("name" if one.name == "layer" else one.name for one in _TITLED)


def _sum(values: list[Any]) -> Any:
    return None if None in values else sum(values)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def cost(
    model: nn.Module, profile: HardwareProfile, inputs: tuple[int, ...] | Batch, *, step: Step | None = None
) -> NetworkCost:
    """Count what one input of a network needs on the hardware.

    Parameters
    ----------
    model : nn.Module
        Digital or converted; it stays as it is.
    profile : HardwareProfile
        Its `cost` gives energies and latencies, where there are any.
    inputs : tuple of int, or a batch
        The shape of one input, without the batch: (channels, height, width) of an image. Or a batch as `calibrate`
        takes it, whose samples stand first in its tensors: counts are then the mean of its samples, rounded. So of a
        language model a sample is a sequence of that length.
    step : callable, optional
        How the network is called on a batch of any other kind; as for `calibrate`.

    Returns
    -------
    NetworkCost

    Raises
    ------
    ConversionError
        The network has no layer for crossbars.
    ShapeError
        It does not take inputs of this shape, or such a batch.

    Warns
    -----
    UnreachedWarning
        Matrices stay digital (see `convert`), or layers are never called; neither is counted.

    Examples
    --------
    >>> import torch, analogsim as an
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(8 * 16, 10))
    >>> found = an.cost(net, an.HardwareProfile.load("8bit"), (3, 4, 4))
    >>> [(layer.name, layer.products, layer.tiles) for layer in found.layers]
    [('0', 16, 1), ('2', 1, 1)]
    """
    analog = converted(model, profile, verb="cost")
    what = "inputs: the batch"
    if isinstance(inputs, tuple | list) and not any(_holds_data(part) for part in inputs):
        what, parameter = f"inputs {tuple(inputs)}", next(analog.parameters())
        shape = [whole(size, "inputs", ShapeError) for size in inputs]
        inputs = torch.zeros(1, *shape, dtype=parameter.dtype)
    with without_noise(analog), observed(analog, _Counter) as seen, torch.no_grad():
        try:
            called(analog, moved(inputs, device_of(analog)), step, what, ShapeError)
        except (RuntimeError, ValueError, IndexError) as error:
            if str(error).startswith(what):
                raise
            raise ShapeError(f"{what}: {type(model).__name__} refuses it: {error}") from None
    for _, _, counter in seen:
        counter.products /= max(1, samples_in(inputs))
    used = [(name, layer) for name, layer, counter in seen if counter.products]
    counted = {name.rpartition(".")[0] if isinstance(layer, Crossbar) else name for name, layer in used}
    layers = tuple(counter.cost(name or "the layer") for name, _, counter in seen if counter.products)
    if not layers:
        raise ConversionError(f"{type(model).__name__}: no layer on crossbars was used")
    warn_of_layers("cost", called_layers(analog), counted, "they are not counted")
    return NetworkCost(layers, profile.name, _unknown(profile))


def _holds_data(part: object) -> bool:
    return isinstance(part, Tensor) and part.ndim > 0 or isinstance(part, Mapping | tuple | list)


class _Counter(RowsAsImages):
    """A backend that computes digitally and counts."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.profile = layer, layer.profile
        self.rows = self.columns = self.groups = 1
        self.tiles: list[tuple[int, int]] = []
        self.products = 0.0
        self.pulses = 0

    def written(self, matrix: ProgrammedMatrix) -> None:
        """Take note of how many pulses write a matrix."""
        groups = getattr(self.layer, "groups", 1)
        where = layout(matrix.programmed, self.profile, groups)
        self.pulses = write_pulses(matrix.programmed, self.profile, where)

    def spec(self, layer: Any, x: Tensor) -> MatmulSpec:
        """Return the tiles."""
        return MatmulSpec(rows=self.profile.tile.rows, mapping=self.profile.tile.mapping)

    def convolve(self, x: Tensor, w: Tensor, geometry: ConvGeometry, read: Read) -> tuple[Tensor, Clips | None]:
        """Convolve."""
        out = convolve_natively(x, w, geometry, read)
        self.groups = getattr(self.layer, "groups", 1)
        calls = self.groups // geometry.groups  # a transposed convolution multiplies for each group by itself
        self.rows, self.columns = math.prod(w.shape[1:]), len(w) * calls
        self.tiles = [(tile.start, tile.stop) for tile in cut(w, read.spec)]
        self.products += len(x) * math.prod(out.shape[2:]) / calls
        return out, None

    def cost(self, name: str) -> LayerCost:
        """Return what was counted."""
        tile, dac, adc, given = self.profile.tile, self.profile.dac, self.profile.adc, self.profile.cost
        cells, slices = self.profile.cells, self.profile.slices
        lines = self.columns * self.profile.lines
        layout = Layout.of(self.tiles, self.columns, self.groups, tile.cols, self.profile.lines)
        tiles, width = len(layout.tiles) * len(layout.widths), layout.of_lines(self.profile.lines).widths[0]
        room = tiles * (tile.rows or self.rows) * (tile.cols or width)
        bits = dac.bits if dac.step_bits is None else dac.step_bits
        products = round(self.products) * dac.steps
        inputs, outputs = products * len(layout.widths) * self.rows, products * len(layout.tiles) * lines
        macs = products * self.rows * self.columns * slices * cells.devices * (1 + (cells.mapping == "differential"))
        steps = math.nan if bits is None or adc.bits is None else inputs * 2**bits + outputs * 2**adc.bits
        turns = -(-width // (given.adcs_per_tile or width))
        return LayerCost(
            name=name,
            rows=self.rows,
            columns=self.columns,
            groups=self.groups,
            tiles=tiles,
            # A channel-aligned tile may hold one channel of more rows than it has.
            utilisation=min(1.0, self.rows * lines / room),
            products=round(self.products),
            tile_reads=products * tiles,
            dac_conversions=inputs,
            adc_conversions=outputs,
            macs=macs,
            pulses=self.pulses,
            write_energy=_known(self.pulses * _given(given.pulse_energy)),
            conversion_steps=_known(float(steps)),
            energy=_known(_energy(given, products * tiles, (inputs, bits), (outputs, adc.bits), macs)),
            latency=_known(_latency(given, products, turns)),
        )


def _energy(
    given: Cost, reads: int, inputs: tuple[int, int | None], outputs: tuple[int, int | None], macs: int
) -> float:
    """Return the energy in pJ of reads of tiles, or of their conversions (how many, of how many bits) and MACs."""
    if given.read_energy is not None:
        return reads * given.read_energy
    conversions = inputs[0] * _each(given.dac_energy, given.dac_fom, inputs[1])
    conversions += outputs[0] * _each(given.adc_energy, given.adc_fom, outputs[1])
    return conversions + macs * _given(given.mac_energy) / 1000


def _unknown(profile: HardwareProfile) -> dict[str, str]:
    """Return which figures a profile does not give, and the fields that it lacks for each."""
    given, dac, adc = profile.cost, profile.dac, profile.adc
    energy, latency = [], []
    if given.read_energy is None:
        for name, own, fom, bits in (
            ("dac", given.dac_energy, given.dac_fom, dac.bits),
            ("adc", given.adc_energy, given.adc_fom, adc.bits),
        ):
            if own is None and fom is None:
                energy.append(f"cost.{name}_energy (or cost.{name}_fom)")
            elif own is None and bits is None:
                energy.append(f"{name}.bits")
        energy += ["cost.mac_energy"] * (given.mac_energy is None)
    if given.read_latency is None:
        names = "dac_latency", "array_latency", "adc_latency"
        latency = [f"cost.{name}" for name in names if getattr(given, name) is None]
    return {what: _listed(missing) for what, missing in (("energy", energy), ("latency", latency)) if missing}


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _latency(given: Cost, reads: int, turns: int) -> float:
    """Return the time in ns of reads that follow each other, each ADC converting `turns` outputs of a read."""
    if given.read_latency is not None:
        return reads * given.read_latency
    array = _given(given.dac_latency) + _given(given.array_latency)
    conversion = _given(given.adc_latency) * turns
    if given.overlap and not math.isnan(array + conversion):
        return reads * max(array, conversion) + min(array, conversion)
    return reads * (array + conversion)


def _each(energy: float | None, fom: float | None, bits: int | None) -> float:
    """Return one conversion's energy in pJ: as given, or by the figure of merit in fJ a step."""
    if energy is None and fom is not None and bits is not None:
        return fom * 2**bits / 1000
    return _given(energy)


def _given(value: float | None) -> float:
    return math.nan if value is None else value
