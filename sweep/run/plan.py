"""The plan: which points of a grid are left to run, in order, in blocks, and an account of where the others went.

Two passes over the grid's chunks. The first judges every raw point: exclude rules in their order, `where`, points no
address space can have (an error), duplicates, points already done; and keeps one bit a point. The second makes the
points that are left, with their derived columns. Memory: a chunk, a bit a raw point, 10 to 20 bytes an id.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import ABSENT, Columns
from engine.run import Forecast, forecast
from sweep.common.errors import UserError, one_line
from sweep.grid.grid import CHUNK_POINTS, ExcludeRule, Grid
from sweep.grid.point_id import PointIds, ids_from_bytes, point_ids, run_name
from sweep.query import database
from sweep.store.id_set import IdSet, keys
from sweep.store.store import Store
from sweep.traces import trace_points

Mask = NDArray[np.bool_]
Done = Callable[[PointIds], Mask]

MOST_IDS = 4_000_000
"""Ids that are kept from the first pass to the second: 10 bytes each."""
WORKER_BYTES = 180 << 20
"""A worker's memory before its first point: interpreter, NumPy, Arrow, Numba, the compiled kernels; measured."""
TASK_POINTS, TASK_ROUNDS = 10_240, 131_072
"""Most points and rounds of one task: bounds on its answer. A single point may have more rounds."""
POINT_BYTES, ROUND_BYTES = 8_192, 1_152
"""What a point and a round add while a task runs, measured and rounded up."""


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """Where the raw points went: raw = excluded + where_dropped + duplicates + done + todo.

    A point that several rules match counts for the first. `peak_bytes`: memory of one worker; `kernels`: those of
    engine.run that the points need.
    """

    raw: int
    excluded: tuple[tuple[str, int], ...]
    where_dropped: int
    duplicates: int
    done: int
    todo: int
    estimate_ns: float
    peak_bytes: int
    kernels: frozenset[int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PointBlock:
    """Points to run: ids, complete columns, the repeat, and the derived columns as Arrow arrays."""

    ids: PointIds
    columns: Columns
    repeat: NDArray[np.int64]
    derived: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    grid: Grid
    account: PlanAccount
    kept: tuple[NDArray[np.uint8], ...]  #: a bit a raw point, chunk by chunk
    ids: tuple[bytes, ...]  #: of the points to run, chunk by chunk; empty where there are too many to keep

    def points(self) -> Iterator[PointBlock]:
        """The points to run, in the grid's order, in blocks of at most a chunk; no block is empty."""
        for number, bits in enumerate(self.kept):
            index = np.flatnonzero(np.unpackbits(bits, count=CHUNK_POINTS)).astype(np.int64) + number * CHUNK_POINTS
            if not len(index):
                continue
            columns, repeat = self.grid.columns_at(index)
            derived = _evaluated(self.grid, columns, [])[0] if self.grid.derive else {}
            ids = ids_from_bytes(self.ids[number]) if self.ids else point_ids(columns)
            yield PointBlock(ids, columns, repeat, derived)

    def payload(self, block: PointBlock) -> Columns:
        """What a worker needs to run these points. Raises UserError where a trace is gone."""
        return trace_points.with_contents(block.columns, self.grid.traces) if self.grid.traces else block.columns


def make_plan(grid: Grid, where: str | None = None, done: Done | None = None) -> Plan:
    """Judge every raw point. `where` keeps the points that fulfil it; `done` says which ids need no run.

    Raises UserError: SQL that does not hold, a point that no address space can have.
    """
    check_sql(grid, where)
    tally = _Tally(grid, where, done)
    kept, ids = [], []
    for chunk in grid.chunks(CHUNK_POINTS, checked=False):
        alive, names = tally.judge(chunk.columns, chunk.start)
        kept.append(np.packbits(alive))
        if grid.raw_points <= MOST_IDS:
            ids.append(bytes.fromhex(names.tobytes().decode()))
    return Plan(grid, tally.account(), tuple(kept), tuple(ids))


def plan_for_store(
    grid: Grid,
    where: str | None,
    store: Store,
    engine: str = "model",
    *,
    fresh: bool = False,
    rerun_failed: bool = False,
) -> tuple[Plan, str | None]:
    """The plan of the points that a launch into `store` would run, and the id of the run that it would resume.

    `fresh`: a new run, so that no point counts as done; `rerun_failed`: failed points do not count as done.
    """
    run = None if fresh else store.latest_run(run_name(grid), engine)
    if run is None:
        return make_plan(grid, where), None
    return make_plan(grid, where, store.tried(run.run_id, rerun_failed)), run.run_id


class _Tally:
    """Counts what happens to the points, chunk after chunk."""

    def __init__(self, grid: Grid, where: str | None, done: Done | None) -> None:
        self._grid, self._where, self._done_of = grid, where, done
        self._wheres = [rule.where for rule in grid.excludes if rule.where] + ([where] if where is not None else [])
        mentioned = any(name in text for name in grid.derive for text in self._wheres)
        self._derive = grid.derive if mentioned else {}
        self._seen = IdSet()
        self._dropped = [0] * len(grid.excludes)
        self._matched = [0] * len(grid.excludes)
        self._where_dropped = self._duplicates = self._done = self._todo = 0
        self._ns = 0.0
        self._rounds = self._most_rounds = 0
        self._kernels: frozenset[int] = frozenset()

    def judge(self, columns: Columns, start: int) -> tuple[Mask, PointIds]:
        """bool[n], true for the points to run, and their ids."""
        alive = self._selected(columns)
        index = np.flatnonzero(alive)
        kept = {name: values[index] for name, values in columns.items()}
        self._grid.check_points(kept, index + start)
        ids = point_ids(kept)
        fresh = self._fresh(ids)
        self._duplicates += len(ids) - int(fresh.sum())
        if self._done_of is not None and len(ids):
            finished = self._done_of(ids) & fresh
            self._done += int(finished.sum())
            fresh &= ~finished
        chosen = {name: values[fresh] for name, values in kept.items()}
        if self._grid.derive:
            _evaluated(self._grid, chosen, [])  # a value that cannot be had is told here, not when the run has begun
        self._cost(chosen)
        alive[index] = fresh
        return alive, ids[fresh]

    def _selected(self, columns: Columns) -> Mask:
        """What the exclude rules and `where` leave."""
        masks = iter(_evaluated(self._grid, columns, self._wheres, self._derive)[1])
        alive = np.ones(len(columns["virt"]), bool)
        for i, rule in enumerate(self._grid.excludes):
            hit = matches(rule, columns)
            if rule.where:
                hit &= next(masks)
            self._matched[i] += int(hit.sum())
            self._dropped[i] += int((hit & alive).sum())
            alive &= ~hit
        if self._where is not None:
            wanted = next(masks)
            self._where_dropped += int((alive & ~wanted).sum())
            alive &= wanted
        return alive

    def _fresh(self, ids: PointIds) -> Mask:
        """True for the first of equal ids."""
        given = keys(ids)
        fresh = given.first() & ~self._seen.has(given)
        self._seen.add(given.where(fresh))
        return fresh

    def _cost(self, columns: Columns) -> None:
        points = len(columns["virt"])
        self._todo += points
        if points:
            expected = expect(columns)
            self._ns += float(expected.ns.sum())
            self._kernels |= expected.kernels
            self._rounds += int(columns["rounds"].sum())
            self._most_rounds = max(self._most_rounds, int(columns["rounds"].max()))

    def account(self) -> PlanAccount:
        rounds = max(min(self._rounds, TASK_ROUNDS), self._most_rounds)
        answer = min(self._todo, TASK_POINTS) * POINT_BYTES + rounds * ROUND_BYTES
        return PlanAccount(
            raw=self._grid.raw_points,
            excluded=tuple((rule.label, n) for rule, n in zip(self._grid.excludes, self._dropped, strict=True)),
            where_dropped=self._where_dropped,
            duplicates=self._duplicates,
            done=self._done,
            todo=self._todo,
            estimate_ns=self._ns,
            peak_bytes=WORKER_BYTES + answer,
            kernels=self._kernels,
            warnings=tuple(self._warnings()),
        )

    def _warnings(self) -> Iterator[str]:
        for i, rule in enumerate(self._grid.excludes):
            if not self._dropped[i]:
                matched = f"; earlier rules dropped the {self._matched[i]:,} it matches" if self._matched[i] else ""
                yield f"{self._grid.location('exclude', i)}: the rule drops nothing: {rule.label}{matched}"


def expect(columns: Columns) -> Forecast:
    """What points will take; traces need no kernel."""
    if trace_points.are_traces(columns):
        return Forecast(trace_points.estimate_ns(columns), frozenset())
    return forecast(columns)


def estimated_ns(columns: Columns) -> NDArray[np.float64]:
    """Expected CPU nanoseconds a point."""
    return expect(columns).ns


def matches(rule: ExcludeRule, columns: Columns) -> Mask:
    """bool[n], true where every field of the rule has one of its values. Sparsity is filled from res and virt."""
    hit = np.ones(len(columns["virt"]), bool)
    for name, values in (rule.match or {}).items():
        column = columns[name]
        if name == "sparsity":
            filled = 1 - columns["res"] / np.maximum(columns["virt"], 1)
            column = np.where(columns["res"] == ABSENT, column, filled)
        hit &= np.isin(column, np.array(values, column.dtype))
    return hit


def _evaluated(
    grid: Grid, columns: Columns, wheres: Sequence[str], derive: dict[str, str] | None = None
) -> tuple[dict[str, Any], list[Mask]]:
    """Derived columns and conditions of points; the error names the expression that some point makes fail.

    DuckDB does not say which, so after an error they are tried one after another.
    """
    derive = grid.derive if derive is None else derive
    try:
        return database.point_conditions(columns, derive, wheres)
    except UserError as error:
        names = list(derive)
        for i, name in enumerate(names):
            with _placed(grid.location("derive", name), "derive or where: "):
                database.point_conditions(columns, {known: derive[known] for known in names[: i + 1]}, [])
        for where in wheres:
            rule = next((i for i, rule in enumerate(grid.excludes) if rule.where == where), None)
            place = "--where" if rule is None else grid.location("exclude", rule, "where")
            with _placed(place, "derive or where: "):
                database.point_conditions(columns, derive, [where])
        raise error


def check_sql(grid: Grid, where: str | None) -> None:
    """Try all SQL of the grid on no points; the error names the expression at fault."""
    wheres = [rule.where for rule in grid.excludes if rule.where] + ([where] if where is not None else [])
    try:
        database.check_expressions(grid.derive, wheres)
    except UserError:
        _check_each(grid, where)
        raise


def _check_each(grid: Grid, where: str | None) -> None:
    """One after another, to say which."""
    names = list(grid.derive)
    for i, name in enumerate(names):
        before = {known: grid.derive[known] for known in names[: i + 1]}
        with _placed(grid.location("derive", name), f"derive.{name}: "):
            database.check_expressions(before, [])
    for i, rule in enumerate(grid.excludes):
        if rule.where:
            with _placed(grid.location("exclude", i, "where"), f"where {one_line(rule.where)!r}: "):
                database.check_expressions(grid.derive, [rule.where])
    if where is not None:
        with _placed("--where", f"where {one_line(where)!r}: "):
            database.check_expressions(grid.derive, [where])


@contextmanager
def _placed(place: str, told: str) -> Iterator[None]:
    """Say where the SQL stands instead of what it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {str(error).removeprefix(told)}") from None
