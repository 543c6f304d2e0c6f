"""How the documentation site is made; `make docs` builds it.

The source folder is the whole checkout, so that the pages' links to one another, to the README and to result files lead
to the same places here and on a code host.
"""

import json
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from inspect import isroutine, unwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pydantic import BaseModel
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import analogsim  # noqa: E402
from analogsim.result import Result  # noqa: E402
from analogsim.value import LEAST_SCALE  # noqa: E402

project = "analogsim"
copyright = "The analogsim developers. Apache-2.0"
version = release = analogsim.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/**/README.md"]
exclude_patterns = ["docs/_*", ".*"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links lead to headings by the names that code hosts give them

default_role = "literal"  # docstrings write `code` as markdown does
autosummary_ignore_module_all = False
autosummary_filename_map = {  # where letters' case makes no difference they would be one file
    f"analogsim.{name}": f"analogsim.{name}-class"
    for name in analogsim.__all__
    if name[0].isupper() and name.lower() in analogsim.__all__
}
autodoc_typehints = "none"  # types stand in the docstrings, with shapes and units
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as they are written: SIGMAS, and not its 17 numbers
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"analogsim {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = [str(ROOT / "docs" / "_templates")]
html_sidebars = {"**": ["pages"]}
html_math_renderer = "mathml"
html_copy_source = False
html_theme_options = {
    "navbar_center": [],  # all pages are in the sidebar
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "show_nav_level": 1,
    "back_to_top_button": False,
}


class Public(SphinxDirective):
    """Document a public name by its docstring; of a pydantic model also its fields, as a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of the name."""
        name = self.arguments[0]
        found = locate(name)
        options, body, arguments = [], [], ""
        hidden = ["digital", "model_config"]  # torch's and pydantic's, of which autodoc would say what they are
        if not isinstance(found, type):
            if not isroutine(unwrap(found) if callable(found) else found):
                return self.parse_text_to_nodes("\n".join([f".. py:data:: {name}", "", *data(name)]))
            kind = "function"
        else:
            kind = "exception" if issubclass(found, BaseException) else "class"
            options = [":members:"]
            if issubclass(found, Result):  # tables, frames and files are what one reads its page for
                options.append(":inherited-members: object")
            if issubclass(found, BaseModel) and found.model_fields:
                hidden, body, arguments = [*hidden, *found.model_fields], fields(found), "(**fields)"
            options.append(f":exclude-members: {', '.join(hidden)}")
        lines = [*options, "", *body]
        text = "\n".join([f".. auto{kind}:: {name}{arguments}", *(f"   {line}" for line in lines)])
        return self.parse_text_to_nodes(text)


def locate(name: str) -> Any:
    """Return what a dotted name is the name of.

    Raises
    ------
    ValueError
        There is no such thing.
    """
    found, path = analogsim, "analogsim"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(found, part) and find_spec(path) is None:
            raise ValueError(f"there is no {path}")
        found = getattr(found, part) if hasattr(found, part) else import_module(path)
    return found


def data(name: str) -> list[str]:
    """Return what the string below an assignment says of a name, in whichever module that is."""
    own, found = name.rpartition(".")[2], locate(name)
    for path, module in list(sys.modules.items()):
        if path.startswith("analogsim.") and vars(module).get(own) is found:
            if about := ModuleAnalyzer.for_module(path).find_attr_docs().get(("", own)):
                return [f"   {line}" for line in about]
    raise ValueError(f"{name} has no string below it that says what it is")


def fields(model: type[BaseModel]) -> list[str]:
    """Return a table of a model's fields: what they may be, their defaults, and what they mean."""
    schema = model.model_json_schema()
    if "$ref" in schema:  # of a model that may contain itself
        schema = schema["$defs"][model.__name__]
    lines = [".. list-table::", "   :header-rows: 1", "   :class: fields", "", "   * - field", "     - value"]
    lines += ["     - default", "     - meaning"]
    for name, field in model.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else type(None)
        own = issubclass(section, BaseModel)
        about = field.description or ((section.__doc__ or "").split("\n\n")[0] if own else "")
        about = " ".join(about.split()).replace("|", r"\|")
        plain = (
            field.default
            if isinstance(field.default, str) and field.default
            else json.dumps(field.default, default=str)
        )
        default = "required" if field.is_required() else "its defaults" if own else f"``{plain}``"
        cells = [f"``{name}``", values(schema["properties"][name]), default, about]
        lines += [f"   {'* -' if not place else '  -'} {cell}" for place, cell in enumerate(cells)]
    return [*lines, ""]


def values(schema: dict[str, Any]) -> str:
    """Return in words what a part of a JSON schema allows."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(values, schema[key])))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"``{one}``" for one in schema.get("enum", [schema.get("const")]))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {schema[key]:.6g}" for key, sign in bounds.items() if key in schema)
    if schema.get("minimum") == LEAST_SCALE:
        limits = "> 0"  # nearly: what float32 can convert with
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping"}
    text = words.get(schema.get("type", ""), schema.get("type", "any"))
    if text == "array":
        ends = ", ".join(map(values, schema.get("prefixItems", ())))
        text = f"[{ends}]" if ends else f"list of ({values(schema.get('items', {}))})"
    return f"{text} {limits}".strip()


class LinkNames(SphinxPostTransform):
    """Lead from code in a text to the page of the name that it is; a name of this package that is none fails."""

    default_priority = 500

    def run(self, **options: Any) -> None:
        """Wrap literals in references."""
        objects = self.env.domains.python_domain.objects
        short: dict[str, set[str]] = {}
        for name in (name for name, entry in objects.items() if not entry.aliased):
            parts = name.split(".")
            for start in range(1, len(parts)):
                short.setdefault(".".join(parts[start:]), set()).add(name)
        for literal in list(self.document.findall(nodes.literal)):
            text = re.sub(r"\(.*\)?$", "", literal.astext(), flags=re.DOTALL)
            if isinstance(literal.parent, nodes.reference | nodes.title) or not re.fullmatch(r"[A-Za-z_][\w.]*", text):
                continue
            whole = re.sub(r"^an\.", "analogsim.", text)
            if whole.startswith("analogsim.") and not whole.startswith("analogsim.models"):  # models/ in a wheel
                try:
                    locate(whole)
                except ValueError as error:
                    getLogger(__name__).warning("%s", error, location=literal, type="ref", subtype="name")
            if text in WORDS:
                continue
            plain = whole.removeprefix("analogsim.")
            names = {whole, f"analogsim.{plain}"} & set(objects) or short.get("" if plain.islower() else plain, set())
            if len(names) != 1:
                continue
            entry = objects[next(iter(names))]
            if entry.docname != self.env.docname:
                inner = literal.deepcopy()
                made = make_refnode(self.app.builder, self.env.docname, entry.docname, entry.node_id, inner)
                literal.replace_self(made)


WORDS = {"save", "load", "cost", "summary", "name", "description"}
"""Public names that are other things, too: as code in a text alone they lead nowhere."""


def prepared(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn links to folders, which a site has not, into their names."""
    page = ROOT / f"{docname}.md"

    def named(link: re.Match[str]) -> str:
        folder = (page.parent / link[2]).resolve()
        return f"{link[1]} (`{folder.relative_to(ROOT)}/`)" if folder.is_dir() else link[0]

    if page.is_file():
        source[0] = re.sub(r"\[([^\]]*)\]\(([^)#:\s]+)\)", named, source[0])


def escaped(found: re.Match[str]) -> str:
    """Return what reStructuredText takes as it stands."""
    return "".join(f"\\{one}" for one in found[0])


def as_it_is_read(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Write a docstring as reStructuredText: it has formulas in indented lines, magnitudes |x|, shapes (B, *rest)."""
    made: list[str] = []
    margin, formula = 0, False
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip() and formula and indent <= margin:
            formula = False
        if line.strip() and not formula:
            if made and indent > margin and not lines[place - 1].strip():
                formula = True
                made += [" " * margin + ".. code-block:: none", ""]
            else:
                margin = indent + 2 * line.lstrip().startswith("* ")
        plain = formula or line.lstrip().startswith((">>>", "..."))
        if not plain:
            parts = line.split("`")  # text, code, text, …
            parts[::2] = [re.sub(r"\||\*+(?=[\w ]+\))", escaped, text) for text in parts[::2]]
            for after in range(2, len(parts), 2):
                if parts[after][:1].isalnum():  # `Range`s
                    parts[after - 1], parts[after] = f"`{parts[after - 1]}`", rf"\ {parts[after]}"
            line = "`".join(parts)
        made.append(line)
    lines[:] = made


def visit_math(self: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers show by themselves."""
    block = isinstance(node, nodes.math_block)
    text = tex2mathml(node.astext(), as_block=block)
    self.body.append(f'<div class="formula">{text}</div>' if block else text)
    raise nodes.SkipNode


def lead_in(app: Sphinx, error: Exception | None) -> None:
    """Let the site's first file lead to its first page."""
    if error is None:
        page = f"{root_doc}.html"
        about = f'<meta charset="utf-8"><title>analogsim</title><meta http-equiv="refresh" content="0; url={page}">'
        (Path(app.outdir) / "index.html").write_text(f'<!doctype html>{about}<a href="{page}">analogsim</a>\n')


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the above."""
    app.add_lexer("csv", TextLexer)
    app.add_directive("public", Public)
    app.add_post_transform(LinkNames)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", prepared)
    app.connect("autodoc-process-docstring", as_it_is_read, priority=400)  # before numpydoc
    app.connect("build-finished", lead_in)
