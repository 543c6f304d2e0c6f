"""Pictures can be read and printed: series differ in more than colour, axes have units, legends hide nothing."""

import itertools
import re
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from analogsim import HardwareProfile, style
from analogsim.analysis.device_picture import draw_device
from analogsim.profile.compare import titled
from analogsim.quantities import QUANTITIES
from analogsim.robustness.curve import RobustnessCurve
from tests.verbs.test_results_printed import RESULTS

SIGMAS = np.geomspace(0.01, 100, 9)
NO_UNIT = {"perplexity", "rank agreement"}  # measures that have none
CHIP = HardwareProfile(
    cells={"mapping": "differential", "g_max": 25.0, "read_noise": 0.01},
    tile={"current_limit": 8.0},
    iv={"second": 0.1, "third": 0.2},
    programming={"sigma": 0.02, "mean": 0.01},
    drift={"nu": 0.05, "nu_sigma": 0.01, "t0": 10.0},
    adc={"bits": 5, "full_scale": 4.0, "gain_error": 0.02},
    dac={"bits": 3, "input_range": 1.0, "inl": [[-0.3, 0.1, 0.2, 0, -0.4, 0.3, 0.6], [0.3, 0, 0, 0, 0.1, 0, 0]]},
)


def curves(figure):
    """Five curves in the same axes, far from each other."""
    ax = figure.subplots()
    for place in (0.1, 0.3, 1.0, 3.0, 10.0):
        accuracies = 0.1 + 0.8 / (1 + (SIGMAS / place) ** 2)
        RobustnessCurve(SIGMAS, np.stack([accuracies, accuracies + 0.01], 1), 0.9, 0.1).plot(ax, label=f"{place}")


PICTURES = {name: None for name in RESULTS} | {"curves": curves, "device": lambda figure: draw_device(CHIP, figure)}


@pytest.fixture(scope="module", params=PICTURES)
def drawn(request):
    """A picture's figure as the package draws it, laid out."""
    paint = PICTURES[request.param]
    if paint is None:
        pytest.importorskip("optuna")
        paint = lambda figure: RESULTS[request.param]().plot(figure.subplots())  # noqa: E731
    figure = Figure(figsize=(8, 5), layout="constrained")
    paint(figure)
    figure.draw_without_rendering()
    return figure


def series(ax):
    """Colour, dash and marker of every line of which a legend says something, or that has a marker."""
    found = set()
    for line in ax.lines:
        named = not line.get_label().startswith("_")
        if named and line.get_gid() != "chance" and len(line.get_xydata()):
            # A line without a dash in an error bar, and an average line without a marker, are looks, too.
            dash = line._dash_pattern[1] if line.get_linestyle() not in ("-", "None") else line.get_linestyle()
            found.add((mpl.colors.to_hex(line.get_color()), str(dash), str(line.get_marker())))
    for bars in ax.containers:
        if hasattr(bars, "patches") and not bars.get_label().startswith("_"):
            patch = bars.patches[0]
            found.add((mpl.colors.to_hex(patch.get_facecolor()), patch.get_hatch(), "bar"))
        elif not hasattr(bars, "patches") and bars.lines[0] is not None:
            line = bars.lines[0]
            found.add((mpl.colors.to_hex(line.get_color()), line.get_linestyle(), line.get_marker()))
    return sorted(found, key=str)


def differences(one, other):
    return sum(a != b for a, b in zip(one, other))


def test_series_differ_in_two_of_colour_dash_and_marker(drawn):
    for ax in drawn.axes:
        for one, other in itertools.combinations(series(ax), 2):
            assert differences(one, other) >= 2, (one, other)


def test_twenty_series_do_and_five_variants_of_each_of_seven_methods():
    twenty = [style.look(number) for number in range(20)]
    methods = [style.look(number, place) for number in range(7) for place in range(5)]
    for looks in (twenty, methods):
        for one, other in itertools.combinations(looks, 2):
            assert differences((one.color, one.dash, one.marker), (other.color, other.dash, other.marker)) >= 2
    assert len({look.color for look in methods[:5]}) == 1


