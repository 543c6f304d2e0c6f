"""Writing profiles: templates, empty sections, schemas, and profiles side by side."""

import json
import re

import pytest
from pydantic import BaseModel

from analogsim.errors import ProfileError
from analogsim.profile import HardwareProfile, presets
from analogsim.profile.compare import compare
from analogsim.profile.template import template

SECTIONS = {
    name: field.annotation
    for name, field in HardwareProfile.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@pytest.mark.parametrize("name", presets())
def test_a_template_is_the_preset_with_its_comments(name, tmp_path):
    from analogsim.profile.hardware import text_of

    text = template(name)
    assert HardwareProfile.loads(text) == HardwareProfile.load(name)
    sources = [line.partition(" #")[2].strip() for line in text_of(name).splitlines() if " #" in line]
    assert all(source in text for source in sources)
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    assert template(file) == text, "a template of a template says everything once"


def test_a_template_has_every_field_with_its_docstring():
    text = template()
    assert HardwareProfile.loads(text) == HardwareProfile()
    plain = " ".join(re.sub(r"^ *# ?", "", text, flags=re.MULTILINE).split())
    for name, section in SECTIONS.items():
        assert f"\n{name}:\n" in text
        for field, about in section.model_fields.items():
            assert f"\n  #{field}: " in text
            assert " ".join(about.description.split()) in plain


def test_a_commented_field_is_taken_up_by_removing_its_sign():
    """Each default alone, and all at once: the sections' own defaults."""
    text = template()
    for line in re.findall(r"^  #\w+: .*", text, re.MULTILINE):
        HardwareProfile.loads(text.replace(line, line.replace("#", "", 1)))
    every = HardwareProfile.loads(re.sub(r"^( *)#(\w+: )", r"\1\2", text, flags=re.MULTILINE))
    assert every == HardwareProfile(**{name: section() for name, section in SECTIONS.items()})
    assert HardwareProfile.loads(text.replace("  #rows: 256", "  rows: 64")).tile.rows == 64


@pytest.mark.parametrize(
    "text",
    [
        "base: &a {bits: 8}\n",  # no field: refused
        "dac: &a {bits: 8}\nweight: *a\n",
        "adc: {}\n",
        "{tile: {rows: 8}, name: 'x'}\n",
        "description: |\n  # text that looks like a comment\nname: a\n",
        "drift:\n  # why\n  nu:\n    constant: 0.1 # measured\n    # and by how much\n    high: 0.2\n  t0: 3\n",
    ],
)
def test_whatever_way_a_file_is_written_its_template_is_the_same_profile(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        profile = HardwareProfile.load(file)
    except ProfileError:
        with pytest.raises(ProfileError, match="base: unknown key"):
            template(file)
        return
    assert HardwareProfile.loads(template(file)) == profile
    assert all(comment in template(file) for comment in re.findall(r"# (?:why|measured|and by)", text))


def test_a_schema_may_be_named_and_a_section_empty(tmp_path):
    for name, text in {
        "a.json": '{"$schema": "profile.schema.json", "tile": null,\t"dac": {"bits": 8}}',
        "a.yaml": "$schema: profile.schema.json\ntile:\ndac: {bits: 8}\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert HardwareProfile.load(tmp_path / name) == HardwareProfile(dac={"bits": 8})
    with pytest.raises(ProfileError, match="zebra: unknown key"):
        HardwareProfile.loads("zebra:\n")


def test_the_schema_takes_what_files_may_have():
    schema = HardwareProfile.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["$schema"]["type"] == "string"
    for name in SECTIONS:
        assert {"type": "null"} in schema["properties"][name]["anyOf"]
    json.dumps(schema)


def test_profiles_side_by_side_differ_where_they_differ():
    pcm, hermes = HardwareProfile.load("pcm"), HardwareProfile.load("hermes")
    rows = {row.field: row for row in compare([pcm, hermes, pcm])}
    assert set(rows) == {f"{name}.{field}" for name, section in SECTIONS.items() for field in section.model_fields}
    assert rows["drift.t0"].values == (20.0, 300.0, 20.0)
    assert rows["drift.t0"].differs
    assert not rows["tile.rows"].differs
    assert not any(row.differs for row in compare([pcm, pcm]))
    units = {
        "drift.t0": "seconds",
        "noise.read": "fraction of the full-scale weight",
        "noise.output": "normalised units",
        "cost.adc_energy": "pJ",
        "adc.inl": "LSB",
        "faults.stuck_on": "probability",
        "wires.row": "no unit",
        "adc.kind": "",
        "programming.sigma": "fraction of g_max",
    }
    assert {field: rows[field].unit for field in units} == units
