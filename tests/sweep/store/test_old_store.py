"""Runs that an earlier version wrote (tests/data/old_store): they open, go on, and compare."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.cli.main import main

OLD = Path(__file__).parents[2] / "data" / "old_store"
COMPLETE, CUT_SHORT = "small-e4a8c4fd", "cut-6d4965e8"
POINTS, COMMITTED = 8, 2
Sweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy of the old store."""
    shutil.copytree(OLD, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def sweep(store: Path, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Runs a command on that copy; gives its exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--results", str(store)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def grid_of(run: str, folder: Path) -> str:
    """The path of a grid file with the text that a run keeps."""
    path = folder / f"{run.partition('-')[0]}.yaml"
    path.write_text(json.loads((OLD / run / "run.json").read_text())["grid"]["text"])
    return str(path)


def rows(sweep: Sweep, sql: str) -> Any:
    code, out, _ = sweep("query", sql, "--json")
    assert code == 0
    return json.loads(out)


def test_it_opens(sweep: Sweep) -> None:
    """ls, show and query find both runs, with the points that were committed."""
    code, out, err = sweep("ls", "--json")
    assert (code, err) == (0, "")
    found = {run["run_id"]: (run["status"], run["ok"], run["todo"]) for run in json.loads(out)}
    assert found == {
        COMPLETE: ("ok", POINTS, 0),
        CUT_SHORT: ("interrupted", COMMITTED, POINTS - COMMITTED),
    }
    assert f"{COMMITTED} points ok" in sweep("show", CUT_SHORT)[1]
    counted = rows(
        sweep, "SELECT run_id, count(*) AS n, count(cost_ns) AS priced FROM outcomes GROUP BY ALL ORDER BY n"
    )
    assert counted == [
        {"run_id": CUT_SHORT, "n": 2 * COMMITTED, "priced": 2 * COMMITTED},
        {"run_id": COMPLETE, "n": 2 * POINTS, "priced": 2 * POINTS},
    ]
    assert len(rows(sweep, "SELECT DISTINCT resident_pages FROM points")) == 2


@pytest.fixture
def same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's version of the old store, as ids depend on it."""
    monkeypatch.setattr("sweep.grid.point_id.MODEL_VERSION", 3)


@pytest.mark.usefixtures("same_model")
def test_a_complete_run_runs_nothing_again(sweep: Sweep, tmp_path: Path) -> None:
    """The same grid launched again finds all its points done."""
    code, out, _ = sweep("launch", grid_of(COMPLETE, tmp_path), "--executor", "inline", "-q", "--json")
    summary = json.loads(out)
    assert (code, summary["run_id"], summary["done_before"]) == (0, COMPLETE, POINTS)
    assert rows(sweep, f"SELECT count(*) AS n FROM points WHERE run_id = '{COMPLETE}'") == [{"n": POINTS}]


@pytest.mark.usefixtures("same_model")
def test_a_run_that_was_cut_short_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    """Only the missing points run, and its rows are then those of the complete run."""
    code, out, _ = sweep("launch", grid_of(CUT_SHORT, tmp_path), "--executor", "inline", "-q", "--json")
    summary = json.loads(out)
    assert (code, summary["run_id"], summary["done_before"]) == (0, CUT_SHORT, COMMITTED)
    assert sweep("compare", COMPLETE, CUT_SHORT)[0] == 0
    assert f"{2 * POINTS} matched" in sweep("compare", COMPLETE, CUT_SHORT)[1]


def test_a_new_run_of_the_same_grid_is_equal(sweep: Sweep, tmp_path: Path) -> None:
    """compare matches every row of the old run with a new one, of a newer model, and finds no difference."""
    assert sweep("launch", grid_of(COMPLETE, tmp_path), "--executor", "inline", "-q", "--fresh")[0] == 0
    code, out, _ = sweep("compare", COMPLETE, "last")
    assert code == 0
    assert f"{2 * POINTS} matched; 0 only in A, 0 only in B" in out
    assert ", 0 are not" in out
