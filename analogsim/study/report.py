"""A study as one HTML page that needs no network: what was found, figures to hover over and to filter, the commands."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StudyError
from ..quantities import QUANTITIES, midpoint_title
from ..robustness.measure import ACCURACY
from ..robustness.midpoint import MidpointFit, crossing_text, midpoint_texts
from ..storage.files import refuse_links, write_text
from ..style import Look
from .claims import verdict
from .figures import (
    TRAINING,
    Looks,
    caption,
    learning_curve,
    sigma_range,
    tradeoff_lines,
    variant_looks,
    with_maps,
    write_figures,
)
from .file import study_text
from .records import Result
from .results import write_hardware, write_map, write_results, write_summary
from .store import Store
from .variants import Variant, load_variants

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE, FIGURES = "report.html", "figures"
TEMPLATE = "report.html"
# 0.001, not 1m: of prefixes µ has two meanings here.
DECADES = {"tickformat": "~g", "dtick": 1}
# matplotlib's markers as plotly calls them.
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "D": "diamond",
    "P": "cross",
    "X": "x",
    "*": "star",
}
# The same, as paths around (0, 0).
SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "s": "M-4 -4H4V4H-4Z",
    "^": "M0 -5L5 4H-5Z",
    "v": "M0 5L5 -4H-5Z",
    "D": "M0 -5L5 0L0 5L-5 0Z",
    "P": "M-2 -5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z",
    "X": "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "*": "M0 -6L1.4 -1.9L5.7 -1.9L2.3 0.7L3.5 4.9L0 2.4L-3.5 4.9L-2.3 0.7L-5.7 -1.9L-1.4 -1.9Z",
}
LINE = 40  # letters of a line of text in a figure: so many have room on a telephone
LINE_HEIGHT, GAP = 15, 1.3  # of a line of text, pixels; of the interval beneath a text, lines


def write_report(directory: str | os.PathLike[str]) -> list[Path]:
    """Write a study's report into its directory: `report.html`, figures as PNG and SVG, and its tables.

    Parameters
    ----------
    directory : path
        A study's, finished or not.

    Returns
    -------
    list of Path
        What was written; the page first.

    Raises
    ------
    StudyError
        The directory holds no study, or none of its jobs has ended.
    """
    store = Store(directory)
    variants = load_variants(store)
    if not any(variant.histories for variant in variants):
        raise StudyError(f"{store.root}: no job has ended yet; see analogsim study status {store.root}")
    if not store.busy():  # a run writes them itself
        write_results(store)
        write_summary(store, variants)
        write_hardware(store)
        write_map(store)
    refuse_links(store.root / FIGURES)
    pictures = write_figures(variants, store.root / FIGURES)
    write_text(store.root / PAGE, _page(store, variants))
    return [store.root / PAGE, *pictures]


def _page(store: Store, variants: Sequence[Variant]) -> str:
    import jinja2
    from plotly.offline import get_plotlyjs

    study, plan = store.study(), store.plan()
    looks = variant_looks(variants)
    models = list(dict.fromkeys(variant.cell.model for variant in variants))
    by_model = {model: [variant for variant in variants if variant.cell.model == model] for model in models}
    states = {cell.job: store.state(cell.job) for cell in plan}
    results = [result for job in states if (result := store.result(job))]
    template = resources.files("analogsim.study").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        study=study,
        data=", ".join(dict.fromkeys(result.data for result in results)),
        counts=Counter(states.values()),
        jobs=len(states),
        models=models,
        methods=list(dict.fromkeys(variant.cell.method for variant in variants)),
        curves={m: _html(curves_figure(own, looks), f"curves-{i}") for i, (m, own) in enumerate(by_model.items())},
        learning={m: _html(learning_figure(own, looks), f"learn-{i}") for i, (m, own) in enumerate(by_model.items())},
        maps=[
            (variant.cell.model, variant.cell.method, variant.name, _html(map_figure(variant), f"map-{i}"))
            for i, variant in enumerate(with_maps(variants))
        ],
        matched=any(variant.cell.matched for variant in variants),
        tradeoff=_html(tradeoff_figure(variants, looks), "tradeoff"),
        key=[(*line[0].key, line[0].cell.model, name, _sample(look)) for name, look, line in tradeoff_lines(variants)],
        rows=[_row(variant, looks) for variant in variants],
        hardware=list(dict.fromkeys(label for variant in variants for label in variant.hardware)),
        headlines=[_headline(own, study.reference) for own in by_model.values()],
        claims=_claims(by_model, study.reference),
        failed=[(c.title, store.error(c.job)) for c in plan if states[c.job] == "failed"],
        runs=store.runs(),
        made_with=_made_with(results),
        file=study_text(study),
        plotly=get_plotlyjs(),
    )


def curves_figure(variants: Sequence[Variant], looks: Looks) -> "Figure":
    """Draw one network's accuracy over σ: measured means and fits; beneath, a row for each µ with its interval."""
    from plotly.subplots import make_subplots

    drawn = [variant for variant in variants if variant.curve is not None]
    texts = [caption(one.name, one, LINE) for one in drawn]
    heights = [float(len(lines)) for lines in texts]  # of the text, lines
    strip = LINE_HEIGHT * sum(height + GAP for height in heights) if drawn else 1.0
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[340, strip], vertical_spacing=24 / (364 + strip))
    place = 0.0
    ends = sigma_range(drawn) if drawn else (1.0, 1.0)
    for variant, lines, height in zip(drawn, texts, heights):
        look = looks[variant.key]
        _curve(figure, variant, look)
        row: dict[str, Any] = {"row": 2, "col": 1, "showlegend": False, "name": variant.name, **_common(variant)}
        figure.add_scatter(
            x=[ends[0] * (ends[1] / ends[0]) ** 0.01],
            y=[place - height / 2],
            text=["<br>".join(map(_escaped, lines))],
            mode="text",
            textposition="middle right",
            hoverinfo="skip",
            **row,
        )
        if fit := variant.midpoint:
            figure.add_scatter(
                x=[fit.midpoint],
                y=[place - height - 0.45],
                error_x=_intervals([fit]) | {"color": look.color, "thickness": 3, "width": 5},
                mode="markers",
                marker={"color": look.color, "symbol": SYMBOLS[look.marker], "size": 9},
                hovertemplate=f"{_escaped(str(fit))}<extra>{_escaped(variant.name)}</extra>",
                **row,
            )
        place -= height + GAP
    figure.update_yaxes(visible=False, range=[place, 0.3], fixedrange=True, row=2, col=1)
    first = next((variant.curve for variant in drawn if variant.curve), None)
    if first is not None:
        above: dict[str, Any] = {"row": 1, "col": 1, "annotation_position": "bottom left"}
        line = {"color": "grey", "dash": "dot", "width": 1}
        figure.add_hline(first.chance, line=line, annotation_text="chance", **above)
        figure.update_xaxes(type="log", range=[math.log10(end) for end in ends], **DECADES)
        figure.update_xaxes(title=QUANTITIES[first.quantity], row=2, col=1)
    figure.update_yaxes(title=ACCURACY.title, rangemode="tozero", row=1, col=1)
    return _styled(figure, 340 + 24 + strip + 70)


