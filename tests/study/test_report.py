"""A study's report in a real browser, on screens, in the dark and on paper; and its verdicts on what a study claims."""

import itertools
import math
import re
import shutil
from dataclasses import replace

import pytest

from analogsim.study.claims import verdict
from analogsim.study.figures import tradeoff_lines
from analogsim.study.report import PAGE, _page
from analogsim.study.store import Store
from analogsim.study.variants import load_variants
from tests.support.browser import CHROMIUM, browser
from tests.support.shell import ROOT

PAPER = 703, 1031  # width and height of A4 within its margins, pixels
needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
READY = "document.querySelectorAll('.js-plotly-plot .main-svg').length && document.querySelector('.annotation-text')"

# Edges of whatever is beyond the window, and of texts of figures beyond their figure.
BEYOND = """(() => {
  const found = [], wide = document.documentElement.clientWidth;
  for (const part of document.querySelectorAll("body *")) {
    if (part.closest("svg, script, style, .js-plotly-plot") || !part.getClientRects().length) continue;
    const { left, right } = part.getBoundingClientRect();
    if (left < -0.5 || right > wide + 0.5) found.push(`${part.tagName} ${part.textContent.slice(0, 40)}`);
  }
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const outer = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll("text")) {
      const own = text.getBoundingClientRect();
      if (own.width && (own.left < outer.left - 1 || own.right > outer.right + 1 || own.bottom > outer.bottom + 1))
        found.push(`${plot.id}: ${text.textContent}`);
    }
  }
  return document.documentElement.scrollWidth > wide ? [...found, "the page scrolls sideways"] : found;
})()"""
# Boxes of the names of µ: rows beneath curves, and names of points; in each figure by itself.
NAMES = """[...document.querySelectorAll(".js-plotly-plot")].map((plot) =>
  [...plot.querySelectorAll(".textpoint text, .annotation-text")].map((text) => {
    const { left, top, right, bottom } = text.getBoundingClientRect();
    return [text.textContent, left, top, right, bottom];
  }))"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The results of a study of two networks, one of them with flags."""
    folder = tmp_path_factory.mktemp("study") / "resnet18"
    shutil.copytree(ROOT / "benchmarks" / "results" / "paper" / "resnet18", folder)
    return Store(folder)


@pytest.fixture(scope="module")
def variants(study):
    return load_variants(study)


def test_a_method_s_points_are_joined_by_what_is_varied_whatever_the_order_of_the_file():
    found = load_variants(Store(ROOT / "benchmarks" / "results" / "paper" / "lenet5"))
    for order in (found, found[::-1], sorted(found, key=lambda one: one.name)):
        lines = {name: line for name, _, line in tradeoff_lines(order)}
        assert [one.cell.s for one in lines["constant scaling"]] == [0.5, 1, 2, 8, 32]
        assert [one.cell.sigma for one in lines["noisy training"]] == [0.5, 1, 2]


@pytest.fixture(scope="module")
def page(study, variants):
    path = study.root / PAGE
    path.write_text(_page(study, variants), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@needs_a_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut_off_and_no_names_overlap(page, tab, width, dark):
    tab.open(page, width, dark, READY)
    assert tab.run(BEYOND) == []
    figures = tab.run(NAMES)
    assert len(figures) == 5
    assert sum(map(bool, figures)) >= 3
    for names in figures:
        for (one, *a), (other, *b) in itertools.combinations(names, 2):
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] - 1 or b[1] >= a[3] - 1, (one, other)
    assert tab.requests == [page]


@needs_a_browser
def test_a_dark_page_is_dark_and_the_filter_hides_what_passes_beneath_it(page, tab):
    def color(what, property):
        text = tab.run(f"getComputedStyle(document.querySelector('{what}')).{property}")
        return [float(part) for part in re.findall(r"[\d.]+", text)]

    for dark in (False, True):
        tab.open(page, 1400, dark, READY)
        ground, text = color("body", "backgroundColor"), color("body", "color")
        assert (sum(ground) < 200) == dark
        assert (sum(text) > 500) == dark
        assert color("#filter", "backgroundColor") == ground  # no fourth number: opaque
        assert (sum(color("#tradeoff .xtick text", "fill")) > 500) == dark
        lines = tab.run("[...document.querySelectorAll('[data-color]')].map((part) => part.getAttribute('stroke'))")
        assert ("#ffffff" if not dark else "#000000") not in lines


