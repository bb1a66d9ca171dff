"""Batches: every point once and in order, tasks of a second's work, small ones at both ends."""

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


def each(ns: float) -> CostEstimate:
    def estimate(columns: Columns) -> NDArray[np.float64]:
        return np.full(len(columns["virt"]), ns)

    return estimate


def run(batcher: Batcher, real: float = 1.0) -> list[Task]:
    """All tasks, each measured at `real` times its estimate."""
    tasks = []
    while (task := batcher.next_task()) is not None:
        tasks.append(task)
        batcher.record_measurement(task.estimate_ns, task.estimate_ns * real)
    return tasks


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8), st.floats(1e4, 1e9), st.integers(1, 9))
def test_every_point_once_and_in_order(sizes: list[int], ns: float, workers: int) -> None:
    """However the blocks fall, the tasks hold all points, in order, and their own columns."""
    tasks = run(Batcher(chunks(sizes), each(ns), sum(sizes), ns * sum(sizes), workers))
    assert [int(i) for task in tasks for i in task.chunk.ids] == list(range(sum(sizes)))
    for task in tasks:
        assert task.chunk.columns["seed"].tolist() == [int(i) for i in task.chunk.ids]
        assert task.chunk.derived["double"].to_pylist() == [2 * int(i) for i in task.chunk.ids]


@pytest.mark.parametrize("real", [0.1, 1.0, 8.0])
def test_a_task_is_a_second_of_work(real: float) -> None:
    """Once measured, tasks aim at a second of real CPU time, whatever the estimate's error."""
    ns, points = 1e6, 200_000
    tasks = run(Batcher(chunks([50_000] * 4), each(ns), points, ns * points, 2), real)
    middle = [len(task) * ns * real for task in tasks[5:12]]
    bound = max_task_points(points, 2) * ns * real
    assert np.allclose(middle, min(TASK_NS, bound), rtol=0.05)


@pytest.mark.parametrize(
    ("points", "workers", "tasks"),
    [(100, 4, 1), (5_120, 4, 1), (10_240, 4, 2), (10_241, 1, 2), (21_480, 2, 4), (20_480, 2, 2), (20_000, 16, 3),
     (100_000, 2, 10), (100_000, 16, 16), (10_000_000, 16, 992)],
)  # fmt: skip
def test_cheap_points_are_cut_so_that_all_workers_end_together(points: int, workers: int, tasks: int) -> None:
    """As many tasks for each, all of a size; but no task so small that it is no part by itself."""
    cut_in = [
        len(task) for task in run(Batcher(chunks([points // 2, -(-points // 2)]), each(1), points, points, workers))
    ]
    assert len(cut_in) == tasks
    assert max(cut_in) <= TASK_POINTS
    assert tasks % workers == 0 or max(cut_in) < TASK_POINTS * 3 / 4
    assert tasks == 1 or min(cut_in) >= PART_POINTS
    assert max(cut_in) - min(cut_in) <= tasks


def test_small_at_the_start_and_towards_the_end() -> None:
    """The first task is a probe; the last ones share what is left; none but the last is below a tenth of a second."""
    ns, points, workers = 1e7, 4_000, 4
    tasks = run(Batcher(chunks([points]), each(ns), points, ns * points, workers))
    sizes = [task.estimate_ns for task in tasks]
    assert sizes[0] == pytest.approx(MIN_TASK_NS)
    assert max(sizes) <= TASK_NS * 1.001
    assert all(size >= MIN_TASK_NS * 0.999 for size in sizes[:-1])
    left = np.cumsum(sizes[::-1])[::-1]
    assert all(size <= max(before / (4 * workers), MIN_TASK_NS) + ns for size, before in zip(sizes, left, strict=True))


def test_answers_are_bounded() -> None:
    """Cheap points are cut by number, points of many rounds by their rounds; a huge one goes alone."""
    many = run(Batcher(chunks([5 * TASK_POINTS]), each(1.0), 5 * TASK_POINTS, 40_000.0, 1))
    assert max(map(len, many)) == TASK_POINTS
    rounds = run(Batcher(iter([chunk(0, 5, TASK_ROUNDS // 2)]), each(1.0), 5, 5.0, 1))
    assert [len(task) for task in rounds] == [2, 2, 1]
    huge = run(Batcher(iter([chunk(0, 3, 1_000_000)]), each(1.0), 3, 3.0, 1))
    assert [len(task) for task in huge] == [1, 1, 1]


def test_after_a_lost_answer() -> None:
    """Points together run twice, then in parts; a point alone runs three times; what is late parts at once."""
    task = Task(chunk(0, 3), 30.0)
    (again,) = task.retries(timed_out=False)
    assert (again.attempt, again.tries, len(again)) == (2, 2, 3)
    apart = again.retries(timed_out=False)
    assert [(t.chunk.ids, t.estimate_ns, t.attempt, t.tries) for t in apart] == [
        (task.chunk.ids[i : i + 1], 10.0, 3, 1) for i in range(3)
    ]
    (second,) = apart[0].retries(timed_out=False)
    (third,) = second.retries(timed_out=False)
    assert (third.attempt, third.retries(timed_out=False)) == (5, [])
    assert [t.attempt for t in task.retries(timed_out=True)] == [2, 2, 2]
    assert apart[0].retries(timed_out=True) == []


def test_a_bad_point_among_thousands_is_soon_alone() -> None:
    """Parts are root n: three partings, and some hundred tasks instead of thousands. No point is lost or doubled."""
    task, partings, tasks = Task(chunk(0, 8192), 1.0), 0, 0
    while len(task) > 1:
        parts = task.split()
        assert [point for part in parts for point in part.chunk.ids] == task.chunk.ids.tolist()
        task, partings, tasks = max(parts, key=len), partings + 1, tasks + len(parts)
    assert (partings, tasks) == (3, 90 + 9 + 11)


def test_cut_join_pick() -> None:
    """Blocks are cut and joined without mixing points up."""
    whole = chunk(0, 6)
    again = PointChunk.concat([whole.slice(0, 2), whole.slice(2, 6)])
    assert again.ids.tolist() == whole.ids.tolist()
    assert again.columns["seed"].tolist() == list(range(6))
    assert whole.take(np.array([5, 1])).columns["seed"].tolist() == [5, 1]
    assert whole.take(np.array([5, 1])).derived["double"].to_pylist() == [10, 2]
