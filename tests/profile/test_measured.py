"""Measured data in profiles: what files and columns mean, and how what is none of it is refused."""

import contextlib
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from analogsim.errors import ProfileError
from analogsim.profile import HardwareProfile, Table
from analogsim.profile.measured import ROWS, read_csv

CELLS = {"mapping": "differential", "g_max": 25.0}


def sigma(table, **cells):
    return HardwareProfile(cells=CELLS | cells, programming={"sigma": table}).programming.sigma


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("g,sigma", "0,0.01\n0.5,0.02\n1,0.04"),
        ("g_uS,sigma_uS", "0,0.25\n12.5,0.5\n25,1"),
        ("g [µS], sigma (nS)", "0,250\n12.5,500\n25,1000"),
        ("g_%,sigma_%", "0,1\n50,2\n100,4"),
        ("sigma_mS,cells,G_S", "2.5e-4,100,0\n5e-4,90,1.25e-5\n1e-3,80,2.5e-5"),
    ],
)
def test_columns_mean_the_same_in_every_unit(tmp_path, header, rows):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sigma.csv").write_text(f"# a made-up chip\n\n{header}\n{rows}\n\n", "utf-8-sig")
    (tmp_path / "chip.yaml").write_text(
        "cells: {mapping: differential, g_max: 25.0}\nprogramming: {sigma: {file: data/sigma.csv, outside: hold}}\n"
    )
    table = HardwareProfile.load(tmp_path / "chip.yaml").programming.sigma
    assert table.g == pytest.approx((0, 0.5, 1))
    assert table.value == pytest.approx((0.01, 0.02, 0.04))
    assert (table.outside, table.source) == ("hold", "data/sigma.csv")


def test_resistances_are_turned_into_conductances():
    """g = 1/R: of 40, 80 and 400 kΩ 25, 12.5 and 2.5 µS, in rising order."""
    table = sigma({"g_uS": [2.5, 12.5, 25], "sigma_uS": [1, 2, 3]})
    for ohm, unit in ((1.0, "kOhm"), (1000.0, "Ohm"), (1e-3, "MΩ")):
        file = {f"g_{unit}": [400 * ohm, 80 * ohm, 40 * ohm], "sigma_uS": [1, 2, 3]}
        assert sigma(file).g == pytest.approx(table.g)
    with pytest.raises(ProfileError, match=r"^programming.sigma: a conductance: a resistance must be above 0$"):
        sigma({"g_kOhm": [0, 1], "sigma": [1, 2]})
    with pytest.raises(ProfileError, match="an error of a conductance has no unit kOhm; its units: %, S"):
        sigma({"g_kOhm": [200, 100], "sigma_kOhm": [1, 2]})


def test_falling_rows_of_a_file_are_turned_around(tmp_path):
    (tmp_path / "r.csv").write_text("g_kOhm,sigma_uS\r\n40,3\r\n80,2\r\n400,1\r\n")
    table = sigma({"file": str(tmp_path / "r.csv")})
    assert table.g == pytest.approx((0.1, 0.5, 1))
    assert table.value == pytest.approx((0.04, 0.08, 0.12))


def test_every_law_of_the_conductance_is_one_for_every_field():
    laws = [
        0.01,
        (0.01, 0.02),
        {"amplitude": 0.01, "scale": 0.1},
        {"constant": 0.01, "slope": -0.001},
        {"below": {"constant": 0.01}, "limit": 0.5, "above": [0.01]},
        {"g": [0, 1], "value": [0.01, 0.02]},
    ]
    for law in laws:
        for part, field in (
            ("programming", "sigma"),
            ("drift", "nu"),
            ("drift", "nu_sigma"),
            ("flicker", "amplitude"),
            ("cells", "read_noise"),
        ):
            profile = HardwareProfile(**{part: {field: law}})
            assert profile.is_random
            assert HardwareProfile(**profile.model_dump()) == HardwareProfile(**json.loads(profile.model_dump_json()))


