"""The README's Python runs as it stands, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md"))]


def test_python_runs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    curve = names["curve"]
    assert curve.quantity == "noise.output"
    assert curve.noise_free > 0.9
    assert 0.01 < curve.midpoint < 100
    assert "µ = " in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def anchors(page):
    """Names of a page's headings, as code hosts and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield "".join(c for c in heading.strip().lower() if c.isalnum() or c in " -_").replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_pages_lead_to_headings(page):
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inner = [(page.parent / file if file else page, name) for file, name in links if "://" not in file]
    assert [(file.name, name) for file, name in inner if file.suffix == ".md" and name not in anchors(file)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_a_paragraph_begins_with_the_mark_of_a_value(page):
    """In Markdown such a line is HTML: it ends the paragraph, and its emphasis and links are shown as written."""
    assert re.findall(r"^ *<!-- value: .*", page.read_text(encoding="utf-8"), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page):
    # By their path from the top, or within the package; or the page makes them.
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"[\w./-]+\.py\b", text)) - set(re.findall(r"^cat > (\S+)", text, re.MULTILINE))
    assert [path for path in named if not any((top / path).is_file() for top in (ROOT, ROOT / "analogsim"))] == []
