"""Files that are written whole or not at all."""

import math

import pytest

from analogsim.errors import DataError
from analogsim.files import plain, replaced, writable, write_json


def broken_off(path, error):
    with replaced(path) as aside:
        aside.write_text("half of the n")
        raise error


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            broken_off(path, error)
        assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with replaced(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_what_cannot_be_written_is_said(tmp_path):
    with writable(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").write_text("")
    with pytest.raises(DataError, match=r"c: cannot be written: Not a directory|c: cannot be written: File exists"):
        with writable(tmp_path / "a" / "b" / "c"):
            pass


def test_json_holds_what_is_not_finite_as_text(tmp_path):
    assert plain((1.0, math.nan, (-math.inf,))) == [1.0, "nan", ["-inf"]]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": math.nan})
    assert not list(tmp_path.iterdir())
