"""The SQL of `compare`: matches the rows of two runs.

A row is identified by its scenario or trace, policy and engine. Point ids would not do, as they contain the model's
version. The seed of a scenario is that of the repeat, so repeats match too.
"""

from collections.abc import Collection, Iterable, Sequence

from sweep.common import schema
from sweep.query.views import quoted

_TRACE_LABELS = ("trace", "trace_rows")
"""Columns that do not identify a trace; `trace_hash` does."""

POINT = tuple(column.name for column in schema.POINT if column.name not in _TRACE_LABELS)
ROW = ("engine", "policy", *POINT)
"""Columns that identify a row of outcomes."""
GROUP = tuple(name for name in ROW if name != "seed")
"""Columns that identify a group: the seeds of a scenario are its repeated measurements."""
PAIRED = "paired"
"""Number of a row, from 1 by seed, among those that differ in nothing else: a column of the sides to pair seeds."""
IN_BYTES = frozenset(column.name for column in schema.POINT if column.unit == "bytes")
SHOWN = tuple(column.name for column in schema.POINT if column.name not in ("trace_hash", "trace_rows"))
"""Columns that describe a point to the user, where they vary."""

COMPARED = tuple(column.name for column in (*schema.STATE, *schema.WORK))
ONLY_CHANGED = frozenset(
    {
        "res_bytes_peak",
        "res_bytes_end",
        "vm_pte_kib_needed_end",
        "zap_calls",
        "ptes_installed",
        "ptes_zapped",
        "table_visits",
        "pte_tables_allocated",
        "pte_tables_freed",
        "fast_paths",
    }
)
"""Compared columns of which neither more nor less is worse: what was requested, and how tables come and go. Of all
others more is worse."""

TIMES = ("install_ns", "zap_ns")


def rows_of_kernels(a: str | None, b: str | None, policies: Collection[str] = ()) -> str:
    """The rows of sides A and B in place of `outcomes`: those of these kernels, None for all.

    policies: the policies that the two kernels follow if they differ; their rows match each other
    """
    wanted = [
        f"(run_id <> '{side}' OR kernel_release = {quoted(release)})"
        for side, release in (("A", a), ("B", b))
        if release
    ]
    if not wanted:
        return "outcomes"
    names = ", ".join(map(quoted, sorted(policies)))
    both = quoted(" / ".join(sorted(policies, reverse=True)))
    policy = f" REPLACE (CASE WHEN policy IN ({names}) THEN {both} ELSE policy END AS policy)" if policies else ""
    return f"(SELECT *{policy} FROM outcomes WHERE {' AND '.join(wanted)})"


def kernels_and_policies() -> str:
    """One row for each run, kernel release and policy of the kernel engine, without munmap."""
    return """SELECT DISTINCT run_id, kernel_release, policy FROM outcomes
        WHERE engine = 'kernel' AND policy <> 'munmap' ORDER BY ALL"""


def kernels() -> str:
    """One row for each run and kernel release of the kernel engine."""
    return "SELECT DISTINCT run_id, kernel_release FROM outcomes WHERE engine = 'kernel' ORDER BY ALL"


def varying_columns(a: str, b: str, rows: str = "outcomes") -> str:
    """One row: `names`, the list of the columns of ROW and SHOWN that have more than one value in the two runs.

    Joins can leave out the other columns, which halves their memory.

    rows: also of the functions below, what rows_of_kernels returns
    """
    names = dict.fromkeys((*ROW, *SHOWN))
    varying = _names_where(
        (name, f'min("{name}") < max("{name}") OR count("{name}") BETWEEN 1 AND count(*) - 1') for name in names
    )
    return f"SELECT {varying} AS names FROM {rows} WHERE run_id IN ({quoted(a)}, {quoted(b)})"


def match_counts(a: str, b: str, keys: Collection[str], rows: str = "outcomes") -> str:
    """One row: `matched`, `only_a`, `only_b` rows, and `differ`, the list of compared columns that differ in any.

    `keys`, also of the functions below: the columns of ROW that vary, and policy.
    """
    both = "FILTER (a.run_id IS NOT NULL AND b.run_id IS NOT NULL)"
    differ = _names_where((name, f'bool_or(a."{name}" IS DISTINCT FROM b."{name}") {both}') for name in COMPARED)
    return f"""
        {_with_sides(rows, a, b, pairs=PAIRED in keys)}
        SELECT count(*) {both} AS matched, count(*) FILTER (b.run_id IS NULL) AS only_a,
            count(*) FILTER (a.run_id IS NULL) AS only_b, {differ} AS differ
        FROM a FULL JOIN b ON {_same(keys)}"""


def column_totals(a: str, b: str, keys: Collection[str], names: Sequence[str], rows: str = "outcomes") -> str:
    """One row for each of these columns: rows that differ, sums over all matched rows, the largest difference."""
    return f"""
        {_with_sides(rows, a, b, pairs=PAIRED in keys)}
        SELECT c.* FROM (SELECT unnest([{", ".join(map(_column, names))}]) AS c FROM a JOIN b ON {_same(keys)})"""


