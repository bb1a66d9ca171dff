"""Launches: resuming a run, failures as rows, retries, limits, and the choice of the executor."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.model.policy import POLICIES
from sweep.common.errors import SweepFault, UserError
from sweep.executors import worker
from sweep.executors.base import Batch, BatchStatus, Done
from sweep.executors.failure import Failure
from sweep.executors.inline import Inline
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.query.database import Database
from sweep.run import driver
from sweep.run import launch as launching
from sweep.run.launch import LaunchOptions, LaunchSummary, choose_executor, launch
from sweep.store.store import Store
from tests.support import fake_engine
from tests.support.fake_engine import RecordingProgress, grid


@pytest.fixture
def options(tmp_path: Path) -> LaunchOptions:
    return LaunchOptions(tmp_path / "results", executor="inline", runner=fake_engine.RUNNER)


def run(of_grid: Grid, options: LaunchOptions) -> LaunchSummary:
    return launch(of_grid, options, RecordingProgress())


def rows(options: LaunchOptions, sql: str, run_id: str | None = None) -> list[dict[str, Any]]:
    with Database(Store(options.results), run=run_id) as database:
        return list(database.query(sql).to_pylist())


def status_by_seed(options: LaunchOptions) -> dict[int, str]:
    return {row["seed"]: row["status"] for row in rows(options, "SELECT seed, status FROM points")}


def test_points_become_rows(options: LaunchOptions) -> None:
    """The store has one row for each point and policy, with the engine's values, and one row for each point."""
    summary = run(grid([1, 2, 3]), options)
    assert (summary.status, summary.points, summary.failed) == ("ok", {"ok": 3}, 0)
    outcomes = rows(options, "SELECT seed, policy, zap_calls FROM outcomes ORDER BY seed")
    assert len(outcomes) == 3 * len(POLICIES)
    assert all(row["zap_calls"] == row["seed"] for row in outcomes)
    assert len(rows(options, "SELECT * FROM rounds")) == 3 * len(POLICIES)
    assert status_by_seed(options) == {1: "ok", 2: "ok", 3: "ok"}


