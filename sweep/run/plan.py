"""The plan of a launch: which points of a grid are to run, in the grid's order, and how many were left out and why.

The grid is read twice, chunk by chunk. The first pass applies the exclude rules in their order, then --where; refuses
points that no address space can have; drops duplicates and points that the run already has; and keeps one bit for each
raw point. The second pass yields the remaining points with their derived columns. Memory: one chunk, a bit for each raw
point, and 10 to 20 bytes for each id.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.compiled_passes import POLICIES_PER_PASS
from engine.forecast import Forecast, forecast, pays_general
from engine.model.policy import ALL, Policy
from engine.model.scenario import ABSENT, Columns
from sweep.common.errors import UserError, one_line
from sweep.common.units import human_ns
from sweep.grid.grid import CHUNK_POINTS, ExcludeRule, Grid
from sweep.grid.point_id import PointIds, ids_from_bytes, point_ids
from sweep.run import grid_sql
from sweep.run.grid_sql import Mask
from sweep.run.point_chunk import PointChunk
from sweep.store.id_set import IdSet, sort_ids
from sweep.traces import trace_points

IsDone = Callable[[PointIds], Mask]

MAX_KEPT_IDS = 4_000_000
"""Grids of at most so many raw points keep their ids (10 bytes each) from the first pass for the second."""
WORKER_BYTES = 180 << 20
"""Memory of a worker before its first point: interpreter, NumPy, Arrow, Numba, compiled passes; measured."""
TASK_POINTS, TASK_ROUNDS = 10_240, 131_072
"""Most points and rounds of a task under seven policies, which bound the size of its answer. A single point may have
more rounds."""
LONG_POINT_NS = 10e9
"""From which CPU time on a point that is not divided among workers is worth a warning."""
POINT_BYTES, ROUND_BYTES = 8_192, 1_152
"""Memory of a worker for each point and each round of its task under seven policies; measured and rounded up."""


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """How many raw points went where: raw = excluded + where_dropped + duplicates + done + todo.

    `excluded`: (label, points) for each rule; a point that several rules match counts for the first. `estimate_ns`:
    CPU time of the points to run. `peak_bytes`: memory of one worker. `passes`: indexes in
    engine.compiled_passes.PASSES of the passes that the points need. `is_general`: whether they are general ones,
    because too little is to run to compile faster ones.
    """

    raw: int
    excluded: tuple[tuple[str, int], ...]
    where_dropped: int
    duplicates: int
    done: int
    todo: int
    estimate_ns: float
    peak_bytes: int
    passes: frozenset[int]
    is_general: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The points of a grid that are to run."""

    grid: Grid
    account: PlanAccount
    todo_bits: tuple[NDArray[np.uint8], ...]  #: for each chunk, one bit for each raw point: 1 if it is to run
    ids: tuple[bytes, ...]  #: for each chunk, the ids to run, ID_BYTES each; empty above MAX_KEPT_IDS raw points

    def chunks(self) -> Iterator[PointChunk]:
        """The points to run, in the grid's order. No chunk is empty."""
        for number, bits in enumerate(self.todo_bits):
            index = np.flatnonzero(np.unpackbits(bits, count=CHUNK_POINTS)).astype(np.int64) + number * CHUNK_POINTS
            if not len(index):
                continue
            columns, repeat = self.grid.columns_at(index)
            derived = grid_sql.evaluate(self.grid, columns, [])[0] if self.grid.derive else {}
            ids = ids_from_bytes(self.ids[number]) if self.ids else point_ids(columns)
            yield PointChunk(ids, columns, repeat, derived)

    def worker_columns(self, chunk: PointChunk) -> Columns:
        """The columns that a worker needs: for traces also their contents. Raises UserError if a trace is missing."""
        return trace_points.with_contents(chunk.columns, self.grid.traces) if self.grid.traces else chunk.columns