@needs_a_browser
def test_a_click_on_a_column_sorts_the_table(page, tab):
    tab.open(page, 1400, False, READY)
    names = tab.run("[...document.querySelectorAll('#results th')].map((head) => head.textContent)")
    rows = "[...document.querySelectorAll('#results tbody tr')].map((row) => row.cells[{}].textContent)"

    def click(name):
        place = names.index(name)
        tab.run(f"document.querySelectorAll('#results th')[{place}].querySelector('button').click()")
        return tab.run(rows.format(place))

    def number(text):
        return float(text) if re.fullmatch(r"[\d.]+", text) else None

    for name in ("µ", "peak"):
        up, down = map(number, click(name)), map(number, click(name))
        up, down = list(up), list(down)
        known = [value for value in up if value is not None]
        assert known == sorted(known)
        assert up[: len(known)] == known, "what is not known comes last"
        assert down[: len(known)] == known[::-1]
    models = click("network")
    assert models == sorted(models)


@needs_a_browser
def test_what_the_filter_leaves_out_is_nowhere(page, tab):
    tab.open(page, 390, False, READY)
    shown = """["#results tbody tr", "#claims tbody tr", ".key span", "section[data-model]"].map((what) =>
        [...document.querySelectorAll(what)].filter((part) => part.getClientRects().length).length)"""
    before = tab.run(shown)
    tab.run("document.querySelector('#filter input[value=\\'ResNet-18\\']').click()")
    after = tab.run(shown)
    assert all(0 < left < all_ for left, all_ in zip(after, before, strict=True))
    assert (
        tab.run("[...document.querySelectorAll('[hidden]')].filter((part) => part.getClientRects().length).length") == 0
    )
    assert tab.run("document.querySelectorAll('#tradeoff .scatterlayer .trace').length") == 4


@needs_a_browser
def test_on_paper_there_are_no_toolbars_and_every_chart_has_room_on_a_page(page, tab):
    tab.open(page, 1400, True, READY)
    tab.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    size = {"width": PAPER[0], "height": PAPER[1], "deviceScaleFactor": 1, "mobile": False}
    tab.send("Emulation.setDeviceMetricsOverride", **size)
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    tools = "[...document.querySelectorAll('#filter, .modebar-container')]"
    assert tab.run(f"{tools}.length") > 1
    assert tab.run(f"{tools}.filter((part) => part.getClientRects().length).length") == 0
    charts = tab.run("""[...document.querySelectorAll(".chart")].map((part) => {
        const { width, height } = part.getBoundingClientRect();
        const inner = [...part.querySelectorAll(".main-svg")].map((svg) => svg.getBoundingClientRect().width);
        return [Math.max(width, ...inner), height, getComputedStyle(part).breakInside];
    })""")
    assert len(charts) == 5
    for width, height, rule in charts:
        assert width <= PAPER[0]
        assert height <= PAPER[1]
        assert rule == "avoid"
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('#tradeoff .xtick text')).fill") == "rgb(34, 34, 34)"
    assert tab.run(BEYOND) == []
    tab.send("Emulation.setEmulatedMedia", media="", features=[])
    assert tab.pdf().count(b"/Type /Page\n") >= 4


def on(variants, model="ResNet-18"):
    return [variant for variant in variants if variant.cell.model == model]


def judged(variants, method, claim, model="ResNet-18"):
    own = [replace(one, claim=claim) for one in on(variants, model) if one.cell.method == method]
    return verdict(own, on(variants, model), "float")


@pytest.mark.parametrize(
    ("method", "claim", "word"),
    [
        ("noisy training", "the most robust method", "holds"),
        ("dynamic scaling", "the most robust method", "does not hold"),
        ("constant scaling", "The most robust method", "does not hold"),
        ("noisy training", "above the floating-point baseline", "holds"),
        ("noisy training", "below the baseline", "does not hold"),
        ("dynamic scaling", "below the floating-point baseline", "not decided"),
        ("constant scaling", "µ grows with s while peak accuracy falls", "holds"),
        ("constant scaling", "μ grows with s", "holds"),
        ("constant scaling", "µ grows with s while peak accuracy grows", "does not hold"),
        ("constant scaling", "µ falls with s", "does not hold"),
        ("constant scaling", "µ grows with bits", "not decided"),
        ("dynamic scaling", "adds nothing on top of float", "not decided"),
        ("float", "adds nothing on top of dynamic scaling", "not decided"),
        ("noisy training", "is beautiful", "not judged"),
        ("noisy training", "not the most robust method", "not judged"),
        ("noisy training", "peak accuracy above the baseline", "not judged"),
        ("noisy training", "The most  robust method.", "holds"),
        ("constant scaling", "it is not so that µ grows with s", "not judged"),
        ("constant scaling", "µ grows with s, but peak accuracy does not", "not judged"),
    ],
)
def test_verdicts(variants, method, claim, word):
    """µ: float 0.450 [0.350, 0.602], dynamic 0.246 [0.129, 0.369], s=1 0.445 [0.328, 0.530], s=8 0.748 [0.616, 0.873],
    noisy 1.95 [1.03, 4.18]; peaks of s fall from 0.435 to 0.292.
    """
    said = judged(variants, method, claim)
    assert (said.claim, said.word) == (claim, word), said.why
    assert ("µ" in said.why) == (word != "not judged") or "bits" in claim


