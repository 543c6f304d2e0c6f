"""docs/frameworks.md: training on simulated hardware by the trainers of others, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.+?)```", PAGE, re.MULTILINE | re.DOTALL))
NEEDS = {
    "transformers' Trainer": ("transformers", "accelerate"),
    "Lightning": ("lightning",),
    "A loop of your own": (),
    "Any network, any data, any measure": ("transformers",),
}


@pytest.mark.slow
@pytest.mark.parametrize("title", NEEDS)
def test_the_example_runs(title, tmp_path):
    """In a process of its own: these libraries change logging, warnings and signals of theirs."""
    for library in NEEDS[title]:
        pytest.importorskip(library)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", CODE[title]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert not done.returncode, done.stderr[-3000:]


def test_every_example_is_run():
    assert set(CODE) == set(NEEDS)
