"""What is handed out: metadata, the source distribution, and the wheel that is built from it."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import analogsim
from tests.support.shell import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]


def test_every_requirement_is_a_lower_bound_that_test_lowest_installs_and_the_pinned_version_is_above_it():
    version = pytest.importorskip("packaging.version").parse
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for requirement in REQUIRED:
        # What the Makefile looks for in pyproject.toml.
        found = re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
        assert found, requirement
        name, bound = found.groups()
        assert REQUIRED.count(requirement) == sum(re.match(rf"{name}\b(?!-)", one) is not None for one in REQUIRED), (
            name
        )
        if name in pinned:
            assert version(bound) <= version(pinned[name]), name
    assert {requirement.partition(">=")[0] for requirement in PROJECT["dependencies"]} <= set(pinned)


def test_the_newest_version_of_the_changelog_is_this_one():
    versions = re.findall(r"^## (\S+) – (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text()
    assert versions[0][0] == analogsim.__version__
    assert f"version: {analogsim.__version__}\n" in cited
    assert f'date-released: "{versions[0][1]}"\n' in cited


def built(kind, source, target):
    """Return the names in what a build makes, without the folder that they are in."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source distribution, unpacked, and the wheel that is built from it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("release")
    built("sdist", ROOT, folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    built("wheel", source, folder)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_the_source_distribution_holds_what_the_repository_does(made):
    source, _ = made
    there = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    there -= {"PKG-INFO", ".git"}  # the latter is what hatchling 1.27 takes of a worktree
    assert {
        "Makefile",
        "constraints.txt",
        "CHANGELOG.md",
        "LICENSE",
        "docs/design.md",
        "tests/test_release.py",
    } <= there
    if not (ROOT / ".git").exists():
        pytest.skip("no repository to compare with")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    assert there == {name for name in names if (ROOT / name).is_file()}


def test_the_wheel_holds_the_package_and_the_networks_and_nothing_else(made):
    source, wheel = made
    files = zipfile.ZipFile(wheel)
    package = {name for name in files.namelist() if ".dist-info/" not in name}
    wanted = {str(path.relative_to(source)) for path in (source / "analogsim").rglob("*") if path.is_file()}
    wanted |= {f"analogsim/{path.relative_to(source)}" for path in (source / "models").rglob("*") if path.is_file()}
    assert package == wanted
    assert {"analogsim/py.typed", "analogsim/presets/pcm.yaml", "analogsim/models/lenet.py"} <= package
    assert wheel.stat().st_size < 2**20
    (about,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    said = files.read(about).decode()
    assert f"Requires-Python: {PROJECT['requires-python']}" in said
    assert "License-Expression: Apache-2.0" in said
    for requirement in PROJECT["dependencies"]:
        assert f"Requires-Dist: {requirement}\n" in said
