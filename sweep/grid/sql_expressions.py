"""Which SQL expressions a grid's `where` and `derive` (and --where) may be: an allow-list of syntax and functions.

An expression sees one row and gives the same value on every machine and in every chunk of points: no subquery,
aggregate or window, nothing random, no clock. It is judged by DuckDB's own syntax tree, so it cannot end the statement
that it is put into. sweep.query.conditions runs DuckDB; this module imports none of it.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sweep.common import schema
from sweep.common.errors import UserError, did_you_mean, one_line, unknown_name
from sweep.common.units import parse_size

SELECT_BARE, SELECT_PARENTHESIZED = "SELECT\n", "SELECT (\n"
"""The two statements in which an expression is parsed, up to the expression."""
MAX_CHARACTERS, MAX_TEXT = 2_000, 200
"""Limits of an expression, and of a derived text. With the functions below no value grows beyond some hundred kB."""

_REWRITTEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\b[0-9]+(?:\.[0-9]+)?[KMGTPkmgtp]?(?:iB|[Bb])?\b|\border\b""")
"""Texts in quotes, which stay, and numbers, sizes and the field `order`, which may be rewritten."""
_SIZE = re.compile("[0-9.]+[A-Za-z]+")
_NEAR = re.compile(r'at or near "(.*)"', re.DOTALL)
_COLUMN_NAME = re.compile("[a-z_][a-z0-9_]*")
_ALLOWED_NODES = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION OPERATOR TYPE".split()  # noqa: SIM905
)
"""Classes of nodes in DuckDB's syntax tree."""
_REFUSED_NODES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
_ALLOWED_FUNCTIONS = frozenset(
    """
    + - * / // % ** ^ @ & | << >> ~ xor add subtract multiply divide mod pow power
    abs sign ceil ceiling floor round round_even trunc even
    sqrt cbrt exp ln log log2 log10 sin cos tan asin acos atan atan2 pi
    gcd lcm greatest_common_divisor least_common_multiple bit_count isnan isinf isfinite
    greatest least nullif || concat concat_ws lower upper lcase ucase trim ltrim rtrim
    left right substr substring length len strlen char_length reverse ascii chr
    contains starts_with ends_with prefix suffix ^@ instr strpos position split_part
    ~~ !~~ ~~* !~~* ~~~ like_escape ilike_escape not_like_escape not_ilike_escape
    regexp_matches regexp_full_match regexp_extract list_value list_contains list_has format_bytes
    md5 sha256 hash typeof
    """.split()  # noqa: SIM905 - a list literal is formatted to 120 lines
) | {"is distinct from", "is not distinct from"}
"""Functions of the values of one row. None makes long texts or lists of short ones, as repeat and range do."""
_STORED_TYPES = (
    {"VARCHAR": "VARCHAR", "BOOLEAN": "BOOLEAN", "FLOAT": "DOUBLE", "DOUBLE": "DOUBLE"}
    | {f"{sign}{size}INT": "BIGINT" for sign in ("", "U") for size in ("TINY", "SMALL", "", "BIG", "HUGE")}
    | {"INTEGER": "BIGINT", "UINTEGER": "BIGINT"}
)


def to_duckdb_sql(expression: str) -> str:
    """The expression as DuckDB reads it. Raises UserError above MAX_CHARACTERS, and for a malformed size.

    Outside of quotes sizes become bytes (`zap >= 2MiB`), and the field `order`, a keyword of SQL, is quoted.
    """
    if len(expression) > MAX_CHARACTERS:
        raise UserError(f"longer than {MAX_CHARACTERS:,} characters")
    return _REWRITTEN.sub(_rewrite, expression)


def parenthesized_sql(expression: str) -> str:
    """The expression as part of a statement, on lines of its own, so that a comment in it ends with it."""
    return f"(\n{to_duckdb_sql(expression)}\n)"


def check_syntax(bare: str, parenthesized: str, expression: str, where: str) -> None:
    """Raise UserError if DuckDB could not parse the expression; the message has the place in the user's text.

    `bare` and `parenthesized` are the results of json_serialize_sql for the statements that begin with SELECT_BARE and
    SELECT_PARENTHESIZED. The bare one is needed because in parentheses an unfinished expression only fails at the
    closing parenthesis. `where` names the expression in messages.
    """
    bare_result, parenthesized_result = json.loads(bare), json.loads(parenthesized)
    has_position = "position" in bare_result
    error, before = (bare_result, SELECT_BARE) if has_position else (parenthesized_result, SELECT_PARENTHESIZED)
    if not error.get("error"):
        if bare_result.get("error"):  # only a comment: in parentheses that is an empty row
            raise UserError(f"{where}: no expression; write one over the point's columns")
        return
    if "position" not in error:
        raise UserError(f"{where}: {one_line(error['error_message'], 120)}")
    end = len(f"{SELECT_PARENTHESIZED}{to_duckdb_sql(expression)}".encode())
    is_unfinished = end <= int(parenthesized_result.get("position", 0))
    start = _original_index(expression, int(error["position"]) - len(before))
    line, column = expression.count("\n", 0, start) + 1, start - expression.rfind("\n", 0, start)
    message = _NEAR.sub(
        lambda near: f"at {_rewritten_word(expression, start) or one_line(near[1])!r}", error["error_message"]
    )
    if is_unfinished and expression[start : start + 1] != ")":
        message = message.replace("syntax error at", "unfinished at", 1)
    raise UserError(f"{where}: {one_line(message, 120)} (line {line}, column {column})")