@pytest.mark.parametrize(
    ("method", "claim", "said"),
    [
        ("noisy training", "the most robust method", True),
        ("noisy training", "above the baseline", False),
        ("constant scaling", "µ grows with s", False),
        ("dynamic scaling", "µ is below the baseline", False),  # not decided
        ("dynamic scaling", "µ grows with s", False),  # not decided
    ],
)
def test_a_verdict_on_one_training_says_so(variants, method, claim, said):
    one = "dynamic scaling"
    few = [replace(own, trainings=1) if own.cell.method == one else own for own in variants]
    assert ("of one training" in judged(few, method, claim).why) == said
    assert "of one training" not in judged(variants, method, claim).why


def test_matched_curves_are_held_against_each_other(variants):
    """Their cells are those of their first σ, which need not be the same."""
    (noisy,) = (one for one in on(variants) if one.cell.method == "noisy training")
    (plain,) = (one for one in on(variants) if one.cell.method == "dynamic scaling")

    def matched(one, name, sigma):
        return replace(
            one, cell=one.cell.model_copy(update={"method": name, "variant": "", "sigma": sigma, "matched": True})
        )

    both = [matched(noisy, "matched", 0.01), matched(plain, "matched, 8 bits", 0.1)]
    own = [replace(both[1], claim="quantization adds nothing on top of matched")]
    assert verdict(own, both, None).word == "holds"
    assert "; matched has" not in verdict(own, both, None).why
    part = replace(both[0], points=len(both[0].curve.sigmas) + 5)
    assert f"; matched has {len(part.curve.sigmas)} of {part.points} σ" in verdict(own, [part, both[1]], None).why
    assert verdict(own, [both[0], *own], None).why.startswith("matched, 8 bits: µ = 0.246")
    assert (
        verdict(own, [replace(noisy, cell=noisy.cell.model_copy(update={"method": "matched"})), *own], None).word
        == "not judged"
    )


def fitted(variant, **values):
    return replace(variant, curve=variant.curve.fitted_as(replace(variant.midpoint, **values)))


@pytest.mark.parametrize(
    ("change", "word", "named"),
    [
        (lambda one: replace(one, curve=None), "not decided", "no µ: dynamic scaling"),
        (lambda one: fitted(one, midpoint=math.inf, ci=(90.0, math.inf)), "does not hold", "dynamic scaling: µ > 90"),
        (lambda one: fitted(one, midpoint=0.0, ci=(0.0, 0.01)), "holds", "s=8"),
        (lambda one: fitted(one, midpoint=0.3, ci=(0.01, 9.0)), "not decided", "dynamic scaling: µ = 0.3"),
        (lambda one: fitted(one, midpoint=math.nan, ci=(math.nan,) * 2, flags=("collapsed",)), "holds", "s=8"),
    ],
    ids=["unknown", "beyond the grid", "before the grid", "a wide interval", "collapsed"],
)
def test_the_most_robust_method_is_above_every_other_and_not_only_above_the_best_known(variants, change, word, named):
    networks = [change(one) if one.cell.method == "dynamic scaling" else one for one in variants]
    said = judged(networks, "noisy training", "the most robust method")
    assert said.word == word, said.why
    assert named in said.why


def test_no_verdict_without_a_midpoint_and_none_without_a_claim(variants):
    collapsed = judged(variants, "constant scaling", "the most robust method", "ResNet-18, batch normalisation")
    assert collapsed.word == "not decided"
    assert collapsed.why == "no µ: constant scaling, s=8"
    assert judged(variants, "float", "") is None


def test_the_headline_says_what_withstands_the_most_noise(study, variants):
    text = _page(study, variants)
    found = re.findall(r'<p class="headline">(.+?)</p>', text)
    assert found[0].startswith(
        "ResNet-18: noisy training, σ=1 withstands the most noise, µ = 1.95 [1.03, 4.18]: 4.33 times"
    )
    assert len(found) == 2