def _curve(figure: "Figure", variant: Variant, look: Look) -> None:
    curve, fit = variant.curve, variant.midpoint
    assert curve is not None
    low, high = curve.accuracies.min(1), curve.accuracies.max(1)
    common: dict[str, Any] = {"row": 1, "col": 1, "showlegend": False, "name": variant.name, **_common(variant)}
    width = 3 if variant.cell.matched else 1.8
    if fit:
        fine = np.geomspace(curve.sigmas[fit.points_used[0]], max(curve.sigmas[-1], fit.midpoint), 120)
        figure.add_scatter(
            x=fine.tolist(),
            y=fit.predict(fine).tolist(),
            mode="lines",
            line=_line(look, width),
            hoverinfo="skip",
            **common,
        )
    figure.add_scatter(
        x=curve.sigmas.tolist(),
        y=curve.mean.tolist(),
        customdata=np.stack([low, high], 1).tolist(),
        mode="markers" if fit else "markers+lines",
        line=_line(look, 1 if fit else width),
        marker={"symbol": SYMBOLS[look.marker], "size": 7, "color": look.color},
        hovertemplate="σ = %{x:.3g}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})",
        **common,
    )


def map_figure(variant: Variant) -> "Figure":
    """Draw the accuracy of a matched curve's networks at every σ: each row is a network, the diagonal the curve."""
    from plotly import graph_objects as go

    trained = list(variant.swept)
    first = variant.swept[trained[0]]
    names = [f"{sigma:.3g}" for sigma in first.sigmas], [f"{sigma:.3g}" for sigma in trained]
    figure = go.Figure()
    figure.add_heatmap(
        x=names[0],
        y=names[1],
        z=[variant.swept[sigma].mean.tolist() for sigma in trained],
        colorscale="Viridis",
        zmin=0,
        hovertemplate="trained at σ = %{y}, evaluated at %{x}: %{z:.3f}<extra></extra>",
        meta=_common(variant)["meta"],
    )
    figure.add_scatter(
        x=[name for name in names[1] if name in names[0]],
        y=[name for name in names[1] if name in names[0]],
        mode="markers",
        marker={"symbol": "square-open", "size": 14, "color": "white"},
        hoverinfo="skip",
        showlegend=False,
        meta=_common(variant)["meta"],
    )
    figure.update_xaxes(title=QUANTITIES[first.quantity], type="category")
    figure.update_yaxes(title=TRAINING, type="category")
    return _styled(figure)


