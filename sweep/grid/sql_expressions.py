"""Conditions and derived columns of a grid: which SQL expressions over one point's columns are let in.

An expression sees one row and gives the same value on every machine and in every chunk: no subquery, aggregate or
window, nothing random, no clock. It is judged by DuckDB's own syntax tree, so it cannot end the statement around it.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sweep.common import schema
from sweep.common.errors import UserError, did_you_mean, one_line, unknown_name
from sweep.common.units import parse_size

_WORD = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\b[0-9]+(?:\.[0-9]+)?[KMGTPkmgtp]?(?:iB|[Bb])?\b|\border\b""")
_SIZE = re.compile("[0-9.]+[A-Za-z]+")
_NEAR = re.compile(r'at or near "(.*)"', re.DOTALL)
SELECT_BARE, SELECT_PARENTHESIZED = "SELECT\n", "SELECT (\n"
_CLASSES = frozenset(
    (
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "TYPE",
    )
)
_REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
MAX_CHARACTERS, MAX_TEXT = 2_000, 200
"""Of an expression, and of a derived text: with the functions below no value grows beyond some hundred kB."""
_FUNCTIONS = frozenset(
    (
        *(
            "+",
            "-",
            "*",
            "/",
            "//",
            "%",
            "**",
            "^",
            "@",
            "&",
            "|",
            "<<",
            ">>",
            "~",
            "xor",
            "add",
            "subtract",
            "multiply",
        ),
        *(
            "divide",
            "mod",
            "pow",
            "power",
            "abs",
            "sign",
            "ceil",
            "ceiling",
            "floor",
            "round",
            "round_even",
            "trunc",
            "even",
        ),
        *(
            "sqrt",
            "cbrt",
            "exp",
            "ln",
            "log",
            "log2",
            "log10",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "atan2",
            "pi",
        ),
        *("gcd", "lcm", "greatest_common_divisor", "least_common_multiple", "bit_count", "isnan", "isinf", "isfinite"),
        *(
            "greatest",
            "least",
            "nullif",
            "||",
            "concat",
            "concat_ws",
            "lower",
            "upper",
            "lcase",
            "ucase",
            "trim",
            "ltrim",
        ),
        *(
            "rtrim",
            "left",
            "right",
            "substr",
            "substring",
            "length",
            "len",
            "strlen",
            "char_length",
            "reverse",
            "ascii",
            "chr",
        ),
        *(
            "contains",
            "starts_with",
            "ends_with",
            "prefix",
            "suffix",
            "^@",
            "instr",
            "strpos",
            "position",
            "split_part",
        ),
        *("~~", "!~~", "~~*", "!~~*", "~~~", "like_escape", "ilike_escape", "not_like_escape", "not_ilike_escape"),
        *(
            "regexp_matches",
            "regexp_full_match",
            "regexp_extract",
            "list_value",
            "list_contains",
            "list_has",
            "format_bytes",
        ),
        *("is distinct from", "is not distinct from", "md5", "sha256", "hash", "typeof"),
    )
)
"""Each of one row's values alone, and none makes long texts or lists of short ones, as repeat and range do."""
_NAME = re.compile("[a-z_][a-z0-9_]*")
_TYPES = (
    {"VARCHAR": "VARCHAR", "BOOLEAN": "BOOLEAN", "FLOAT": "DOUBLE", "DOUBLE": "DOUBLE"}
    | {f"{sign}{size}INT": "BIGINT" for sign in ("", "U") for size in ("TINY", "SMALL", "", "BIG", "HUGE")}
    | {"INTEGER": "BIGINT", "UINTEGER": "BIGINT"}
)


def to_duckdb_sql(expression: str) -> str:
    """As DuckDB reads it. Outside of quotes sizes become bytes (`zap >= 2MiB`), and the field `order` is quoted."""
    if len(expression) > MAX_CHARACTERS:
        raise UserError(f"longer than {MAX_CHARACTERS:,} characters")
    return _WORD.sub(_spelled, expression)


def parenthesized_sql(expression: str) -> str:
    """As it stands in a query: on lines of its own, so that a comment in it ends with it."""
    return f"(\n{to_duckdb_sql(expression)}\n)"


