"""SQL text of the views: the rows of explicit lists of committed parts, with every declared column in its type.

A `source` is SQL that can follow FROM: files, a subquery or a name. An empty source has no rows.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from sweep.common import schema

_SQL_TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
}
_CATALOG = re.compile(r"\b(?:show|information_schema|pg_\w+|duckdb_\w+|sqlite_\w+|query|query_table)\b", re.IGNORECASE)

_NO_HUGE = dict.fromkeys(("anon_huge_kib_peak", "anon_huge_kib_end", "thp_faults", "thp_splits"), "engine = 'model'")
_ADDED = {"thp": ("'never'", "true")} | {name: ("0", condition) for name, condition in _NO_HUGE.items()}
"""Columns that runs of earlier versions lack: the value that their scenarios had, and the condition for having it."""

TABLES_OF: dict[str, tuple[str, ...]] = {
    "outcomes": ("outcomes",),
    "latest": ("outcomes",),
    "rounds": ("rounds", "outcomes"),
    "points": ("points",),
    "failures": ("points",),
    "runs": (),
    "policies": (),
    "costs": (),
}
"""The tables whose files a view reads."""


def policies_type(names: Sequence[str]) -> str:
    """SQL that creates the type `policies`, the one list of policies for SQL, in this order.

    `ORDER BY TRY_CAST(policy AS policies)` sorts by it, and `PIVOT (... FOR policy IN policies ...)` makes one column
    for each.
    """
    return f"CREATE TYPE policies AS ENUM ({', '.join(map(quoted, names))})"


def views_named_in(sql: str) -> list[str]:
    """The views that a query may need: those that it names, or all if it reads the catalog or builds names."""
    if _CATALOG.search(sql):
        return list(schema.VIEWS)
    return [name for name in schema.VIEWS if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]


def outcomes(source: str, cost_sql: str) -> str:
    """SELECT of the rows of `source` with their cost_ns."""
    return f"SELECT *, {cost_sql} AS {schema.COST_NS.name} FROM ({_declared_rows(schema.OUTCOMES, source)})"


def rounds(source: str, outcomes: str) -> str:
    """SELECT of the rows of `source`; points of one round, which it lacks, come from `outcomes` as round 1."""
    names = ", ".join("1 AS round" if c.name == "round" else c.name for c in schema.ROUNDS)
    single = f"(SELECT {names} FROM ({_declared_rows(schema.OUTCOMES, outcomes)}) WHERE rounds = 1)" if outcomes else ""
    return _declared_rows(schema.ROUNDS, union_source([part for part in (source, single) if part]))


def points(source: str, *, failed: bool = False) -> str:
    """SELECT of the last attempt of each point; `failed`: only of points that are not ok.

    Few points have several attempts, and Parquet's statistics on `attempt` let DuckDB skip the parts without any.
    """
    sql = f"SELECT p.* FROM ({_declared_rows(schema.POINTS, source)}) AS p"
    if source:
        sql += (
            f" ANTI JOIN (SELECT run_id, point_id, max(attempt) AS last FROM {source} WHERE attempt > 1"
            " GROUP BY run_id, point_id) AS later"
            " ON p.run_id = later.run_id AND p.point_id = later.point_id AND p.attempt < later.last"
        )
    return f"{sql} WHERE p.status <> 'ok'" if failed else sql


def is_policy_of(policies: Sequence[tuple[str, str]]) -> str:
    """A condition: the row is of one of these (run id, policy)."""
    pairs = ", ".join(f"({quoted(run_id)}, {quoted(policy)})" for run_id, policy in policies)
    return f"(run_id, policy) IN ({pairs})" if pairs else "false"


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def path_list(paths: Sequence[Path]) -> str:
    """A SQL list of absolute paths."""
    return f"[{', '.join(quoted(str(path.absolute())) for path in paths)}]"


def parquet_source(paths: Sequence[Path]) -> str:
    """A source that reads local Parquet files."""
    return f"read_parquet({path_list(paths)}, union_by_name = true, hive_partitioning = false)"


def renamed_source(source: str, run_id: str) -> str:
    """A source with the rows of one run, whose id is this one."""
    return f"(SELECT * REPLACE ({quoted(run_id)} AS run_id) FROM {source})"


def union_source(sources: Sequence[str]) -> str:
    """A source with the rows of all sources; empty if there are none."""
    if len(sources) < 2:
        return "".join(sources)
    return f"({' UNION ALL BY NAME '.join(f'SELECT * FROM {source}' for source in sources)})"


def _declared_rows(columns: tuple[schema.Column, ...], source: str) -> str:
    """SELECT of the source's rows with all declared columns, typed; a column that no part has is NULL.

    Scenarios of earlier versions have the values of columns that were added later.
    """
    typed = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in columns)
    empty = f"SELECT {typed} WHERE false"
    rows = f"{empty} UNION ALL BY NAME SELECT * FROM {source}" if source else empty
    names = {column.name for column in columns}
    added = [
        f"CASE WHEN trace_hash IS NULL AND {condition} THEN coalesce({name}, {value}) ELSE {name} END AS {name}"
        for name, (value, condition) in _ADDED.items()
        if {name, "trace_hash"} <= names
    ]
    return f"SELECT * REPLACE ({', '.join(added)}) FROM ({rows})" if added else rows