def tradeoff_figure(variants: Sequence[Variant], looks: Looks) -> "Figure":
    """Draw peak accuracy against µ, a method's variants joined; the page writes their names where there is room."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for name, look, line in tradeoff_lines(variants):
        fits = [fit for one in line if (fit := one.midpoint)]
        figure.add_scatter(
            x=[fit.midpoint for fit in fits],
            y=[fit.peak for fit in fits],
            error_x=_intervals(fits) | {"color": look.color},
            text=[variant.cell.variant + "*" * bool(variant.flags) for variant in line],
            customdata=[f"{variant.name}: {fit}" for variant, fit in zip(line, fits)],
            mode="markers+lines",
            name=name,
            line=_line(look, 1.3),
            marker={"symbol": SYMBOLS[look.marker], "size": 8},
            hovertemplate="%{customdata}, peak %{y:.3f}<extra></extra>",
            **_common(line[0]),
        )
    quantity = next((variant.curve.quantity for variant in variants if variant.curve), "activations")
    figure.update_xaxes(type="log", title=midpoint_title(quantity), tickformat="~g", dtick="D2")
    figure.update_yaxes(title=f"peak {ACCURACY.title}")
    return _styled(figure, 420)


def learning_figure(variants: Sequence[Variant], looks: Looks) -> "Figure":
    """Draw one network's test accuracy over the epochs, the mean over the seeds."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for variant in variants:
        points, look = learning_curve(variant), looks[variant.key]
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            customdata=[point[2:] for point in points],
            mode="lines+markers",
            name=variant.name,
            line=_line(look, 1.5),
            marker={"symbol": SYMBOLS[look.marker], "size": 6, "maxdisplayed": 10},
            hovertemplate="epoch %{x}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})",
            **_common(variant),
        )
    figure.update_xaxes(title="training time (epochs)")
    figure.update_yaxes(title="test accuracy without noise (fraction)")
    return _styled(figure, 420)


def _common(variant: Variant) -> dict[str, Any]:
    """Return what the page's filter and the legend know a trace by."""
    cell = variant.cell
    return {
        "meta": {"model": cell.model, "method": cell.method},
        "legendgroup": f"{cell.model}, {variant.name}",
    }


def _intervals(fits: Sequence[MidpointFit]) -> dict[str, Any]:
    """Return plotly's error bars from the 95 % intervals of µ; none where an interval is not known."""
    known = [(fit.midpoint, fit.midpoint) if math.isnan(fit.ci[0]) else fit.bar for fit in fits]
    above = [high - fit.midpoint for fit, (_, high) in zip(fits, known)]
    below = [fit.midpoint - low for fit, (low, _) in zip(fits, known)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}


def _line(look: Look, width: float) -> dict[str, Any]:
    dash = ",".join(f"{2 * length:g}px" for length in look.dash) or "solid"
    return {"color": look.color, "width": width, "dash": dash}


