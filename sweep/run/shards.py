"""Collects the answers to the shards of a point: the point is finished when the last of them has arrived."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.model.policy import Policy
from engine.reclaim.finish import Tally
from engine.run import results_of_shards
from sweep.executors.base import Done
from sweep.run.batching import Task


@dataclass(slots=True)
class PartialPoint:
    """Sums over the shards of a point that have arrived. The order does not matter: all are sums of integers."""

    tally: Tally
    shards: int
    cpu_ns: int
    wall_ns: int


class ShardCollector:
    """Adds up shards, point by point."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """`policies`: those under which the shards were computed."""
        self._policies = policies
        self._partial: dict[bytes, PartialPoint] = {}
        self._abandoned: set[bytes] = set()

    def add(self, task: Task, done: Done) -> Done | None:
        """The answer for all of the task's points: `done` itself, or the sum if this was the last shard of its point.

        None while shards are missing, and for a point that was abandoned. A shard that failed abandons its point.
        """
        if task.shard is None:
            return done
        point = task.chunk.ids[0]
        if point in self._abandoned:
            return None
        if done.tally is None:
            self.abandon(task)
            return done
        partial = self._partial.pop(point, None)
        if partial is None:
            partial = PartialPoint(done.tally, 1, done.cpu_ns, done.wall_ns)
        else:
            cpu_ns, wall_ns = partial.cpu_ns + done.cpu_ns, partial.wall_ns + done.wall_ns
            partial = PartialPoint(partial.tally + done.tally, partial.shards + 1, cpu_ns, wall_ns)
        if partial.shards < task.shard.of:
            self._partial[point] = partial
            return None
        results = results_of_shards(task.chunk.columns, [partial.tally], self._policies)
        return replace(done, tally=None, results=results, cpu_ns=partial.cpu_ns, wall_ns=partial.wall_ns)

    def abandon(self, task: Task) -> bool:
        """Ignore all further shards of the task's point. False if the point was abandoned before."""
        if task.shard is None:
            return True
        point = task.chunk.ids[0]
        is_first = point not in self._abandoned
        self._abandoned.add(point)
        self._partial.pop(point, None)
        return is_first
