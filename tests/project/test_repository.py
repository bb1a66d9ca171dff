"""The house is in order: what pyproject.toml, the lock and the grids say is what the tree holds."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("engine", "sweep")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
GRIDS = sorted((ROOT / "grids").rglob("*.yaml"))

# Put together from pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~*}])/" + "(work|root|home|Users)/")
INDEX_HOSTS = re.compile(
    "|".join([r"py" + r"pi\.(org|io|python)", "python" + "hosted", "index" + "-url *=", "/simp" + "le/"])
)


def repository_files() -> list[Path]:
    """Every file that is, or would be, committed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def found(needle: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in files
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if (match := needle.search(line))
    ]


def test_no_path_of_a_machine_and_no_index_host() -> None:
    """The repository works on any machine, with whatever index its user has set up."""
    files = repository_files()
    assert found(MACHINE_PATHS, files) == []
    assert found(INDEX_HOSTS, files) == []


def test_an_installation_has_every_file() -> None:
    """Every folder with sources is a package, and every data file matches a pattern of package-data."""
    folders = {path.parent for path in SOURCES}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []

    data = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    data = {path for path in data if path.suffix != ".py" and "__pycache__" not in path.parts}
    shipped = {
        path
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert data == shipped


def test_the_lock_pins_everything_with_hashes() -> None:
    """Each line of requirements.lock is a pin with hashes, and everything that pyproject.toml asks for is pinned."""
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "")
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    unpinned = [line for line in lines if not re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
    assert unpinned == []
    asked = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    names = {re.split(r"[<>=!~ ;\[]", requirement)[0].lower() for requirement in asked}
    assert names <= {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_grids_that_ship_parse(path: Path) -> None:
    """Each grid loads, has points, says what it asks, and goes by its file's name."""
    from sweep.grid.loader import load_grid

    grid = load_grid(path)
    assert grid.raw_points > 0
    assert grid.about
    assert grid.name == path.stem


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_say_what_they_are(path: Path) -> None:
    """Every module starts with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))
