"""Shards: a point that costs far more than a task is walked in pieces, by whoever is free, and nobody can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from engine.model.results import Results
from engine.model.scenario import Columns, Scenario, columns_of
from engine.run import cuts, gathered, run_batch, run_shard
from engine.walk.finish import Tally
from sweep.executors.base import Batch, BatchStatus, Done, Failure, Shard
from sweep.executors.worker import run_batch as answer
from sweep.grid.loader import parse_grid
from sweep.run import batching, shards
from sweep.run import launch as launching
from sweep.run.batching import Batcher, Task
from sweep.run.launch import LaunchOptions, launch
from sweep.run.point_chunk import PointChunk
from sweep.run.shards import ShardCollector
from tests.support.fake_engine import Told

GIB, TIB = 1 << 30, 1 << 40
LARGE = Scenario(virt=2 * TIB, sparsity=0.99, zap=1 << 30, coverage=0.9, seed=5)
SMALL = Scenario(virt=GIB, sparsity=0.99)


def chunk(*scenarios: Scenario) -> PointChunk:
    points = len(scenarios)
    names = np.array([f"{i:020d}" for i in range(points)], bytes)
    return PointChunk(names, columns_of(scenarios), np.zeros(points, np.int64), {})


def tasks(*scenarios: Scenario, workers: int = 2, ns: float = 1e6) -> list[Task]:
    """The tasks that points of 2 TiB at 8e9 ns make, others at `ns`."""

    def estimate(columns: Columns) -> Any:
        return np.where(columns["virt"] == LARGE.virt, 8e9, ns)

    points = chunk(*scenarios)
    batcher = Batcher(iter([points]), estimate, len(points.ids), float(estimate(points.columns).sum()), workers, cuts)
    return list(iter(batcher.next_task, None))


def answers(found: list[Task]) -> list[tuple[Task, Done]]:
    return [(task, answer(Batch(i, task.chunk.columns, shard=task.shard))) for i, task in enumerate(found)]


def test_a_heavy_point_is_cut_where_workers_can_share_it() -> None:
    """The shards follow on each other from the first table to the last and share the point's estimate."""
    found = tasks(LARGE)
    cut = [task.shard for task in found if task.shard]
    assert len(cut) == len(found) == cut[0].of == 4  # 2 TiB are four PUD tables, which no cut goes through
    assert [cut[0].first, *(shard.end for shard in cut)] == [*(shard.first for shard in cut), LARGE.virt >> 21]
    assert sum(task.estimate_ns for task in found) == pytest.approx(8e9)


def test_one_worker_takes_it_whole() -> None:
    """With nobody to share it, a cut would only cost."""
    assert [task.shard for task in tasks(LARGE, workers=1)] == [None]


def test_what_cannot_be_cut_stays_whole() -> None:
    """Threads share their steps, so such a point is one task."""
    threads = Scenario(virt=LARGE.virt, sparsity=0.99, threads=8)
    assert [task.shard for task in tasks(threads)] == [None]


def test_light_points_do_not_wait_for_a_heavy_one() -> None:
    """A heavy point is no part of its neighbours' tasks."""
    found = tasks(SMALL, SMALL, LARGE, SMALL)
    assert [(len(task), task.shard is not None) for task in found] == [(2, False), *[(1, True)] * 4, (1, False)]


def test_shards_add_up_in_any_order() -> None:
    """The last one in brings the whole point's answer: that of run_batch, and all CPU time."""
    back, seen = ShardCollector(), answers(tasks(LARGE))
    given = [back.add(task, done) for task, done in seen[::-1]]
    whole = given.pop()
    assert given == [None] * 3
    assert whole is not None
    assert whole.results is not None
    alone = run_batch(columns_of([LARGE]))
    assert np.array_equal(whole.results.values, alone.values)
    assert np.array_equal(whole.results.rounds, alone.rounds)
    assert whole.cpu_ns == sum(done.cpu_ns for _, done in seen)


def test_a_point_is_given_up_once() -> None:
    """Whatever becomes of its other shards after one that failed or was lost."""
    back, (first, second, third, fourth) = ShardCollector(), answers(tasks(LARGE))
    assert back.add(*first) is None
    assert back.abandon(second[0])
    assert not back.abandon(third[0])
    assert back.add(*fourth) is None

    failed = Done(1, BatchStatus.RAN, failures=((0, Failure("no")),))
    back = ShardCollector()
    assert back.add(*first) is None
    assert back.add(second[0], failed) is failed
    assert [back.add(*third), back.add(*fourth)] == [None, None]


def test_an_engine_that_raises_in_a_shard_is_a_failure() -> None:
    """No exception leaves a worker; the point's row says what it was."""
    columns = columns_of([LARGE])
    columns["threads"][:] = 0
    done = answer(Batch(1, columns, shard=Shard(0, 1, 2)))
    assert done.tally is None
    assert "threads" in done.failures[0][1].error


def test_a_sharded_launch_writes_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share a point, and this one that takes it whole: every outcome and round is the same."""
    text = "schema: sweep/1\nname: one\nfixed: {virt: 2TiB, sparsity: 0.99, zap: 1GiB, coverage: 0.9, rounds: 2}\n"
    for module in (batching, launching):
        monkeypatch.setattr(module, "TASK_NS", 1e6)
        monkeypatch.setattr(module, "MIN_TASK_NS", 1e5)
    added: list[Columns] = []

    def counted(one: Columns, tallies: Sequence[Tally]) -> Results:
        added.append(one)
        return gathered(one, tallies)

    monkeypatch.setattr(shards, "gathered", counted)
    seen = {}
    for executor in ("inline", "processes"):
        options = LaunchOptions(results=tmp_path / executor, executor=executor, jobs=2)
        assert launch(parse_grid(text, "one"), options, Told()).status == "ok"
        for table in ("outcomes", "rounds"):
            files = str(tmp_path / executor / "**" / f"*{table}*" / "*.parquet")
            rows = duckdb.execute("SELECT * FROM read_parquet($1) ORDER BY ALL", [files]).fetchall()
            seen[executor, table] = rows
    assert len(added) == 1  # inline took it whole
    assert seen["inline", "outcomes"]
    assert seen["inline", "rounds"]
    assert seen["inline", "outcomes"] == seen["processes", "outcomes"]
    assert seen["inline", "rounds"] == seen["processes", "rounds"]


def test_one_shard_is_what_the_engine_says_of_its_tables() -> None:
    """The engine's own law, at its interface: the tallies of the pieces make the outcome of the whole."""
    one = columns_of([LARGE])
    pieces = [run_shard(one, first, end) for first, end in cuts(one, 3)]
    assert len(pieces) == 3
    assert np.array_equal(gathered(one, pieces[::-1]).values, run_batch(one).values)
