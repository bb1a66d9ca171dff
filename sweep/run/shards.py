"""Shards of points on their way back from the workers: a point is done when the last of its shards is."""

from dataclasses import dataclass, replace

from engine.run import gathered
from engine.walk.finish import Tally
from sweep.executors.base import Done
from sweep.run.batching import Task


@dataclass(slots=True)
class Open:
    """What the shards so far add up to. In any order: they are sums of integers."""

    tally: Tally
    shards: int
    cpu_ns: int
    wall_ns: int


class Shards:
    def __init__(self) -> None:
        self._open: dict[bytes, Open] = {}
        self._closed: set[bytes] = set()

    def add(self, task: Task, done: Done) -> Done | None:
        """The answer for the whole of the task's points, or None: more shards are to come, or the point is given up."""
        if task.shard is None:
            return done
        point = task.block.ids[0]
        if point in self._closed:
            return None
        if done.tally is None:
            self.close(task)
            return done
        seen = self._open.pop(point, None)
        if seen is None:
            seen = Open(done.tally, 1, done.cpu_ns, done.wall_ns)
        else:
            cpu_ns, wall_ns = seen.cpu_ns + done.cpu_ns, seen.wall_ns + done.wall_ns
            seen = Open(seen.tally + done.tally, seen.shards + 1, cpu_ns, wall_ns)
        if seen.shards < task.shard.of:
            self._open[point] = seen
            return None
        results = gathered(task.block.columns, [seen.tally])
        return replace(done, tally=None, results=results, cpu_ns=seen.cpu_ns, wall_ns=seen.wall_ns)

    def close(self, task: Task) -> bool:
        """The task's points are given up; False where an earlier shard has said so."""
        if task.shard is None:
            return True
        point = task.block.ids[0]
        known = point in self._closed
        self._closed.add(point)
        self._open.pop(point, None)
        return not known
