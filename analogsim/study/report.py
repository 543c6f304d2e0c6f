"""A study as one HTML page that needs no network: figures to hover over and to filter, the table, and the commands."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StudyError
from ..quantities import QUANTITIES
from ..robustness.midpoint import MidpointFit, crossing_text, midpoint_texts
from ..storage.files import refuse_links, write_text
from .figures import (
    has_midpoint,
    learning_curve,
    sigma_range,
    tradeoff_lines,
    variant_colors,
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
    colors = variant_colors(variants)
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
        curves={m: _html(curves_figure(own, colors), f"curves-{i}") for i, (m, own) in enumerate(by_model.items())},
        learning={m: _html(learning_figure(own, colors), f"learn-{i}") for i, (m, own) in enumerate(by_model.items())},
        maps=[
            (variant.cell.model, variant.cell.method, variant.name, _html(map_figure(variant), f"map-{i}"))
            for i, variant in enumerate(with_maps(variants))
        ],
        matched=any(variant.cell.matched for variant in variants),
        tradeoff=_html(tradeoff_figure(variants, colors), "tradeoff"),
        rows=[_row(variant, colors) for variant in variants],
        hardware=list(dict.fromkeys(label for variant in variants for label in variant.hardware)),
        claims=any(variant.claim for variant in variants),
        failed=[(c.title, store.error(c.job)) for c in plan if states[c.job] == "failed"],
        runs=store.runs(),
        made_with=_made_with(results),
        file=study_text(study),
        plotly=get_plotlyjs(),
    )


def curves_figure(variants: Sequence[Variant], colors: dict[tuple[str, str], str]) -> "Figure":
    """Draw one network's accuracy over σ: measured means, the fits, and µ with its interval."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for variant in variants:
        curve = variant.curve
        if curve is None:
            continue
        common, color = _common(variant), colors[variant.cell.method, variant.cell.variant]
        low, high = curve.accuracies.min(1), curve.accuracies.max(1)
        figure.add_scatter(
            x=curve.sigmas.tolist(),
            y=curve.mean.tolist(),
            customdata=np.stack([low, high], 1).tolist(),
            mode="markers+lines",
            name=variant.name,
            line={"color": color, "width": 1, "dash": "dot"},
            marker={"symbol": "square" if variant.cell.matched else "circle", "size": 8 if variant.cell.matched else 6},
            hovertemplate="σ = %{x:.3g}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})",
            **common,
        )
        fit = has_midpoint(variant)
        if fit is None:
            continue
        common |= {"showlegend": False, "name": variant.name}
        fine = np.geomspace(curve.sigmas[fit.points_used[0]], max(curve.sigmas[-1], fit.midpoint), 120)
        figure.add_scatter(
            x=fine.tolist(),
            y=fit.predict(fine).tolist(),
            mode="lines",
            line={"color": color, "width": 3 if variant.cell.matched else 2},
            hoverinfo="skip",
            **common,
        )
        figure.add_scatter(
            x=[fit.midpoint],
            y=[float(fit.predict(fit.midpoint))],
            error_x=_intervals([fit]) | {"color": "black"},
            mode="markers",
            marker={"color": color, "symbol": "diamond", "size": 10, "line": {"color": "black", "width": 1}},
            hovertemplate=str(fit),
            **common,
        )
    first = next((variant.curve for variant in variants if variant.curve), None)
    if first is not None:
        figure.add_hline(first.chance, line={"color": "grey", "dash": "dot", "width": 1}, annotation_text="chance")
        ends = [math.log10(end) for end in sigma_range(variants)]
        figure.update_xaxes(type="log", title=QUANTITIES[first.quantity], range=ends, **DECADES)
    figure.update_yaxes(title="accuracy", rangemode="tozero")
    return _styled(figure)


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
    figure.update_yaxes(title="σ of training", type="category")
    return _styled(figure)


def tradeoff_figure(variants: Sequence[Variant], colors: dict[tuple[str, str], str]) -> "Figure":
    """Draw peak accuracy against µ, the variants of a method joined."""
    from plotly import graph_objects as go

    figure = go.Figure()
    several = len({variant.cell.model for variant in variants}) > 1
    for line in tradeoff_lines(variants):
        fits, cell = [fit for fit in map(has_midpoint, line) if fit], line[0].cell
        figure.add_scatter(
            x=[fit.midpoint for fit in fits],
            y=[fit.peak for fit in fits],
            error_x=_intervals(fits),
            text=[variant.cell.variant + "*" * bool(variant.flags) for variant in line],
            customdata=[f"{variant.name}: {fit}" for variant, fit in zip(line, fits)],
            mode="markers+lines+text",
            textposition="top right",
            name=f"{cell.model}, {cell.method}" if several else cell.method,
            line={"color": colors[cell.method, cell.variant], "width": 1},
            hovertemplate="%{customdata}, peak %{y:.3f}<extra></extra>",
            **_common(line[0]),
        )
    figure.update_xaxes(type="log", title="µ, the midpoint noise level", tickformat="~g", dtick="D2")
    figure.update_yaxes(title="peak accuracy")
    return _styled(figure)


def learning_figure(variants: Sequence[Variant], colors: dict[tuple[str, str], str]) -> "Figure":
    """Draw one network's test accuracy over the epochs, the mean over the seeds."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for variant in variants:
        points = learning_curve(variant)
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            customdata=[point[2:] for point in points],
            mode="lines+markers" if len(points) < 30 else "lines",
            name=variant.name,
            line={"color": colors[variant.cell.method, variant.cell.variant], "width": 1.5},
            hovertemplate="epoch %{x}: %{y:.3f} (%{customdata[0]:.3f} … %{customdata[1]:.3f})",
            **_common(variant),
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="test accuracy, without noise")
    return _styled(figure)


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


def _styled(figure: "Figure") -> "Figure":
    return figure.update_layout(
        template="plotly_white", height=460, margin={"l": 60, "r": 20, "t": 20, "b": 50}, hovermode="closest"
    )


def _html(figure: "Figure", name: str) -> Any:
    from markupsafe import Markup
    from plotly.io import to_html

    config = {"displaylogo": False, "responsive": True}
    # Markup: plotly escapes what it writes.
    return Markup(to_html(figure, full_html=False, include_plotlyjs=False, div_id=name, config=config))


def _row(variant: Variant, colors: dict[tuple[str, str], str]) -> dict[str, Any]:
    curve, cell = variant.curve, variant.cell
    row: dict[str, Any] = {"model": cell.model, "method": cell.method, "name": variant.name, "claim": variant.claim}
    row |= {"color": colors[cell.method, cell.variant], "seeds": f"{variant.trainings}/{variant.of}"}
    row["curve"] = cell.curve
    row |= {"peak": "-", "noise_free": "-", "midpoint": "-", "interval": "-", "half": "-"}
    row["flags"] = ", ".join(variant.flags)
    row["hardware"] = {
        label: f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else f"{found[0]:.3f}"
        for label, found in variant.hardware.items()
    }
    if curve is not None:
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
