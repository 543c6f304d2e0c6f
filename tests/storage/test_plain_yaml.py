"""YAML as people write it, and the limits of what a file may ask for."""

import pytest
import yaml

from analogsim import HardwareProfile
from analogsim.errors import ProfileError, StudyError
from analogsim.storage.files import content
from analogsim.storage.plain_yaml import DEEPEST, LARGEST, LONGEST, read_yaml
from analogsim.study import load_study
from analogsim.study.grid import MOST, Study
from tests.study.test_study import TINY

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi")
)
REFUSED = {
    "a date that is none": "a: 2024-13-45",
    "a binary number without digits": "a: 0b_",
    "no whole number": "a: !!int foo",
    "no number": "a: !!float foo",
    "no truth value": "a: !!bool foo",
    "no time": "a: !!timestamp foo",
    "no bytes": "a: !!binary x",
    "a number of very many digits": "a: " + "9" * 4300,
    "a hexadecimal one": "a: 0x" + "f" * 100_000,
    "an object of Python's": "a: !!python/object/apply:os.system ['true']",
    "deep lists": "[" * 5000,
    "deep mappings": "{a: " * 5000,
    "many laughs": LAUGHS,
    "merged laughs": LAUGHS.replace("[", "[{x: ").replace(",", "}, {x: ").replace("]", "}]"),
    "itself": "a: &a [*a]",
    "itself as a key": "a: &a {b: *a}",
    "too long": "a: " + "x" * LARGEST,
    "no such character": 'a: "\\UFFFFFFFF"',
    "half a character": 'a: "\\ud800"',
    "a key that is a mapping": "? {a: b}\n: c",
    "a key that comes twice": "a: 1\nb: 2\na: 3",
    "a control character": "a: \0",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_yaml_is_refused_at_once(text, tmp_path):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    for reader, error in ((load_study, StudyError), (HardwareProfile.load, ProfileError)):
        with pytest.raises(error, match=r"file.yaml: (no valid YAML|not a readable|cannot be read)") as caught:
            reader(path)
        assert len(str(caught.value)) < 600


def test_numbers_are_numbers_and_text_that_begins_with_one_is_text():
    """The pattern of a float had no end, so that this text was one, and a ValueError."""
    text = "about: 1e4 images would be better\nlr: 1e-3\nbig: 1.5E+6\nsmall: .5e-2\nname: 1e5x\n"
    read = {"about": "1e4 images would be better", "lr": 1e-3, "big": 1.5e6, "small": 5e-3, "name": "1e5x"}
    assert read_yaml(text) == read
    assert read_yaml("") is None
    assert read_yaml("a: " + "9" * LONGEST) == {"a": int("9" * LONGEST)}


def test_aliases_and_merges_are_read():
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n"
    assert read_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}
    assert read_yaml("[" * DEEPEST + "]" * DEEPEST)


def test_a_study_of_too_many_trainings_is_refused_before_they_are_made():
    grids = {f"args.a{number}": list(range(10)) for number in range(9)}
    for change in ({"seeds": 10**9}, {"methods": [{"name": "x", "grid": grids}]}, {"seeds": MOST + 1}):
        with pytest.raises(StudyError, match="trainings, more than the 100,000"):
            Study(**(TINY | change))
    assert Study(**(TINY | {"seeds": MOST})).trainings == MOST


@pytest.mark.slow
def test_complaints_about_very_much_are_few():
    with pytest.raises(StudyError, match="and 49992 more") as caught:
        Study(**TINY, **{f"unknown{number}": 1 for number in range(50_000)})
    assert len(str(caught.value)) < 1000


def test_a_file_s_size_has_a_limit(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(OSError, match="2,147,483,648 bytes, more than"):
        content(path)
    for reader, error in ((load_study, StudyError), (HardwareProfile.load, ProfileError)):
        with pytest.raises(error, match="more than"):
            reader(path)
