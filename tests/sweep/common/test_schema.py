"""The declarations of columns."""

import pytest

from engine.model import results, scenario
from sweep.common import schema
from sweep.tables import arrow_tables

ALL = {**schema.VIEWS, **{f"stored {name}": columns for name, columns in schema.TABLES.items()}}


def test_every_field_and_counter_of_the_engine_is_declared() -> None:
    """The tables have every input and output of the engine, in the engine's order."""
    names = [column.name for column in schema.OUTCOMES]
    assert [column.name for column in schema.SCENARIO] == list(scenario.FIELD)
    assert [name for name in names if name in results.COLUMNS] == list(results.COLUMNS)
    assert [c.name for c in schema.ROUNDS][-len(results.ROUND_COLUMNS) :] == list(results.ROUND_COLUMNS)
    assert {field.name for field in scenario.FIELDS} <= {column.name for column in schema.POINTS}


@pytest.mark.parametrize("name", ALL)
def test_columns_say_what_they_are(name: str) -> None:
    """Each column has a known type, a meaning, a unit if it is a number, and a unique name in its table."""
    columns = ALL[name]
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert column.type in ("int64", "float64", "string", "bool", "timestamp"), column
        assert column.meaning, column
        assert bool(column.unit) == (column.type in ("int64", "float64", "timestamp")), column


def test_a_name_means_one_thing() -> None:
    """A column has the same type and unit in all tables."""
    kinds: dict[str, set[tuple[str, str]]] = {}
    for columns in schema.TABLES.values():
        for column in columns:
            kinds.setdefault(column.name, set()).add((column.type, column.unit))
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


@pytest.mark.parametrize("columns", schema.TABLES.values(), ids=schema.TABLES)
def test_units_and_meanings_travel_with_the_files(columns: tuple[schema.Column, ...]) -> None:
    """The metadata of an Arrow field has unit and meaning."""
    for column, field in zip(columns, arrow_tables.arrow_schema(columns), strict=True):
        assert field.metadata == {b"unit": column.unit.encode(), b"meaning": column.meaning.encode()}