def make_plan(grid: Grid, where: str | None = None, is_done: IsDone | None = None) -> Plan:
    """Decide for every raw point whether it is to run.

    `where`: SQL that points must fulfil. `is_done`: for S20[n] ids, bool[n], true for points that need not run. Raises
    UserError for faulty SQL, for a `where` that selects nothing, and for a point that no address space can have.
    """
    check_selection(grid, where)
    builder = _PlanBuilder(grid, where, is_done)
    todo_bits, ids = [], []
    for chunk in grid.chunks(CHUNK_POINTS, checked=False):
        todo, todo_ids = builder.add(chunk.columns, chunk.start)
        todo_bits.append(np.packbits(todo))
        if grid.raw_points <= MAX_KEPT_IDS:
            ids.append(bytes.fromhex(todo_ids.tobytes().decode()))
    return Plan(grid, builder.account(), tuple(todo_bits), tuple(ids))


def check_selection(grid: Grid, where: str | None) -> None:
    """Raise UserError for faulty SQL of the grid or `where`, and for a `where` that is true for no point."""
    grid_sql.check(grid, where)
    if where is None:
        return
    builder = _PlanBuilder(grid, where, None)
    if not any(builder.select(chunk.columns).any() for chunk in grid.chunks(CHUNK_POINTS, checked=False)):
        hint = f"sweep plan {grid.name} --points lists them"
        raise UserError(f"--where: true for none of the {grid.raw_points:,} points: {one_line(where)}; {hint}")


class _PlanBuilder:
    """Takes the chunks of a grid in order and counts where their points go."""

    def __init__(self, grid: Grid, where: str | None, is_done: IsDone | None) -> None:
        self._grid, self._where, self._is_done = grid, where, is_done
        self._wheres = [rule.where for rule in grid.excludes if rule.where] + ([where] if where is not None else [])
        uses_derived = any(name in text for name in grid.derive for text in self._wheres)
        self._derive = grid.derive if uses_derived else {}
        self._seen = IdSet()
        self._excluded = [0] * len(grid.excludes)
        self._matched = [0] * len(grid.excludes)
        self._where_dropped = self._duplicates = self._done = self._todo = 0
        self._estimate_ns = self._general_ns = self._longest_ns = 0.0
        self._rounds = self._most_rounds = 0
        self._passes: frozenset[int] = frozenset()
        self._general_passes: frozenset[int] = frozenset()

    def add(self, columns: Columns, start: int) -> tuple[Mask, PointIds]:
        """bool[n], true for the points to run, and the ids of these. `start`: index of the first raw point."""
        todo = self.select(columns)
        index = np.flatnonzero(todo)
        selected = {name: values[index] for name, values in columns.items()}
        self._grid.check_points(selected, index + start)
        ids = point_ids(selected)
        is_new = self._first_seen(ids)
        self._duplicates += len(ids) - int(is_new.sum())
        if self._is_done is not None and len(ids):
            done = self._is_done(ids) & is_new
            self._done += int(done.sum())
            is_new &= ~done
        chosen = {name: values[is_new] for name, values in selected.items()}
        if self._grid.derive:
            grid_sql.evaluate(self._grid, chosen, [])  # raises now, not in the middle of the run, if a value fails
        self._add_cost(chosen)
        todo[index] = is_new
        return todo, ids[is_new]

    def select(self, columns: Columns) -> Mask:
        """Apply the exclude rules and --where: bool[n], true for the points that are left."""
        masks = iter(grid_sql.evaluate(self._grid, columns, self._wheres, self._derive)[1])
        selected = np.ones(len(columns["virt"]), bool)
        for i, rule in enumerate(self._grid.excludes):
            is_match = matches(rule, columns)
            if rule.where:
                is_match &= next(masks)
            self._matched[i] += int(is_match.sum())
            self._excluded[i] += int((is_match & selected).sum())
            selected &= ~is_match
        if self._where is not None:
            fulfils_where = next(masks)
            self._where_dropped += int((selected & ~fulfils_where).sum())
            selected &= fulfils_where
        return selected

    def _first_seen(self, ids: PointIds) -> Mask:
        """True for the first point of each id, over all chunks so far."""
        sorted_ids = sort_ids(ids)
        is_first = sorted_ids.is_first() & ~self._seen.has(sorted_ids)
        self._seen.add(sorted_ids.select(is_first))
        return is_first

    def _add_cost(self, columns: Columns) -> None:
        points = len(columns["virt"])
        self._todo += points
        if points:
            expected = forecast_points(columns, self._grid.policies)
            self._estimate_ns += float(expected.ns.sum())
            self._longest_ns = max(self._longest_ns, float(expected.ns.max()))
            self._passes |= expected.passes
            self._general_ns += float(expected.general_ns.sum())
            self._general_passes |= expected.general_passes
            self._rounds += int(columns["rounds"].sum())
            self._most_rounds = max(self._most_rounds, int(columns["rounds"].max()))

    def account(self) -> PlanAccount:
        policies = len(self._grid.policies)
        is_general = pays_general(self._passes, self._general_passes, self._general_ns)
        rounds = max(min(self._rounds, limit_for(TASK_ROUNDS, policies)), self._most_rounds)
        points = min(self._todo, limit_for(TASK_POINTS, policies))
        task_bytes = points * POINT_BYTES + rounds * ROUND_BYTES
        task_bytes = math.ceil(task_bytes * max(1.0, policies / len(ALL)))
        return PlanAccount(
            raw=self._grid.raw_points,
            excluded=tuple((rule.label, n) for rule, n in zip(self._grid.excludes, self._excluded, strict=True)),
            where_dropped=self._where_dropped,
            duplicates=self._duplicates,
            done=self._done,
            todo=self._todo,
            estimate_ns=self._estimate_ns,
            peak_bytes=WORKER_BYTES + task_bytes,
            passes=self._general_passes if is_general else self._passes,
            is_general=is_general,
            warnings=tuple(self._warnings()),
        )

    def _equal_policies(self) -> Iterator[str]:
        """A line for each rule of the grid's own with which another policy before it agrees in all that has effect."""
        for i, policy in enumerate(self._grid.policies):
            same = [p.name for p in self._grid.policies[:i] if p.effective == policy.effective]
            if same:
                yield f"{self._grid.location('policies')}: {policy.name} has the rule of {same[0]}, so the same results"

    def _warnings(self) -> Iterator[str]:
        yield from self._equal_policies()
        policies = len(self._grid.policies)
        if policies > POLICIES_PER_PASS and self._longest_ns > LONG_POINT_NS:
            where, long = self._grid.location("policies"), human_ns(self._longest_ns)
            yield (
                f"{where}: {policies} policies are more than {POLICIES_PER_PASS}, so each point runs on one worker, "
                f"the longest for about {long}; several grids with fewer use all workers"
            )
        for i, rule in enumerate(self._grid.excludes):
            if not self._excluded[i]:
                matched = f"; earlier rules dropped the {self._matched[i]:,} it matches" if self._matched[i] else ""
                yield f"{self._grid.location('exclude', i)}: the rule drops nothing: {rule.label}{matched}"


