"""How pictures look: colours, dashes and markers that tell lines apart, axes, fonts, and how a picture is written.

Every picture is drawn with it. matplotlib's settings change only while the package itself writes a picture; what
is drawn into a user's axes gets its style artist by artist.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .storage.files import replaced, writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# M. Okabe and K. Ito, Color Universal Design (2008): told apart also by the colour-blind. Yellow is too pale for lines.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
YELLOW = "#f0e442"
GREY = "0.4"  # what is compared with: the digital network, chance
# Lengths of lines and gaps, in widths of the line; () is solid.
DASHES = ((), (5.0, 1.6), (1.2, 1.2), (6.0, 1.5, 1.2, 1.5), (9.0, 1.5, 1.2, 1.5, 1.2, 1.5))
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xx", "", "++", "oo")
BAND = 0.16  # opacity of an interval
# TrueType in PDF and PostScript, as publishers ask for; the same results give the same file, for the salt is fixed.
SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "legend.fontsize": "small",
    "legend.handlelength": 3.4,
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "analogsim",
}


@dataclass(frozen=True)
class Look:
    """How one series is drawn.

    Attributes
    ----------
    color : str
    dash : tuple of float
        One of `DASHES`.
    marker : str
        One of `MARKERS`.
    """

    color: str
    dash: tuple[float, ...]
    marker: str

    @property
    def style(self) -> Any:
        """The dash as matplotlib takes it."""
        return (0, self.dash) if self.dash else "-"

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib's `plot` takes."""
        return {"color": self.color, "linestyle": self.style, "marker": self.marker}


def look(number: int, variant: int | None = None) -> Look:
    """Return how the series of this number is drawn, from 0 on.

    Any two of 20 series differ in two of colour, dash and marker, or in all; so do 5 variants each of 7 groups.

    Parameters
    ----------
    number : int
        Of the series; or of its group, which then has the colour.
    variant : int, optional
        Place of the series in its group.

    Examples
    --------
    >>> look(1), look(0, 1)
    (Look(color='#d55e00', dash=(5.0, 1.6), marker='s'), Look(color='#0072b2', dash=(5.0, 1.6), marker='s'))
    """
    place = number if variant is None else variant
    marker = number if variant is None else number + variant
    return Look(COLORS[number % len(COLORS)], DASHES[place % len(DASHES)], MARKERS[marker % len(MARKERS)])


def axes(ax: "Axes | None", size: tuple[float, float] = (7, 4.2)) -> "Axes":
    """Return axes in the style: the given ones, or those of a new figure of so many inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=size, layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def series(
    ax: "Axes", look: Look, x: Sequence[float], mean: Any, spread: Any = None, *, label: str | None = None
) -> None:
    """Draw means as a line with markers, and what they spread as a band; of a single point as a bar.

    Parameters
    ----------
    ax : matplotlib Axes
    look : Look
    x, mean : sequence of float
    spread : sequence of float, optional
        Standard deviations. NaN: not known.
    label : str, optional
        In the legend.
    """
    import numpy as np

    mean = np.asarray(mean, dtype=float)
    ax.plot(x, mean, **look.line, linewidth=1.4, markersize=5, label=label, zorder=3)
    half = np.nan_to_num(np.asarray(np.zeros_like(mean) if spread is None else spread, dtype=float))
    if not half.any():
        return
    if len(mean) == 1:
        ax.errorbar(x, mean, half, fmt="none", ecolor=look.color, capsize=3, elinewidth=1.2)
    else:
        ax.fill_between(x, mean - half, mean + half, color=look.color, alpha=BAND, linewidth=0, zorder=1)


def beside(ax: "Axes", **more: Any) -> None:
    """Put the legend of axes to their right, where it covers nothing that is drawn."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small", **more)


def above(ax: "Axes", columns: int = 1) -> None:
    """Put the legend of axes above them, where it covers nothing that is drawn."""
    if ax.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3}
        ax.legend(**place, ncols=columns, frameon=False, fontsize="small")


def plain_ticks(ax: "Axes", digits: Sequence[float]) -> None:
    """Write a logarithmic axis as 0.5, 1, 2, where matplotlib writes powers, and lets those of a short axis overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=digits))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


# Where the text of a point can stand: its offset in points, and how it is aligned.
_AROUND = [
    (
        x,
        y,
        {-1: "right", 0: "center", 1: "left"}[(x > 0) - (x < 0)],
        {-1: "top", 0: "center", 1: "bottom"}[(y > 0) - (y < 0)],
    )
    for far in (1, 2.2, 3.6)
    for x, y in ((5, 3), (5, -3), (-5, 3), (-5, -3), (0, 6), (0, -6), (8, 0), (-8, 0))
    for x, y in [(x * far, y * far)]
]


def annotate(ax: "Axes", points: Sequence[tuple[float, float, str]]) -> None:
    """Write a text beside each point (x, y), where it overlaps no other text, no line or point, and no end of the axes.

    Axes and limits have to be as they will be. A text that has no room anywhere stands where the first could.
    """
    import numpy as np

    figure: Any = ax.figure
    figure.draw_without_rendering()
    dots = [dot for line in ax.lines for dot in _along(ax.transData.transform(line.get_xydata()), np)]
    taken: list[Any] = []
    for x, y, text in points:
        shown = ax.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize="x-small")
        for dx, dy, across, up in _AROUND:
            shown.set(position=(dx, dy), ha=across, va=up)
            box = shown.get_window_extent().expanded(1.02, 1.05)
            free = not any(box.overlaps(other) for other in taken) and not any(box.contains(*dot) for dot in dots)
            if free and ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1:
                break
        else:
            dx, dy, across, up = _AROUND[0]
            shown.set(position=(dx, dy), ha=across, va=up)
        taken.append(shown.get_window_extent())


def _along(ends: Any, np: Any) -> Any:
    """Return points on a line through the given ones, close to each other, in pixels."""
    parts = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 6)) for a, b in zip(ends, ends[1:])]
    return np.concatenate(parts) if parts else ends


@contextmanager
def picture(path: Path, size: tuple[float, float] = (7, 4.2), dpi: int = 150) -> Iterator["Figure"]:
    """Give an empty figure in the style, and write it when it has been drawn; aside, then renamed.

    Parameters
    ----------
    path : Path
        Its ending says of which format it is.
    size : (float, float)
        Width and height, inches.
    dpi : int
        Pixels an inch.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for it
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        yield figure
        write(figure, path)


def write(figure: "Figure", path: Path) -> None:
    """Write a figure; aside, then renamed.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    about: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with rc_context(SETTINGS), writable(path), replaced(path) as aside:
        figure.savefig(aside, format=kind, metadata=about)