def test_colours_are_apart_also_for_those_who_do_not_see_red_or_green():
    """H. Brettel et al. (1997) as F. Viénot et al. (1999) simplify it: linear RGB as a dichromat sees it."""
    seen = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    srgb = np.array([mpl.colors.to_rgb(color) for color in style.COLORS])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for matrix in seen.values():
        colors = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        for one, other in itertools.combinations(colors, 2):
            assert np.linalg.norm(one - other) > 0.1


def test_axes_have_names_and_units(drawn):
    for ax in drawn.axes:
        for axis in (ax.xaxis, ax.yaxis):
            text = axis.get_label_text()
            words = any(re.search("[a-z]", tick.get_text()) for tick in axis.get_ticklabels())  # "1 d", or layers
            layers = any(hasattr(bars, "patches") for bars in ax.containers) or "(± σ of chips)" in str(legend(ax))
            assert re.search(r"\(.+\)", text) or text in NO_UNIT or words or layers, text
            assert text or words or layers


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def test_fields_and_quantities_have_units():
    assert all(re.search(r" σ\S* \(.+\)$", text) for text in QUANTITIES.values())
    assert titled("programming.sigma") == "programming.sigma (fraction of g_max)"
    assert titled("age") == "age"
    assert titled("adc.kind") == "adc.kind"


def points(ax):
    """All that is drawn in axes, (n, 2) points of the picture close to each other."""
    parts = []
    for line in ax.lines:
        xy = line.get_transform().transform(line.get_xydata())
        parts.append(xy)
        if line.get_linestyle() != "None" and len(xy) < 500:
            parts += [np.linspace(a, b, 50) for a, b in itertools.pairwise(xy)]
    for one in ax.collections:
        parts += [one.get_transform().transform(path.vertices) for path in one.get_paths()]
    for patch in ax.patches:
        parts.append(patch.get_transform().transform(patch.get_path().interpolated(20).vertices))
    return np.concatenate(parts)


def inside(box, xy):
    return ((box.x0 < xy[:, 0]) & (xy[:, 0] < box.x1) & (box.y0 < xy[:, 1]) & (xy[:, 1] < box.y1)).any()


def test_legends_cover_nothing_that_is_drawn_and_are_in_the_picture(drawn):
    shown = {}
    for ax in drawn.axes:
        xy = points(ax)
        shown[ax] = xy[((ax.bbox.min <= xy) & (xy <= ax.bbox.max)).all(1)]
        assert len(shown[ax])
    for ax in drawn.axes:
        if ax.get_legend():
            box = ax.get_legend().get_window_extent()
            assert not any(inside(box, xy) for xy in shown.values()), legend(ax)
            assert ((drawn.bbox.min <= box.min) & (box.max <= drawn.bbox.max + 1)).all(), legend(ax)


def test_fonts_in_a_pdf_are_truetype_and_a_picture_is_the_same_twice(tmp_path):
    files = [tmp_path / name for name in ("one.pdf", "two.pdf", "one.svg", "two.svg")]
    for file in files:
        with style.picture(file) as figure:
            curves(figure)
    assert b"/Type3" not in files[0].read_bytes()
    assert b"/FontFile2" in files[0].read_bytes()
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[2].read_bytes() == files[3].read_bytes()


def test_a_users_settings_stay(tmp_path, monkeypatch):
    with mpl.rc_context({"font.size": 21, "lines.linewidth": 7}):
        before = dict(mpl.rcParams)
        curves(Figure())
        with style.picture(tmp_path / "one.png", (3, 2), dpi=50) as figure:
            figure.subplots().plot([1, 2])
        assert dict(mpl.rcParams) == before


def test_names_of_points_cover_each_other_and_the_lines_nowhere():
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = style.axes(figure.subplots())
    x = np.linspace(0, 1, 12)
    y = np.round(x, 1) ** 2
    ax.plot(x, y, "o-")
    style.annotate(ax, [(a, b, f"variant {number}") for number, (a, b) in enumerate(zip(x, y))])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 12
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(inside(box.shrunk(0.98, 0.9), points(ax)) for box in boxes)


def test_a_name_that_no_font_has_draws_a_box_and_warns_not(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style.picture(tmp_path / "one.png", (3, 2), dpi=50) as figure:
            figure.subplots().set_title("💥")
