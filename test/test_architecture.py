"""The files that the README and the docs name exist, and docs/architecture.md names every file of the package."""

import re
from pathlib import Path

import pytest

import saccade_ros

PACKAGE = Path(saccade_ros.__file__).parent
ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md")]


def listed_files():
    """Each table of files has the folder in its head, and a file in each row."""
    folder, files = "", set()
    for line in ARCHITECTURE.splitlines():
        if head := re.match(r"\| `(saccade_ros[\w/]*?)/?` \|", line):
            folder = head[1]
        elif row := re.match(r"\| `(\w+\.\w+)` \|", line):
            files.add(f"{folder}/{row[1]}")
    return files


def test_every_file_of_the_package_is_listed():
    files = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.*") if p.suffix in (".py", ".cpp", ".h")}
    assert {file for file in files if not file.endswith("__init__.py")} == listed_files(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    """A name may leave out saccade_ros/. NAME stands for a file to be added."""
    names = set(re.findall(r"(?<![\w/.])[\w./]+\.py\b", page.read_text(encoding="utf-8")))
    names = {name for name in names if not name.endswith("NAME.py")}
    found = {name for name in names for place in (ROOT, ROOT / "launch", page.parent) if (place / name).is_file()}
    listed = {name for name in names if any(file.endswith(f"/{name}") for file in listed_files())}
    assert names - found - listed == set()


def test_named_folders_exist():
    names = set(re.findall(r"`([a-z_]+/)`", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert {name for name in names if not (ROOT / name).is_dir() and not (PACKAGE / name).is_dir()} == set()
