"""Shards: a point that costs far more than a task is judged in ranges of tables; its rows are the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from engine.model.policy import ALL, Policy
from engine.model.results import Results
from engine.model.scenario import Columns, Scenario, columns_of
from engine.reclaim.finish import Tally
from engine.run import results_of_shards, run_batch, run_shard, shard_ranges
from sweep.executors.base import Batch, BatchStatus, Done, Shard
from sweep.executors.failure import Failure
from sweep.executors.worker import run_batch as answer
from sweep.grid.loader import parse_grid
from sweep.run import batching, shards
from sweep.run import launch as launching
from sweep.run.batching import Batcher, Task
from sweep.run.launch import LaunchOptions, launch
from sweep.run.point_chunk import PointChunk
from sweep.run.shards import ShardCollector
from tests.support.fake_engine import RecordingProgress

GIB, TIB = 1 << 30, 1 << 40
LARGE = Scenario(virt=2 * TIB, sparsity=0.99, zap=1 << 30, coverage=0.9, seed=5)
SMALL = Scenario(virt=GIB, sparsity=0.99)


def chunk(*scenarios: Scenario) -> PointChunk:
    points = len(scenarios)
    names = np.array([f"{i:020d}" for i in range(points)], bytes)
    return PointChunk(names, columns_of(scenarios), np.zeros(points, np.int64), {})


def tasks(*scenarios: Scenario, workers: int = 2, ns: float = 1e6) -> list[Task]:
    """The tasks for these scenarios; the estimate is 8e9 ns for points of 2 TiB, `ns` for others."""

    def estimate(columns: Columns) -> Any:
        return np.where(columns["virt"] == LARGE.virt, 8e9, ns)

    points = chunk(*scenarios)
    batcher = Batcher(
        iter([points]), estimate, len(points.ids), float(estimate(points.columns).sum()), workers, shard_ranges
    )
    return list(iter(batcher.next_task, None))


def answers(to_run: list[Task]) -> list[tuple[Task, Done]]:
    return [(task, answer(Batch(i, task.chunk.columns, shard=task.shard))) for i, task in enumerate(to_run)]


def test_a_heavy_point_is_divided_among_workers() -> None:
    """The shards cover all tables without gaps, in order, and their estimates add up to the point's."""
    shard_tasks = tasks(LARGE)
    ranges = [task.shard for task in shard_tasks if task.shard]
    assert len(ranges) == len(shard_tasks) == ranges[0].of == 4  # 2 TiB are four PUD tables, which are not divided
    assert [ranges[0].first, *(shard.end for shard in ranges)] == [*(shard.first for shard in ranges), LARGE.virt >> 21]
    assert sum(task.estimate_ns for task in shard_tasks) == pytest.approx(8e9)


def test_one_worker_makes_no_shards() -> None:
    """With a single worker a heavy point stays one task."""
    assert [task.shard for task in tasks(LARGE, workers=1)] == [None]


def test_a_point_with_threads_is_not_divided() -> None:
    """Threads share steps over all tables, so such a point stays one task."""
    threads = Scenario(virt=LARGE.virt, sparsity=0.99, threads=8)
    assert [task.shard for task in tasks(threads)] == [None]


def test_light_points_do_not_wait_for_a_heavy_one() -> None:
    """A heavy point is in no task with its neighbours."""
    mixed = tasks(SMALL, SMALL, LARGE, SMALL)
    assert [(len(task), task.shard is not None) for task in mixed] == [(2, False), *[(1, True)] * 4, (1, False)]


def test_shards_add_up_in_any_order() -> None:
    """The last shard to arrive completes the point: the results of run_batch, and the CPU time of all shards."""
    collector, answered = ShardCollector(ALL), answers(tasks(LARGE))
    collected = [collector.add(task, done) for task, done in answered[::-1]]
    whole = collected.pop()
    assert collected == [None] * 3
    assert whole is not None
    assert whole.results is not None
    alone = run_batch(columns_of([LARGE]))
    assert np.array_equal(whole.results.values, alone.values)
    assert np.array_equal(whole.results.rounds, alone.rounds)
    assert whole.cpu_ns == sum(done.cpu_ns for _, done in answered)


def test_a_point_is_given_up_once() -> None:
    """After one shard failed or was lost, the other shards of the point are ignored."""
    collector, (first, second, third, fourth) = ShardCollector(ALL), answers(tasks(LARGE))
    assert collector.add(*first) is None
    assert collector.abandon(second[0])
    assert not collector.abandon(third[0])
    assert collector.add(*fourth) is None

    failed = Done(1, BatchStatus.RAN, failures=((0, Failure("no")),))
    collector = ShardCollector(ALL)
    assert collector.add(*first) is None
    assert collector.add(second[0], failed) is failed
    assert [collector.add(*third), collector.add(*fourth)] == [None, None]


def test_an_error_in_a_shard_is_a_failure() -> None:
    """An exception of the engine becomes the failure of the point, and does not leave the worker."""
    columns = columns_of([LARGE])
    columns["threads"][:] = 0
    done = answer(Batch(1, columns, shard=Shard(0, 1, 2)))
    assert done.tally is None
    assert "threads" in done.failures[0][1].error


@pytest.mark.slow
def test_a_sharded_launch_writes_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share a point write the same outcomes and rounds as this process alone."""
    text = "schema: sweep/1\nname: one\nfixed: {virt: 2TiB, sparsity: 0.99, zap: 1GiB, coverage: 0.9, rounds: 2}\n"
    for module in (batching, launching):
        monkeypatch.setattr(module, "TASK_NS", 1e6)
        monkeypatch.setattr(module, "MIN_TASK_NS", 1e5)
    gathered_points: list[Columns] = []

    def recorded(columns: Columns, tallies: Sequence[Tally], policies: Sequence[Policy]) -> Results:
        gathered_points.append(columns)
        return results_of_shards(columns, tallies, policies)

    monkeypatch.setattr(shards, "results_of_shards", recorded)
    rows_of = {}
    for executor in ("inline", "processes"):
        options = LaunchOptions(results=tmp_path / executor, executor=executor, jobs=2)
        assert launch(parse_grid(text, "one"), options, RecordingProgress()).status == "ok"
        for table in ("outcomes", "rounds"):
            files = str(tmp_path / executor / "**" / f"*{table}*" / "*.parquet")
            rows = duckdb.execute("SELECT * FROM read_parquet($1) ORDER BY ALL", [files]).fetchall()
            rows_of[executor, table] = rows
    assert len(gathered_points) == 1  # inline makes no shards
    assert rows_of["inline", "outcomes"]
    assert rows_of["inline", "rounds"]
    assert rows_of["inline", "outcomes"] == rows_of["processes", "outcomes"]
    assert rows_of["inline", "rounds"] == rows_of["processes", "rounds"]


def test_the_tallies_of_shards_make_the_outcome() -> None:
    """The engine's results from the tallies of all shards, in any order, are those of the whole point."""
    columns = columns_of([LARGE])
    tallies = [run_shard(columns, first, end) for first, end in shard_ranges(columns, 3)]
    assert len(tallies) == 3
    assert np.array_equal(results_of_shards(columns, tallies[::-1]).values, run_batch(columns).values)