def test_a_profile_with_tables_is_a_value(tmp_path):
    """It is saved inline: what is read back needs no other file."""
    (tmp_path / "s.csv").write_text("g_uS,sigma_uS\n" + "".join(f"{g / 7},{g / 900}\n" for g in range(176)))
    profile = HardwareProfile(cells=CELLS, programming={"sigma": {"file": str(tmp_path / "s.csv")}})
    assert profile.programming.sigma.source == str(tmp_path / "s.csv")
    (tmp_path / "s.csv").unlink()
    for name in ("p.yaml", "p.json"):
        profile.save(tmp_path / name)
        assert HardwareProfile.load(tmp_path / name) == profile
    assert hash(profile) == hash(pickle.loads(pickle.dumps(profile)))
    assert profile.varied(cells={"g_max": 50.0}).programming.sigma == profile.programming.sigma


def test_the_largest_conductance_alone_changes_nothing():
    assert HardwareProfile(cells={"g_max": 25.0}).is_ideal
    assert not HardwareProfile(cells={"g_max": 25.0}).needs_chip


def test_drift_is_read_from_rows_in_any_order(tmp_path):
    (tmp_path / "drift.csv").write_text("t_h,g0_uS,g_uS,cells\n1,25,20,9\n24,5,4,8\n1,5,4.5,7\n# a day\n24,25,15,9\n")
    drift = {"t0": 3600.0, "table": {"file": str(tmp_path / "drift.csv")}}
    table = HardwareProfile(cells=CELLS, drift=drift).drift.table
    assert table.g0 == pytest.approx((0.2, 1))
    assert table.seconds == (3600, 86400)
    assert table.g == (pytest.approx((0.18, 0.16)), pytest.approx((0.8, 0.6)))
    inline = {"g0_uS": [5, 5, 25, 25], "t_h": [1, 24, 1, 24], "g_uS": [4.5, 4, 20, 15], "source": table.source}
    grid = {"g0": [0.2, 1], "seconds": [3600, 86400], "g": [[0.18, 0.16], [0.8, 0.6]], "source": table.source}
    profile = HardwareProfile(cells=CELLS, drift={"t0": 3600.0, "table": inline})
    assert profile.drift.table == table
    close = HardwareProfile(drift={"t0": 3600.0, "table": grid}).drift.table
    assert np.allclose(close.g, table.g)
    profile.save(tmp_path / "p.yaml")
    assert HardwareProfile.load(tmp_path / "p.yaml") == profile
    assert profile.is_drawn


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"g": [[1, 1], [1, 1]], "g0": [0, 1], "seconds": [10, 20, 30]},
            "g must have 2 rows, one a conductance, of 3 times",
        ),
        (
            {"g": [[1, 1], [1, 1]], "g0": [1, 0], "seconds": [10, 30]},
            r"conductances must increase, each one once \(got 1",
        ),
        ({"g": [[1, 1], [1, 1]], "g0": [0, 1], "seconds": [30, 30]}, "times must increase"),
        ({"g": [[1, 1], [1, 1]], "g0": [0, 1], "seconds": [0, 30]}, "seconds.0"),
        (
            {"g": [1, 1, 1], "g0": [0, 0, 1], "seconds": [10, 30, 10]},
            "a row is needed for each of 2 .* 2 times.*got 3 rows",
        ),
        ({"g": [1, 1, 1, 2], "g0": [0, 0, 1, 1], "seconds": [10, 30, 10, 10]}, "a row is needed for each"),
        (
            {"g": [[1, 1], [1, 1]], "g0": [0, 1], "seconds": [30, 60]},
            "first read, t0 = 20 s, is outside the table's 30 to 60 s",
        ),
    ],
)
def test_what_is_no_table_of_drift_is_refused(table, message):
    with pytest.raises(ProfileError, match=rf"^drift.*{message}"):
        HardwareProfile(drift={"table": table})


