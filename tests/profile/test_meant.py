"""What was meant: keys, values and presets that are misspelt, of another section, or called as others call them."""

import pytest
from pydantic import BaseModel

import analogsim as an
from analogsim.analysis.fields import varied
from analogsim.errors import AnalogSimError, ProfileError
from analogsim.profile import HardwareProfile, presets, words
from analogsim.qat.spec import QATSpec
from analogsim.value import field_names

FIELDS = [
    ({"tile": {"columns": 3}}, "tile.columns: unknown key; did you mean 'tile.cols'"),
    ({"columns": 3}, "columns: unknown key; did you mean 'tile.cols'"),
    ({"noise": {"sigma": 0.1}}, "noise.sigma: unknown key; did you mean 'programming.sigma'"),
    ({"adc": {"step_bits": 1}}, "did you mean 'dac.step_bits'"),
    ({"adc": {"bit": 8}}, "adc.bit: unknown key; did you mean 'adc.bits'"),
    ({"adc_bits": 8}, "adc_bits: unknown key; did you mean 'adc.bits'"),
    ({"bits": 8}, "did you mean 'dac.bits', 'weight.bits', 'adc.bits' or 'cells.bits'"),
    ({"nose": {"output": 1}}, "nose: unknown key; did you mean 'noise'"),
    ({"cells": {"g_ratio": 10}}, "did you mean 'cells.g_min'"),
    ({"cells": {"on-off-ratio": 10}}, "did you mean 'cells.g_min'"),
    ({"device": {"Rmin": 1e3}}, "did you mean 'cells'"),
    ({"forward": {}, "noise": {"out_noise": 0.06}}, "did you mean 'noise.output'"),
    ({"drift": {"nu": {"constnt": 0.1}}}, "drift.nu.constnt: unknown key; did you mean 'drift.nu.constant'"),
    ({"tile": {"mapping": "im2cols"}}, "did you mean 'im2col'"),
    ({"cells": {"mapping": "balanced"}}, "did you mean 'differential'"),
    ({"noise": {"distribution": "normal"}}, "did you mean 'gaussian'"),
    ({"adc": {"kind": "SarADC", "bits": 4, "full_scale": 1.0}}, "did you mean 'sar'"),
    ({"dac": {"input_range": "dinamic"}}, "did you mean 'dynamic'"),
]


@pytest.mark.parametrize(("values", "message"), FIELDS, ids=str)
def test_a_profile_says_what_was_meant(values, message):
    with pytest.raises(ProfileError) as caught:
        HardwareProfile(**values)
    assert message in str(caught.value)
    with pytest.raises(ProfileError) as caught:
        HardwareProfile.load("8bit").varied(**values)
    assert message in str(caught.value)


def test_what_is_like_nothing_is_said_without_a_guess():
    with pytest.raises(ProfileError, match=r"^tile\.zebra: unknown key; zebra: unknown key$"):
        HardwareProfile(zebra=1, tile={"zebra": 1})
    with pytest.raises(ProfileError, match=r"sonos, sram$"):
        HardwareProfile.load("unicorn")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("pmc", "pcm"), ("pcm.yaml", "pcm"), ("RRAM", "reram"), ("flash", "sonos"), ("bss-2", "brainscales2")],
)
def test_a_preset_is_asked_for_by_nearly_its_name(asked, meant):
    with pytest.raises(ProfileError, match=f"did you mean {meant!r}"):
        HardwareProfile.load(asked)


def test_dotted_fields_of_sweeps_and_searches_say_the_same():
    for key, meant in {"columns": "tile.cols", "noise.sigma": "programming.sigma", "w_noise": "noise.read"}.items():
        with pytest.raises(ProfileError, match=f"{key!r} is no field of a profile; did you mean {meant!r}"):
            varied(HardwareProfile(), {key: 1})


def test_of_kinds_that_a_value_may_have_only_the_nearest_is_complained_of():
    """A law with a wrong key is no number, no tuple and no law in two branches either, which helps nobody."""
    with pytest.raises(ProfileError) as caught:
        HardwareProfile(programming={"sigma": {"amplitud": 0.1, "scale": 1.0}})
    said = "programming.sigma.amplitude: Field required; programming.sigma.amplitud: unknown key"
    assert str(caught.value) == f"{said}; did you mean 'programming.sigma.amplitude'?"


def test_other_specifications_say_so_too():
    for make, message in [
        (lambda: an.NoiseSpec(sigmas=1.0), "did you mean 'sigma'"),
        (lambda: QATSpec(weights_bits=4), "did you mean 'weight_bits'"),
        (lambda: an.NoiseSpec(sigma=1.0, target="weight"), "did you mean 'weights'"),
    ]:
        with pytest.raises(AnalogSimError, match=message):
            make()


def values_of(kind: type[BaseModel]) -> set[str]:
    import re

    from analogsim.profile.kinds import ADC_KINDS, CELL_MODELS, DISTRIBUTIONS

    enums = re.findall(r"'(?:enum|const)': (\[[^]]*\]|'[^']*')", str(kind.model_json_schema()))
    found = {word for text in enums for word in re.findall(r"'([^']*)'", text)}
    return found.union(*(kinds.names for kinds in (ADC_KINDS, CELL_MODELS, DISTRIBUTIONS)))


def test_every_word_leads_to_something_that_there_is():
    known = {*field_names(HardwareProfile), *values_of(HardwareProfile), *presets()}
    assert not {name for names in words.SYNONYMS.values() for name in names} - known
