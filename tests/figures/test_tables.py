"""The benchmarks' tables: written between their markers, again and again the same, misses in bold."""

import pytest

from analogsim.bench import Case, Report, Result, Spread
from benchmarks import tables

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