def test_a_table_of_drift_stands_alone():
    table = {"g": [[1, 1], [1, 1]], "g0": [0, 1], "seconds": [20, 60]}
    with pytest.raises(
        ProfileError, match="drift: nu and nu_sigma are of the power law: leave them out beside a table"
    ):
        HardwareProfile(drift={"table": table, "nu": 0.1})
    late = table | {"seconds": [30, 60], "outside": "hold"}
    assert HardwareProfile(drift={"table": late}).drift.table.outside == "hold"


def test_the_mean_error_has_a_sign_and_is_a_constant_a_polynomial_or_a_table():
    for mean in (-0.1, (0.1, -0.2), {"g": [0, 1], "value": [-0.1, 0.1]}):
        assert HardwareProfile(programming={"mean": mean}).needs_chip
    with pytest.raises(ProfileError, match="programming.mean: a law of either sign is a number, coefficients"):
        HardwareProfile(programming={"mean": {"amplitude": 0.1, "scale": 0.1}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"g": [0, 1], "value": [1]}, r"as many values as conductances are needed|sigma.value"),
        ({"g": [0, 0.5, 1], "value": [1, 1]}, r"as many values as conductances are needed \(got 2 for 3\)"),
        ({"g": [0, 0.5, 0.5], "value": [1, 1, 1]}, r"conductances must increase, each one once \(got 0.5, then 0.5\)"),
        ({"g": [0, 1], "value": [0.1, -0.1]}, "a value must not be negative"),
        ({"g": [0, 1], "value": [0.1, float("nan")]}, "sigma.value.1"),
        ({"g": [0, 1], "value": [0.1, True]}, r"sigma.value: a number or text is needed, not True"),
        ({"g": [0, 25], "value": [0.1, 0.2]}, "sigma.g.1: Input should be less than or equal to 10"),
        ({"g": [1], "value": [0.1]}, "sigma.g: .* at least 2"),
        ({"g": [0, 1]}, "sigma.value: Field required"),
        ({"g": [0, 1], "value": [0, 1], "outside": "clip"}, "sigma.outside"),
        ({"g": [0, 1], "value": [0, 1], "inside": 1}, "sigma.inside: unknown key"),
        ({"points": 3}, "sigma: a law is a number, coefficients"),
        ({"file": 3}, r"sigma: file: the path of a CSV file is needed \(got 3\)"),
        ({"file": ""}, "file: the path"),
        ({"file": "nowhere.csv"}, "nowhere.csv: not a readable text file"),
    ],
)
def test_what_is_no_table_is_refused_with_its_field(table, message):
    with pytest.raises(ProfileError, match=rf"^programming\.(sigma: .*)?({message})"):
        sigma(table)


def test_units_need_the_largest_conductance():
    message = r"programming.sigma: a conductance in uS needs cells.g_max, the largest conductance in µS"
    with pytest.raises(ProfileError, match=message):
        sigma({"g_uS": [0, 25], "sigma_uS": [1, 2]}, g_max=None)
    with pytest.raises(ProfileError, match=r"^cells.g_max: .*greater than 0.*sigma: a conductance|cells.g_max"):
        sigma({"g_uS": [0, 25], "sigma_uS": [1, 2]}, g_max=-1.0)
    assert sigma({"g": [0, 1], "sigma": [1, 2]}, g_max=None).value == (1, 2)
    with pytest.raises(ProfileError, match="drift.nu: a ratio has no unit uS; its units: % or none"):
        HardwareProfile(cells=CELLS, drift={"nu": {"g_uS": [0, 25], "nu_uS": [0.1, 0.2]}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: a line of column names and rows of numbers are needed"),
        ("# nothing\n", "a line of column names"),
        ("g,sigma\n", "a line of column names"),
        ("0,1\n1,2\n", "x.csv, line 1: the first line must name the columns .got '0'"),
        ("g,sigma\n0,1\n\n0.5,wide\n", "x.csv, line 4: 'wide' in column 'sigma' is no finite number"),
        ("g,sigma\n0,inf\n", "line 2: 'inf' in column 'sigma' is no finite number"),
        ("g,sigma\n0,\n", "line 2: '' in column 'sigma' is no finite number"),
        ("g,sigma\n0;1\n", "line 2: 1 numbers for 2 columns, separated by commas"),
        ("g;sigma\n0;1\n", "no column|the first line|is no finite number"),
        ("g,g\n0,1\n", "line 1: every column needs a name of its own"),
        ("g,,sigma\n0,1,2\n", "line 1: every column needs a name"),
        ('g,sigma\n"0,1\n', "line 2: no CSV"),
        ("g,sigma\n" + "1,1\n" * (ROWS + 1), f"line {ROWS + 2}: more than 4,096 rows"),
        ("g,sigma\n" + "#" * 400_000, "bytes, more than"),
        ("g,tau\n0,1\n1,2\n", "x.csv: no column 'sigma'; the columns are 'g, tau'"),
        ("g,g_uS,sigma\n0,1,1\n", "x.csv: 2 columns 'g'"),
        ("g,sigma\n1,1\n1,2\n", "conductances must increase"),
    ],
)
def test_a_file_that_is_no_table_is_named_with_the_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ProfileError, match=message):
        sigma({"file": str(tmp_path / "x.csv")})


