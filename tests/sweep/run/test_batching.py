"""Sizing of tasks: every point once and in order, about a second of work each, smaller ones at both ends."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.model.scenario import Columns, complete
from sweep.run.batching import MIN_TASK_NS, TASK_NS, Batcher, CostEstimate, Task, max_task_points
from sweep.run.plan import TASK_POINTS, TASK_ROUNDS
from sweep.run.point_chunk import PointChunk
from sweep.store.compaction import PART_POINTS


def chunk(first: int, points: int, rounds: int = 1) -> PointChunk:
    columns = complete({"virt": np.full(points, 1 << 21), "seed": np.arange(first, first + points)}, points)
    columns["rounds"][:] = rounds
    names = np.array([f"{i:020d}" for i in range(first, first + points)], bytes)
    return PointChunk(
        names, columns, np.zeros(points, np.int64), {"double": pa.array(range(2 * first, 2 * (first + points), 2))}
    )


def chunks(sizes: list[int]) -> Iterator[PointChunk]:
    first = 0
    for size in sizes:
        yield chunk(first, size)
        first += size


def constant_cost(ns: float) -> CostEstimate:
    """An estimate of `ns` for each point."""

    def estimate(columns: Columns) -> NDArray[np.float64]:
        return np.full(len(columns["virt"]), ns)

    return estimate


def take_all(batcher: Batcher, actual: float = 1.0) -> list[Task]:
    """All tasks; each is measured at `actual` times its estimate."""
    tasks = []
    while (task := batcher.next_task()) is not None:
        tasks.append(task)
        batcher.record_measurement(task.estimate_ns, task.estimate_ns * actual)
    return tasks


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8), st.floats(1e4, 1e9), st.integers(1, 9))
def test_every_point_once_and_in_order(sizes: list[int], ns: float, workers: int) -> None:
    """For chunks of any size the tasks contain all points, in order, each with its own columns."""
    tasks = take_all(Batcher(chunks(sizes), constant_cost(ns), sum(sizes), ns * sum(sizes), workers))
    assert [int(i) for task in tasks for i in task.chunk.ids] == list(range(sum(sizes)))
    for task in tasks:
        assert task.chunk.columns["seed"].tolist() == [int(i) for i in task.chunk.ids]
        assert task.chunk.derived["double"].to_pylist() == [2 * int(i) for i in task.chunk.ids]


@pytest.mark.parametrize("actual", [0.1, 1.0, 8.0])
def test_a_task_is_a_second_of_work(actual: float) -> None:
    """After some measurements tasks take about a second of CPU time, however wrong the estimate is."""
    ns, points = 1e6, 200_000
    tasks = take_all(Batcher(chunks([50_000] * 4), constant_cost(ns), points, ns * points, 2), actual)
    middle = [len(task) * ns * actual for task in tasks[5:12]]
    bound = max_task_points(points, 2) * ns * actual
    assert np.allclose(middle, min(TASK_NS, bound), rtol=0.05)


@pytest.mark.parametrize(
    ("points", "workers", "tasks"),
    [(100, 4, 1), (5_120, 4, 1), (10_240, 4, 2), (10_241, 1, 2), (21_480, 2, 4), (20_480, 2, 2), (20_000, 16, 3),
     (100_000, 2, 10), (100_000, 16, 16), pytest.param(10_000_000, 16, 992, marks=pytest.mark.slow)],
)  # fmt: skip
def test_cheap_points_are_divided_equally_among_workers(points: int, workers: int, tasks: int) -> None:
    """Every worker gets as many tasks of one size, unless they would be too small for a part of their own."""
    sizes = [
        len(task)
        for task in take_all(Batcher(chunks([points // 2, -(-points // 2)]), constant_cost(1), points, points, workers))
    ]
    assert len(sizes) == tasks
    assert max(sizes) <= TASK_POINTS
    assert tasks % workers == 0 or max(sizes) < TASK_POINTS * 3 / 4
    assert tasks == 1 or min(sizes) >= PART_POINTS
    assert max(sizes) - min(sizes) <= tasks


def test_small_at_the_start_and_towards_the_end() -> None:
    """The first task is small, the last ones share the rest; only the very last is below a tenth of a second."""
    ns, points, workers = 1e7, 4_000, 4
    tasks = take_all(Batcher(chunks([points]), constant_cost(ns), points, ns * points, workers))
    sizes = [task.estimate_ns for task in tasks]
    assert sizes[0] == pytest.approx(MIN_TASK_NS)
    assert max(sizes) <= TASK_NS * 1.001
    assert all(size >= MIN_TASK_NS * 0.999 for size in sizes[:-1])
    left = np.cumsum(sizes[::-1])[::-1]
    assert all(size <= max(before / (4 * workers), MIN_TASK_NS) + ns for size, before in zip(sizes, left, strict=True))


def test_task_sizes_are_bounded() -> None:
    """The number of points bounds tasks of cheap points, the rounds those of many rounds; a huge point is alone."""
    many = take_all(Batcher(chunks([5 * TASK_POINTS]), constant_cost(1.0), 5 * TASK_POINTS, 40_000.0, 1))
    assert max(map(len, many)) == TASK_POINTS
    rounds = take_all(Batcher(iter([chunk(0, 5, TASK_ROUNDS // 2)]), constant_cost(1.0), 5, 5.0, 1))
    assert [len(task) for task in rounds] == [2, 2, 1]
    huge = take_all(Batcher(iter([chunk(0, 3, 1_000_000)]), constant_cost(1.0), 3, 3.0, 1))
    assert [len(task) for task in huge] == [1, 1, 1]


def test_retries_of_a_lost_task() -> None:
    """A lost task runs twice, then is split; a single point runs three times; a task that times out is split."""
    task = Task(chunk(0, 3), 30.0)
    (retry,) = task.retries(timed_out=False)
    assert (retry.attempt, retry.tries, len(retry)) == (2, 2, 3)
    singles = retry.retries(timed_out=False)
    assert [(t.chunk.ids, t.estimate_ns, t.attempt, t.tries) for t in singles] == [
        (task.chunk.ids[i : i + 1], 10.0, 3, 1) for i in range(3)
    ]
    (second,) = singles[0].retries(timed_out=False)
    (third,) = second.retries(timed_out=False)
    assert (third.attempt, third.retries(timed_out=False)) == (5, [])
    assert [t.attempt for t in task.retries(timed_out=True)] == [2, 2, 2]
    assert singles[0].retries(timed_out=True) == []


def test_a_bad_point_among_thousands_is_soon_alone() -> None:
    """Three splits into sqrt(n) tasks make about a hundred tasks, not thousands. No point is lost or repeated."""
    task, splits, tasks = Task(chunk(0, 8192), 1.0), 0, 0
    while len(task) > 1:
        parts = task.split()
        assert [point for part in parts for point in part.chunk.ids] == task.chunk.ids.tolist()
        task, splits, tasks = max(parts, key=len), splits + 1, tasks + len(parts)
    assert (splits, tasks) == (3, 90 + 9 + 11)


def test_slice_concat_take() -> None:
    """Each point keeps its own id, columns and derived values."""
    points = chunk(0, 6)
    joined = PointChunk.concat([points.slice(0, 2), points.slice(2, 6)])
    assert joined.ids.tolist() == points.ids.tolist()
    assert joined.columns["seed"].tolist() == list(range(6))
    assert points.take(np.array([5, 1])).columns["seed"].tolist() == [5, 1]
    assert points.take(np.array([5, 1])).derived["double"].to_pylist() == [10, 2]
