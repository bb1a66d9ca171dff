"""Provenance in run.json, and `launch --like`, which repeats a run from it."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sweep.cli.main import main
from sweep.query.database import Database
from sweep.run import rerun
from sweep.store import provenance
from sweep.store.store import Store
from tests.paths import ROOT

GRID = """schema: sweep/1
name: twice
about: Are the rows the same when it is launched again?
fixed: {virt: 64MiB, coverage: 0.9}
axes: {sparsity: [0.9, 0.99], zap: [64KiB, 2MiB], rounds: [1, 3]}
derive: {pages: zap / 4096}
seed: 5
"""
GIVEN = ("-S", "axes.sparsity=[0.5, 0.99]", "--where", "rounds = 3", "--executor", "inline", "-q")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A finished run with an override and a condition; its id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-keep-me")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("twice.yaml").write_text(GRID)
    assert main(["launch", "twice.yaml", *GIVEN]) == 0
    Path("twice.yaml").unlink()  # repeating the run must not need it
    return Store(Path("results")).runs()[0].run_id


def rows(store: str, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of a run without the run's id, times and node."""
    left_out = {"points": "EXCLUDE (run_id, cpu_ns, finished_at, node)"}
    with Database(Store(Path(store)), run=run_id) as database:
        return {
            view: database.query(
                f"SELECT * {left_out.get(view, 'EXCLUDE (run_id)')} FROM {view} ORDER BY ALL"
            ).to_pylist()
            for view in ("outcomes", "rounds", "points")
        }