def check_syntax(bare: str, whole: str, expression: str, where: str) -> None:
    """Judge json_serialize_sql of the spelled expression after BARE and of the wrapped one after WHOLE.

    Told is the user's text and the place in it. In parentheses of ours an unfinished one fails only where those end.
    """
    alone, within = json.loads(bare), json.loads(whole)
    error, before = (alone, SELECT_BARE) if "position" in alone else (within, SELECT_PARENTHESIZED)
    if not error.get("error"):
        if alone.get("error"):  # a comment: within parentheses that is an empty row
            raise UserError(f"{where}: no expression; write one over the point's columns")
        return
    if "position" not in error:
        raise UserError(f"{where}: {one_line(error['error_message'], 120)}")
    ends = len(f"{SELECT_PARENTHESIZED}{to_duckdb_sql(expression)}".encode()) <= int(within.get("position", 0))
    start = _origin(expression, int(error["position"]) - len(before))
    line, column = expression.count("\n", 0, start) + 1, start - expression.rfind("\n", 0, start)
    message = _NEAR.sub(lambda near: f"at {_token(expression, start) or one_line(near[1])!r}", error["error_message"])
    if ends and expression[start : start + 1] != ")":
        message = message.replace("syntax error at", "unfinished at", 1)
    raise UserError(f"{where}: {one_line(message, 120)} (line {line}, column {column})")


def _origin(expression: str, at: int) -> int:
    """Where in the user's text the spelled one's byte `at` comes from."""
    last = 0
    for match in _WORD.finditer(expression):
        before = len(expression[last : match.start()].encode())
        size = len(_spelled(match).encode())
        if before > at:
            break
        if before + size > at:
            return match.start()
        last, at = match.end(), at - before - size
    return last + len(expression[last:].encode()[:at].decode(errors="ignore"))


def _token(expression: str, start: int) -> str:
    """The word that is spelled otherwise, as the user wrote it; empty if there is none."""
    match = _WORD.match(expression, start)
    return match[0] if match else ""


def _spelled(match: re.Match[str]) -> str:
    word = match[0]
    if word == "order":
        return '"order"'
    return str(parse_size(word)) if _SIZE.fullmatch(word) else word


def check_name(name: str) -> None:
    """A derived column needs a name of its own."""
    if not _NAME.fullmatch(name):
        raise UserError(f"derive: {one_line(name)!r} is no name for a column: lower-case letters, digits, _")
    if name in {column.name for columns in schema.VIEWS.values() for column in columns}:
        raise UserError(f"derive.{name}: there is a column of this name already; choose another")


def check_tree(serialized: str, bare: str, columns: Collection[str], where: str) -> set[str]:
    """Judge json_serialize_sql of `SELECT (expression)` against that of `SELECT (1)`; gives the functions it calls."""
    tree = json.loads(serialized)
    if len(tree["statements"]) != 1 or _frame(tree) != _frame(json.loads(bare)):
        raise UserError(f"{where}: not one expression")
    selected = tree["statements"][0]["node"]["select_list"]
    if len(selected) != 1 or selected[0].get("alias"):
        raise UserError(f"{where}: not one expression")
    functions = set()
    for node in _nodes(selected):
        kind = node["class"]
        if kind not in _CLASSES:
            raise UserError(f"{where}: {_REFUSED.get(kind, kind.lower())} is not allowed; one point's columns are")
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in columns:
                raise UserError(f"{where}: {unknown_name('column', name, columns)}")
        elif kind == "FUNCTION":
            functions.add(node["function_name"].lower())
    return functions


def check_functions(functions: Collection[str], known: Mapping[str, bool], where: str) -> None:
    """`known`: every function of DuckDB, and whether it maps the same row to the same value always."""
    for name in sorted(functions):
        if name not in known:
            raise UserError(f"{where}: no function {name!r}{did_you_mean(name, known)}")
        if not known[name]:
            raise UserError(f"{where}: {name}() is not allowed: it depends on more than one point's columns")
        if name not in _FUNCTIONS:
            hint = did_you_mean(name, _FUNCTIONS) or ": arithmetic and simple text are"
            raise UserError(f"{where}: {name}() is not allowed{hint}")


def stored_type(sql_type: str, where: str) -> str:
    """What a derived column is stored as: BIGINT, DOUBLE, VARCHAR or BOOLEAN."""
    if sql_type.startswith("DECIMAL"):
        return "DOUBLE"
    if sql_type not in _TYPES:
        raise UserError(f"{where}: gives {sql_type}; a number, text or true/false is allowed")
    return _TYPES[sql_type]


def _frame(tree: dict[str, Any]) -> dict[str, Any]:
    """All of a statement but what it selects: FROM, WHERE, ORDER, ..."""
    node = tree["statements"][0]["node"]
    return {name: value for name, value in node.items() if name != "select_list"}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression in a tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
