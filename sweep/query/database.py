"""The only room with duckdb: questions to the store, and conditions over points. In memory, sealed, read only.

Sealed: no file but the committed parts can be opened, nothing of the network, no extension, no Python object; the
settings are locked; one SELECT at a time is let through, so nothing is written anywhere.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb
import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns, complete
from sweep.common import cost_tables, schema
from sweep.common.errors import DamagedError, UserError, one_line, unknown_name
from sweep.grid import sql_expressions
from sweep.query import resource_limits, views
from sweep.query.named_queries import NamedQuery, named_queries, named_query
from sweep.store import arrow_tables, parts
from sweep.store.storage import Bucket, Directory
from sweep.store.store import RunInfo, Store

T = TypeVar("T")

__all__ = ["Database", "NamedQuery", "check_expressions", "named_queries", "named_query", "point_conditions"]

DEFAULT_SECONDS = 60.0
_CARET = re.compile(r"\n\nLINE (\d+): (.*)\n( *)\^", re.DOTALL)
_NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
_ORDER = re.compile(r"(?<![\w\"])order\b(?!\s+by\b)", re.IGNORECASE)
_OF_FILES = (
    duckdb.IOException,
    duckdb.PermissionException,  # a file that is gone is looked for as a folder, which is not allowed
    duckdb.InvalidInputException,
    duckdb.SerializationException,
    FileNotFoundError,
    DamagedError,
)
"""What DuckDB and Arrow raise where a file is gone or damaged; other things too."""
_LOOKS = 5
_KIND = re.compile(r"^(?:[A-Z][A-Za-z]* )+Error: ")


class Database:
    """The runs of a store (or one of them) as they stand now. Needs no lock; use it as a context manager.

    `problems` names runs that cannot be read and so are not in the views.
    """

    def __init__(
        self, store: Store, cost: str = cost_tables.DEFAULT, *, run: str | None = None, runs: Sequence[RunInfo] = ()
    ) -> None:
        prices = cost_tables.load_all(store.cost_files())
        chosen = cost_tables.choose(prices, cost)
        self._price = chosen.sql
        self._costs = [row for table in {**prices, chosen.name: chosen}.values() for row in table.rows]
        survey = store.survey()
        self.problems = [] if run or runs else survey.problems
        self._runs = [store.find(run)] if run else list(runs) or survey.runs
        self._latest = list({r.grid: r for r in self._runs}.values())
        self._damaged: set[parts.Part] = set()
        self._connection = self._open()

    def query(self, sql: str, seconds: float | None = DEFAULT_SECONDS) -> arrow_tables.Table:
        """The rows of one SELECT. UserError says in a line what is wrong with it, or that it took too long.

        Files that a launch merged meanwhile are looked up again; one that turns out to be damaged is left out and
        becomes a problem.
        """
        _only_select(self._connection, sql)
        with _told():
            for _ in range(_LOOKS):
                try:
                    return _limited(self._connection, seconds, lambda: self._ask(sql))
                except _OF_FILES:
                    if not self._is_behind():
                        raise
                    _close(self._connection)
                    self._connection = self._open()
                except UserError:
                    if _is_stuck(self._connection):
                        self._connection = self._open()
                    raise
            raise UserError("SQL: the runs change faster than they can be read; ask again")

    def runs_without_none(self) -> list[str]:
        """Ids of the runs in `latest` that have no row of the policy `none`, with which some named queries compare."""
        lacking = "SELECT run_id FROM latest GROUP BY run_id HAVING count(*) FILTER (policy = 'none') = 0"
        rows = self.query(f"{lacking} ORDER BY run_id").to_pylist()
        return [row["run_id"] for row in rows]

    def close(self) -> None:
        _close(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        """A connection that can read the parts as they are now."""
        self._layouts = {run.run_id: parts.look(run.path) for run in self._runs}
        self._made: set[str] = set()
        self._sources: dict[tuple[str, bool], str] = {}
        return _sealed([path for run in self._runs for table in schema.TABLES for path in self._files(run, table)])

    def _is_behind(self) -> bool:
        """Whether there are other parts than were looked up, or damaged ones: then it is worth asking again."""
        if any(parts.look(run.path).parts != self._layouts[run.run_id].parts for run in self._runs):
            return True
        found = {
            part: problem
            for run in self._runs
            for part, _, problem in parts.examined(run.path, self._layouts[run.run_id], thorough=True)
            if problem and part not in self._damaged
        }
        self._damaged |= set(found)
        self.problems += [f"{problem}; the next launch of its grid runs its points again" for problem in found.values()]
        return bool(found)

    def _ask(self, sql: str) -> arrow_tables.Table:
        for view in views.mentioned(sql):
            self._make(view)
        return arrow_tables.narrowed(self._connection.sql(sql).to_arrow_table())

    def _make(self, view: str) -> None:
        """Views are made when a query names them: each opens all its files, to learn their columns."""
        if view in self._made:
            return
        if view == "runs":
            self._connection.register(view, arrow_tables.table_of(schema.RUNS, [run.row for run in self._runs]))
        elif view == "costs":
            self._connection.register(view, arrow_tables.table_of(schema.COSTS, self._costs))
        else:
            self._connection.execute(f"CREATE VIEW {view} AS {self._definition(view)}")
        self._made.add(view)

    def _definition(self, view: str) -> str:
        table = {"latest": "outcomes", "failures": "points"}.get(view, view)
        source = self._source(table, view == "latest")
        if table == "outcomes":
            return views.outcomes(source, self._price)
        if table == "rounds":
            return views.rounds(source, self._source("outcomes", False))
        return views.points(source, failed=view == "failures")

    def _source(self, table: str, latest: bool) -> str:
        """Rows of all runs, or of the latest of each grid: what several views take is looked up once."""
        if (table, latest) not in self._sources:
            self._sources[table, latest] = self._looked_up(table, self._latest if latest else self._runs)
        return self._sources[table, latest]

    def _looked_up(self, table: str, runs: Sequence[RunInfo]) -> str:
        """The files of a directory by name; those of an object store as an Arrow dataset a run."""
        local = [path for run in runs for path in self._files(run, table)]
        sources = [views.of_files(local)] if local else []
        for i, run in enumerate(runs):
            names = self._names(run, table)
            if isinstance(run.path, Bucket) and names:
                name = f"{table}_of_{i}_{len(runs)}"
                where = [f"{run.path.path}/{part}" for part in names]
                self._connection.register(name, arrow_tables.dataset(run.path.filesystem, where))
                sources.append(name)
        return views.together(sources)

    def _files(self, run: RunInfo, table: str) -> list[Path]:
        return [run.path.path / name for name in self._names(run, table)] if isinstance(run.path, Directory) else []

    def _names(self, run: RunInfo, table: str) -> list[str]:
        damaged = {f"{table}/{part.file}" for part in self._damaged}
        return [name for name in self._layouts[run.run_id].of(table) if name not in damaged]


def cost_ns(outcomes: arrow_tables.Table, prices: cost_tables.CostTable) -> list[float]:
    """What a cost table says of rows of outcomes that are in no store."""
    connection = _sealed()
    try:
        connection.register("outcomes", outcomes)
        rows = connection.sql(f"SELECT {prices.sql} FROM outcomes").fetchall()
    finally:
        connection.close()
    return [row[0] for row in rows]


def point_conditions(
    columns: Columns, derive: dict[str, str], wheres: Sequence[str]
) -> tuple[dict[str, Any], list[NDArray[np.bool_]]]:
    """Derived columns (Arrow arrays) and conditions of many points; a condition that is NULL does not hold.

    A derived column may use those before it, a condition all of them.
    """
    if not derive and not wheres:
        return {}, []
    connection = _sealed()
    try:
        table = _limited(connection, DEFAULT_SECONDS, lambda: _evaluated(connection, columns, derive, wheres))
    finally:
        _close(connection)
    values = {name: table.column(i).combine_chunks() for i, name in enumerate(derive)}
    masks = [table.column(i).fill_null(False).to_numpy() for i in range(len(derive), table.num_columns)]
    return values, masks


def _evaluated(
    connection: duckdb.DuckDBPyConnection, columns: Columns, derive: dict[str, str], wheres: Sequence[str]
) -> arrow_tables.Table:
    with _told():
        connection.register("points", arrow_tables.scenario_table(columns))
    known, source = [column.name for column in schema.POINT], "points"
    for name, expression in derive.items():
        sql_expressions.check_name(name)
        source = _with_column(connection, source, name, expression, known)
        known.append(name)
    selected = [f'"{name}"' for name in derive]
    selected.extend(_condition(connection, source, where, known) for where in wheres)
    with _told("derive or where"):
        return connection.sql(f"SELECT {', '.join(selected)} FROM {source}").to_arrow_table()


def check_expressions(derive: dict[str, str], wheres: Sequence[str]) -> None:
    """The same on no points: is the SQL right?"""
    point_conditions(complete({}, 0), derive, wheres)


def _with_column(
    connection: duckdb.DuckDBPyConnection, source: str, name: str, expression: str, known: list[str]
) -> str:
    """The source with one more column."""
    where = f"derive.{name}"
    sql_type = _type_of(connection, source, expression, known, where)
    stored = sql_expressions.stored_type(sql_type, where)
    value = f"CAST({sql_expressions.parenthesized_sql(expression)} AS {stored})"
    if stored == "VARCHAR":
        long = f"error('longer than {sql_expressions.MAX_TEXT} characters')"
        value = f"CASE WHEN length({value}) > {sql_expressions.MAX_TEXT} THEN {long} ELSE {value} END"
    return f'(SELECT *, {value} AS "{name}" FROM {source})'


def _condition(connection: duckdb.DuckDBPyConnection, source: str, expression: str, known: list[str]) -> str:
    where = f"where {one_line(expression)!r}"
    sql_type = _type_of(connection, source, expression, known, where)
    if sql_type != "BOOLEAN":
        raise UserError(f"{where}: gives {sql_type}, not true or false; write a comparison, such as zap < cluster")
    return sql_expressions.parenthesized_sql(expression)


def _type_of(connection: duckdb.DuckDBPyConnection, source: str, expression: str, known: list[str], where: str) -> str:
    """The type of an expression that is let in."""
    if not expression.strip():
        raise UserError(f"{where}: is empty; write a SQL expression over the point's columns")
    try:
        alone, wrapped = (
            f"{sql_expressions.SELECT_BARE}{sql_expressions.to_duckdb_sql(expression)}\n",
            sql_expressions.parenthesized_sql(expression),
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    with _told(where):
        parsed, tree, bare = connection.execute(
            "SELECT json_serialize_sql($1::VARCHAR), json_serialize_sql($2::VARCHAR), json_serialize_sql($3::VARCHAR)",
            [alone, f"SELECT {wrapped}", "SELECT (1)"],
        ).fetchall()[0]
    sql_expressions.check_syntax(parsed, tree, expression, where)
    functions = sql_expressions.check_tree(tree, bare, known, where)
    sql_expressions.check_functions(functions, _functions(), where)
    with _told(where):
        return str(connection.sql(f"SELECT {wrapped} AS value FROM {source} LIMIT 0").types[0])


@cache
def _functions() -> dict[str, bool]:
    """Every function, and whether it is a plain one: of its arguments alone."""
    connection = _sealed()
    try:
        rows = connection.execute(
            "SELECT lower(function_name), bool_or(function_type = 'scalar' AND stability = 'CONSISTENT'"
            " OR function_name = 'nullif') FROM duckdb_functions() WHERE function_type NOT LIKE 'table%' GROUP BY 1"
        ).fetchall()
    finally:
        connection.close()
    return dict(rows)


def _sealed(parts: Sequence[Path] = ()) -> duckdb.DuckDBPyConnection:
    """A connection that can read these files and nothing else, and keeps what it makes in memory."""
    connection = duckdb.connect(":memory:")
    for setting in (
        "temp_directory = ''",
        f"memory_limit = '{_memory_mib()}MiB'",
        "TimeZone = 'UTC'",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
        f"allowed_paths = {views.paths(parts)}" if parts else "allowed_paths = []",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def _memory_mib() -> int:
    """Half of the machine: a sweep may be running beside."""
    return max(512, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20)


def _only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with _told(hint='; the column must be quoted: "order"' if _ORDER.search(sql) else ""):
        statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise UserError(f"SQL: {len(statements) or 'no'} statements; one SELECT is allowed")
    kind = statements[0].type
    if kind == duckdb.StatementType.MULTI:  # DuckDB runs these as several: PIVOT makes a type first
        raise UserError("SQL: a PIVOT must list its values, as in PIVOT ... ON policy IN ('none', 'merged')")
    if kind != duckdb.StatementType.SELECT:
        raise UserError(f"SQL: {kind.name} is not allowed; the store is read only: one SELECT")


def _limited(connection: duckdb.DuckDBPyConnection, seconds: float | None, ask: Callable[[], T]) -> T:
    """What `ask` gives, in bounded time and memory. UserError where it takes longer."""
    try:
        return resource_limits.within(seconds, _memory_mib() << 20, ask, connection.interrupt)
    except (resource_limits.LateError, duckdb.InterruptException) as error:
        if isinstance(error, resource_limits.LateError) and error.goes_on:
            _stuck.append(connection)
        raise UserError(f"SQL: took longer than {seconds or 0:g} s; raise --timeout, or ask for less") from error


_stuck: list[duckdb.DuckDBPyConnection] = []
"""They still work on what nobody waits for: closing them would wait."""


def _is_stuck(connection: duckdb.DuckDBPyConnection) -> bool:
    return any(connection is one for one in _stuck)


def _close(connection: duckdb.DuckDBPyConnection) -> None:
    if not _is_stuck(connection):
        connection.close()


@contextmanager
def _told(where: str = "SQL", hint: str = "") -> Iterator[None]:
    """DuckDB's errors as one line: what, which names there are, where in the text."""
    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise UserError(f"{where}: {_short(str(error))}{hint}") from error


def _short(message: str) -> str:
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
        return "needs more memory than half of this machine; ask for less"
    return one_line(_KIND.sub("", message), 200) + place
