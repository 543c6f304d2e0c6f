"""The benchmarks' tables and values: written between their markers, again and again the same, misses in bold."""

import pytest

from analogsim.bench import Case, Report, Result, Spread
from benchmarks import budget, findings, tables, values

MACHINE = {"processor": "Test", "cores": 2, "versions": {"torch": "1", "numba": "2"}, "commit": "0123456789abcdef"}


def ratio(value):
    return Spread(median=value, low=value - 0.1, high=value + 0.1)


def case(name, threads, value, goal, unit="s"):
    plain = Result(name="nn.Conv2d", first=1, value=ratio(1), ratio=ratio(1))
    analog = Result(name="AnalogConv2d", first=1, value=ratio(value), ratio=ratio(value), goal=goal)
    return Case(
        name=name,
        shape={},
        threads=threads,
        unit=unit,
        warmup=1,
        repeats=3,
        baseline="nn.Conv2d",
        results=(plain, analog),
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    cases = (case("a", 1, 1.25, 1.5), case("a", 2, 1.75, 1.5), case("memory of a", 2, 2.5, 2, "MiB"))
    Report(title="Convolutions", machine=MACHINE, cases=cases).save(tmp_path / "layers.json")
    return tmp_path


def test_tables_are_filled_in(results):
    page = results / "page.md"
    page.write_text("before\n\n<!-- table: layers -->\nstale\n<!-- end -->\n\nafter\n", encoding="utf-8")
    tables.fill(page)
    text = page.read_text(encoding="utf-8")
    assert "| a | 1.25 [1.15, 1.35] | **1.75 [1.65, 1.85]** |" in text
    assert "| a | 1 MiB | 2 MiB | **2.50 [2.40, 2.60]** |" in text
    assert "Test, 2 cores; torch 1, numba 2; commit 0123456789" in text
    assert "stale" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    tables.fill(page)
    assert page.read_text(encoding="utf-8") == text


def test_every_marker_has_its_table():
    for page in tables.PAGES:
        for _, name, _ in tables.MARKER.findall(page.read_text(encoding="utf-8")):
            assert name in tables.TABLES


def test_every_value_is_what_its_result_file_says():
    found = 0
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        found += len(values.MARKER.findall(text))
        assert text.count("<!-- value: ") == len(values.MARKER.findall(text)), page.name
        assert values.fill(text) == text, f"{page.name}: python -m benchmarks.tables"
    assert found > 160


def test_values_stand_on_pages_that_are_written():
    pages = [
        page for page in (tables.ROOT / "docs").rglob("*.md") if "<!-- value: " in page.read_text(encoding="utf-8")
    ]
    assert set(pages) <= set(tables.PAGES)


def test_every_value_has_its_place():
    told = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    assert [name for name in values.VALUES if f"<!-- value: {name} -->" not in told] == []


@pytest.mark.parametrize("name", budget.TABLES)
def test_the_budget_s_tables_are_current(name):
    text = (tables.ROOT / "docs" / "budget.md").read_text(encoding="utf-8")
    assert f"<!-- table: {name} -->\n\n{budget.TABLES[name]()}\n<!-- end -->" in text, "python -m benchmarks.tables"


def test_a_value_is_written_anew_and_an_unknown_one_refused(monkeypatch):
    rows = {"float": 0.25, "noisy training, σ=2": 3.0, "constant scaling, s=0.5": 0.5}
    summary = [
        {"model": "LeNet-5", "method": name, "variant": "", "midpoint": mu, "peak": 0.5, "noise_free": 0.75}
        for name, mu in rows.items()
    ]
    monkeypatch.setattr(findings, "load", lambda folder: (summary, []))
    values.summary.cache_clear()
    try:
        wanted = {"mu.lenet5.float": "0.250", "mu.lenet5.s0.5": "0.500", "peak.lenet5.sigma2": "0.500"}
        wanted |= {"free.lenet5.float": "0.750", "times.lenet5.sigma2.float": "12"}
        for name, text in wanted.items():
            stale = f"µ is <!-- value: {name} -->9<!-- end -->, they say"
            assert values.fill(stale) == stale.replace(">9<", f">{text}<")
        for name in ("mu.lenet5.s8", "mean.lenet5.float", "mu.lenet6.float"):
            with pytest.raises(KeyError):
                values.value(name)
    finally:
        values.summary.cache_clear()


def test_where_nothing_was_measured_a_value_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "RESULT", tmp_path / "budget.json")
    with pytest.raises(FileNotFoundError, match=r"python -m benchmarks\.budget"):
        values.value("budget.mu")
    assert budget.layers() == findings.MISSING
