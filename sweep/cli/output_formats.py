"""Everything that a command prints: rows as a table, CSV, JSON, Markdown or Parquet, and lines of text.

Commands print only through this module. sweep.cli.output_streams makes control characters visible in all that is
printed; here line ends within a value are, so that no value can forge a line.
"""

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sweep.cli.program_name import as_called
from sweep.cli.table_layout import are_numbers, lay_out, wrapped
from sweep.common import atomic_write
from sweep.common.errors import UserError, printable

if TYPE_CHECKING:
    from sweep.query.database import Database
    from sweep.query.named_queries import NamedQuery
    from sweep.query.query_rows import Answer
    from sweep.store.arrow_tables import Table

Rows = Iterable[Sequence[Any]]

FORMATS = ("table", "csv", "json", "md")
PLAIN_WIDTH = 80
"""Columns of a page that is no terminal."""
_NULL = "-"
LAYOUT_ROWS = 10_000
"""A longer table is written as several, so that few rows are in memory."""
_is_wide = False


def set_wide(is_wide: bool) -> None:
    """`--wide`: from now on tables and sentences are as wide as they must be, whatever the terminal."""
    global _is_wide
    _is_wide = is_wide


def page_width(out: TextIO) -> int | None:
    """Columns of a line: those of the terminal, or COLUMNS; PLAIN_WIDTH for a file or pipe; None with --wide."""
    if _is_wide:
        return None
    if out.isatty():
        return shutil.get_terminal_size((PLAIN_WIDTH, 0)).columns
    return PLAIN_WIDTH


def print_line(text: str = "") -> None:
    """Print one line to stdout. Line ends in `text` are made visible too, so that no value can forge a line."""
    print(printable(as_called(text)))


def print_paragraph(text: str, indent: str = "") -> None:
    """Print a sentence in lines that fit the page, all but the first indented."""
    for line in wrapped(printable(as_called(text)), page_width(sys.stdout), indent):
        print(line)


def print_text(text: str) -> None:
    """Print text of several lines to stdout."""
    print(text.rstrip("\n"))