def limit_for(limit: int, policies: int) -> int:
    """A limit of points or rounds for so many policies: less, if those are more than the built-in ones."""
    return max(1, limit * len(ALL) // max(policies, len(ALL)))


def forecast_points(columns: Columns, policies: Sequence[Policy] = ALL) -> Forecast:
    """Expected CPU time of each point, and the passes that they need. Traces need none."""
    if trace_points.are_traces(columns):
        return Forecast(trace_points.estimate_ns(columns), frozenset(), np.zeros(len(columns["virt"])), frozenset())
    return forecast(columns, policies)


def estimate_ns(columns: Columns, policies: Sequence[Policy] = ALL) -> NDArray[np.float64]:
    """Expected CPU nanoseconds of each point: float64[n]."""
    return forecast_points(columns, policies).ns


def matches(rule: ExcludeRule, columns: Columns) -> Mask:
    """bool[n], true where every field that the rule lists has one of its values.

    Where `res` was given, sparsity is 1 - res / virt, as in SQL.
    """
    is_match = np.ones(len(columns["virt"]), bool)
    for name, values in (rule.match or {}).items():
        column = columns[name]
        if name == "sparsity":
            from_res = 1 - columns["res"] / np.maximum(columns["virt"], 1)
            column = np.where(columns["res"] == ABSENT, column, from_res)
        is_match &= np.isin(column, np.array(values, column.dtype))
    return is_match
