"""The only module that imports DuckDB: connections in memory that can read given files and do nothing else.

Sealed off: a connection opens no file but those given, nothing on the network, no extension, and no Python variable; it
spills nothing to disk; its settings are locked. `check_is_select` refuses a user's SQL unless it is a single SELECT, so
nothing can be written; `run_limited` limits its time and memory. DuckDB's errors become UserErrors of one line.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from sweep.common import schema
from sweep.common.errors import DamagedError, UserError, one_line, unknown_name
from sweep.query import address_space, resource_limits, views
from sweep.query.exact_values import Column
from sweep.tables import arrow_tables

T = TypeVar("T")

DEFAULT_SECONDS = 60.0
BATCH_ROWS = 20_480
FILE_ERRORS = (duckdb.Error, FileNotFoundError, DamagedError)
"""What DuckDB and Arrow raise for a file that is missing, damaged or has other columns, but also for other reasons."""

_CARET = re.compile(r"\n\nLINE (\d+): (.*)\n( *)\^", re.DOTALL)
_NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
_ERROR_KIND = re.compile(r"^(?:[A-Z][A-Za-z]* )+Error: ")
_KEYWORD = r"(like|order|when)\b(?!\s+by\b)"
_KEYWORD_AS_NAME = re.compile(
    rf"(?:(?:^|\b(?:select|distinct|where|and|or|by|on|having)\s|[,(=<>+*/-])\s*{_KEYWORD})"
    r"|\b(like|order|when)\s*(?:,|\bfrom\b|$)",
    re.IGNORECASE,
)
"""Columns of views that are keywords of SQL where a name can stand, but not a keyword."""


class SealedConnection:
    """A DuckDB connection in memory that can read these files and nothing else. To be closed by its owner."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        """Raises UserError if `ulimit -v` leaves too little memory."""
        left = address_space.left_for_sql()
        self.is_stuck = False
        """Whether a query goes on after its time limit, because DuckDB did not react to the interrupt."""
        with user_errors():
            self._duckdb = duckdb.connect(":memory:", config={"threads": 1} if left is not None else {})
            for setting in (
                "temp_directory = ''",
                f"memory_limit = '{memory_limit_mib(left)}MiB'",
                "TimeZone = 'UTC'",
                "autoinstall_known_extensions = false",
                "autoload_known_extensions = false",
                "python_enable_replacements = false",
                f"allowed_paths = {views.path_list(files)}" if files else "allowed_paths = []",
                "enable_external_access = false",
                "lock_configuration = true",
            ):
                self._duckdb.execute(f"SET {setting}")

    def register(self, name: str, table: Any) -> None:
        """Make an Arrow table or dataset a view of this name."""
        self._duckdb.register(name, table)

    def execute(self, sql: str) -> None:
        """Run a statement of our own, such as CREATE VIEW."""
        self._duckdb.execute(sql)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of our own."""
        rows: list[tuple[Any, ...]] = self._duckdb.execute(sql, list(parameters)).fetchall()
        return rows

    def arrow(self, sql: str) -> arrow_tables.Table:
        """The rows of a query as an Arrow table."""
        return self._duckdb.sql(sql).to_arrow_table()

    def columns(self, sql: str) -> list[Column]:
        """The columns of a query's answer."""
        answer = self._duckdb.sql(sql)
        return [Column(name, str(type_)) for name, type_ in zip(answer.columns, answer.types, strict=True)]

    def batches(self, sql: str) -> arrow_tables.Batches:
        """The rows of a query as Arrow record batches, while it runs; this connection can do nothing else meanwhile."""
        return self._duckdb.sql(sql).to_arrow_reader(BATCH_ROWS)

    def type_of(self, expression: str, source: str) -> str:
        """The SQL type of an expression over the columns of a source."""
        return str(self._duckdb.sql(f"SELECT {expression} AS value FROM {source} LIMIT 0").types[0])

    def check_is_select(self, sql: str) -> None:
        """Raise UserError unless the SQL is a single SELECT."""
        word = _KEYWORD_AS_NAME.search(sql)
        hint = (
            f'; {word[1] or word[2]} is a keyword of SQL; a column of this name is "{word[1] or word[2]}"'
            if word
            else ""
        )
        with user_errors(hint=hint):
            statements = self._duckdb.extract_statements(sql)
        if len(statements) != 1:
            raise UserError(f"SQL: {len(statements) or 'no'} statements; one SELECT is allowed")
        kind = statements[0].type
        if kind == duckdb.StatementType.MULTI:  # DuckDB runs a PIVOT without values as several statements
            raise UserError("SQL: a PIVOT must list its values, as in PIVOT ... ON policy IN ('none', 'merged')")
        if kind != duckdb.StatementType.SELECT:
            raise UserError(f"SQL: {kind.name} is not allowed; the store is read only: one SELECT")

    def run_limited(self, seconds: float | None, action: Callable[[], T], total_s: float | None = None) -> T:
        """Return `action()`, which uses this connection. Raises UserError if it takes longer than `seconds`.

        total_s: the user's time limit, of which `seconds` are left; default: the same.

        The memory of the process is limited meanwhile. If DuckDB does not react to the interrupt in time the connection
        is stuck: it must not be used any more.
        """
        try:
            return resource_limits.run_limited(seconds, memory_limit_mib() << 20, action, self._duckdb.interrupt)
        except (resource_limits.LateError, duckdb.InterruptException) as error:
            if isinstance(error, resource_limits.LateError) and error.still_running:
                self.is_stuck = True
                _stuck.append(self._duckdb)
            raise late_error(total_s or seconds) from error
        except resource_limits.AbandonedError:
            self.is_stuck = True
            _stuck.append(self._duckdb)
            raise

    def close(self) -> None:
        if not self.is_stuck:  # closing would wait for the query
            self._duckdb.close()


def late_error(seconds: float | None) -> UserError:
    return UserError(f"SQL: took longer than {seconds or 0:g} s; raise --timeout, or ask for less")


_stuck: list[duckdb.DuckDBPyConnection] = []
"""Keeps stuck connections alive: to free one would wait for its query."""


def memory_limit_mib(left_bytes: int | None = None) -> int:
    """Half of the machine's memory, because a sweep may be running too; at most half of the address space left."""
    half = max(512, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20)
    return half if left_bytes is None else min(half, left_bytes // 2 >> 20)


@contextmanager
def user_errors(prefix: str = "SQL", hint: str = "") -> Iterator[None]:
    """Turn DuckDB's errors into UserErrors of one line, `prefix: message hint`. Interrupts pass."""
    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise UserError(f"{prefix}: {_one_line_message(str(error))}{hint}") from error


def _one_line_message(message: str) -> str:
    """`Referenced column "x" not found ... (line 1, column 8)`."""
    place = ""
    caret = _CARET.search(message)
    if caret:
        message = message[: caret.start()]
        line, text, indent = caret[1], caret[2], len(caret[3]) - len(f"LINE {caret[1]}: ")
        place = f" (line {line}, column {indent + 1})" if not text.startswith("...") else f" (line {line})"
    missing = _NO_TABLE.search(message)
    if missing:
        return unknown_name("view", missing[1], schema.VIEWS) + place
    if message.startswith("Out of Memory"):
        limit = "half of this machine" if address_space.left_bytes() is None else "ulimit -v allows"
        return f"needs more memory than {limit}; ask for less"
    return one_line(_ERROR_KIND.sub("", message), 200) + place