def print_note(text: str = "") -> None:
    """Print one line to stderr: what a reader should know beside the data."""
    print(printable(as_called(text)), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as indented JSON to stdout."""
    print(json.dumps(plain(value), indent=1, ensure_ascii=False))


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; anything but y and yes is a no."""
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_rows(
    names: Sequence[str], rows: Rows, form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True
) -> int:
    """Write rows in one of FORMATS to stdout or to a file. Returns how many rows were left out, as `write_rows`."""
    if form not in FORMATS:
        raise UserError(f"--format {form} is for the rows of a query; choose {', '.join(FORMATS)}")
    with _opened(path) as out:
        return write_rows(names, rows, form, out, most=most, is_ours=is_ours)


def print_answer(answer: "Answer", form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True) -> int:
    """Write the answer to a query as it arrives: its form is csv, parquet or values. Returns as `write_rows`."""
    if form == "parquet":
        _print_parquet(answer, path)
        return 0
    if form == "csv":
        with _opened(path) as out:
            csv.writer(_UnixLineEnds(out), lineterminator="\r\n").writerow(map(readable, answer.names))
            for lines in answer.lines():
                out.write("\n".join(lines) + "\n")
        return 0
    if form == "table" and most:
        rows, left_out = answer.head(most)
        print_rows(answer.names, rows, form, path, is_ours=is_ours)
        return left_out
    return print_rows(answer.names, answer.rows(), form, path, is_ours=is_ours)


def _print_parquet(answer: "Answer", path: Path | None) -> None:
    from sweep.store import parquet

    names = unique_names(answer.names)
    if path is not None:
        with _replaced(path) as target:
            parquet.write_batches(names, answer.schema, answer.batches, target)
    elif sys.stdout.isatty():
        raise UserError("--format parquet is not for a terminal; add -o FILE, or redirect the output")
    else:
        parquet.write_batches(names, answer.schema, answer.batches, sys.stdout.buffer)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Context with a text stream to a file, or to stdout."""
    if path is None:
        yield sys.stdout
        return
    with _replaced(path) as target, target.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Context with a path to write to. A file is replaced only if all is written; a pipe or device is written to."""
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        with atomic_write.replacing(path.resolve()) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def print_arrow_table(
    table: "Table", form: str, path: Path | None = None, *, most: int = 0, is_ours: bool = True
) -> int:
    """As `print_rows`, for an Arrow table."""
    from sweep.store import arrow_tables

    return print_rows(table.column_names, arrow_tables.iter_rows(table), form, path, most=most, is_ours=is_ours)


def print_missing_baseline(database: "Database", question: "NamedQuery") -> None:
    """Name on stderr the runs that a named query leaves out because they have no row of the policy `none`."""
    for run_id in database.runs_without_none() if question.compares_with_none else ():
        advice = f"which {question.name} compares with; add it to the grid's policies"
        print_note(f"note: {run_id} has no policy none, {advice}")


def write_rows(
    names: Sequence[str], rows: Rows, form: str, out: TextIO, *, most: int = 0, is_ours: bool = False
) -> int:
    """Write rows in one of FORMATS to a stream.

    A table has at most `most` rows (0: all), and fits the page (`is_ours`: see table_layout). Returns how many rows
    were left out.
    """
    if form == "table":
        return _write_table(names, rows, out, most, is_ours)
    writers: dict[str, Callable[[Sequence[str], Rows, TextIO], None]] = {
        "csv": _write_csv,
        "json": _write_json,
        "md": _write_markdown,
    }
    writers[form](names, rows, out)
    return 0


def unique_names(names: Sequence[str]) -> list[str]:
    """Column names made unique as DuckDB does it: a, a, b becomes a, a_1, b."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        unique.append(
            name if name not in unique else next(other for other in numbered if other not in (*unique, *names))
        )
    return unique


def plain(value: Any) -> Any:
    """Convert a value to JSON's types: whole decimals to integers, times to ISO 8601 text, NaN to null."""
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


def readable(value: Any) -> str:
    """A value as one line for people: 102,640 and 0.25, six digits, `-` for NULL, control characters visible."""
    value = value if isinstance(value, datetime) else plain(value)
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else printable(text.translate(_SPACES))


_SPACES = str.maketrans("\n\r\t", "   ")


def _write_table(names: Sequence[str], rows: Rows, out: TextIO, most: int, is_ours: bool) -> int:
    """Write aligned columns, numbers to the right, in lines that fit the page."""
    rows = iter(rows)
    if most:
        written = list(islice(rows, most))
        out.writelines(_table_lines(names, written, out, is_ours))
        return sum(1 for _ in rows)
    written = list(islice(rows, LAYOUT_ROWS))
    out.writelines(_table_lines(names, written, out, is_ours))
    while written := list(islice(rows, LAYOUT_ROWS)):
        out.write("\n")
        out.writelines(_table_lines(names, written, out, is_ours))
    return 0


def _table_lines(names: Sequence[str], rows: Sequence[Sequence[Any]], out: TextIO, is_ours: bool) -> Iterator[str]:
    return (f"{line}\n" for line in lay_out(names, rows, readable, page_width(out), is_ours=is_ours))


def _write_markdown(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    rows = iter(rows)
    first = list(islice(rows, LAYOUT_ROWS))
    is_right = [are_numbers(row[i] for row in first) for i in range(len(names))]

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |\n"

    out.write(line(map(readable, names)) + line("---:" if right else "---" for right in is_right))
    out.writelines(line(map(readable, row)) for row in chain(first, rows))


def _write_csv(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    # The writer quotes a cell with a character of the line terminator in it, so that this has to be \r\n.
    writer = csv.writer(_UnixLineEnds(out), lineterminator="\r\n")
    writer.writerow([readable(name) for name in names])
    for row in rows:
        writer.writerow([_csv_cell(plain(value)) for value in row])


class _UnixLineEnds:
    """Writes each row of a csv.writer with \\n in place of \\r\\n at its end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: str) -> None:
        self._out.write(row.removesuffix("\r\n") + "\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _write_json(names: Sequence[str], rows: Rows, out: TextIO) -> None:
    """Write an array of objects, one row per line."""
    names, separator = unique_names(names), "["
    for row in rows:
        values = dict(zip(names, map(plain, row), strict=True))
        out.write(f"{separator}\n{json.dumps(values, ensure_ascii=False)}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")
