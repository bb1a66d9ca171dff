"""Launches with points that fail: each becomes a row with the reason, and the others have their results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep.query.database import Database
from sweep.run.launch import LaunchOptions, launch
from sweep.store.store import Store
from tests.support import fake_engine
from tests.support.fake_engine import RecordingProgress, grid

pytestmark = pytest.mark.slow

GOOD = [*range(1, 10), *range(20, 40)]


def failures(results: Any) -> dict[int, dict[str, Any]]:
    with Database(Store(results)) as database:
        rows: list[dict[str, Any]] = database.query("SELECT * FROM failures").to_pylist()
    return {row["seed"]: row for row in rows}


def good(results: Any) -> list[int]:
    with Database(Store(results)) as database:
        rows = database.query("SELECT seed FROM outcomes WHERE policy = 'none' ORDER BY 1").to_pylist()
    return [row["seed"] for row in rows]


@pytest.fixture
def options(tmp_path: Path) -> LaunchOptions:
    return LaunchOptions(results=tmp_path / "results", runner=fake_engine.RUNNER, jobs=2)


@pytest.mark.parametrize("name", ["inline", "processes", pytest.param("ray", marks=pytest.mark.cluster)])
def test_one_row_each_says_why(name: str, options: LaunchOptions) -> None:
    """Points that raise, kill their worker or are stuck have status, attempt, class, last lines and node."""
    bad = [fake_engine.RAISES] if name == "inline" else [fake_engine.RAISES, fake_engine.DIES, fake_engine.HANGS]
    timeout_s = {"inline": None, "processes": 2.0, "ray": 6.0}[name]  # Ray reports a death a second or two late
    summary = launch(grid([*GOOD, *bad]), replace(options, executor=name, timeout_s=timeout_s), RecordingProgress())
    assert good(options.results) == GOOD
    assert summary.points.get("ok") == len(GOOD)
    rows = failures(options.results)
    assert sorted(rows) == sorted(bad)
    raised = rows[fake_engine.RAISES]
    assert (raised["status"], raised["error_class"]) == ("failed", "ValueError")
    assert raised["error"] == "ValueError: no seed 13 here"
    assert "fake_engine.py" in raised["last_lines"]
    assert all(row["node"] and row["attempt"] >= 1 for row in rows.values())
    if name != "inline":
        died, stuck = rows[fake_engine.DIES], rows[fake_engine.HANGS]
        assert (died["status"], stuck["status"]) == ("lost", "timeout")
        assert died["error_class"] == {"processes": "SIGKILL", "ray": "WorkerCrashed"}[name]
        assert 3 <= died["attempt"] <= 8  # together twice at most, in parts, alone three times
        assert (stuck["error"], stuck["error_class"]) == (f"no answer in {timeout_s:g} s", "Timeout")


def test_a_point_that_kills_its_worker_is_run_again_only_on_request(options: LaunchOptions) -> None:
    """The next launch skips it; --rerun failed runs it alone and goes on counting its attempts."""
    pool = replace(options, executor="processes")
    launch(grid([1, 2, fake_engine.DIES]), pool, RecordingProgress())
    first = failures(options.results)[fake_engine.DIES]["attempt"]
    assert launch(grid([1, 2, fake_engine.DIES]), pool, RecordingProgress()).points == {}
    again = launch(grid([1, 2, fake_engine.DIES]), replace(pool, rerun_failed=True), RecordingProgress())
    assert again.points == {"lost": 1}
    assert failures(options.results)[fake_engine.DIES]["attempt"] > first


def test_many_bad_points_end_a_launch(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """--max-failures counts points that killed their worker too; finished points are kept."""
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    summary = launch(
        grid([1, fake_engine.DIES, 2, 3, 4]),
        replace(options, executor="processes", jobs=1, max_failures=1),
        RecordingProgress(),
    )
    assert summary.status == "failed"
    assert sorted(failures(options.results)) == [fake_engine.DIES]
    assert Store(options.results).runs()[0].todo == 5 - len(good(options.results)) - 1


def test_a_memory_error_is_a_failed_point(options: LaunchOptions) -> None:
    """If an allocation is refused, the point fails with MemoryError and the worker lives."""
    summary = launch(grid([1, fake_engine.TOO_MUCH, 2]), replace(options, executor="processes"), RecordingProgress())
    assert summary.points == {"ok": 2, "failed": 1}
    assert "Memory" in failures(options.results)[fake_engine.TOO_MUCH]["error_class"]