def _escaped(text: str) -> str:
    """Return text in which plotly, which knows some HTML, finds none."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _styled(figure: "Figure", height: float = 460) -> "Figure":
    """Return the figure so high, in pixels, with room for its tools; the page writes the legend beneath it."""
    return figure.update_layout(
        template="plotly_white",
        height=height + 24,
        font={"size": 12},
        margin={"l": 58, "r": 12, "t": 36, "b": 50},
        hovermode="closest",
        showlegend=False,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#888", "activecolor": "#0072b2"},
    )


def _html(figure: "Figure", name: str) -> Any:
    from markupsafe import Markup
    from plotly.io import to_html

    config = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    # Markup: plotly escapes what it writes.
    return Markup(to_html(figure, full_html=False, include_plotlyjs=False, div_id=name, config=config))


def _headline(own: Sequence[Variant], baseline: str | None) -> str:
    """Say of one network which method withstands the most noise, and what that costs."""
    model = own[0].cell.model
    known = [(fit, one) for one in own if (fit := one.midpoint)]
    if not known:
        return f"{model}: no µ is known yet."
    # A µ with a flag is less sure than one without.
    fit, best = max([pair for pair in known if not pair[1].flags] or known, key=lambda pair: pair[0].midpoint)
    plain, base = next((pair for pair in known if pair[1].cell.method == baseline), (fit, best))
    if base is best:
        most = " has the highest µ" if len(known) > 1 else ""
        return f"{model}: {best.name}{most}, {fit}, with a peak accuracy of {fit.peak:.3f}."
    times = fit.midpoint / plain.midpoint
    return (
        f"{model}: {best.name} withstands the most noise, {fit}: {times:.3g} times as much as {base.name} ({plain}). "
        f"Peak accuracy {fit.peak:.3f}, {base.name} {plain.peak:.3f}."
    )


def _claims(by_model: dict[str, list[Variant]], baseline: str | None) -> list[dict[str, Any]]:
    """Return every claim with its verdict, in the order of the file."""
    found = []
    for model, own in by_model.items():
        for method in dict.fromkeys(one.cell.method for one in own):
            if said := verdict([one for one in own if one.cell.method == method], own, baseline):
                found.append({"model": model, "method": method, "said": said})
    return found


def _sample(look: Look) -> Any:
    """Return a variant's line and marker as a small drawing for the table."""
    from markupsafe import Markup

    dash = " ".join(f"{1.6 * length:g}" for length in look.dash)
    return Markup(  # of our own words alone
        '<svg class="sample" width="38" height="12" viewBox="0 0 38 12" aria-hidden="true">'
        f'<g fill="{look.color}" stroke="{look.color}" data-color="{look.color}">'
        f'<line x1="1" y1="6" x2="37" y2="6" stroke-width="1.8" stroke-dasharray="{dash}"/>'
        f'<path d="{SHAPES[look.marker]}" transform="translate(19 6)" stroke-width="0"/></g></svg>'
    )


def _row(variant: Variant, looks: Looks) -> dict[str, Any]:
    curve, cell = variant.curve, variant.cell
    row: dict[str, Any] = {"model": cell.model, "method": cell.method, "name": variant.name}
    row |= {"sample": _sample(looks[variant.key]), "seeds": f"{variant.trainings}/{variant.of}"}
    row["curve"] = cell.curve
    row |= {"peak": "-", "noise_free": "-", "midpoint": "-", "interval": "-", "half": "-"}
    row["flags"] = ", ".join(variant.flags)
    row["hardware"] = {
        label: f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else f"{found[0]:.3f}"
        for label, found in variant.hardware.items()
    }
    row["order"] = {}
    if curve is not None:
        row["order"] = {
            "peak": float(curve.peak),
            "noise_free": float(curve.noise_free),
            "midpoint": fit.midpoint if (fit := curve.fitted) else math.nan,
            "half": fit.crossing if fit else math.nan,
        }
        row |= {"peak": f"{curve.peak:.3f}", "noise_free": f"{curve.noise_free:.3f}"}
        if "no_fit" not in variant.flags:
            row["midpoint"], row["interval"] = midpoint_texts(curve.midpoint, *curve.ci)
            row["half"] = crossing_text(curve.fit.crossing)
    return row


def _made_with(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return what the jobs were computed with; several values where they differ."""
    facts: dict[str, list[Any]] = {"commit": [result.commit or "no repository" for result in results]}
    facts |= {name: [getattr(result, name) for result in results] for name in ("processor", "device", "threads")}
    for result in results:
        for name, value in result.versions.items():
            facts.setdefault(name, []).append(value)
    times = [result.seconds.all for result in results if result.seconds]
    spent = [("time", f"{sum(times) / 3600:.2f} hours of jobs")]
    return [(name, ", ".join(dict.fromkeys(map(str, values)))) for name, values in facts.items()] + spent
