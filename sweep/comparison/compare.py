"""Compares two runs, or two kernels of one: counted columns must be equal in matching rows, times are tested."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.common.errors import UserError, one_line
from sweep.common.kernel_releases import begins
from sweep.common.units import format_size
from sweep.comparison import compare_sql
from sweep.grid.rule_text import spelled_fields
from sweep.query.database import Database
from sweep.store.store import RunInfo, Store, find_run

if TYPE_CHECKING:
    from sweep.comparison.statistics import Shift

KERNEL = "kernel"
_SHOWN_VALUES = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one group, a scenario whatever its seed under one policy, in both runs, and their comparison.

    `point`: id of one of its points in B. `fields`: the scenario's fields that differ between groups.
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
    """The result for run B against run A.

    `columns`: the counted columns that differ, with totals. `differences`, `failures`: rows, at most as many as asked
    for. `failed`: points that failed in B and not in A. `problems`: parts that could not be read. `seeds_differ`: the
    runs have no seed in common, so rows are paired by all other values, and counters differ by chance. `a_kernel`,
    `b_kernel`: the release of the kernel whose rows are compared, None for all rows.
    """

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
    seeds_differ: bool
    a_kernel: str | None = None
    b_kernel: str | None = None

    @property
    def regressions(self) -> list[str]:
        """One phrase for each way in which B is worse."""
        worse = [] if self.seeds_differ else [c for c in self.columns if c["worse"]]
        phrases = [f"{c['column']} is higher in {count_text(c['worse'], 'row')}" for c in worse]
        if self.failed:
            phrases.append(f"{count_text(self.failed, 'point')} failed in B and not in A")
        for column in compare_sql.TIMES:
            slower = self.count_timings(column, "slower")
            if slower:
                phrases.append(f"{column} is longer in {slower:,} of {count_text(self.count_timings(column), 'group')}")
        return phrases

    @property
    def rule_differences(self) -> list[str]:
        """`the rule small differs: least is 64KiB in A, 4KiB in B`, for each policy of one name and two rules."""
        rules_a = {policy.name: spelled_fields(policy) for policy in self.a.policies}
        return [
            f"the rule {policy.name} differs: {_field_differences(rules_a[policy.name], spelled_fields(policy))}"
            for policy in self.b.policies
            if policy.name in rules_a and rules_a[policy.name] != spelled_fields(policy)
        ]

    def count_timings(self, column: str, verdict: str | None = None) -> int:
        """Timings of a column, with this verdict or with any."""
        return sum(t.column == column and verdict in (None, t.shift.verdict) for t in self.timings)


def compare(store: Store, a: str, b: str, max_rows: int) -> Comparison:
    """Compare run A with run B, which may be worse. At most `max_rows` differences and failures; 0 for all.

    A run of another store is given as STORE/RUN, one kernel of a run as RUN@RELEASE. Raises UserError if a run or a
    kernel does not exist, if a run has several kernels and none is named, or if the runs have no row in common.
    """
    (a, a_name), (b, b_name) = _split_kernel(a), _split_kernel(b)
    run_a, run_b = _find_runs(store, a, b, kernels_differ=a_name != b_name)
    sides = [replace(run_a, run_id="A"), replace(run_b, run_id="B")]  # two stores may have the same id
    with Database(store, runs=sides) as database:
        rows_of, ids = _unlimited(database), ("A", "B")
        releases: dict[str, list[str]] = {"A": [], "B": []}
        for row in rows_of(compare_sql.kernels()):
            releases[row["run_id"]].append(row["kernel_release"])
        a_kernel, b_kernel = _kernel(run_a, a_name, releases["A"]), _kernel(run_b, b_name, releases["B"])
        if str(run_a.path) == str(run_b.path) and a_kernel == b_kernel:
            raise UserError(f"compare: both are {run_a.run_id}@{a_kernel}; give two kernels")
        source = _rows_of_kernels(rows_of, a_kernel, b_kernel)
        varying = rows_of(compare_sql.varying_columns(*ids, source))[0]["names"]
        keys = [name for name in compare_sql.ROW if name in varying or name == "policy"]
        (account,) = rows_of(compare_sql.match_counts(*ids, keys, source))
        seeds_differ = not account["matched"] and "seed" in keys
        if seeds_differ:
            keys = [name if name != "seed" else compare_sql.PAIRED for name in keys]
            (account,) = rows_of(compare_sql.match_counts(*ids, keys, source))
        both_live = run_a.engine == run_b.engine == KERNEL
        timings = _timings(rows_of(compare_sql.times_by_group(*ids, source))) if both_live else []
        if not account["matched"] and not timings:
            reason = _nothing_in_common(run_a, run_b, rows_of(compare_sql.key_values(*ids, source))[0])
            raise UserError("; left out: ".join([reason, *database.problems]))
        names, columns, differences = account["differ"], [], []
        if names:
            columns = rows_of(compare_sql.column_totals(*ids, keys, names, source))
            shown = [name for name in compare_sql.SHOWN if name in varying]
            differences = rows_of(compare_sql.differences(*ids, keys, names, shown, max_rows, source))
        failures = rows_of(compare_sql.new_failures(*ids, max_rows)) if run_b.failed else []
        return Comparison(
            a=run_a,
            b=run_b,
            matched=account["matched"],
            only_a=account["only_a"],
            only_b=account["only_b"],
            columns=columns,
            differences=differences,
            failed=failures[0]["in_all"] if failures else 0,
            failures=failures,
            timings=timings,
            problems=database.problems,
            seeds_differ=seeds_differ,
            a_kernel=a_kernel,
            b_kernel=b_kernel,
        )


def _find_runs(store: Store, a: str, b: str, kernels_differ: bool) -> tuple[RunInfo, RunInfo]:
    run_a, run_b = find_run(a, store), find_run(b, store)
    if str(run_a.path) == str(run_b.path) and not kernels_differ:
        advice = "give two runs (sweep ls has them, STORE/RUN names others), or two kernels of one: RUN@RELEASE"
        raise UserError(f"compare: both are {run_a.run_id}; {advice}")
    return run_a, run_b


def _split_kernel(name: str) -> tuple[str, str | None]:
    """(run, beginning of a release or None) of RUN or RUN@RELEASE. The part after @ has no slash, unlike a store's."""
    run, at, release = name.rpartition("@")
    return (run, release) if at and "/" not in release else (name, None)


