"""The SQL behind `compare`: rows of two runs side by side, matched by what they are rows of.

A row is a scenario (or a trace), a policy and an engine: not a point id, in which the model's version is. The seed is
the repeat's, so repeats match too.
"""

from collections.abc import Iterable, Sequence

from sweep.common import schema
from sweep.query.views import quoted

_NAMES = ("trace", "trace_rows")
"""A trace is what it holds: they follow from its hash, or say nothing."""

POINT = tuple(column.name for column in schema.POINT if column.name not in _NAMES)
ROW = ("engine", "policy", *POINT)
GROUP = tuple(name for name in ROW if name != "seed")
IN_BYTES = frozenset(column.name for column in schema.POINT if column.unit == "bytes")
SHOWN = tuple(column.name for column in schema.POINT if column.name not in ("trace_hash", "trace_rows"))
"""The fields that tell people which point it is, where they vary."""

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
"""What was asked for, and how tables come and go: neither more nor less of it is worse. More of any other is."""

TIMES = ("install_ns", "zap_ns")


def varying(a: str, b: str) -> str:
    """One row: of what makes a row, and of SHOWN, what has more than one value in the two runs, as a list.

    The others need not be looked at to match rows, which takes half the memory.
    """
    names = dict.fromkeys((*ROW, *SHOWN))
    vary = _those((n, f'min("{n}") < max("{n}") OR count("{n}") BETWEEN 1 AND count(*) - 1') for n in names)
    return f"SELECT {vary} AS names FROM outcomes WHERE run_id IN ({quoted(a)}, {quoted(b)})"


def account(a: str, b: str, keys: Iterable[str]) -> str:
    """One row: how many rows match, and are in one run only; of COMPARED, which differ in some row, as a list.

    `keys`, here and below: the names of ROW that vary, and policy.
    """
    both = "FILTER (a.run_id IS NOT NULL AND b.run_id IS NOT NULL)"
    differ = _those((name, f'bool_or(a."{name}" IS DISTINCT FROM b."{name}") {both}') for name in COMPARED)
    return f"""
        {_sides("outcomes", a, b)}
        SELECT count(*) {both} AS matched, count(*) FILTER (b.run_id IS NULL) AS only_a,
            count(*) FILTER (a.run_id IS NULL) AS only_b, {differ} AS differ
        FROM a FULL JOIN b ON {_same(keys)}"""


def columns(a: str, b: str, keys: Iterable[str], names: Sequence[str]) -> str:
    """A row a column: rows that differ, sums over all matched rows, the largest relative difference."""
    return f"""
        {_sides("outcomes", a, b)}
        SELECT c.* FROM (SELECT unnest([{", ".join(map(_column, names))}]) AS c FROM a JOIN b ON {_same(keys)})"""


def differences(a: str, b: str, keys: Iterable[str], names: Sequence[str], shown: Iterable[str], most: int) -> str:
    """A row a difference in these columns: the worse first, then the largest. At most so many; 0: all."""
    fields = "".join(f', a."{name}"' for name in shown)
    each = ", ".join(f"""{{'column': '{c}', 'a': a."{c}", 'b': b."{c}", 'verdict': {_verdict(c)}}}""" for c in names)
    where = " OR ".join(f'a."{c}" IS DISTINCT FROM b."{c}"' for c in names)
    return f"""
        {_sides("outcomes", a, b)}
        SELECT * EXCLUDE (verdict), 100 * (b - a) / nullif(a, 0)::DOUBLE AS percent, verdict FROM (
            SELECT b.point_id AS point, a.policy{fields}, unnest([{each}], recursive := true)
            FROM a JOIN b ON {_same(keys)} WHERE {where}
        ) WHERE a IS DISTINCT FROM b
        ORDER BY verdict = 'worse' DESC, {_size("a", "b")} DESC, point, policy, "column"
        {f"LIMIT {most}" if most else ""}"""


