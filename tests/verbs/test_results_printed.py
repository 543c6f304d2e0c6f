"""Results as tables, frames and files: one statement of columns, units and values for all of them."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogsim as an
from analogsim.errors import DataError
from analogsim.result import about
from analogsim.tables import Column, Table, amount

WORDS = st.text("abcdefghijklmnop", min_size=1, max_size=12)
VALUES = st.one_of(st.none(), st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6), st.just(math.nan))


@st.composite
def tables(draw):
    names = draw(st.lists(WORDS, min_size=1, max_size=12, unique=True))
    units = [draw(st.sampled_from(["", "pJ", "ns"])) for _ in names]
    columns = [Column("layer", number=False)] + [Column(f"{name}_x", unit) for name, unit in zip(names, units)]
    rows = draw(st.lists(st.tuples(WORDS, *(VALUES for _ in names)), min_size=1, max_size=5))
    return Table(tuple(columns), tuple(rows), "a caption", total=draw(st.booleans()))


@given(tables(), st.sampled_from([40, 80, 160]))
@settings(max_examples=60, deadline=None)
def test_no_line_is_wider_than_the_screen_and_nothing_is_cut(table, width):
    text = table.text(width=width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.replace("\n", " ").split())
    for row in table.rows:
        for one, value in zip(table.columns, row):
            assert one.text(value) in words | {""} or len(one.text(value)) > width // 2
    assert "a caption" in text
    assert "…" not in text


@given(tables())
@settings(max_examples=40, deadline=None)
def test_files_hold_the_values_as_they_are(table):
    frame = table.frame()
    assert list(frame) == [one.key for one in table.columns]
    found = pd.read_csv(io.StringIO(table.text("csv")), keep_default_na=False, na_values=[""], dtype={"layer": str})
    records = json.loads(table.text("json"))
    for place, one in enumerate(table.columns[1:], 1):
        wanted = [math.nan if row[place] is None else row[place] for row in table.rows]
        assert found[one.key].astype(float).tolist() == pytest.approx(wanted, nan_ok=True)
        own = [math.nan if record[one.key] is None else record[one.key] for record in records]
        assert own == pytest.approx(wanted, nan_ok=True)


TABLE = Table(
    (Column("layer", number=False), Column("energy", "pJ", amount), Column("share_of_all", show=".1f"), Column("none")),
    (("a|b_%", 1234.5678, 0.25, None), ("total", 12345678.9, 1.0, math.nan)),
    total=True,
)


def test_screens_leave_out_what_nothing_is_known_of_and_name_units():
    assert TABLE.text(width=60).splitlines()[0].split() == ["layer", "energy", "(pJ)", "share", "of", "all"]
    assert TABLE.text(width=60).splitlines()[2].split() == ["a|b_%", "1,235", "0.2"]
    assert TABLE.text("csv").splitlines()[0] == "layer,energy_pJ,share_of_all,none"
    assert TABLE.text(width=24).splitlines()[2:4] == ["layer        (pJ)    all", "─" * 24]
    assert TABLE.text(width=22).split()[:8] == ["layer", "a|b_%", "energy", "(pJ)", "1,235", "share", "of", "all"]


def test_where_a_row_is_too_wide_rows_stand_beside_one_another_as_many_as_there_is_room_for():
    columns = (Column("profile", number=False), *(Column(f"a_long_name_{number}", "pJ") for number in range(6)))
    table = Table(
        columns, tuple((name, *(number * 10**6 for number in range(6))) for name in ("pcm", "hermes", "8bit"))
    )
    lines = table.text(width=40).splitlines()
    assert [line.split() for line in lines if line.startswith("profile")] == [
        ["profile", "pcm", "hermes"],
        ["profile", "8bit"],
    ]
    assert lines[1].split() == ["a", "long", "name", "0", "(pJ)", "0", "0"]
    assert lines[6].endswith("5000000  5000000")
    wide = [line.split() for line in table.text(width=50).splitlines() if line.startswith("profile")]
    assert wide == [["profile", "pcm", "hermes", "8bit"]]


def test_a_long_word_of_prose_is_broken_and_not_cut():
    columns = Column("name", number=False), Column("description", number=False, wrap=True)
    word = "src/somewhere/in_a_file/of_a_name_that_is_long"
    found = Table(columns, (("a", f"see {word} there"),)).text(width=34)
    assert word in "".join(found.split())


def test_markdown_and_latex():
    lines = TABLE.text("markdown").splitlines()
    assert lines[:3] == ["| layer | energy (pJ) | share of all |", "| --- | ---: | ---: |", r"| a\|b_% | 1,235 | 0.2 |"]
    latex = TABLE.text("latex").splitlines()
    assert latex[0] == r"\begin{tabular}{lrr}"
    assert r"a|b\_\% & 1,235 & 0.2 \\" in latex
    assert latex[-4:] == [r"\midrule", r"total & 12,345,679 & 1.0 \\", r"\bottomrule", r"\end{tabular}"]
    assert r"$\mu$ & $\sigma$" in Table((Column("µ"), Column("σ")), ((1, 2),)).text("latex")


def test_numpy_s_nan_is_nothing_and_a_name_is_one_line():
    table = Table((Column("layer", number=False), Column("x", show=".1f")), (("a\nb", np.float32("nan")), ("c", 1.0)))
    assert table.text("markdown").splitlines()[2:] == ["| a b |  |", "| c | 1.0 |"]
    assert "nan" not in table.text(width=60)


def test_what_comes_from_outside_is_text():
    table = Table((Column("layer", number=False),), (("[red]x[/]\x1b[31m<b>",),))
    assert "[red]x[/]" in table.text(width=60)
    assert "\x1b" not in table.text(width=60) + table.text("markdown")
    assert "&lt;b&gt;" in table.html()
    assert "<b>" not in table.html()


def test_an_empty_table_has_its_titles():
    assert Table((Column("layer"), Column("b", "ns")), ()).text(width=40).split()[:3] == ["layer", "b", "(ns)"]


torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
X = torch.randn(60, 8)
DATA = X, NET(X).argmax(1)
PRICED = an.HardwareProfile.load("hermes")
EIGHT = an.HardwareProfile.load("8bit")


def converted():
    analog = an.convert(NET, EIGHT)
    an.calibrate(analog, X)
    return analog


RESULTS = {
    "cost": lambda: an.cost(NET, PRICED, (8,)),
    "cost without prices": lambda: an.cost(NET, EIGHT, (8,)),
    "budget": lambda: an.noise_budget(converted(), X, repeats=0, progress=False),
    "evaluation": lambda: an.evaluate(NET, DATA, profile=PRICED, chips=2, ages=[0, "1d"], progress=False),
    "one chip, another measure": lambda: an.evaluate(NET, DATA, profile=EIGHT, metric="perplexity", progress=False),
    "sensitivity": lambda: an.sensitivity(NET, PRICED, DATA, chips=2, progress=False),
    "hardware sweep": lambda: an.hardware_sweep(
        NET, DATA, {"adc.bits": [3, 8], "age": [0, "1d"]}, profile=PRICED, progress=False
    ),
    "comparison": lambda: an.compare(NET, DATA, ["8bit", PRICED], chips=2, progress=False),
    "search": lambda: an.design_search(
        NET, DATA, {"adc.bits": [3, 8]}, calibration=X, base=EIGHT, trials=2, progress=False
    ),
    "summary": lambda: an.summary(converted(), X),
}


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("optuna")
    return {name: make() for name, make in RESULTS.items()}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_a_table_a_frame_a_picture_and_a_file(results, name, tmp_path):
    from matplotlib.figure import Figure

    found = results[name]
    assert len(str(found).splitlines()) >= 3
    assert found._repr_html_().startswith("<table")
    found.save(tmp_path / "found.json", {"asked": {"seed": 3}})
    again = type(found).load(tmp_path / "found.json")
    assert str(again) == str(found)
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame())
    assert about(tmp_path / "found.json") == {"asked": {"seed": 3}}
    found.save(tmp_path / "found.csv")
    kept = pd.read_csv(tmp_path / "found.csv", engine="python")
    for name in found.to_frame().select_dtypes("float"):
        np.testing.assert_array_equal(kept[name], found.to_frame()[name], err_msg="files are not rounded")
    assert list(kept) == list(found.to_frame())
    assert len(kept) == len(found.to_frame())
    axes = Figure().subplots()
    assert found.plot(axes) is axes
    assert axes.has_data()


def test_one_result_is_not_read_as_another(results, tmp_path):
    results["cost"].save(tmp_path / "cost.json")
    with pytest.raises(DataError, match="no evaluation, but 'analogsim cost'"):
        an.Evaluation.load(tmp_path / "cost.json")
    with pytest.raises(DataError, match="no such file"):
        an.Evaluation.load(tmp_path / "none.json")
    text = (tmp_path / "cost.json").read_text()
    (tmp_path / "cost.json").write_text(text.replace('"rows": 8', '"rows": 9'))
    with pytest.raises(DataError, match="damaged"):
        an.NetworkCost.load(tmp_path / "cost.json")
    with pytest.raises(DataError, match=r"\.json or \.csv"):
        results["cost"].save(tmp_path / "cost.txt")


def test_units_are_the_same_on_screen_in_files_and_in_python(results):
    found = results["cost"]
    assert found.to_frame()["energy_pJ"].tolist() == [layer.energy for layer in (*found.layers, found.total)]
    assert found.to_frame()["latency_ns"].iloc[-1] == found.total.latency
    assert f"{found.total.energy:,.0f}" in str(found).split()
    assert "energy (pJ)" in " ".join(str(found).split())


def test_what_a_profile_does_not_give_is_unknown_and_said(results):
    found = results["cost without prices"]
    assert (found.total.energy, found.total.latency, found.layers[0].energy) == (None, None, None)
    assert found.unknown["latency"] == "cost.dac_latency, cost.array_latency and cost.adc_latency"
    assert "nan" not in str(found) + found.table().text("json") + found.table().text("csv")
    assert "energy unknown: the profile has no cost.dac_energy (or cost.dac_fom)" in " ".join(str(found).split())
    half = EIGHT.varied(cost={"dac_energy": 1.0, "adc_fom": 2.0, "read_latency": 3.0})
    assert an.cost(NET, half, (8,)).unknown == {"energy": "cost.mac_energy"}
    ideal = half.varied(adc={"bits": None}, cost={"mac_energy": 1.0})
    assert an.cost(NET, ideal, (8,)).unknown == {"energy": "adc.bits"}


def test_a_hardware_sweep_shows_fields_and_values_as_profiles_have_them():
    axes = {"tile.current_limit": [None, 2.0]}
    pairs = EIGHT.varied(cells={"mapping": "differential"})
    found = an.hardware_sweep(NET, DATA, axes, profile=pairs, calibration=X, progress=False)
    head, _, *rows = found.table().text("markdown").splitlines()
    assert head.startswith("| tile.current_limit |")
    assert [row.split("|")[1].strip() for row in rows] == ["null", "2.0"]
    assert found.to_frame()["tile.current_limit"].isna().tolist() == [True, False]


def test_a_comparison_is_its_evaluations_and_costs(results):
    found, before = results["comparison"], {name: value.clone() for name, value in NET.state_dict().items()}
    for one, profile in zip(found.evaluations, (EIGHT, PRICED)):
        assert one == an.evaluate(NET, DATA, profile=profile, chips=2, progress=False)
    assert found.costs == (an.cost(NET, EIGHT, (8,)), an.cost(NET, PRICED, (8,)))
    frame = found.to_frame()
    assert frame["profile"].tolist() == ["8bit", "hermes"]
    assert frame["energy_pJ"].isna().tolist() == [True, False]
    assert "8bit: energy unknown, the profile has no cost.dac_energy" in found.table().caption
    both = an.compare(NET, DATA, [EIGHT, EIGHT.varied(name="other")], chips=1, progress=False).table().caption
    assert "8bit, other: latency unknown, the profile has no cost.dac_latency" in both
    assert all(torch.equal(value, before[name]) for name, value in NET.state_dict().items())
    assert not any(an.analog_layers(NET))
    with pytest.raises(an.AnalogSimError, match="at least one"):
        an.compare(NET, DATA, [])


def test_the_noise_free_evaluation_alone():
    curve = an.noise_sweep(NET, DATA, [0.0], repeats=2, progress=False)
    assert curve.sigmas.tolist() == [0.0]
    assert curve.values.tolist() == [[curve.noise_free] * 2] == [[1.0] * 2]
    assert curve.fitted is None
    assert an.noise_sweep(NET, DATA, [0.0, 1.0], repeats=1, progress=False).sigmas.tolist() == [1.0]
    assert "<table" in curve._repr_html_()
    curve.plot()