def _kernel(run: RunInfo, name: str | None, releases: Sequence[str]) -> str | None:
    """The release, of those in a run, that `name` begins. Raises UserError."""
    known = ", ".join(releases)
    if name is None:
        if len(releases) > 1:
            raise UserError(
                f"compare: {run.run_id} has rows of several kernels: {known}; name one: {run.run_id}@RELEASE"
            )
        return None
    found = [release for release in releases if begins(release, name)]
    if len(found) != 1:
        what = "several kernels of that name" if found else "no such kernel"
        has = f"it has {known}" if known else "it is a run of the model"
        raise UserError(f"compare: {run.run_id}@{one_line(name)}: {what} in the run; {has}")
    return found[0]


def _rows_of_kernels(rows_of: Callable[[str], list[Row]], a: str | None, b: str | None) -> str:
    """The SQL of the rows to compare. Where each kernel follows one policy, these match though they may differ."""
    followed = {
        side: {
            row["policy"]
            for row in rows_of(compare_sql.kernels_and_policies())
            if row["run_id"] == side and row["kernel_release"] == release
        }
        for side, release in (("A", a), ("B", b))
    }
    own = followed["A"] ^ followed["B"] if all(len(policies) == 1 for policies in followed.values()) else set()
    return compare_sql.rows_of_kernels(a, b, own)


def _unlimited(database: Database) -> Callable[[str], list[Row]]:
    """A function that returns the rows of SQL of our own, without a time limit."""

    def rows_of(sql: str) -> list[Row]:
        rows: list[Row] = database.query(sql, None).to_pylist()
        return rows

    return rows_of


def _timings(groups: Sequence[Row]) -> list[Timing]:
    """The timings of all groups (rows of compare_sql.times_by_group), for each time column that both runs have."""
    from sweep.comparison import statistics  # scipy takes half a second to import, and only measured times need it

    varying = [name for name in compare_sql.SHOWN if len({group[name] for group in groups if name in group}) > 1]
    timed = [
        (group, column, np.array(group[f"a_{column}"], np.float64), np.array(group[f"b_{column}"], np.float64))
        for column in compare_sql.TIMES
        for group in groups
        if group[f"a_{column}"] and group[f"b_{column}"]
    ]
    shifts = statistics.compare_times([(a, b) for _, _, a, b in timed])
    return [
        Timing(g["point"], g["policy"], {name: g[name] for name in varying}, column, len(a), len(b), shift)
        for (g, column, a, b), shift in zip(timed, shifts, strict=True)
    ]


def _nothing_in_common(a: RunInfo, b: RunInfo, values: Row) -> str:
    """`first-1 and first-2 have no row in common: policy is none in A, merged in B`."""
    for run, side in ((a, "a"), (b, "b")):
        if not values[f"{side}_engine"]:
            points = f"{count_text(run.ok, 'point')} ok, {run.failed:,} failed"
            return f"compare: {run.run_id} has no rows: it is {run.status}, {points}"
    disjoint = [
        f"{name} is {_first_values(name, values[f'a_{name}'])} in A, {_first_values(name, values[f'b_{name}'])} in B"
        for name in compare_sql.ROW
        if not set(values[f"a_{name}"]) & set(values[f"b_{name}"])
    ]
    reason = "; ".join(disjoint) or "each value is in both, but no scenario and policy is"
    return f"compare: {a.run_id} and {b.run_id} have no row in common: {reason}"


def _first_values(name: str, values: Sequence[Any]) -> str:
    """The first values of a column as text, sizes with units."""
    in_bytes = name in compare_sql.IN_BYTES
    texts = ["absent" if v is None else format_size(v) if in_bytes else str(v) for v in values[:_SHOWN_VALUES]]
    return ", ".join(texts) + (", ..." if len(values) > _SHOWN_VALUES else "")


def _field_differences(a: Mapping[str, str], b: Mapping[str, str]) -> str:
    """`least is 64KiB in A, 4KiB in B`, for each field that differs; `without effect` where a rule lacks it."""
    names = [name for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)]
    none = "without effect"
    return "; ".join(f"{name} is {a.get(name, none)} in A, {b.get(name, none)} in B" for name in names)


def count_text(number: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
