"""The SQL behind the views, as text: explicit lists of committed parts, every declared column there and typed.

A source is what may stand after FROM: files, or the name of a relation; empty if there are no rows.
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


def mentioned(sql: str) -> list[str]:
    """The views a query may need: those it names; all of them if it asks for the catalog or builds names."""
    if _CATALOG.search(sql):
        return list(schema.VIEWS)
    return [name for name in schema.VIEWS if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]


def outcomes(source: str, cost: str) -> str:
    """Rows of the parts and cost_ns. An ok point is committed once, so there is nothing to weed out."""
    return f"SELECT *, {cost} AS {schema.COST_NS.name} FROM ({_rows(schema.OUTCOMES, source)})"


def rounds(source: str, outcomes: str) -> str:
    """Rows of the parts; of a point with one round, what its outcomes say."""
    names = ", ".join("1 AS round" if c.name == "round" else c.name for c in schema.ROUNDS)
    alone = f"(SELECT {names} FROM ({_rows(schema.OUTCOMES, outcomes)}) WHERE rounds = 1)" if outcomes else ""
    return _rows(schema.ROUNDS, together([one for one in (source, alone) if one]))


def points(source: str, *, failed: bool = False) -> str:
    """The last attempt of each point. Second attempts are few, and Parquet's statistics find them fast."""
    sql = f"SELECT p.* FROM ({_rows(schema.POINTS, source)}) AS p"
    if source:
        sql += (
            f" ANTI JOIN (SELECT run_id, point_id, max(attempt) AS last FROM {source} WHERE attempt > 1"
            " GROUP BY run_id, point_id) AS later"
            " ON p.run_id = later.run_id AND p.point_id = later.point_id AND p.attempt < later.last"
        )
    return f"{sql} WHERE p.status <> 'ok'" if failed else sql


def quoted(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def paths(parts: Sequence[Path]) -> str:
    """A SQL list of absolute file names."""
    return f"[{', '.join(quoted(str(part.absolute())) for part in parts)}]"


def of_files(parts: Sequence[Path]) -> str:
    """A source: files of the disk."""
    return f"read_parquet({paths(parts)}, union_by_name = true, hive_partitioning = false)"


def together(sources: Sequence[str]) -> str:
    """The rows of all of them, as one source; empty if there is none."""
    if len(sources) < 2:
        return "".join(sources)
    return f"({' UNION ALL BY NAME '.join(f'SELECT * FROM {source}' for source in sources)})"


def _rows(columns: tuple[schema.Column, ...], source: str) -> str:
    """The source's rows below an empty table of the declared types: a column that no part has is there, and NULL."""
    typed = ", ".join(f'NULL::{_SQL_TYPES[c.type]} AS "{c.name}"' for c in columns)
    empty = f"SELECT {typed} WHERE false"
    return f"{empty} UNION ALL BY NAME SELECT * FROM {source}" if source else empty
