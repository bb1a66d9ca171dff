"""Two runs of one store, row by row: what is counted must be equal, what is measured is tested."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.common.errors import UserError
from sweep.common.units import format_size
from sweep.query import compare_sql
from sweep.query.database import Database
from sweep.store.store import RunInfo, Store

if TYPE_CHECKING:
    from sweep.query.statistics import Shift

KERNEL = "kernel"
_FEW = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one scenario (whatever its seed) and policy in both runs, and what the statistics say of them.

    `point` is one of B's; `fields` are those of the scenario that vary from timing to timing.
    """

    point: str
    policy: str
    fields: Row
    column: str
    a_times: int
    b_times: int
    shift: "Shift"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is different in B. `columns`: those that differ; `differences`, `failures`: at most so many as asked for."""

    a: RunInfo
    b: RunInfo
    matched: int
    only_a: int
    only_b: int
    columns: list[Row]
    differences: list[Row]
    failed: int
    failures: list[Row]
    timings: list[Timing]
    problems: list[str]

    @property
    def worse(self) -> list[str]:
        """What is a regression, a line each."""
        found = [f"{c['column']} is higher in {counted(c['worse'], 'row')}" for c in self.columns if c["worse"]]
        if self.failed:
            found.append(f"{counted(self.failed, 'point')} failed in B and not in A")
        for column in compare_sql.TIMES:
            slower = self.timed(column, "slower")
            if slower:
                found.append(f"{column} is longer in {slower:,} of {counted(self.timed(column), 'group')}")
        return found

    def timed(self, column: str, verdict: str | None = None) -> int:
        """How many timings there are of a column, of one verdict or in all."""
        return sum(t.column == column and verdict in (None, t.shift.verdict) for t in self.timings)


def compare(store: Store, a: str, b: str, most: int) -> Comparison:
    """Run A against run B, which may be worse. At most so many differences and failures are fetched; 0: all."""
    one, other = _runs(store, a, b)
    with Database(store, runs=(one, other)) as database:
        ask, ids = _asking(database), (one.run_id, other.run_id)
        vary = ask(compare_sql.varying(*ids))[0]["names"]
        keys = [name for name in compare_sql.ROW if name in vary or name == "policy"]
        (account,) = ask(compare_sql.account(*ids, keys))
        timings = _timings(ask(compare_sql.times(*ids))) if KERNEL == one.engine == other.engine else []
        if not account["matched"] and not timings:
            why = _nothing_in_common(one, other, ask(compare_sql.values(*ids))[0])
            raise UserError("; left out: ".join([why, *database.problems]))
        names, columns, differences = account["differ"], [], []
        if names:
            columns = ask(compare_sql.columns(*ids, keys, names))
            shown = [name for name in compare_sql.SHOWN if name in vary]
            differences = ask(compare_sql.differences(*ids, keys, names, shown, most))
        failures = ask(compare_sql.failures(*ids, most)) if other.failed else []
        return Comparison(
            a=one,
            b=other,
            matched=account["matched"],
            only_a=account["only_a"],
            only_b=account["only_b"],
            columns=columns,
            differences=differences,
            failed=failures[0]["in_all"] if failures else 0,
            failures=failures,
            timings=timings,
            problems=database.problems,
        )


def _runs(store: Store, a: str, b: str) -> tuple[RunInfo, RunInfo]:
    one, other = store.find(a), store.find(b)
    if one.run_id == other.run_id:
        raise UserError(f"compare: both are {one.run_id}; give two runs (sweep ls has them)")
    return one, other


def _asking(database: Database) -> Any:
    """Questions of our own: they may take as long as they do."""
    return lambda sql: database.query(sql, None).to_pylist()


def _timings(groups: Sequence[Row]) -> list[Timing]:
    """Every group's times, column by column."""
    from sweep.query import statistics  # half a second, which only times need

    varying = [name for name in compare_sql.SHOWN if len({group[name] for group in groups if name in group}) > 1]
    asked = [
        (group, column, np.array(group[f"a_{column}"], np.float64), np.array(group[f"b_{column}"], np.float64))
        for column in compare_sql.TIMES
        for group in groups
        if group[f"a_{column}"] and group[f"b_{column}"]
    ]
    found = statistics.shifts([(a, b) for _, _, a, b in asked])
    return [
        Timing(g["point"], g["policy"], {name: g[name] for name in varying}, column, len(a), len(b), shift)
        for (g, column, a, b), shift in zip(asked, found, strict=True)
    ]


def _nothing_in_common(a: RunInfo, b: RunInfo, values: Row) -> str:
    """`first-1 and first-2 have no row in common: policy is none in A, merged in B`."""
    for run, side in ((a, "a"), (b, "b")):
        if not values[f"{side}_engine"]:
            had = f"{counted(run.ok, 'point')} ok, {run.failed:,} failed"
            return f"compare: {run.run_id} has no rows: it is {run.status}, {had}"
    apart = [
        f"{name} is {_some(name, values[f'a_{name}'])} in A, {_some(name, values[f'b_{name}'])} in B"
        for name in compare_sql.ROW
        if not set(values[f"a_{name}"]) & set(values[f"b_{name}"])
    ]
    what = "; ".join(apart) or "each value is in both, but no scenario and policy is"
    return f"compare: {a.run_id} and {b.run_id} have no row in common: {what}"


def _some(name: str, values: Sequence[Any]) -> str:
    """The first values as people write them."""
    in_bytes = name in compare_sql.IN_BYTES
    texts = ["absent" if v is None else format_size(v) if in_bytes else str(v) for v in values[:_FEW]]
    return ", ".join(texts) + (", ..." if len(values) > _FEW else "")


def counted(number: int, what: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {what}{'s' * (number != 1)}"
