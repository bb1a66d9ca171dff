"""Conditions and derived columns of a grid: SQL expressions over one point's columns, and no other SQL."""

import json
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.model.scenario import Columns, Scenario, columns_of
from sweep.common.errors import UserError
from sweep.grid import sql_expressions
from sweep.query import conditions
from tests.support.small_stores import MIB, scenarios


def evaluated(
    columns: Columns, derive: dict[str, str], wheres: Sequence[str]
) -> tuple[dict[str, list[Any]], list[NDArray[np.bool_]]]:
    """(derived columns as Python values, masks of the conditions)"""
    values, masks = conditions.evaluate(columns, derive, wheres)
    return {name: array.to_pylist() for name, array in values.items()}, masks


REFUSED = [
    ("", "is empty"),
    ("zap", "gives BIGINT"),
    ("zapp > 1", "did you mean 'zap'"),
    ("points.zap > 1", "unknown column 'points.zap'"),
    ("zap < 2MB", "write 2MiB"),
    ("zap > 'abc'", "Could not convert"),
    ("zap * 9000000000000000000 > 1", "Overflow"),
    ("nosuch(zap) > 1", "no function 'nosuch'"),
    ("true; DROP TABLE points", "syntax error"),
    ("true) FROM points WHERE (true", r"syntax error at '\)' \(line 1, column 5\)"),
    ("true), (true", r"syntax error at '\)' \(line 1, column 5\)"),
    ("true) AS x LIMIT (1", r"syntax error at '\)' \(line 1, column 5\)"),
    ("true) UNION ALL SELECT (true", r"syntax error at '\)' \(line 1, column 5\)"),
    ("true) ORDER BY (1", r"syntax error at '\)' \(line 1, column 5\)"),
    ("true /*", "unterminated"),
    ("zap > (SELECT max(virt) FROM points)", "a subquery is not allowed"),
    ("EXISTS (FROM read_text('/etc/passwd'))", "a subquery is not allowed"),
    ("max(zap) > 1", r"max\(\) is not allowed"),
    ("row_number() OVER () > 1", "a window function is not allowed"),
    ("random() < 0.5", r"random\(\) is not allowed"),
    ("now() > '2020-01-01'", r"now\(\) is not allowed"),
    ("current_date > '2020-01-01'", "unknown column 'current_date'"),
    ("current_setting('threads') = '1'", "is not allowed"),
    ("error('x') IS NULL", "is not allowed"),
    ("getenv('HOME') = 'x'", "no function 'getenv'"),
    ("*", "a star is not allowed"),
    ("COLUMNS(*) > 1", "a star is not allowed"),
    ("$1", "a parameter is not allowed"),
    ("len(list_filter([zap], lambda x: x > 1)) > 0", "a lambda is not allowed"),
    ("'' = repeat('x', 20000000000)", r"repeat\(\) is not allowed: arithmetic"),
    ("len(hex(hex('x'))) > 1", r"hex\(\) is not allowed"),
    ("virt * 9000000000000000000 > 1", "Out of Range"),
    ("zap > " + "+".join(["1"] * 1001), "longer than 2,000 characters"),
]


@pytest.mark.parametrize(("where", "message"), REFUSED)
def test_refused_expressions(where: str, message: str) -> None:
    """All but a plain expression over one point's columns is refused in one line that says why."""
    with pytest.raises(UserError, match=message) as error:
        evaluated(scenarios(3), {}, [where])
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(("where", "derive or where"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("zap <", "unfinished at '<' (line 1, column 5)"),
        ("(zap < 2MiB", "unfinished at '2MiB' (line 1, column 8)"),
        ("CASE WHEN zap", "unfinished at 'zap' (line 1, column 11)"),
        ("zap < 2MiB)", "syntax error at ')' (line 1, column 11)"),
        ("zap = 2MiB AND\n  4KiB 64KiB", "syntax error at '64KiB' (line 2, column 8)"),
        ("arch = 'é' AND", "unfinished at 'AND' (line 1, column 12)"),
        ("zap < 'x", "unterminated string literal (line 1, column 7)"),
        ("zap > 0 LIMIT 1", "syntax error at 'LIMIT' (line 1, column 9)"),
        ("zap::hex(zap > 1) > 1", "Expected a constant as type modifier"),
        ("-- zap", "no expression; write one over the point's columns"),
    ],
)
def test_syntax_errors_have_a_place(where: str, message: str) -> None:
    """A syntax error shows the user's word and its place in the user's text, not in the statement around it."""
    with pytest.raises(UserError) as error:
        evaluated(scenarios(3), {}, [where])
    assert str(error.value) == f"where {' '.join(where.split())!r}: {message}"