def failures(a: str, b: str, most: int) -> str:
    """Points that failed in B and not in A; `in_all` says how many there are, of which the first are given."""
    limit = f"LIMIT {most}" if most else ""
    return f"""
        {_sides("points", a, b, "status <> 'ok'")}
        SELECT b.point_id AS point, b.status, b.error, count(*) OVER () AS in_all
        FROM b ANTI JOIN a ON {_same(("engine", *POINT))} ORDER BY point {limit}"""


def times(a: str, b: str) -> str:
    """A row a scenario apart from its seed, and policy, that both runs have times of; the times as sorted lists."""
    names = [f'"{name}"' for name in GROUP]
    lists = ", ".join(
        f"list_sort(list({time}) FILTER (run_id = {quoted(run)} AND {time} > 0)) AS {side}_{time}"
        for time in TIMES
        for side, run in (("a", a), ("b", b))
    )
    of_b = f"FILTER (run_id = {quoted(b)})"
    return f"""
        SELECT min(point_id) {of_b} AS point, {", ".join(names)}, {lists} FROM outcomes
        WHERE run_id IN ({quoted(a)}, {quoted(b)}) AND {TIMES[0]} IS NOT NULL
        GROUP BY {", ".join(names)} HAVING count(*) {of_b} BETWEEN 1 AND count(*) - 1
        ORDER BY {", ".join(names)}"""


def values(a: str, b: str) -> str:
    """One row: of each part of ROW the values that A has and those that B has, as lists."""
    lists = ", ".join(
        f'list_sort(list(DISTINCT "{name}") FILTER (run_id = {quoted(run)})) AS {side}_{name}'
        for name in ROW
        for side, run in (("a", a), ("b", b))
    )
    return f"SELECT {lists} FROM outcomes WHERE run_id IN ({quoted(a)}, {quoted(b)})"


def _sides(view: str, a: str, b: str, where: str = "true") -> str:
    one = f"SELECT * FROM {view} WHERE {where} AND run_id ="
    return f"WITH a AS ({one} {quoted(a)}), b AS ({one} {quoted(b)})"


def _those(conditions: Iterable[tuple[str, str]]) -> str:
    """The names whose condition holds, as a list."""
    named = ", ".join(f"CASE WHEN {condition} THEN '{name}' END" for name, condition in conditions)
    return f"list_filter([{named}], lambda name: name IS NOT NULL)"


def _same(names: Iterable[str]) -> str:
    return " AND ".join(f'a."{name}" IS NOT DISTINCT FROM b."{name}"' for name in names)


def _size(a: str, b: str) -> str:
    """How large a difference is, relatively; from nothing to something, or to NULL, is the largest."""
    return f"coalesce(abs({b} - {a}) / nullif({a}, 0)::DOUBLE, 'inf'::DOUBLE)"


def _verdict(column: str) -> str:
    if column in ONLY_CHANGED:
        return "'changed'"
    return f"""CASE WHEN b."{column}" > a."{column}" THEN 'worse' WHEN b."{column}" < a."{column}" THEN 'better'
        ELSE 'changed' END"""


def _column(column: str) -> str:
    one, other, judged = f'a."{column}"', f'b."{column}"', column not in ONLY_CHANGED
    example = f"{{'point': b.point_id, 'policy': a.policy, 'a': {one}, 'b': {other}}}"
    by = f"{{'size': {_size(one, other)}, 'point': b.point_id, 'policy': a.policy}}"
    return f"""{{'column': '{column}', 'rows': count(*) FILTER ({one} IS DISTINCT FROM {other}),
        'worse': {f"count(*) FILTER ({other} > {one})" if judged else "NULL::BIGINT"},
        'better': {f"count(*) FILTER ({other} < {one})" if judged else "NULL::BIGINT"},
        'a_total': sum({one}), 'b_total': sum({other}),
        'largest': arg_max({example}, {by}) FILTER ({one} IS DISTINCT FROM {other})}}"""
