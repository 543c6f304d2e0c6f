"""Run the code of a page of docs/ as a reader would, from top to bottom, and write what it prints below it.

A block of Python or of the shell (bash) runs in the order of the page, all Python in one namespace and all in one
folder. A block of `text` below it is what it prints. Where processors differ, a comment above that block says by how
much its numbers may: `<!-- within 0.02 or 10 % -->`.

python -m benchmarks.pages docs/tutorials/*.md docs/faq.md docs/gallery.md
"""

import io
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer

from .common import ROOT

BLOCK = re.compile(
    r"^```(?P<kind>python|bash)\n(?P<code>.+?)^```\n"
    r"(?:\n(?:<!-- within (?P<absolute>[\d.]+) or (?P<relative>[\d.]+) % -->\n)?```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
WINDOW = {"COLUMNS": "120"}
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+\.png)\)")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of code on a page, and what the page says that it prints (None: nothing is shown)."""

    kind: str
    code: str
    shown: str | None
    absolute: float = 0.0
    relative: float = 0.0

    def differs(self, printed: str) -> str | None:
        """Say where what was printed is not what is shown; None where it is."""
        if self.shown is None:
            return None
        pairs = zip(words(self.shown), words(printed))
        first = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if first or len(words(self.shown)) != len(words(printed)):
            return f"{first[0]!r} is shown, {first[1]!r} is printed" if first else "more or less is printed"
        for shown, found in zip(NUMBER.findall(self.shown), NUMBER.findall(printed)):
            a, b = (float(text.replace(",", "")) for text in (shown, found))
            if not math.isclose(a, b, rel_tol=max(self.relative, 1e-12), abs_tol=self.absolute):
                return f"{shown} is shown, {found} is printed"
        return None


def words(text: str) -> list[str]:
    """Return a text's words without its numbers, for the width of columns follows them."""
    return re.sub(r"─+", " ", NUMBER.sub("#", text)).split()


def blocks(text: str) -> Iterator[Block]:
    """Return a page's blocks of code, in its order."""
    for match in BLOCK.finditer(text):
        absolute, relative = (float(match[name] or 0) for name in ("absolute", "relative"))
        yield Block(match["kind"], match["code"], match["shown"], absolute, relative / 100)


def run(text: str, name: str) -> Iterator[tuple[Block, str]]:
    """Run a page's blocks in the present folder; return each with what it printed, in a window of 120 columns."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(text):
        if block.kind == "python":
            out = io.StringIO()
            with redirect_stdout(out), patch.dict(os.environ, WINDOW):
                exec(compile(block.code, name, "exec"), names)
            yield block, out.getvalue()
        else:
            yield block, shell(block.code)


def shell(code: str) -> str:
    """Return what commands print, in this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    code_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    surroundings = {**os.environ, **WINDOW, "PATH": path, "PYTHONPATH": code_path}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=surroundings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def filled(text: str, name: str) -> str:
    """Return a page with what its code prints now, wherever it shows something."""
    printed = iter([out for _, out in run(text, name)])

    def shown(match: re.Match[str]) -> str:
        out = "\n".join(line.rstrip() for line in next(printed).strip("\n").splitlines()) + "\n"
        if match["shown"] is None:
            return match[0]
        start = match.start("shown") - match.start()
        return match[0][:start] + out + match[0][start + len(match["shown"]) :]

    return BLOCK.sub(shown, text)


def main(pages: Annotated[list[Path], typer.Argument(help="Pages of docs/.")]) -> None:
    """Write what each page's code prints into it, and its pictures, which the code saves, to where it shows them."""
    for page in map(Path.absolute, pages):
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            sys.path.insert(0, folder)
            new = filled(text, page.name)
            sys.path.remove(folder)
            for picture in PICTURE.findall(new):
                drawn, shown = Path(folder, Path(picture).name), page.parent / picture
                if drawn.is_file():
                    shown.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(drawn, shown)
        page.write_text(new, encoding="utf-8")
        print(f"written: {page}")


if __name__ == "__main__":
    typer.run(main)