def test_a_profile_s_file_names_itself_and_its_table(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"g,sigma\n0,\xff\n")
    (tmp_path / "chip.yaml").write_text("programming: {sigma: {file: x.csv}}")
    with pytest.raises(ProfileError, match=r"chip.yaml: programming.sigma: .*x.csv: not a readable text file"):
        HardwareProfile.load(tmp_path / "chip.yaml")


@given(st.text(max_size=200) | st.text(st.sampled_from("g,sima_uS01.e-\n\r#\"'\t;"), max_size=200))
def test_any_text_is_columns_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    path.write_text(text, "utf-8", "surrogatepass", newline="")
    with contextlib.suppress(ProfileError):
        columns = read_csv(path)
        assert len({len(column) for column in columns.values()}) == 1


def test_the_schema_knows_the_file_and_tells_a_table_from_other_laws():
    schema = HardwareProfile.model_json_schema()["$defs"]["Table"]
    assert schema["properties"]["file"]["type"] == "string"
    written, file, units = schema["anyOf"]
    assert (written, file) == ({"required": ["g", "value"]}, {"required": ["file"]})
    pattern = re.compile(units["propertyNames"]["pattern"])
    assert all(map(pattern.search, ("g_uS", "sigma (nS)", "g [µS]", "outside")))
    assert not any(
        map(pattern.search, ("amplitude", "scale", "constant", "slope", "low", "high", "below", "limit", "above"))
    )


def test_a_table_by_itself_is_in_the_profile_s_units():
    assert Table(g=(0, 1), value=(2, 3)).source == ""
    with pytest.raises(ValidationError, match="extra_forbidden|Extra inputs"):
        Table(g=(0, 1), value=(2, 3), file="x.csv")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"g_S": [0, 25], "sigma_uS": [1, 2]},
            r"a conductance: 25 S is 1e\+06 times cells.g_max, 25 µS; check the units",
        ),
        ({"g_uS": [0, 25], "sigma_mS": [0.1, 1]}, r"an error of a conductance: 1 mS is 40 times cells.g_max, 25 µS"),
        ({"g_Ohm": [4e4, 1], "sigma_uS": [1, 2]}, r"a conductance: 1 Ohm is 4e\+04 times cells.g_max"),
    ],
)
def test_numbers_in_a_wrong_unit_are_seen(columns, said):
    with pytest.raises(ProfileError, match=rf"^programming.sigma: {said}"):
        sigma(columns, g_max=25.0)


def test_one_point_is_no_curve():
    with pytest.raises(
        ProfileError, match=r"^programming.sigma.g: there must be at least 2 \(got 1\); .*sigma.value: there"
    ):
        sigma({"g": [1], "value": [0.1]})
