"""The documentation site that `make docs` has just built: whole, offline, and with every public name in its search."""

import json
import re
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

import analogsim

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "searchindex.js").is_file(), reason="no site: `make docs` builds and tests it"),
]
OUTSIDE = re.compile(r"\s*(https?:)?//")
# What a browser loads by itself; an <a> is followed by people, and a <link> of these kinds loads nothing.
LOADS = re.compile(r"<(?!a[\s>])(\w+)\b[^>]*?\s(?:src|href|srcset|data|poster)=\"([^\"]*)\"[^>]*>")
LOADS_NOTHING = re.compile(r"rel=\"(?:next|prev|index|search|canonical|author|copyright)\"")


def pages():
    # In _static the theme has a template of its own.
    return sorted(page for page in SITE.rglob("*.html") if "_static" not in page.parts)


def text_of(page):
    return page.read_text(encoding="utf-8")


def objects():
    """Return the names that the search knows as Python's, and the pages that they lead to."""
    text = text_of(SITE / "searchindex.js")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    return {
        f"{prefix}.{name}": index["docnames"][place]
        for prefix, found in index["objects"].items()
        for place, _, _, _, name in found
    }


def test_pages_load_nothing_from_elsewhere():
    assert len(pages()) > 100
    for page in pages():
        text = text_of(page)
        for tag in LOADS.finditer(text):
            assert not OUTSIDE.match(tag[2]) or LOADS_NOTHING.search(tag[0]), f"{page.name}: {tag[0]}"
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", text), page.name
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", text_of(sheet)), sheet.name


def test_links_within_the_site_lead_to_a_file_and_a_place_in_it():
    places = {page: {unquote(one) for one in re.findall(r"\sid=\"([^\"]+)\"", text_of(page))} for page in pages()}
    for page in pages():
        for link in set(re.findall(r"\s(?:href|src)=\"([^\"]+)\"", text_of(page))):
            if re.match(r"\w+:|//", link):
                continue
            path, _, place = link.partition("#")
            target = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            assert target.is_file(), f"{page.name}: {link}"
            assert not place or target not in places or unquote(place) in places[target], f"{page.name}: {link}"


def test_every_public_name_has_a_page_and_the_search_finds_it():
    found = objects()
    for name in analogsim.__all__:
        page = found.get(f"analogsim.{name}")
        assert page is not None, f"analogsim.{name} is not in docs/api.rst"
        assert page.removesuffix("-class") == f"docs/api/analogsim.{name}", f"{name} is on the page {page}"
    known = {name.rpartition(".")[2] for name in found}
    for part in ("chip", "errors", "kernels", "nn", "profile", "qat", "robustness", "study", "training.train"):
        module = import_module(f"analogsim.{part}")
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            assert name in known, f"analogsim.{part}.{name} is not in docs/api.rst"
    for page in ("docs/design", "README", "CHANGELOG", "CONTRIBUTING", "SECURITY"):
        assert (SITE / f"{page}.html").is_file()
    assert 'url=docs/index.html"' in text_of(SITE / "index.html")
