"""Profiles: what is refused and how it is said, files, and derived copies."""

import copy
import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analogsim.errors import ProfileError
from analogsim.profile import ADC, DAC, HardwareProfile, Noise, Tile, Weight, presets
from tests.support.chips import DEEP, POLYNOMIAL

positive = st.floats(1e-6, 1e6)
profiles = st.builds(
    HardwareProfile,
    name=st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1),
    tile=st.builds(Tile, rows=st.none() | st.integers(1, 4096), mapping=st.sampled_from(["channel", "im2col"])),
    dac=st.builds(DAC, bits=st.none() | st.integers(2, 16), signed=st.booleans(), input_range=positive),
    weight=st.builds(
        Weight, bits=st.none() | st.integers(2, 16), w_max=positive | st.sampled_from(["column", "tensor"])
    ),
    noise=st.builds(Noise, output=st.floats(0, 9), read=st.floats(0, 9), multiplicative=st.floats(0, 9)),
    adc=st.builds(ADC, bits=st.none() | st.integers(2, 16), full_scale=positive | st.just("calibrated")),
)

IMPOSSIBLE = [
    ({"dac": {"bits": 0}}, "dac.bits"),
    ({"dac": {"bits": 1}}, "dac: a signed DAC needs at least 2 bits"),
    ({"dac": {"bits": 17}}, "dac.bits"),
    ({"dac": {"input_range": 0.0}}, "dac.input_range"),
    ({"dac": {"input_range": "auto"}}, "dac.input_range"),
    ({"adc": {"bits": 1, "full_scale": 1.0}}, "adc.bits"),
    ({"adc": {"full_scale": 0.0}}, "adc.full_scale"),
    ({"adc": {"full_scale": -1.0}}, "adc.full_scale"),
    ({"adc": {"bits": 8, "full_scale": None}}, "adc: an ADC with bits needs a full_scale"),
    ({"noise": {"output": -0.1}}, "noise.output"),
    ({"noise": {"read": math.nan}}, "noise.read"),
    ({"noise": {"multiplicative": math.inf}}, "noise.multiplicative"),
    ({"tile": {"rows": 0}}, "tile.rows"),
    ({"tile": {"mapping": "spiral"}}, "tile.mapping"),
    ({"weight": {"w_max": 0.0}}, "weight.w_max"),
    ({"name": ""}, "name"),
    ({"adc_bits": 8}, "^adc_bits: unknown key"),
    ({"adc": {"bit": 8}}, "^adc.bit: unknown key"),
    ({"cells": {"bits": 3}}, r"^cells.bits: needs weight.bits, and at most weight.bits - 1 \(got 3 and None\)$"),
    ({"cells": {"g_min": 1.0}}, "cells.g_min"),
    ({"cells": {"g_min": 0.1}}, "signed cell has no g_min"),
    ({"cells": {"subtraction": "digital"}}, "differential pair's"),
    ({"weight": {"bits": 3}, "cells": {"bits": 3}}, "at most weight.bits - 1"),
    ({"programming": {"sigma": -0.1}}, "programming.sigma"),
    ({"programming": {"sigma": []}}, "programming.sigma"),
    ({"programming": {"sigma": [0.1, math.nan]}}, "programming.sigma"),
    ({"drift": {"t0": 0.0}}, "drift.t0"),
    ({"drift": {"nu": {"constant": 0.1, "low": 0.2, "high": 0.1}}}, "low must not exceed high"),
    ({"flicker": {"read_time": 0.0}}, "flicker.read_time"),
    ({"flicker": {"amplitude": {"constant": 0.1}, "exponent": 0.5}}, "flicker: exponent is of a constant amplitude"),
    ({"faults": {"stuck_on": 1.1}}, "faults.stuck_on"),
    ({"faults": {"stuck_on": 0.6, "stuck_off": 0.6}}, "must not exceed 1"),
    ({"wires": {"row": -1.0}}, "wires.row"),
    ({"dac": {"step_bits": 2}}, "step_bits"),
    ({"dac": {"bits": 4, "step_bits": 4}}, "step_bits"),
    ({"adc": {"kind": "sar", "full_scale": 1.0}}, "needs bits"),
    ({"adc": {"capacitor_mismatch": 0.1, "bits": 4, "full_scale": 1.0}}, "kind 'sar' or 'ramp'"),
    ({"adc": {"inl": 0.1, "bits": 4, "full_scale": 1.0, "kind": "sar"}}, "kind 'ramp'"),
    ({"adc": {"offset_error": 0.1, "full_scale": None}}, "need a full_scale"),
    ({"noise": {"distribution": "cauchy"}}, "noise.distribution"),
    ({"noise": {"wander_length": 0.0}}, "noise.wander_length"),
]


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_with_its_path(values, message):
    with pytest.raises(ProfileError, match=message) as caught:
        HardwareProfile(**values)
    assert "[type=" not in str(caught.value), "pydantic's own wording"


