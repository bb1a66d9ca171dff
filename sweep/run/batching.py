"""Batches: how many points make a task. Big enough that a task's cost drowns, small enough that all end together.

The engine's estimate, corrected by what finished batches took, is the measure. A task is about a second of work; at the
start, before anything is measured, a tenth of that, growing; near the end a quarter of a worker's share. A point above
a second is cut into shards of such a size, where there are workers to share it.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns
from sweep.executors.base import Shard
from sweep.run.plan import TASK_POINTS, TASK_ROUNDS, PointBlock
from sweep.store import arrow_tables

Estimate = Callable[[Columns], NDArray[np.float64]]
Cuts = Callable[[Columns, int], list[tuple[int, int]]]
"""Of one point: ranges of tables, at most so many, that can be walked apart."""

TASK_NS = 1e9
SMALLEST_NS = 1e8
SHARES = 4
MOST_SHARDS = 256
FADE = 0.8

TRIES_TOGETHER, TRIES_ALONE = 2, 3
"""How often a task runs that loses its worker: of several points, before they part; of one, before it is given up."""
FEW = 16


@dataclass(frozen=True, slots=True)
class Task:
    """Points that run together, or a shard of one. `attempt` counts from 1 for a point, `tries` for them together."""

    block: PointBlock
    estimate_ns: float
    attempt: int = 1
    shard: Shard | None = None
    tries: int = 1

    def __len__(self) -> int:
        return len(self.block.ids)

    def after(self, late: bool) -> list["Task"]:
        """What to run when no answer came, as its time was up (`late`) or its worker died; nothing: give it up."""
        if len(self) == 1:
            return [] if late or self.tries >= TRIES_ALONE else [self._again()]
        return self.apart() if late or self.tries >= TRIES_TOGETHER else [self._again()]

    def apart(self) -> list["Task"]:
        """Parts of equal size: of n points root n parts, of few each point by itself.

        So a bad point among thousands is alone after three losses, and its neighbours are not thousands of tasks.
        """
        points = len(self)
        parts = points if points <= FEW else math.isqrt(points)
        ends = [points * i // parts for i in range(parts + 1)]
        share = self.estimate_ns / points
        return [
            Task(cut(self.block, start, stop), share * (stop - start), self.attempt + 1)
            for start, stop in itertools.pairwise(ends)
        ]

    def _again(self) -> "Task":
        return replace(self, attempt=self.attempt + 1, tries=self.tries + 1)

    def sharded(self, cuts: Cuts, parts: int) -> "list[Task]":
        """One point in at most so many shards; itself if it cannot be cut."""
        ranges = cuts(self.block.columns, min(parts, MOST_SHARDS))
        share, of = self.estimate_ns / len(ranges), len(ranges)
        shards = [replace(self, estimate_ns=share, shard=Shard(first, end, of)) for first, end in ranges]
        return shards if of > 1 else [self]


@dataclass(slots=True)
class Stock:
    """Points that wait to be cut, from place `at` on. Running sums, one longer than the points, start with 0."""

    block: PointBlock
    cost_ns: NDArray[np.float64]
    rounds: NDArray[np.int64]
    at: int = 0

    @property
    def points(self) -> int:
        return len(self.block.ids) - self.at

    @property
    def left_ns(self) -> float:
        return float(self.cost_ns[-1] - self.cost_ns[self.at])

    def take(self, cost_ns: float, most: int) -> Task:
        """At least one point, and no more than the bounds."""
        by_cost = int(np.searchsorted(self.cost_ns, self.cost_ns[self.at] + cost_ns))
        by_rounds = int(np.searchsorted(self.rounds, self.rounds[self.at] + TASK_ROUNDS, "right")) - 1
        start, stop = self.at, max(min(by_cost, by_rounds, self.at + most, len(self.block.ids)), self.at + 1)
        if stop - start > 1 and self.cost_ns[stop] - self.cost_ns[stop - 1] > cost_ns:
            stop -= 1  # a point that is more than a task by itself
        self.at = stop
        return Task(cut(self.block, start, stop), float(self.cost_ns[stop] - self.cost_ns[start]))


def evenly(points: int, workers: int) -> int:
    """Most points of a task: so many that each worker has as many full tasks, else all would wait for one.

    No more than TASK_POINTS, and no less than half of it, so that tasks of cheap points are parts.
    """
    rounds = math.ceil(points / (workers * TASK_POINTS))
    tasks = max(1, min(workers * rounds, points // max(1, TASK_POINTS // 2)))
    return max(1, math.ceil(points / tasks))


class Batcher:
    """Cuts a stream of blocks into tasks; holds a block or two, never all points."""

    def __init__(
        self,
        blocks: Iterator[PointBlock],
        estimate: Estimate,
        points: int,
        total_ns: float,
        workers: int,
        cuts: Cuts | None = None,
    ) -> None:
        self._blocks, self._estimate, self._cuts = blocks, estimate, cuts
        self._shards: deque[Task] = deque()
        self._left_ns, self._workers, self._most = total_ns, workers, evenly(points, workers)
        self._reach_ns = SMALLEST_NS
        self._measured_ns = self._estimated_ns = 0.0
        self._stock: Stock | None = None

    @property
    def ratio(self) -> float:
        """Measured CPU time over estimate, of late."""
        return self._measured_ns / self._estimated_ns if self._estimated_ns else 1.0

    def measured(self, estimate_ns: float, cpu_ns: float) -> None:
        """Tell what a task took."""
        self._measured_ns = self._measured_ns * FADE + max(cpu_ns, 1.0)
        self._estimated_ns = self._estimated_ns * FADE + max(estimate_ns, 1.0)
        self._reach_ns = min(2 * self._reach_ns, TASK_NS)

    def target_ns(self) -> float:
        """Measured nanoseconds that the next task should take."""
        share = self._left_ns * self.ratio / (SHARES * self._workers)
        return max(min(self._reach_ns, share), SMALLEST_NS)

    def next(self) -> Task | None:
        if self._shards:
            return self._shards.popleft()
        target_ns = self.target_ns() / self.ratio
        stock = self._filled(target_ns)
        if stock is None or not stock.points:
            return None
        task = stock.take(target_ns, self._most)
        self._left_ns -= task.estimate_ns
        if self._cuts is None or self._workers < 2 or len(task) > 1 or task.estimate_ns * self.ratio <= TASK_NS:
            return task
        self._shards.extend(task.sharded(self._cuts, math.ceil(task.estimate_ns / target_ns)))
        return self._shards.popleft()

    def _filled(self, target_ns: float) -> Stock | None:
        """The stock, with enough points for the target if there are so many."""
        stock = self._stock
        while stock is None or (stock.left_ns < target_ns and stock.points < self._most):
            block = next(self._blocks, None)
            if block is None:
                break
            if stock is not None and stock.points:
                block = joined([cut(stock.block, stock.at, len(stock.block.ids)), block])
            cost, rounds = self._estimate(block.columns), block.columns["rounds"]
            stock = self._stock = Stock(block, np.append(0.0, np.cumsum(cost)), np.append(0, np.cumsum(rounds)))
        return stock


def cut(block: PointBlock, start: int, stop: int) -> PointBlock:
    """Points start to stop."""
    return PointBlock(
        block.ids[start:stop],
        {name: values[start:stop] for name, values in block.columns.items()},
        block.repeat[start:stop],
        {name: values[start:stop] for name, values in block.derived.items()},
    )


def joined(blocks: Sequence[PointBlock]) -> PointBlock:
    """The points of all, in order."""
    if len(blocks) == 1:
        return blocks[0]
    return PointBlock(
        np.concatenate([block.ids for block in blocks]),
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns},
        np.concatenate([block.repeat for block in blocks]),
        {name: arrow_tables.end_to_end([block.derived[name] for block in blocks]) for name in blocks[0].derived},
    )


def picked(block: PointBlock, places: NDArray[np.intp]) -> PointBlock:
    """The points at some places."""
    return PointBlock(
        block.ids[places],
        {name: values[places] for name, values in block.columns.items()},
        block.repeat[places],
        {name: values.take(places) for name, values in block.derived.items()},
    )
