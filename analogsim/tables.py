"""Tables of results: one statement of columns and units for the screen, notebooks, files, Markdown and LaTeX."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape as html_escape
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal

from .terminal.text import printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

Form = Literal["table", "json", "csv", "latex", "markdown"]

# What LaTeX's own fonts have under another name only.
_LATEX = {"µ": r"$\mu$", "σ": r"$\sigma$", "×": r"$\times$", "±": r"$\pm$", "∞": r"$\infty$", "✓": r"$\checkmark$"}

_BETWEEN, _LEAST = 2, 24  # characters between two columns, and of one that is broken into lines


@dataclass(frozen=True)
class Column:
    """A column: what it is called, in which unit, and how its values are shown.

    Attributes
    ----------
    name : str
        In frames and files, with the unit behind it: `energy` in pJ is `energy_pJ`.
    unit : str
        Empty of counts and ratios.
    show : str or callable
        A format such as ",.4g", or a function from a value to text. None and NaN are shown as nothing.
    title : str, optional
        On screens; default: the name, and the unit in brackets.
    number : bool
        Whether it is set to the right.
    screen, file : bool
        Whether screens show it, and whether frames and files have it.
    wrap : bool
        Whether its text may be broken into lines, as prose is.
    style : callable, optional
        From a value to how rich prints it: "yellow", "bold".
    row : callable, optional
        From the whole row, by the columns' keys, to what screens show, where the value alone does not say it.
    """

    name: str
    unit: str = ""
    show: str | Callable[[Any], str] = ""
    title: str | None = None
    number: bool = True
    screen: bool = True
    file: bool = True
    wrap: bool = False
    style: Callable[[Any], str] | None = None
    row: Callable[[dict[str, Any]], str] | None = None

    @property
    def key(self) -> str:
        """Its name in frames and files."""
        return f"{self.name}_{self.unit}" if self.unit else self.name

    @property
    def head(self) -> str:
        """Its title on screens."""
        if self.title is not None:
            return self.title
        return self.name.replace("_", " ") + (f" ({self.unit})" if self.unit else "")

    def text(self, value: Any) -> str:
        """Return a value as screens show it."""
        if _unknown(value):
            return ""
        return format(value, self.show) if isinstance(self.show, str) else self.show(value)


@dataclass(frozen=True)
class Table:
    """Columns and rows, and how they look in every form.

    Printed by rich it fits the terminal: where that is too narrow for a row it is turned, rows beside one another.

    Attributes
    ----------
    columns : tuple of Column
    rows : tuple of tuple
        Values as they are, unrounded.
    caption : str
        What is said below it.
    total : bool
        Whether the last row is the sum of the others.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""
    total: bool = False

    def frame(self) -> "pd.DataFrame":
        """Return the columns of files, also those that screens leave out, with values as they are."""
        import pandas as pd

        keys = [one.key for one in self.columns if one.file]
        return pd.DataFrame(self._records(), columns=keys)

    def text(self, form: Form = "table", width: int | None = None) -> str:
        """Return the table as text.

        Parameters
        ----------
        form : {"table", "json", "csv", "latex", "markdown"}
            Of "json", a list of objects, and "csv" the columns of files with values as they are; else what
            screens show. LaTeX needs the package booktabs.
        width : int, optional
            Of the screen, in characters; default: the terminal's, or 80 where there is none.
        """
        if form == "json":
            rows = [{key: _plain(value) for key, value in row.items()} for row in self._records()]
            return json.dumps(rows, indent=1, default=str)
        if form == "csv":
            stream = io.StringIO()
            keys = [one.key for one in self.columns if one.file]
            rows = [[_cell(value) for value in row.values()] for row in self._records()]
            csv.writer(stream, lineterminator="\n").writerows([keys, *rows])
            return stream.getvalue().rstrip("\n")
        if form == "markdown":
            return self._markdown()
        if form == "latex":
            return self._latex()
        from .terminal.progress import Terminal

        stream = io.StringIO()
        Terminal(file=stream, width=width).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def html(self) -> str:
        """Return what a notebook shows."""
        columns, rows = self._shown()
        heads = "".join(f"<th style='text-align: {_side(one)}'>{html_escape(one.head)}</th>" for one in columns)
        lines = [
            "".join(f"<td style='text-align: {_side(c)}'>{html_escape(cell)}</td>" for c, cell in zip(columns, row))
            for row in rows
        ]
        if self.total and lines:
            lines[-1] = lines[-1].replace("<td style='", "<td style='font-weight: bold; ")
        caption = f"<caption style='caption-side: bottom'>{html_escape(self.caption)}</caption>" if self.caption else ""
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.markup import escape

        columns, rows = self._shown()
        heads = [one.head for one in columns]
        # Where titles make it too wide they are broken between words; numbers and names never are.
        least = [tuple(cell[:_LEAST] if one.wrap else cell for one, cell in zip(columns, row)) for row in rows]
        narrow = [_broken(head, [row[place] for row in least]) for place, head in enumerate(heads)]
        fitting = next((some for some in (heads, narrow) if _width(some, least) <= options.max_width), None)
        if fitting is None and rows:
            yield from self._turned(options.max_width)
        else:
            yield self._grid(fitting or heads)
        if self.caption:
            yield f"[dim]{escape(printable(self.caption))}[/]"

    def _grid(self, heads: list[str]) -> "RichTable":
        from rich import box
        from rich.markup import escape
        from rich.table import Table as RichTable

        columns, rows = self._shown()
        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for one, head in zip(columns, heads):
            table.add_column(
                escape(head), justify="right" if one.number else "left", no_wrap=not one.wrap, overflow="fold"
            )
        for number, row in enumerate(rows):
            last = self.total and number == len(rows) - 1
            table.add_row(*self._styled(number, row), style="bold" if last else "")
        return table

    def _turned(self, width: int) -> "Iterator[RichTable | str]":
        """Yield tables of titles and values, as many rows beside one another in each as there is room for."""
        from rich.cells import cell_len
        from rich.markup import escape
        from rich.table import Table as RichTable

        columns, rows = self._shown()
        titles = [columns[0].head, *(f"  {one.head}" for one in columns[1:])]
        widths = [_BETWEEN + max(cell_len(line) for cell in row for line in cell.split("\n")) for row in rows]
        left, start = width - max(map(cell_len, titles)), 0
        while start < len(rows):
            end = start + 1
            while end < len(rows) and sum(widths[start : end + 1]) <= left:
                end += 1
            table = RichTable.grid(padding=(0, _BETWEEN, 0, 0), pad_edge=False)
            table.add_column(style="dim")
            for _ in range(start, end):
                table.add_column(overflow="fold", justify="left" if end - start == 1 else "right")
            first, *others = zip(*(self._styled(number, rows[number]) for number in range(start, end)))
            table.add_row(escape(titles[0]), *(f"[bold]{cell}[/]" for cell in first))
            for title, cells in zip(titles[1:], others):
                table.add_row(escape(title), *cells)
            yield table
            yield ""
            start = end

    def _styled(self, number: int, row: tuple[str, ...]) -> list[str]:
        from rich.markup import escape

        shown = [(self.columns[place], self.rows[number][place]) for place in self._visible]
        styles = [one.style(value) if one.style else "" for one, value in shown]
        cells = [escape(printable(cell)) for cell in row]
        return [f"[{style}]{cell}[/]" if style and cell else cell for style, cell in zip(styles, cells)]

    def _markdown(self) -> str:
        columns, rows = self._shown()
        lines = [[one.head for one in columns], ["---:" if one.number else "---" for one in columns], *rows]
        return "\n".join(
            f"| {' | '.join(' '.join(printable(cell).splitlines()).replace('|', chr(92) + '|') for cell in line)} |"
            for line in lines
        )

    def _latex(self) -> str:
        import pandas as pd

        columns, rows = self._shown()
        frame = pd.DataFrame([list(row) for row in rows], columns=[one.head for one in columns])
        sides = "".join("r" if one.number else "l" for one in columns)
        text = frame.to_latex(index=False, escape=True, column_format=sides).rstrip("\n")
        for sign, name in _LATEX.items():
            text = text.replace(sign, name)
        if self.total and rows:
            lines = text.split("\n")
            lines.insert(len(lines) - 3, r"\midrule")
            text = "\n".join(lines)
        return text

    def _records(self) -> list[dict[str, Any]]:
        return [{one.key: value for one, value in zip(self.columns, row) if one.file} for row in self.rows]

    @property
    def _visible(self) -> list[int]:
        """The places of the columns that screens show: none of which nothing is known."""
        return [
            place
            for place, one in enumerate(self.columns)
            if one.screen and (one.row or not self.rows or any(not _unknown(row[place]) for row in self.rows))
        ]

    def _shown(self) -> tuple[list[Column], list[tuple[str, ...]]]:
        """Return what screens show: columns, and text."""
        found = []
        for row in self.rows:
            values = {one.key: value for one, value in zip(self.columns, row)}
            cells = ((self.columns[place], row[place]) for place in self._visible)
            found.append(tuple(one.row(values) if one.row else one.text(value) for one, value in cells))
        return [self.columns[place] for place in self._visible], found


