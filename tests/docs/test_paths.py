"""Whatever README, CONTRIBUTING and docs/ name exists: files, folders, links, sections and Python names."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES
from tests.paths import ROOT

ROOTS = tuple(
    sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in (".git", ".venv", "results"))
)
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, ROOTS))})/[\w./*?-]*[\w*/]")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DEFINED = re.compile(r"`(\w+)`(?: and `(\w+)`)? (?:in|of)\s+`([\w/]+\.py)`")
NOT_FILES = ("sweep/1", "engine/__pycache__/")
PLACEHOLDER = "NAME"


def prose(page: Path) -> str:
    """A page without the sections that tests generate."""
    return re.sub(r"<!-- generated: .*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths(page: Path) -> None:
    """Every path of the repository that a page names is there; a pattern matches something."""
    named = [path.replace(PLACEHOLDER, "*") for path in NAMED.findall(prose(page)) if not path.startswith(NOT_FILES)]
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_files(page: Path) -> None:
    """Where a page says that a name is in a Python file, that file has it."""
    for *names, path in DEFINED.findall(prose(page)):
        text = (ROOT / path).read_text()
        assert [name for name in names if name and not re.search(rf"\b{name}\b", text)] == [], path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link leads to a file."""
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_index() -> None:
    """The index links to every page of docs/."""
    linked = set(LINK.findall((DOCS / "index.md").read_text()))
    assert {path.name for path in DOCS.glob("*.md")} - linked == {"index.md"}


def test_packages() -> None:
    """CONTRIBUTING describes every package of engine and sweep, and the files that it names there exist."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package, purpose in re.findall(r"^\| `((?:engine|sweep)/\w+)` \| (.*) \|$", text, re.MULTILINE):
        assert [name for name in re.findall(r"`(\w+\.py)`", purpose) if not (ROOT / package / name).exists()] == []
    packages = [
        f"{top}/{path.parent.name}" for top in ("engine", "sweep") for path in (ROOT / top).glob("*/__init__.py")
    ]
    assert len(packages) > 10
    assert [package for package in packages if f"`{package}`" not in text] == []
