"""docs/coming_from.md: its translations run as they stand."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- needs (\w+) -->\n\n)?```python\n(.+?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("needs", "code"), [block[1:] for block in BLOCKS], ids=["CrossSim", "aihwkit"])
def test_a_translation_runs_as_it_stands(needs, code):
    if needs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(needs, reason=f"{needs} is not installed: make test-peers")
            __import__(f"{needs}.simulator.configs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "docs/coming_from.md", "exec"), {})


def test_every_setting_that_the_page_names_is_known():
    from analogsim.profile import HardwareProfile
    from analogsim.value import field_names

    named = re.findall(r"`([a-z]+\.[a-z_0]+)[`:]", "\n".join(re.findall(r"^\|[^|]+\|([^|]+)\|", PAGE, re.MULTILINE)))
    assert len(named) > 20
    assert set(named) <= set(field_names(HardwareProfile))
