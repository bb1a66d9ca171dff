"""SQL that carries values of every type of DuckDB out of it exactly, and what they become in Python.

Arrow, Parquet and Python lack some of its values: integers of more than 64 bits, infinite dates, years beyond 9999,
24:00:00, intervals of months and days. DuckDB writes those as text.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

_INTEGERS = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBERS = (*_INTEGERS, "FLOAT", "DOUBLE")
_NATIVE = (*_NUMBERS, "VARCHAR", "BLOB", '"NULL"')
"""Types whose values Arrow, Parquet and Python have."""
_LONG_INTEGERS = ("HUGEINT", "UHUGEINT", "BIGNUM")
_NESTED = re.compile(r"(?:STRUCT|MAP|UNION|TUPLE|VARIANT)\b|.*\]$", re.DOTALL)
_TIMESTAMPTZ = "TIMESTAMP WITH TIME ZONE"
_NOT_IN_PARQUET = re.compile(
    r"HUGEINT|BIGNUM|DATE|TIME|INTERVAL|\bBIT\b|UUID|UNION|ENUM|GEOMETRY|VARIANT|TUPLE|JSON|STRUCT(?!\()|\[\d"
)
"""In a nested type: it may have values that Parquet, or Arrow's writer of it, lacks. A field's name may match, too."""
_IN_PARQUET = {
    "HUGEINT": "{0} BETWEEN -9223372036854775808 AND 9223372036854775807",
    "UHUGEINT": "{0} <= 9223372036854775807",
    "TIME": "{0} < TIME '24:00:00'",
    "DATE": "{0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'",
    "TIMESTAMP_NS": "isfinite({0})",
    **dict.fromkeys(
        ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", _TIMESTAMPTZ),
        "{0} >= TIMESTAMP '0001-01-01' AND {0} < TIMESTAMP '9999-12-31'",
    ),
}
"""SQL condition under which Parquet has a value of this type, and its usual readers have it too."""
_ISO_SQL = r"regexp_replace(regexp_replace({0}::VARCHAR, '^(\d{{4}}-\d\d-\d\d) ', '\1T'), '\+00$', '+00:00')"
_DECIMAL_SQL = "CASE WHEN contains({0}::VARCHAR, '.') THEN rtrim(rtrim({0}::VARCHAR, '0'), '.') ELSE {0}::VARCHAR END"
_QUOTED_SQL = """CASE WHEN regexp_matches({0}, '[,"\r\n]') THEN '"' || replace({0}, '"', '""') || '"' ELSE {0} END"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query's answer: its name, and its type as DuckDB spells it."""

    name: str
    type: str

    def exact_sql(self, value: str) -> str:
        """SQL of `value` as a type that Python has: unchanged, or text that `parse` reads."""
        return value if self.type in _NATIVE else self.text_sql(value)

    def text_sql(self, value: str) -> str:
        """SQL of `value` as text: times as in ISO 8601, bytes as hexadecimal digits, nested values as JSON."""
        if self.type == "VARCHAR":
            return value
        if self.type == "BLOB":
            return f"lower(hex({value}))"
        if _NESTED.match(self.type):
            return f"to_json({value})::VARCHAR"
        if self.type.startswith("TIMESTAMP"):
            return _ISO_SQL.format(value)
        return (_DECIMAL_SQL if self.type.startswith("DECIMAL") else "{0}::VARCHAR").format(value)

    def csv_sql(self, value: str) -> str:
        """SQL of `value` as a cell of CSV: NULL is an empty one; quoted if it has a comma, a quote or a line end."""
        text = self.text_sql(value)
        return f"coalesce({text if self.type in _NUMBERS else _QUOTED_SQL.format(text)}, '')"

    def parquet_sql(self, value: str, fits: bool) -> str:
        """SQL of `value` as a type that Parquet has. `fits`: whether it meets `parquet_condition` in all rows."""
        if self.type in _LONG_INTEGERS:
            return f"{value}::BIGINT" if fits else f"{value}::VARCHAR"
        is_kept = self.type in _NATIVE or self.type.startswith("DECIMAL")
        is_kept = is_kept or bool(_NESTED.match(self.type) and not _NOT_IN_PARQUET.search(self.type))
        return value if is_kept or (fits and self.type in _IN_PARQUET) else self.text_sql(value)

    def parquet_condition(self, value: str) -> str:
        """SQL of whether Parquet has `value` in a type of its own that its rows share."""
        return f"({_IN_PARQUET.get(self.type, 'false').format(value)} OR {value} IS NULL)"

    @property
    def needs_condition(self) -> bool:
        return self.type in _IN_PARQUET

    @property
    def parse(self) -> Callable[[str], Any] | None:
        """What makes a Python value of the text of `exact_sql`; None if it is a value or stays a text."""
        if self.type in _LONG_INTEGERS:
            return int
        if self.type.startswith("DECIMAL"):
            return _parse_decimal
        if _NESTED.match(self.type):
            return json.loads
        return _parse_timestamp if self.type.startswith("TIMESTAMP") else None


def exact_query(sql: str, columns: Sequence[Column]) -> str:
    """The query with each value exact; its columns are c0, c1, ..., as names may repeat."""
    return _projection(sql, columns, [column.exact_sql(f"c{i}") for i, column in enumerate(columns)])


def csv_query(sql: str, columns: Sequence[Column]) -> str:
    """A query of one column: the rows as lines of CSV, without line end. An only cell that is empty is quoted."""
    line = " || ',' || ".join(column.csv_sql(f"c{i}") for i, column in enumerate(columns))
    if len(columns) == 1:
        line = f"""CASE WHEN {line} = '' THEN '""' ELSE {line} END"""
    return _projection(sql, columns, [line])


def fits_query(sql: str, columns: Sequence[Column]) -> str:
    """A query of one row: for each column whether Parquet has all its values in a type of its own."""
    conditions = [column.parquet_condition(f"c{i}") for i, column in enumerate(columns)]
    return _projection(sql, columns, [f"coalesce(bool_and({condition}), true)" for condition in conditions])


def parquet_query(sql: str, columns: Sequence[Column], fits: Sequence[bool]) -> str:
    """The query with types that Parquet has. `fits`: the row of `fits_query`."""
    values = [column.parquet_sql(f"c{i}", fits[i]) for i, column in enumerate(columns)]
    return _projection(sql, columns, values)


def _projection(sql: str, columns: Sequence[Column], expressions: Sequence[str]) -> str:
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    selected = ", ".join(f"{expression} AS c{i}" for i, expression in enumerate(expressions))
    return f"SELECT {selected} FROM ({sql.strip().rstrip(';')}\n) AS answer({names})"


def _parse_decimal(text: str) -> int | float | str:
    """An integer if it is whole, a float if that is exact, else the text."""
    if "." not in text:
        return int(text)
    number = float(text)
    return number if Decimal(repr(number)) == Decimal(text) else text


def _parse_timestamp(text: str) -> datetime | str:
    """A datetime; the text if it is infinite, of a year beyond 9999, or has nanoseconds."""
    with suppress(ValueError):
        if len(text.partition(".")[2].removesuffix("+00:00")) <= len("123456"):
            return datetime.fromisoformat(text)
    return text