def test_rows_do_not_depend_on_who_makes_the_files(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers make the files of tasks that are large enough for a part, the driver all others."""
    files_by_worker: list[object] = []

    def recorded(*arguments: Any, files: Callable[..., Any] = worker._write_files) -> Any:
        files_by_worker.append(arguments)
        return files(*arguments)

    monkeypatch.setattr(worker, "_write_files", recorded)
    rows_by_size = {}
    for points in (1, 1_000):
        monkeypatch.setattr("sweep.run.result_buffer.PART_POINTS", points)
        here = replace(options, results=Path(str(options.results), str(points)))
        for seeds in ([1, 2, 3], [4, fake_engine.RAISES, 5]):
            run(grid(seeds, f"seeds-{len(seeds)}-{seeds[0]}", rounds=2), here)
        rows_by_size[points] = [
            rows(here, f"SELECT * FROM {table} ORDER BY ALL") for table in ("outcomes", "rounds", "points")
        ]
        assert len(files_by_worker) == 1
    for row in rows_by_size[1][2] + rows_by_size[1_000][2]:
        assert row.pop("finished_at")
        row.pop("cpu_ns")
    assert rows_by_size[1] == rows_by_size[1_000]
    assert len(rows_by_size[1][2]) == 6


def test_only_the_grids_policies_and_its_derived_columns(options: LaunchOptions) -> None:
    """Only the rows of the grid's policies are stored; `points` has its derived columns."""
    text = "schema: sweep/1\nname: few\nfixed: {virt: 2MiB, sparsity: 0.5}\npolicies: [none, merged]\nrepeats: 2\n"
    run(parse_grid(text + 'derive: {pages: "virt // 4096"}\n', "few"), options)
    assert {row["policy"] for row in rows(options, "SELECT policy FROM outcomes")} == {"none", "merged"}
    assert [(r["pages"], r["repeat"]) for r in rows(options, "SELECT * FROM points ORDER BY repeat")] == [
        (512, 0),
        (512, 1),
    ]
    assert isinstance(options.results, Path)
    part = next(options.results.glob("*/points/*.parquet"))
    assert pq.read_schema(part).field("pages").metadata == {b"unit": b"", b"meaning": b"derived: virt // 4096"}


def test_a_launch_resumes_the_run(options: LaunchOptions) -> None:
    """Points that are done are not run again; launching a finished run runs nothing."""
    first = run(grid([1, 2, 3]), replace(options, where="seed < 3"))
    assert first.points == {"ok": 2}
    second = run(grid([1, 2, 3]), options)
    assert (second.run_id, second.resumed, second.done_before, second.points) == (first.run_id, True, 2, {"ok": 1})
    third = run(grid([1, 2, 3]), options)
    assert (third.status, third.points, third.workers) == ("ok", {}, 0)
    assert len(rows(options, "SELECT * FROM points")) == 3


def test_what_where_left_out_is_still_to_run(options: LaunchOptions) -> None:
    """The points left to run count from the whole grid, whatever --where selected."""
    for where, todo in (("seed < 3", 2), ("seed = 3", 1), ("seed < 3", 1), (None, 0)):
        assert run(grid([1, 2, 3, 4]), replace(options, where=where)).status == "ok"
        assert Store(options.results).runs()[0].todo == todo


def test_a_cold_launch_waits_for_compilation(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cold cache `waiting` says compiling until the first answer; else it says that the executor is starting."""
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    monkeypatch.setattr(driver, "MODEL_RUNNER", fake_engine.RUNNER)
    for cold, words in ((True, "compiling the engine, once"), (False, "starting inline")):
        progress = RecordingProgress()
        monkeypatch.setattr(driver, "is_cold", lambda cold=cold: cold)
        launch(grid([1, 2, 3], "cold" if cold else "warm"), options, progress)
        assert {state.waiting for state in progress.states if not state.done} <= {words, *([] if cold else [""])}
        assert words in {state.waiting for state in progress.states}
        assert {state.waiting for state in progress.states if state.done} == {""}


def test_fresh_starts_another_run(options: LaunchOptions) -> None:
    """--fresh starts a new run and keeps the old one."""
    first = run(grid([1]), options)
    second = run(grid([1]), replace(options, fresh=True))
    assert second.run_id != first.run_id
    assert second.points == {"ok": 1}
    assert len(Store(options.results).runs()) == 2


def test_failures_are_rows_and_run_again_only_on_request(options: LaunchOptions) -> None:
    """The error of a failed point is a row; --rerun failed runs only this point, with the next attempt number."""
    seeds = [1, fake_engine.RAISES, 2]
    first = run(grid(seeds), options)
    assert (first.status, first.points, first.failed) == ("failed", {"ok": 2, "failed": 1}, 1)
    assert rows(options, "SELECT seed, error, attempt FROM failures") == [
        {"seed": fake_engine.RAISES, "error": "ValueError: no seed 13 here", "attempt": 1}
    ]
    again = run(grid(seeds), options)
    assert (again.status, again.points) == ("failed", {})
    rerun = run(grid(seeds), replace(options, rerun_failed=True))
    assert (rerun.status, rerun.points) == ("failed", {"failed": 1})
    assert [row["attempt"] for row in rows(options, "SELECT attempt FROM failures")] == [2]


def test_a_launch_ends_after_max_failures(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished points are stored, the others are left for the next launch."""
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    summary = run(grid([1, fake_engine.RAISES, 2, 3]), replace(options, max_failures=1))
    assert (summary.status, summary.points) == ("failed", {"ok": 1, "failed": 1})
    assert status_by_seed(options) == {1: "ok", fake_engine.RAISES: "failed"}
    assert Store(options.results).runs()[0].todo == 2


@pytest.mark.slow
def test_lost_points_and_stuck_points(options: LaunchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that loses its worker twice, or times out, is split: only the faulty point fails, with its reason."""
    monkeypatch.setenv(fake_engine.MARK, str(tmp_path / "mark"))
    seeds = [1, fake_engine.DIES, 2, fake_engine.HANGS, 3]
    summary = run(grid(seeds), replace(options, executor="processes", jobs=2, timeout_s=1.0))
    assert status_by_seed(options) == {
        1: "ok",
        2: "ok",
        3: "ok",
        fake_engine.DIES: "lost",
        fake_engine.HANGS: "timeout",
    }
    assert summary.points == {"ok": 3, "lost": 1, "timeout": 1}
    failures = {row["seed"]: row for row in rows(options, "SELECT * FROM failures")}
    assert failures[fake_engine.DIES]["error"] == "worker process died of SIGKILL"
    assert failures[fake_engine.DIES]["attempt"] >= 3
    assert failures[fake_engine.HANGS]["error"] == "no answer in 1 s"
    once = run(grid([fake_engine.DIES_ONCE, 4], "once"), replace(options, executor="processes", jobs=1))
    assert (once.status, once.points) == ("ok", {"ok": 2})
    assert [row["attempt"] for row in rows(options, "SELECT attempt FROM points", once.run_id)] == [2, 2]


def test_inline_has_no_time_limit(options: LaunchOptions) -> None:
    """--timeout with the inline executor is refused, and no run is created."""
    with pytest.raises(UserError, match="--timeout needs --executor"):
        run(grid([1]), replace(options, timeout_s=1.0))
    assert Store(options.results).runs() == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"where": "zapp > 1"}, "--where: .*zapp"),
        ({"executor": "rya"}, "unknown executor 'rya'; did you mean 'ray'"),
        ({"executor": "ray", "address": "127.0.0.1:1"}, "cannot reach the cluster"),
    ],
)
def test_a_launch_that_cannot_begin_leaves_no_run(options: LaunchOptions, changes: dict[str, Any], error: str) -> None:
    """Bad SQL, an unknown executor or an unreachable cluster leave no run in the store."""
    with pytest.raises(UserError, match=error):
        run(grid([1]), replace(options, **changes))
    assert Store(options.results).runs() == []


@pytest.mark.parametrize(
    ("given", "work_s", "name", "place"),
    [
        ({}, 1, "processes", "on 3 local processes"),
        ({}, 19, "processes", "on 3 local processes"),
        ({}, 21, "ray", "on a local Ray with 3 CPUs"),
        ({"address": "auto"}, 0.1, "ray", "on Ray at auto"),
        ({"executor": "inline"}, 100, "inline", "in this process"),
        ({"executor": "processes"}, 100, "processes", "on 3 local processes"),
    ],
)
def test_auto_chooses_ray_for_much_work(given: dict[str, Any], work_s: float, name: str, place: str) -> None:
    """`auto` is Ray above 20 s of work or with an address; the phrase says where the points run."""
    executor, said = choose_executor(LaunchOptions(jobs=3, **given), 100, work_s * 1e9)
    assert (executor.name, said) == (name, place)


def test_no_more_processes_than_work() -> None:
    """No more processes are started than there are tasks for."""
    assert choose_executor(LaunchOptions(jobs=8), 100, 2.5e8)[0].workers == 3
    assert choose_executor(LaunchOptions(jobs=8), 2, 1.5e9)[0].workers == 2
    assert choose_executor(LaunchOptions(jobs=8), 2, 5.5e9)[0].workers == 6  # two points in shards of a second
    assert choose_executor(LaunchOptions(jobs=8), 1000, 15e9)[0].workers == 8


class BreakingExecutor(Inline):
    """Answers one batch, then raises SweepFault."""

    def __init__(self) -> None:
        super().__init__(fake_engine.RUNNER)
        self.answered = 0
        self.killed: bool | None = None

    def wait(self, seconds: float) -> list[Done]:
        if self.answered:
            raise SweepFault("broken")
        self.answered += 1
        return super().wait(seconds)

    def stop(self, kill: bool = False) -> None:
        self.killed = kill


def test_after_a_fault_finished_points_are_stored(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the executor breaks, finished points are committed, the executor is killed, and the run's status is fault."""
    broken = BreakingExecutor()
    monkeypatch.setattr(launching, "choose_executor", lambda *_: (broken, "broken"))
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    progress = RecordingProgress()
    with pytest.raises(SweepFault, match="broken"):
        launch(grid([1, 2, 3]), options, progress)
    assert status_by_seed(options) == {1: "ok"}
    assert broken.killed
    assert progress.stopped
    assert isinstance(options.results, Path)
    run_json = json.loads(next(options.results.glob("*/run.json")).read_text())
    assert (run_json["status"], run_json["counts"]["todo"]) == ("fault", 2)


class LosingExecutor(Inline):
    """Loses every batch of more than one point."""

    def __init__(self) -> None:
        super().__init__(fake_engine.RUNNER)
        self.submitted: list[int] = []
        self._batches: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        self.submitted.append(len(batch))
        self._batches.append(batch)
        super().submit(batch)

    def wait(self, seconds: float) -> list[Done]:
        batch = self._batches.pop(0)
        answers = super().wait(seconds)
        return [Done(batch.number, BatchStatus.LOST, failure=Failure("gone", "Gone"))] if len(batch) > 1 else answers


def test_a_lost_batch_is_tried_twice_then_split(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost batch is submitted twice, then its points one by one."""
    losing = LosingExecutor()
    monkeypatch.setattr(launching, "choose_executor", lambda *_: (losing, "losing"))
    assert run(grid([1, 2, 3]), options).points == {"ok": 3}
    assert losing.submitted == [3, 3, 1, 1, 1]


def test_what_is_reported_to_progress(options: LaunchOptions) -> None:
    """Progress gets the executor with the reason, the plan's warnings, and the states from start to end."""
    progress = RecordingProgress()
    text = "schema: sweep/1\nname: warned\nfixed: {virt: 2MiB, sparsity: 0.5}\nexclude: [{threads: 8}]\n"
    launch(parse_grid(text, "warned"), options, progress)
    assert any(words.startswith("warning: ") and "threads" in words for words in progress.words)
    assert any("1 point in this process" in words for words in progress.words)
    assert progress.states[0].waiting in ("starting inline", "compiling the engine, once")
    assert progress.states[-1].waiting == ""
    assert (progress.states[-1].points, progress.states[-1].done) == (1, 1)
    assert progress.stopped


def test_a_partial_run_does_not_hide_a_whole_one(options: LaunchOptions) -> None:
    """After `--fresh --where` a plain launch resumes the older run that has all points, and computes nothing again."""
    whole = run(grid([1, 2, 3]), options)
    part = run(grid([1, 2, 3]), replace(options, fresh=True, where="seed = 1"))
    assert part.run_id != whole.run_id
    again = run(grid([1, 2, 3]), options)
    assert (again.run_id, again.planned, again.done_before) == (whole.run_id, 0, 3)
    assert run(grid([1, 2, 3]), replace(options, where="seed = 2")).run_id == part.run_id
