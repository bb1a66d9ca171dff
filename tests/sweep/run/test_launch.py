"""The driver: resume, failures as rows, attempts, limits, commits, and which executor."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.model.policy import POLICIES
from sweep.common.errors import SweepFault, UserError
from sweep.executors import worker
from sweep.executors.base import Batch, BatchStatus, Done, Failure
from sweep.executors.inline import Inline
from sweep.executors.processes import Processes
from sweep.executors.ray import RayTasks
from sweep.grid.grid import Grid
from sweep.grid.loader import parse_grid
from sweep.query.database import Database
from sweep.run import driver
from sweep.run import launch as launching
from sweep.run.batching import Task
from sweep.run.launch import LaunchOptions, LaunchSummary, choose_executor, launch
from sweep.run.plan import make_plan
from sweep.run.result_buffer import ResultBuffer
from sweep.store.parts import File, sealed
from sweep.store.storage import place_at
from sweep.store.store import Store
from tests.support import fake_engine
from tests.support.fake_engine import Told, grid
from tests.support.small_stores import opened


@pytest.fixture
def options(tmp_path: Path) -> LaunchOptions:
    return LaunchOptions(tmp_path / "results", executor="inline", runner=fake_engine.RUNNER)


def run(what: Grid, options: LaunchOptions) -> LaunchSummary:
    return launch(what, options, Told())


def rows(options: LaunchOptions, sql: str, run_id: str | None = None) -> list[dict[str, Any]]:
    with Database(Store(options.results), run=run_id) as database:
        return list(database.query(sql).to_pylist())


def by_seed(options: LaunchOptions) -> dict[int, str]:
    return {row["seed"]: row["status"] for row in rows(options, "SELECT seed, status FROM points")}


def test_points_become_rows(options: LaunchOptions) -> None:
    """A row a point and policy of the grid, a row a round, a row a point; values as the engine gave them."""
    summary = run(grid([1, 2, 3]), options)
    assert (summary.status, summary.points, summary.failed) == ("ok", {"ok": 3}, 0)
    outcomes = rows(options, "SELECT seed, policy, zap_calls FROM outcomes ORDER BY seed")
    assert len(outcomes) == 3 * len(POLICIES)
    assert all(row["zap_calls"] == row["seed"] for row in outcomes)
    assert len(rows(options, "SELECT * FROM rounds")) == 3 * len(POLICIES)
    assert by_seed(options) == {1: "ok", 2: "ok", 3: "ok"}


def test_rows_do_not_tell_who_made_files_of_them(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers make files of tasks that are parts by themselves, the driver of all others; a failure is a row."""
    made: list[object] = []

    def spied(*given: Any, files: Callable[..., Any] = worker._write_files) -> Any:
        made.append(given)
        return files(*given)

    monkeypatch.setattr(worker, "_write_files", spied)
    said = {}
    for points in (1, 1_000):
        monkeypatch.setattr("sweep.run.result_buffer.PART_POINTS", points)
        here = replace(options, results=Path(str(options.results), str(points)))
        for seeds in ([1, 2, 3], [4, fake_engine.RAISES, 5]):
            run(grid(seeds, f"seeds-{len(seeds)}-{seeds[0]}", rounds=2), here)
        said[points] = [rows(here, f"SELECT * FROM {table} ORDER BY ALL") for table in ("outcomes", "rounds", "points")]
        assert len(made) == 1
    for row in said[1][2] + said[1_000][2]:
        assert row.pop("finished_at")
        row.pop("cpu_ns")
    assert said[1] == said[1_000]
    assert len(said[1][2]) == 6


def test_only_the_grids_policies_and_its_derived_columns(options: LaunchOptions) -> None:
    """The engine judges all policies; the grid says which are kept, and what else a point carries."""
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


def test_a_launch_goes_on_where_the_last_one_ended(options: LaunchOptions) -> None:
    """Done points are not run again; the same command on a finished run does nothing."""
    first = run(grid([1, 2, 3]), replace(options, where="seed < 3"))
    assert first.points == {"ok": 2}
    second = run(grid([1, 2, 3]), options)
    assert (second.run_id, second.resumed, second.done_before, second.points) == (first.run_id, True, 2, {"ok": 1})
    third = run(grid([1, 2, 3]), options)
    assert (third.status, third.points, third.workers) == ("ok", {}, 0)
    assert len(rows(options, "SELECT * FROM points")) == 3


