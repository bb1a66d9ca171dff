"""sweep grids, and the names of shipped grids in place of files."""

import json
import shutil
from pathlib import Path

import pytest

from sweep.cli.main import main
from tests.paths import ROOT

NAMES = sorted(path.stem for path in (ROOT / "grids").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    return main(words), *capsys.readouterr()


def test_the_list_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Each name is a line, and its question is indented below it."""
    code, out, _ = run(capsys, "grids")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == NAMES


def test_json_has_name_question_points_and_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The files are those of the checkout; the points are those that sweep plan counts."""
    listed = {grid["name"]: grid for grid in json.loads(run(capsys, "grids", "--json")[1])}
    assert list(listed) == NAMES
    first = listed["first"]
    assert Path(first["file"]) == ROOT / "grids/first.yaml"
    planned = json.loads(run(capsys, "plan", "first", "--json")[1])
    assert (first["about"], first["points"]) == (planned["about"], planned["raw"])


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_a_name_is_the_shipped_grid(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`first` is grids/first.yaml, wherever the command runs."""
    options = ["--dry-run"] if command == "launch" else []
    by_name = run(capsys, command, "first", "--json", *options)
    assert by_name == run(capsys, command, str(ROOT / "grids/first.yaml"), "--json", *options)
    assert by_name[0] == 0


def test_a_file_of_that_name_wins_and_a_folder_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder called `first` is no grid; a file called so is."""
    Path("first").mkdir()
    assert json.loads(run(capsys, "plan", "first", "--json")[1])["grid"] == "first"
    Path("first").rmdir()
    shutil.copy(ROOT / "grids/commit-50gib.yaml", "first")
    assert json.loads(run(capsys, "plan", "first", "--json")[1])["grid"] == "commit-50gib"


@pytest.mark.parametrize("wrong", ["firts", "grids/first.yaml", "First"])
def test_an_unknown_grid_is_one_line_with_the_nearest_name(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the file is missing, the line names the nearest shipped grid and all of them."""
    code, out, err = run(capsys, "launch", wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"sweep: {wrong}: no such file; did you mean 'first'? grids that ship: allocators, ")