def amount(value: float) -> str:
    """Return a number to four digits, without an exponent where there is room for the digits.

    Examples
    --------
    >>> amount(10634.2), amount(0.012345), amount(3e16)
    ('10,634', '0.01235', '3e+16')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _broken(head: str, cells: list[str]) -> str:
    """Return a title in lines no longer than its longest word or the widest cell."""
    from rich.cells import cell_len

    widest = max(map(cell_len, [*head.split(" "), *cells]))
    lines: list[str] = []
    for word in head.split(" "):
        if lines and cell_len(f"{lines[-1]} {word}") <= widest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _width(heads: list[str], rows: list[tuple[str, ...]]) -> int:
    """Return how many characters such a table takes."""
    from rich.cells import cell_len

    widths = [
        max(map(cell_len, [*head.split("\n"), *(row[place] for row in rows)])) for place, head in enumerate(heads)
    ]
    return sum(widths) + _BETWEEN * max(0, len(widths) - 1)


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, Number) and value != value)  # NumPy's and Python's NaN alike


def _plain(value: Any) -> Any:
    """Return what JSON has: NumPy's numbers as Python's, and null for what is not known."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _cell(value: Any) -> Any:
    value = _plain(value)
    return "" if value is None else value


def _side(column: Column) -> str:
    return "right" if column.number else "left"