def document(store: str, run_id: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((Path(store) / run_id / "run.json").read_text())
    return read


@pytest.mark.slow
def test_a_repeated_run_has_the_same_rows(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Grid, overrides and conditions come from run.json; the new run may be in the same store or in another."""
    assert main(["launch", "--like", "twice", "--executor", "processes", "-j", "2"]) == 0
    assert f"sweep: {run}: the same versions as then\n" in capsys.readouterr().err
    assert main(["launch", "--like", f"results/{run}", "--results", "other", "--executor", "inline", "-q"]) == 0
    first = rows("results", run)
    assert len(first["points"]) == 4
    assert first == rows("results", f"{run}-2") == rows("other", run)
    repeated = document("results", f"{run}-2")
    assert repeated["grid"] == document("results", run)["grid"]
    assert repeated["launches"][0]["like"] == run
    capsys.readouterr()
    assert main(["show", f"{run}-2"]) == 0
    shown = capsys.readouterr().out
    assert f"\nrepeats    {run}\n" in shown
    assert "\nwith       -S 'axes.sparsity=[0.5, 0.99]'\n" in shown


def test_an_unfinished_repetition_is_resumed(run: str) -> None:
    """The same command resumes an interrupted repetition, and starts another one only after it has finished."""
    assert main(["launch", "--like", run, "--executor", "inline", "-q"]) == 0
    path = Path("results") / f"{run}-2" / "run.json"
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "interrupted"'))
    assert main(["launch", "--like", run, "--executor", "inline", "-q"]) == 0
    assert [one.run_id for one in Store(Path("results")).runs()] == [run, f"{run}-2"]
    assert main(["launch", "--like", run, "--executor", "inline", "-q"]) == 0
    assert f"{run}-3" in [one.run_id for one in Store(Path("results")).runs()]


def test_version_differences_are_reported(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line lists the versions that differ; a grid that this version reads differently is refused."""
    path = Path("results") / run / "run.json"
    document = json.loads(path.read_text())
    document["launches"][-1]["packages"]["numpy"] = "1.0"
    document["launches"][-1]["python"] = "3.9.0"
    path.write_text(json.dumps(document))
    assert main(["launch", "--like", run, "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "versions differ" in line]
    assert len(lines) == 1
    assert "python 3.9.0 -> 3." in lines[0]
    assert "numpy 1.0 -> " in lines[0]
    assert "numba" not in lines[0]
    document["grid"]["content"]["seed"] = 6
    path.write_text(json.dumps(document))
    assert main(["launch", "--like", run]) == 2
    assert "this version reads the grid differently (seed)" in capsys.readouterr().err


def test_a_run_of_traces_is_repeated_from_the_grids_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json has only the hash of a trace: elsewhere, or with another file, the error says what is missing."""
    (tmp_path / "grids").mkdir()
    trace = tmp_path / "grids" / "one.csv"
    trace.write_bytes((ROOT / "tests/data/kernel/basic-0000.csv").read_bytes())
    (tmp_path / "grids" / "played.yaml").write_text("schema: sweep/1\nname: played\nworkload: {trace: one.csv}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "grids/played.yaml", "--executor", "inline", "-q"]) == 0
    assert main(["launch", "--like", "played"]) == 2
    assert "trace paths are relative to the grid's folder: run launch --like there" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "grids")
    repeat = ["launch", "--like", "last", "--results", "../results", "--executor", "inline", "-q"]
    assert main(repeat) == 0
    first, second = (run.run_id for run in Store(Path("../results")).runs())
    assert rows("../results", first) == rows("../results", second)
    trace.write_bytes((ROOT / "tests/data/kernel/basic-0001.csv").read_bytes())
    capsys.readouterr()
    assert main(repeat) == 2
    assert "this version reads the grid differently (workload)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["twice.yaml", "--like", "last"], "launch --like: GRID: is taken from the run"),
        (["--like", "last", "-S", "seed=1"], "launch --like: -S: is taken from the run"),
        (["--like", "last", "--where", "true"], "launch --like: --where: is taken from the run"),
        (["--like", "nosuch"], "no run 'nosuch' in /"),
        (["--like", "nowhere/twice"], "no run 'twice' in /"),
        (["--like", ""], "no run '' in /"),
    ],
)
def test_what_like_does_not_take(run: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """Options that the run determines, and unknown runs, are refused in one line."""
    assert main(["launch", *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert err.count("\n") == 1


def test_conditions_of_several_launches_are_combined() -> None:
    """The points of all launches are selected; if one launch had no condition, all points."""
    assert (
        rerun._combined_where([{"where": "a = 1"}, {"where": "a = 2 OR b"}, {"where": "a = 1"}])
        == "(a = 1) OR (a = 2 OR b)"
    )
    assert rerun._combined_where([{"where": "a = 1"}]) == "a = 1"
    assert rerun._combined_where([{"where": "a = 1"}, {"where": None}]) is None


def test_provenance_can_be_checked(run: str) -> None:
    """run.json has versions, verifiable hashes, machine, commit, cost table and the grid, but no secrets."""
    run_json = document("results", run)
    launch = run_json["launches"][0]
    assert {"python", "version", "model_version", "kernel", "cpu_model", "git_commit"} <= launch.keys()
    assert {"numpy", "numba", "ray", "pyarrow", "duckdb"} <= launch["packages"].keys()
    assert launch["lock_sha256"] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    sources = b"".join(path.read_bytes() for path in sorted((ROOT / "engine").rglob("*.py")))
    assert launch["engine_sha256"] == hashlib.sha256(sources).hexdigest()
    costs = ROOT / "sweep/common/costs" / f"{launch['cost_table']['name']}.json"
    assert launch["cost_table"]["sha256"] == hashlib.sha256(costs.read_bytes()).hexdigest()
    assert run_json["grid"]["text"] == GRID
    assert run_json["grid"]["overrides"] == ["axes.sparsity=[0.5, 0.99]"]
    assert run_json["grid"]["content"]["axes"]["sparsity"] == [0.5, 0.99]
    assert (run_json["grid"]["seed"], launch["where"]) == (5, "rounds = 3")
    assert "do-not-keep-me" not in json.dumps(run_json)


def test_the_commit_of_another_repository_is_not_recorded(tmp_path: Path) -> None:
    """An installation inside another checkout has no commit; changed files make the commit dirty."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's own folder: this is no checkout")
    author = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, env=os.environ | author, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "without our file")
    (tmp_path / "provenance.py").write_text("")
    assert provenance.git_commit(tmp_path) is None
    git("add", "provenance.py")
    git("commit", "-m", "with our file")
    commit = provenance.git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "provenance.py").write_text("# changed\n")
    assert provenance.git_commit(tmp_path) == f"{commit}-dirty"