def _original_index(expression: str, offset: int) -> int:
    """The index in the user's text of byte `offset` of its DuckDB form."""
    last = 0
    for match in _REWRITTEN.finditer(expression):
        before = len(expression[last : match.start()].encode())
        size = len(_rewrite(match).encode())
        if before > offset:
            break
        if before + size > offset:
            return match.start()
        last, offset = match.end(), offset - before - size
    return last + len(expression[last:].encode()[:offset].decode(errors="ignore"))


def _rewritten_word(expression: str, start: int) -> str:
    """The word at `start` that DuckDB sees in another form, as the user wrote it; empty if there is none."""
    match = _REWRITTEN.match(expression, start)
    return match[0] if match else ""


def _rewrite(match: re.Match[str]) -> str:
    word = match[0]
    if word == "order":
        return '"order"'
    return str(parse_size(word)) if _SIZE.fullmatch(word) else word


def check_name(name: str) -> None:
    """Raise UserError unless a derived column may have this name: well-formed, and of no other column."""
    if not _COLUMN_NAME.fullmatch(name):
        raise UserError(f"derive: {one_line(name)!r} is no name for a column: lower-case letters, digits, _")
    if name in {column.name for columns in schema.VIEWS.values() for column in columns}:
        raise UserError(f"derive.{name}: there is a column of this name already; choose another")


def check_tree(serialized: str, empty: str, columns: Collection[str], where: str) -> set[str]:
    """Check the syntax tree of an expression; returns the functions that it calls.

    `serialized` and `empty` are json_serialize_sql of `SELECT (expression)` and of `SELECT (1)`; apart from what they
    select they must be equal. Raises UserError for more than one expression, nodes that are not allowed, and names that
    are not in `columns`.
    """
    tree = json.loads(serialized)
    if len(tree["statements"]) != 1 or _without_select_list(tree) != _without_select_list(json.loads(empty)):
        raise UserError(f"{where}: not one expression")
    selected = tree["statements"][0]["node"]["select_list"]
    if len(selected) != 1 or selected[0].get("alias"):
        raise UserError(f"{where}: not one expression")
    functions = set()
    for node in _nodes(selected):
        node_class = node["class"]
        if node_class not in _ALLOWED_NODES:
            refused = _REFUSED_NODES.get(node_class, node_class.lower())
            raise UserError(f"{where}: {refused} is not allowed; one point's columns are")
        if node_class == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in columns:
                raise UserError(f"{where}: {unknown_name('column', name, columns)}")
        elif node_class == "FUNCTION":
            functions.add(node["function_name"].lower())
    return functions


def check_functions(functions: Collection[str], is_deterministic: Mapping[str, bool], where: str) -> None:
    """Raise UserError for a function that does not exist or is not allowed.

    `is_deterministic`: all functions of DuckDB, and whether each depends on its arguments alone.
    """
    for name in sorted(functions):
        if name not in is_deterministic:
            raise UserError(f"{where}: no function {name!r}{did_you_mean(name, is_deterministic)}")
        if not is_deterministic[name]:
            raise UserError(f"{where}: {name}() is not allowed: it depends on more than one point's columns")
        if name not in _ALLOWED_FUNCTIONS:
            hint = did_you_mean(name, _ALLOWED_FUNCTIONS) or ": arithmetic and simple text are"
            raise UserError(f"{where}: {name}() is not allowed{hint}")


def stored_type(sql_type: str, where: str) -> str:
    """The type in which a derived column is stored: BIGINT, DOUBLE, VARCHAR or BOOLEAN. Raises UserError for others."""
    if sql_type.startswith("DECIMAL"):
        return "DOUBLE"
    if sql_type not in _STORED_TYPES:
        raise UserError(f"{where}: gives {sql_type}; a number, text or true/false is allowed")
    return _STORED_TYPES[sql_type]


def _without_select_list(tree: dict[str, Any]) -> dict[str, Any]:
    """The first statement's other clauses: FROM, WHERE, ORDER, ..."""
    node = tree["statements"][0]["node"]
    return {name: value for name, value in node.items() if name != "select_list"}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression node of a tree, parents first."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
