"""Sizing of tasks: large enough that their overhead does not matter, small enough that all workers end together.

The size follows the engine's cost estimate of each point, corrected by the measured CPU time of finished tasks. A task
is about TASK_NS of CPU time. The first tasks, before anything was measured, are MIN_TASK_NS, then twice that, and so
on; near the end a task is a quarter of a worker's share of the rest. A point that costs more than TASK_NS is split
into shards of the target size if there are several workers.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.model.policy import ALL
from engine.model.scenario import Columns
from sweep.executors.base import Shard
from sweep.run.plan import TASK_POINTS, TASK_ROUNDS, limit_for
from sweep.run.point_chunk import PointChunk

CostEstimate = Callable[[Columns], NDArray[np.float64]]
"""Expected CPU nanoseconds of each point: float64[n]."""
ShardRanges = Callable[[Columns, int], list[tuple[int, int]]]
"""Ranges [first, end) of one point's tables that can be judged separately, at most as many as the second argument."""

TASK_NS = 1e9
MIN_TASK_NS = 1e8
TASKS_PER_SHARE = 4
"""Into how many tasks a worker's share of the remaining work is cut at least."""
MAX_SHARDS = 256
DECAY = 0.8
"""Weight of all earlier measurements, relative to the newest, in the correction of the estimate."""

MAX_TRIES_TOGETHER, MAX_TRIES_ALONE = 2, 3
"""How often a task that loses its worker runs: until it is split, or, with a single point, until it is given up."""
SPLIT_INTO_SINGLES = 16
"""A task of at most so many points is split into its single points."""