@pytest.mark.parametrize(
    "text", ["true) FROM points WHERE (true", "true), (true", "true) AS x LIMIT (1", "true) ORDER BY (1"]
)
def test_the_syntax_tree_shows_the_end_of_an_expression(text: str) -> None:
    """Text that ends the expression is found in the syntax tree, even where it is valid SQL."""
    tree, bare = (
        str(duckdb.execute("SELECT json_serialize_sql(?)", [f"SELECT ({one})"]).fetchall()[0][0]) for one in (text, "1")
    )
    with pytest.raises(UserError, match="not one expression"):
        sql_expressions.check_tree(tree, bare, ["zap"], "where")


def test_values_and_conditions() -> None:
    """A derived column may use earlier ones, a condition all of them; a condition that is NULL does not hold."""
    columns = columns_of([Scenario(virt=4 * MIB, sparsity=0.5), Scenario(virt=8 * MIB, res=2 * MIB, order="random")])
    derive = {"pages": "virt * (1 - sparsity) / 4096", "twice": "pages * 2 -- a comment", "label": "arch || '!'"}
    wheres = ["res > 1", "twice > 1024", "order = 'random'", "virt >= 8MiB AND zap = 2M", "nullif(virt, 4194304) > 0"]
    values, masks = evaluated(columns, derive, wheres)
    assert values == {"pages": [512.0, 512.0], "twice": [1024.0, 1024.0], "label": ["x86-64!"] * 2}
    assert [mask.tolist() for mask in masks] == [
        [False, True],
        [False, False],
        [False, True],
        [False, True],
        [False, True],
    ]


def test_chunks_do_not_matter() -> None:
    """Values do not depend on how the points are cut into chunks."""
    columns = scenarios(7)
    derive, wheres = {"pages": "virt * (1 - sparsity) / 4096"}, ["pages > 2000", "threads = 2"]
    values, masks = evaluated(columns, derive, wheres)
    for i in range(7):
        alone, holds = evaluated({n: c[i : i + 1] for n, c in columns.items()}, derive, wheres)
        assert alone["pages"] == values["pages"][i : i + 1]
        assert [bool(mask[0]) for mask in holds] == [bool(mask[i]) for mask in masks]
    assert 0 < masks[0].sum() < 7


def test_quoted_text_is_not_rewritten() -> None:
    """Sizes and the field `order` are rewritten outside of quotes only."""
    values, _ = evaluated(scenarios(1), {"a": "'2MiB order'", "b": '"order"', "c": "2MiB"}, [])
    assert values == {"a": ["2MiB order"], "b": ["sequential"], "c": [2 * MIB]}


@pytest.mark.parametrize(
    ("name", "expression", "kind"),
    [
        ("a", "1", int),
        ("a", "1.5", float),
        ("a", "virt::HUGEINT", int),
        ("a", "'x'", str),
        ("a", "virt > 0", bool),
        ("a", "sparsity::FLOAT", float),
        ("a", "1::TINYINT", int),
    ],
)
def test_types_of_derived_columns(name: str, expression: str, kind: type) -> None:
    """A derived column holds integers, doubles, texts or booleans, and can be written as JSON."""
    values, _ = evaluated(scenarios(2), {name: expression}, [])
    assert [type(value) for value in values[name]] == [kind] * 2
    json.dumps(values)


@pytest.mark.parametrize(
    ("name", "expression", "message"),
    [
        ("virt", "1", r"derive\.virt: there is a column"),
        ("cost_ns", "1", "there is a column"),
        ("A b", "1", "no name for a column"),
        ('x"; --', "1", "no name for a column"),
        ("a", "[1, 2]", r"derive\.a: gives INTEGER\[\]"),
        ("a", "virt, zap", "not one|gives STRUCT|is not allowed|allowed"),
        ("a", "b + 1", "unknown column 'b'"),
    ],
)
def test_derived_columns_that_are_refused(name: str, expression: str, message: str) -> None:
    """A derived column needs a new name and one plain value per point."""
    with pytest.raises(UserError, match=message):
        conditions.check({name: expression}, [])


def test_texts_stay_short() -> None:
    """A derived text above 200 characters is refused, so texts of texts cannot grow without bound."""
    assert evaluated(scenarios(1), {"a": f"'{'x' * 200}'"}, [])[0] == {"a": ["x" * 200]}
    with pytest.raises(UserError, match="longer than 200 characters"):
        evaluated(scenarios(1), {"a": f"'{'x' * 150}'", "b": "a || a"}, [])


def test_checking_needs_no_points() -> None:
    """Expressions are checked without any points."""
    conditions.check({"pages": "virt / 4096"}, ["pages > 1", "zap < cluster"])
    with pytest.raises(UserError, match="did you mean 'cluster'"):
        conditions.check({}, ["zap < clutser"])
    assert evaluated(scenarios(2), {}, []) == ({}, [])
