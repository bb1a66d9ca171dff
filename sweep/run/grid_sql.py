"""Evaluates the SQL of a grid (derive, exclude.where, --where) on points; errors name the file, line and key."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.model.scenario import Columns
from sweep.common.errors import UserError, one_line
from sweep.grid.grid import Grid
from sweep.query import conditions

Mask = NDArray[np.bool_]


def evaluate(
    grid: Grid, columns: Columns, wheres: Sequence[str], derive: dict[str, str] | None = None
) -> tuple[dict[str, Any], list[Mask]]:
    """Derived columns (Arrow arrays) and one mask for each condition, for n points. `derive` defaults to the grid's.

    Raises UserError for an expression that fails for some point. DuckDB does not report which expression failed, so
    after an error they are evaluated one by one.
    """
    derive = grid.derive if derive is None else derive
    try:
        return conditions.evaluate(columns, derive, wheres)
    except UserError as error:
        names = list(derive)
        for i, name in enumerate(names):
            with _error_at(grid.location("derive", name), "derive or where: "):
                conditions.evaluate(columns, {known: derive[known] for known in names[: i + 1]}, [])
        for where in wheres:
            rule = next((i for i, rule in enumerate(grid.excludes) if rule.where == where), None)
            place = "--where" if rule is None else grid.location("exclude", rule, "where")
            with _error_at(place, "derive or where: "):
                conditions.evaluate(columns, derive, [where])
        raise error


def check(grid: Grid, where: str | None) -> None:
    """Check all SQL of the grid, and --where, on zero points. Raises UserError that names the faulty expression."""
    wheres = [rule.where for rule in grid.excludes if rule.where] + ([where] if where is not None else [])
    try:
        conditions.check(grid.derive, wheres)
    except UserError:
        _check_each(grid, where)
        raise


def _check_each(grid: Grid, where: str | None) -> None:
    """Check the expressions one by one, so that the error can name the faulty one."""
    names = list(grid.derive)
    for i, name in enumerate(names):
        before = {known: grid.derive[known] for known in names[: i + 1]}
        with _error_at(grid.location("derive", name), f"derive.{name}: "):
            conditions.check(before, [])
    for i, rule in enumerate(grid.excludes):
        if rule.where:
            with _error_at(grid.location("exclude", i, "where"), f"where {one_line(rule.where)!r}: "):
                conditions.check(grid.derive, [rule.where])
    if where is not None:
        with _error_at("--where", f"where {one_line(where)!r}: "):
            conditions.check(grid.derive, [where])


@contextmanager
def _error_at(place: str, prefix: str) -> Iterator[None]:
    """Replace the prefix of a UserError's message, the expression's text, by its place."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {str(error).removeprefix(prefix)}") from None
