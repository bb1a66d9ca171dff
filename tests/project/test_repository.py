"""The repository as a whole: what it must not hold, what an installation must hold, locked packages, shipped grids."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("engine", "sweep")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
GRIDS = sorted((ROOT / "grids").glob("*.yaml"))

# Written so that this file does not match.
MACHINE_PATHS = re.compile(r"(?<![\w.~*}])/" + "(work|root|home|Users)/")
INDEX_HOSTS = re.compile(
    "|".join([r"py" + r"pi\.(org|io|python)", "python" + "hosted", "index" + "-url *=", "/simp" + "le/"])
)

PRIVATE_WORDS = re.compile(
    r"\b(ro[o]ms?|clo[s]ets?|han[g]s? on|the ho[u]se|(is|are) to[l]d(?! apart))\b", re.IGNORECASE
)
NOT_REWRITTEN = ("engine/walk/", "engine/shortcuts/", "engine/compilation/", "engine/run.py")


def repository_files() -> list[Path]:
    """Return every file that is committed or, being neither committed nor ignored, would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    """Return `path:line: match` for the first match in each line."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in files
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if (match := pattern.search(line))
    ]


def test_no_machine_path_and_no_package_index() -> None:
    """No file names a home directory or a package index: the repository works on any machine with any index."""
    files = repository_files()
    assert lines_with(MACHINE_PATHS, files) == []
    assert lines_with(INDEX_HOSTS, files) == []


def test_no_private_words() -> None:
    """Prose and names use the words of docs/glossary.md, not those that only the first authors understood."""
    names = {path: path.relative_to(ROOT).as_posix() for path in repository_files()}
    prose = [path for path, name in names.items() if path.suffix in (".py", ".md", ".sql", ".yaml")]
    rewritten = [path for path in prose if not names[path].startswith(NOT_REWRITTEN)]
    assert lines_with(PRIVATE_WORDS, rewritten) == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install .` installs."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_an_installation_has_every_file(installed: Path) -> None:
    """The packages with their data files, the shipped grids and the traces they name, and nothing else."""
    folders = {path.parent for path in SOURCES}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []

    of_packages = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT) for path in of_packages if "__pycache__" not in path.parts}
    traces = (ROOT / "tests/data/kernel").glob("*.csv")
    expected |= {Path("sweep/grid/shipped", path.relative_to(ROOT)) for path in (*GRIDS, *traces)}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in found if not path.parts[0].endswith(".dist-info")} == expected


@pytest.mark.slow
def test_an_installation_works_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    """From an empty folder each shipped grid can be planned by its name, the one that names traces too."""

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "sweep.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    files = [Path(grid["file"]) for grid in json.loads(run("grids", "--json"))]
    assert files == [installed / "sweep/grid/shipped/grids" / path.name for path in GRIDS]
    for name in ("first", "traces"):
        assert json.loads(run("plan", name, "--json"))["todo"] > 0


def test_the_lock_pins_everything_with_hashes() -> None:
    """Each line of requirements.lock is a pin with hashes, and everything that pyproject.toml asks for is pinned."""
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "")
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    unpinned = [line for line in lines if not re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]
    assert unpinned == []
    asked = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=!~ ;\[]", requirement)[0].lower() for requirement in asked}
    assert names <= {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_shipped_grids_load(path: Path) -> None:
    """Each shipped grid loads, has points and a description, and is named after its file."""
    from sweep.grid.loader import load_grid

    grid = load_grid(path)
    assert grid.raw_points > 0
    assert grid.about
    assert grid.name == path.stem
