"""Rows as text: a table for people, csv, json, Markdown. Writes to a stream that it is given."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sweep.common.errors import UserError

if TYPE_CHECKING:
    from sweep.query.database import Database
    from sweep.query.named_queries import NamedQuery
    from sweep.store.arrow_tables import Table

from sweep.common.errors import printable

Rows = Iterable[Sequence[Any]]

FORMATS = ("table", "csv", "json", "md")
_ABSENT = "-"


def write(names: Sequence[str], rows: Rows, form: str, out: TextIO, *, most: int = 0) -> int:
    """Write rows in one of FORMATS; a table of at most so many rows (0: all). Returns how many rows were left out."""
    names = apart(names) if form == "json" else [shown(name) for name in names]
    if form == "table":
        return _table(names, rows, out, most)
    writers: dict[str, Callable[[Sequence[str], Rows, TextIO], None]] = {"csv": _csv, "json": _json, "md": _markdown}
    writers[form](names, rows, out)
    return 0


def write_to(path: Path | None, names: Sequence[str], rows: Rows, form: str, *, most: int = 0) -> int:
    """Write rows in one of FORMATS to a file, or to stdout without one. Returns how many rows were left out."""
    if form not in FORMATS:
        raise UserError(f"--format {form} is for the rows of a query; choose {', '.join(FORMATS)}")
    if path is None:
        return write(names, rows, form, sys.stdout, most=most)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            return write(names, rows, form, file, most=most)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def write_arrow(table: "Table", form: str, path: Path | None = None, *, most: int = 0) -> int:
    """Write an Arrow table as `write_to` does, or as Parquet. Returns how many rows were left out."""
    from sweep.store import arrow_tables

    if form != "parquet":
        return write_to(path, table.column_names, arrow_tables.rows(table), form, most=most)
    table = table.rename_columns(apart(table.column_names))
    if path is not None:
        try:
            arrow_tables.write_parquet(table, path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
    elif sys.stdout.isatty():
        raise UserError("--format parquet is not for a terminal; add -o FILE, or send it on")
    else:
        arrow_tables.write_parquet(table, sys.stdout.buffer)
    return 0


def print_missing_baseline(database: "Database", question: "NamedQuery") -> None:
    """Name on stderr the runs that a named query leaves out because they have no row of the policy `none`."""
    for run_id in database.runs_without_none() if question.compares_with_none else ():
        advice = f"which {question.name} compares with; add it to the grid's policies"
        print(f"note: {run_id} has no policy none, {advice}", file=sys.stderr)


def apart(names: Sequence[str]) -> list[str]:
    """a, a, b -> a, a_1, b, as DuckDB does it: an object has a name once."""
    taken: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        taken.append(name if name not in taken else next(other for other in numbered if other not in (*taken, *names)))
    return taken


def plain(value: Any) -> Any:
    """A value as JSON knows it: whole decimals as integers, times as ISO 8601, NaN as null."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def shown(value: Any) -> str:
    """A value as people read it: 102,640 and 0.25, six digits, `-` for NULL, one line without control characters."""
    value = value if isinstance(value, datetime) else plain(value)
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else printable("".join(" " if c in "\r\n\t" else c for c in text))


def _table(names: Sequence[str], rows: Rows, out: TextIO, most: int) -> int:
    """Aligned columns, numbers to the right. Lines are as long as they must be."""
    rows = iter(rows)
    head = list(islice(rows, most)) if most else list(rows)
    left_out = sum(1 for _ in rows)
    names = [shown(name) for name in names]
    cells = [[shown(value) for value in row] for row in head]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    right = [_numeric(row[i] for row in head) for i in range(len(names))]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "  ".join(padded).rstrip() + "\n"

    out.write(line(names) + line(["-" * width for width in widths]))
    out.writelines(line(row) for row in cells)
    return left_out


def _markdown(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    rows = list(rows)
    right = [_numeric(row[i] for row in rows) for i in range(len(names))]

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |\n"

    out.write(line(names) + line("---:" if r else "---" for r in right))
    out.writelines(line(map(shown, row)) for row in rows)


def _csv(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(plain(value)) for value in row])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _json(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    """An array of objects, a row a line."""
    before = "["
    for row in rows:
        values = dict(zip(names, map(plain, row), strict=True))
        out.write(f"{before}\n{json.dumps(values, ensure_ascii=False)}")
        before = ","
    out.write("[]\n" if before == "[" else "\n]\n")


def _numeric(values: Iterable[Any]) -> bool:
    """Numbers, or NULLs among them."""
    kinds = [isinstance(v, int | float | Decimal) and not isinstance(v, bool) for v in values if v is not None]
    return bool(kinds) and all(kinds)
