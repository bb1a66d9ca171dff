"""Evaluates a user's SQL expressions (derive, exclude.where, --where) over the columns of points.

Each expression is checked against the whitelist of sweep.grid.sql_expressions, then evaluated by a sealed connection
that holds the points and can reach nothing else.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns, complete
from sweep.common import schema
from sweep.common.errors import UserError, one_line
from sweep.grid import sql_expressions
from sweep.query.sealed_connection import DEFAULT_SECONDS, SealedConnection, user_errors
from sweep.tables import arrow_tables, result_tables


def evaluate(
    columns: Columns, derive: dict[str, str], wheres: Sequence[str]
) -> tuple[dict[str, Any], list[NDArray[np.bool_]]]:
    """Derived columns (Arrow arrays of n) and conditions (bool[n] each) of n points. NULL counts as false.

    `derive`: SQL by column name; each may use those before it, and conditions may use all. Raises UserError for an
    expression that is not allowed, is wrong, or fails for some point.
    """
    if not derive and not wheres:
        return {}, []
    connection = SealedConnection()
    try:
        table = connection.run_limited(DEFAULT_SECONDS, lambda: _evaluate(connection, columns, derive, wheres))
    finally:
        connection.close()
    values = {name: table.column(i).combine_chunks() for i, name in enumerate(derive)}
    masks = [table.column(i).fill_null(False).to_numpy() for i in range(len(derive), table.num_columns)]
    return values, masks


def check(derive: dict[str, str], wheres: Sequence[str]) -> None:
    """Evaluate on zero points. Raises UserError for an expression that is not allowed or wrong."""
    evaluate(complete({}, 0), derive, wheres)


def _evaluate(
    connection: SealedConnection, columns: Columns, derive: dict[str, str], wheres: Sequence[str]
) -> arrow_tables.Table:
    with user_errors():
        connection.register("points", result_tables.scenario_table(columns))
    known, source = [column.name for column in schema.POINT], "points"
    for name, expression in derive.items():
        sql_expressions.check_name(name)
        source = _with_column(connection, source, name, expression, known)
        known.append(name)
    selected = [f'"{name}"' for name in derive]
    selected.extend(_condition(connection, source, where, known) for where in wheres)
    with user_errors("derive or where"):
        return connection.arrow(f"SELECT {', '.join(selected)} FROM {source}")


def _with_column(connection: SealedConnection, source: str, name: str, expression: str, known: list[str]) -> str:
    """A subquery: the source with the derived column `name` added, in a type that the store has."""
    where = f"derive.{name}"
    sql_type = _checked_type(connection, source, expression, known, where)
    stored_type = sql_expressions.stored_type(sql_type, where)
    value = f"CAST({sql_expressions.parenthesized_sql(expression)} AS {stored_type})"
    if stored_type == "VARCHAR":
        too_long = f"error('longer than {sql_expressions.MAX_TEXT} characters')"
        value = f"CASE WHEN length({value}) > {sql_expressions.MAX_TEXT} THEN {too_long} ELSE {value} END"
    return f'(SELECT *, {value} AS "{name}" FROM {source})'


def _condition(connection: SealedConnection, source: str, expression: str, known: list[str]) -> str:
    """The SQL of a condition. Raises UserError if it is not boolean."""
    where = f"where {one_line(expression)!r}"
    sql_type = _checked_type(connection, source, expression, known, where)
    if sql_type != "BOOLEAN":
        raise UserError(f"{where}: gives {sql_type}, not true or false; write a comparison, such as zap < cluster")
    return sql_expressions.parenthesized_sql(expression)


def _checked_type(connection: SealedConnection, source: str, expression: str, known: list[str], where: str) -> str:
    """The SQL type of a user's expression over the columns `known`. Raises UserError unless the whitelist allows it.

    `where` names the expression in errors.
    """
    if not expression.strip():
        raise UserError(f"{where}: is empty; write a SQL expression over the point's columns")
    try:
        bare = f"{sql_expressions.SELECT_BARE}{sql_expressions.to_duckdb_sql(expression)}\n"
        wrapped = sql_expressions.parenthesized_sql(expression)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    with user_errors(where):
        bare_tree, tree, empty_tree = connection.fetch(
            "SELECT json_serialize_sql($1::VARCHAR), json_serialize_sql($2::VARCHAR), json_serialize_sql($3::VARCHAR)",
            [bare, f"SELECT {wrapped}", "SELECT (1)"],
        )[0]
    sql_expressions.check_syntax(bare_tree, tree, expression, where)
    functions = sql_expressions.check_tree(tree, empty_tree, known, where)
    sql_expressions.check_functions(functions, _functions(), where)
    with user_errors(where):
        return connection.type_of(wrapped, source)


@cache
def _functions() -> dict[str, bool]:
    """DuckDB's functions by name; true for those whose value depends on their arguments alone."""
    connection = SealedConnection()
    try:
        rows = connection.fetch(
            "SELECT lower(function_name), bool_or(function_type = 'scalar' AND stability = 'CONSISTENT'"
            " OR function_name = 'nullif') FROM duckdb_functions() WHERE function_type NOT LIKE 'table%' GROUP BY 1"
        )
    finally:
        connection.close()
    return dict(rows)