@given(profiles)
def test_a_profile_survives_yaml_and_json(tmp_path_factory, profile):
    folder = tmp_path_factory.mktemp("profiles")
    for name in ("p.yaml", "p.json"):
        profile.save(folder / name)
        assert HardwareProfile.load(folder / name) == profile
    assert sorted(path.name for path in folder.iterdir()) == ["p.json", "p.yaml"]


def test_a_profile_is_a_value():
    one, same = HardwareProfile(dac={"bits": 8}), HardwareProfile(dac={"bits": 8})
    assert one == same
    assert hash(one) == hash(same)
    with pytest.raises(ValueError, match="frozen"):
        one.name = "other"


def test_a_varied_copy_is_validated_and_keeps_the_rest():
    profile = HardwareProfile.load("8bit")
    varied = profile.varied(noise={"output": 0.5}, name="v")
    assert (varied.noise.output, varied.adc, varied.name) == (0.5, profile.adc, "v")
    with pytest.raises(ProfileError, match=r"noise\.output"):
        profile.varied(noise={"output": -1})
    with pytest.raises(ProfileError, match="unknown key"):
        profile.varied(nose={"output": 1})


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_says_where_it_comes_from(name):
    profile = HardwareProfile.load(name)
    assert profile.name == name
    assert len(profile.description) > 60


def test_presets_are_those_of_the_documentation():
    pcm, rram = ["hermes", "hermes-1", "pcm", "pcm-afm"], ["cmo-reram", "reram", "reram-crosssim", "reram-milo"]
    chips = [*pcm, *rram, "brainscales2", "isaac", "sonos", "sram"]
    assert presets() == sorted(["8bit", "ideal", "noisy", *chips])
    assert HardwareProfile.load("ideal").is_ideal
    assert not HardwareProfile.load("8bit").is_ideal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "mapping of fields"),
        ("a: [", "no valid YAML or JSON"),
        ("dac: {bits: 0}", r"dac\.bits"),
        ("a: 1\na: 2", "'a' comes twice"),
    ],
)
def test_a_file_that_is_no_profile_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        HardwareProfile.load(path)
    assert "bad.yaml" in str(caught.value)


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(ProfileError, match="8bit, brainscales2, cmo-reram, hermes, hermes-1, ideal, isaac, noisy, pcm"):
        HardwareProfile.load("nosuch")


def test_the_schema_says_each_unit():
    schema = HardwareProfile.model_json_schema()
    for part in ("Tile", "DAC", "Weight", "Noise", "ADC"):
        for field, entry in schema["$defs"][part]["properties"].items():
            assert len(entry.get("description", "")) > 20, f"{part}.{field} has no description"
    assert "normalised units" in schema["$defs"]["Noise"]["properties"]["output"]["description"]
    json.dumps(schema)
    yaml.safe_dump(schema)


def test_deep_profiles_survive_a_round_trip(tmp_path):
    profile = DEEP.varied(programming={"sigma": POLYNOMIAL}, flicker={"amplitude": 0.01})
    for name in ("chip.yaml", "chip.json"):
        profile.save(tmp_path / name)
        assert HardwareProfile.load(tmp_path / name) == profile
    assert hash(profile) == hash(DEEP.varied(programming={"sigma": POLYNOMIAL}, flicker={"amplitude": 0.01}))


def test_what_a_profile_knows_of_itself_is_no_part_of_it():
    """Asking whether it is deep changes neither equality, hash, dump nor what a copy knows."""
    asked, fresh = (HardwareProfile(programming={"sigma": 0.1}) for _ in range(2))
    assert asked.needs_chip
    assert asked.is_drawn
    assert asked == fresh
    assert hash(asked) == hash(fresh)
    assert asked.model_dump() == fresh.model_dump()
    assert not asked.without_variation().needs_chip
    assert not asked.without_variation().is_drawn
    assert asked.varied(name="again").needs_chip
    assert copy.deepcopy(asked) == fresh


def test_what_a_law_of_the_conductance_says_is_all_that_is_said():
    law = {"constant": 0.01, "slope": -0.01, "low": 0.005, "high": 0.05}
    profile = HardwareProfile(flicker={"amplitude": law, "maximum": 0.04})
    assert profile.flicker.exponent == 0
    with pytest.raises(ProfileError, match="a law says by itself how q depends on the conductance"):
        profile.varied(flicker={"exponent": 0.65})
    assert profile.varied(flicker={"amplitude": 0.01, "exponent": 0.65}).flicker.exponent == 0.65


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_levels_are_steps_from_0_to_the_full_scale(bits):
    """`bits` signed bits count from -(2^(b-1) - 1) to 2^(b-1) - 1, unsigned ones from 0 to 2^b - 1."""
    signed, unsigned = len(range(1, 2 ** (bits - 1))), len(range(1, 2**bits))
    assert DAC(bits=bits).levels == ADC(bits=bits).levels == Weight(bits=bits).levels == signed
    assert DAC(bits=bits, signed=False).levels == ADC(bits=bits, signed=False).levels == unsigned


def test_what_does_not_round_has_no_levels():
    assert DAC().levels == ADC().levels == Weight().levels == 0
    assert DAC(bits=1, signed=False).levels == 1