@dataclass(frozen=True, slots=True)
class Task:
    """Points that run together, or a shard of one point.

    `attempt` counts the runs of these points, from 1. `tries` counts the runs of this task in this composition.
    """

    chunk: PointChunk
    estimate_ns: float
    attempt: int = 1
    shard: Shard | None = None
    tries: int = 1

    def __len__(self) -> int:
        return len(self.chunk)

    def retries(self, timed_out: bool) -> list["Task"]:
        """The tasks to run after this one timed out or lost its worker. Empty: the points are given up."""
        if len(self) == 1:
            return [] if timed_out or self.tries >= MAX_TRIES_ALONE else [self._retry()]
        return self.split() if timed_out or self.tries >= MAX_TRIES_TOGETHER else [self._retry()]

    def split(self) -> list["Task"]:
        """About sqrt(n) tasks of equal size for n points, or single points for at most SPLIT_INTO_SINGLES.

        So a bad point among thousands is alone after three splits, and its neighbours do not become thousands of tasks.
        """
        points = len(self)
        parts = points if points <= SPLIT_INTO_SINGLES else math.isqrt(points)
        ends = [points * i // parts for i in range(parts + 1)]
        point_ns = self.estimate_ns / points
        return [
            Task(self.chunk.slice(start, stop), point_ns * (stop - start), self.attempt + 1)
            for start, stop in itertools.pairwise(ends)
        ]

    def _retry(self) -> "Task":
        return replace(self, attempt=self.attempt + 1, tries=self.tries + 1)

    def into_shards(self, shard_ranges: ShardRanges, shards: int) -> "list[Task]":
        """A task of one point as at most `shards` tasks, or as itself if it cannot be divided."""
        ranges = shard_ranges(self.chunk.columns, min(shards, MAX_SHARDS))
        if len(ranges) < 2:
            return [self]
        shard_ns = self.estimate_ns / len(ranges)
        return [replace(self, estimate_ns=shard_ns, shard=Shard(first, end, len(ranges))) for first, end in ranges]


@dataclass(slots=True)
class PendingPoints:
    """Points that are not yet in a task: those of `chunk` from index `next` on.

    `cost_ns`, `rounds`: running sums over the chunk's points, from 0, so one element longer than the chunk.
    """

    chunk: PointChunk
    cost_ns: NDArray[np.float64]
    rounds: NDArray[np.int64]
    next: int = 0

    @property
    def points(self) -> int:
        return len(self.chunk) - self.next

    @property
    def left_ns(self) -> float:
        return float(self.cost_ns[-1] - self.cost_ns[self.next])

    def rest(self) -> PointChunk:
        return self.chunk.slice(self.next, len(self.chunk))

    def take(self, cost_ns: float, max_points: int, max_rounds: int) -> Task:
        """Remove the next points: at least one, and no more than cost, points and rounds allow."""
        by_cost = int(np.searchsorted(self.cost_ns, self.cost_ns[self.next] + cost_ns))
        by_rounds = int(np.searchsorted(self.rounds, self.rounds[self.next] + max_rounds, "right")) - 1
        start, stop = self.next, max(min(by_cost, by_rounds, self.next + max_points, len(self.chunk)), self.next + 1)
        if stop - start > 1 and self.cost_ns[stop] - self.cost_ns[stop - 1] > cost_ns:
            stop -= 1  # the last point alone costs more than the task should
        self.next = stop
        return Task(self.chunk.slice(start, stop), float(self.cost_ns[stop] - self.cost_ns[start]))


def max_task_points(points: int, workers: int, policies: int = len(ALL)) -> int:
    """The most points of a task, such that every worker gets equally many full tasks: else all would wait for one.

    At most TASK_POINTS, fewer with many policies. At least half of that, so that tasks of cheap points are large enough
    for a part of their own.
    """
    limit = limit_for(TASK_POINTS, policies)
    tasks_per_worker = math.ceil(points / (workers * limit))
    tasks = max(1, min(workers * tasks_per_worker, points // max(1, limit // 2)))
    return max(1, math.ceil(points / tasks))


class Batcher:
    """Cuts a stream of chunks into tasks. Holds a chunk or two in memory, never all points."""

    def __init__(
        self,
        chunks: Iterator[PointChunk],
        estimate: CostEstimate,
        points: int,
        total_ns: float,
        workers: int,
        shard_ranges: ShardRanges | None = None,
        policies: int = len(ALL),
    ) -> None:
        """`points` and `total_ns`: of all chunks. `policies`: their number.

        Without `shard_ranges` no point is split into shards.
        """
        self._chunks, self._estimate, self._shard_ranges = chunks, estimate, shard_ranges
        self._shards: deque[Task] = deque()
        self._left_ns, self._workers = total_ns, workers
        self._max_points = max_task_points(points, workers, policies)
        self._max_rounds = limit_for(TASK_ROUNDS, policies)
        self._ramp_ns = MIN_TASK_NS
        self._measured_ns = self._estimated_ns = 0.0
        self._pending: PendingPoints | None = None

    @property
    def correction(self) -> float:
        """Measured CPU time over estimated, of the latest tasks; 1 before the first measurement."""
        return self._measured_ns / self._estimated_ns if self._estimated_ns else 1.0

    def record_measurement(self, estimate_ns: float, cpu_ns: float) -> None:
        """Take the CPU time of a finished task into account."""
        self._measured_ns = self._measured_ns * DECAY + max(cpu_ns, 1.0)
        self._estimated_ns = self._estimated_ns * DECAY + max(estimate_ns, 1.0)
        self._ramp_ns = min(2 * self._ramp_ns, TASK_NS)

    def target_ns(self) -> float:
        """CPU nanoseconds that the next task should take."""
        share_ns = self._left_ns * self.correction / (TASKS_PER_SHARE * self._workers)
        return max(min(self._ramp_ns, share_ns), MIN_TASK_NS)

    def next_task(self) -> Task | None:
        """The next task, or None after the last point."""
        if self._shards:
            return self._shards.popleft()
        target_ns = self.target_ns() / self.correction
        pending = self._refill(target_ns)
        if pending is None or not pending.points:
            return None
        task = pending.take(target_ns, self._max_points, self._max_rounds)
        self._left_ns -= task.estimate_ns
        is_large = len(task) == 1 and task.estimate_ns * self.correction > TASK_NS
        if self._shard_ranges is None or self._workers < 2 or not is_large:
            return task
        self._shards.extend(task.into_shards(self._shard_ranges, math.ceil(task.estimate_ns / target_ns)))
        return self._shards.popleft()

    def _refill(self, target_ns: float) -> PendingPoints | None:
        """The pending points, with chunks added until they suffice for the target or no chunk is left."""
        pending = self._pending
        while pending is None or (pending.left_ns < target_ns and pending.points < self._max_points):
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            if pending is not None and pending.points:
                chunk = PointChunk.concat([pending.rest(), chunk])
            cost_ns, rounds = self._estimate(chunk.columns), chunk.columns["rounds"]
            pending = PendingPoints(chunk, np.append(0.0, np.cumsum(cost_ns)), np.append(0, np.cumsum(rounds)))
            self._pending = pending
        return pending