def test_what_where_left_out_is_still_to_run(options: LaunchOptions) -> None:
    """`ls` counts down from all points of the grid, whatever a launch asked for."""
    for where, todo in (("seed < 3", 2), ("seed = 3", 1), ("seed < 3", 1), (None, 0)):
        assert run(grid([1, 2, 3, 4]), replace(options, where=where)).status == "ok"
        assert Store(options.results).runs()[0].todo == todo


def test_compiling_is_what_a_cold_launch_waits_for(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first answer, for a ready worker has compiled no kernel yet; a warm one waits for the start."""
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    monkeypatch.setattr(driver, "MODEL_RUNNER", fake_engine.RUNNER)
    for cold, words in ((True, "compiling the engine, once"), (False, "starting inline")):
        told = Told()
        monkeypatch.setattr(driver, "is_cold", lambda cold=cold: cold)
        launch(grid([1, 2, 3], "cold" if cold else "warm"), options, told)
        assert {state.waiting for state in told.states if not state.done} <= {words, *([] if cold else [""])}
        assert words in {state.waiting for state in told.states}
        assert {state.waiting for state in told.states if state.done} == {""}


def test_fresh_starts_another_run(options: LaunchOptions) -> None:
    """The old run stays."""
    first = run(grid([1]), options)
    second = run(grid([1]), replace(options, fresh=True))
    assert second.run_id != first.run_id
    assert second.points == {"ok": 1}
    assert len(Store(options.results).runs()) == 2


def test_failures_are_rows_and_run_again_only_when_asked(options: LaunchOptions) -> None:
    """One bad point among good ones: its error is a row; --rerun failed tries it alone, with the next attempt."""
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


def test_a_launch_ends_after_so_many_failures(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished by then is kept, the rest is for the next launch."""
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    summary = run(grid([1, fake_engine.RAISES, 2, 3]), replace(options, max_failures=1))
    assert (summary.status, summary.points) == ("failed", {"ok": 1, "failed": 1})
    assert by_seed(options) == {1: "ok", fake_engine.RAISES: "failed"}
    assert Store(options.results).runs()[0].todo == 2


@pytest.mark.slow
def test_lost_points_and_stuck_points(options: LaunchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that loses its worker twice, or is stuck, goes apart: neighbours are fine, the culprit is told."""
    monkeypatch.setenv(fake_engine.MARK, str(tmp_path / "mark"))
    seeds = [1, fake_engine.DIES, 2, fake_engine.HANGS, 3]
    summary = run(grid(seeds), replace(options, executor="processes", jobs=2, timeout_s=1.0))
    assert by_seed(options) == {1: "ok", 2: "ok", 3: "ok", fake_engine.DIES: "lost", fake_engine.HANGS: "timeout"}
    assert summary.points == {"ok": 3, "lost": 1, "timeout": 1}
    told = {row["seed"]: row for row in rows(options, "SELECT * FROM failures")}
    assert told[fake_engine.DIES]["error"] == "worker process died of SIGKILL"
    assert told[fake_engine.DIES]["attempt"] >= 3
    assert told[fake_engine.HANGS]["error"] == "no answer in 1 s"
    once = run(grid([fake_engine.DIES_ONCE, 4], "once"), replace(options, executor="processes", jobs=1))
    assert (once.status, once.points) == ("ok", {"ok": 2})
    assert [row["attempt"] for row in rows(options, "SELECT attempt FROM points", once.run_id)] == [2, 2]


def test_inline_keeps_no_limit(options: LaunchOptions) -> None:
    """It would have to kill the process that asks; no run is left behind by the refusal."""
    with pytest.raises(UserError, match="--timeout needs --executor"):
        run(grid([1]), replace(options, timeout_s=1.0))
    assert Store(options.results).runs() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"where": "zapp > 1"}, "--where: .*zapp"),
        ({"executor": "rya"}, "unknown executor 'rya'; did you mean 'ray'"),
        ({"executor": "ray", "address": "127.0.0.1:1"}, "cannot reach the cluster"),
    ],
)
def test_a_launch_that_cannot_begin_leaves_no_run(options: LaunchOptions, changes: dict[str, Any], told: str) -> None:
    """Bad SQL, an unknown executor, no cluster."""
    with pytest.raises(UserError, match=told):
        run(grid([1]), replace(options, **changes))
    assert Store(options.results).runs() == []


@pytest.mark.parametrize(
    ("given", "work_s", "name"),
    [
        ({}, 1, "processes"),
        ({}, 19, "processes"),
        ({}, 21, "ray"),
        ({"address": "auto"}, 0.1, "ray"),
        ({"executor": "inline"}, 100, "inline"),
        ({"executor": "processes"}, 100, "processes"),
    ],
)
def test_auto_takes_ray_where_its_start_pays(given: dict[str, Any], work_s: float, name: str) -> None:
    """Above 20 s of work or with an address; it says which and why."""
    executor, why = choose_executor(LaunchOptions(jobs=3, **given), 100, work_s * 1e9)
    assert executor.name == name
    assert "of work" in why or "as asked" in why or "address" in why


def test_no_more_processes_than_work() -> None:
    """A worker that would find nothing to do is not started."""
    assert choose_executor(LaunchOptions(jobs=8), 100, 2.5e8)[0].workers == 3
    assert choose_executor(LaunchOptions(jobs=8), 2, 1.5e9)[0].workers == 2
    assert choose_executor(LaunchOptions(jobs=8), 2, 5.5e9)[0].workers == 6  # two points in shards of a second
    assert choose_executor(LaunchOptions(jobs=8), 1000, 15e9)[0].workers == 8


class Breaks(Inline):
    """Answers one batch, then breaks."""

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


def test_after_a_fault_what_is_finished_is_there(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor breaks in the middle: rows are committed, it is stopped, the run says fault."""
    broken = Breaks()
    monkeypatch.setattr(launching, "choose_executor", lambda *_: (broken, "broken"))
    monkeypatch.setattr("sweep.run.batching.TASK_POINTS", 1)
    progress = Told()
    with pytest.raises(SweepFault, match="broken"):
        launch(grid([1, 2, 3]), options, progress)
    assert by_seed(options) == {1: "ok"}
    assert broken.killed
    assert progress.stopped
    assert isinstance(options.results, Path)
    run_json = json.loads(next(options.results.glob("*/run.json")).read_text())
    assert (run_json["status"], run_json["counts"]["todo"]) == ("fault", 2)


class Loses(Inline):
    """Loses every batch but single points."""

    def __init__(self) -> None:
        super().__init__(fake_engine.RUNNER)
        self.seen: list[int] = []
        self._batches: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        self.seen.append(len(batch))
        self._batches.append(batch)
        super().submit(batch)

    def wait(self, seconds: float) -> list[Done]:
        batch = self._batches.pop(0)
        answers = super().wait(seconds)
        return [Done(batch.number, BatchStatus.LOST, failure=Failure("gone", "Gone"))] if len(batch) > 1 else answers


def test_two_attempts_then_apart(options: LaunchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost batch is submitted twice, then its points alone."""
    loses = Loses()
    monkeypatch.setattr(launching, "choose_executor", lambda *_: (loses, "loses"))
    assert run(grid([1, 2, 3]), options).points == {"ok": 3}
    assert loses.seen == [3, 3, 1, 1, 1]


def test_progress_hears_what_happens(options: LaunchOptions) -> None:
    """The executor and why, warnings of the plan, points done out of points to do."""
    told = Told()
    text = "schema: sweep/1\nname: warned\nfixed: {virt: 2MiB, sparsity: 0.5}\nexclude: [{threads: 8}]\n"
    launch(parse_grid(text, "warned"), options, told)
    assert any(words.startswith("warning: ") and "threads" in words for words in told.words)
    assert any("1 point on inline, this process (as asked)" in words for words in told.words)
    assert told.states[0].waiting in ("starting inline", "compiling the engine, once")
    assert told.states[-1].waiting == ""
    assert (told.states[-1].points, told.states[-1].done) == (1, 1)
    assert told.stopped


class Writer:
    run_id = "run-1"

    def __init__(self) -> None:
        self.parts = 0

    def commit(self, *_: object) -> None:
        self.parts += 1


def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    while True:
        yield now
        now += 1.0


def test_a_commit_that_fails_costs_its_own_points_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finished meanwhile is still written, once, before the error is told; then nothing is left to write."""
    writer, went = Writer(), iter([UserError("disk full"), None, None])

    def commit(*_: object) -> None:
        if error := next(went):
            raise error
        writer.commit()

    monkeypatch.setattr("sweep.run.result_buffer.COMMIT_S", 0.0)
    buffer = ResultBuffer(writer, POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write", commit)
    task, lost = Task(next(make_plan(grid([1])).chunks()), 1.0), Done(1, BatchStatus.LOST)
    buffer.record_given_up(task, lost, Failure("lost", "Lost"))
    buffer.commit_if_due()
    buffer.record_given_up(task, lost, Failure("lost", "Lost"))
    with pytest.raises(UserError, match="disk full"):
        buffer.commit_all()
    assert writer.parts == 1
    buffer.commit_all()
    buffer.close()
    assert writer.parts == 1


@pytest.mark.slow
def test_a_week_is_a_few_hundred_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits come every two seconds at first and ever more seldom."""
    writer, seconds = Writer(), clock(monkeypatch)
    next(seconds)
    buffer = ResultBuffer(writer, POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write", writer.commit)
    task, lost = Task(next(make_plan(grid([1])).chunks()), 1.0), Done(1, BatchStatus.LOST)
    counts = {}
    for now in seconds:
        if now < 60 or now % 20 == 0:
            buffer.record_given_up(task, lost, Failure("lost", "Lost"))
        buffer.commit_if_due()
        buffer.wait_for_commit()
        counts[now] = writer.parts
        if now >= 7 * 86400:
            break
    assert counts[20] >= 9
    assert counts[3600] < 300
    assert counts[7 * 86400] < 600


def test_files_wait_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a part by themselves, however soon; rows without files wait until there are more of them."""
    written: list[int] = []

    class Parts(Writer):
        def commit_files(self, files: object, ids: Sequence[bytes]) -> None:
            written.append(len(ids))

    buffer = ResultBuffer(Parts(), POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write_one_part", lambda entries: written.append(-len(entries)))
    task = Task(next(make_plan(grid([1, 2])).chunks()), 1.0)
    for files in (None, {"points": sealed(b"")}, None):
        list(buffer.record_finished(task, Done(1, files=files)))
        buffer.commit_if_due()
        buffer.wait_for_commit()
    assert written == [2]
    buffer.commit_all()
    buffer.close()
    assert written == [2, -2]


def test_a_part_that_cannot_be_written_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are tried, and so are the rows without files, before the first error is told."""
    written: list[str] = []

    class Parts(Writer):
        def commit_files(self, files: dict[str, File], ids: object) -> None:
            name = files["points"].left
            if name in "ac":
                raise UserError(f"{name} is gone")
            written.append(name)

    buffer = ResultBuffer(Parts(), POLICIES)  # type: ignore[arg-type]
    monkeypatch.setattr(buffer, "_write_one_part", lambda entries: written.append(f"{len(entries)} others"))
    task = Task(next(make_plan(grid([1, 2])).chunks()), 1.0)
    for left in "abcd":
        list(buffer.record_finished(task, Done(1, files={"points": File(b"", "0-00000000", left)})))
    buffer.record_given_up(task, Done(1, BatchStatus.LOST), Failure("lost", "Lost"))
    with pytest.raises(UserError, match="a is gone"):
        buffer.commit_all()
    buffer.close()
    assert written == ["b", "d", "1 others"]
    assert buffer.committed_points == 4


def test_only_workers_of_this_machine_leave_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only in a directory. Tasks that are no part by themselves come without files."""
    assert [tasks.is_local for tasks in (RayTasks(), RayTasks("auto"), Processes(1), Inline())] == [
        True,
        False,
        True,
        True,
    ]
    monkeypatch.setattr("sweep.run.result_buffer.PART_POINTS", 2)
    big, small = (Task(next(make_plan(grid(seeds)).chunks()), 1.0) for seeds in ([1, 2], [3]))
    with opened(tmp_path) as writer, opened(place_at("memory://bucket/runs")) as in_bucket:
        for told, near, folder in (
            (writer, True, tmp_path / writer.run_id), (writer, False, None), (in_bucket, True, None)
        ):  # fmt: skip
            buffer = ResultBuffer(told, POLICIES)
            labels = buffer.labels_for(big, near)
            assert labels is not None
            assert labels.folder == folder
            assert buffer.labels_for(small, near) is None
            buffer.close()
