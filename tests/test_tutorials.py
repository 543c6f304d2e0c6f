"""docs/tutorials and the pages beside them: their code runs, prints what they show, and opens as notebooks."""

import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import pages

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
OTHERS = [ROOT / "docs" / name for name in ("faq.md", "gallery.md")]
SLOW = {"01-ten-minutes", "03-train-for-hardware", "04-encoder-on-pcm", "05-study-on-machines", "gallery"}


def page(path):
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; what is imported from it is forgotten, and torch's generator left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, state = set(sys.modules), torch.get_rng_state()
    yield tmp_path
    torch.set_rng_state(state)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("path", [page(path) for path in (*TUTORIALS, *OTHERS)])
def test_the_code_prints_what_the_page_shows(path, folder):
    if path.stem == "04-encoder-on-pcm":
        pytest.importorskip("transformers")
    text = path.read_text(encoding="utf-8")
    ran = list(pages.run(text, path.name))
    assert len(ran) > 1
    wrong = [f"{differs}:\n{block.code}\n{out}" for block, out in ran if (differs := block.differs(out))]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_opens_as_a_notebook(path):
    """Every block of code is a cell, and what is printed stays in the text."""
    jupytext = pytest.importorskip("jupytext")
    text = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md")
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    kinds = {"python": "", "bash": "%%bash\n"}
    assert cells == [kinds[block.kind] + block.code.rstrip("\n") for block in pages.blocks(text)]


def test_all_code_is_run():
    """No block escapes by the way it is written."""
    for path in (*TUTORIALS, *OTHERS):
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^ *(?:```|~~~)(\w*)", text, re.MULTILINE)
        assert set(fences) <= {"", "python", "bash", "text", "py", "shell"}, path.name
        assert len(list(pages.blocks(text))) == fences.count("python") + fences.count("bash"), path.name
        assert fences.count("text") == sum(block.shown is not None for block in pages.blocks(text)), path.name


PAGE = """\
```python
print("µ =", 0.5, "[0.4, 0.6]")
```

<!-- within 0.0 or 10 % -->
```text
µ = 0.5 [0.4, 0.6]
```

```bash
echo 1,000 rows
```

```text
1,000 rows
```
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0.5,", "0.54,"), None),
        (("0.5,", "0.57,"), "0.5 is shown, 0.57 is printed"),
        (("print(", "pass; print('and',"), "'µ' is shown, 'and' is printed"),
        (('"[0.4, 0.6]"', '"[0.4, 0.6] poor_fit"'), "more or less is printed"),
        (("echo 1,000", "echo 1,001"), "1,000 is shown, 1,001 is printed"),
        (("echo 1,000 rows", "true"), "more or less is printed"),
    ],
)
def test_what_differs_is_found(change, said, folder):
    found = [block.differs(out) for block, out in pages.run(PAGE.replace(*change), "page")]
    assert [text for text in found if text] == ([said] if said else [])


def test_what_is_printed_is_written_into_the_page(folder):
    assert pages.filled(PAGE, "page") == PAGE
    assert "µ = 0.7 [0.4, 0.6]" in pages.filled(PAGE.replace("0.5,", "0.7,"), "page")


def test_a_command_that_fails_fails_the_page(folder):
    with pytest.raises(RuntimeError, match="no such command"):
        list(pages.run("```bash\necho no such command >&2; false\n```\n", "page"))


def test_the_glossary_has_every_part_of_a_profile_and_every_flag():
    from analogsim.profile import HardwareProfile

    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\* \*\*(.+?)\*\*(.*?):", text, re.MULTILINE)
    parts = set(HardwareProfile.model_fields) - {"name", "description"}
    assert parts <= {field.partition(".")[0] for _, rest in entries for field in re.findall(r"`([\w.]+)`", rest)}
    titles = {word.strip() for title, _ in entries for word in title.split(",")}
    words = set("crossbar tile DAC ADC STE QAT µ σ α chip slices steps drift profile".split())
    flags = {"collapsed", "brittle", "extrapolated", "poor_fit"}
    assert words | flags <= titles, (words | flags) - titles


def test_fields_that_the_pages_name_are_there():
    from analogsim.profile import HardwareProfile
    from analogsim.value import field_names

    known, parts = set(field_names(HardwareProfile)), set(HardwareProfile.model_fields)
    for name in ("glossary", "faq"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        named = {field for field in re.findall(r"`([a-z]+\.[a-z_0-9]+)[`:]", text) if field.partition(".")[0] in parts}
        assert named
        assert named <= known, named - known


def test_every_picture_of_the_gallery_is_drawn_by_its_code():
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r'saved\(.*, "([\w-]+)"\)$', text, re.MULTILINE))
    shown = set(re.findall(r"\(images/gallery/([\w-]+)\.png\)", text))
    assert drawn == shown == {path.stem for path in (ROOT / "docs" / "images" / "gallery").iterdir()}