def differences(
    a: str,
    b: str,
    keys: Collection[str],
    names: Sequence[str],
    shown: Iterable[str],
    max_rows: int,
    rows: str = "outcomes",
) -> str:
    """One row for each value that differs in these columns: worse ones first, then the largest. 0: no limit."""
    fields = "".join(f', a."{name}"' for name in shown)
    values = ", ".join(f"""{{'column': '{c}', 'a': a."{c}", 'b': b."{c}", 'verdict': {_verdict(c)}}}""" for c in names)
    where = " OR ".join(f'a."{c}" IS DISTINCT FROM b."{c}"' for c in names)
    return f"""
        {_with_sides(rows, a, b, pairs=PAIRED in keys)}
        SELECT * EXCLUDE (verdict), 100 * (b - a) / nullif(a, 0)::DOUBLE AS percent, verdict FROM (
            SELECT b.point_id AS point, a.policy{fields}, unnest([{values}], recursive := true)
            FROM a JOIN b ON {_same(keys)} WHERE {where}
        ) WHERE a IS DISTINCT FROM b
        ORDER BY verdict = 'worse' DESC, {_relative_size("a", "b")} DESC, point, policy, "column"
        {_limit(max_rows)}"""


def new_failures(a: str, b: str, max_rows: int) -> str:
    """Points that failed in B and not in A; `in_all`: their number, of which `max_rows` are returned (0: all)."""
    return f"""
        {_with_sides("points", a, b, "status <> 'ok'")}
        SELECT b.point_id AS point, b.status, b.error, count(*) OVER () AS in_all
        FROM b ANTI JOIN a ON {_same(("engine", *POINT))} ORDER BY point {_limit(max_rows)}"""


def times_by_group(a: str, b: str, rows: str = "outcomes") -> str:
    """One row for each group that has times in both runs: its columns and each run's times as sorted lists."""
    names = [f'"{name}"' for name in GROUP]
    lists = ", ".join(
        f"list_sort(list({time}) FILTER (run_id = {quoted(run)} AND {time} > 0)) AS {side}_{time}"
        for time in TIMES
        for side, run in (("a", a), ("b", b))
    )
    of_b = f"FILTER (run_id = {quoted(b)})"
    return f"""
        SELECT min(point_id) {of_b} AS point, {", ".join(names)}, {lists} FROM {rows}
        WHERE run_id IN ({quoted(a)}, {quoted(b)}) AND {TIMES[0]} IS NOT NULL
        GROUP BY {", ".join(names)} HAVING count(*) {of_b} BETWEEN 1 AND count(*) - 1
        ORDER BY {", ".join(names)}"""


def key_values(a: str, b: str, rows: str = "outcomes") -> str:
    """One row: for each column of ROW the distinct values in A and in B, as lists `a_NAME` and `b_NAME`."""
    lists = ", ".join(
        f'list_sort(list(DISTINCT "{name}") FILTER (run_id = {quoted(run)})) AS {side}_{name}'
        for name in ROW
        for side, run in (("a", a), ("b", b))
    )
    return f"SELECT {lists} FROM {rows} WHERE run_id IN ({quoted(a)}, {quoted(b)})"


def _with_sides(view: str, a: str, b: str, where: str = "true", *, pairs: bool = False) -> str:
    """WITH clause: the rows of each run as `a` and `b`; `pairs`: with the column PAIRED."""
    group = ", ".join(f'"{name}"' for name in GROUP)
    paired = f", row_number() OVER (PARTITION BY {group} ORDER BY seed) AS {PAIRED}" if pairs else ""
    rows = f"SELECT *{paired} FROM {view} WHERE {where} AND run_id ="
    return f"WITH a AS ({rows} {quoted(a)}), b AS ({rows} {quoted(b)})"


def _names_where(conditions: Iterable[tuple[str, str]]) -> str:
    """The list of the names whose condition is true."""
    names = ", ".join(f"CASE WHEN {condition} THEN '{name}' END" for name, condition in conditions)
    return f"list_filter([{names}], lambda name: name IS NOT NULL)"


def _same(names: Iterable[str]) -> str:
    """Join condition: these columns are equal, NULL to NULL included."""
    return " AND ".join(f'a."{name}" IS NOT DISTINCT FROM b."{name}"' for name in names)


def _relative_size(a: str, b: str) -> str:
    """|b - a| / a; infinite from 0, and from or to NULL."""
    return f"coalesce(abs({b} - {a}) / nullif({a}, 0)::DOUBLE, 'inf'::DOUBLE)"


def _limit(max_rows: int) -> str:
    return f"LIMIT {max_rows}" if max_rows else ""


def _verdict(column: str) -> str:
    if column in ONLY_CHANGED:
        return "'changed'"
    return f"""CASE WHEN b."{column}" > a."{column}" THEN 'worse' WHEN b."{column}" < a."{column}" THEN 'better'
        ELSE 'changed' END"""


def _column(column: str) -> str:
    """A struct that describes the differences of one column; see `column_totals`."""
    value_a, value_b, has_worse = f'a."{column}"', f'b."{column}"', column not in ONLY_CHANGED
    example = f"{{'point': b.point_id, 'policy': a.policy, 'a': {value_a}, 'b': {value_b}}}"
    order = f"{{'size': {_relative_size(value_a, value_b)}, 'point': b.point_id, 'policy': a.policy}}"
    return f"""{{'column': '{column}', 'rows': count(*) FILTER ({value_a} IS DISTINCT FROM {value_b}),
        'worse': {f"count(*) FILTER ({value_b} > {value_a})" if has_worse else "NULL::BIGINT"},
        'better': {f"count(*) FILTER ({value_b} < {value_a})" if has_worse else "NULL::BIGINT"},
        'a_total': sum({value_a}), 'b_total': sum({value_b}),
        'largest': arg_max({example}, {order}) FILTER ({value_a} IS DISTINCT FROM {value_b})}}"""
